"""ROIAlign: features of regions of interest, bilinearly sampled from the levels of a pyramid.

Shapes: N images, R regions per image, P bins per side, C channels.
"""

import numpy as np
from keras import backend, ops

from covidcxr.maskrcnn.boxes import area

CANONICAL_SIZE = 224  # pixels; side of the regions that are pooled from the canonical level, that of ImageNet's pictures
CANONICAL_LEVEL = 2  # P4, of a pyramid that begins with P2: the one map that Faster R-CNN without a pyramid pools from


def pyramid_level(boxes, levels):
    """Index of the level that a region is taken from: int32 (..., ), 0 the finest.

    floor(k + log2(sqrt(area) / 224)), limited to the levels there are (Lin et al., Feature Pyramid Networks, equation 1).

    Args:
        boxes: (..., 4), pixels.
        levels: how many there are.
    """
    scale = ops.sqrt(ops.maximum(area(boxes), 1e-9)) / CANONICAL_SIZE
    # The small number keeps a region of exactly canonical size where it belongs, as torchvision does.
    level = ops.floor(CANONICAL_LEVEL + ops.log(scale) / np.log(2) + 1e-6)
    return ops.cast(ops.clip(level, 0, levels - 1), "int32")


def roi_align(maps, strides, boxes, size, samples=2, aligned=False):
    """Features of regions: (N, R, P, P, C).

    The cells of all levels of all images lie in one long table; one gather per corner of the bilinear interpolation reads every
    region from its own level, without a branch or a loop over levels.

    Args:
        maps: the levels, each (N, H, W, C); one map serves all regions, of several each takes its `pyramid_level`.
        strides: pixels per cell of each level.
        boxes: (N, R, 4), pixels.
        size: P, bins per side.
        samples: points per side of a bin, averaged. 2 is torchvision's, 1 is quicker ("nearly as effective", Mask R-CNN,
            section 3).
        aligned: whether half a cell is subtracted, so that the value of a cell lies in its middle (detectron2), or not
            (torchvision, where regions are also enlarged to one cell at least).

    Gradients pass to the maps; boxes count as constants, as proposals do in both peers.
    """
    channels = maps[0].shape[-1]
    cells = [level.shape[1] * level.shape[2] for level in maps]
    table = ops.concatenate([ops.reshape(m, (-1, n, channels)) for m, n in zip(maps, cells, strict=True)], axis=1)
    table = ops.reshape(table, (-1, channels))

    level = pyramid_level(boxes, len(maps))
    starts = np.cumsum([0, *cells[:-1]])
    image = ops.arange(ops.shape(boxes)[0], dtype="int32")[:, None] * sum(cells)
    first = image + _by_level(starts, level, "int32")
    height = _by_level([m.shape[1] for m in maps], level, "int32")
    width = _by_level([m.shape[2] for m in maps], level, "int32")
    scale = _by_level([1 / stride for stride in strides], level, "float32")
    return sample_regions(table, first, height, width, boxes * scale[..., None], size, samples, aligned)


def _by_level(values, level, dtype):
    return ops.take(ops.convert_to_tensor(np.array(values, dtype)), level, axis=0)


def sample_regions(table, first, height, width, boxes, size, samples, aligned):
    """Averages of bilinear samples in the bins of regions: (N, R, P, P, C).

    Args:
        table: (cells, C); maps, row by row, one after the other.
        first: int32 (N, R), row of the table with the first cell of the region's map.
        height, width: int32 (N, R), cells of that map.
        boxes: (N, R, 4), in cells of that map.
        size, samples, aligned: as for `roi_align`.

    Gradients pass to the table; boxes count as constants.
    """
    boxes = ops.stop_gradient(boxes)
    rows = _interpolate(boxes[..., 1], boxes[..., 3], height, size, samples, aligned)
    columns = _interpolate(boxes[..., 0], boxes[..., 2], width, size, samples, aligned)

    def corners(row):
        """Cells and weights (N, R, P, P) that a pair of `rows` makes with each pair of `columns`."""
        row, row_weight = row
        start = (first[..., None] + row * width[..., None])[..., :, None]
        return [(start + column[..., None, :], row_weight[..., :, None] * weight[..., None, :]) for column, weight in columns]

    # The gradient is written by hand for its memory: of one gather per corner, TensorFlow would keep the values that each sends
    # back, together 4 samples² times the result, and copy them once more to add them up.
    @ops.custom_gradient
    def average(table):
        values = 0.0
        # One term per sample and corner, each as large as the result: all samples at once, averaged afterwards, would take
        # samples² times the memory, and their mean most of the time.
        for row in rows:
            for cell, weight in corners(row):
                values = values + ops.cast(ops.take(table, cell, axis=0), "float32") * weight[..., None]

        def gradient(*arguments, upstream=None):
            # Keras hands the gradient of the values on by position on TensorFlow and JAX, by name on PyTorch.
            upstream = ops.cast(arguments[0] if upstream is None else upstream, "float32")
            channels, total = table.shape[-1], 0.0
            for row in rows:
                cells, weights = (ops.stack(parts) for parts in zip(*corners(row), strict=True))
                sent = ops.reshape(upstream * weights[..., None], (-1, channels))
                total = total + ops.segment_sum(sent, ops.reshape(cells, (-1,)), ops.shape(table)[0])
            return ops.cast(total, table.dtype)

        return ops.cast(values, table.dtype) if backend.is_float_dtype(table.dtype) else values, gradient

    return average(table)


def _interpolate(low, high, cells, bins, samples, aligned):
    """Cells along one axis and their shares in each bin: `2 * samples` pairs of (N, R, bins), two neighbours for each sample.

    Samples are evenly spread. Those more than a cell outside count as 0, those less take the border's value.
    """
    offset = 0.5 if aligned else 0.0
    length = high - low if aligned else ops.maximum(high - low, 1.0)
    last = ops.cast(cells, "float32")[..., None]
    pairs = []
    for sample in range(samples):
        middle = (ops.arange(bins, dtype="float32") + (sample + 0.5) / samples) / bins
        position = (low - offset)[..., None] + middle * length[..., None]
        share = ops.cast((position >= -1.0) & (position <= last), "float32") / samples
        position = ops.clip(position, 0.0, last - 1.0)
        before = ops.floor(position)
        beyond = (position - before) * share
        before = ops.cast(before, "int32")
        pairs += [(before, share - beyond), (ops.minimum(before + 1, cells[..., None] - 1), beyond)]
    return pairs
