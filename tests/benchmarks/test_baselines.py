"""The peers on whole sequences give the loss that RecBole's own networks give prefix by prefix."""

from pathlib import Path

import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import GRU4Rec, SASRec

from benchmarks.quality.baselines import WholeGRU4Rec, WholeSASRec
from recbole_llm.sequences import WholeSequenceDataset
from recbole_llm.train import build_config, build_data
from tests.data import write_cycle


def _rows(sequences: list[list[int]], targets: list[int]) -> Interaction:
    item_seq = torch.zeros(len(sequences), 6, dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        item_seq[row, : len(sequence)] = torch.tensor(sequence)
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    fields = {"item_id_list": item_seq, "item_length": lengths, "item_id": torch.tensor(targets)}
    return Interaction(fields)


@pytest.mark.parametrize(("stock", "whole"), [(SASRec, WholeSASRec), (GRU4Rec, WholeGRU4Rec)])
def test_one_pass_is_all_prefixes(stock: type, whole: type, tmp_path: Path) -> None:
    write_cycle(tmp_path)
    settings = {"data_path": str(tmp_path), "MAX_ITEM_LIST_LENGTH": 6}
    config = build_config(stock.__name__, "cycle", None, settings)
    dataset, _ = build_data(config, WholeSequenceDataset)
    ours, theirs = whole(config, dataset).eval(), stock(config, dataset).eval()
    theirs.load_state_dict(ours.state_dict())
    one_pass = ours.calculate_loss(_rows([[1, 2, 3], [4]], [5, 6]))
    prefixes = theirs.calculate_loss(_rows([[1], [1, 2], [1, 2, 3], [4]], [2, 3, 5, 6]))
    torch.testing.assert_close(one_pass, prefixes)
