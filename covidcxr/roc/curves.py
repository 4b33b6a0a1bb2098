"""The ROC curve, the precision–recall curve and the area under the latter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from covidcxr import metrics
from covidcxr.roc.areas import Estimate
from covidcxr.roc.cases import Values, checked, count
from covidcxr.roc.resampling import cumulated, resample


@dataclass(frozen=True, eq=False)
class Curve:
    """A ROC curve: from nothing called positive (threshold infinite) to everything, one point per distinct score."""

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    thresholds: np.ndarray


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """A precision–recall curve from the highest threshold to the lowest, and what stands beside it.

    Attributes:
        average_precision: sum of precision over the steps in recall (no interpolation).
        prevalence: share of positives: the average precision of a score that knows nothing.
    """

    precision: np.ndarray
    recall: np.ndarray
    thresholds: np.ndarray
    average_precision: float
    prevalence: float


def curve(truth: Values, scores: Values) -> Curve:
    """The ROC curve of scikit-learn, with every distinct score.

    Raises:
        InputError: here and in all functions below: lengths differ, something is missing or not finite, or one class only.
    """
    from sklearn.metrics import roc_curve

    return Curve(*roc_curve(*checked(truth, scores), drop_intermediate=False))


def precision_recall(truth: Values, scores: Values, weights: Values | None = None) -> PrecisionRecall:
    """The precision–recall curve.

    Args:
        weights: (N,) how many equal cases each row stands for, such as pixels of one volume, score and truth; None: one each.
    """
    positive, values = checked(truth, scores)
    counts = np.ones((1, values.size)) if weights is None else np.asarray(weights, dtype=float)[None]
    hits, alarms, thresholds = cumulated(positive, values, counts)
    prevalence = hits[0, -1] / (hits[0, -1] + alarms[0, -1])
    precision = hits[0, 1:] / (hits[0, 1:] + alarms[0, 1:])
    area = float(_average_precision(hits, alarms)[0])
    return PrecisionRecall(precision, hits[0, 1:] / hits[0, -1], thresholds[1:], area, float(prevalence))


def bootstrap_average_precision(
    truth: Values, scores: Values, patients: Values, *, seed: int, weights: Values | None = None, level: float = 0.95,
    resamples: int = 2000,
) -> Estimate:
    """Average precision (area under the precision–recall curve) with the percentile interval over resampled patients.

    Args:
        weights: as for `precision_recall`; `cases` of the result counts them.
    """
    positive, values = checked(truth, scores)
    many = np.ones(values.size) if weights is None else np.asarray(weights, dtype=float)
    draws = average_precision_draws(truth, scores, patients, seed=seed, weights=weights, resamples=resamples)
    low, high = metrics.percentile_interval(draws, level)
    area = precision_recall(positive, values, many).average_precision
    method = f"bootstrap over {count(patients)} patients"
    return Estimate("average precision", area, low, high, method, int(many.sum()), int(many[positive].sum()))


def average_precision_draws(
    truth: Values, scores: Values, patients: Values, *, seed: int, weights: Values | None = None, resamples: int = 2000
) -> np.ndarray:
    """Average precision in each resample of patients, (resamples,). Of the same patients and seed the resamples are the same,
    whatever the scores: those of two scores can be subtracted."""
    positive, values = checked(truth, scores)
    many = np.ones(values.size) if weights is None else np.asarray(weights, dtype=float)
    return resample(_average_precision, positive, values, patients, seed, resamples, many)[:, 0]


def _average_precision(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    called = hits[:, 1:] + alarms[:, 1:]
    precision = np.divide(hits[:, 1:], called, out=np.zeros_like(called), where=called > 0)
    with np.errstate(invalid="ignore"):
        return np.sum(np.diff(hits) * precision, axis=1) / hits[:, -1]
