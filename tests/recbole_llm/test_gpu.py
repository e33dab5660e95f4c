"""What a GPU has to give: the CPU's vectors, and a training in half precision, adapters included."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_llm.encoder import find_encoder, locate_weights
from recbole_llm.text_encoder import TextEncoder
from recbole_llm.train import train
from tests.data import write_cycle

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
_SMALL: dict[str, Any] = {
    "hidden_size": 16, "n_layers": 1, "inner_size": 16, "epochs": 12, "learning_rate": 0.02,
    "MAX_ITEM_LIST_LENGTH": 5, "train_batch_size": 16, "enable_amp": True,
}  # fmt: skip


@pytest.mark.parametrize("encoder", ["minilm", "smollm2-135m"])
def test_texts_are_read_as_on_a_cpu(encoder: str) -> None:
    spec = find_encoder(encoder)
    texts = ["Toy Story (1995)", "a", "GoldenEye " * 200]
    on_cpu, on_gpu = (
        TextEncoder(locate_weights(spec), spec, device).encode(texts) for device in ("cpu", "cuda")
    )
    cosines = (on_cpu * on_gpu).sum(1) / np.linalg.norm(on_cpu, axis=1)
    assert (cosines / np.linalg.norm(on_gpu, axis=1) > 0.999).all()


@pytest.mark.parametrize(
    "settings",
    [{}, {"encoder.finetune": "lora", "encoder.learning_rate": 0.01, "encoder.items_per_step": 8}],
    ids=["frozen", "lora"],
)
def test_training_in_half_precision(
    tmp_path: Path, tiny_encoders: dict[str, Path], settings: dict[str, Any]
) -> None:
    write_cycle(tmp_path)
    result = train(
        "LLMSeqRec", "cycle", None,
        {
            **_SMALL, **settings, "encoder": str(tiny_encoders["bert"]),
            "text_cache": str(tmp_path / "cache.sqlite"), "data_path": str(tmp_path),
            "artifact_dir": str(tmp_path / "artifacts"),
        },
    )  # fmt: skip
    assert torch.cuda.max_memory_allocated() > 0
    assert result.test_result["mrr@10"] > 0.6
