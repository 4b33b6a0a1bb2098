"""Blocks in a row: the layers of a plain network, the steps of a study."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from covidcxr.diagrams.drawing import MARGIN, TITLE, WIDTH, Diagram
from covidcxr.diagrams.wording import joined, kernel_text, shape_text
from covidcxr.errors import InputError

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure


def layer_row(model: keras.Model) -> Figure:
    """A network whose layers follow one another, from left to right (figure 6 of zhang2020): what each does, what it leaves, how
    many parameters it has. The higher a block, the larger its map.

    Args:
        model: of `models.diagnosis_cnn`, or another of the same kinds of layers.
    """
    layers = model.layers[1:]
    draw = Diagram(3.2)
    total = model.count_params()
    draw.text((MARGIN, 3.0), f"{total:,} parameters", size=TITLE + 1, weight="bold", align="left")
    texts = [("Image", [shape_text(model.input_shape)], "black")]
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
    draw.text((MARGIN, 2.2), title, size=TITLE + 1, weight="bold", align="left")
    _chain(draw, 1.0, [(name, lines, "blue") for name, lines in steps], [1.5] * len(steps))
    return draw.figure


def _chain(draw: Diagram, middle: float, texts: Sequence[tuple[str, Sequence[str], str]], heights: Sequence[float]) -> None:
    """Blocks (title, lines, colour) side by side with arrows between them, their middles at one height."""
    gap = 0.22
    width = (WIDTH - 2 * MARGIN - gap * (len(texts) - 1)) / len(texts)
    blocks = [
        draw.block(MARGIN + i * (width + gap), middle - height / 2, width, height, title, lines, colour)
        for i, ((title, lines, colour), height) in enumerate(zip(texts, heights, strict=True))
    ]
    draw.match(blocks)
    for one, other in itertools.pairwise(blocks):
        draw.arrow(one.right(), other.left())


def _layer_text(layer: keras.layers.Layer) -> tuple[str, list[str]]:
    """What a layer is called and does, the shape it leaves, and its parameters."""
    import keras

    leaves = shape_text(layer.output.shape)
    if isinstance(layer, keras.layers.Conv2D):
        kernel, count = kernel_text(layer), f"{layer.count_params():,}"
        return "Convolution", [f"{kernel} filters", _activation(layer), leaves, count, "parameters"]
    if isinstance(layer, keras.layers.MaxPooling2D):
        return "Maximum", [joined(*layer.pool_size, sign="×"), leaves]
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
