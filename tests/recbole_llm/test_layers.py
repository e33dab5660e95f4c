import pytest
import torch

from recbole_llm.layers import ADAPTORS, ItemEncoder, RepeatBias

IS_KNOWN = torch.tensor([False, True, True, False])


def test_repeat_bias_counts_an_item_at_its_latest_place() -> None:
    bias = RepeatBias(3)
    bias.weight.data = torch.tensor([0.1, 0.2, 0.3])
    item_seq = torch.tensor([[5, 6, 5, 7, 8, 0]])
    # After the third item 5 is the last one; after the fifth it is two items back, 6 is three back.
    rows, positions = torch.tensor([0, 0]), torch.tensor([2, 4])
    states, items, values = bias(item_seq, rows, positions)
    found = {
        (state, item): round(value, 4)
        for state, item, value in zip(states.tolist(), items.tolist(), values.tolist(), strict=True)
    }
    assert found == {
        (0, 6): 2.0, (0, 5): 1.0,
        (1, 6): 3.0, (1, 5): 3.0, (1, 7): 2.0, (1, 8): 1.0,
    }  # fmt: skip
    assert len(states) == len(found)  # each pair once


@pytest.mark.parametrize("adaptor", list(ADAPTORS))
def test_an_unknown_item_is_its_text_and_a_textless_one_its_id(adaptor: str) -> None:
    torch.manual_seed(0)
    encoder = ItemEncoder(4, 8, 5, True, adaptor, 0.0, 0.02)
    text = torch.randn(4, 5)
    text[0] = text[1] = 0
    vectors = encoder(torch.arange(4), IS_KNOWN, text)
    assert encoder.id_embedding is not None
    assert encoder.adaptor is not None
    ids, adapted = encoder.id_embedding.weight, encoder.adaptor(text)
    torch.testing.assert_close(vectors[0], torch.zeros(8))
    torch.testing.assert_close(vectors[1], ids[1])
    torch.testing.assert_close(vectors[2], ids[2] + adapted[2])
    torch.testing.assert_close(vectors[3], adapted[3])
    some = encoder(torch.tensor([3, 1]), IS_KNOWN, text)
    torch.testing.assert_close(some, vectors[[3, 1]])


def test_id_dropout_takes_whole_ids_in_training_alone() -> None:
    torch.manual_seed(0)
    encoder = ItemEncoder(1001, 4, 3, True, "linear", 0.3, 0.02)
    is_known = torch.ones(1001, dtype=torch.bool)
    text = torch.zeros(1001, 3)
    items = torch.arange(1001)
    without = (encoder(items, is_known, text) == 0).all(1)
    assert without.float().mean() == pytest.approx(0.3, abs=0.05)
    assert not (encoder.eval()(items, is_known, text) == 0).all(1).any()
