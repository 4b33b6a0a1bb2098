"""What a threshold does, fixed beforehand or chosen by a rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from covidcxr import metrics
from covidcxr.errors import InputError
from covidcxr.roc.cases import Values, checked
from covidcxr.roc.resampling import cumulated, resample


@dataclass(frozen=True)
class OperatingPoint:
    """What a threshold does.

    Attributes:
        rule: how the threshold was chosen.
        threshold: cases from here on are called positive; infinite where none is.
        true_positives, false_positives, true_negatives, false_negatives: cases.
        sensitivity, specificity, ppv, npv: (value, low, high) each; NaN where there is nothing to divide by. A rule that looks at
            the data is applied anew in every resample of patients. Where all resamples agree (a share of 0 or 1), the interval is
            Wilson's over patients, each counted once.
    """

    rule: str
    threshold: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    sensitivity: tuple[float, float, float]
    specificity: tuple[float, float, float]
    ppv: tuple[float, float, float]
    npv: tuple[float, float, float]

    def __str__(self) -> str:
        shares = (f"{name} {value:.2f} [{low:.2f}, {high:.2f}]" for name, (value, low, high) in self.shares().items())
        return f"{self.rule}: score >= {self.threshold:.4g}: {', '.join(shares)}"

    def shares(self) -> dict[str, tuple[float, float, float]]:
        """Sensitivity, specificity and predictive values by name: value, low, high."""
        return {"sensitivity": self.sensitivity, "specificity": self.specificity, "PPV": self.ppv, "NPV": self.npv}


def at_threshold(truth: Values, scores: Values, threshold: float, patients: Values, *, seed: int) -> OperatingPoint:
    """What a threshold that was fixed beforehand does."""
    positive, values = checked(truth, scores)

    def choose(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
        return np.full(len(hits), np.count_nonzero(np.unique(values) >= threshold))

    return _operating_point("fixed", choose, positive, values, patients, seed, threshold)


def youden(truth: Values, scores: Values, patients: Values, *, seed: int) -> OperatingPoint:
    """The threshold with the largest sensitivity + specificity − 1, the highest such. Chosen on the cases that it is judged by,
    it flatters, the more so the fewer they are."""

    def choose(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.argmax(np.nan_to_num(hits / hits[:, -1:] - alarms / alarms[:, -1:]), axis=1)

    return _operating_point("Youden", choose, *checked(truth, scores), patients, seed)


def at_specificity(truth: Values, scores: Values, specificity: float, patients: Values, *, seed: int) -> OperatingPoint:
    """The lowest threshold whose specificity is at least the one wanted: the sensitivity that can be had for it."""
    if not 0 <= specificity <= 1:
        raise InputError(f"A specificity lies in [0, 1], got {specificity}.")

    def choose(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.count_nonzero(alarms / alarms[:, -1:] <= 1 - specificity + 1e-12, axis=1) - 1

    return _operating_point(f"specificity {specificity:g}", choose, *checked(truth, scores), patients, seed)


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """(PPV, NPV) of a test where a share `prevalence` of the cases is positive (Bayes); NaN where nothing is called so."""
    if not all(0 <= share <= 1 for share in (sensitivity, specificity, prevalence)):
        raise InputError(f"Shares lie in [0, 1], got {sensitivity}, {specificity} and {prevalence}.")
    hits, alarms = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    rests, misses = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return (hits / (hits + alarms) if hits + alarms else np.nan), (rests / (rests + misses) if rests + misses else np.nan)


def _operating_point(
    rule: str, choose: Callable[[np.ndarray, np.ndarray], np.ndarray], positive: np.ndarray, scores: np.ndarray, patients: Values,
    seed: int, threshold: float | None = None,
) -> OperatingPoint:
    """The point at the position (R,) among the thresholds of `cumulated` that `choose` finds from the sums (R, T)."""

    def shares(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
        place = choose(hits, alarms)[:, None]
        tp, fp = np.take_along_axis(hits, place, 1)[:, 0], np.take_along_axis(alarms, place, 1)[:, 0]
        ill, well = hits[:, -1], alarms[:, -1]
        with np.errstate(invalid="ignore"):
            found = np.stack([tp / ill, (well - fp) / well, tp / (tp + fp), (well - fp) / (well - fp + ill - tp)], axis=1)
        return np.where(((ill > 0) & (well > 0))[:, None], found, np.nan)  # no rule works on one class

    hits, alarms, thresholds = cumulated(positive, scores, np.ones((1, scores.size)))
    place = int(choose(hits, alarms)[0])
    found = thresholds[place] if threshold is None else threshold
    tp, fp = int(hits[0, place]), int(alarms[0, place])
    draws = resample(shares, positive, scores, patients, seed, 2000)
    behind = (positive, ~positive, scores >= found, scores < found)  # the cases that each share is of
    triples = []
    for value, column, members in zip(shares(hits, alarms)[0], draws.T, behind, strict=True):
        triples.append(_with_interval(float(value), column, np.asarray(patients).astype(str)[members]))
    return OperatingPoint(rule, float(found), tp, fp, int(alarms[0, -1]) - fp, int(hits[0, -1]) - tp, *triples)


def _with_interval(value: float, draws: np.ndarray, patients: np.ndarray) -> tuple[float, float, float]:
    if np.isnan(value):
        return value, np.nan, np.nan
    low, high = metrics.percentile_interval(draws)
    if low == high:
        number = np.unique(patients).size
        low, high = metrics.wilson_interval(round(value * number), number)
    return value, low, high
