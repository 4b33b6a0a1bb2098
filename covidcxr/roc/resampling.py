"""Sums over the cases at or above each threshold, in every resample of patients at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from covidcxr import metrics
from covidcxr.roc.cases import Values, named

_AT_ONCE = 4_000_000  # numbers of a block of resamples in memory


def cumulated(positive: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positives and negatives at or above each threshold, (R, T), for R weightings (R, N); thresholds (T,), infinity first."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of each run of equal scores
    weights = counts[:, order].astype(float)
    sums = []
    for members in (positive[order], ~positive[order]):
        total = np.cumsum(weights * members, axis=1)[:, last]
        sums.append(np.concatenate([np.zeros((len(total), 1)), total], axis=1))
    return sums[0], sums[1], np.append(np.inf, ranked[last])


def resample(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], positive: np.ndarray, scores: np.ndarray, patients: Values,
    seed: int, resamples: int, weights: np.ndarray | None = None,
) -> np.ndarray:
    """A statistic of `cumulated` sums in every resample of patients, (resamples, S)."""
    counts = metrics.cluster_counts(named(patients, scores.size), seed=seed, resamples=resamples)
    step = max(1, _AT_ONCE // scores.size)
    draws = []
    for start in range(0, resamples, step):
        block = counts[start : start + step]
        hits, alarms, _ = cumulated(positive, scores, block if weights is None else block * weights)
        draws.append(statistic(hits, alarms).reshape(len(block), -1))
    return np.concatenate(draws)
