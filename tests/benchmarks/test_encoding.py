"""Both sides read the same texts by the same model, and the second night reads none."""

from pathlib import Path

from benchmarks.encoding import measure

TEXTS = ["film of the cycle", "a film", "film of the cycle", "nobody has met a film " * 40]


def test_both_sides_give_the_same_vectors(tiny_encoders: dict[str, Path]) -> None:
    row = measure(str(tiny_encoders["qwen3"]), TEXTS, n_threads=1, rounds=2)
    assert (row["texts"], row["different_texts"]) == (4, 3)
    assert row["min_cosine"] >= 0.999999  # a folder is read in float32
    assert row["second_night_encoded"] == 0
    assert [len(seconds) for seconds in row["seconds"].values()] == [2] * 6
