"""Overlap, agreement and intervals. Every empty case is explicit.

Masks are bool arrays of one shape; scores are floats in [0, 1] or NaN where the rule for empty masks says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from covidcxr.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

EmptyRule = Literal["skip", "one", "zero"]
"""Score of a pair in which both masks are empty: `skip` gives NaN (leave the image out), `one` counts it as right, `zero` as
wrong. A pair in which one of the two is empty scores 0 under every rule."""


def iou(predicted: np.ndarray, truth: np.ndarray, *, empty: EmptyRule) -> float:
    """Intersection over union of two masks (Jaccard index)."""
    _check_pair(predicted, truth)
    union = np.count_nonzero(predicted | truth)
    return np.count_nonzero(predicted & truth) / union if union else _empty_score(empty)


def dice(predicted: np.ndarray, truth: np.ndarray, *, empty: EmptyRule) -> float:
    """Dice coefficient of two masks, 2 |A ∩ B| / (|A| + |B|)."""
    _check_pair(predicted, truth)
    total = np.count_nonzero(predicted) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(predicted & truth) / total if total else _empty_score(empty)


def pixel_agreement(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The score that ramesh2021's released code reports as "IoU": pixels on which both masks say the same, background included.

    With n agreeing pixels of u it is n / (2u − n): the Jaccard index of the two images taken as sets of (pixel, value) pairs. It
    is high wherever lesions are small, also for a predictor that finds nothing.
    """
    _check_pair(predicted, truth)
    agreeing = np.count_nonzero(predicted == truth)
    return agreeing / (2 * predicted.size - agreeing)


def score_masks(
    predicted: Sequence[np.ndarray], truth: Sequence[np.ndarray], cases: Sequence[str], patients: Sequence[str], by: str
) -> pd.DataFrame:
    """Both readings of a paper's "IoU", image by image, for one predictor.

    Args:
        predicted, truth: bool (H, W), one per image.
        cases, patients: names.
        by: the predictor's name.

    Returns:
        Columns `by`, `case`, `patient`, `lesion` (whether the truth holds one), `iou` (overlap of lesions; NaN where the truth is
        empty: such an image has no overlap to find, whatever is predicted), `agreement` (see `pixel_agreement`), `share` (of
        the image that is predicted) and `false_alarm` (something is predicted where nothing is; NaN where there is a lesion).
    """
    import pandas as pd

    rows = []
    for mask, true, case, patient in zip(predicted, truth, cases, patients, strict=True):
        lesion = bool(true.any())
        rows.append({
            "by": by, "case": case, "patient": patient, "lesion": lesion,
            "iou": iou(mask, true, empty="skip") if lesion else np.nan,
            "agreement": pixel_agreement(mask, true), "share": float(mask.mean()),
            "false_alarm": np.nan if lesion else float(mask.any()),
        })
    return pd.DataFrame(rows)


def overlap_summary(scores: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Means of `score_masks`, one row per predictor in `by`.

    Args:
        scores: of one or several predictors; rows of the same predictor and case, such as repeats with other seeds, are averaged
            first, so that images are counted once.
        seed: of the bootstrap.

    Returns:
        Index `by`; columns `images`, and of `iou` and `agreement` the mean, `_low` and `_high` (bootstrap over patients),
        `_margin` (half of the Student t interval over images) and `_n`; `false_alarms` and `without_lesion`, images.
    """
    import pandas as pd

    images = scores.groupby(["by", "case", "patient"], sort=False, as_index=False).mean()
    rows = []
    for by, group in images.groupby("by", sort=False):
        row: dict[str, object] = {"by": by, "images": len(group)}
        for score in ("iou", "agreement"):
            values = group[score].dropna()
            clusters = group.patient[values.index]
            mean, low, high = bootstrap_mean(values, clusters, seed=seed) if len(values) else (np.nan,) * 3
            margin = mean - t_interval(values)[1] if len(values) > 1 else np.nan
            row |= {score: mean, f"{score}_low": low, f"{score}_high": high, f"{score}_margin": margin, f"{score}_n": len(values)}
        alarms = group.false_alarm.dropna()
        rows.append({**row, "false_alarms": alarms.sum(), "without_lesion": len(alarms)})
    return pd.DataFrame(rows).set_index("by")


def paired_difference(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, clusters: Sequence[object] | np.ndarray,
    *, seed: int,
) -> tuple[float, float, float, float]:
    """Mean of first - second over the same images, its cluster bootstrap interval, and p of the paired t test over images.

    Pairs in which one value is NaN are left out. Returns (mean, low, high, p); p is NaN where all differences are equal.
    """
    from scipy import stats

    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.shape != second.shape or first.ndim != 1 or len(first) != len(clusters):
        raise InputError(f"Pairs need as many values as clusters; here {first.shape}, {second.shape} and {len(clusters)}.")
    difference = first - second
    mean, low, high = bootstrap_mean(difference, clusters, seed=seed)
    finite = difference[np.isfinite(difference)]
    p = float(stats.ttest_1samp(finite, 0.0).pvalue) if np.ptp(finite) > 0 else np.nan
    return mean, low, high, p


SMOOTH = 1e-5
"""What segmentation_models adds above and below a fraction."""

READINGS = {
    "soft": "probabilities, summed over each batch, mean over batches (segmentation_models)",
    "both empty = 1": "masks, mean over images; both empty counts as right",
    "skip empty": "masks, mean over images; both empty is left out",
    "pooled": "masks, pixels of all images together",
}


def overlap_sums(probability: np.ndarray, truth: np.ndarray, *, threshold: float = 0.5) -> dict[str, float]:
    """The sums over an image's pixels from which every reading of IoU and F1 follows (`overlap_readings`).

    Args:
        probability: (H, W) in [0, 1].
        truth: bool (H, W).
        threshold: probability from which a pixel is predicted.

    Returns:
        `true` and, of the probabilities, `soft_predicted` and `soft_both` (their sum over the truth); of the mask, `predicted`
        and `both`.
    """
    mask = probability >= threshold
    _check_pair(mask, truth)
    return {
        "true": float(np.count_nonzero(truth)),
        "soft_predicted": float(probability.sum(dtype=np.float64)),
        "soft_both": float(probability[truth].sum(dtype=np.float64)),
        "predicted": float(np.count_nonzero(mask)),
        "both": float(np.count_nonzero(mask & truth)),
    }


def overlap_readings(sums: pd.DataFrame, *, batch_size: int, seed: int) -> pd.DataFrame:
    """Four readings of the IoU and the F1 score (Dice) of the same predictions.

    Args:
        sums: one row per image: `patient` and the columns of `overlap_sums`. Batches are `batch_size` rows after one another, the
            last of them perhaps smaller, as `Model.evaluate` makes them.
        batch_size: images.
        seed: of the bootstrap over patients.

    Returns:
        One row per score ("IoU", "F1") and reading (`READINGS`): `score`, `reading`, `value`, `low`, `high`, `n`, `unit` of n.
        The soft reading is `segmentation_models.metrics` with its defaults (threshold None, per_image False, smooth 1e-5); it
        hangs on which images share a batch, and its interval is Student's over the batches, as if these were independent; those
        of the others come from a bootstrap over patients. A reading without any image is NaN.
    """
    import pandas as pd

    rows = []
    for score, weight in (("IoU", 1.0), ("F1", 2.0)):
        soft = _by_batch(sums, batch_size, weight)
        _, low, high = np.clip(t_interval(soft), 0.0, 1.0) if len(soft) > 1 else (np.nan,) * 3
        rows.append({"score": score, "reading": "soft", "value": soft.mean(), "low": low, "high": high, "n": len(soft),
                     "unit": "batches"})
        for reading, rule in (("both empty = 1", "one"), ("skip empty", "skip")):
            values = _fraction(sums.both, sums.predicted, sums.true, weight).fillna(_empty_score(rule)).to_numpy()  # type: ignore[arg-type]
            kept = np.isfinite(values)
            mean, low, high = bootstrap_mean(values, sums.patient, seed=seed) if kept.any() else (np.nan,) * 3
            rows.append({"score": score, "reading": reading, "value": mean, "low": low, "high": high, "n": int(kept.sum()),
                         "unit": "images"})
        rows.append({"score": score, "reading": "pooled", **_pooled(sums, weight, seed), "n": len(sums), "unit": "images"})
    return pd.DataFrame(rows, columns=["score", "reading", "value", "low", "high", "n", "unit"])


def _fraction(both, predicted, true, weight: float, smooth: float = 0.0):
    """weight · |A ∩ B| over |A ∪ B| for weight 1, over |A| + |B| for weight 2; NaN for nothing over nothing."""
    return (weight * both + smooth) / (predicted + true - (2 - weight) * both + smooth)


def _by_batch(sums: pd.DataFrame, batch_size: int, weight: float) -> pd.Series:
    batches = sums[["soft_both", "soft_predicted", "true"]].groupby(np.arange(len(sums)) // batch_size).sum()
    return _fraction(batches.soft_both, batches.soft_predicted, batches.true, weight, SMOOTH)


def _pooled(sums: pd.DataFrame, weight: float, seed: int) -> dict[str, float]:
    counts = sums[["both", "predicted", "true"]].to_numpy()

    def of(rows: np.ndarray) -> float:
        both, predicted, true = counts[rows].sum(axis=0)
        return _fraction(both, predicted, true, weight) if predicted + true else np.nan

    value = of(np.arange(len(counts)))
    if sums.patient.nunique() < 2 or not np.isfinite(value):
        return {"value": value, "low": np.nan, "high": np.nan}
    low, high = cluster_bootstrap(of, sums.patient, seed=seed)
    return {"value": value, "low": low, "high": high}


def t_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean and Student-t interval (mean, low, high) of independent values: the method that ramesh2021 names for its margins."""
    from scipy import stats

    values = _finite(values)
    if values.size < 2:
        raise InputError(f"A t interval needs at least two values, got {values.size}.")
    mean = float(values.mean())
    margin = float(stats.t.ppf((1 + level) / 2, values.size - 1) * values.std(ddof=1) / np.sqrt(values.size))
    return mean, mean - margin, mean + margin


def wilson_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927), sound also for 0 of n and n of n."""
    from scipy import stats

    if n < 1 or not 0 <= successes <= n:
        raise InputError(f"A proportion needs 0 <= successes <= n and n >= 1, got {successes} of {n}.")
    z = stats.norm.ppf((1 + level) / 2)
    centre = (successes + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * np.sqrt(successes * (n - successes) / n + z**2 / 4)
    # At the ends the bound is 0 or 1 by algebra; rounding must not put it beyond.
    return (0.0 if successes == 0 else float(centre - half), 1.0 if successes == n else float(centre + half))


def cluster_bootstrap(
    statistic: Callable[[np.ndarray], float],
    clusters: Sequence[object] | np.ndarray,
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Percentile bootstrap interval that resamples whole clusters, since images of one patient are not independent.

    Args:
        statistic: takes an int array of row numbers (with repeats) and returns the number; NaN where it has none.
        clusters: (N,) cluster (patient, volume) of each row.

    Returns:
        (low, high). Resamples without a statistic are left out.

    Raises:
        InputError: fewer than two clusters, or no resample had a statistic.
    """
    cluster_of_row, drawn = _draw_clusters(clusters, seed, resamples)
    order = np.argsort(cluster_of_row, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(cluster_of_row))[:-1])
    draws = [statistic(np.concatenate([rows[cluster] for cluster in chosen])) for chosen in drawn]
    return percentile_interval(np.array(draws, dtype=float), level)


def cluster_counts(clusters: Sequence[object] | np.ndarray, *, seed: int, resamples: int = 2000) -> np.ndarray:
    """How often each resample of `cluster_bootstrap` holds each row: for a statistic that takes weights, all resamples at once.

    Args:
        clusters: (N,) cluster of each row.

    Returns:
        (resamples, N) int16; with the same seed the very resamples of `cluster_bootstrap`.
    """
    cluster_of_row, drawn = _draw_clusters(clusters, seed, resamples)
    size = drawn.shape[1]
    places = (drawn + size * np.arange(resamples)[:, None]).ravel()
    counts = np.bincount(places, minlength=resamples * size).reshape(resamples, size).astype(np.int16)
    return counts[:, cluster_of_row]


def percentile_interval(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the draws of a bootstrap, (low, high). Draws that are NaN are left out.

    Raises:
        InputError: no draw is finite.
    """
    draws = draws[np.isfinite(draws)]
    if draws.size == 0:
        raise InputError("No bootstrap resample had a statistic: every draw was NaN.")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _draw_clusters(clusters: Sequence[object] | np.ndarray, seed: int, resamples: int) -> tuple[np.ndarray, np.ndarray]:
    """Number of each row's cluster (N,), and the clusters that each resample draws (resamples, number of clusters)."""
    labels, cluster_of_row = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    if labels.size < 2:
        raise InputError(f"A bootstrap over clusters needs at least two of them, got {labels.size}.")
    return cluster_of_row, np.random.default_rng(seed).integers(0, labels.size, (resamples, labels.size))


def bootstrap_mean(
    values: Sequence[float] | np.ndarray, clusters: Sequence[object] | np.ndarray, *, seed: int
) -> tuple[float, float, float]:
    """Mean of the finite values and its cluster bootstrap interval: (mean, low, high). NaN values are left out.

    With values of one cluster only there is no interval: its ends are NaN.
    """
    every = np.asarray(values, dtype=float)
    kept = np.isfinite(every)
    finite, labels = every[kept], np.asarray(clusters, dtype=str)[kept]
    if finite.size == 0:
        raise InputError("No finite value to take the mean of.")
    if np.unique(labels).size < 2:
        return float(finite.mean()), np.nan, np.nan
    low, high = cluster_bootstrap(lambda rows: float(finite[rows].mean()), labels, seed=seed)
    return float(finite.mean()), low, high


def group_difference(
    values: Sequence[float] | np.ndarray, group: Sequence[bool] | np.ndarray, clusters: Sequence[object] | np.ndarray,
    *, seed: int,
) -> tuple[float, float, float]:
    """Mean of the values in the group minus the mean of the others, and its cluster bootstrap interval: (difference, low, high).

    NaN values are left out, and so are resamples that hold none of the group, or none of the others. With values of one cluster
    only there is no interval: its ends are NaN.
    """
    every = np.asarray(values, dtype=float)
    kept = np.isfinite(every)
    finite, inside, labels = every[kept], np.asarray(group, dtype=bool)[kept], np.asarray(clusters, dtype=str)[kept]
    if inside.all() or not inside.any():
        raise InputError(f"{inside.sum()} of {inside.size} finite values are in the group: there are no two means to compare.")

    def difference(rows: np.ndarray) -> float:
        first, second = finite[rows][inside[rows]], finite[rows][~inside[rows]]
        return float(first.mean() - second.mean()) if first.size and second.size else np.nan

    low, high = cluster_bootstrap(difference, labels, seed=seed) if np.unique(labels).size > 1 else (np.nan, np.nan)
    return difference(np.arange(finite.size)), low, high


def bootstrap_share(
    right: Sequence[bool] | np.ndarray, clusters: Sequence[object] | np.ndarray, *, seed: int
) -> tuple[float, float, float]:
    """Share of the cases that are true, such as an accuracy, and its cluster bootstrap interval: (share, low, high).

    Where all resamples agree, since all cases or none are true, the interval is Wilson's over clusters, each counted once.
    """
    share, low, high = bootstrap_mean(np.asarray(right, bool), clusters, seed=seed)
    if low == high:
        number = np.unique(np.asarray(clusters, dtype=str)).size
        low, high = wilson_interval(round(share * number), number)
    return share, low, high


def _finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if not np.isfinite(values).all():
        bad = np.count_nonzero(~np.isfinite(values))
        raise InputError(f"{bad} of {values.size} values are not finite; leave them out first.")
    return values


def _check_pair(predicted: np.ndarray, truth: np.ndarray) -> None:
    if predicted.dtype != bool or truth.dtype != bool:
        raise InputError(f"Masks must be bool, got {predicted.dtype} and {truth.dtype}.")
    if predicted.shape != truth.shape:
        raise InputError(f"Masks must have one shape, got {predicted.shape} and {truth.shape}.")


def _empty_score(rule: EmptyRule) -> float:
    return {"skip": float("nan"), "one": 1.0, "zero": 0.0}[rule]
