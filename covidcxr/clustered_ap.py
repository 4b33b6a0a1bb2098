"""COCO's average precision with an interval: what it would be with other patients.

COCO's evaluation gives a number and no interval, and slices of a volume, or images of a patient, are not independent: here whole
clusters are drawn again. A result is matched within its image and class alone, so matching is done once, and a draw only counts
some images twice and others not at all.

    known, found = coco.truth(pictures, names), coco.results(finds)
    table = clustered_ap.intervals(known, found, "segm", [picture.patient for picture in pictures], seed=0)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from covidcxr.errors import InputError
from covidcxr.metrics import cluster_counts, percentile_interval

if TYPE_CHECKING:
    from pandas import DataFrame

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the overlap, COCO's
_RECALLS = np.linspace(0, 1, 101)  # COCO's
_MOST = 100  # results per image and class that count, COCO's
MEASURES = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}


@dataclass(frozen=True, eq=False)
class Matches:
    """The results of one class, best first, and which of them hit an object.

    Attributes:
        image: int (n,), position of the image in the truth's list.
        hit: bool (10, n), at each of `THRESHOLDS`.
        objects: int (images,), how many each image has.
    """

    image: np.ndarray
    hit: np.ndarray
    objects: np.ndarray

    def precision(self, times: np.ndarray | None = None) -> np.ndarray:
        """Average precision at each threshold, float (10,); NaN without an object.

        Args:
            times: int (images,), how often each image counts; None: once.
        """
        times = np.ones(len(self.objects), int) if times is None else times
        objects = int(times @ self.objects)
        if not objects:
            return np.full(len(THRESHOLDS), np.nan)
        counted = times[self.image]
        hits = np.cumsum(self.hit * counted, axis=1)
        all_results = np.cumsum(counted)
        precision = hits / np.maximum(all_results, 1)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # the best at this recall or a higher one
        found = np.zeros(len(THRESHOLDS))
        for t, (recall, best) in enumerate(zip(hits / objects, precision, strict=True)):
            at = np.searchsorted(recall, _RECALLS, side="left")
            found[t] = best[at[at < len(best)]].sum() / len(_RECALLS)
        return found


def matches(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: Literal["segm", "bbox"]) -> dict[str, Matches]:
    """The results of each class, by its name, matched as COCO does: the best result first takes the object that it overlaps most.

    Args:
        truth, results, kind: as for `coco.average_precision`; none of the truth is a crowd.

    Raises:
        InputError: as there, or an annotation is a crowd.
    """
    from faster_coco_eval import mask as masks

    from covidcxr.maskrcnn.coco import check

    check(truth, results, kind)
    if any(annotation.get("iscrowd") for annotation in truth["annotations"]):
        raise InputError("An annotation of the truth is a crowd; here every object is one by itself.")
    place = {image["id"]: i for i, image in enumerate(truth["images"])}
    shape = "segmentation" if kind == "segm" else "bbox"
    objects, found = (defaultdict(list) for _ in range(2))
    for annotation in truth["annotations"]:
        objects[annotation["category_id"], annotation["image_id"]].append(annotation[shape])
    for result in results:
        found[result["category_id"], result["image_id"]].append((result["score"], result[shape]))
    made = {}
    for category in truth["categories"]:
        number = category["id"]
        scores, images, hits = [], [], []
        for image_id, position in place.items():
            listed = found[number, image_id]
            if not listed:
                continue
            order = np.argsort([-score for score, _ in listed], kind="stable")[:_MOST]
            known = objects[number, image_id]
            outlines = [listed[i][1] for i in order]
            overlap = masks.iou(outlines, known, [0] * len(known)) if known else np.zeros((len(order), 0))
            scores += [listed[i][0] for i in order]
            images += [position] * len(order)
            hits.append(_matched(np.asarray(overlap)))
        order = np.argsort(-np.array(scores, float), kind="stable")
        hit = np.concatenate(hits, axis=1) if hits else np.zeros((len(THRESHOLDS), 0), bool)
        counts = np.array([len(objects[number, image_id]) for image_id in place], int)
        made[category["name"]] = Matches(np.array(images, int)[order], hit[:, order], counts)
    return made


def _matched(overlap: np.ndarray) -> np.ndarray:
    """Which results, best first, take an object at each threshold: bool (10, n) from overlaps (n, objects)."""
    hit = np.zeros((len(THRESHOLDS), len(overlap)), bool)
    for t, threshold in enumerate(THRESHOLDS):
        free = np.ones(overlap.shape[1], bool)
        for i, row in enumerate(overlap):
            left = np.where(free, row, -1.0)
            # Of objects that overlap alike COCO takes the last.
            best = len(left) - 1 - int(left[::-1].argmax()) if len(left) else -1
            if best >= 0 and left[best] >= min(threshold, 1 - 1e-10):
                free[best], hit[t, i] = False, True
    return hit


def intervals(
    truth: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    kind: Literal["segm", "bbox"],
    clusters: Sequence[object],
    *,
    seed: int,
    more: Sequence[Sequence[Mapping[str, Any]]] = (),
    resamples: int = 1000,
) -> DataFrame:
    """AP, AP50 and AP75 of each class and of all, with 95 % percentile intervals over clusters.

    Args:
        truth, results, kind: as for `coco.average_precision`.
        clusters: of each image of the truth its volume or patient.
        seed: of the draws.
        more: results of further trainings for the same images. Values are then means over all trainings, and so is each draw.
        resamples: draws.

    Returns:
        pandas.DataFrame, a row per class and "all" (their mean) and measure: class, measure, value, low, high, objects, clusters
        (with an object of the class). Low and high are NaN with fewer than two clusters. Draws without any object of a class do
        not count for it.
    """
    import pandas as pd

    trainings = [matches(truth, one, kind) for one in (results, *more)]
    made = trainings[0]
    cluster_of = np.asarray(clusters)
    if len(cluster_of) != len(truth["images"]):
        raise InputError(f"Each image has one cluster; there are {len(truth['images'])} images and {len(cluster_of)} clusters.")
    values = _over_trainings(trainings)  # classes, thresholds
    several = len(np.unique(cluster_of)) > 1
    times = cluster_counts(cluster_of, seed=seed, resamples=resamples) if several else np.zeros((0, len(cluster_of)), int)
    draws = np.array([_over_trainings(trainings, row) for row in times])  # resamples, classes, thresholds
    rows = []
    for k, name in enumerate([*made, "all"]):
        mine = slice(k, k + 1) if name != "all" else slice(None)
        objects = sum(one.objects for one in list(made.values())[mine])
        for measure, thresholds in MEASURES.items():
            low, high = np.nan, np.nan
            if several:
                drawn = _mean(draws[:, mine, thresholds])
                if np.isfinite(drawn).any():
                    low, high = percentile_interval(drawn[np.isfinite(drawn)])
            rows.append({
                "class": name, "measure": measure, "value": float(_mean(values[None, mine, thresholds])[0]),
                "low": low, "high": high, "objects": int(np.sum(objects)),
                "clusters": len(np.unique(cluster_of[np.asarray(objects) > 0])),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _over_trainings(trainings: Sequence[Mapping[str, Matches]], times: np.ndarray | None = None) -> np.ndarray:
    """Mean precision of each class at each threshold; NaN, in all trainings alike, where there is no object."""
    return np.mean([[one.precision(times) for one in made.values()] for made in trainings], axis=0)


def _mean(parts: np.ndarray) -> np.ndarray:
    """Mean over thresholds and over the classes that have objects, of each draw: (R, classes, thresholds) to (R,)."""
    known = np.isfinite(parts)
    count = known.sum(axis=(1, 2))
    total = np.where(known, parts, 0).sum(axis=(1, 2))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
