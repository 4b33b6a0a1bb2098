"""Boxes: overlap, coding relative to a reference box, clipping.

A box is (x1, y1, x2, y2) in pixels, float32, x right and y down; pixel (row r, column c) covers the square from (c, r) to
(c + 1, r + 1). Functions take any leading dimensions unless they say otherwise.
"""

import math

from keras import ops

# A size may change by at most this factor in one step, so that `exp` stays finite: detectron2's and torchvision's clamp.
LARGEST_LOG_SCALE = math.log(1000 / 16)

# How strongly the deltas of regions count, everywhere: torchvision, detectron2, and as 1 / (0.1, 0.1, 0.2, 0.2) matterport.
REGION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def area(boxes):
    """Areas (...) of boxes (..., 4)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(boxes, others):
    """Intersection over union of each of `boxes` (..., M, 4) with each of `others` (..., K, 4): (..., M, K).

    Two boxes without area have overlap 0.
    """
    a, b = ops.expand_dims(boxes, -2), ops.expand_dims(others, -3)
    width = ops.minimum(a[..., 2], b[..., 2]) - ops.maximum(a[..., 0], b[..., 0])
    height = ops.minimum(a[..., 3], b[..., 3]) - ops.maximum(a[..., 1], b[..., 1])
    intersection = ops.maximum(width, 0.0) * ops.maximum(height, 0.0)
    union = area(a) + area(b) - intersection
    return intersection / ops.maximum(union, 1e-9)


def encode(boxes, reference, weights=(1.0, 1.0, 1.0, 1.0)):
    """Deltas (dx, dy, dw, dh) that lead from `reference` (..., 4) to `boxes` (..., 4), times `weights`.

    dx and dy are shifts of the centre in widths and heights of the reference, dw and dh logarithms of size ratios
    (Girshick et al., R-CNN, appendix C). Sizes must be positive: replace rows that do not count before coding them, since a
    logarithm of 0 spoils gradients even where it is masked afterwards.
    """
    width, height, centre_x, centre_y = _centre_and_size(reference)
    new_width, new_height, new_x, new_y = _centre_and_size(boxes)
    deltas = (new_x - centre_x) / width, (new_y - centre_y) / height, ops.log(new_width / width), ops.log(new_height / height)
    return ops.stack([weight * delta for weight, delta in zip(weights, deltas, strict=True)], axis=-1)


def decode(deltas, reference, weights=(1.0, 1.0, 1.0, 1.0)):
    """Boxes (..., 4) that `deltas` (..., 4) make of `reference` (..., 4): the inverse of `encode`.

    dw and dh are limited to log(1000 / 16).
    """
    width, height, centre_x, centre_y = _centre_and_size(reference)
    dx, dy, dw, dh = (deltas[..., i] / weight for i, weight in enumerate(weights))
    new_x, new_y = dx * width + centre_x, dy * height + centre_y
    half_width = 0.5 * ops.exp(ops.minimum(dw, LARGEST_LOG_SCALE)) * width
    half_height = 0.5 * ops.exp(ops.minimum(dh, LARGEST_LOG_SCALE)) * height
    return ops.stack([new_x - half_width, new_y - half_height, new_x + half_width, new_y + half_height], axis=-1)


def _centre_and_size(boxes):
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return width, height, boxes[..., 0] + 0.5 * width, boxes[..., 1] + 0.5 * height


def clip(boxes, sizes):
    """Boxes (N, M, 4) cut off at the borders of their image; `sizes` (N, 2) holds heights and widths."""
    height, width = sizes[:, 0:1], sizes[:, 1:2]
    limits = ops.stack([width, height, width, height], axis=-1)
    return ops.minimum(ops.maximum(boxes, 0.0), limits)


def larger_than(boxes, smallest):
    """Whether both width and height of boxes (..., 4) exceed `smallest` pixels: bool (...)."""
    return (boxes[..., 2] - boxes[..., 0] > smallest) & (boxes[..., 3] - boxes[..., 1] > smallest)


def take_rows(rows, indices):
    """Rows `indices` (N, K) of each image's `rows` (N, M, ...): (N, K, ...)."""
    count = rows.shape[1]
    first = ops.arange(ops.shape(rows)[0], dtype="int32") * count
    flat = ops.reshape(rows, (-1, *rows.shape[2:]))
    return ops.take(flat, ops.cast(indices, "int32") + first[:, None], axis=0)
