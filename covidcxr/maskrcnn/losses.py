"""The pieces of the five losses. Each is float32 and a sum or mean over the rows that count, never over padding."""

from keras import ops


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
