"""What the bytes of a picture or a sound are: colours or pressures, in the form that encoders read.

The bytes are foreign. A picture is decoded by Pillow, of the formats of ``_FORMATS`` alone and below a
number of pixels; a sound is a WAV file, decoded by scipy. (Compressed sound needs a decoder that no
package here brings; any tool turns it into WAV.)
"""

import io
import struct
import warnings
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import wavfile
from scipy.signal import resample_poly

from recbole_llm.errors import DataError
from recbole_llm.media_files import Medium

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP")
_MOST_PIXELS = 1 << 26
"""Of a picture: 67 million, 200 MB once decoded. A few kilobytes can promise far more."""
_MOST_HZ = 384_000
_CHECKED_HZ = 16_000
_LEAST_S = 0.1
"""Shorter sounds are filled up with silence: convolutions need some length."""
_FAULTS = (OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError,
           NameError, EOFError, MemoryError, RuntimeError, struct.error, Warning)  # fmt: skip
"""What Pillow and scipy raise over bytes that are not what they say; scipy reads variables that it
never set where a WAV file lacks a part."""


def check_content(medium: Medium, max_seconds: float) -> None:
    """Decode a picture or sound and forget it.

    Raises:
        DataError: as ``read_picture`` and ``read_sound``.
    """
    if medium.kind == "picture":
        read_picture(medium)
    else:
        read_sound(medium, _CHECKED_HZ, max_seconds)


def read_picture(medium: Medium) -> "Image":
    """Decode a picture to RGB, upright; of a moving one the first frame, and white shines through.

    Raises:
        DataError: it cannot be read, is of no format above, or has more than 67 million pixels.
    """
    from PIL import Image, ImageOps

    content = medium.read()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own bound is above this one
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                size = image.width, image.height
                if size[0] * size[1] > _MOST_PIXELS:
                    raise DataError(
                        f"{medium} has {size[0]} x {size[1]} pixels, {_MOST_PIXELS} at most are read; "
                        "make it smaller"
                    )
                upright = ImageOps.exif_transpose(image)
                if not upright.has_transparency_data:
                    return upright.convert("RGB")
                clear = upright.convert("RGBA")
                white = Image.new("RGBA", clear.size, "white")
                return Image.alpha_composite(white, clear).convert("RGB")
    except (*_FAULTS, Image.DecompressionBombError) as error:
        raise DataError(
            f"{medium} cannot be read as a picture ({type(error).__name__}: {error}); expected a whole "
            f"file of one of {', '.join(_FORMATS)}"
        ) from None


def read_sound(medium: Medium, rate: int, max_seconds: float) -> NDArray[np.float32]:
    """Decode a sound to one channel at a rate.

    Args:
        rate: samples a second wanted, Hz.
        max_seconds: what is longer loses its end, seconds.
    Returns:
        (S,) float32 in [-1, 1] where the file holds integers; a tenth of a second at least.
    Raises:
        DataError: it cannot be read, is no WAV file, is empty, or holds something that is no number.
    """
    content = medium.read()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks that hold no sound
            warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
            found, samples = wavfile.read(io.BytesIO(content))
    except _FAULTS as error:
        raise DataError(
            f"{medium} cannot be read as a sound ({type(error).__name__}: {error}); expected a whole "
            "WAV file. Turn others into WAV first, as by ffmpeg -i in.mp3 out.wav"
        ) from None
    if not 0 < found <= _MOST_HZ or not samples.size:
        raise DataError(
            f"{medium} has {samples.size} samples at {found} Hz; expected some, at most {_MOST_HZ} Hz"
        )
    with np.errstate(all="ignore"):  # what is no number is told below
        mono = _one_channel(samples[: int(max_seconds * found) + 1])
        divisor = gcd(found, rate)
        mono = resample_poly(mono, rate // divisor, found // divisor)[: int(max_seconds * rate)]
        least = int(_LEAST_S * rate)
        heard = np.pad(mono, (0, max(least - len(mono), 0))).astype(np.float32)
    if not np.isfinite(heard).all():
        raise DataError(f"{medium} holds samples that are no numbers or infinite; write it anew")
    return heard


def _one_channel(samples: NDArray[Any]) -> NDArray[np.float64]:
    """(S,) the mean over channels, in [-1, 1] where the samples are integers."""
    whole = samples.reshape(len(samples), -1).astype(np.float64)  # (S, channels)
    if samples.dtype == np.uint8:
        whole = (whole - 128) / 128
    elif samples.dtype.kind == "i":
        whole /= 2.0 ** (8 * samples.dtype.itemsize - 1)
    mean: NDArray[np.float64] = whole.mean(1)
    return mean
