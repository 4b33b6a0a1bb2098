"""Lungs on radiographs: the network that the stage `lung_segmentation` has trained, and what is done to its masks. Also on slices
of CT, by one that a stage teaches itself (`learn_on_slices`).

    lungs = LungModel.of_stage(stage.upstream("lung_segmentation"))
    for image, mask in zip(images, lungs.stream(images)):        # images of any sizes, a few in memory at a time
        right, left = separate(mask)

Masks are V7's idea of lungs: with the part behind the heart, down to the diaphragm. The patient's right lung lies at small x.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from covidcxr.arithmetic import is_number
from covidcxr.errors import CovidcxrError, InputError, ParameterError
from covidcxr.paths import parse_json, write_atomically
from covidcxr.resizing import resize

if TYPE_CHECKING:
    import keras

    from covidcxr.squares import Greys

CARD = "lung_model.json"  # in a stage's folder: which network, at which size, with which threshold
SMALLEST_SHARE = 0.1
"""Smallest second part that counts as a lung, as a share of the largest; the smaller of two healthy lungs has more than half."""
ONE_LUNG = 0.6
"""A cut that runs through mask in more than this share of the rows parts no two lungs, but one in half; so does one in more than
`ONE_NARROW_LUNG` of the rows of a mask that is narrower than `NARROW` of its height. Both lungs together are 0.84 to 1.5 times as
wide as high on 98 radiographs of adults, 0.74 to 1.8 times on V7's, and never touch there; one alone is 0.37 to 0.87 times."""
ONE_NARROW_LUNG = 0.1
NARROW = 0.8

_BATCH = 8
_COARSE = 256  # longer side of the mask on which the cut between the lungs is looked for
_BAND = 0.25  # of the mask's width at its left and right, where no cut is looked for


@dataclass(frozen=True)
class Card:
    """How a lung network is used.

    Attributes:
        weights: file of its weights, relative to the card's folder.
        network: arguments of `models.lung_unet.lung_unet`.
        size: side of the squares that it sees, pixels.
        threshold: probability from which a pixel is lung, between 0 and 1.
    """

    weights: str
    network: dict[str, Any]
    size: int
    threshold: float


class LungModel:
    """A trained lung network.

    Attributes:
        network: from squares (N, S, S, channels) in [0, 1] to probabilities (N, S, S, 1).
        size: S, pixels.
        threshold: probability from which a pixel is lung.
    """

    def __init__(self, network: keras.Model, size: int, threshold: float):
        if not 0 < threshold < 1:
            raise ParameterError(f"threshold lies between 0 and 1; found {threshold!r}.")
        self.network, self.size, self.threshold = network, size, threshold
        self._channels = network.input_shape[-1]

    @classmethod
    def of_stage(cls, folder: Path) -> LungModel:
        """The network of a finished stage, `stage.upstream("lung_segmentation")`.

        Raises:
            CovidcxrError: the folder holds none, or not all of it.
        """
        from covidcxr.models.lung_unet import lung_unet

        path = Path(folder) / CARD
        try:
            card = Card(**parse_json(path.read_bytes()))
            if not is_number(card.threshold) or type(card.size) is not int:
                raise ValueError("size and threshold must be numbers")
            weights = path.parent / card.weights
            if not weights.resolve().is_relative_to(path.parent.resolve()):
                raise InputError(f"{path}: the weights {card.weights!r} lie outside of the stage's folder.")
            network = lung_unet(**card.network)
            network.load_weights(weights)
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise CovidcxrError(
                f"{path.parent} holds no lung network that can be read ({type(error).__name__}: {error}). "
                "Run the stage lung_segmentation again."
            ) from error
        return cls(network, card.size, card.threshold)

    def probabilities(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Probability of lung, float32 (S, S), of each image in turn.

        Args:
            images: float32 (H, W) in [0, 1], of any sizes; they are taken a few at a time.
        """
        images = iter(images)
        number = 0
        while batch := list(islice(images, _BATCH)):
            seen = np.stack([self._square(image, number + i) for i, image in enumerate(batch)])
            number += len(batch)
            # A last batch that is not full is filled up: networks are compiled for one shape.
            missing = np.repeat(seen[-1:], _BATCH - len(seen), axis=0)
            found = self.network.predict_on_batch(np.concatenate([seen, missing]))
            yield from np.asarray(found)[: len(batch), ..., 0]

    def stream(self, images: Iterable[np.ndarray], clean_up: bool = True) -> Iterator[np.ndarray]:
        """Lungs of each image in turn, bool (H, W) of its own size.

        Args:
            images: float32 (H, W) in [0, 1], of any sizes; they are taken a few at a time.
            clean_up: keep the two largest parts without holes (`clean`).
        """
        sizes: list[tuple[int, int]] = []

        def noted() -> Iterator[np.ndarray]:
            for image in images:
                sizes.append(image.shape[:2])
                yield image

        for probability in self.probabilities(noted()):
            mask = resize(probability, sizes.pop(0)) >= self.threshold
            yield clean(mask) if clean_up else mask

    def masks(self, images: Iterable[np.ndarray], clean_up: bool = True) -> list[np.ndarray]:
        """The lungs of `stream`, all at once."""
        return list(self.stream(images, clean_up))

    def save(self, folder: Path, weights: Path, network: dict[str, Any]) -> None:
        """Write the card by which `of_stage` finds this network.

        Args:
            folder: of the stage.
            weights: file of the trained weights, within it.
            network: arguments of `lung_unet`, which made it.
        """
        if not weights.is_file() or not weights.is_relative_to(folder):
            raise InputError(f"{weights} is no file in {folder}, whose card would name it.")
        card = Card(weights.relative_to(folder).as_posix(), dict(network), self.size, self.threshold)
        write_atomically(folder / CARD, json.dumps(asdict(card), indent=1) + "\n")

    def _square(self, image: np.ndarray, number: int) -> np.ndarray:
        image = np.asarray(image)
        low, high = (float(image.min()), float(image.max())) if image.size else (0.0, 0.0)
        if image.ndim != 2 or not image.size or not np.issubdtype(image.dtype, np.floating) or not (low >= 0 and high <= 1):
            raise InputError(
                f"image {number}: lungs are found on images that are floating, (H, W), in [0, 1]; this one is {image.dtype} "
                f"{image.shape}, {low:g} to {high:g}."
            )
        square = resize(image, (self.size, self.size))
        return np.repeat(square[..., None], self._channels, axis=-1)


def learn_on_slices(
    pictures: Greys, drawn: Sequence[np.ndarray], folder: Path, *, seed: int, epochs: int, base_filters: int = 8, depth: int = 3,
    batch_size: int = 8,
) -> LungModel:  # fmt: skip
    """Teach a small U-Net of zhang2020's kind lungs on slices of CT, for slices on which nobody drew them.

    Data sets differ in their windows, so it is taught in many: grey values are stretched and shifted at random.

    Args:
        pictures: N slices (S, S).
        drawn: their lungs, N of bool (S, S).
        folder: of the stage; the weights are kept in its checkpoints, and loaded when nothing has changed.
        seed: of the start and of the draws.
        epochs, base_filters, depth, batch_size: of the training and of the network, see `models.lung_unet`.
    """
    import keras

    from covidcxr import feeding, training
    from covidcxr.models.lung_unet import lung_unet

    training.set_seed(seed)
    size = pictures.bytes.shape[1]
    network = lung_unet(size, 3, base_filters, depth, dropout=0.0, batch_norm=True, momentum=0.9, last_filters=0)
    rate = training.cosine_rate(0.004, epochs * -(-len(pictures) // batch_size))
    network.compile(keras.optimizers.Adam(rate), "binary_crossentropy", jit_compile=training.jit_compile())
    content = hashlib.sha256(pictures.bytes.tobytes() + np.packbits(np.stack(drawn)).tobytes()).hexdigest()
    training.fit_or_load(
        network,
        lambda done: feeding.Pictures(pictures, drawn, batch_size, augment=_in_another_window, seed=seed, first_epoch=done),
        epochs=epochs, folder=folder / "checkpoints", name="lungs", made_from=content,
    )  # fmt: skip
    return LungModel(network, size, 0.5)


def _in_another_window(picture: np.ndarray, mask: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(number)
    stretched = (picture - 0.5) * draws.uniform(0.7, 1.4) + 0.5 + draws.uniform(-0.15, 0.15)
    return stretched.clip(0, 1).astype(np.float32), mask


def clean(mask: np.ndarray, parts: int = 2, smallest_share: float = SMALLEST_SHARE) -> np.ndarray:
    """The largest connected parts of a mask (H, W), without holes; lungs that touch are one part. Corners connect.

    Args:
        mask: bool (H, W).
        parts: how many are kept at most.
        smallest_share: parts smaller than this share of the largest are left out.
    """
    from scipy import ndimage

    _check_mask(mask)
    if not mask.any():
        return mask.copy()
    numbered, count = ndimage.label(mask, np.ones((3, 3)))
    area = np.bincount(numbered.ravel(), minlength=count + 1)
    area[0] = 0
    order = np.argsort(-area, kind="stable")[:parts]
    kept = np.zeros(count + 1, bool)
    kept[order] = area[order] >= max(1, smallest_share * area.max())
    kept[0] = False
    return ndimage.binary_fill_holes(kept[numbered])


def separate(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The patient's right and left lung of a mask of both.

    The cut between them is the path from top to bottom, within the middle half of the mask's width, that runs through the least
    mask; it may lean and bend. A connected part lies on the side on which it has more of its pixels, unless both sides have
    more than `SMALLEST_SHARE` of it: lungs that touch are cut. Where even the best cut runs through much of the mask
    (`ONE_LUNG`, `ONE_NARROW_LUNG`), there is one lung only: it is taken as the right or the left one by the half of the image
    in which its centre lies, and the other is empty. Of an empty mask both are.

    Args:
        mask: bool (H, W), best after `clean`, seen from the front: the patient's right at small x.

    Returns:
        right, left: bool (H, W); they share no pixel, and together they are the mask.
    """
    from scipy import ndimage

    _check_mask(mask)
    if not mask.any():
        return mask.copy(), mask.copy()
    cut = _cut(mask)
    if cut is None:
        middle = np.nonzero(mask)[1].mean() < (mask.shape[1] - 1) / 2
        return (mask.copy(), np.zeros_like(mask)) if middle else (np.zeros_like(mask), mask.copy())
    at_right = np.arange(mask.shape[1]) < cut[:, None]
    numbered, count = ndimage.label(mask, np.ones((3, 3)))
    area = np.bincount(numbered.ravel(), minlength=count + 1)
    share = np.bincount(numbered.ravel(), (at_right & mask).ravel(), minlength=count + 1) / np.maximum(area, 1)
    whole_right, whole_left = share >= 1 - SMALLEST_SHARE, share <= SMALLEST_SHARE
    right = mask & np.where(whole_right[numbered], True, np.where(whole_left[numbered], False, at_right))
    return right, mask & ~right


def _cut(mask: np.ndarray) -> np.ndarray | None:
    """Column at which each row is cut, float (H,); None where any cut would go through one lung."""
    step = max(1, -(-max(mask.shape) // _COARSE))
    coarse = mask[step // 2 :: step, step // 2 :: step]
    columns, rows = np.flatnonzero(coarse.any(axis=0)), np.flatnonzero(coarse.any(axis=1))
    if not len(rows):  # thinner than the steps
        coarse, step = mask, 1
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    first, last = int(columns[0]), int(columns[-1]) + 1
    edge = int(_BAND * (last - first))
    band = coarse[top:bottom, first + edge : last - edge]
    if not band.shape[1]:
        return None
    path = _cheapest_path(band)
    through = np.count_nonzero(band[np.arange(len(band)), path])
    narrow = last - first < NARROW * (bottom - top)
    if through > (ONE_NARROW_LUNG if narrow else ONE_LUNG) * len(rows):
        return None
    known = (np.arange(top, bottom) * step + step // 2, (path + first + edge) * step + step // 2 + 0.5)
    return np.interp(np.arange(mask.shape[0]), *known)


def _cheapest_path(band: np.ndarray) -> np.ndarray:
    """Column per row of a path from the top to the bottom of `band`, bool (h, w), through as little of it as can be; it moves by
    at most one column a row, and of equal paths the one nearest to the middle and straightest wins: int (h,)."""
    height, width = band.shape
    aside = abs(np.arange(width) - (width - 1) / 2) / max(1, width)
    cost = band + 1e-3 * aside  # a whole path off the middle costs less than one pixel of mask
    total = np.empty((height, width))
    total[0] = cost[0]
    turn = np.array([1e-4, 0.0, 1e-4])[:, None]
    for row in range(1, height):
        padded = np.pad(total[row - 1], 1, constant_values=np.inf)
        total[row] = cost[row] + (np.stack([padded[:-2], padded[1:-1], padded[2:]]) + turn).min(axis=0)
    path = np.empty(height, int)
    path[-1] = total[-1].argmin()
    for row in range(height - 1, 0, -1):
        here = path[row]
        near = np.arange(max(0, here - 1), min(width, here + 2))
        path[row - 1] = near[(total[row - 1, near] + 1e-4 * abs(near - here)).argmin()]
    return path


def _check_mask(mask: np.ndarray) -> None:
    if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.ndim != 2:
        found = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise InputError(f"A mask is bool (H, W); found {found}.")
