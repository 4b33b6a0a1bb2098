"""Anchors: the reference boxes of the region proposal network. Plain numpy: they depend on the image's shape alone."""

import numpy as np


def cell_anchors(sizes, ratios, rounded=False):
    """Anchors of one cell, centred on the origin: float32 (sizes · ratios, 4), ratio changing fastest.

    Args:
        sizes: square roots of the areas, in pixels.
        ratios: height / width.
        rounded: whether corners are rounded to integers, half to even (torchvision's way; detectron2 does not).
    """
    half = [[size / np.sqrt(ratio) / 2, size * np.sqrt(ratio) / 2] for size in sizes for ratio in ratios]
    corners = np.concatenate([-np.array(half), half], axis=1)
    return (np.round(corners) if rounded else corners).astype("float32")


def grid_anchors(cell, height, width, stride):
    """The anchors `cell` (A, 4) at every cell of a map: float32 (height · width · A, 4), row by row, anchor changing fastest.

    They are centred on the top left corner of a cell, as in torchvision and detectron2.

    Args:
        cell: anchors of one cell, centred on the origin.
        height, width: cells of the map.
        stride: pixels from one cell to the next.
    """
    x, y = np.meshgrid(np.arange(width) * stride, np.arange(height) * stride)
    shifts = np.stack([x, y, x, y], axis=-1)[:, :, None, :]
    return (shifts + cell).reshape(-1, 4).astype("float32")
