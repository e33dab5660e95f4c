"""Pictures and sounds made by hand, and tiny random models of real architectures that read them."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

RATE = 16_000
_SIZES: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip
PICTURE_ENCODERS = ("vit", "clip-vision", "clip", "convnext", "resnet", "dinov2")
SOUND_ENCODERS = ("wav2vec2", "hubert", "ast", "whisper", "clap")


def picture(colour: tuple[int, int, int], seed: int = 0, kind: str = "PNG") -> bytes:
    """A noisy patch of a colour, 40 x 48 pixels."""
    from PIL import Image

    noise = np.random.default_rng(seed).normal(0, 12, (40, 48, 3))
    file = io.BytesIO()
    Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8)).save(file, kind)
    return file.getvalue()


def sound(pitch_hz: float, seed: int = 0, seconds: float = 0.5, rate: int = RATE) -> bytes:
    """A noisy tone as a 16-bit WAV file, of a random phase and loudness."""
    draw = np.random.default_rng(seed)
    seconds_in = np.arange(int(seconds * rate)) / rate
    tone = draw.uniform(0.4, 0.8) * np.sin(2 * np.pi * pitch_hz * seconds_in + draw.uniform(0, 6))
    return wav(tone + draw.normal(0, 0.02, len(tone)), rate)


def wav(samples: Any, rate: int = RATE) -> bytes:
    """Samples in [-1, 1] as a 16-bit WAV file; others as they are."""
    samples = np.asarray(samples)
    if samples.dtype == np.float64:
        samples = (samples.clip(-1, 1) * 32_767).astype(np.int16)
    file = io.BytesIO()
    wavfile.write(file, rate, samples)
    return file.getvalue()


def as_uri(content: bytes, kind: str = "image/png") -> str:
    """Bytes as a field of the catalogue holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def save_encoder(name: str, folder: Path) -> Path:
    """A random model of one of these architectures, with its processor, as Hugging Face saves it."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        for part in {**_pictures(), **_sounds()}[name]():
            part.save_pretrained(folder)
    return folder


def _pictures() -> dict[str, Callable[[], tuple[Any, Any]]]:
    import transformers as t

    square = {"height": 32, "width": 32}
    seen = {**_SIZES, "image_size": 32, "patch_size": 8}
    words = {**_SIZES, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    heads = {key: value for key, value in seen.items() if key != "intermediate_size"}
    clip: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": square}
    both: Any = {"text_config": words, "vision_config": seen, "projection_dim": 12}
    wide = {"hidden_sizes": [8, 8, 12, 16], "depths": [1, 1, 1, 1], "image_size": 32}
    deep = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    short = {"size": {"shortest_edge": 32}}
    return {
        "vit": lambda: (t.ViTModel(t.ViTConfig(**seen)), t.ViTImageProcessor(size=square)),
        # Saved without the pooler that ViTModel has.
        "vit-classifier": lambda: (
            t.ViTForImageClassification(t.ViTConfig(**seen)), t.ViTImageProcessor(size=square),
        ),
        # Hides patches that it draws.
        "mae": lambda: (t.ViTMAEModel(t.ViTMAEConfig(**seen)), t.ViTImageProcessor(size=square)),
        "clip-vision": lambda: (
            t.CLIPVisionModel(t.CLIPVisionConfig(**seen)), t.CLIPImageProcessor(**clip),
        ),
        "clip": lambda: (t.CLIPModel(t.CLIPConfig(**both)), t.CLIPImageProcessor(**clip)),
        "convnext": lambda: (
            t.ConvNextModel(t.ConvNextConfig(**wide)), t.ConvNextImageProcessor(**short),
        ),
        "resnet": lambda: (
            t.ResNetModel(t.ResNetConfig(**deep)), t.ConvNextImageProcessor(**short),
        ),
        "dinov2": lambda: (t.Dinov2Model(t.Dinov2Config(**heads)), t.BitImageProcessor(**clip)),
    }  # fmt: skip


def _sounds() -> dict[str, Callable[[], tuple[Any, Any]]]:
    import transformers as t

    waves = {
        **_SIZES, "conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 8),
        "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2,
    }  # fmt: skip
    mel = {"max_length": 128, "num_mel_bins": 32}
    sides = {
        f"{side}_{part}": number
        for side in ("encoder", "decoder")
        for part, number in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))
    }
    talk: Any = {
        **sides, "vocab_size": 60, "d_model": 16, "num_mel_bins": 16, "max_source_positions": 100,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    }  # fmt: skip
    words = {**_SIZES, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    audio = {
        "hidden_size": 16, "num_hidden_layers": 1, "patch_embeds_hidden_size": 8, "depths": [1, 1],
        "num_attention_heads": [2, 2], "num_mel_bins": 16, "spec_size": 64, "patch_size": 4,
        "patch_stride": [4, 4], "window_size": 4, "num_classes": 3, "projection_dim": 12,
    }  # fmt: skip
    both: Any = {"text_config": words, "audio_config": audio, "projection_dim": 12}
    cut: Any = {"feature_size": 16, "max_length_s": 2, "truncation": "rand_trunc"}
    return {
        "wav2vec2": lambda: (
            t.Wav2Vec2Model(t.Wav2Vec2Config(**waves)), t.Wav2Vec2FeatureExtractor(),
        ),
        "hubert": lambda: (t.HubertModel(t.HubertConfig(**waves)), t.Wav2Vec2FeatureExtractor()),
        "ast": lambda: (t.ASTModel(t.ASTConfig(**_SIZES, **mel)), t.ASTFeatureExtractor(**mel)),
        "whisper": lambda: (
            t.WhisperModel(t.WhisperConfig(**talk)),
            t.WhisperFeatureExtractor(feature_size=16, chunk_length=2),
        ),
        "clap": lambda: (t.ClapModel(t.ClapConfig(**both)), t.ClapFeatureExtractor(**cut)),
    }  # fmt: skip
