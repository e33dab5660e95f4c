"""Encoders of pictures and sounds: any vision or audio model of Hugging Face, loaded safely.

Of a model that reads texts too (CLIP, CLAP) the part that reads pictures or sounds is taken, of an
encoder-decoder (Whisper) the encoder. Weights are safetensors; a repository's code is never run.
"""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recbole_llm.encoder import EncoderSpec
from recbole_llm.errors import ConfigError
from recbole_llm.media_content import read_picture, read_sound
from recbole_llm.media_files import Medium
from recbole_llm.text_encoder import LOAD_ERRORS

if TYPE_CHECKING:
    from torch import Tensor

_INPUTS = {"picture": ("pixel_values",), "sound": ("input_values", "input_features")}
"""What models say they read, by kind."""
_OF_BOTH = {"picture": "get_image_features", "sound": "get_audio_features"}
"""Methods of models that put pictures or sounds and texts into one space."""
_UNUSED = ("mask_token", "masked_spec_embed")
"""Weights that are read in pre-training alone, and that checkpoints often lack."""
_POOLER = "pooler."
_MASK = "attention_mask"


class MediaEncoder:
    """A loaded encoder: a vector a picture, or a sound.

    The vector is what the model pools by itself; where it pools nothing, or its weights have no pooler,
    it is the mean over patches, feature map or frames, without those that pad. Each picture is made
    ready by the model's own processor; a sound is brought to the extractor's rate, mixed to one channel
    and cut.

    Args:
        path: a folder, from ``locate_weights``.
        spec: how to run it; ``pooling`` may be ``mean`` or ``cls``.
        kind: ``picture`` or ``sound``.
        device: a torch device's name.
    Raises:
        ConfigError: it cannot serve; the message says why.
    """

    def __init__(self, path: Path, spec: EncoderSpec, kind: str, device: str) -> None:
        import torch
        from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoModel
        from transformers.utils import logging as transformers_logging

        if spec.pooling == "lasttoken" or spec.adapter is not None:
            raise ConfigError(
                f"encoder {spec.model!r} reads {kind}s: pooling must be mean or cls, or left out, and "
                f"there is no adapter; got {spec.pooling!r} and {spec.adapter!r}"
            )
        if not sys.stderr.isatty():
            transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self._spec, self._kind, self._device = spec, kind, device
        safely = {"local_files_only": True, "trust_remote_code": False}
        reader: Any = AutoImageProcessor if kind == "picture" else AutoFeatureExtractor
        try:
            model, told = AutoModel.from_pretrained(
                str(path),
                dtype=torch.float32,
                use_safetensors=True,
                output_loading_info=True,
                **safely,
            )
            self._run = _part(model.eval().to(device), kind, spec)
            self._processor = reader.from_pretrained(str(path), **safely)
            self._pools = spec.pooling is None and not _lacks_pooler(told["missing_keys"], spec)
            self._try()
        except LOAD_ERRORS as error:
            raise ConfigError(
                f"encoder {spec.model!r} cannot serve as an encoder of {kind}s: "
                f"{type(error).__name__}: {error}"
            ) from error

    def encode(self, media: list[Medium]) -> NDArray[np.float32]:
        """Encode pictures or sounds to (N, E) float32, one row each, in order.

        What comes out of the processor in one shape is run together, ``batch_size`` at a time; so
        nothing is padded for the sake of another.

        Raises:
            DataError: one of them cannot be read; the message names the item and the path.
        """
        return self._encode([self._features(self._content(medium)) for medium in media])

    def _content(self, medium: Medium) -> Any:
        if self._kind == "picture":
            return read_picture(medium)
        rate = self._processor.sampling_rate
        seconds = self._spec.max_seconds
        # Beyond it the extractor would cut by itself: CLAP's at a place that it draws.
        for name in ("nb_max_samples", "n_samples"):
            if isinstance(most := getattr(self._processor, name, None), int):
                seconds = min(seconds, most / rate)
        return read_sound(medium, rate, seconds)

    def _features(self, content: Any) -> dict[str, "Tensor"]:
        """What the model reads of one picture or sound: tensors with a first dimension of 1."""
        import torch

        if self._kind == "picture":
            made = self._processor(images=content, return_tensors="pt")
        else:
            mask = {"return_attention_mask": True}
            takes_mask = (
                mask.keys() <= inspect.signature(self._processor.__call__).parameters.keys()
            )
            made = self._processor(
                content, sampling_rate=self._processor.sampling_rate, return_tensors="pt",
                **(mask if takes_mask else {}),
            )  # fmt: skip
        return {name: value for name, value in made.items() if torch.is_tensor(value)}

    def _encode(self, features: list[dict[str, "Tensor"]]) -> NDArray[np.float32]:
        import torch

        alike: dict[Any, list[int]] = {}
        for row, each in enumerate(features):
            alike.setdefault(tuple((k, v.shape) for k, v in each.items()), []).append(row)
        vectors: list[Any] = [None] * len(features)
        in_bfloat16 = self._spec.dtype == "bfloat16" and self._device != "cpu"
        for rows in alike.values():
            for start in range(0, len(rows), self._spec.batch_size):
                some = rows[start : start + self._spec.batch_size]
                batch = {
                    name: torch.cat([features[row][name] for row in some]).to(self._device)
                    for name in features[some[0]]
                }
                with (
                    torch.inference_mode(),
                    torch.autocast(self._device.split(":")[0], torch.bfloat16, enabled=in_bfloat16),
                ):
                    mask = batch.pop(_MASK, None)
                    pooled = self._pool(self._run(**batch), mask).float().cpu().numpy()
                for row, vector in zip(some, pooled, strict=True):
                    vectors[row] = vector
        return np.stack(vectors)

    def _pool(self, output: Any, mask: "Tensor | None") -> "Tensor":
        """(N, E) of what the model gives."""
        import torch

        if torch.is_tensor(output):
            return output.flatten(1)
        pooled = output.get("pooler_output")
        if self._pools and pooled is not None:
            return torch.as_tensor(pooled).flatten(1)
        states: Tensor | None = output.get("last_hidden_state")
        if states is None:
            raise ConfigError(
                f"encoder {self._spec.model!r} gives neither states nor a pooled vector, but "
                f"{[*output]}: it is no encoder of {self._kind}s; take another"
            )
        if states.ndim == 4:  # (N, E, height, width)
            return states.mean((2, 3))
        if self._spec.pooling == "cls":
            return states[:, 0]
        if mask is None:
            return states.mean(1)
        length = states.shape[1]  # a state stands for as many samples or frames as each other
        places = torch.arange(length, device=mask.device) * mask.shape[1] // length
        weights = mask[:, places].unsqueeze(2).to(states.dtype)  # (N, T, 1)
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)

    def _try(self) -> None:
        content: Any
        if self._kind == "picture":
            from PIL import Image

            content = Image.linear_gradient("L").convert("RGB")
        else:
            content = np.sin(np.arange(self._processor.sampling_rate) / 8).astype(np.float32)
        features = self._features(content)
        first, second = self._encode([features]), self._encode([features])
        if first.ndim != 2 or not np.array_equal(first, second):
            raise ConfigError(
                f"encoder {self._spec.model!r} gives one {self._kind} two vectors, or none: it draws "
                "at random, as models that are trained by hiding patches do; take another"
            )


def _part(model: Any, kind: str, spec: EncoderSpec) -> Callable[..., Any]:
    """What of a model reads pictures, or sounds.

    Raises:
        ConfigError: nothing does.
    """
    if hasattr(model, _OF_BOTH[kind]):
        part: Callable[..., Any] = getattr(model, _OF_BOTH[kind])
        return part
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()
    if model.main_input_name not in _INPUTS[kind]:
        raise ConfigError(
            f"encoder {spec.model!r} is no encoder of {kind}s: its {type(model).__name__} reads "
            f"{model.main_input_name}, expected {' or '.join(_INPUTS[kind])}"
        )
    found: Callable[..., Any] = model
    return found


def _lacks_pooler(missing: set[str], spec: EncoderSpec) -> bool:
    """Whether a checkpoint has all weights but the pooler's, which transformers would draw at random.

    Raises:
        ConfigError: it lacks others.
    """
    left = {name for name in missing if not name.endswith(_UNUSED)}
    if others := sorted(name for name in left if _POOLER not in name):
        raise ConfigError(
            f"encoder {spec.model!r} lacks {len(others)} of its weights, such as {others[0]}: it was "
            "saved from another kind of model, or in part; save it whole with save_pretrained"
        )
    return bool(left)
