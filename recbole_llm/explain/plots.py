"""The pictures of a page: where the network looked, and what moved the scores; PNG as data.

Places are numbered as in the page's list of the history. No title is drawn: matplotlib reads some signs
of a title as mathematics.
"""

import base64
import io

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_INCH, _DPI = 2.3, 130


def draw_attention(maps: NDArray[np.float32]) -> str:
    """One square a layer (rows) and head (columns); a line shows where its place looks.

    Args:
        maps: (n_layers, n_heads, L, L) float32, rows add up to 1.
    Returns:
        A ``data:`` address.
    """
    n_layers, n_heads, length, _ = maps.shape
    figure = Figure(figsize=(_INCH * n_heads, _INCH * n_layers), layout="constrained")
    squares = figure.subplots(n_layers, n_heads, squeeze=False)
    for layer in range(n_layers):
        for head in range(n_heads):
            square = squares[layer, head]
            square.imshow(maps[layer, head], cmap="Blues", vmin=0, extent=_extent(length, length))
            square.set_title(f"block {layer + 1}, head {head + 1}", fontsize=8)
            square.tick_params(labelsize=7)
    return _data(figure)


def draw_gradients(gradients: NDArray[np.float32]) -> str:
    """Gradient times input: a line an explained item, a column a place of the history.

    Args:
        gradients: (N, L) float32.
    Returns:
        A ``data:`` address.
    """
    n_items, length = gradients.shape
    largest = max(float(np.abs(gradients).max()), 1e-9)
    figure = Figure(figsize=(2 * _INCH, 0.8 + 0.22 * n_items), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(
        gradients, cmap="RdBu", vmin=-largest, vmax=largest, aspect="auto",
        extent=_extent(n_items, length),
    )  # fmt: skip
    axes.set_yticks(range(1, n_items + 1))
    axes.tick_params(labelsize=7)
    figure.colorbar(image).ax.tick_params(labelsize=7)
    return _data(figure)


def _extent(n_rows: int, n_columns: int) -> tuple[float, float, float, float]:
    """Edges of a picture whose rows and columns are numbered from 1."""
    return 0.5, n_columns + 0.5, n_rows + 0.5, 0.5


def _data(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
