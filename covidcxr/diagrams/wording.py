"""What diagrams say of layers, read from the layers themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def layers_named(network: keras.Model, pattern: str) -> list[keras.layers.Layer]:
    """The layers whose whole name is like a regular expression, in their order."""
    return [layer for layer in network.layers if re.fullmatch(pattern, layer.name)]


def kernel_text(layer: keras.layers.Layer) -> str:
    """A convolution's kernel and channels: "3×3, 256"."""
    groups = getattr(layer, "groups", 1)  # transposed convolutions have none
    grouped = f" in {groups} groups" if groups > 1 else ""
    return f"{joined(*layer.kernel_size, sign='×')}, {layer.filters}{grouped}"


def millions(*layers: keras.layers.Layer) -> str:
    """Parameters of layers, in millions."""
    count = sum(layer.count_params() for layer in layers)
    return f"{count / 1e6:.{1 if count > 1e5 else 3}f} M parameters"


def ordinal(number: int) -> str:
    """The place of a number from 2 on: "second", "third", "4th"."""
    return {2: "second", 3: "third"}.get(number, f"{number}th")


def joined(*numbers: int, sign: str = " × ") -> str:
    """Numbers with a sign between them: "64 × 96"."""
    return sign.join(str(number) for number in numbers)


def shape_text(shape: Sequence[int]) -> str:
    """Height × width × channels of a map (N, H, W, C)."""
    return joined(*shape[1:])
