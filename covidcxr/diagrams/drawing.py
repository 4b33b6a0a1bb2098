"""The vocabulary of a diagram, in inches: blocks with a title and lines of text, arrows, groups, stacks of levels, nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from covidcxr.figures import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

Point = tuple[float, float]
WIDTH = 11.0  # of a notebook's column, inches
TITLE, TEXT = 10.0, 8.5  # points
MARGIN = 0.15  # left and right of a row of blocks, inches
_LINE = 1.3  # height of a line of text, in its font size
_PAD = 0.09  # between a block's edge and its text, inches


@dataclass(frozen=True)
class Block:
    """A rectangle of a diagram: its lower left corner and its size, in inches."""

    x: float
    y: float
    width: float
    height: float

    def left(self, share: float = 0.5) -> Point:
        """A point of the left edge; 0 is its lower end."""
        return self.x, self.y + share * self.height

    def right(self, share: float = 0.5) -> Point:
        """A point of the right edge; 0 is its lower end."""
        return self.x + self.width, self.y + share * self.height

    def top(self, share: float = 0.5) -> Point:
        """A point of the upper edge; 0 is its left end."""
        return self.x + share * self.width, self.y + self.height

    def bottom(self, share: float = 0.5) -> Point:
        """A point of the lower edge; 0 is its left end."""
        return self.x + share * self.width, self.y


class Diagram:
    """An empty drawing, `width` x `height` inches, x to the right and y up.

    Attributes:
        figure, axes: matplotlib's.
        blocks: what `block` has drawn.
        paths: the points of every arrow.
    """

    def __init__(self, height: float, width: float = WIDTH):
        import matplotlib.pyplot as plt
        from matplotlib.layout_engine import PlaceHolderLayoutEngine

        # Not layout="none": after the first saving matplotlib would take the layout of the house style instead, and warn.
        layout = PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=True)
        self.figure: Figure = plt.figure(figsize=(width, height), layout=layout)
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
        self.axes.set_axis_off()
        self.blocks: list[Block] = []
        self._texts: dict[Block, list[Text]] = {}
        self.paths: list[tuple[Point, ...]] = []

    def block(
        self, x: float, y: float, width: float, height: float, title: str, lines: Sequence[str] = (), colour: str = "black"
    ) -> Block:
        """A block with a bold title over lines of text; the text gets smaller where the block is too small for it.

        Args:
            x, y: lower left corner.
            colour: a name of `figures.COLOURS`, of the edge; the inside is a light tint of it.
        """
        block = Block(x, y, width, height)
        self._rectangle(block, edge=COLOURS[colour], face=_tint(COLOURS[colour]))
        self.blocks.append(block)
        tall = TITLE + len(lines) * TEXT
        top = y + height / 2 + inches(tall) / 2
        texts = [self.text((x + width / 2, top - inches(TITLE) / 2), title, size=TITLE, weight="bold")]
        for i, line in enumerate(lines):
            centre = top - inches(TITLE) - (i + 0.5) * inches(TEXT)
            texts.append(self.text((x + width / 2, centre), line, size=TEXT))
        self._texts[block] = texts
        self._fit(texts, width - 2 * _PAD)
        return block

    def match(self, blocks: Iterable[Block]) -> None:
        """Give blocks that belong together text of one size: that of the smallest."""
        texts = [self._texts[block] for block in blocks]
        for alike in ([t[0] for t in texts], [line for t in texts for line in t[1:]]):  # titles, lines
            smallest = min((text.get_fontsize() for text in alike), default=0.0)
            for text in alike:
                text.set_fontsize(smallest)

    def text(
        self, at: Point, words: str, *, size: float = TEXT, weight: str = "normal", align: str = "center",
        width: float | None = None,
    ) -> Text:
        """Words centred on a point, or from it to the right or left; smaller where they would be wider than `width`."""
        text = self.axes.text(*at, words, size=size, weight=weight, ha=align, va="center", color="black")
        if width is not None:
            self._fit([text], width)
        return text

    def arrow(self, *points: Point, label: str = "", head: bool = True) -> None:
        """An arrow through points, with words above its first stretch, or to the right of it where that is upright."""
        from matplotlib.patches import FancyArrowPatch
        from matplotlib.path import Path

        style = "-|>" if head else "-"
        self.axes.add_patch(FancyArrowPatch(
            path=Path(points), arrowstyle=style, mutation_scale=9, linewidth=1.1, color=COLOURS["black"], shrinkA=0, shrinkB=0,
            joinstyle="miter", capstyle="butt",
        ))
        self.paths.append(points)
        if label:
            (x0, y0), (x1, y1) = points[:2]
            middle = ((x0 + x1) / 2, (y0 + y1) / 2)
            if abs(x1 - x0) > abs(y1 - y0):
                self.text((middle[0], middle[1] + 0.6 * inches(TEXT)), label)
            else:
                self.text((middle[0] + 0.07, middle[1]), label, align="left")

    def node(self, at: Point, symbol: str = "+", radius: float = 0.13) -> Block:
        """A circle with a sign of what is done with all that meets there; without sign a dot."""
        from matplotlib.patches import Circle

        radius = radius if symbol else 0.04
        self.axes.add_patch(Circle(at, radius, edgecolor="black", facecolor="white" if symbol else "black", linewidth=1.1))
        if symbol:
            self.axes.plot(*at, marker=symbol, color="black", markersize=9, markeredgewidth=1.2)
        return Block(at[0] - radius, at[1] - radius, 2 * radius, 2 * radius)

    def stack(
        self, centre: float, y: float, widths: Sequence[float], height: float, gap: float,
        texts: Iterable[tuple[str, Sequence[str]]], colour: str,
    ) -> list[Block]:
        """Levels one above the other, from the bottom up, as wide as said; each has a title and lines."""
        levels = [
            self.block(centre - width / 2, y + i * (height + gap), width, height, title, lines, colour)
            for i, (width, (title, lines)) in enumerate(zip(widths, texts, strict=True))
        ]
        self.match(levels)
        return levels

    def group(
        self, blocks: Sequence[Block], title: str, colour: str = "black", *, pad: float = 0.1, align: str = "left"
    ) -> Block:
        """A dashed frame around blocks, with its title inside the upper edge, at its left or right end."""
        x, y = min(b.x for b in blocks) - pad, min(b.y for b in blocks) - pad
        right, top = max(b.x + b.width for b in blocks) + pad, max(b.y + b.height for b in blocks) + pad
        frame = Block(x, y, right - x, top + inches(TITLE) - y)
        self._rectangle(frame, edge=COLOURS[colour], face="none", linestyle=(0, (4, 2)))
        end = x + pad if align == "left" else right - pad
        height = top + inches(TITLE) / 2 - 0.02
        self.text((end, height), title, size=TITLE, weight="bold", align=align, width=frame.width - 2 * pad)
        return frame

    def _rectangle(self, block: Block, *, edge: str, face: str | tuple, linestyle: str | tuple = "-") -> None:
        from matplotlib.patches import FancyBboxPatch

        rounded = "round,pad=0,rounding_size=0.05"
        self.axes.add_patch(FancyBboxPatch(
            (block.x, block.y), block.width, block.height, rounded,
            edgecolor=edge, facecolor=face, linewidth=1.1, linestyle=linestyle,
        ))

    def _fit(self, texts: Sequence[Text], width: float) -> None:
        """Make texts smaller, all by the same factor, where one is wider than `width` inches."""
        widest = max(text.get_window_extent().width for text in texts) / self.figure.dpi
        if widest > width:
            for text in texts:
                text.set_fontsize(float(text.get_fontsize()) * width / widest)


def inches(points: float) -> float:
    """Height of a line of text of this size."""
    return points / 72 * _LINE


def _tint(colour: str) -> tuple[float, float, float]:
    """A light shade of a colour, on which black text is read well; white for black."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    share = 0.16 * max(red, green, blue)
    return 1 - share * (1 - red), 1 - share * (1 - green), 1 - share * (1 - blue)
