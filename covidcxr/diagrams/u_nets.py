"""The U of a U-Net."""

from __future__ import annotations

from typing import TYPE_CHECKING

from covidcxr.diagrams.drawing import TEXT, TITLE, WIDTH, Block, Diagram, Point, inches
from covidcxr.diagrams.wording import joined, kernel_text, layers_named, millions, ordinal, shape_text
from covidcxr.errors import InputError

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure


def unet(model: keras.Model, image_size: int | tuple[int, int], title: str = "U-Net") -> Figure:
    """The U of `models.lung_unet.lung_unet` (figures 1 and 3 of zhang2020).

    Args:
        model: of `lung_unet`, of any depth and number of filters.
        image_size: side, or height and width, of the images it is drawn for.
        title: what the network is called above the figure.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    depth = len(layers_named(model, r"down\d+_pool"))
    if any(side % 2**depth for side in size):
        raise InputError(f"With {depth} halvings height and width must be multiples of {2**depth}; these are {joined(*size)}.")
    shapes = _inner_shapes(model, size)
    row, gap, width, edge = 0.62, 0.5, 2.7, 1.35
    draw = Diagram((depth + 1) * (row + gap) + 0.55)
    height = draw.figure.get_figheight()
    levels = [height - 0.55 - row - k * (row + gap) for k in range(depth + 1)]
    aside = [edge + min(0.45, 1.6 / depth) * k for k in range(depth)]
    down = [_level(draw, model, shapes, f"down{k + 1}", (aside[k], levels[k], width, row), "blue") for k in range(depth)]
    up = [_level(draw, model, shapes, f"up{k + 1}", (WIDTH - aside[k] - width, levels[k], width, row), "green")
          for k in range(depth)]
    bottom = _level(draw, model, shapes, "bottom", ((WIDTH - width) / 2, levels[depth], width, row), "orange")
    draw.match([*down, *up, bottom])
    for k in range(depth):
        draw.arrow(down[k].right(), up[k].left(), label="copied beside" if k == 0 else "")
        pool = model.get_layer(f"down{k + 1}_pool")
        larger, after = model.get_layer(f"up{k + 1}_enlarged"), model.get_layer(f"up{k + 1}_conv0")
        _step(draw, down[k].bottom(0.8), [*down, bottom][k + 1], f"{joined(*pool.pool_size, sign='×')} maximum")
        _step(draw, up[k].bottom(0.2), [*up, bottom][k + 1], f"× {larger.size[0]}, then {kernel_text(after)}", upwards=True)
    _draw_ends(draw, model, size, down[0], up[0])
    draw.text((0.2, height - 0.25), f"{title}, {millions(model)}", size=TITLE + 1, weight="bold", align="left")
    draw.text((0.2, 0.2), "k×k, c: convolution, kernel and channels" + _notes(model), align="left", width=WIDTH - 0.4)
    return draw.figure


def _inner_shapes(model: keras.Model, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Shape that each layer gives for an image of this size."""
    import keras

    every = keras.Model(model.inputs, [layer.output for layer in model.layers])
    given = every.compute_output_shape((1, *size, model.input_shape[-1]))
    return {layer.name: tuple(shape) for layer, shape in zip(model.layers, given, strict=True)}


def _level(
    draw: Diagram, model: keras.Model, shapes: dict, name: str, place: tuple[float, float, float, float], colour: str
) -> Block:
    """The two convolutions of a level, under the shape they leave."""
    convolutions = [model.get_layer(f"{name}_conv{number}") for number in (1, 2)]
    return draw.block(*place, shape_text(shapes[convolutions[1].name]), [" · ".join(map(kernel_text, convolutions))], colour)


def _step(draw: Diagram, end: Point, other: Block, words: str, upwards: bool = False) -> None:
    """An upright arrow between a level and the one below it, with words on the outer side of the U."""
    x, y = end
    points = [(x, y), (x, other.y + other.height)]
    draw.arrow(*(points[::-1] if upwards else points))
    middle = (y + other.y + other.height) / 2
    draw.text((x + (0.07 if upwards else -0.07), middle), words, align="left" if upwards else "right")


def _draw_ends(draw: Diagram, model: keras.Model, size: tuple[int, int], first: Block, last: Block) -> None:
    """The image before the U, the probabilities behind it."""
    words = joined(*size, model.input_shape[-1])
    image = draw.block(0.08, first.y, 1.06, first.height, "Image", [words])
    draw.arrow(image.right(), first.left())
    end = draw.block(WIDTH - 1.14, last.y, 1.06, last.height, "Lung", [joined(*size, model.output_shape[-1])])
    draw.match([image, end])
    draw.arrow(last.right(), end.left())
    steps = [kernel_text(layer) for layer in layers_named(model, "last|lung")]
    draw.text((end.x + end.width, end.y - 0.6 * inches(TEXT)), " · ".join(steps) + ", sigmoid", align="right")


def _notes(model: keras.Model) -> str:
    norm = "batch normalisation and ReLU" if layers_named(model, ".*_norm") else "ReLU"
    words, dropped = f"; {norm} after each but the last", layers_named(model, ".*_dropout")
    if dropped:
        places = " and ".join(_place(layer.name.removesuffix("_dropout")) for layer in dropped)
        words += f"; {dropped[0].rate:.0%} of the values dropped behind {places}"
    return words


def _place(name: str) -> str:
    return "the bottom" if name == "bottom" else f"the {ordinal(int(name.removeprefix('down')))} level"
