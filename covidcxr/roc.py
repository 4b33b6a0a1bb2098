"""How well a score tells cases with an outcome from cases without: curves, areas, intervals, operating points, calibration.

    area = roc.bootstrap_auc(died, percentage, patients, seed=0)
    print(area)                          # AUC 0.78 [0.61, 0.92] (33 cases, 10 positive; bootstrap over 24 patients)
    print(roc.youden(died, percentage, patients, seed=0))

Everywhere `truth` (N,) says which cases are positive (bool or 0/1, none missing), `scores` (N,) are finite and higher where a
positive is more likely, and `patients` (N,) name whose case it is. Cases of one patient are not independent: intervals resample
patients, or take the patient's cases as one cluster. From a threshold on a case is called positive (score >= threshold), as in
scikit-learn.

Sources: DeLong, DeLong and Clarke-Pearson 1988 (10.2307/2531595); Sun and Xu 2014 (10.1109/LSP.2014.2337313) for midranks;
Obuchowski 1997 (10.2307/2533958) for clusters; Hanley and McNeil 1982 (10.1148/radiology.143.1.7063747); Newcombe 2006
(10.1002/sim.2324).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from covidcxr import metrics
from covidcxr.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Values = Sequence[Any] | np.ndarray
_AT_ONCE = 4_000_000  # numbers of a block of resamples in memory
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
        return {"sensitivity": self.sensitivity, "specificity": self.specificity, "PPV": self.ppv, "NPV": self.npv}


@dataclass(frozen=True)
class Calibration:
    """Whether probabilities can be taken at their word.

    Attributes:
        intercept: to be added to all log odds so that as many events are expected as happened; 0 is right, below 0: too high.
        slope: of the log odds; 1 is right, below 1: too extreme. NaN where the probabilities separate the outcome.
        brier: mean squared error. brier_of_prevalence: of saying the observed share for everybody.
    """

    intercept: float
    slope: float
    brier: float
    brier_of_prevalence: float
    cases: int
    positives: int

    def __str__(self) -> str:
        return (
            f"intercept {self.intercept:+.2f}, slope {self.slope:.2f}, Brier {self.brier:.3f} (saying the share for everybody: "
            f"{self.brier_of_prevalence:.3f}; {self.cases} cases, {self.positives} positive)"
        )


# ---- curves and areas -------------------------------------------------------------------------------------------------------


def curve(truth: Values, scores: Values) -> Curve:
    """The ROC curve of scikit-learn, with every distinct score.

    Raises:
        InputError: here and in all functions below: lengths differ, something is missing or not finite, or one class only.
    """
    from sklearn.metrics import roc_curve

    return Curve(*roc_curve(*_checked(truth, scores), drop_intermediate=False))


def auc(truth: Values, scores: Values) -> float:
    """Area under the ROC curve: how often a positive scores higher than a negative, ties counting half."""
    positive, values = _checked(truth, scores)
    return float(_placements(values[positive], values[~positive])[0].mean())


def precision_recall(truth: Values, scores: Values, weights: Values | None = None) -> PrecisionRecall:
    """The precision–recall curve.

    Args:
        weights: (N,) how many equal cases each row stands for, such as pixels of one volume, score and truth; None: one each.
    """
    positive, values = _checked(truth, scores)
    counts = np.ones((1, values.size)) if weights is None else np.asarray(weights, dtype=float)[None]
    hits, alarms, thresholds = _cumulated(positive, values, counts)
    prevalence = hits[0, -1] / (hits[0, -1] + alarms[0, -1])
    precision = hits[0, 1:] / (hits[0, 1:] + alarms[0, 1:])
    area = float(_average_precision(hits, alarms)[0])
    return PrecisionRecall(precision, hits[0, 1:] / hits[0, -1], thresholds[1:], area, float(prevalence))


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
        that is no certainty, see `newcombe`.
    """
    from scipy import stats

    positive, values = _checked(truth, scores)
    (area,), ((variance,),) = _delong(positive, values[None], patients)
    error, z = np.sqrt(variance), stats.norm.ppf((1 + level) / 2)
    if not error > 0:
        low = high = np.nan
    elif scale == "logit":
        low, high = _logistic(_logit(area) + np.array([-z, z]) * error / (area * (1 - area)))
    else:
        low, high = np.clip([area - z * error, area + z * error], 0, 1)
    method = "DeLong" + (", logit scale" if scale == "logit" else "")
    method += "" if patients is None else f", {_count(patients)} patients as clusters"
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


def newcombe(truth: Values, scores: Values, level: float = 0.95) -> Estimate:
    """AUC with `newcombe_interval`; cases must be independent: one per patient."""
    positive, area = _checked(truth, scores)[0], auc(truth, scores)
    low, high = newcombe_interval(area, int(positive.sum()), int((~positive).sum()), level)
    return Estimate("AUC", area, low, high, "Newcombe", positive.size, int(positive.sum()))


def bootstrap_auc(
    truth: Values, scores: Values, patients: Values, *, seed: int, level: float = 0.95, resamples: int = 2000
) -> Estimate:
    """AUC with the percentile interval over resampled patients; resamples with one class only are left out.

    Where all resamples agree, since the scores separate the classes, the interval is Newcombe's over patients; `method` says so.
    """
    positive, values = _checked(truth, scores)
    area = auc(positive, values)
    draws = _resample(_trapezoid, positive, values, patients, seed, resamples)[:, 0]
    low, high = metrics.percentile_interval(draws, level)
    method = f"bootstrap over {_count(patients)} patients"
    if low == high:
        low, high = newcombe_interval(area, *_patients_of(positive, patients), level)
        method = f"Newcombe over {_count(patients)} patients: the bootstrap has no spread"
    return Estimate("AUC", area, low, high, method, values.size, int(positive.sum()))


def bootstrap_average_precision(
    truth: Values, scores: Values, patients: Values, *, seed: int, weights: Values | None = None, level: float = 0.95,
    resamples: int = 2000,
) -> Estimate:
    """Average precision (area under the precision–recall curve) with the percentile interval over resampled patients.

    Args:
        weights: as for `precision_recall`; `cases` of the result counts them.
    """
    positive, values = _checked(truth, scores)
    many = np.ones(values.size) if weights is None else np.asarray(weights, dtype=float)
    draws = average_precision_draws(truth, scores, patients, seed=seed, weights=weights, resamples=resamples)
    low, high = metrics.percentile_interval(draws, level)
    area = precision_recall(positive, values, many).average_precision
    method = f"bootstrap over {_count(patients)} patients"
    return Estimate("average precision", area, low, high, method, int(many.sum()), int(many[positive].sum()))


def average_precision_draws(
    truth: Values, scores: Values, patients: Values, *, seed: int, weights: Values | None = None, resamples: int = 2000
) -> np.ndarray:
    """Average precision in each resample of patients, (resamples,). Of the same patients and seed the resamples are the same,
    whatever the scores: those of two scores can be subtracted."""
    positive, values = _checked(truth, scores)
    many = np.ones(values.size) if weights is None else np.asarray(weights, dtype=float)
    return _resample(_average_precision, positive, values, patients, seed, resamples, many)[:, 0]


def compare(truth: Values, first: Values, second: Values, patients: Values, *, seed: int, resamples: int = 2000) -> Difference:
    """Difference of the areas of two scores of the same cases: bootstrap over patients, and the paired test of DeLong with
    patients as clusters."""
    from scipy import stats

    positive, one = _checked(truth, first)
    two = _checked(truth, second)[1]
    areas, covariance = _delong(positive, np.stack([one, two]), patients)
    draws = [_resample(_trapezoid, positive, values, patients, seed, resamples)[:, 0] for values in (one, two)]
    low, high = metrics.percentile_interval(draws[0] - draws[1])
    difference = float(areas[0] - areas[1])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    tested = variance > 1e-15 and min(_patients_of(positive, patients)) >= _FEWEST
    p = float(2 * stats.norm.sf(abs(difference) / np.sqrt(variance))) if tested else np.nan
    return Difference(float(areas[0]), float(areas[1]), difference, low, high, p, one.size, int(positive.sum()))


# ---- operating points -------------------------------------------------------------------------------------------------------


def at_threshold(truth: Values, scores: Values, threshold: float, patients: Values, *, seed: int) -> OperatingPoint:
    """What a threshold that was fixed beforehand does."""
    positive, values = _checked(truth, scores)

    def choose(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
        return np.full(len(hits), np.count_nonzero(np.unique(values) >= threshold))

    return _operating_point("fixed", choose, positive, values, patients, seed, threshold)


def youden(truth: Values, scores: Values, patients: Values, *, seed: int) -> OperatingPoint:
    """The threshold with the largest sensitivity + specificity − 1, the highest such. Chosen on the cases that it is judged by,
    it flatters, the more so the fewer they are."""

    def choose(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.argmax(np.nan_to_num(hits / hits[:, -1:] - alarms / alarms[:, -1:]), axis=1)

    return _operating_point("Youden", choose, *_checked(truth, scores), patients, seed)


def at_specificity(truth: Values, scores: Values, specificity: float, patients: Values, *, seed: int) -> OperatingPoint:
    """The lowest threshold whose specificity is at least the one wanted: the sensitivity that can be had for it."""
    if not 0 <= specificity <= 1:
        raise InputError(f"A specificity lies in [0, 1], got {specificity}.")

    def choose(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.count_nonzero(alarms / alarms[:, -1:] <= 1 - specificity + 1e-12, axis=1) - 1

    return _operating_point(f"specificity {specificity:g}", choose, *_checked(truth, scores), patients, seed)


def predictive_values(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """(PPV, NPV) of a test where a share `prevalence` of the cases is positive (Bayes); NaN where nothing is called so."""
    if not all(0 <= share <= 1 for share in (sensitivity, specificity, prevalence)):
        raise InputError(f"Shares lie in [0, 1], got {sensitivity}, {specificity} and {prevalence}.")
    hits, alarms = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    rests, misses = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return (hits / (hits + alarms) if hits + alarms else np.nan), (rests / (rests + misses) if rests + misses else np.nan)


# ---- calibration ------------------------------------------------------------------------------------------------------------


def cross_validated_risk(truth: Values, scores: Values, patients: Values, *, folds: int, seed: int) -> np.ndarray:
    """Probability of the outcome for each case by a logistic model of the score that never saw the case's patient.

    scikit-learn's logistic regression of the standardised score with its ridge penalty (C = 1), which keeps a separated sample
    finite; folds are stratified by the outcome and grouped by patient.

    Returns:
        (N,) in (0, 1).

    Raises:
        InputError: a class has fewer patients than there are folds.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    positive, values = _checked(truth, scores)
    groups = _named(patients, values.size)
    fewest = min(_patients_of(positive, groups))
    if not 2 <= folds <= fewest:
        raise InputError(f"{folds} folds need at least two, and as many patients of each class; the rarer class has {fewest}.")
    model = make_pipeline(StandardScaler(), LogisticRegression())
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return cross_val_predict(model, values[:, None], positive, groups=groups, cv=split, method="predict_proba")[:, 1]


def calibration(truth: Values, probabilities: Values) -> Calibration:
    """Calibration in the large, slope and Brier score of predicted probabilities, which must lie inside (0, 1)."""
    from scipy import optimize
    from sklearn.linear_model import LogisticRegression

    positive, risk = _checked(truth, probabilities)
    if risk.min() <= 0 or risk.max() >= 1:
        raise InputError(f"Probabilities must lie inside (0, 1), got {risk.min():g} to {risk.max():g}.")
    odds, share = _logit(risk), positive.mean()
    reach = np.abs(odds).max() + abs(_logit(share)) + 1
    intercept = optimize.brentq(lambda shift: _logistic(odds + shift).mean() - share, -reach, reach)
    separated = auc(positive, risk) in (0.0, 1.0)
    fit = None if separated or np.ptp(odds) == 0 else LogisticRegression(C=np.inf, max_iter=1000).fit(odds[:, None], positive)
    slope = np.nan if fit is None else float(fit.coef_[0, 0])
    brier = float(np.mean((risk - positive) ** 2))
    return Calibration(float(intercept), slope, brier, float(share * (1 - share)), risk.size, int(positive.sum()))


def reliability(truth: Values, probabilities: Values, bins: int = 5) -> pd.DataFrame:
    """Predicted and observed shares in bins of equally many cases.

    Returns:
        One row per bin: `predicted` (mean probability), `observed` (share of positives), `low`, `high` (Wilson, over cases),
        `cases`. Equal probabilities share a bin, so that there may be fewer bins.
    """
    import pandas as pd

    positive, risk = _checked(truth, probabilities)
    inner = np.quantile(risk, np.linspace(0, 1, bins + 1)[1:-1])
    number = np.searchsorted(inner, risk, side="right")
    rows = []
    for k in np.unique(number):
        inside = number == k
        low, high = metrics.wilson_interval(int(positive[inside].sum()), int(inside.sum()))
        rows.append({"predicted": risk[inside].mean(), "observed": positive[inside].mean(), "low": low, "high": high,
                     "cases": int(inside.sum())})
    return pd.DataFrame(rows)


# ---- inside -----------------------------------------------------------------------------------------------------------------


def _checked(truth: Values, scores: Values) -> tuple[np.ndarray, np.ndarray]:
    """Truth as bool and scores as float, (N,) each, of both classes."""
    import pandas as pd

    values = np.asarray(scores, dtype=float)
    missing = int(np.sum(pd.isna(truth)))
    if missing:
        raise InputError(f"The outcome of {missing} of {len(truth)} cases is missing. Leave them out, and say how many they are.")
    outcome = np.asarray(truth)
    if values.ndim != 1 or outcome.shape != values.shape:
        raise InputError(f"Outcomes and scores must be two lists of one length, got shapes {outcome.shape} and {values.shape}.")
    if not np.isfinite(values).all():
        bad = np.count_nonzero(~np.isfinite(values))
        raise InputError(f"{bad} of {values.size} scores are not finite. Leave these cases out, and say how many they are.")
    positive = outcome.astype(bool)
    if not np.array_equal(outcome.astype(float), positive.astype(float)):
        odd = next(value for value in outcome.tolist() if value not in (0, 1))
        raise InputError(f"Outcomes must be true or false (1 or 0), got {odd!r}.")
    if positive.all() or not positive.any():
        kind = "positive" if positive.size and positive.all() else "negative"
        raise InputError(f"A ROC needs both classes; all {positive.size} cases are {kind}. Take more cases, or another outcome.")
    return positive, values


def _named(patients: Values, size: int) -> np.ndarray:
    """Patients as text (N,)."""
    import pandas as pd

    if len(patients) != size:
        raise InputError(f"There are {size} cases, but {len(patients)} patients' names.")
    missing = int(np.sum(pd.isna(patients)))
    if missing:
        raise InputError(f"The patient of {missing} of {size} cases is missing. Leave them out, or name each for itself.")
    return np.asarray(patients).astype(str)


def _count(patients: Values) -> int:
    return len(np.unique(np.asarray(patients).astype(str)))


def _patients_of(positive: np.ndarray, patients: Values) -> tuple[int, int]:
    """How many patients have a positive case, and how many have none."""
    names = np.asarray(patients).astype(str)
    ill = np.unique(names[positive]).size
    return ill, np.unique(names).size - ill


def _placements(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each positive the share of negatives below it, for each negative the share of positives above it; ties count half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([positive, negative]))
    over = (ranks[: positive.size] - rankdata(positive)) / negative.size
    under = 1 - (ranks[positive.size :] - rankdata(negative)) / positive.size
    return over, under


def _delong(positive: np.ndarray, scores: np.ndarray, patients: Values | None) -> tuple[np.ndarray, np.ndarray]:
    """Areas (K,) of K scores (K, N) of the same cases, their covariance (K, K): NaN for fewer than two patients of one class."""
    names = np.arange(positive.size) if patients is None else _named(patients, positive.size)
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


def _cumulated(positive: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def _trapezoid(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.sum(np.diff(alarms) * (hits[:, 1:] + hits[:, :-1]), axis=1) / (2 * hits[:, -1] * alarms[:, -1])


def _average_precision(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    called = hits[:, 1:] + alarms[:, 1:]
    precision = np.divide(hits[:, 1:], called, out=np.zeros_like(called), where=called > 0)
    with np.errstate(invalid="ignore"):
        return np.sum(np.diff(hits) * precision, axis=1) / hits[:, -1]


def _resample(
    statistic: Callable[[np.ndarray, np.ndarray], np.ndarray], positive: np.ndarray, scores: np.ndarray, patients: Values,
    seed: int, resamples: int, weights: np.ndarray | None = None,
) -> np.ndarray:
    """A statistic of `_cumulated` sums in every resample of patients, (resamples, S)."""
    counts = metrics.cluster_counts(_named(patients, scores.size), seed=seed, resamples=resamples)
    step = max(1, _AT_ONCE // scores.size)
    draws = []
    for start in range(0, resamples, step):
        block = counts[start : start + step]
        hits, alarms, _ = _cumulated(positive, scores, block if weights is None else block * weights)
        draws.append(statistic(hits, alarms).reshape(len(block), -1))
    return np.concatenate(draws)


def _operating_point(
    rule: str, choose: Callable[[np.ndarray, np.ndarray], np.ndarray], positive: np.ndarray, scores: np.ndarray, patients: Values,
    seed: int, threshold: float | None = None,
) -> OperatingPoint:
    """The point at the position (R,) among the thresholds of `_cumulated` that `choose` finds from the sums (R, T)."""

    def shares(hits: np.ndarray, alarms: np.ndarray) -> np.ndarray:
        place = choose(hits, alarms)[:, None]
        tp, fp = np.take_along_axis(hits, place, 1)[:, 0], np.take_along_axis(alarms, place, 1)[:, 0]
        ill, well = hits[:, -1], alarms[:, -1]
        with np.errstate(invalid="ignore"):
            found = np.stack([tp / ill, (well - fp) / well, tp / (tp + fp), (well - fp) / (well - fp + ill - tp)], axis=1)
        return np.where(((ill > 0) & (well > 0))[:, None], found, np.nan)  # no rule works on one class

    hits, alarms, thresholds = _cumulated(positive, scores, np.ones((1, scores.size)))
    place = int(choose(hits, alarms)[0])
    found = thresholds[place] if threshold is None else threshold
    tp, fp = int(hits[0, place]), int(alarms[0, place])
    draws = _resample(shares, positive, scores, patients, seed, 2000)
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


def _logit(share: Any) -> Any:
    return np.log(share / (1 - share))


def _logistic(odds: Any) -> Any:
    return 1 / (1 + np.exp(-odds))
