"""Structured inputs: valid files with values, keys and nesting that nobody expects in them."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

_DEEP = 5000
_LONG = 5000
ODD_VALUES = st.one_of(
    st.sampled_from(
        [
            None, True, False, 0, -1, 1, 2, 2**31, 2**63, -(2**63), 2**64, 10**400, -(10**400),
            0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"), float("-inf"),
            "", " ", "\0", "\ud800", "\ufeff", "..", "/", "../../x", "'", '"', "x" * _LONG,
            "é", "2024-05-01", "2024-99-99", "1e400", "~", "float32", "int8", "int6",
            [], {}, [[]], [None], [{}], {"": None}, ["a", 1], [1, "a"],
        ]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers(-3, 300) | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=6,
    ),
)  # fmt: skip
"""Values of every JSON type, the ends of their ranges among them."""


def _laughs(known: str, new: str) -> str:
    """Nine times what an anchor stands for, as another anchor."""
    return f"&{new} [{', '.join([f'*{known}'] * 9)}]"


_ODD_JSON = st.sampled_from(
    [
        "-", "[" * _DEEP + "]" * _DEEP, '{"a":' * _DEEP + "1" + "}" * _DEEP, "1" * _LONG, "1e999999",
        "nul", '"\\ud800"', '"\\u', "[1,]", "{,}", "NaN", "Infinity",
    ]
)  # fmt: skip
_ODD_YAML = st.sampled_from(
    [
        "2024-99-99", "[" * 500, "{a: " * 500, "2024-02-30 25:61:61", "!!python/object:os.x {}",
        "!!binary x", "!!int x", "!!float ", "!!timestamp x", "!!set {a}", "!!omap [a]", "!!bool 3",
        "!!pairs [a]", "!!null 3", "0x", "0b", "1:99:99", "-0b_", "&a [*a]", "&a {b: *a}", "*a",
        "? [a]", "<<: 3", "{<<: [1]}", "{[1]: 2}", "{1: 2, a: 3}", "{~: 1}", "|\n  x", "'", "%YAML 9.9",
        "1" * _LONG, "190:20:30.15", ".inf", ".nan", "1_0", "0o7", "08", "\ufeff", "@", "`", "\t", "=",
        "2024-05-01", "{<<: {a: 1}, a: 2}", "1e5", "1e-400",
        f"[&a [{'x, ' * 9}x], " + ", ".join(_laughs(*pair) for pair in pairwise("abcdefghi")) + "]",
    ]
)  # fmt: skip


@dataclass(frozen=True)
class _Raw:
    """A text that stands in JSON or YAML as it is."""

    text: str


def _dumped(value: Any) -> str:
    """JSON of a value, whatever stands in it."""
    if isinstance(value, _Raw):
        return value.text
    if isinstance(value, dict):
        pairs = (f"{_key(key)}: {_dumped(each)}" for key, each in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_dumped, value)) + "]"
    if isinstance(value, int) and abs(value) > 10**300:
        return ("-" if value < 0 else "") + "1" + "0" * 400
    return json.dumps(value)


def _key(key: Any) -> str:
    return json.dumps(key.rstrip("\0"))  # two keys that differ in their NULs become one


@st.composite
def _changed(draw: Callable[..., Any], value: Any, odd: Any) -> Any:
    """A document with something else in one place of it."""
    is_inside = isinstance(value, dict | list) and len(value) and draw(st.integers(0, 5))
    if not is_inside:
        return _Raw(draw(odd)) if draw(st.integers(0, 3)) == 0 else draw(ODD_VALUES)
    if isinstance(value, list):
        place = draw(st.integers(0, len(value) - 1))
        inner = draw(_changed(value[place], odd))
        return [*value[:place], inner, *value[place + 1 :]]
    key = draw(st.sampled_from(sorted(value)))
    how = draw(st.integers(0, 9))
    if how == 0:
        return {each: inner for each, inner in value.items() if each != key}
    if how == 1:
        return {**value, draw(st.text(max_size=4)): draw(ODD_VALUES)}
    if how == 2:
        return {**value, f"{key}\0": draw(ODD_VALUES)}  # the key twice
    return {**value, key: draw(_changed(value[key], odd))}


@st.composite
def json_documents(draw: Callable[..., Any], valid: bytes) -> bytes:
    """A valid JSON document, changed in one place or in two."""
    changed = json.loads(valid)
    for _ in range(draw(st.integers(1, 2))):
        changed = draw(_changed(changed, _ODD_JSON)) if not isinstance(changed, _Raw) else changed
    return _dumped(changed).encode("utf-8", "surrogatepass")


@st.composite
def yaml_documents(draw: Callable[..., Any], valid: dict[str, Any]) -> bytes:
    """Settings with another value in one place or in two, one setting a line."""
    changed = valid
    for _ in range(draw(st.integers(1, 2))):
        changed = draw(_changed(changed, _ODD_YAML)) if isinstance(changed, dict) else changed
    if not isinstance(changed, dict):
        return _dumped(changed).encode("utf-8", "surrogatepass")
    keys = {key: _key(key) if draw(st.integers(0, 40)) else draw(_ODD_YAML) for key in changed}
    lines = [f"{keys[key]}: {_dumped(value)}\n" for key, value in changed.items()]
    return "".join(lines).encode("utf-8", "surrogatepass")


@st.composite
def tensor_files(draw: Callable[..., Any], valid: bytes) -> bytes:
    """A safetensors file whose header, dtypes, shapes or bytes are others."""
    (size,) = struct.unpack("<Q", valid[:8])
    header, data = json.loads(valid[8 : 8 + size]), bytearray(valid[8 + size :])
    how = draw(st.integers(0, 5))
    name = draw(st.sampled_from(sorted(set(header) - {"__metadata__"})))
    tensor = header[name]
    if how == 0:  # another type of as many bytes
        dtypes = ["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "U64", "U16",
                  "U32", "F8_E5M2", "F8_E4M3", "C64", "F4", "F6_E2M3", "F8_E8M0"]  # fmt: skip
        widths = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2,
                  "BF16": 2, "I16": 2, "U16": 2}  # fmt: skip
        dtype = draw(st.sampled_from(dtypes))
        first, last = tensor["data_offsets"]
        header[name] = {**tensor, "dtype": dtype, "shape": [(last - first) // widths.get(dtype, 1)]}
    elif how == 1:  # another shape of as many numbers
        total = 1
        for side in tensor["shape"]:
            total *= side
        shapes = [[total], [1, total], [total, 1], [1] * draw(st.integers(1, 80)) + [total], [0]]
        header[name] = {**tensor, "shape": draw(st.sampled_from(shapes))}
    elif how == 2:  # another name
        header[draw(st.text(max_size=8))] = header.pop(name)
    elif how == 3:  # other numbers
        first, last = tensor["data_offsets"]
        if last > first:
            place = draw(st.integers(first, last - 1))
            data[place : place + 4] = draw(
                st.sampled_from([b"\xff\xff\xff\x7f", b"\0\0\xc0\x7f", b"\xff" * 4])
            )[: last - place]
    elif how == 4:
        header = draw(_changed(header, _ODD_JSON))
    else:
        told = header.get("__metadata__", {})
        header["__metadata__"] = draw(_changed(told, _ODD_JSON))
    written = _dumped(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(written)) + written + bytes(data)


def damaged(valid: bytes) -> st.SearchStrategy[bytes]:
    """A valid file with some bytes others, cut short, or longer."""

    def change(place: int, piece: bytes, how: int) -> bytes:
        place %= len(valid) + 1
        if how == 0:
            return valid[:place]
        if how == 1:
            return valid[:place] + piece + valid[place:]
        return valid[:place] + piece + valid[place + len(piece) :]

    return st.builds(change, st.integers(0, 1 << 20), st.binary(max_size=8), st.integers(0, 3))
