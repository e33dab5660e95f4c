import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_llm.packing import pack


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_each_item_has_a_place_and_reads_its_own_past(sizes: list[int]) -> None:
    packing = pack(torch.tensor(sizes))
    n_rows, width, _ = packing.hidden.shape
    assert width == max(sizes)
    assert len(packing.places.unique()) == sum(sizes) == len(packing.positions)
    assert packing.positions.tolist() == [position for size in sizes for position in range(size)]
    # Two rows in turn hold more than one could: at most half of the places are padding.
    assert n_rows <= 2 * sum(sizes) / width + 1
    rows, columns = packing.places // width, packing.places % width
    readable = ~packing.hidden[rows, columns]  # (N, W), of each item's own row
    for item, position in enumerate(packing.positions.tolist()):
        past = packing.places[item - position : item + 1]
        assert rows[item - position] == rows[item]
        assert readable[item].nonzero().squeeze(1).tolist() == (past % width).tolist()
