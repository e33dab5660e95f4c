from pathlib import Path
from typing import Any

import pytest

from benchmarks.compression import figures
from benchmarks.quality.models import find_model
from benchmarks.quality.run import run
from tests.data import write_cycle


def test_figures_by_hand() -> None:
    seeds = {"1": (0.10, 0.099), "2": (0.20, 0.204)}
    content: dict[str, Any] = {
        "speed": {
            "minilm": {
                "encoders": {
                    "float32": {"size_mb": 90.0, "texts_a_second": 20.0},
                    "int8": {"size_mb": 30.0, "texts_a_second": 50.0},
                }
            },
            "matrices": {
                "matrices": {
                    "float32": {"size_mb": 3.0, "users_a_second": 1000.0},
                    "int6": {"size_mb": 0.6, "users_a_second": 900.0},
                }
            },
        },
        "quality": {
            "minilm": {
                "shop": {
                    "float32": {
                        seed: {"ndcg@10": plain, "matrices": {"int6": plain * 0.99}}
                        for seed, (plain, _) in seeds.items()
                    },
                    "int8": {seed: {"ndcg@10": small} for seed, (_, small) in seeds.items()},
                }
            }
        },
    }
    assert figures(content, "minilm") == {
        "encoder_speedup": 2.5,
        "encoder_size_ratio": 3.0,
        "matrix_size_ratio": 5.0,
        "matrix_users_ratio": 0.9,
        "encoder_ndcg_kept": 1.005,
        "encoder_ndcg_kept_standard_error": 0.015,
        "matrix_ndcg_kept": 0.99,
        "matrix_ndcg_kept_standard_error": 0.0,
    }
    assert figures({"speed": {}, "quality": {}}, "minilm") == {}


def test_a_run_ranks_by_each_stored_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cycle(tmp_path)
    settings = {"item_repr": "id", "epochs": 20, "use_gpu": False}
    outcome = run(
        find_model("llmseqrec"), "cycle", str(tmp_path), 1, settings, matrices=["float32", "int8"]
    )
    assert outcome.test_by_matrix["float32"] == outcome.test
    assert outcome.test_by_matrix["int8"].keys() == outcome.test.keys()
    # Vectors of other items are what it ranks by, and for that time alone.
    monkeypatch.setattr(
        "recbole_llm.scoring.matrix.unpack_matrix", lambda t, *_: t["item_matrix"].roll(1, 0)
    )
    other = run(find_model("llmseqrec"), "cycle", str(tmp_path), 1, settings, matrices=["float32"])
    assert other.test == outcome.test
    assert other.test_by_matrix["float32"] != other.test
    assert other.masked_test == outcome.masked_test
