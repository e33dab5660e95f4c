"""Bytes that come for a picture or a sound."""

import io
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from benchmarks.fuzz.shapes import damaged
from benchmarks.fuzz.target import Target

_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
_RATE = 16_000


def pictures(folder: Path) -> Target:
    """A picture in each format that is read."""
    from PIL import Image

    from recbole_llm.media_content import read_picture
    from recbole_llm.media_files import Medium

    image = Image.linear_gradient("L").resize((24, 16)).convert("RGB")
    seeds = []
    for kind in _FORMATS:
        file = io.BytesIO()
        image.save(file, kind)
        seeds.append(file.getvalue())
    path = folder / "picture"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_picture(Medium("picture", "i", path.name, path))

    return Target(read, seeds, st.one_of(*map(damaged, seeds)))


def sounds(folder: Path) -> Target:
    """A WAV file of each kind of samples."""
    import numpy as np
    from scipy.io import wavfile

    from recbole_llm.media_content import read_sound
    from recbole_llm.media_files import Medium

    seeds = []
    for kind in (np.uint8, np.int16, np.int32, np.float32):
        file = io.BytesIO()
        wavfile.write(file, _RATE, np.arange(200).reshape(100, 2).astype(kind))
        seeds.append(file.getvalue())
    path = folder / "sound"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_sound(Medium("sound", "i", path.name, path), _RATE, 1.0)

    return Target(read, seeds, st.one_of(*map(damaged, seeds)))


TARGETS: dict[str, Callable[[Path], Target]] = {"picture": pictures, "sound": sounds}
