"""The pieces of the five losses. Each is float32 and a sum or mean over the rows that count, never over padding."""

from keras import ops

from covidcxr.maskrcnn.boxes import take_rows


def mean_over(values, chosen):
    """Mean of `values` where `chosen` (bool, same shape); 0 where nothing is chosen."""
    chosen = ops.cast(chosen, values.dtype)
    return ops.sum(values * chosen) / ops.maximum(ops.sum(chosen), 1.0)


def binary_crossentropy(logits, target):
    """Cross entropy of a yes-or-no question, elementwise; `target` in [0, 1]."""
    return ops.maximum(logits, 0.0) - logits * target + ops.log1p(ops.exp(-ops.abs(logits)))


def crossentropy(logits, label):
    """Cross entropy (...) of class logits (..., C) with labels (...) of integers."""
    return -ops.take_along_axis(ops.log_softmax(logits, axis=-1), label[..., None], axis=-1)[..., 0]


def smooth_l1(difference, beta):
    """Absolute value, made quadratic below `beta` and lowered by beta / 2 above; beta 0 is the absolute value."""
    size = ops.abs(difference)
    if beta == 0:
        return size
    return ops.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta)


def rpn_losses(logits, deltas, targets, settings):
    """Whether an anchor holds an object, and where it is: two numbers.

    Args:
        logits: (N, A) and `deltas` (N, A, 4), of the region proposal network.
        targets: of `targets.anchor_targets`.
        settings: `settings.ProposalTraining`.
    """
    positive, chosen = targets["positive"], targets["chosen"]
    logits = ops.take_along_axis(logits, targets["rows"], axis=1)
    class_loss = mean_over(binary_crossentropy(logits, ops.cast(positive, "float32")), chosen)
    difference = take_rows(deltas, targets["rows"]) - targets["deltas"]
    return class_loss, _box_loss(difference, positive, chosen, settings)


def region_losses(class_logits, deltas, targets, settings):
    """What a region holds, and where exactly: two numbers.

    Args:
        class_logits: (N, S, 1 + F), background first, and `deltas` (N, S, F, 4), of the box head.
        targets: of `targets.region_targets`.
        settings: `settings.RegionTraining`.
    """
    positive, chosen, labels = targets["positive"], targets["chosen"], targets["labels"]
    class_loss = mean_over(crossentropy(class_logits, labels), chosen)
    difference = of_class(deltas, labels, axis=2) - targets["deltas"]
    return class_loss, _box_loss(difference, positive, chosen, settings)


def mask_loss(mask_logits, labels, positive, targets):
    """Which cells of a region belong to the object, a mean over positive regions and cells.

    Args:
        mask_logits: (N, S, m, m, F), of which that of the region's class counts.
        labels: int32 (N, S).
        positive: bool (N, S).
        targets: (N, S, m, m) in [0, 1].
    """
    loss = binary_crossentropy(of_class(mask_logits, labels, axis=4), targets)
    return mean_over(ops.mean(loss, axis=(2, 3)), positive)


def of_class(values, labels, axis):
    """The slice of `values` (N, S, ..., F, ...) that belongs to `labels` (N, S); `axis` is that of F. Zero for background, 0."""
    foreground = values.shape[axis]
    chosen = ops.one_hot(labels - 1, foreground, dtype=values.dtype)
    shape = [1] * len(values.shape)
    shape[0], shape[1], shape[axis] = -1, values.shape[1], foreground
    return ops.sum(values * ops.reshape(chosen, shape), axis=axis)


def _box_loss(difference, positive, chosen, settings):
    loss = ops.sum(smooth_l1(difference, settings.smooth_l1_beta), axis=-1)
    if settings.box_mean_over == "positives":
        return mean_over(loss, positive) / 4
    positive, chosen = ops.cast(positive, "float32"), ops.cast(chosen, "float32")
    return ops.sum(loss * positive) / ops.maximum(ops.sum(chosen), 1.0)
