"""Mask R-CNN as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from covidcxr.diagrams.drawing import TEXT, TITLE, Block, Diagram, inches
from covidcxr.diagrams.pyramids import backbone_name, checked_size, level_texts
from covidcxr.diagrams.wording import joined, kernel_text, layers_named, millions, shape_text

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

    from covidcxr.maskrcnn.model import MaskRCNN

_LEFT, _MIDDLE, _RIGHT, _BUS = 0.2, 4.35, 10.35, 10.75  # columns of `mask_rcnn`, inches


def mask_rcnn(model: MaskRCNN, image_size: int | tuple[int, int]) -> Figure:
    """Mask R-CNN as a whole, from the image to the masks (figure 3 of ramesh2021).

    Args:
        model: with any neck.
        image_size: side, or height and width, of the images it is drawn for: multiples of 32.
    """
    height, width = checked_size(image_size)
    shapes = _shapes(model, height, width)
    draw = Diagram(5.95)
    maps = _draw_features(draw, model, shapes, (height, width))
    proposals = _draw_proposals(draw, model, shapes, maps)
    _draw_regions(draw, model, shapes, maps, proposals)
    return draw.figure


def _draw_features(draw: Diagram, model: MaskRCNN, shapes: dict, size: tuple[int, int]) -> Block:
    """Image, backbone and maps; returns the frame of the maps."""
    neck = {"fpn": "FPN", "c4": "C4", "dc5": "DC5"}[model.settings.neck]
    title = f"Mask R-CNN, {backbone_name(model)} {neck}: {millions(model)}"
    draw.text((_LEFT, 5.75), title, size=TITLE + 1, weight="bold", align="left")
    image = draw.block(_LEFT, 4.5, 1.3, 0.75, "Image", [joined(*size, model.backbone.input_shape[-1])])
    convolutions = layers_named(model.backbone, r"res\d_\d+_conv\d")
    dilated = " (dilated)" if any(max(layer.dilation_rate) > 1 for layer in convolutions) else ""
    about = [f"stem, res2 – res{len(model.backbone.outputs) + 1}{dilated}", millions(model.backbone)]
    backbone = draw.block(1.8, 4.5, 2.1, 0.75, backbone_name(model), about, "blue")
    draw.arrow(image.right(), backbone.left())
    plates = _row(draw, 4.5, 0.75, "green", level_texts(model, shapes["maps"]))
    title = f"Feature pyramid, {millions(model.neck)}" if model.neck else "Feature map"
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
    hidden = kernel_text(model.rpn.get_layer("rpn_conv"))
    ratios = ", ".join(f"{ratio:g}" for ratio in s.anchors.ratios)
    head = draw.block(_MIDDLE, 3.2, _RIGHT - _MIDDLE, 0.65, f"Proposal head, {millions(model.rpn)}", [
        f"{hidden}; then for every cell {logits} logits, object or not, and {deltas} deltas",
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
        f"of these the best: {joined(*shapes['proposals'][1:])}",
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
        ("ROIAlign", [shape_text(model.box_head.input_shape), *by_size, f"{regions} regions", f"(training: {samples})"]),
        ("Box head", [
            *_steps(model.box_head), f"{shapes['class_logits'][-1]} logits, {shapes['box_deltas'][-1]} deltas",
            millions(model.box_head), _trained_by(2, 3),
        ]),
        ("Detections", [
            f"score above {s.detections.score_threshold:g}", "no two of a class",
            f"with IoU above {s.detections.nms_threshold:g}", f"the best: {joined(*shapes['detections'][1:])}",
        ]),
        ("ROIAlign", [shape_text(model.mask_head.input_shape), *by_size, f"{found} detections", f"(training: {positives})"]),
        ("Mask head", [*_steps(model.mask_head), millions(model.mask_head), _trained_by(4)]),
        ("Masks", [joined(*shapes["masks"][:3]), "pasted into", "their boxes"]),
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
    draw.text((_BUS - 0.1, bus + 0.6 * inches(TEXT)), levels, align="right")


def _row(draw: Diagram, y: float, height: float, colour: str, texts: Sequence[tuple[str, Sequence[str]]]) -> list[Block]:
    """Blocks side by side, one per level, over the columns of the maps."""
    gap = 0.1
    width = (_RIGHT - _MIDDLE - gap * (len(texts) - 1)) / len(texts)
    blocks = [
        draw.block(_MIDDLE + i * (width + gap), y, width, height, title, lines, colour) for i, (title, lines) in enumerate(texts)
    ]
    draw.match(blocks)
    return blocks


def _steps(head: keras.Model) -> list[str]:
    """The hidden layers of a head in order, like neighbours counted: ["4 × [3×3, 256]", "2×2 transposed, 256"]."""
    import keras

    words = []
    for layer in head.layers:
        if isinstance(layer, keras.Model):
            words += [f"{layer.name}, which both", f"heads share: {len(layers_named(layer, r'res._._add'))} blocks"]
        elif isinstance(layer, keras.layers.Conv2DTranspose):
            words.append(f"{kernel_text(layer)} transposed")
        elif isinstance(layer, keras.layers.Conv2D):
            words.append(kernel_text(layer))
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
