"""How well heat maps say where lesions are: pixel by pixel, at every threshold, and what they say of slices without any.

    scored = localisation.count(maps, truth.lesions)                    # a histogram per slice; maps are not needed any more
    print(scored.average_precision(patients, seed=0))                   # area under the precision-recall curve, with interval
    curve = scored.curve()                                              # its prevalence is the level of chance
    localisation.dice_over_thresholds(localisation.mapped(maps, "clip_pos"), truth.lesions, patients, thresholds, seed=0)

Maps are float (N, H, W), higher where a lesion is likelier; lesions are bool (N, H, W). Pixels of a patient are not independent:
intervals draw whole patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from covidcxr import metrics, roc
from covidcxr.errors import InputError, ParameterError

if TYPE_CHECKING:
    import pandas as pd

HeatmapMap = Literal["clip_pos", "minmax", "affine"]
"""How values become heat between 0 and 1.

affine: (map + 1) / 2, as yang2021 prints it ("normalized from [-1, 1] to [0, 1]"): no lesion, 0, becomes 0.5, so that every
threshold up to 0.5 marks everything. clip_pos: what is negative becomes 0, no lesion stays 0. minmax: the least value of all maps
together becomes 0, the largest 1; for maps of methods that have no scale of their own."""
MAPS: tuple[HeatmapMap, ...] = ("clip_pos", "minmax", "affine")
_BINS = 2048
_SAMPLED = 200_000  # values of either kind from which the bins are laid


def mapped(maps: np.ndarray, how: HeatmapMap) -> np.ndarray:
    """Heat between 0 and 1, of the maps' shape. None of these changes the order of pixels, but `clip_pos` those below 0.

    Raises:
        ParameterError: there is no such way.
        InputError: `affine` is asked for of maps that leave [-1, 1], or `minmax` of maps that are one value everywhere.
    """
    if how not in MAPS:
        raise ParameterError(f"A heat map is mapped by one of {', '.join(MAPS)}; not by {how!r}.")
    low, high = float(maps.min()), float(maps.max())
    if how == "clip_pos":
        return maps.clip(0, 1)
    if how == "affine":
        if low < -1 or high > 1:
            raise InputError(f"The printed mapping is of values in [-1, 1]; these go from {low:g} to {high:g}. Take minmax.")
        return (maps + 1) / 2
    if low == high:
        raise InputError(f"All values of the maps are {low:g}: there is nothing to be stretched.")
    return (maps - low) / (high - low)


@dataclass(frozen=True, eq=False)
class PixelScores:
    """Histograms of a heat map's values, slice by slice.

    Attributes:
        edges: float (B - 1,), between the bins, rising.
        lesion, other: int64 (N, B), pixels with and without lesion in each bin.
    """

    edges: np.ndarray
    lesion: np.ndarray
    other: np.ndarray

    @property
    def prevalence(self) -> float:
        """Share of pixels with a lesion: the average precision of a map that knows nothing."""
        return float(self.lesion.sum() / (self.lesion.sum() + self.other.sum()))

    def curve(self) -> roc.PrecisionRecall:
        """The precision-recall curve of all pixels together."""
        rows = self._rows(np.zeros(len(self.lesion), int))
        return roc.precision_recall(rows["truth"], rows["score"], rows["weight"])

    def average_precision(self, patients: Sequence[Any], *, seed: int, resamples: int = 1000) -> roc.Estimate:
        """Area under the curve (no interpolation) with its interval over patients; without one for a single patient.

        Args:
            patients: of each slice.
        """
        if len(patients) != len(self.lesion):
            raise InputError(f"Each slice has one patient; there are {len(self.lesion)} slices and {len(patients)} patients.")
        names, number = np.unique(np.asarray(patients, str), return_inverse=True)
        rows = self._rows(number)
        if len(names) < 2:
            area = roc.precision_recall(rows["truth"], rows["score"], rows["weight"]).average_precision
            lesion = int(self.lesion.sum())
            return roc.Estimate("average precision", area, np.nan, np.nan, "one patient: no interval",
                                lesion + int(self.other.sum()), lesion)
        return roc.bootstrap_average_precision(
            rows["truth"], rows["score"], rows["patient"], seed=seed, weights=rows["weight"], resamples=resamples
        )

    def _rows(self, group: np.ndarray) -> dict[str, np.ndarray]:
        """One row per group, truth and bin that holds pixels."""
        parts = []
        for is_lesion, counts in ((True, self.lesion), (False, self.other)):
            sums = np.zeros((group.max() + 1, counts.shape[1]), np.int64)
            np.add.at(sums, group, counts)
            patient, bin_number = np.nonzero(sums)
            parts.append((patient, bin_number, np.full(len(patient), is_lesion), sums[patient, bin_number]))
        patient, bin_number, truth, weight = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return {"patient": patient, "score": bin_number, "truth": truth, "weight": weight}


def count(maps: np.ndarray, lesions: np.ndarray, within: np.ndarray | None = None) -> PixelScores:
    """Histograms of the maps' values, from which curve and area follow.

    Values are sorted into bins that hold about equally many pixels of either kind, with one of its own for a value that many
    pixels share, such as 0. So the area differs from that of all single pixels by less than a thousandth.

    Args:
        within: bool (N, H, W), pixels that count, such as the lungs; None: all.

    Raises:
        InputError: shapes or types do not fit, a value is not finite, or there is no pixel of one kind.
    """
    _check(maps, lesions)
    inside = np.ones(lesions.shape, bool) if within is None else within
    if inside.shape != lesions.shape or inside.dtype != bool:
        raise InputError(f"`within` must be bool {lesions.shape}; it is {inside.dtype} {inside.shape}.")
    kinds = (maps[inside & lesions], maps[inside & ~lesions])
    if not len(kinds[0]) or not len(kinds[1]):
        rest = "with" if len(kinds[0]) else "without"
        raise InputError(f"A precision-recall curve needs pixels with and without lesion; all are {rest}.")
    shares = np.linspace(0, 1, _BINS // 2 + 1)[1:-1]
    sampled = (values[:: max(1, len(values) // _SAMPLED)].astype(np.float64) for values in kinds)
    edges = np.unique(np.concatenate([np.quantile(values, shares) for values in sampled]))
    # Also just above each edge: a value that many pixels share then has a bin of its own.
    edges = np.unique(np.concatenate([edges, np.nextafter(edges, np.inf)])).astype(np.float64)
    counts = np.zeros((2, len(maps), len(edges) + 1), np.int64)
    for number, (one, truth, here) in enumerate(zip(maps, lesions, inside, strict=True)):
        bins = np.searchsorted(edges, one[here].astype(np.float64), side="right")
        for kind, chosen in enumerate((truth[here], ~truth[here])):
            counts[kind, number] = np.bincount(bins[chosen], minlength=len(edges) + 1)
    return PixelScores(edges, counts[0], counts[1])


def compare(
    first: PixelScores, second: PixelScores, patients: Sequence[Any], *, seed: int, resamples: int = 1000
) -> roc.Estimate:
    """Average precision of one method minus another's on the same slices, with its interval over the same resamples of patients.

    Args:
        patients: of each slice; of one patient there is no interval.

    Raises:
        InputError: the two were not counted on the same slices.
    """
    totals = [scored.lesion.sum(axis=1) for scored in (first, second)]
    if totals[0].shape != totals[1].shape or (totals[0] != totals[1]).any():
        raise InputError("Two methods are compared on the same slices; these have other numbers of pixels with lesion.")
    areas = [scored.curve().average_precision for scored in (first, second)]
    names, number = np.unique(np.asarray(patients, str), return_inverse=True)
    low = high = np.nan
    if len(names) > 1:
        draws = []
        for scored in (first, second):
            rows = scored._rows(number)
            draws.append(roc.average_precision_draws(
                rows["truth"], rows["score"], rows["patient"], seed=seed, weights=rows["weight"], resamples=resamples
            ))
        low, high = metrics.percentile_interval(draws[0] - draws[1])
    method = f"paired bootstrap over {len(names)} patients" if len(names) > 1 else "one patient: no interval"
    lesion = int(totals[0].sum())
    return roc.Estimate("difference in average precision", areas[0] - areas[1], low, high, method,
                        lesion + int(first.other.sum()), lesion)


def dice_over_thresholds(
    heat: np.ndarray, lesions: np.ndarray, patients: Sequence[Any], thresholds: Sequence[float], *, seed: int,
    resamples: int = 2000,
) -> pd.DataFrame:
    """Dice of what lies at or above each threshold, over slices with a lesion (Figure 3 of yang2021).

    Args:
        heat: float (N, H, W) in [0, 1], of `mapped`.
        patients: of each slice.

    Returns:
        One row per threshold: `threshold`, `dice` (mean over slices with a lesion; a slice on which nothing is marked has 0),
        `low`, `high` (over patients; NaN for one), `pooled` (all pixels of these slices together), `marked` (share of their
        pixels), `slices`.

    Raises:
        InputError: shapes or types do not fit, or no slice has a lesion.
    """
    import pandas as pd

    _check(heat, lesions)
    levels = np.asarray(thresholds, float)
    ill = np.flatnonzero(lesions.any(axis=(1, 2)))
    if not len(ill):
        raise InputError("The Dice score needs slices with a lesion; there is none.")
    hits, marked = (np.zeros((len(ill), len(levels)), np.int64) for _ in range(2))
    order = np.argsort(levels)
    for row, number in enumerate(ill):
        bins = np.searchsorted(levels[order], heat[number].reshape(-1), side="right")
        truth = lesions[number].reshape(-1)
        for target, chosen in ((hits, bins[truth]), (marked, bins)):
            at_or_above = np.bincount(chosen, minlength=len(levels) + 1)[::-1].cumsum()[::-1][1:]
            target[row, order] = at_or_above
    size = lesions[ill].sum(axis=(1, 2))[:, None]
    dice = 2 * hits / (marked + size)
    names = np.asarray(patients, str)[ill]
    low = high = np.full(len(levels), np.nan)
    if len(np.unique(names)) > 1:
        times = metrics.cluster_counts(names, seed=seed, resamples=resamples).astype(float)
        draws = times @ dice / times.sum(axis=1, keepdims=True)
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return pd.DataFrame({
        "threshold": levels, "dice": dice.mean(axis=0), "low": low, "high": high,
        "pooled": 2 * hits.sum(axis=0) / (marked.sum(axis=0) + size.sum()),
        "marked": marked.sum(axis=0) / lesions[ill].size, "slices": len(ill),
    })


def false_alarms(
    heat: np.ndarray, lesions: np.ndarray, lungs: np.ndarray, patients: Sequence[Any], threshold: float, *, seed: int,
    smallest: float = 0.01,
) -> dict[str, float]:
    """What is marked on slices without lesion, which the paper's test sets do not have.

    Args:
        heat: float (N, H, W). lesions, lungs: bool (N, H, W). patients: of each slice.
        threshold: from which a pixel is marked.
        smallest: share of the lungs from which a slice counts as alarmed.

    Returns:
        `slices` without lesion; `share` of their lungs that is marked, mean, with `share_low`, `share_high`; `alarmed`, share of
        the slices, with `alarmed_low`, `alarmed_high`; intervals over patients.

    Raises:
        InputError: shapes do not fit, every slice has a lesion, or one shows no lung.
    """
    _check(heat, lesions)
    well = ~lesions.any(axis=(1, 2))
    size = lungs[well].sum(axis=(1, 2))
    if not well.any() or not size.all():
        what = f"{np.count_nonzero(size == 0)} of them show no lung" if well.any() else "there is none"
        raise InputError(f"False alarms are counted on slices without lesion, in their lungs; {what}.")
    shares = ((heat[well] >= threshold) & lungs[well]).sum(axis=(1, 2)) / size
    names = np.asarray(patients, str)[well]
    share, low, high = metrics.bootstrap_mean(shares, names, seed=seed)
    alarmed, alarmed_low, alarmed_high = metrics.bootstrap_share(shares >= smallest, names, seed=seed)
    return {"slices": int(well.sum()), "share": share, "share_low": low, "share_high": high, "alarmed": alarmed,
            "alarmed_low": alarmed_low, "alarmed_high": alarmed_high}


def _check(maps: np.ndarray, lesions: np.ndarray) -> None:
    if maps.shape != lesions.shape or lesions.dtype != bool or lesions.ndim != 3:
        found = f"{maps.shape} and {lesions.dtype} {lesions.shape}"
        raise InputError(f"Each map needs one mask, bool, of its size; these are {found}.")
    if not np.isfinite(maps).all():
        raise InputError(f"{np.count_nonzero(~np.isfinite(maps))} values of the maps are not finite.")
