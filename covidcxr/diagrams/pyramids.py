"""The backbone of a Mask R-CNN, its feature pyramid, and what both are called."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from covidcxr.diagrams.drawing import TEXT, TITLE, Block, Diagram, inches
from covidcxr.diagrams.wording import joined, kernel_text, layers_named, millions, ordinal, shape_text
from covidcxr.errors import InputError, ParameterError

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

    from covidcxr.maskrcnn.model import MaskRCNN

_SUMS = 6.0  # column of the sums, inches
_KEY = [
    ("a × b × c", "map: height × width × channels"),
    ("k×k, c", "convolution: kernel, channels"),
    ("n × [ … ]", "residual blocks, with the convolutions of each"),
    ("stride", "pixels of the image from one cell to the next"),
]


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
    height, width = checked_size(image_size)
    backbone = model.backbone
    stages = range(2, 2 + len(backbone.outputs))
    shapes = backbone.compute_output_shape((1, height, width, backbone.input_shape[-1]))

    row, gap, bottom, left, right = 0.7, 0.25, 0.15, 2.1, 9.2
    draw = Diagram(bottom + 7 * (row + gap) + 0.15)
    names = [("Image", [joined(height, width, backbone.input_shape[-1])]), ("Stem", _stem(backbone, height, width))]
    for stage, shape in zip(stages, shapes, strict=True):
        about = [_blocks(backbone, stage), f"{shape_text(shape)}, {_stage_size(backbone, stage)}"]
        names.append((f"res{stage}, stride {height // shape[1]}", about))
    path_up = draw.stack(left, bottom, [3.9 - 0.14 * i for i in range(len(names))], row, gap, names, "blue")
    for below, above in itertools.pairwise(path_up):
        draw.arrow(below.top(), above.bottom())

    levels = level_texts(model, model.neck.compute_output_shape(shapes))
    maps = draw.stack(right, path_up[2].y, [2.6 - 0.2 * i for i in range(len(levels))], row, gap, levels, "green")
    _draw_sums(draw, model.neck, dict(zip(stages, path_up[2:], strict=True)), maps)
    heading = path_up[-1].top()[1] + 0.2
    draw.text((left, heading), f"Bottom-up: {backbone_name(model)}, {millions(backbone)}", size=TITLE, weight="bold", width=3.9)
    draw.text((_SUMS, heading), "Lateral and top-down", size=TITLE, weight="bold")
    draw.text((right, maps[-1].top()[1] + 0.2), f"Feature pyramid, {millions(model.neck)}", size=TITLE, weight="bold")
    for i, (sign, words) in enumerate(reversed(_KEY)):
        y = bottom + (i + 0.5) * 1.2 * inches(TEXT)
        draw.text((5.6, y), sign, align="left")
        draw.text((6.5, y), words, align="left")
    return draw.figure


def _draw_sums(draw: Diagram, neck: keras.Model, stages: dict[int, Block], maps: list[Block]) -> None:
    """What lies between the stages of the backbone and the maps of the pyramid."""
    nodes = {}
    for (stage, source), target in zip(stages.items(), maps[:-1], strict=True):
        nodes[stage] = draw.node((_SUMS, source.right()[1]), "+" if layers_named(neck, f"fpn_sum{stage}") else "")
        draw.arrow(source.right(), nodes[stage].left(), label=kernel_text(neck.get_layer(f"fpn_lateral{stage}")))
        draw.arrow(nodes[stage].right(), target.left(), label=kernel_text(neck.get_layer(f"fpn_output{stage}")))
    for coarse, fine in itertools.pairwise(reversed(stages)):
        times = neck.get_layer(f"fpn_enlarged{coarse}").size[0]
        draw.arrow(nodes[coarse].bottom(), nodes[fine].top(), label=f"enlarged × {times}")
    draw.arrow(maps[-2].top(), maps[-1].bottom(), label=f"every {ordinal(neck.get_layer('fpn_p6').strides[0])} cell")


def level_texts(model: MaskRCNN, shapes: Sequence[Sequence[int]]) -> list[tuple[str, list[str]]]:
    """Name, stride and shape of each map that the heads read."""
    names = [f"p{k}" for k in range(2, 2 + len(shapes))] if model.neck else [f"res{len(model.backbone.outputs) + 1}"]
    levels = zip(names, model.strides, shapes, strict=True)
    return [(f"{name}, stride {stride}", [shape_text(shape)]) for name, stride, shape in levels]


def checked_size(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width of the images that a Mask R-CNN is drawn for.

    Raises:
        InputError: they are no multiples of 32.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width) < 32 or height % 32 or width % 32:
        raise InputError(f"Mask R-CNN takes images whose height and width are multiples of 32; these are {height} × {width}.")
    return height, width


def backbone_name(model: MaskRCNN) -> str:
    """What a backbone is called: "ResNet-101", "ResNeXt-101, 32 × 8d"."""
    design = model.settings.backbone
    if design.groups > 1:
        return f"ResNeXt-{design.depth}, {design.groups} × {design.width_per_group}d"
    return f"ResNet-{design.depth}"


def _stem(backbone: keras.Model, height: int, width: int) -> list[str]:
    """The layers before res2, and the shape they leave."""
    import keras

    convolution, pool = backbone.get_layer("stem_conv"), backbone.get_layer("stem_pool")
    leaves = keras.Model(backbone.inputs, pool.output).compute_output_shape((1, height, width, backbone.input_shape[-1]))
    pooling = f"{joined(*pool.pool_size, sign='×')} maximum, stride {pool.strides[0]}"
    words = f"{kernel_text(convolution)}, stride {convolution.strides[0]} · {pooling}"
    return [words, f"{shape_text(leaves)}{_frozen([convolution])}"]


def _blocks(network: keras.Model, stage: int) -> str:
    """How many residual blocks a stage has, and the convolutions of each: "3 × [1×1, 64 · 3×3, 64 · 1×1, 256]"."""
    count = len(layers_named(network, rf"res{stage}_\d+_add"))
    convolutions = " · ".join(kernel_text(layer) for layer in layers_named(network, rf"res{stage}_0_conv\d"))
    return f"{count} × [{convolutions}]"


def _stage_size(network: keras.Model, stage: int) -> str:
    layers = layers_named(network, rf"res{stage}_.*")
    return f"{millions(*layers)}{_frozen(layers)}"


def _frozen(layers: Iterable[keras.layers.Layer]) -> str:
    return "" if any(layer.trainable_weights for layer in layers) else ", frozen"
