"""Masks: targets for the mask head, and its output laid back into the picture."""

import numpy as np
from keras import ops

from covidcxr.maskrcnn.roi_align import sample_regions


def mask_targets(masks, index, boxes, size, samples=2, aligned=False):
    """The part of an object's mask that lies in a region, as the mask head sees it: float32 (N, R, size, size) in [0, 1].

    A cell is the average of bilinear samples of the mask, as in ROIAlign.

    Args:
        masks: (N, T, H, W), bool or 0 and 1.
        index: int32 (N, R), the object of each region.
        boxes: (N, R, 4), the regions, pixels.
        size: cells per side.
        samples, aligned: as for `roi_align`.
    """
    objects, height, width = masks.shape[1:]
    table = ops.reshape(ops.cast(masks, "uint8"), (-1, 1))
    image = ops.arange(ops.shape(masks)[0], dtype="int32")[:, None]
    first = (image * objects + ops.cast(index, "int32")) * (height * width)
    heights, widths = ops.full_like(first, height), ops.full_like(first, width)
    return sample_regions(table, first, heights, widths, boxes, size, samples, aligned)[..., 0]


def paste_masks(masks, boxes, height, width):
    """Masks of detections laid into the picture: float32 (D, height, width), 0 outside their boxes.

    A pixel takes the bilinear interpolation at its centre, in continuous coordinates (detectron2's `paste_masks_in_image`);
    the mask falls to 0 over a cell around its border, so that at the threshold of 0.5 it never leaves the box, and at a lower
    one by less than half a cell. For many or large pictures paste and threshold one by one: this is D · height · width numbers.

    Args:
        masks: (D, m, m), probabilities (numpy).
        boxes: (D, 4), pixels.
    """
    masks, boxes = np.asarray(masks, "float32"), np.asarray(boxes, "float32")
    pasted = np.zeros((len(masks), height, width), "float32")
    for canvas, mask, (x1, y1, x2, y2) in zip(pasted, masks, boxes, strict=True):
        if x2 <= x1 or y2 <= y1:
            continue
        rows, row_weights = _weights(y1, y2, height, mask.shape[0])
        columns, column_weights = _weights(x1, x2, width, mask.shape[1])
        canvas[rows, columns] = row_weights @ mask @ column_weights.T
    return pasted


def _weights(low, high, pixels, cells):
    """The pixels that a mask of `cells` cells from `low` to `high` reaches, and the share of each cell in each pixel."""
    reach = 0.5 * (high - low) / cells
    start, stop = max(0, int(np.floor(low - reach))), min(pixels, int(np.ceil(high + reach)))
    position = (np.arange(start, max(start, stop), dtype="float32") + 0.5 - low) / (high - low) * cells - 0.5
    return slice(start, max(start, stop)), np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(cells, dtype="float32")))
