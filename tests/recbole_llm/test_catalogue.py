import torch

from recbole_llm.catalogue import build_catalogue

COUNTS = torch.tensor([0, 5, 1, 0, 0, 3])
"""Padding; two items that were met; a new one; one of which nothing is known; one without text."""
TEXT = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 0.0], [0.0, 0.0]])


def test_new_items_have_a_bias_and_what_nobody_knows_comes_last() -> None:
    catalogue = build_catalogue(COUNTS, TEXT, 2, 5.0, new_item_bias=0.25)
    assert catalogue.is_known.tolist() == [False, True, True, False, False, True]
    assert catalogue.item_bias[[1, 2, 3, 5]].tolist() == [0, 0, 0.25, 0]
    assert (catalogue.item_bias[[0, 4]] < -1000).all()
    assert torch.isfinite(catalogue.item_bias).all()


def test_a_new_item_borrows_and_an_item_without_text_stands_alone() -> None:
    catalogue = build_catalogue(COUNTS, TEXT, 2, 5.0, 0.0)
    assert catalogue.neighbors[3].tolist() == [2]  # the nearest of the two met items with a text
    shares = [[0, 0], [0.5, 0.5], [1 / 6, 5 / 6], [0, 1], [0, 0], [1, 0]]
    torch.testing.assert_close(catalogue.id_shares, torch.tensor(shares))


def test_without_text_or_ids_there_are_no_neighbors() -> None:
    for text, n_neighbors in ((None, 2), (TEXT, 0)):
        catalogue = build_catalogue(COUNTS, text, n_neighbors, 5.0, 0.0)
        assert catalogue.neighbors.shape == catalogue.neighbor_weights.shape == (6, 0)
        assert catalogue.id_shares[:, 1].tolist() == [0.0] * 6


def test_a_text_that_ids_were_made_of_counts_beside_the_events() -> None:
    catalogue = build_catalogue(COUNTS, TEXT, 2, 5.0, 0.0, text_events=5.0)
    assert catalogue.is_known.tolist() == [False, True, True, False, False, True]
    assert sorted(catalogue.neighbors[2].tolist()) == [1, 3]  # the new item lends too
    shares = [[0, 0], [2 / 3, 1 / 3], [6 / 11, 5 / 11], [0.5, 0.5], [0, 0], [1, 0]]
    torch.testing.assert_close(catalogue.id_shares, torch.tensor(shares))
