"""What zhang2020's diagnosis network sees: squares without the edges where letters are.

    pictures = squares.read(v7, split.case, 256, kind=None)
    images = diagnosis.cropped(pictures.images)              # N of (246, 236)
    masks = np.stack(lungs.masks(pictures.images))           # or pictures.masks, of kind "lung"
    only_lungs = diagnosis.cropped(Greys(np.where(masks, pictures.images.bytes, 0)))

An image of which nothing is left is refused when it is fed: leave it whole, or out.

Section 5.2 of the paper: "all of the images are cropped so that the topmost 10 pixels, the leftmost 10 pixels, and the rightmost
10 pixels are removed", of 256 x 256. Section 5.4: in an earlier session "the leftmost and topmost 20 pixels were removed".
"""

from __future__ import annotations

from typing import Literal, get_args

from covidcxr.errors import InputError, ParameterError
from covidcxr.squares import Greys

Crop = Literal["printed", "left_top_20", "none"]
"""What is cut off: "printed": 10 pixels at the top, left and right; "left_top_20": 20 at the left and top; "none": nothing."""

PAPER_SIZE = 256
"""Side of the squares whose edges are counted in `CUT`."""

CUT: dict[str, tuple[int, int, int, int]] = {"printed": (10, 10, 0, 10), "left_top_20": (20, 20, 0, 0), "none": (0, 0, 0, 0)}
"""Pixels removed at the top, left, bottom and right of a square of `PAPER_SIZE`."""


def edges(size: int, crop: Crop) -> tuple[int, int, int, int]:
    """Pixels that a crop removes at top, left, bottom and right of a square of `size` pixels, in proportion to the paper's."""
    if crop not in get_args(Crop):
        raise ParameterError(f"crop is one of {', '.join(get_args(Crop))}; found {crop!r}.")
    top, left, bottom, right = (round(pixels * size / PAPER_SIZE) for pixels in CUT[crop])
    return top, left, bottom, right


def cropped(images: Greys, crop: Crop = "printed") -> Greys:
    """Squares without the edges that the paper removes; 256 x 256 becomes 246 x 236. They share the squares' memory.

    Args:
        images: N squares, of `squares.read`.
    """
    _, height, width = images.bytes.shape
    if height != width:
        raise InputError(f"The edges that are removed are those of squares; these images are {height} x {width}.")
    top, left, bottom, right = edges(height, crop)
    return Greys(images.bytes[:, top : height - bottom, left : width - right])
