import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_llm.errors import ConfigError
from recbole_llm.fit import fit
from recbole_llm.name_decoder import NameDecoder, name_tree
from recbole_llm.semantic_ids import semantic_ids
from recbole_llm.train import build_config, build_data, train
from tests.data import write_cycle


def test_like_texts_share_their_first_codes() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 6)) * 10
    vectors = np.repeat(centres, 5, 0) + rng.normal(size=(20, 6))
    names = semantic_ids(vectors.astype(np.float32), 2, 4, seed=0)
    assert names.shape == (20, 3)
    assert len({tuple(name) for name in names}) == 20
    assert all(len(set(group)) == 1 for group in names[:, 0].reshape(4, 5))


def test_twins_get_names_of_their_own() -> None:
    names = semantic_ids(np.ones((3, 2), np.float32), 2, 8, seed=0)
    assert sorted(map(tuple, names.tolist())) == [(0, 0, 0), (0, 0, 1), (0, 0, 2)]


def _decoder(n_levels: int, n_codes: int) -> NameDecoder:
    torch.manual_seed(0)
    decoder = NameDecoder(n_levels, n_codes, 8, std=1.0)
    for head in decoder.heads:
        torch.nn.init.normal_(head.weight)
    return decoder


def test_a_wide_beam_ranks_as_all_names_do() -> None:
    names = torch.tensor(list(itertools.product(range(3), range(4), range(2))))[::3]  # 8 of 24
    items = torch.arange(10, 10 + len(names))
    decoder, states = _decoder(3, 4), torch.randn(5, 8)
    found, scores = decoder.beam_search(states, name_tree(names, items), 24)
    one = torch.ones(1, 1)
    for row, state in enumerate(states):
        exact = -torch.stack([decoder.loss(state[None], name[None, None], one) for name in names])
        order = exact.argsort(descending=True)
        is_found = scores[row] > -torch.inf
        assert is_found.sum() == len(names)
        assert found[row][is_found].tolist() == items[order].tolist()
        torch.testing.assert_close(scores[row][is_found], exact[order])


def test_a_narrow_beam_keeps_to_items() -> None:
    names = torch.tensor([[0, 0], [0, 1], [2, 1], [2, 3]])
    decoder = _decoder(2, 4)
    found, scores = decoder.beam_search(
        torch.randn(6, 8), name_tree(names, torch.tensor([4, 5, 6, 7])), 2
    )
    assert found.shape == (6, 2)
    assert (scores > -torch.inf).all()
    assert set(found.flatten().tolist()) <= {4, 5, 6, 7}
    assert (found[:, 0] != found[:, 1]).all()


def test_the_loss_learns_a_name() -> None:
    decoder = _decoder(2, 4)
    states, names = torch.randn(1, 8), torch.tensor([[[1, 3], [2, 0]]])
    shares = torch.tensor([[0.75, 0.25]])
    optimizer = torch.optim.Adam(decoder.parameters(), 0.01)
    for _ in range(300):
        optimizer.zero_grad()
        loss = decoder.loss(states, names, shares)
        loss.backward()
        optimizer.step()
    # The entropy of three to one is what remains.
    assert abs(loss.item() - 0.562) < 0.02
    found, scores = decoder.beam_search(states, name_tree(names[0], torch.tensor([1, 2])), 2)
    assert found.tolist() == [[1, 2]]
    np.testing.assert_allclose(scores.exp().numpy(), [[0.75, 0.25]], atol=0.05)


def test_a_model_that_spells_names_learns_the_cycle(tmp_path: Path) -> None:
    write_cycle(tmp_path)
    settings: dict[str, Any] = {
        "decoder": "semantic_ids", "encoder": "tfidf", "name_levels": 2, "name_codes": 4,
        "beam_size": 12, "hidden_size": 16, "n_layers": 1, "inner_size": 16, "epochs": 20,
        "learning_rate": 0.02, "MAX_ITEM_LIST_LENGTH": 5, "train_batch_size": 16,
        "data_path": str(tmp_path),
    }  # fmt: skip
    result = train("LLMSeqRec", "cycle", None, settings)
    assert result.test_result["mrr@10"] > 0.8
    assert result.artifact is None
    wide = {**settings, "beam_size": 100, "epochs": 0}  # most of its places are nobody's
    config = build_config("LLMSeqRec", "cycle", None, wide)
    _, (rows, held_out, _) = build_data(config)
    model = fit(config, rows, held_out).network.eval()
    batch = next(iter(held_out))[0]
    with torch.no_grad():
        assert torch.isfinite(model.full_sort_predict(batch).view(len(batch), -1)[:, 1:]).all()
    with pytest.raises(ConfigError, match="names items by their texts"):
        train("LLMSeqRec", "cycle", None, {**settings, "item_repr": "id"})
