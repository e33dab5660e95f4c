"""Encoders of pictures and sounds, of each kind that Hugging Face has, and the cache before them."""

import io
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recbole_llm import media_vectors
from recbole_llm.encoder import EncoderSpec
from recbole_llm.errors import ConfigError, DataError
from recbole_llm.media_content import read_picture, read_sound
from recbole_llm.media_encoder import MediaEncoder
from recbole_llm.media_files import Medium, find_medium
from recbole_llm.media_vectors import read_media
from recbole_llm.modalities import Modality
from tests.media import PICTURE_ENCODERS, RATE, SOUND_ENCODERS, as_uri, picture, sound, wav

_ALL = [("picture", name) for name in PICTURE_ENCODERS] + [("sound", n) for n in SOUND_ENCODERS]
_RED, _BLUE = (220, 30, 30), (30, 60, 220)


def _medium(content: bytes, kind: str = "picture") -> Medium:
    return find_medium("i1", as_uri(content), kind, Path())


def _encoder(name: str, kind: str, encoders: dict[str, Path], **more: Any) -> MediaEncoder:
    spec = EncoderSpec(str(encoders[name]), **more)
    return MediaEncoder(encoders[name], spec, kind, "cpu")


@pytest.mark.parametrize(("kind", "name"), _ALL, ids=[name for _, name in _ALL])
def test_an_architecture(kind: str, name: str, media_encoders: dict[str, Path]) -> None:
    """Alike things get near vectors, and the vectors do not depend on what is read beside them."""
    if kind == "picture":
        contents = [picture(_RED), picture(_RED, 1), picture(_BLUE, 2, "JPEG")]
    else:
        contents = [sound(300), sound(300, 1), sound(3_000, 2), sound(300, 3, 0.8)]
    media = [_medium(content, kind) for content in contents]
    encoder = _encoder(name, kind, media_encoders, batch_size=2)
    vectors = encoder.encode(media)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(media), 12 if name in ("clip", "clap") else 16)
    for row, medium in enumerate(media):
        # Sums in another order, where more are multiplied at once.
        np.testing.assert_allclose(encoder.encode([medium])[0], vectors[row], atol=1e-5)
    near, far = (np.linalg.norm(vectors[0] - vectors[row]) for row in (1, 2))
    assert near < far / 2


def test_what_is_pooled(media_encoders: dict[str, Path]) -> None:
    """By hand, from what transformers gives for one picture and one sound."""
    import torch
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoModel

    path = media_encoders["vit"]
    image = read_picture(_medium(picture(_RED)))
    features = AutoImageProcessor.from_pretrained(path)(images=image, return_tensors="pt")
    with torch.no_grad():
        told = AutoModel.from_pretrained(path).eval()(**features)
    for pooling, expected in (
        (None, told.pooler_output), ("cls", told.last_hidden_state[:, 0]),
        ("mean", told.last_hidden_state.mean(1)),
    ):  # fmt: skip
        encoder = _encoder("vit", "picture", media_encoders, pooling=pooling)
        np.testing.assert_allclose(encoder.encode([_medium(picture(_RED))]), expected, atol=1e-6)

    # Whisper reads two seconds, of which half a one is sound: 25 of its 100 states.
    path, medium = media_encoders["whisper"], _medium(sound(300), "sound")
    extractor: Any = AutoFeatureExtractor
    reader = extractor.from_pretrained(path)
    heard = reader(read_sound(medium, RATE, 30.0), sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(path).eval().get_encoder()(**heard).last_hidden_state
    vectors = _encoder("whisper", "sound", media_encoders).encode([medium])
    np.testing.assert_allclose(vectors, states[:, :25].mean(1), atol=1e-6)


def test_a_pooler_that_a_checkpoint_lacks_is_not_drawn(media_encoders: dict[str, Path]) -> None:
    """transformers gives a classifier's weights a random pooler, another one at each load."""
    media = [_medium(picture(_RED))]
    encoders = [_encoder("vit-classifier", "picture", media_encoders) for _ in range(2)]
    first, second = (encoder.encode(media) for encoder in encoders)
    np.testing.assert_array_equal(first, second)
    mean = _encoder("vit-classifier", "picture", media_encoders, pooling="mean").encode(media)
    np.testing.assert_array_equal(first, mean)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (
            "sound",
            "vit",
            "is no encoder of sounds: its ViTModel reads pixel_values, expected input_v",
        ),
        (
            "picture",
            "ast",
            "is no encoder of pictures: its ASTModel reads input_values, expected pix",
        ),
        ("picture", "bert", "is no encoder of pictures: its BertModel reads input_ids"),
        ("picture", "mae", "gives one picture two vectors"),
        (
            "picture",
            "empty",
            "cannot serve as an encoder of pictures: .*Unrecognized model|model_type",
        ),
        ("picture", "unread", "cannot serve as an encoder of pictures: OSError"),
        ("picture", "half", "lacks 1 of its weights, such as layernorm.weight: it was saved from"),
    ],
)
def test_what_cannot_serve(
    kind: str,
    name: str,
    message: str,
    media_encoders: dict[str, Path],
    tiny_encoders: dict[str, Path],
    tmp_path: Path,
) -> None:
    from safetensors.torch import load_file, save_file

    vit = media_encoders["vit"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    (tmp_path / "unread").mkdir()
    (tmp_path / "half").mkdir()
    for file in ("config.json", "model.safetensors"):
        (tmp_path / "unread" / file).write_bytes((vit / file).read_bytes())
    for file in ("config.json", "preprocessor_config.json"):
        (tmp_path / "half" / file).write_bytes((vit / file).read_bytes())
    weights = load_file(vit / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, tmp_path / "half" / "model.safetensors", {"format": "pt"})
    made = {folder: tmp_path / folder for folder in ("empty", "unread", "half")}
    with pytest.raises(ConfigError, match=message):
        _encoder(name, kind, {**made, **tiny_encoders, **media_encoders})


def test_a_pooling_for_texts(media_encoders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="pooling must be mean or cls, or left out, and there is"):
        _encoder("vit", "picture", media_encoders, pooling="lasttoken")


# What the bytes are.


def test_a_picture_is_upright_and_lies_on_white() -> None:
    turned = Image.new("RGB", (4, 2), "red")
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    file = io.BytesIO()
    turned.save(file, "PNG", exif=exif)
    assert read_picture(_medium(file.getvalue())).size == (2, 4)
    clear = io.BytesIO()
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(clear, "PNG")
    found = read_picture(_medium(clear.getvalue()))
    assert (found.mode, found.getpixel((0, 0))) == ("RGB", (255, 255, 255))
    grey = io.BytesIO()
    Image.new("L", (2, 2), 7).save(grey, "GIF")
    assert read_picture(_medium(grey.getvalue())).getpixel((1, 1)) == (7, 7, 7)


def _promise(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says how large it is."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b""),
    ]  # fmt: skip
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a picture .UnidentifiedImageError"),
        (b"not a picture at all", "expected a whole file of one of PNG, JPEG, GIF, WEBP, BMP"),
        (picture(_RED)[:200], "cannot be read as a picture .OSError"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "UnidentifiedImageError"),
        (
            _promise(9_000, 9_000),
            "has 9000 x 9000 pixels, 67108864 at most are read; make it smaller",
        ),
        (_promise(60_000, 60_000), "cannot be read as a picture .DecompressionBombError"),
        (sound(300), "cannot be read as a picture"),
    ],
)
def test_no_picture(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as told:
        read_picture(_medium(content))
    assert "the picture of item 'i1', 'data:image/png;base64," in str(told.value)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32])
def test_a_sound_is_one_channel_at_the_rate_that_is_wanted(kind: type[Any]) -> None:
    """A tone in one of two channels, at 44,100 Hz, in each form that a WAV file has."""
    seconds = np.arange(44_100) / 44_100
    tone = 0.5 * np.sin(2 * np.pi * 441 * seconds)
    left = {
        np.uint8: (tone * 127 + 128).round(), np.int16: tone * 32_767, np.int32: tone * (2**31 - 1),
        np.float32: tone,
    }[kind].astype(kind)  # fmt: skip
    right = np.full_like(left, 128 if kind is np.uint8 else 0)
    found = read_sound(_medium(wav(np.stack([left, right], 1), 44_100), "sound"), RATE, 30.0)
    assert found.dtype == np.float32
    assert len(found) == RATE
    expected = 0.25 * np.sin(2 * np.pi * 441 * np.arange(RATE) / RATE)
    # Away from the ends, where a filter has nothing to read; 8 bits are a 256th each.
    np.testing.assert_allclose(found[500:-500], expected[500:-500], atol=0.01)


def test_a_sound_is_cut_and_filled_up() -> None:
    whole = read_sound(_medium(sound(300, seconds=2.0), "sound"), RATE, 30.0)
    cut = read_sound(_medium(sound(300, seconds=2.0), "sound"), RATE, 0.5)
    assert (len(whole), len(cut)) == (2 * RATE, RATE // 2)
    np.testing.assert_array_equal(cut, whole[: RATE // 2])
    short = read_sound(_medium(wav(np.full(5, 0.5)), "sound"), RATE, 30.0)
    assert len(short) == RATE // 10
    assert not short[5:].any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a sound"),
        (
            b"ID3\x04" + b"\0" * 64,
            "expected a whole WAV file. Turn others into WAV first, as by ffmpeg",
        ),
        (sound(300)[:-2_000], "cannot be read as a sound .*Reached EOF"),
        (wav(np.zeros(0, np.int16)), "has 0 samples at 16000 Hz"),
        (
            wav(np.zeros(9, np.int16), 2_000_000),
            "has 9 samples at 2000000 Hz; expected some, at most",
        ),
        (wav(np.array([0.0, np.nan], np.float32)), "holds samples that are no numbers or infinite"),
        (sound(300).replace(b"data", b"date"), "cannot be read as a sound .UnboundLocalError"),
        (picture(_RED), "cannot be read as a sound"),
    ],
)
def test_no_sound(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as told:
        read_sound(_medium(content, "sound"), RATE, 30.0)
    assert "the sound of item 'i1'" in str(told.value)


# Where they are.


def test_what_a_field_may_not_say(tmp_path: Path) -> None:
    root = tmp_path / "shop"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(picture(_RED))
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "loop").symlink_to(root / "loop")
    for value, message in (
        ("../secret.png", "'../secret.png' is absolute or leads upwards"),
        ("a/../../secret.png", "is absolute or leads upwards"),
        (str(tmp_path / "secret.png"), "is absolute or leads upwards"),
        ("link.png", "is a link that leads out"),
        ("https://example.org/a.png", "is a URL, and nothing is fetched"),
        ("file:///etc/passwd", "is a URL, and nothing is fetched"),
        ("data:image/png,abc", "is a data: URI without ';base64,'"),
    ):
        with pytest.raises(DataError, match=message) as told:
            find_medium("i2", value, "picture", root)
        assert "the picture of item 'i2'" in str(told.value)
        assert f"a path below {root} (the config key media_path)" in str(told.value)
    for value, message in (
        ("absent.png", "the picture of item 'i2', 'absent.png' is no file"),
        (".", "is no file"),
        ("loop", "is no (path|file)|cannot be read"),
        ("n" * 300, "is no path|cannot be read"),
        ("data:image/png;base64,????", "is no base64"),
    ):
        with pytest.raises(DataError, match=message):
            find_medium("i2", value, "picture", root).read()


# The cache.


def _read(
    folder: Path, values: list[str], encoders: dict[str, Path], name: str = "clip-vision"
) -> np.ndarray[Any, Any]:
    modality = Modality("picture", "image", str(encoders[name]))
    items = [f"i{n}" for n in range(len(values))]
    vectors, has_one = read_media(
        modality, items, values, folder, 8, 1.0, folder / "cache.sqlite", "cpu"
    )
    np.testing.assert_array_equal(has_one, [bool(value) for value in values])
    return vectors


def test_bytes_are_encoded_once_wherever_they_lie(
    media_encoders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    contents = [picture(colour, seed) for seed, colour in enumerate([_RED, _BLUE, (9, 99, 9)])]
    (tmp_path / "pictures").mkdir()
    for number, content in enumerate(contents):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(content)
    paths = [f"pictures/{number}.png" for number in range(3)]
    with caplog.at_level(logging.INFO, "recbole_llm.text_cache"):
        of_paths = _read(tmp_path, ["", *paths], media_encoders)
    assert "picture vectors: 3 pictures, 0 cached, 3 encoded by" in caplog.text
    assert of_paths.shape == (4, 2)  # of three pictures two components are left
    assert not of_paths[0].any()
    np.testing.assert_allclose(of_paths[1:].mean(0), 0, atol=1e-6)

    # Now nothing may be encoded any more: the same bytes in the catalogue, and moved.
    monkeypatch.setattr(media_vectors, "MediaEncoder", None)
    uris = [as_uri(content, "x/y") for content in contents]
    np.testing.assert_array_equal(_read(tmp_path, ["", *uris], media_encoders), of_paths)
    broken_up = [uri.replace("A", "\r\n A ") for uri in uris]
    np.testing.assert_array_equal(_read(tmp_path, ["", *broken_up], media_encoders), of_paths)
    (tmp_path / "pictures").rename(tmp_path / "moved")
    moved = [path.replace("pictures", "moved") for path in paths]
    np.testing.assert_array_equal(_read(tmp_path, ["", *moved], media_encoders), of_paths)
    with pytest.raises(TypeError):  # another encoder would read them anew
        _read(tmp_path, ["", *moved], media_encoders, "vit")


def test_a_few_that_cannot_be_read_count_as_missing(
    media_encoders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.png").write_bytes(picture(_BLUE)[:99])
    whole = [as_uri(picture(_RED, seed)) for seed in range(18)]
    modality = Modality("picture", "image", str(media_encoders["clip-vision"]))

    def read(values: list[str]) -> Any:
        items = [f"i{n}" for n in range(len(values))]
        cache = tmp_path / "cache.sqlite"
        return read_media(modality, items, values, tmp_path, 8, 1.0, cache, "cpu")

    told = r"first: the picture of item 'i{}', '{}' cannot be read"
    for _ in range(2):  # the second time all others are cached
        caplog.clear()
        vectors, has_one = read(["", "broken.png", *whole, "https://example.org/a.png"])
        assert np.flatnonzero(~has_one).tolist() == [0, 1, 20]
        assert not vectors[~has_one].any()
        assert vectors[has_one].any(1).all()
        assert "2 of 20 pictures cannot be read and count as missing; first: the" in caplog.text
    np.testing.assert_array_equal(vectors[2:20], read(whole)[0])
    with pytest.raises(DataError, match="2 of 19 pictures cannot be read, which are more than a"):
        read(["broken.png", *whole[1:], "gone.png"])
    with pytest.raises(DataError, match=f"1 of 1 pictures .* {told.format(0, 'broken.png')}"):
        read(["broken.png"])


def test_nobody_has_one(media_encoders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="no item has a picture: the field 'image' is empty in all 2"
    ):
        _read(tmp_path, ["", ""], media_encoders)
