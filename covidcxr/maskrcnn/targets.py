"""Targets: which anchors and regions are trained, and what they should have said.

Shapes: N images, T rows of truth (some padding), A anchors, S samples.
"""

from keras import ops

from covidcxr.maskrcnn.boxes import REGION_WEIGHTS, encode, iou, take_rows
from covidcxr.maskrcnn.matcher import match
from covidcxr.maskrcnn.sampler import sample


def anchor_targets(anchors, truth, delta_weights, settings, seed):
    """Samples anchors: a dictionary of

    `rows` int32 (N, S), which anchors; `positive` and `chosen` bool (N, S), as of `sampler.sample`; `deltas` (N, S, 4), where
    positive, else 0.

    Args:
        anchors: (A, 4), all levels.
        truth: `boxes` (N, T, 4) and `valid` bool (N, T).
        delta_weights: `Anchors.delta_weights`.
        settings: `settings.ProposalTraining`.
    """
    overlap = iou(truth["boxes"], anchors)
    index, label = match(overlap, truth["valid"], settings.positive_iou, settings.negative_iou, force_best=True)
    number = min(settings.samples, len(anchors))
    rows, positive, chosen = sample(label, number, settings.positive_fraction, seed)
    reference = ops.take(ops.convert_to_tensor(anchors), rows, axis=0)
    goal = take_rows(truth["boxes"], ops.take_along_axis(index, rows, axis=1))
    goal = ops.where(positive[..., None], goal, reference)  # before coding: padding has no size
    return {"rows": rows, "positive": positive, "chosen": chosen, "deltas": encode(goal, reference, delta_weights)}


def region_targets(proposals, truth, settings, seed):
    """Samples regions: a dictionary of

    `boxes` (N, S, 4), positives first; `positive` and `chosen` bool (N, S); `labels` int32 (N, S), 0 for background; `index`
    int32 (N, S), the object matched; `deltas` (N, S, 4), where positive, else 0. No gradient passes.

    Args:
        proposals: of `proposals.propose`.
        truth: `boxes` (N, T, 4), `labels` (N, T), from 1, and `valid` bool (N, T).
        settings: `settings.RegionTraining`.
    """
    boxes, valid = proposals["boxes"], proposals["valid"]
    if settings.append_truth:
        boxes = ops.concatenate([boxes, truth["boxes"]], axis=1)
        valid = ops.concatenate([valid, truth["valid"]], axis=1)
    index, label = match(iou(truth["boxes"], boxes), truth["valid"], settings.positive_iou, settings.positive_iou)
    label = ops.where(valid, label, -1)
    rows, positive, chosen = sample(label, min(settings.samples, boxes.shape[1]), settings.positive_fraction, seed)

    index = ops.take_along_axis(index, rows, axis=1)
    unit = ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0])  # in empty slots, so that no size is 0
    boxes = ops.where(chosen[..., None], take_rows(boxes, rows), unit)
    goal = ops.where(positive[..., None], take_rows(truth["boxes"], index), boxes)
    labels = ops.take_along_axis(ops.cast(truth["labels"], "int32"), index, axis=1)
    targets = {
        "boxes": boxes,
        "positive": positive,
        "chosen": chosen,
        "labels": ops.where(positive, labels, 0),
        "index": index,
        "deltas": encode(goal, boxes, REGION_WEIGHTS),
    }
    return {key: ops.stop_gradient(value) for key, value in targets.items()}
