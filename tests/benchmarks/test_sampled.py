"""Sampled softmax beside full softmax: quality from rows that are there, memory from real steps."""

import argparse
import time
from pathlib import Path

import psutil
import pytest

from benchmarks import sampled
from benchmarks.about import read_results
from benchmarks.sampled import _quality, _steps


def test_the_quality_is_what_the_rows_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = read_results(sampled._PATH, {})
    monkeypatch.setattr(sampled, "_PATH", tmp_path / "sampled.json")
    args = argparse.Namespace(dataset="amazon-beauty-2014", data_path=None, seeds=[1, 2, 3])
    _quality({"figures": {}}, args, {})
    written = read_results(tmp_path / "sampled.json", {})
    ratios = [
        one / other
        for one, other in zip(
            written["quality"]["sampled_ndcg@10"], written["quality"]["full_ndcg@10"], strict=True
        )
    ]
    assert written["figures"]["sampled_over_full"] == round(sum(ratios) / 3, 4)
    assert written["figures"].items() <= published["figures"].items()


@pytest.mark.parametrize("loss_type", ["sampled", "CE"])
def test_steps_are_measured(loss_type: str) -> None:
    started = time.monotonic()
    found = _steps(loss_type, 500, 16)
    took_s, now_gib = time.monotonic() - started, psutil.Process().memory_info().rss / 2**30
    assert now_gib - 0.01 < found["peak_gib"] < psutil.virtual_memory().total / 2**30
    assert 0 <= found["seconds_a_step"] < took_s + 0.01
