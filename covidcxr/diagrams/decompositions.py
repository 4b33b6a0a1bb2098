"""A slice taken apart: an encoder, two decoders and a critic."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from covidcxr.diagrams.drawing import TITLE, Diagram
from covidcxr.diagrams.wording import layers_named, millions, shape_text
from covidcxr.errors import InputError

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure


def decomposition(generator: keras.Model, critic: keras.Model) -> Figure:
    """Encoder, two decoders and critic (figure 1 of yang2021), with the losses in the places where they arise.

    Args:
        generator: of `decomposition.networks.decomposer`, with both parts.
        critic: of `decomposition.networks.critic`.
    """
    if len(generator.outputs) != 2:
        raise InputError("The figure is of a generator with two parts, normal and lesion; this one has one.")
    draw = Diagram(4.1)
    levels = len(layers_named(generator, r"down\d+_pool"))
    convolutions = layers_named(generator, r"(down\d+|bottom|normal\d+|lesion\d+)_conv\d")
    image = shape_text(generator.input_shape)

    def part(name: str) -> list[str]:
        mine = [layer for layer in convolutions if re.match(name, layer.name)]
        return [f"{len(mine)} convolutions", millions(*mine), f"leaves {shape_text(mine[-1].output.shape)}"]

    slices = draw.block(0.15, 1.4, 1.25, 0.9, "Slice x", ["cut to the lungs", image])
    encoder = draw.block(2.0, 1.3, 1.9, 1.1, "Encoder E", [*part("down|bottom"), f"{levels} halvings"], "blue")
    decoders = [draw.block(4.6, y, 1.9, 1.1, title, part(name), colour)
                for y, title, name, colour in ((2.4, "Generator G1", "normal", "green"), (0.2, "Decoder G2", "lesion", "orange"))]
    parts = [draw.block(7.2, y, 1.45, 0.9, title, ["tanh", shape_text(output.shape)])
             for y, title, output in zip((2.5, 0.3), ("Normal part", "Lesion"), generator.outputs, strict=True)]
    judge = draw.block(9.25, 2.2, 1.6, 1.5, "Critic D", [
        f"{sum(1 for layer in critic.layers if layer.weights)} layers",
        f"{len(layers_named(critic, 'level.*_mean'))} means joined",
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
    draw.text((0.2, 3.85), f"Decomposition, {millions(generator)} and the critic", size=TITLE + 1, weight="bold", align="left")
    return draw.figure
