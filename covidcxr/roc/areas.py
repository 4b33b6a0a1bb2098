"""The area under the ROC curve: its intervals, its error in a study of a planned size, the difference of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from covidcxr import metrics
from covidcxr.errors import InputError
from covidcxr.roc.cases import Values, checked, count, named, patients_of
from covidcxr.roc.resampling import resample

_FEWEST = 5  # patients of a class for a test


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        what: "AUC" or "average precision".
        value, low, high: low and high are NaN where the method has no interval.
        method: how the interval was made and what was resampled.
        cases, positives: how many stand behind it.
    """

    what: str
    value: float
    low: float
    high: float
    method: str
    cases: int
    positives: int

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high."""
        return self.low, self.high

    def __str__(self) -> str:
        interval = f"[{self.low:.3f}, {self.high:.3f}]" if np.isfinite(self.low) else "(no interval)"
        return f"{self.what} {self.value:.3f} {interval} ({self.cases} cases, {self.positives} positive; {self.method})"


@dataclass(frozen=True)
class Difference:
    """Difference of two areas on the same cases, first minus second.

    Attributes:
        first, second: the areas. value: their difference.
        low, high: bootstrap over patients. p: of the test of DeLong, patients as clusters; NaN where the variance is zero, or a
            class has fewer than five patients: the variance of so few is no ground for a normal distribution.
    """

    first: float
    second: float
    value: float
    low: float
    high: float
    p: float
    cases: int
    positives: int

    def __str__(self) -> str:
        areas = f"AUC {self.first:.3f} - {self.second:.3f} = {self.value:+.3f}"
        return f"{areas} [{self.low:+.3f}, {self.high:+.3f}], p = {self.p:.2g} ({self.cases} cases, {self.positives} positive)"


def auc(truth: Values, scores: Values) -> float:
    """Area under the ROC curve: how often a positive scores higher than a negative, ties counting half."""
    positive, values = checked(truth, scores)
    return float(_placements(values[positive], values[~positive])[0].mean())


def delong(
    truth: Values, scores: Values, patients: Values | None = None, *, level: float = 0.95,
    scale: Literal["linear", "logit"] = "linear",
) -> Estimate:
    """AUC with the interval of DeLong, from midranks in O(N log N).

    Args:
        patients: cases of one patient are one cluster (Obuchowski 1997); None: every case is independent.
        scale: `linear`: AUC ± z · SE, cut off at 0 and 1; `logit`: the same for log(AUC / (1 − AUC)), which stays within them and
            is nearer to its level with few cases.

    Returns:
        no interval (NaN) with fewer than two patients of a class, or for an AUC of 0 or 1, where the estimated variance is zero:
        that is no certainty, see `newcombe_interval`.
    """
    from scipy import special, stats

    positive, values = checked(truth, scores)
    (area,), ((variance,),) = _delong(positive, values[None], patients)
    error, z = np.sqrt(variance), stats.norm.ppf((1 + level) / 2)
    if not error > 0:
        low = high = np.nan
    elif scale == "logit":
        low, high = special.expit(special.logit(area) + np.array([-z, z]) * error / (area * (1 - area)))
    else:
        low, high = np.clip([area - z * error, area + z * error], 0, 1)
    method = "DeLong" + (", logit scale" if scale == "logit" else "")
    method += "" if patients is None else f", {count(patients)} patients as clusters"
    return Estimate("AUC", float(area), float(low), float(high), method, values.size, int(positive.sum()))


def hanley_mcneil_error(area: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC for given numbers of independent cases, if scores were exponential (Hanley and McNeil 1982): what
    a study of a planned size could tell."""
    if not 0 <= area <= 1 or positives < 1 or negatives < 1:
        raise InputError(f"Needs an area in [0, 1] and cases of both classes, got {area}, {positives} and {negatives}.")
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    spread = (positives - 1) * (one - area**2) + (negatives - 1) * (two - area**2)
    return float(np.sqrt((area * (1 - area) + spread) / (positives * negatives)))


def newcombe_interval(area: float, positives: int, negatives: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of an AUC that is sound at 0 and 1 too: Newcombe's method 5, the score form of Hanley and McNeil's error with both
    numbers of cases in it replaced by their mean. For independent cases."""
    from scipy import optimize, stats

    hanley_mcneil_error(area, positives, negatives)  # refuses what can't be
    z, mean = stats.norm.ppf((1 + level) / 2), (positives + negatives) / 2 - 1

    def beyond(theta: float) -> float:
        spread = 1 + mean * (1 - theta) / (2 - theta) + mean * theta / (1 + theta)
        return (theta - area) ** 2 - z**2 * theta * (1 - theta) * spread / (positives * negatives)

    edge = 1e-12  # at 0 and 1 the error is zero, which is a root, but not an end
    low = 0.0 if area == 0 else optimize.brentq(beyond, 0, min(area, 1 - edge))
    high = 1.0 if area == 1 else optimize.brentq(beyond, max(area, edge), 1)
    return float(low), float(high)


def bootstrap_auc(
    truth: Values, scores: Values, patients: Values, *, seed: int, level: float = 0.95, resamples: int = 2000
) -> Estimate:
    """AUC with the percentile interval over resampled patients; resamples with one class only are left out.

    Where all resamples agree, since the scores separate the classes, the interval is Newcombe's over patients; `method` says so.
    """
    positive, values = checked(truth, scores)
    area = auc(positive, values)
    draws = resample(_trapezoid, positive, values, patients, seed, resamples)[:, 0]
    low, high = metrics.percentile_interval(draws, level)
    method = f"bootstrap over {count(patients)} patients"
    if low == high:
        low, high = newcombe_interval(area, *patients_of(positive, patients), level)
        method = f"Newcombe over {count(patients)} patients: the bootstrap has no spread"
    return Estimate("AUC", area, low, high, method, values.size, int(positive.sum()))


def compare(truth: Values, first: Values, second: Values, patients: Values, *, seed: int, resamples: int = 2000) -> Difference:
    """Difference of the areas of two scores of the same cases: bootstrap over patients, and the paired test of DeLong with
    patients as clusters."""
    from scipy import stats

    positive, one = checked(truth, first)
    two = checked(truth, second)[1]
    areas, covariance = _delong(positive, np.stack([one, two]), patients)
    draws = [resample(_trapezoid, positive, values, patients, seed, resamples)[:, 0] for values in (one, two)]
    low, high = metrics.percentile_interval(draws[0] - draws[1])
    difference = float(areas[0] - areas[1])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    tested = variance > 1e-15 and min(patients_of(positive, patients)) >= _FEWEST
    p = float(2 * stats.norm.sf(abs(difference) / np.sqrt(variance))) if tested else np.nan
    return Difference(float(areas[0]), float(areas[1]), difference, low, high, p, one.size, int(positive.sum()))


def _placements(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each positive the share of negatives below it, for each negative the share of positives above it; ties count half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([positive, negative]))
    over = (ranks[: positive.size] - rankdata(positive)) / negative.size
    under = 1 - (ranks[positive.size :] - rankdata(negative)) / positive.size
    return over, under


def _delong(positive: np.ndarray, scores: np.ndarray, patients: Values | None) -> tuple[np.ndarray, np.ndarray]:
    """Areas (K,) of K scores (K, N) of the same cases, their covariance (K, K): NaN for fewer than two patients of one class."""
    names = np.arange(positive.size) if patients is None else named(patients, positive.size)
    cluster = np.unique(names, return_inverse=True)[1]
    clusters = cluster.max() + 1
    placed = [_placements(values[positive], values[~positive]) for values in scores]
    areas = np.array([over.mean() for over, _ in placed])

    def sums(which: int, members: np.ndarray) -> np.ndarray:
        """(K, clusters): deviations of a class's cases from the area, summed per patient; 0 for patients without any."""
        return np.stack([
            np.bincount(members, pair[which] - area, minlength=clusters) for pair, area in zip(placed, areas, strict=True)
        ])

    def spread(one: np.ndarray, other: np.ndarray, number: int) -> np.ndarray:
        return number / (number - 1) * one @ other.T

    ill, well = cluster[positive], cluster[~positive]
    patients_ill, patients_well = np.unique(ill).size, np.unique(well).size
    if min(patients_ill, patients_well) < 2:
        return areas, np.full((len(areas), len(areas)), np.nan)
    over, under = sums(0, ill) / ill.size, sums(1, well) / well.size
    cross = spread(over, under, clusters)
    return areas, spread(over, over, patients_ill) + spread(under, under, patients_well) + cross + cross.T


def _trapezoid(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.sum(np.diff(alarms) * (hits[:, 1:] + hits[:, :-1]), axis=1) / (2 * hits[:, -1] * alarms[:, -1])
