"""Who waits for what, worked by hand."""

import pyarrow as pa

from recbole_llm.lists.prerequisites import Prerequisites, prerequisites_of

STRINGS = pa.list_(pa.string())


def test_an_item_waits_until_all_that_it_requires_was_met() -> None:
    requires = [None, ["a", "b"], [], ["a"], ["nowhere"], ["b", "e", "a"]]
    needs = prerequisites_of(pa.array(requires, STRINGS))
    met = [["a", "c"], [], ["b", "a", "b"], ["e", "a", "b"], None]
    waiting = needs.waiting(pa.array(met, STRINGS))
    pairs = list(zip(waiting.owners.tolist(), waiting.values.tolist(), strict=True))
    assert pairs == [
        (0, 1), (0, 4), (0, 5), (1, 1), (1, 3), (1, 4), (1, 5), (2, 4), (2, 5), (3, 4),
        (4, 1), (4, 3), (4, 4), (4, 5),
    ]  # fmt: skip
    some = needs.waiting(pa.array(met, STRINGS).slice(2, 1))
    assert (some.owners.tolist(), some.values.tolist()) == ([0, 0], [4, 5])


def test_where_nothing_is_required_nobody_waits() -> None:
    for needs in (Prerequisites(), prerequisites_of(pa.array([None, []], STRINGS))):
        assert len(needs.waiting(pa.array([["a"], []], STRINGS)).owners) == 0
    needs = prerequisites_of(pa.array([["a"]], STRINGS))
    assert len(needs.waiting(pa.array([], STRINGS)).owners) == 0
