"""Diagrams of networks, drawn from the networks themselves: every number in them is read from the model.

    figure = diagrams.mask_rcnn(MaskRCNN(ramesh2021()), 1024)
    figure = diagrams.unet(lung_unet(), 256)

`Diagram` is the vocabulary, in inches: blocks with a title and lines of text, arrows, groups, stacks of levels, nodes. Shapes are
height × width × channels, as the model gives them for an image of the size asked for.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from covidcxr.errors import InputError, ParameterError
from covidcxr.figures import COLOURS

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from covidcxr.maskrcnn.model import MaskRCNN

Point = tuple[float, float]
WIDTH = 11.0  # of a notebook's column, inches
_TITLE, _TEXT = 10.0, 8.5  # points
_LINE = 1.3  # height of a line of text, in its font size
_PAD = 0.09  # between a block's edge and its text, inches
_MARGIN = 0.15  # left and right of a row of blocks, inches


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
        return self.x + self.width, self.y + share * self.height

    def top(self, share: float = 0.5) -> Point:
        """A point of the upper edge; 0 is its left end."""
        return self.x + share * self.width, self.y + self.height

    def bottom(self, share: float = 0.5) -> Point:
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
        tall = _TITLE + len(lines) * _TEXT
        top = y + height / 2 + _inches(tall) / 2
        texts = [self.text((x + width / 2, top - _inches(_TITLE) / 2), title, size=_TITLE, weight="bold")]
        for i, line in enumerate(lines):
            centre = top - _inches(_TITLE) - (i + 0.5) * _inches(_TEXT)
            texts.append(self.text((x + width / 2, centre), line, size=_TEXT))
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
        self, at: Point, words: str, *, size: float = _TEXT, weight: str = "normal", align: str = "center",
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
                self.text((middle[0], middle[1] + 0.6 * _inches(_TEXT)), label)
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
        frame = Block(x, y, right - x, top + _inches(_TITLE) - y)
        self._rectangle(frame, edge=COLOURS[colour], face="none", linestyle=(0, (4, 2)))
        end = x + pad if align == "left" else right - pad
        height = top + _inches(_TITLE) / 2 - 0.02
        self.text((end, height), title, size=_TITLE, weight="bold", align=align, width=frame.width - 2 * pad)
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


# ---- Mask R-CNN ------------------------------------------------------------------------------------------------------


def backbone_and_pyramid(model: MaskRCNN, image_size: int | tuple[int, int]) -> Figure:
    """The residual network and the feature pyramid of a Mask R-CNN (figure 2 of ramesh2021).

    Args:
        model: with the neck "fpn".
        image_size: side, or height and width, of the images it is drawn for: multiples of 32.
    """
    if model.neck is None:
        raise ParameterError(
            f'The neck of this Mask R-CNN is {model.settings.neck!r}, and only "fpn" is a pyramid. Draw it with mask_rcnn.'
        )
    height, width = _size(image_size)
    backbone = model.backbone
    stages = range(2, 2 + len(backbone.outputs))
    shapes = backbone.compute_output_shape((1, height, width, backbone.input_shape[-1]))

    row, gap, bottom, left, right = 0.7, 0.25, 0.15, 2.1, 9.2
    draw = Diagram(bottom + 7 * (row + gap) + 0.15)
    names = [("Image", [_times(height, width, backbone.input_shape[-1])]), ("Stem", _stem(backbone, height, width))]
    for stage, shape in zip(stages, shapes, strict=True):
        about = [_blocks(backbone, stage), f"{_shape(shape)}, {_stage_size(backbone, stage)}"]
        names.append((f"res{stage}, stride {height // shape[1]}", about))
    path_up = draw.stack(left, bottom, [3.9 - 0.14 * i for i in range(len(names))], row, gap, names, "blue")
    for below, above in itertools.pairwise(path_up):
        draw.arrow(below.top(), above.bottom())

    levels = _level_texts(model, model.neck.compute_output_shape(shapes))
    maps = draw.stack(right, path_up[2].y, [2.6 - 0.2 * i for i in range(len(levels))], row, gap, levels, "green")
    _draw_sums(draw, model.neck, dict(zip(stages, path_up[2:], strict=True)), maps)
    heading = path_up[-1].top()[1] + 0.2
    draw.text((left, heading), f"Bottom-up: {_name(model)}, {_millions(backbone)}", size=_TITLE, weight="bold", width=3.9)
    draw.text((_SUMS, heading), "Lateral and top-down", size=_TITLE, weight="bold")
    draw.text((right, maps[-1].top()[1] + 0.2), f"Feature pyramid, {_millions(model.neck)}", size=_TITLE, weight="bold")
    for i, (sign, words) in enumerate(reversed(_KEY)):
        y = bottom + (i + 0.5) * 1.2 * _inches(_TEXT)
        draw.text((5.6, y), sign, align="left")
        draw.text((6.5, y), words, align="left")
    return draw.figure


_SUMS = 6.0  # column of the sums, inches
_KEY = [
    ("a × b × c", "map: height × width × channels"),
    ("k×k, c", "convolution: kernel, channels"),
    ("n × [ … ]", "residual blocks, with the convolutions of each"),
    ("stride", "pixels of the image from one cell to the next"),
]


def _draw_sums(draw: Diagram, neck: keras.Model, stages: dict[int, Block], maps: list[Block]) -> None:
    """What lies between the stages of the backbone and the maps of the pyramid."""
    nodes = {}
    for (stage, source), target in zip(stages.items(), maps[:-1], strict=True):
        nodes[stage] = draw.node((_SUMS, source.right()[1]), "+" if _layers(neck, f"fpn_sum{stage}") else "")
        draw.arrow(source.right(), nodes[stage].left(), label=_kernel(neck.get_layer(f"fpn_lateral{stage}")))
        draw.arrow(nodes[stage].right(), target.left(), label=_kernel(neck.get_layer(f"fpn_output{stage}")))
    for coarse, fine in itertools.pairwise(reversed(stages)):
        times = neck.get_layer(f"fpn_enlarged{coarse}").size[0]
        draw.arrow(nodes[coarse].bottom(), nodes[fine].top(), label=f"enlarged × {times}")
    draw.arrow(maps[-2].top(), maps[-1].bottom(), label=f"every {_ordinal(neck.get_layer('fpn_p6').strides[0])} cell")


def mask_rcnn(model: MaskRCNN, image_size: int | tuple[int, int]) -> Figure:
    """Mask R-CNN as a whole, from the image to the masks (figure 3 of ramesh2021).

    Args:
        model: with any neck.
        image_size: side, or height and width, of the images it is drawn for: multiples of 32.
    """
    height, width = _size(image_size)
    shapes = _shapes(model, height, width)
    draw = Diagram(5.95)
    maps = _draw_features(draw, model, shapes, (height, width))
    proposals = _draw_proposals(draw, model, shapes, maps)
    _draw_regions(draw, model, shapes, maps, proposals)
    return draw.figure


_LEFT, _MIDDLE, _RIGHT, _BUS = 0.2, 4.35, 10.35, 10.75  # columns of `mask_rcnn`, inches


def _draw_features(draw: Diagram, model: MaskRCNN, shapes: dict, size: tuple[int, int]) -> Block:
    """Image, backbone and maps; returns the frame of the maps."""
    neck = {"fpn": "FPN", "c4": "C4", "dc5": "DC5"}[model.settings.neck]
    title = f"Mask R-CNN, {_name(model)} {neck}: {_millions(model)}"
    draw.text((_LEFT, 5.75), title, size=_TITLE + 1, weight="bold", align="left")
    image = draw.block(_LEFT, 4.5, 1.3, 0.75, "Image", [_times(*size, model.backbone.input_shape[-1])])
    convolutions = _layers(model.backbone, r"res\d_\d+_conv\d")
    dilated = " (dilated)" if any(max(layer.dilation_rate) > 1 for layer in convolutions) else ""
    about = [f"stem, res2 – res{len(model.backbone.outputs) + 1}{dilated}", _millions(model.backbone)]
    backbone = draw.block(1.8, 4.5, 2.1, 0.75, _name(model), about, "blue")
    draw.arrow(image.right(), backbone.left())
    plates = _row(draw, 4.5, 0.75, "green", _level_texts(model, shapes["maps"]))
    title = f"Feature pyramid, {_millions(model.neck)}" if model.neck else "Feature map"
    frame = draw.group(plates, title, "green")
    draw.arrow(backbone.right(), (frame.x, backbone.right()[1]))
    return frame


def _draw_proposals(draw: Diagram, model: MaskRCNN, shapes: dict, maps: Block) -> Block:
    """Proposal head, anchors and proposals; returns the block of the proposals."""
    s = model.settings
    counts = [level[0] for level in shapes["anchors"]]
    anchors = _row(draw, 2.55, 0.5, "orange", [
        (f"{count:,}", [f"anchors of {', '.join(f'{size:g}' for size in sizes)} px"])
        for count, sizes in zip(counts, s.anchors.sizes, strict=True)
    ])
    (*_, logits), (*_, deltas) = shapes["rpn"]
    ratios = ", ".join(f"{ratio:g}" for ratio in s.anchors.ratios)
    head = draw.block(_MIDDLE, 3.2, _RIGHT - _MIDDLE, 0.65, f"Proposal head, {_millions(model.rpn)}", [
        f"{_kernel(model.rpn.get_layer('rpn_conv'))}; then for every cell {logits} logits, object or not, and {deltas} deltas",
        f"{logits} anchors per cell, height / width {ratios}; {_trained_by(0, 1)}",
    ], "orange")
    same = ", the same for every level" if len(counts) > 1 else ""
    frame = draw.group([head, *anchors], f"Region proposal network{same}: {sum(counts):,} anchors", "orange")
    for block in anchors:
        x = block.top()[0]
        draw.arrow((x, maps.y), (x, frame.y + frame.height))
        draw.arrow((x, head.y), block.top())
    before = s.proposals.before_nms
    proposals = draw.block(_LEFT, 2.55, 3.3, 0.95, "Proposals", [
        f"the best {before} of each level, at most" if len(counts) > 1 else f"the best {before}, at most",
        f"no two{' of a level' if len(counts) > 1 else ''} with IoU above {s.proposals.nms_threshold:g}",
        f"of these the best: {_times(*shapes['proposals'][1:])}",
    ], "orange")
    y = anchors[0].left()[1]
    draw.arrow((frame.x, y), (proposals.right()[0], y))
    return proposals


def _draw_regions(draw: Diagram, model: MaskRCNN, shapes: dict, maps: Block, proposals: Block) -> None:
    """What is done with regions: boxes and classes, then masks."""
    from covidcxr.maskrcnn.sampler import most_positives

    s = model.settings
    regions, found = shapes["proposals"][1], shapes["detections"][1]
    samples = s.region_training.samples
    positives = max(1, most_positives(samples, s.region_training.positive_fraction))
    by_size = ["level by region's size"] if model.neck else []
    texts = [
        ("ROIAlign", [_shape(model.box_head.input_shape), *by_size, f"{regions} regions", f"(training: {samples})"]),
        ("Box head", [
            *_steps(model.box_head), f"{shapes['class_logits'][-1]} logits, {shapes['box_deltas'][-1]} deltas",
            _millions(model.box_head), _trained_by(2, 3),
        ]),
        ("Detections", [
            f"score above {s.detections.score_threshold:g}", "no two of a class",
            f"with IoU above {s.detections.nms_threshold:g}", f"the best: {_times(*shapes['detections'][1:])}",
        ]),
        ("ROIAlign", [_shape(model.mask_head.input_shape), *by_size, f"{found} detections", f"(training: {positives})"]),
        ("Mask head", [*_steps(model.mask_head), _millions(model.mask_head), _trained_by(4)]),
        ("Masks", [_times(*shapes["masks"][:3]), "pasted into", "their boxes"]),
    ]
    width, gap = 1.53, 0.284
    colours = ["vermilion"] * 3 + ["purple"] * 3
    blocks = [
        draw.block(_LEFT + i * (width + gap), 0.2, width, 1.4, title, lines, colour)
        for i, ((title, lines), colour) in enumerate(zip(texts, colours, strict=True))
    ]
    draw.group(blocks[:3], "Boxes and classes", "vermilion", align="right")
    draw.group(blocks[3:], "Masks", "purple", align="right")
    for one, other in itertools.pairwise(blocks):
        draw.arrow(one.right(), other.left())
    x, y = blocks[0].top(0.3)
    draw.arrow((x, proposals.y), (x, y))
    bus, start = 2.2, maps.right()
    levels = "p2 – p5" if model.neck else "map"
    branch = (blocks[3].top()[0], bus)
    draw.arrow(start, (_BUS, start[1]), (_BUS, bus), (blocks[0].top(0.7)[0], bus), blocks[0].top(0.7))
    draw.node(branch, "")
    draw.arrow(branch, blocks[3].top())
    draw.text((_BUS - 0.1, bus + 0.6 * _inches(_TEXT)), levels, align="right")


def _shapes(model: MaskRCNN, height: int, width: int) -> dict:
    """Shapes of what passes through the model for one image: tuples, or lists of them."""
    from keras import KerasTensor

    from covidcxr.maskrcnn.detections import detect
    from covidcxr.maskrcnn.proposals import propose

    s = model.settings
    maps = model.backbone.compute_output_shape((1, height, width, model.backbone.input_shape[-1]))
    maps = model.neck.compute_output_shape(maps) if model.neck else maps[-1:]
    anchors = model.anchors_of([KerasTensor(shape) for shape in maps])
    logits, deltas = ([KerasTensor((1, len(level), *of_each)) for level in anchors] for of_each in ((), (4,)))
    sizes = KerasTensor((1, 2))
    proposals = _outputs(
        lambda logits, deltas, sizes: propose(anchors, logits, deltas, sizes, s.anchors.delta_weights, s.proposals),
        logits, deltas, sizes,
    )
    regions = proposals["boxes"].shape[1]
    class_logits, box_deltas = model.box_head.compute_output_shape((regions, *model.box_head.input_shape[1:]))
    found = _outputs(
        lambda proposals, logits, deltas, sizes: detect(proposals, logits, deltas, sizes, s.detections),
        proposals, KerasTensor((1, *class_logits)), KerasTensor((1, regions, s.foreground_classes, 4)), sizes,
    )["boxes"].shape
    return {
        "maps": maps, "rpn": model.rpn.compute_output_shape(maps[0]), "anchors": [level.shape for level in anchors],
        "proposals": proposals["boxes"].shape, "class_logits": class_logits, "box_deltas": box_deltas, "detections": found,
        "masks": model.mask_head.compute_output_shape((found[1], *model.mask_head.input_shape[1:])),
    }


def _outputs(function: Callable, *inputs):
    """What a function makes of tensors of which only shape and type are known."""
    import keras

    class Traced(keras.Operation):
        def call(self, *tensors):
            return function(*tensors)

    return Traced().compute_output_spec(*inputs)


def _row(draw: Diagram, y: float, height: float, colour: str, texts: Sequence[tuple[str, Sequence[str]]]) -> list[Block]:
    """Blocks side by side, one per level, over the columns of the maps."""
    gap = 0.1
    width = (_RIGHT - _MIDDLE - gap * (len(texts) - 1)) / len(texts)
    blocks = [
        draw.block(_MIDDLE + i * (width + gap), y, width, height, title, lines, colour) for i, (title, lines) in enumerate(texts)
    ]
    draw.match(blocks)
    return blocks


# ---- layers in a row -------------------------------------------------------------------------------------------------


def layer_row(model: keras.Model) -> Figure:
    """A network whose layers follow one another, from left to right (figure 6 of zhang2020): what each does, what it leaves, how
    many parameters it has. The higher a block, the larger its map.

    Args:
        model: of `models.diagnosis_cnn`, or another of the same kinds of layers.
    """
    layers = model.layers[1:]
    draw = Diagram(3.2)
    total = model.count_params()
    draw.text((_MARGIN, 3.0), f"{total:,} parameters", size=_TITLE + 1, weight="bold", align="left")
    texts = [("Image", [_shape(model.input_shape)], "black")]
    texts += [(*_layer_text(layer), "blue" if len(layer.output.shape) == 4 else "orange") for layer in layers]
    heights = [_map_height(model.input_shape, model)] + [_map_height(layer.output.shape, model) for layer in layers]
    _chain(draw, 1.4, texts, heights)
    return draw.figure


def flow(steps: Sequence[tuple[str, Sequence[str]]], title: str) -> Figure:
    """The way of data through a study, from left to right (figure 2 of gaikwad2020).

    Args:
        steps: of each its name and a few short lines of what comes out of it.
    """
    draw = Diagram(2.4)
    draw.text((_MARGIN, 2.2), title, size=_TITLE + 1, weight="bold", align="left")
    _chain(draw, 1.0, [(name, lines, "blue") for name, lines in steps], [1.5] * len(steps))
    return draw.figure


def _chain(draw: Diagram, middle: float, texts: Sequence[tuple[str, Sequence[str], str]], heights: Sequence[float]) -> None:
    """Blocks (title, lines, colour) side by side with arrows between them, their middles at one height."""
    gap = 0.22
    width = (WIDTH - 2 * _MARGIN - gap * (len(texts) - 1)) / len(texts)
    blocks = [
        draw.block(_MARGIN + i * (width + gap), middle - height / 2, width, height, title, lines, colour)
        for i, ((title, lines, colour), height) in enumerate(zip(texts, heights, strict=True))
    ]
    draw.match(blocks)
    for one, other in itertools.pairwise(blocks):
        draw.arrow(one.right(), other.left())


def _layer_text(layer: keras.layers.Layer) -> tuple[str, list[str]]:
    """What a layer is called and does, the shape it leaves, and its parameters."""
    import keras

    leaves = _shape(layer.output.shape)
    if isinstance(layer, keras.layers.Conv2D):
        return "Convolution", [f"{_kernel(layer)} filters", _activation(layer), leaves, f"{layer.count_params():,}", "parameters"]
    if isinstance(layer, keras.layers.MaxPooling2D):
        return "Maximum", [_times(*layer.pool_size, sign="×"), leaves]
    if isinstance(layer, keras.layers.Flatten):
        return "Flatten", [f"{layer.output.shape[-1]:,}", "values"]
    if isinstance(layer, keras.layers.Dense):
        units = f"{layer.units} unit{'s' * (layer.units > 1)}"
        return "Dense", [units, _activation(layer), f"{layer.count_params():,}", "parameters"]
    raise InputError(f"A row of layers holds convolutions, maxima, Flatten and Dense; {layer.name} is a {type(layer).__name__}.")


def _activation(layer: keras.layers.Layer) -> str:
    return {"relu": "ReLU"}.get(layer.activation.__name__, layer.activation.__name__)


def _map_height(shape: Sequence[int], model: keras.Model) -> float:
    """Height of a block, inches: with the map's, from the least that holds its text on."""
    rows = shape[1] if len(shape) == 4 else 1
    return 1.2 + 1.3 * rows / model.input_shape[1]


# ---- U-Net -----------------------------------------------------------------------------------------------------------


def unet(model: keras.Model, image_size: int | tuple[int, int], title: str = "U-Net") -> Figure:
    """The U of `models.lung_unet.lung_unet` (figures 1 and 3 of zhang2020).

    Args:
        model: of `lung_unet`, of any depth and number of filters.
        image_size: side, or height and width, of the images it is drawn for.
        title: what the network is called above the figure.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    depth = len(_layers(model, r"down\d+_pool"))
    if any(side % 2**depth for side in size):
        raise InputError(f"With {depth} halvings height and width must be multiples of {2**depth}; these are {_times(*size)}.")
    shapes = _inner_shapes(model, size)
    row, gap, width, edge = 0.62, 0.5, 2.7, 1.35
    draw = Diagram((depth + 1) * (row + gap) + 0.55)
    height = draw.figure.get_figheight()
    levels = [height - 0.55 - row - k * (row + gap) for k in range(depth + 1)]
    aside = [edge + min(0.45, 1.6 / depth) * k for k in range(depth)]
    down = [_unet_block(draw, model, shapes, f"down{k + 1}", (aside[k], levels[k], width, row), "blue") for k in range(depth)]
    up = [_unet_block(draw, model, shapes, f"up{k + 1}", (WIDTH - aside[k] - width, levels[k], width, row), "green")
          for k in range(depth)]
    bottom = _unet_block(draw, model, shapes, "bottom", ((WIDTH - width) / 2, levels[depth], width, row), "orange")
    draw.match([*down, *up, bottom])
    for k in range(depth):
        draw.arrow(down[k].right(), up[k].left(), label="copied beside" if k == 0 else "")
        pool = model.get_layer(f"down{k + 1}_pool")
        larger, after = model.get_layer(f"up{k + 1}_enlarged"), model.get_layer(f"up{k + 1}_conv0")
        _unet_step(draw, down[k].bottom(0.8), [*down, bottom][k + 1], f"{_times(*pool.pool_size, sign='×')} maximum")
        _unet_step(draw, up[k].bottom(0.2), [*up, bottom][k + 1], f"× {larger.size[0]}, then {_kernel(after)}", upwards=True)
    _unet_ends(draw, model, size, down[0], up[0])
    draw.text((0.2, height - 0.25), f"{title}, {_millions(model)}", size=_TITLE + 1, weight="bold", align="left")
    draw.text((0.2, 0.2), "k×k, c: convolution, kernel and channels" + _unet_notes(model), align="left", width=WIDTH - 0.4)
    return draw.figure


def _inner_shapes(model: keras.Model, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shape that each layer gives for an image of this size."""
    import keras

    every = keras.Model(model.inputs, [layer.output for layer in model.layers])
    given = every.compute_output_shape((1, *size, model.input_shape[-1]))
    return {layer.name: tuple(shape) for layer, shape in zip(model.layers, given, strict=True)}


def _unet_block(
    draw: Diagram, model: keras.Model, shapes: dict, name: str, place: tuple[float, float, float, float], colour: str
) -> Block:
    """The two convolutions of a level, under the shape they leave."""
    convolutions = [model.get_layer(f"{name}_conv{number}") for number in (1, 2)]
    return draw.block(*place, _shape(shapes[convolutions[1].name]), [" · ".join(map(_kernel, convolutions))], colour)


def _unet_step(draw: Diagram, end: Point, other: Block, words: str, upwards: bool = False) -> None:
    """An upright arrow between a level and the one below it, with words on the outer side of the U."""
    x, y = end
    points = [(x, y), (x, other.y + other.height)]
    draw.arrow(*(points[::-1] if upwards else points))
    middle = (y + other.y + other.height) / 2
    draw.text((x + (0.07 if upwards else -0.07), middle), words, align="left" if upwards else "right")


def _unet_ends(draw: Diagram, model: keras.Model, size: tuple[int, int], first: Block, last: Block) -> None:
    """The image before the U, the probabilities behind it."""
    words = _times(*size, model.input_shape[-1])
    image = draw.block(0.08, first.y, 1.06, first.height, "Image", [words])
    draw.arrow(image.right(), first.left())
    end = draw.block(WIDTH - 1.14, last.y, 1.06, last.height, "Lung", [_times(*size, model.output_shape[-1])])
    draw.match([image, end])
    draw.arrow(last.right(), end.left())
    steps = [_kernel(layer) for layer in _layers(model, "last|lung")]
    draw.text((end.x + end.width, end.y - 0.6 * _inches(_TEXT)), " · ".join(steps) + ", sigmoid", align="right")


def _unet_notes(model: keras.Model) -> str:
    norm = "batch normalisation and ReLU" if _layers(model, ".*_norm") else "ReLU"
    words, dropped = f"; {norm} after each but the last", _layers(model, ".*_dropout")
    if dropped:
        places = " and ".join(_place(layer.name.removesuffix("_dropout")) for layer in dropped)
        words += f"; {dropped[0].rate:.0%} of the values dropped behind {places}"
    return words


def _place(name: str) -> str:
    return "the bottom" if name == "bottom" else f"the {_ordinal(int(name.removeprefix('down')))} level"


# ---- decomposition ---------------------------------------------------------------------------------------------------


def decomposition(generator: keras.Model, critic: keras.Model) -> Figure:
    """Encoder, two decoders and critic (figure 1 of yang2021), with the losses in the places where they arise.

    Args:
        generator: of `decomposition.networks.decomposer`, with both parts.
        critic: of `decomposition.networks.critic`.
    """
    if len(generator.outputs) != 2:
        raise InputError("The figure is of a generator with two parts, normal and lesion; this one has one.")
    draw = Diagram(4.1)
    levels = len(_layers(generator, r"down\d+_pool"))
    convolutions = _layers(generator, r"(down\d+|bottom|normal\d+|lesion\d+)_conv\d")
    image = _shape(generator.input_shape)

    def part(name: str) -> list[str]:
        mine = [layer for layer in convolutions if re.match(name, layer.name)]
        return [f"{len(mine)} convolutions", _millions(*mine), f"leaves {_shape(mine[-1].output.shape)}"]

    slices = draw.block(0.15, 1.4, 1.25, 0.9, "Slice x", ["cut to the lungs", image])
    encoder = draw.block(2.0, 1.3, 1.9, 1.1, "Encoder E", [*part("down|bottom"), f"{levels} halvings"], "blue")
    decoders = [draw.block(4.6, y, 1.9, 1.1, title, part(name), colour)
                for y, title, name, colour in ((2.4, "Generator G1", "normal", "green"), (0.2, "Decoder G2", "lesion", "orange"))]
    parts = [draw.block(7.2, y, 1.45, 0.9, title, ["tanh", _shape(output.shape)])
             for y, title, output in zip((2.5, 0.3), ("Normal part", "Lesion"), generator.outputs, strict=True)]
    judge = draw.block(9.25, 2.2, 1.6, 1.5, "Critic D", [
        f"{sum(1 for layer in critic.layers if layer.weights)} layers", f"{len(_layers(critic, 'level.*_mean'))} means joined",
        f"{critic.count_params() / 1e6:.2f} M parameters", "real normal slice?"], "purple")
    draw.match([slices, encoder, *decoders, *parts, judge])
    draw.arrow(slices.right(), encoder.left())
    for decoder, made in zip(decoders, parts, strict=True):
        turn, end = encoder.right()[0] + 0.35, decoder.left()
        draw.arrow(encoder.right(), (turn, encoder.right()[1]), (turn, end[1]), end)
        draw.arrow(decoder.right(), made.left())
    draw.arrow(parts[0].right(), (judge.x, parts[0].right()[1]))
    total = draw.node((7.925, 1.85))
    for made, touch in zip(parts, (parts[0].bottom(), parts[1].top()), strict=True):
        draw.arrow(touch, total.top() if made is parts[0] else total.bottom())
    draw.text((total.x + 0.4, 1.85), "L_r: together they are x", align="left")
    draw.text((7.2, 3.6), "L_n: of a normal x, it is x", align="left")
    draw.text((10.85, 3.9), "L_c (it learns), L_a (G1 and E learn)", align="right", width=4.0)
    draw.text((5.55, 1.85), "both read E's maps at every level")
    draw.text((0.2, 3.85), f"Decomposition, {_millions(generator)} and the critic", size=_TITLE + 1, weight="bold", align="left")
    return draw.figure


# ---- words from models -----------------------------------------------------------------------------------------------


def _level_texts(model: MaskRCNN, shapes: Sequence[Sequence[int]]) -> list[tuple[str, list[str]]]:
    """Name, stride and shape of each map that the heads read."""
    names = [f"p{k}" for k in range(2, 2 + len(shapes))] if model.neck else [f"res{len(model.backbone.outputs) + 1}"]
    levels = zip(names, model.strides, shapes, strict=True)
    return [(f"{name}, stride {stride}", [_shape(shape)]) for name, stride, shape in levels]


def _size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width) < 32 or height % 32 or width % 32:
        raise InputError(f"Mask R-CNN takes images whose height and width are multiples of 32; these are {height} × {width}.")
    return height, width


def _name(model: MaskRCNN) -> str:
    design = model.settings.backbone
    if design.groups > 1:
        return f"ResNeXt-{design.depth}, {design.groups} × {design.width_per_group}d"
    return f"ResNet-{design.depth}"


def _stem(backbone: keras.Model, height: int, width: int) -> list[str]:
    """The layers before res2, and the shape they leave."""
    import keras

    convolution, pool = backbone.get_layer("stem_conv"), backbone.get_layer("stem_pool")
    leaves = keras.Model(backbone.inputs, pool.output).compute_output_shape((1, height, width, backbone.input_shape[-1]))
    pooling = f"{_times(*pool.pool_size, sign='×')} maximum, stride {pool.strides[0]}"
    return [f"{_kernel(convolution)}, stride {convolution.strides[0]} · {pooling}", f"{_shape(leaves)}{_frozen([convolution])}"]


def _blocks(network: keras.Model, stage: int) -> str:
    """How many residual blocks a stage has, and the convolutions of each: "3 × [1×1, 64 · 3×3, 64 · 1×1, 256]"."""
    count = len(_layers(network, rf"res{stage}_\d+_add"))
    convolutions = " · ".join(_kernel(layer) for layer in _layers(network, rf"res{stage}_0_conv\d"))
    return f"{count} × [{convolutions}]"


def _stage_size(network: keras.Model, stage: int) -> str:
    layers = _layers(network, rf"res{stage}_.*")
    return f"{_millions(*layers)}{_frozen(layers)}"


def _layers(network: keras.Model, pattern: str) -> list[keras.layers.Layer]:
    return [layer for layer in network.layers if re.fullmatch(pattern, layer.name)]


def _steps(head: keras.Model) -> list[str]:
    """The hidden layers of a head in order, like neighbours counted: ["4 × [3×3, 256]", "2×2 transposed, 256"]."""
    import keras

    words = []
    for layer in head.layers:
        if isinstance(layer, keras.Model):
            words += [f"{layer.name}, which both", f"heads share: {len(_layers(layer, r'res._._add'))} blocks"]
        elif isinstance(layer, keras.layers.Conv2DTranspose):
            words.append(f"{_kernel(layer)} transposed")
        elif isinstance(layer, keras.layers.Conv2D):
            words.append(_kernel(layer))
        elif isinstance(layer, keras.layers.GlobalAveragePooling2D):
            words.append("average of all cells")
        elif isinstance(layer, keras.layers.Dense) and not layer.name.startswith(("class", "box_deltas")):
            words.append(f"dense {layer.units}")
    runs = [(word, len(list(run))) for word, run in itertools.groupby(words)]
    return [f"{count} × [{word}]" if count > 1 else word for word, count in runs]


def _trained_by(*losses: int) -> str:
    from covidcxr.maskrcnn.model import LOSSES

    names = ", ".join(LOSSES[i].removesuffix("_loss").replace("_", " ") for i in losses)
    return f"{'losses' if len(losses) > 1 else 'loss'}: {names}"


def _frozen(layers: Iterable[keras.layers.Layer]) -> str:
    return "" if any(layer.trainable_weights for layer in layers) else ", frozen"


def _kernel(layer: keras.layers.Layer) -> str:
    """A convolution's kernel and channels: "3×3, 256"."""
    groups = getattr(layer, "groups", 1)  # transposed convolutions have none
    grouped = f" in {groups} groups" if groups > 1 else ""
    return f"{_times(*layer.kernel_size, sign='×')}, {layer.filters}{grouped}"


def _millions(*layers: keras.layers.Layer) -> str:
    """Parameters of layers, in millions."""
    count = sum(layer.count_params() for layer in layers)
    return f"{count / 1e6:.{1 if count > 1e5 else 3}f} M parameters"


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")


def _times(*numbers: int, sign: str = " × ") -> str:
    return sign.join(str(number) for number in numbers)


def _shape(shape: Sequence[int]) -> str:
    """Height × width × channels of a map (N, H, W, C)."""
    return _times(*shape[1:])


def _inches(points: float) -> float:
    """Height of a line of text of this size."""
    return points / 72 * _LINE


def _tint(colour: str) -> tuple[float, float, float]:
    """A light shade of a colour, on which black text is read well; white for black."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    share = 0.16 * max(red, green, blue)
    return 1 - share * (1 - red), 1 - share * (1 - green), 1 - share * (1 - blue)
