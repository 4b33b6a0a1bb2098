"""Proposals: the boxes that the region proposal network deems objects of any kind."""

import numpy as np
from keras import ops

from covidcxr.maskrcnn.boxes import clip, decode, larger_than, take_rows
from covidcxr.maskrcnn.nms import nms


def propose(anchors, logits, deltas, sizes, delta_weights, settings):
    """The best boxes of each level that do not overlap much, then the best of all levels.

    Args:
        anchors: per level (A, 4), numpy.
        logits: per level (N, A).
        deltas: per level (N, A, 4).
        sizes: (N, 2), heights and widths to which boxes are clipped.
        delta_weights: `Anchors.delta_weights`.
        settings: `settings.Proposals`.

    Returns:
        `boxes` (N, R, 4), `logits` (N, R), descending, `valid` bool (N, R). R is `settings.after_nms`, or less where there are
        fewer anchors. No gradient passes.
    """
    boxes, best, valid = best_of_levels(anchors, logits, deltas, sizes, delta_weights, settings)
    kept = nms(boxes, valid, settings.nms_threshold)

    rows_in_all = boxes.shape[1] * boxes.shape[2]
    boxes = ops.reshape(boxes, (-1, rows_in_all, 4))
    kept = ops.reshape(kept, (-1, rows_in_all))
    ranked = ops.where(kept, ops.reshape(best, (-1, rows_in_all)), -np.inf)
    best, rows = ops.top_k(ranked, min(settings.after_nms, rows_in_all))
    valid = ops.take_along_axis(kept, rows, axis=1)
    return {"boxes": ops.where(valid[..., None], take_rows(boxes, rows), 0.0), "logits": best, "valid": valid}


def best_of_levels(anchors, logits, deltas, sizes, delta_weights, settings):
    """The best `settings.before_nms` boxes (N, levels, K, 4) of each level, logits (N, levels, K), descending, and whether a row

    is a box that is large enough, bool (N, levels, K). K is that of the level with most anchors. Arguments as for `propose`.
    """
    longest = min(settings.before_nms, max(len(a) for a in anchors))
    levels = []
    for level_anchors, level_logits, level_deltas in zip(anchors, logits, deltas, strict=True):
        count = min(settings.before_nms, len(level_anchors))
        best, rows = ops.top_k(ops.stop_gradient(level_logits), count)
        chosen_anchors = ops.take(ops.convert_to_tensor(level_anchors), rows, axis=0)
        chosen_deltas = take_rows(ops.stop_gradient(level_deltas), rows)
        boxes = clip(decode(chosen_deltas, chosen_anchors, delta_weights), sizes)
        levels.append(_pad(boxes, best, larger_than(boxes, settings.smallest), longest - count))

    boxes, best, valid = (ops.stack(parts, axis=1) for parts in zip(*levels, strict=True))
    return boxes, best, valid


def _pad(boxes, best, valid, missing):
    """Brings a short level to the length of the others."""
    pad = [(0, 0), (0, missing)]
    return ops.pad(boxes, [*pad, (0, 0)]), ops.pad(best, pad), ops.pad(valid, pad)
