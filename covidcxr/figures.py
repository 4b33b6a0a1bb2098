"""The house style of plots: Okabe–Ito colours, labelled axes, side markers on radiographs, outlines of masks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73",
    "yellow": "#F0E442", "blue": "#0072B2", "vermilion": "#D55E00", "purple": "#CC79A7",
}
"""Colour-blind-safe colours of Okabe and Ito (2008)."""

CYCLE = [COLOURS[name] for name in ("blue", "orange", "green", "vermilion", "sky", "purple", "yellow")]


def use_style() -> None:
    """Set matplotlib's defaults for the notebooks. Call once, after the imports."""
    import matplotlib.pyplot as plt

    plt.rcParams.update({
        "axes.prop_cycle": plt.cycler(color=CYCLE),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "axes.titlelocation": "left",
        "figure.constrained_layout.use": True,
        "figure.dpi": 96,
        "font.size": 10,
        "image.cmap": "gray",
        "legend.frameon": False,
        "lines.linewidth": 1.8,
    })


def encode(figure: Figure, suffix: Literal["svg", "png"], salt: str, **metadata: str) -> bytes:
    """A figure as the content of a file. The same figure gives the same bytes: without the date, and without random ids.

    Args:
        salt: what the ids of an SVG are derived from; those of two figures on one page differ where their salts do.
        metadata: what the file says about itself, such as `Title`.
    """
    import matplotlib

    content = io.BytesIO()
    about: dict[str, str | None] = {**metadata, "Date": None} if suffix == "svg" else {**metadata}
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        figure.savefig(content, format=suffix, metadata=about, dpi=130, bbox_inches="tight")
    return content.getvalue()


def show_grid(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    *,
    columns: int = 4,
    width: float = 11.0,
    sides: bool | Literal["bottom"] = True,
    vmin: float | None = 0.0,
    vmax: float | None = 1.0,
) -> tuple[Figure, list[Axes]]:
    """Grey images in a grid.

    Args:
        images: (H, W) each, of any sizes.
        sides: mark the patient's right and left, which a frontal radiograph has on the image's left and right; "bottom": in the
            lower corners, where the upper ones are what is to be seen.
        vmin, vmax: grey window; None takes each image's own range.

    Returns:
        The figure and its axes, one per image, in order.
    """
    import matplotlib.pyplot as plt

    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell = width / columns
    tallest = max(image.shape[0] / image.shape[1] for image in images)
    figure, axes = plt.subplots(rows, columns, figsize=(width, rows * (cell * min(tallest, 1.6) + 0.35)), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    used = list(axes.flat[: len(images)])
    for axis, image, title in zip(used, images, titles, strict=True):
        axis.imshow(image, cmap="gray", vmin=vmin, vmax=vmax)
        axis.set_title(title, fontsize="small")
        if sides:
            mark_sides(axis, bottom=sides == "bottom")
    return figure, used


def mark_sides(axis: Axes, names: tuple[str, str] = ("R", "L"), *, bottom: bool = False) -> None:
    """Write the patient's sides into two corners of an image.

    Args:
        names: left and right in the picture: R and L of a frontal or an axial one, A and P (front and back) of a lateral one.
        bottom: into the lower corners instead of the upper ones.
    """
    y, down = (0.02, "bottom") if bottom else (0.98, "top")
    for x, side, align in ((0.02, names[0], "left"), (0.98, names[1], "right")):
        axis.text(x, y, side, transform=axis.transAxes, ha=align, va=down, color="white", fontsize="small",
                  bbox={"facecolor": "black", "edgecolor": "none", "pad": 1.5})


def outline(axis: Axes, mask: np.ndarray, colour: str, *, label: str | None = None, style: str = "-") -> None:
    """Draw the outline of a mask (H, W) over an image; nothing for an empty mask, but its legend entry stays."""
    if mask.any():
        axis.contour(mask.astype(float), levels=[0.5], colors=[colour], linestyles=[style], linewidths=1.4)
    if label:
        axis.plot([], [], color=colour, linestyle=style, label=label)


def outline_boxes(axis: Axes, boxes: np.ndarray, colour: str) -> None:
    """Draw boxes (n, 4), xyxy in pixels, thinly over an image."""
    from matplotlib.patches import Rectangle

    for x1, y1, x2, y2 in boxes:
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=colour, linewidth=0.8))
