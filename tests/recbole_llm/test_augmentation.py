"""What an augmentation changes and what it must not, by hand and on random batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_llm.augmentation import (
    AUGMENTATIONS,
    BY_TEXT,
    Reading,
    augment,
    crop,
    insert,
    mask,
    read_whole,
    reorder,
    similar_items,
    substitute,
)
from recbole_llm.catalogue import Catalogue
from recbole_llm.errors import ConfigError
from recbole_llm.model import LLMSeqRec
from recbole_llm.train import build_config, build_data, train
from tests.data import write_cycle

_N = 40
_SEQUENCES = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 8, 9, 0, 0, 0], [10, 0, 0, 0, 0, 0]])
_LENGTHS = torch.tensor([6, 3, 1])
_MET = torch.cat([_SEQUENCES, torch.tensor([[11], [12], [13]])], 1)


def _catalogue(neighbors: Tensor, weights: Tensor | None = None) -> Catalogue:
    """Items by number, each with a row of (V, K) neighbors; those of row 0 alone are none."""
    even = torch.full(neighbors.shape, 1 / max(neighbors.shape[1], 1))
    n = len(neighbors)
    shares = torch.full((n, 2), 0.5)
    return Catalogue(
        torch.arange(n) > 0, torch.zeros(n), shares, neighbors, even if weights is None else weights,
        None,
    )  # fmt: skip


_TWENTY_ON = _catalogue((torch.arange(_N).unsqueeze(1) + 20) % _N)
"""The one like item of item n is item n + 20."""
_AS_IT_IS = read_whole(_SEQUENCES, _LENGTHS)


def _lists(reading: Reading) -> list[tuple[list[int], list[int], list[bool]]]:
    """Each sequence's items, places and where it is asked, without padding, which is checked."""
    found = []
    for items, length, places, is_asked in zip(*reading, strict=True):
        assert (items[:length] > 0).all()
        assert not items[length:].any()
        assert not is_asked[length:].any()
        found.append(tuple(value[:length].tolist() for value in (items, places, is_asked)))
    return found


def _random_batch(seed: int) -> tuple[Reading, Tensor]:
    """Sequences of all lengths and repeats, of which only the newest places are trained in some."""
    torch.manual_seed(seed)
    lengths = torch.randint(1, 9, (32,))
    steps = torch.arange(8)
    is_real = steps < lengths.unsqueeze(1)
    items = torch.randint(1, _N, (32, 8)) * is_real
    is_trained = is_real & (steps >= (lengths * torch.rand(32)).floor().unsqueeze(1))
    met = torch.cat([items, torch.randint(1, _N, (32, 1))], 1)
    return read_whole(items, lengths, is_trained), met


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_nothing_changes_at_share_zero(name: str) -> None:
    reading = augment(_AS_IT_IS, (name,), 0.0, _MET, _TWENTY_ON)
    assert _lists(reading) == _lists(_AS_IT_IS)  # what stands on padding is nobody's
    assert reading.items.shape == _SEQUENCES.shape


def test_no_augmentation_draws_nothing() -> None:
    before = torch.get_rng_state()
    assert augment(_AS_IT_IS, (), 0.5, _MET, _TWENTY_ON) is _AS_IT_IS
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("names", [*((name,) for name in AUGMENTATIONS), AUGMENTATIONS])
def test_what_holds_of_every_reading(names: tuple[str, ...]) -> None:
    n_changed = 0
    for seed in range(20):
        whole, met = _random_batch(seed)
        before = [value.clone() for value in whole]
        reading = augment(whole, names, 0.4, met, _TWENTY_ON)
        for value, old in zip(whole, before, strict=True):
            assert torch.equal(value, old)  # the argument is left as it was
        assert reading.items.shape == whole.items.shape
        for row, (items, places, is_asked) in enumerate(_lists(reading)):
            n_changed += items != whole.items[row, : whole.lengths[row]].tolist()
            newest = int(whole.lengths[row]) - 1
            assert places == sorted(places)
            assert (places[-1], is_asked[-1]) == (newest, True)
            # Nobody is asked at a place that is not trained.
            assert whole.is_asked[row][
                [p for p, asked in zip(places, is_asked, strict=True) if asked]
            ].all()
            foreign = {*items} - {*met[row].tolist()}
            assert foreign <= {(item + 20) % _N for item in met[row].tolist()}
            assert not foreign or BY_TEXT.keys() & {*names}
            # Before a place that is asked, nothing is read that truly comes later only.
            true = whole.items[row].tolist()
            for step, place in enumerate(places):
                if is_asked[step]:
                    assert not {*items[: step + 1]} & (
                        {*true[place + 1 :]} - {*true[: place + 1], 0}
                    )
    assert n_changed > 100


def test_a_seed_repeats_and_another_differs() -> None:
    whole, met = _random_batch(0)

    def drawn(seed: int) -> Reading:
        torch.manual_seed(seed)
        return augment(whole, AUGMENTATIONS, 0.5, met, _TWENTY_ON)

    assert all(map(torch.equal, drawn(1), drawn(1)))
    assert len({str(_lists(drawn(seed))) for seed in range(5)}) == 5


def test_a_crop_leaves_the_newest_items_and_on_average_its_share_out() -> None:
    n = 4000
    torch.manual_seed(0)
    whole = read_whole(torch.arange(1, 11).repeat(n, 1), torch.full((n,), 10))
    reading = crop(whole, 0.2)
    for items, places, is_asked in _lists(reading)[:50]:
        cut = 10 - len(items)
        assert items == [*range(1 + cut, 11)]
        assert places == [*range(cut, 10)]
        assert all(is_asked)
    cuts = 10 - reading.lengths
    # 0, 1, 2, 3, 4 items, each a fifth of the time; four standard errors of 4,000 draws.
    assert (torch.bincount(cuts) / n - 0.2).abs().max() < 4 * (0.2 * 0.8 / n) ** 0.5
    assert torch.bincount(cuts).shape == (5,)
    assert crop(_AS_IT_IS, 0.999).lengths.min() == 1


def test_a_mask_leaves_items_out_and_the_newest_in() -> None:
    assert _lists(mask(_AS_IT_IS, 0.9999999)) == [
        ([6], [5], [True]),
        ([9], [2], [True]),
        ([10], [0], [True]),
    ]
    n = 2000
    torch.manual_seed(0)
    whole = read_whole(torch.arange(1, 11).repeat(n, 1), torch.full((n,), 10))
    left = torch.bincount(mask(whole, 0.3).items.flatten(), minlength=11)[1:] / n
    assert left[-1] == 1
    assert (left[:-1] - 0.7).abs().max() < 4 * (0.7 * 0.3 / n) ** 0.5


def test_a_shuffled_span_is_asked_at_its_end_alone() -> None:
    n = 3000
    torch.manual_seed(0)
    whole = read_whole(torch.arange(1, 7).repeat(n, 1), torch.full((n,), 6))
    reading = reorder(whole, 0.5)  # three of six
    starts, orders = set(), set()
    for items, places, is_asked in _lists(reading):
        assert places == [0, 1, 2, 3, 4, 5]
        start = is_asked.index(False)
        assert is_asked == [place not in (start, start + 1) for place in range(6)]
        span = items[start : start + 3]
        assert sorted(span) == [start + 1, start + 2, start + 3]
        assert items[:start] + items[start + 3 :] == [i for i in range(1, 7) if i not in span]
        starts.add(start)
        orders.add(tuple(item - start for item in span))
    assert starts == {0, 1, 2, 3}
    assert len(orders) == 6


def test_similar_items_take_the_place_of_items() -> None:
    reading = substitute(_AS_IT_IS, 0.9999999, _MET, _TWENTY_ON)
    assert reading.items.tolist() == [
        [21, 22, 23, 24, 25, 26],
        [27, 28, 29, 0, 0, 0],
        [30, 0, 0, 0, 0, 0],
    ]
    assert reading[1:] == _AS_IT_IS[1:]


def test_similar_items_come_in_between_and_the_oldest_fall_out() -> None:
    assert _lists(insert(_AS_IT_IS, 0.9999999, _MET, _TWENTY_ON)) == [
        ([4, 24, 5, 25, 6, 26], [3, 3, 4, 4, 5, 5], [True] * 6),
        ([7, 27, 8, 28, 9, 29], [0, 0, 1, 1, 2, 2], [True] * 6),
        ([10, 30], [0, 0], [True] * 2),
    ]


def test_the_nearer_are_drawn_more_often_and_what_was_met_is_not() -> None:
    neighbors = torch.tensor([[1, 2, 3], [2, 3, 4], [1, 3, 4], [1, 2, 4], [1, 2, 3]])
    catalogue = _catalogue(neighbors, torch.tensor([0.6, 0.3, 0.1]).repeat(5, 1))
    n = 4000
    torch.manual_seed(0)
    of_one = torch.ones(n, dtype=torch.int64)

    def shares(met: list[int]) -> list[float]:
        drawn = similar_items(of_one, torch.tensor(met).repeat(n, 1), catalogue)
        return (torch.bincount(drawn, minlength=5) / n).tolist()

    within = 4 * (0.5 * 0.5 / n) ** 0.5
    assert shares([1, 0]) == pytest.approx([0, 0, 0.6, 0.3, 0.1], abs=within)
    assert shares([1, 2]) == pytest.approx([0, 0, 0, 0.75, 0.25], abs=within)
    assert shares([2, 3]) == [0, 0, 0, 0, 1]
    nothing_left = similar_items(torch.tensor([1]), torch.tensor([[2, 3, 4]]), catalogue)
    assert nothing_left.tolist() == [0]
    alone = catalogue._replace(id_shares=torch.tensor([[1.0, 0.0]]).repeat(5, 1))  # without text
    assert similar_items(torch.tensor([1]), torch.tensor([[1]]), alone).tolist() == [0]
    none = _catalogue(torch.zeros(5, 0, dtype=torch.int64))
    assert similar_items(torch.tensor([1, 2]), torch.tensor([[1], [2]]), none).tolist() == [0, 0]


_SMALL = {
    "hidden_size": 16, "n_layers": 1, "n_heads": 2, "inner_size": 32, "MAX_ITEM_LIST_LENGTH": 6,
    "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "id_dropout_prob": 0.0,
    "train_batch_size": 16, "learning_rate": 0.01, "epochs": 3, "encoder": "tfidf",
    "initializer_range": 0.5,
}  # fmt: skip


def _build(parent: Path, **more: Any) -> tuple[LLMSeqRec, Any]:
    """An untrained model and its training windows."""
    write_cycle(parent)
    config = build_config("LLMSeqRec", "cycle", None, {**_SMALL, "data_path": str(parent), **more})
    _, (loader, _, _) = build_data(config)
    torch.manual_seed(0)
    rows = loader._dataset
    return LLMSeqRec(config, rows), rows[torch.arange(len(rows))]


_DECODERS = [{"decoder": "softmax"}, {"decoder": "semantic_ids", "name_codes": 4}]


@pytest.mark.parametrize("more", [*_DECODERS, {"loss_type": "sampled", "n_negatives": 2}])
def test_the_loss_is_augmented_while_training_alone(tmp_path: Path, more: dict[str, Any]) -> None:
    plain, batch = _build(tmp_path, **more)
    model, _ = _build(tmp_path, augmentation="+".join(AUGMENTATIONS), augmentation_prob=0.4, **more)

    def loss(of: LLMSeqRec) -> float:
        torch.manual_seed(0)
        return of.user_loss(batch).item()

    assert loss(model.eval()) == loss(plain.eval())
    assert abs(loss(model.train()) - loss(plain.train())) > 1e-3
    assert loss(model) == loss(model)


def test_nothing_but_what_is_read_changes_in_the_loss(tmp_path: Path) -> None:
    """With vectors of zero, what is read says nothing: left are targets and what was met before."""
    plain, batch = _build(tmp_path, target_decay=1.0)
    model, _ = _build(tmp_path, augmentation="substitute", augmentation_prob=0.9, target_decay=1.0)
    for each in (plain, model):
        repeats = each.network.repeats
        assert repeats is not None
        with torch.no_grad():
            for value in each.network.parameters():
                value.zero_()
            repeats.weight.copy_(torch.tensor([-0.3, 0.2, 0.1]))
    assert plain.train().user_loss(batch) == model.train().user_loss(batch)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_training_repeats_by_seed(tmp_path: Path, name: str) -> None:
    write_cycle(tmp_path)
    given = {**_SMALL, "data_path": str(tmp_path), "augmentation_prob": 0.4}
    runs = [
        train("LLMSeqRec", "cycle", None, {**given, "augmentation": augmentation})
        for augmentation in (name, name, None)
    ]
    assert runs[0].artifact == runs[1].artifact
    assert runs[0].artifact != runs[2].artifact


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"augmentation": "cut"}, r"augmentation must be crop, mask, .*, got 'cut'"),
        ({"augmentation": "mask+cut"}, r"or ~ \(str\), got 'mask\+cut'"),
        ({"augmentation_prob": 1.0}, r"augmentation_prob must be in \[0, 1\) \(float\), got 1.0"),
        (
            {"augmentation": "insert", "id_neighbors": 0},
            "augmentation insert draws from the items with like texts, .* got id.text and 0",
        ),
        ({"augmentation": "substitute", "item_repr": "id"}, "got id and 10"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _build(tmp_path, **given)
