import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from recbole_llm import neighbors
from recbole_llm.neighbors import id_shares, text_neighbors


@pytest.mark.parametrize("block", [1, 1000, 2**22])
def test_neighbors_are_the_nearest_known_items_by_cosine(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbors, "_BLOCK", block)
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(60, 5, generator=generator)
    text[0] = 0
    is_known = torch.rand(60, generator=generator) < 0.6
    is_known[0] = False
    found, weights = text_neighbors(text, is_known, 4)
    torch.testing.assert_close(weights.sum(1), torch.ones(60))
    assert (weights[:, :-1] >= weights[:, 1:]).all()
    known = is_known.nonzero().squeeze(1)
    search = NearestNeighbors(metric="cosine").fit(text[known])
    for item in range(1, 60):
        nearest = known[torch.from_numpy(search.kneighbors(text[item : item + 1], 5)[1][0])]
        assert found[item].tolist() == [i for i in nearest.tolist() if i != item][:4]


@pytest.mark.parametrize(("n_known", "expected"), [(0, 0), (1, 0), (3, 2)])
def test_a_small_catalogue_has_fewer_neighbors(n_known: int, expected: int) -> None:
    is_known = torch.arange(6) <= n_known
    is_known[0] = False
    for each in text_neighbors(torch.randn(6, 3), is_known, 10):
        assert each.shape == (6, expected)


def test_a_neighbors_weight_is_the_eighth_power_of_its_cosine() -> None:
    text = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [3.0, 0.0]])
    found, weights = text_neighbors(text, torch.tensor([False, True, True, True]), 2)
    assert found[1].tolist() == [3, 2]
    torch.testing.assert_close(weights[1], torch.tensor([16 / 17, 1 / 17]))


def test_an_ids_own_share_grows_with_its_events() -> None:
    counts = torch.tensor([0, 0, 5, 45, 7, 0])
    has_neighbors = torch.tensor([False, True, True, True, False, False])
    torch.testing.assert_close(
        id_shares(counts, has_neighbors, 5.0),
        torch.tensor([[0, 0], [0, 1], [0.5, 0.5], [0.9, 0.1], [1, 0], [0, 0]]),
    )
