"""What an annotator would draw on a radiograph: smooth regions from the projected truth.

Follows the General Blockchain masks: a lung reaches from the apex to the visible dome of the diaphragm and, behind the heart,
to the spine; the cardiomediastinum overlaps it; opacities are outlined where they are dense enough along the ray to be seen.
"""

import numpy as np

from covidcxr.phantom.anatomy import AIRWAYS, vessel_paths
from covidcxr.phantom.beam import Technique, ray_sum, to_detector
from covidcxr.phantom.grid import Grid
from covidcxr.phantom.scan import Scan
from covidcxr.phantom.shapes import tube_level

GREAT = ("aorta", "superior vena cava", "pulmonary trunk", "left pulmonary artery", "right pulmonary artery")


def drawn(image: np.ndarray, threshold: float, technique: Technique, smooth_mm: float, least_mm2: float) -> np.ndarray:
    """Outline at `threshold` of a smoothed image: bool (rows, columns) without parts smaller than `least_mm2`."""
    from scipy import ndimage

    mask = ndimage.gaussian_filter(image, smooth_mm / technique.pixel_mm, mode="nearest") > threshold
    mask = ndimage.binary_fill_holes(mask)
    parts, count = ndimage.label(mask)
    if not count:
        return mask
    area = np.bincount(parts.ravel())
    keep = area * technique.pixel_mm**2 >= least_mm2
    keep[0] = False
    return keep[parts]


def regions(scan: Scan, technique: Technique) -> dict[str, np.ndarray]:
    """Masks by template name ("Left Lung", "Right Lung", "Cardiomediastinum", "Airways", "Ground Glass Opacities",
    "Consolidation"); bool (rows, columns); a region nobody would draw is absent."""
    from scipy import ndimage

    masks: dict[str, np.ndarray] = {}
    above = np.zeros(scan.lung.shape, bool)
    own_z = scan.grid.z / scan.person.scale[2]
    for row, (label, name) in enumerate(((2, "Right Lung"), (1, "Left Lung"))):
        top = np.interp(scan.grid.x / scan.person.scale[0], scan.thorax.grid.x, scan.thorax.dome_top[row])
        part = (scan.lung == label) & (own_z[None, None, :] > top[:, None, None] - 3)
        above |= part
        thickness = _thickness(part, scan.grid, technique)
        mask = drawn(np.minimum(thickness, 30.0), 9.0, technique, 2.5, 2000)
        if mask.any():
            masks[name] = mask
    coarse = scan.thorax.grid
    patient = Grid(*(axis * factor for axis, factor in zip(coarse.axes, scan.person.scale, strict=True)))
    paths = vessel_paths(scan.person)
    z = coarse.z[None, None, :]
    great = np.minimum.reduce([tube_level(coarse, *paths[name]) for name in paths if name in GREAT])
    chest = np.minimum(scan.thorax.heart, np.where((z < 70) & (z > -100), great, 99)) < 0
    masks["Cardiomediastinum"] = drawn(
        np.minimum(_thickness(chest, patient, technique), 25.0), 9.0, technique, 6.0, 2000)
    tubes = np.minimum.reduce([tube_level(coarse, *paths[name]) for name in AIRWAYS])
    masks["Airways"] = drawn(np.minimum(_thickness(tubes < 1, patient, technique), 20.0), 6.0, technique, 1.5, 200)
    field = masks.get("Left Lung", False) | masks.get("Right Lung", np.zeros(technique.size, bool))
    # What lies behind the heart shadow is not seen; near its border it still is.
    hidden = ndimage.gaussian_filter(masks["Cardiomediastinum"].astype(np.float64), 8.0 / technique.pixel_mm) > 0.8
    glass = _thickness(scan.lesion & above, scan.grid, technique)
    dense = _thickness(scan.consolidation & above, scan.grid, technique)
    for name, image, least in (("Ground Glass Opacities", glass, 14.0), ("Consolidation", dense, 16.0)):
        mask = drawn(np.minimum(image, 4 * least), least, technique, 5.0, 250) & field & ~hidden
        if np.count_nonzero(mask) * technique.pixel_mm**2 >= 150:
            masks[name] = mask
    return {name: mask for name, mask in masks.items() if mask.any()}


def _thickness(mask: np.ndarray, grid: Grid, technique: Technique) -> np.ndarray:
    """Length of each ray inside `mask`, mm, on the detector."""
    return to_detector(ray_sum(mask.astype(np.float32), grid, technique), grid, technique)
