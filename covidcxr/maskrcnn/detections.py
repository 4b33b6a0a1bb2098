"""Detections: from what the box head says of the proposals to a few boxes with a class and a score."""

from keras import ops

from covidcxr.maskrcnn.boxes import REGION_WEIGHTS, clip, decode, larger_than, take_rows
from covidcxr.maskrcnn.nms import nms


def detect(proposals, class_logits, deltas, sizes, settings):
    """The best boxes of each class that do not overlap much: a dictionary of

    `boxes` (N, D, 4), `scores` (N, D), descending, `labels` int32 (N, D), from 1, and `valid` bool (N, D). Rows that are not
    valid are 0. D is `settings.most`, or less where there are fewer proposals.

    Args:
        proposals: of `proposals.propose`, R per image.
        class_logits: (N, R, 1 + F), background first.
        deltas: (N, R, F, 4).
        sizes: (N, 2), heights and widths of the images.
        settings: `settings.Detections`.
    """
    regions, foreground = deltas.shape[1:3]
    rows_in_all = regions * foreground
    probability = ops.softmax(class_logits, axis=-1)
    scores = probability[..., 1:]
    valid = proposals["valid"][..., None] & (scores > settings.score_threshold)
    if settings.best_class_only:
        valid = valid & (scores >= ops.max(probability, axis=-1, keepdims=True))

    boxes = decode(deltas, proposals["boxes"][:, :, None], REGION_WEIGHTS)
    boxes = clip(ops.reshape(boxes, (-1, rows_in_all, 4)), sizes)
    valid = ops.reshape(valid, (-1, rows_in_all)) & larger_than(boxes, settings.smallest)
    scores = ops.where(valid, ops.reshape(scores, (-1, rows_in_all)), 0.0)

    scores, rows = ops.top_k(scores, min(settings.candidates, rows_in_all))
    boxes, classes = take_rows(boxes, rows), ops.cast(rows, "int32") % foreground
    kept = nms(boxes, ops.take_along_axis(valid, rows, axis=1), settings.nms_threshold, groups=classes)

    scores, rows = ops.top_k(ops.where(kept, scores, -1.0), min(settings.most, kept.shape[1]))
    valid = ops.take_along_axis(kept, rows, axis=1)
    return {
        "boxes": ops.where(valid[..., None], take_rows(boxes, rows), 0.0),
        "scores": ops.where(valid, scores, 0.0),
        "labels": ops.where(valid, ops.take_along_axis(classes, rows, axis=1) + 1, 0),
        "valid": valid,
    }
