import numpy as np

from recbole_llm.whitening import whiten


def test_columns_are_uncorrelated_with_unit_variance() -> None:
    rng = np.random.default_rng(0)
    cone = (5 + rng.normal(size=(400, 12)) @ rng.normal(size=(12, 12))).astype(np.float32)
    white = whiten(cone, 8)
    assert white.shape == (400, 8)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(white.T), np.eye(8), atol=1e-4)


def test_a_strength_between_leaves_the_leading_components_in_front() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(4000, 3)) * [9, 3, 1]).astype(np.float32)
    deviations = {s: whiten(vectors, 3, s).std(0) for s in (0.0, 0.5, 1.0)}
    np.testing.assert_allclose(deviations[0.0][:2] / deviations[0.0][1:], [3, 3], rtol=0.05)
    np.testing.assert_allclose(deviations[0.5][:2] / deviations[0.5][1:], [3**0.5] * 2, rtol=0.05)
    for found in deviations.values():
        np.testing.assert_allclose((found**2).mean(), 1, rtol=1e-3)


def test_directions_without_variance_are_dropped() -> None:
    rng = np.random.default_rng(0)
    flat = np.repeat(rng.normal(size=(50, 2)), 3, axis=1).astype(np.float32)  # rank 2
    assert whiten(flat, 6).shape == (50, 2)


def test_identical_and_single_rows_give_zeros() -> None:
    np.testing.assert_array_equal(whiten(np.ones((5, 3), np.float32), 2), np.zeros((5, 1)))
    np.testing.assert_array_equal(whiten(np.ones((1, 3), np.float32), 2), np.zeros((1, 1)))


def test_the_input_is_left_unchanged() -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(4, 3)
    before = vectors.copy()
    whiten(vectors, 2)
    np.testing.assert_array_equal(vectors, before)
