"""The part of an artifact that reads histories, as one ONNX file for what serves without torch.

    item_seq (B, L) int64, length (B,) int64  →  states (B, H) float32

The product of a state and the artifact's item vectors, plus their biases, is the score, as in
``Scorer.encode``; what a history's own items gain by having been met is not in it.
"""

import logging
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recbole_llm.errors import ArtifactError, ConfigError
from recbole_llm.layers import Reader, SequenceConfig, score_vectors
from recbole_llm.onnx_export import check_onnx, export_onnx
from recbole_llm.scoring import Scorer, load_scorer

_log = logging.getLogger(__name__)
_TOLERANCE = 1e-4
"""By how much a state's entry may be off: sums have another order."""
_LARGEST = 2**31 - 2**26
"""Bytes of item vectors beside which the network has room in one ONNX file."""
_PROBES = 32
"""Histories that both read before the file is announced."""


class _States(nn.Module):
    items: Tensor

    def __init__(self, items: Tensor, encoder: Reader, config: SequenceConfig) -> None:
        super().__init__()
        self.register_buffer("items", items)
        self.encoder, self.config = encoder, config

    def forward(self, item_seq: Tensor, length: Tensor) -> Tensor:
        """(B, L) int64 and (B,) int64 to (B, H)."""
        states = self.encoder.last_states(self.items[item_seq], length)
        return score_vectors(states, self.config)


def export_scorer(path: Path, target: Path) -> Path:
    """Write an artifact's network and item vectors as ONNX, checked against torch.

    An item's number in ``item_seq`` is its place in the artifact's ``items.json``, from 1. Sequences
    run from oldest to newest, are right-padded with 0 and have 1 to ``max_seq_length`` items. The
    file's metadata name ``model_version`` and ``max_seq_length``.

    Args:
        path: an artifact folder.
        target: the file to make.
    Returns:
        ``target``.
    Raises:
        ConfigError: ``target`` exists, or a package is not installed.
        ArtifactError: the artifact is absent, damaged or too large for one file, or its states in
            ONNX are off by over 1e-4.
    """
    check_onnx()
    if target.exists():
        raise ConfigError(f"{target} exists; name a new file, or delete it")
    scorer = load_scorer(path)
    artifact = scorer.artifact
    if artifact.item_matrix.nbytes > _LARGEST:
        raise ArtifactError(
            f"the item vectors of artifact {path} take {artifact.item_matrix.nbytes / 2**30:.1f} GiB "
            "and an ONNX file holds 2; serve it by recbole_llm.scoring"
        )
    longest = artifact.sequence_config.max_seq_length
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=target.parent) as folder:
        file = Path(folder) / "states.onnx"
        export_onnx(
            _States(artifact.item_matrix, scorer.sequence_encoder, artifact.sequence_config).eval(),
            {
                "item_seq": torch.ones(2, longest, dtype=torch.int64),
                "length": torch.full((2,), longest),
            },
            {"item_seq": (0, 1), "length": (0,)},
            "states",
            file,
            {"model_version": artifact.model_version, "max_seq_length": str(longest)},
        )
        off = _difference(scorer, file)
        if not off <= _TOLERANCE:
            raise ArtifactError(
                f"artifact {path}: its states in ONNX are off by {off:.2g}, over {_TOLERANCE}; "
                "nothing was written"
            )
        file.rename(target)
    _log.info("%s: states of artifact %s, off by %.1g at most", target, artifact.model_version, off)
    return target


def _difference(scorer: Scorer, file: Path) -> float:
    """The largest difference of an entry, over histories of all lengths, alone and together."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    longest = scorer.artifact.sequence_config.max_seq_length
    lengths = np.linspace(longest, 1, _PROBES).round().astype(np.int64)
    rows = [generator.integers(1, scorer.n_items + 1, length) for length in lengths]
    expected, item_seq, _ = scorer.encode(
        torch.from_numpy(np.concatenate(rows)), torch.from_numpy(lengths)
    )
    inputs = {"item_seq": item_seq.numpy(), "length": lengths}
    last = {"item_seq": rows[-1][None], "length": lengths[-1:]}
    together = session.run(None, inputs)[0] - expected.numpy()
    alone = session.run(None, last)[0] - expected[-1:].numpy()
    return float(max(np.abs(together).max(), np.abs(alone).max()))
