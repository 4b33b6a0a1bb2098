"""Matcher: which object, if any, an anchor or a region belongs to."""

from keras import ops


def match(iou, valid, high, low, force_best=False):
    """Matches boxes with objects by overlap.

    Args:
        iou: (N, T, M), overlap of objects with boxes.
        valid: bool (N, T); objects that are not valid match nothing.
        high: from this overlap on a box is positive.
        low: below it a box is negative; between the two it is neither.
        force_best: whether the best boxes of every object, all that tie, are positive too, however little they overlap
            (Faster R-CNN, section 3.1.2). A box that does not overlap at all is never forced, unlike in torchvision and
            detectron2.

    Returns:
        `index`, int32 (N, M): the object that overlaps most; of no meaning where the image has none.
        `label`, int32 (N, M): 1 positive, 0 negative, -1 neither.
    """
    iou = ops.where(valid[..., None], iou, -1.0)
    index = ops.cast(ops.argmax(iou, axis=1), "int32")
    most = ops.max(iou, axis=1)
    positive = most >= high
    if force_best:
        best = ops.max(iou, axis=2, keepdims=True)
        # Equal within rounding: a compiler may compute the same overlap twice, with different rounding.
        positive = positive | ops.any((iou >= best * (1 - 1e-6)) & (best > 0.0), axis=1)
    label = ops.where(positive, 1, ops.where(most < low, 0, -1))
    return index, ops.cast(label, "int32")
