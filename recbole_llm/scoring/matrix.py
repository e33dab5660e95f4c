"""How an artifact's file holds the item matrix: as it is, in half precision, or in whole numbers.

A row of whole numbers has a scale, the same for both signs: the row's largest entry over the largest
number. The scale is kept in bfloat16, which reaches as far as float32, and the numbers are rounded by
what the scale came to. The file alone is smaller: in memory the matrix is float32 again, and whatever
ranks goes on as before.

Source: symmetric quantisation by row, as in LLM.int8(), arXiv:2208.07339.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_llm.errors import ArtifactError

_MOST = {"int8": 127, "int6": 31}
"""The largest whole number by way."""
STORED = ("float32", "float16", *_MOST)
"""The ways, the largest first."""
_MATRIX, _SCALES = "item_matrix", "item_scales"
_ROWS = 65_536
"""Rows whose bits are moved together: each takes a byte for a while."""


def pack_matrix(matrix: Tensor, stored: str) -> dict[str, Tensor]:
    """Item vectors as tensors of a file.

    Args:
        matrix: (V, H) float32, finite.
        stored: one of ``STORED``.
    Returns:
        ``item_matrix``, and ``item_scales`` (V,) bfloat16 beside whole numbers. These are (V, H) int8,
        or with ``int6`` (V, ceil(6 H / 8)) uint8: 31 is added, and a row's bits stand end to end.
    Raises:
        ArtifactError: half precision was asked for and ends before the largest entry.
    """
    matrix = matrix.detach().cpu()
    if stored == "float32":
        return {_MATRIX: matrix}
    if stored == "float16":
        if (largest := float(matrix.abs().max())) > torch.finfo(torch.float16).max:
            raise ArtifactError(
                f"the item matrix has an entry of size {largest:.3g} and float16 ends at 65504; "
                "store it in int8"
            )
        return {_MATRIX: matrix.half()}
    most = _MOST[stored]
    scales = (matrix.abs().amax(1) / most).bfloat16()  # (V,)
    steps = scales.float().unsqueeze(1)
    numbers = (matrix / steps.masked_fill(steps == 0, 1.0)).round().clamp(-most, most)
    numbers = numbers.to(torch.int8)
    if stored == "int6":
        parts = [_packed(part) for part in _pieces(numbers.add(most).numpy().view(np.uint8))]
        numbers = torch.from_numpy(np.concatenate(parts))
    return {_MATRIX: numbers, _SCALES: scales}


def unpack_matrix(tensors: dict[str, Tensor], stored: str, hidden_size: int) -> Tensor:
    """The (V, H) float32 item vectors of a file's tensors, which are taken out of ``tensors``.

    Raises:
        KeyError: a tensor is absent.
        ValueError: there is no such way, or the tensors are of another.
    """
    matrix = tensors.pop(_MATRIX)
    if stored not in STORED:
        raise ValueError(f"an item matrix is stored as one of {STORED}, not {stored!r}")
    expected = "uint8" if stored == "int6" else stored
    if str(matrix.dtype) != f"torch.{expected}":
        raise ValueError(
            f"an item matrix in {stored} has entries of {expected}, not {matrix.dtype}"
        )
    if stored not in _MOST:
        return matrix.float()
    scales = tensors.pop(_SCALES)
    width = -(-6 * hidden_size // 8) if stored == "int6" else hidden_size
    if matrix.shape[1:] != (width,) or scales.shape != matrix.shape[:1]:
        raise ValueError(
            f"an item matrix in {stored} has {width} numbers and a scale a row, not "
            f"{tuple(matrix.shape)} and {tuple(scales.shape)}"
        )
    if stored == "int6":
        parts = [_unpacked(part, hidden_size) for part in _pieces(matrix.numpy())]
        matrix = torch.from_numpy(np.concatenate(parts).view(np.int8)) - _MOST[stored]
    return matrix.float() * scales.float().unsqueeze(1)


def _packed(numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, H) numbers below 64 to the (N, ceil(6 H / 8)) bytes of their bits."""
    apart = np.unpackbits(numbers[..., None], axis=2)[..., 2:]  # (N, H, 6)
    return np.packbits(apart.reshape(len(numbers), -1), axis=1)


def _unpacked(packed: NDArray[np.uint8], hidden_size: int) -> NDArray[np.uint8]:
    apart = np.unpackbits(packed, axis=1)[:, : 6 * hidden_size]
    apart = apart.reshape(len(packed), -1, 6)  # (N, H, 6)
    return np.packbits(np.pad(apart, ((0, 0), (0, 0), (2, 0))), axis=2)[..., 0]


def _pieces(rows: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS)]
