"""What a challenger takes over from the champion, by hand on two catalogues of the cycle."""

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_llm.errors import ConfigError
from recbole_llm.model import LLMSeqRec
from recbole_llm.train import build_config, build_data
from recbole_llm.warm_start import start_warm, write_training_state
from tests.data import CYCLE, walk, write_atomic

_SMALL = {
    "hidden_size": 16, "n_layers": 1, "n_heads": 2, "inner_size": 32, "MAX_ITEM_LIST_LENGTH": 6,
    "encoder": "tfidf", "text_size": 4,
}  # fmt: skip


def _model(folder: Path, items: list[str], seed: int, **more: Any) -> tuple[LLMSeqRec, list[str]]:
    """A random model over the cycle and the items that are not on it."""
    name = f"of-{len(items)}"
    texts = {item: f"Film {item} number {n % 5} of {item[-1]}" for n, item in enumerate(items)}
    write_atomic(folder, name, {f"u{n}": walk(n, 8) for n in range(12)}, texts)
    config = build_config("LLMSeqRec", name, None, {**_SMALL, "data_path": str(folder), **more})
    dataset, loaders = build_data(config)
    torch.manual_seed(seed)
    return LLMSeqRec(config, loaders[0]._dataset), dataset.item_tokens()


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The state of a model that knows the cycle and an item that is gone later."""
    model, tokens = _model(tmp_path, [*CYCLE, "gone"], seed=1)
    folder = tmp_path / "0123456789ab"
    folder.mkdir()
    write_training_state(model, tokens, folder)
    return folder


def _by_item(model: LLMSeqRec, tokens: list[str]) -> dict[str, torch.Tensor]:
    embedding = model.network.items.id_embedding
    assert embedding is not None
    return dict(zip(tokens, embedding.weight.detach().clone(), strict=True))


def _adapted(model: LLMSeqRec) -> torch.Tensor:
    assert model.network.items.adaptor is not None
    adapted: torch.Tensor = model.network.items.adaptor(model.catalogue.text_vectors)
    return adapted.detach()


def test_known_items_keep_their_vectors_and_new_ones_get_theirs(
    tmp_path: Path, before: Path
) -> None:
    old, old_tokens = _model(tmp_path, [*CYCLE, "gone"], seed=1)
    new, tokens = _model(tmp_path, ["new", "newer", *CYCLE[::-1]], seed=2)
    cold = _by_item(new, tokens)
    assert tokens != old_tokens
    told = start_warm(new, tokens, before)
    assert told == {
        "warm_from": "0123456789ab", "n_known_items": 12, "n_new_items": 2, "cold_because": None
    }  # fmt: skip
    was, now = _by_item(old, old_tokens), _by_item(new, tokens)
    for item in CYCLE:
        assert torch.equal(now[item], was[item])
    for item in ("new", "newer"):
        assert torch.equal(now[item], cold[item])
    for part in ("sequences", "repeats"):
        state = getattr(old.network, part).state_dict()
        for name, value in getattr(new.network, part).state_dict().items():
            assert torch.equal(value, state[name])
    assert new.average is not None
    for name, value in new.average.module.state_dict().items():
        assert torch.equal(value, new.network.state_dict()[name])


def test_the_text_part_survives_a_turn_of_text_space(tmp_path: Path, before: Path) -> None:
    """The same items with other text vectors: turned, as principal components turn."""
    old, tokens = _model(tmp_path, [*CYCLE, "gone"], seed=1)
    new, _ = _model(tmp_path, [*CYCLE, "gone"], seed=2)
    torch.manual_seed(3)
    size = old.catalogue.text_vectors.shape[1]
    new.text_vectors = old.catalogue.text_vectors @ torch.linalg.qr(torch.randn(size, size))[0]
    wanted = _adapted(old)
    assert (_adapted(new) - wanted).abs().max() > 0.01
    start_warm(new, tokens, before)
    # The ridge shrinks by a millionth; the vectors' own size is about 0.02.
    torch.testing.assert_close(_adapted(new), wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"hidden_size": 8}, "hidden_size was 16"),
        ({"n_layers": 2}, "n_layers was 1"),
        ({"item_repr": "id"}, "item_repr was id+text, adaptor was linear"),
        ({"score": "cosine"}, "score was dot"),
    ],
)
def test_another_shape_starts_cold_and_says_so(
    tmp_path: Path, before: Path, more: dict[str, Any], reason: str
) -> None:
    new, tokens = _model(tmp_path, CYCLE, seed=2, **more)
    state = {name: value.clone() for name, value in new.state_dict().items()}
    told = start_warm(new, tokens, before)
    assert told == {
        "warm_from": None, "n_known_items": 0, "n_new_items": 12, "cold_because": reason
    }  # fmt: skip
    for name, value in new.state_dict().items():
        assert torch.equal(value, state[name])


def test_what_differs_in_training_alone_starts_warm(tmp_path: Path, before: Path) -> None:
    new, tokens = _model(tmp_path, CYCLE, seed=2, hidden_dropout_prob=0.1, id_dropout_prob=0.3)
    assert start_warm(new, tokens, before)["n_known_items"] == 12


def test_a_state_that_is_absent_or_damaged_starts_cold(tmp_path: Path, before: Path) -> None:
    new, tokens = _model(tmp_path, CYCLE, seed=2)
    (before / "training.safetensors").write_bytes(b"\x00" * 99)
    assert "cannot be read" in start_warm(new, tokens, before)["cold_because"]
    (before / "training.safetensors").unlink()
    told = start_warm(new, tokens, before)
    assert told["cold_because"] == "0123456789ab has no training.safetensors"
    with pytest.raises(ConfigError, match="warm_start names no artifact"):
        start_warm(new, tokens, tmp_path / "nowhere")
