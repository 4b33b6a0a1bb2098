"""Non-maximum suppression, exact, batched and of static shape."""

from keras import ops

from covidcxr.maskrcnn.boxes import iou


def nms(boxes, valid, threshold, groups=None):
    """Which boxes greedy non-maximum suppression keeps: bool (..., K).

    The greedy rule is a recursion: a box is kept when no kept box before it overlaps it. Its only solution is found here as a
    fixpoint, for all boxes at once:

        keep = valid
        repeat until nothing changes:
            keep[j] = valid[j] and not any(keep[i] and i < j and iou(i, j) > threshold)

    After t rounds all boxes are right whose chain of suppressions is at most t long; chains are short, a few rounds do.

    Args:
        boxes: (..., K, 4), in descending order of score.
        valid: bool (..., K); other boxes are neither kept nor do they suppress.
        threshold: a box suppresses those with which its overlap is greater.
        groups: integers (..., K), such as classes; boxes of different groups leave each other alone. None: one group.
    """
    count = boxes.shape[-2]
    order = ops.arange(count, dtype="int32")
    suppresses = (iou(boxes, boxes) > threshold) & (order[:, None] < order)
    if groups is not None:
        suppresses = suppresses & (groups[..., :, None] == groups[..., None, :])

    def changed(keep, before):
        return ops.any(keep != before)

    def refine(keep, before):
        suppressed = ops.any(suppresses & keep[..., :, None], axis=-2)
        return valid & ~suppressed, keep

    keep, _ = ops.while_loop(changed, refine, (valid, ops.zeros_like(valid)), maximum_iterations=count + 1)
    return keep
