"""Outlines as points: near enough to their image to be its own, and as masks."""

from pathlib import Path

import numpy as np

from covidcxr.errors import InputError


def stated_size(content: dict, height: str, width: str, path: Path) -> tuple[int, int] | None:
    """Height and width of the image as a file of outlines has them under these names; None where it says neither.

    Raises:
        InputError: they are no numbers of pixels.
    """
    size = content.get(height), content.get(width)
    if size == (None, None):
        return None
    if not all(type(length) is int and length > 0 for length in size):
        raise InputError(f"{path}: {height} is {size[0]!r}, {width} {size[1]!r}; whole numbers of pixels are expected")
    return size  # type: ignore[return-value]


def check_reach(points: np.ndarray, size: tuple[int, int], where: str) -> None:
    """Raises InputError where a point lies further outside an image of `size` (H, W) than the image is large: it belongs to
    another image, or to none. NaN does too."""
    width_height = np.array(size[::-1])
    if not ((points >= -width_height) & (points <= 2 * width_height)).all():
        x, y = points[np.abs(points).max(axis=1).argmax()]  # NaN counts as the largest
        raise InputError(f"{where} reaches to ({x:.0f}, {y:.0f}), far outside an image of {size[1]} x {size[0]} pixels")


def rasterise(outlines: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Union of closed outlines, float (n, 2) of (x, y) each, as bool (H, W); COCO's rule of which pixels belong to a polygon."""
    from pycocotools import mask as coco

    if not outlines:
        return np.zeros(size, bool)
    codes = coco.frPyObjects([outline.ravel().tolist() for outline in outlines], *size)
    return coco.decode(coco.merge(codes)).astype(bool)
