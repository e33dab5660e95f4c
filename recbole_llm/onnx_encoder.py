"""A compressed encoder: a folder with a network for ONNX Runtime, and how texts are given to it.

    encoder.onnx      (1, T) token ids of one text to its (1, E) vector
    tokenizer.json    a text to token ids
    compressed.json   what stands before and after those of every text, the cut-off, and what was done
                      to which encoder

Texts are read one at a time. Where activations are in int8, all that is read together shares a scale,
and a text's vector would depend on the texts beside it. On a CPU a batch gains nothing either: alone, a
text needs no padding and stays in the cache.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_llm.errors import ConfigError
from recbole_llm.json_files import check_record, is_list_of, parse_json

NETWORK, TOKENIZER = "encoder.onnx", "tokenizer.json"
_ABOUT = "compressed.json"
_FORMAT_VERSION = 1
_KINDS = {
    "format_version": int, "before": list, "after": list, "max_tokens": int, "encoder": str,
    "layers": list, "bits": int, "size": int,
}  # fmt: skip


@dataclass(frozen=True)
class CompressedEncoder:
    """What ``compressed.json`` says."""

    before: list[int]
    """Token ids before those of every text."""
    after: list[int]
    """Token ids after them; a text is cut so that they stay."""
    max_tokens: int
    """Longer texts were cut, tokens."""
    encoder: str
    """The encoder that it was made from."""
    layers: list[int]
    """Of its layers those that are left, from 0."""
    bits: int
    """Bits of a weight: 8 or 32."""
    size: int
    """E, components of a vector."""

    def write(self, folder: Path) -> None:
        """Write it to a folder."""
        content = {"format_version": _FORMAT_VERSION, **asdict(self)}
        (folder / _ABOUT).write_text(json.dumps(content, indent=2), encoding="utf-8")


def is_compressed(path: Path) -> bool:
    """Whether a path is a compressed encoder's folder."""
    return (path / _ABOUT).is_file()


def read_compressed(folder: Path) -> CompressedEncoder:
    """Read ``compressed.json``.

    Raises:
        ConfigError: it is no JSON, of another format, or lacks something.
    """
    path = folder / _ABOUT
    try:
        content = check_record(
            parse_json(path.read_bytes()), _KINDS, path, ConfigError, "compress the encoder again"
        )
        version = content.pop("format_version")
        if version != _FORMAT_VERSION:
            raise ConfigError(
                f"{path} has format {version!r}, this version reads {_FORMAT_VERSION}; "
                "compress the encoder again"
            )
        for name in ("before", "after", "layers"):
            if not is_list_of(int, content[name]) or any(not 0 <= n < 2**31 for n in content[name]):
                raise ValueError(f"{name} must be numbers of at least 0")
        return CompressedEncoder(**content)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; compress the encoder again") from None


class TokenFrame:
    """A text to the token ids that an encoder reads.

    Args:
        tokenizer: path of ``tokenizer.json``.
        before, after: ids that stand around those of every text.
        max_tokens: ids in all; of a longer text's own the first are kept.
    """

    def __init__(
        self, tokenizer: Path, before: list[int], after: list[int], max_tokens: int
    ) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._before, self._after = before, after
        self._room = max_tokens - len(before) - len(after)

    def __call__(self, text: str) -> list[int]:
        """Token ids, at least one."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return [*self._before, *ids[: self._room], *self._after]


class OnnxEncoder:
    """A loaded compressed encoder, on the CPU.

    Args:
        folder: what ``compress_encoder`` wrote.
        max_tokens: longer texts are cut.
        threads: texts read at once.
    Raises:
        ConfigError: onnxruntime is not installed, a file is absent or damaged, or no text has room
            in ``max_tokens``.
    """

    def __init__(self, folder: Path, max_tokens: int, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ConfigError(
                f"encoder {folder} is compressed and needs onnxruntime: "
                "pip install 'recbole-llm[compress]'"
            ) from None
        about = read_compressed(folder)
        if max_tokens <= (around := len(about.before) + len(about.after)):
            raise ConfigError(
                f"encoder {folder}: {around} tokens stand around every text, so max_tokens must be "
                f"more, got {max_tokens}"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # each thread reads a text of its own
        try:
            self._frame = TokenFrame(folder / TOKENIZER, about.before, about.after, max_tokens)
            self._session = onnxruntime.InferenceSession(
                str(folder / NETWORK), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # both libraries raise classes of their own
            raise ConfigError(
                f"encoder {folder} cannot be read: {type(error).__name__}: {error}; "
                "compress the encoder again"
            ) from error
        self._threads, self._folder, self._size = threads, folder, about.size

    def encode(self, texts: list[str]) -> NDArray[np.float32]:
        """Encode texts to (N, E) float32, one row a text, in order."""
        with ThreadPoolExecutor(self._threads) as pool:
            return np.concatenate(list(pool.map(self._encode_one, texts)))

    def _encode_one(self, text: str) -> NDArray[np.float32]:
        try:
            ids = np.array([self._frame(text)], dtype=np.int64)  # (1, T)
            vectors: NDArray[np.float32] = self._session.run(None, {"input_ids": ids})[0]
        except Exception as error:  # classes of its own, as above
            raise ConfigError(
                f"encoder {self._folder} cannot read {text[:80]!r}: {error}; compress the encoder again"
            ) from error
        if np.shape(vectors) != (1, self._size) or vectors.dtype != np.float32:
            raise ConfigError(
                f"encoder {self._folder} gives {np.shape(vectors)} for a text, expected one vector of "
                f"{self._size}; compress the encoder again"
            )
        return vectors
