"""Weights, images and slices of the peer fixtures, rebuilt from a seed (numpy only).

A fixture is a pair of files, `<name>.json` (the *spec*) and `<name>.npz` (the *arrays*).  The arrays are outputs
of another Mask R-CNN implementation, the peer; its weights and its input are not stored but drawn here, one
independent random stream per tensor, so that neither the peer nor a weight file is needed to use a fixture:

    spec, arrays = fixture("A_r50_fpn")
    weights = weights_for(spec)                    # {peer's state_dict name: float32 array in the peer's layout}
    pictures = images_for(spec)                    # uint8 (N, H, W, 3)
    ...                                            # compute `features`, channels-last, with the implementation under test
    np.abs(subset(features["p2"]) - arrays["features/p2/subset"]).max() <= tolerance(spec, "features/p2/subset")
"""

import json
import os
import zlib
from fnmatch import fnmatchcase

import numpy as np

FOLDER = os.path.dirname(os.path.abspath(__file__))


def stream(seed, name):
    """A random generator that depends on `seed` and `name` alone, hence not on the order of the draws."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def closes_residual_branch(name, shapes):
    """Whether `name` scales the last batch normalisation before a residual sum.

    That is `bn3` (torchvision) or `conv3.norm` (detectron2) of a bottleneck block and `bn2` of a basic block.
    """
    if name.endswith(".bn2.weight"):
        return ".layer" in name and name.replace(".bn2.", ".bn3.") not in shapes
    return name.endswith((".bn3.weight", ".conv3.norm.weight"))


def weights(shapes, seed, gains=None, biases=None):
    """Draws every tensor of a model.

    Args:
        shapes: `{name: shape}`, names and shapes as in the peer's `state_dict()`.
        seed: integer.
        gains: `{pattern: factor}`; multiplies the convolution and linear weights whose name matches the pattern
            (shell-style, `*` crosses dots).  At most one pattern may match a name; no match means 1.
        biases: `{name: list of numbers}`; replaces the drawn values.

    Returns:
        `{name: float32 array}`, sorted by name, without the `num_batches_tracked` counters.
    """
    gains, biases, drawn = gains or {}, biases or {}, {}
    for name in sorted(shapes):
        shape, rng = tuple(shapes[name]), stream(seed, name)
        if name.endswith("num_batches_tracked"):
            continue
        if name in biases:
            value = np.array(biases[name], "float32").reshape(shape)
        elif name.endswith("running_mean"):
            value = np.float32(0.1) * rng.standard_normal(shape, dtype="float32")
        elif name.endswith("running_var"):
            value = np.float32(0.5) + rng.random(shape, dtype="float32")
        elif name.endswith("bias"):
            value = np.float32(0.02) * rng.standard_normal(shape, dtype="float32")
        elif len(shape) == 1:  # the scale of a batch normalisation
            low, width = (0.1, 0.2) if closes_residual_branch(name, shapes) else (0.8, 0.4)
            value = np.float32(low) + np.float32(width) * rng.random(shape, dtype="float32")
        else:  # convolution or linear: He, the fan-in being the product of all dimensions but the first
            matches = [gain for pattern, gain in gains.items() if fnmatchcase(name, pattern)]
            if len(matches) > 1:
                raise ValueError(f"More than one gain matches {name!r}: {matches}.")
            scale = np.sqrt(2.0 / np.prod(shape[1:])) * (matches[0] if matches else 1.0)
            value = np.float32(scale) * rng.standard_normal(shape, dtype="float32")
        drawn[name] = value.astype("float32", copy=False)
    return drawn


def image(seed, index, height, width, cell=12):
    """A uint8 picture (height, width, 3): coloured squares of `cell` pixels under a third of pixel noise."""
    rng = stream(seed, f"image {index}")
    grid = rng.integers(0, 256, (-(-height // cell), -(-width // cell), 3))
    squares = grid.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    return ((2 * squares + rng.integers(0, 256, (height, width, 3))) // 3).astype("uint8")


def checksum(array):
    """CRC-32 of the bytes of a C-ordered little-endian array."""
    array = np.ascontiguousarray(array)
    return zlib.crc32(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def subset(maps, channels=16, cells=8):
    """Every n-th channel and cell of channels-last maps (N, H, W, C).

    The steps are max(1, C // channels), max(1, H // cells) and max(1, W // cells), each counted from index 0.
    """
    step = [max(1, size // wanted) for size, wanted in zip(maps.shape[1:], (cells, cells, channels), strict=True)]
    return maps[:, :: step[0], :: step[1], :: step[2]]


def mean_and_std(maps):
    """Mean and (population) standard deviation over H and W of maps (N, H, W, C), summed in float64: (2, N, C)."""
    maps = np.asarray(maps, "float64")
    return np.stack([maps.mean((1, 2)), maps.std((1, 2))]).astype("float32")


def fixture(name, folder=FOLDER):
    """Reads `<name>.json` and `<name>.npz`: the spec and a dict of arrays."""
    with open(os.path.join(folder, name + ".json"), encoding="utf-8") as file:
        spec = json.load(file)
    with np.load(os.path.join(folder, name + ".npz")) as file:
        return spec, {key: file[key] for key in file.files}


def weights_for(spec):
    """The weights of a fixture, checked against the checksums in its spec."""
    drawn = weights(spec["shapes"], spec["seed"], spec["gains"], spec["biases"])
    wrong = [name for name in drawn if checksum(drawn[name]) != spec["checksums"][name]]
    if wrong:
        raise RuntimeError(
            f"{len(wrong)} tensors differ from those the peer was run with (numpy {np.__version__}), first {wrong[0]!r}."
        )
    return drawn


def images_for(spec):
    """The pictures of a fixture, uint8 (N, H, W, 3), checked against the checksum in its spec."""
    pictures = np.stack([image(spec["seed"], i, *spec["image_size"]) for i in range(spec["batch"])])
    if checksum(pictures) != spec["image_checksum"]:
        raise RuntimeError(f"The pictures differ from those the peer was run with (numpy {np.__version__}).")
    return pictures


def tolerance(spec, key, factor=10.0):
    """`factor` times the peer's own rounding noise in array `key`, and not less than a floor.

    The floor is 1e-6 of the array's largest magnitude, or 1e-5 for a single number (one number may be exact by luck).
    """
    entry = spec["arrays"][key]
    return max(factor * entry["noise"], (1e-6 if entry["shape"] else 1e-5) * entry["scale"])
