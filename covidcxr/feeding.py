"""Feeding networks: batches made by threads while a network trains, the same ones whatever their number.

`Feed` says which example stands where, and with which seed it is changed. What it makes of them is its subclasses':
`Pictures` here, for segmentation, `Labelled`, for classification, and `maskrcnn.feeding.Feed`.

    recipe = augment.tang2020(320)
    feed = partial(Pictures, images, masks, 8, steps=75, augment=partial(augment.draw, recipe))
    training.fit_or_load(model, lambda done: feed(first_epoch=done), epochs=50, …,
                         validation=Pictures(other_images, other_masks, 8, shuffle=False))
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from covidcxr.errors import InputError, ParameterError

Augment = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""image (H, W) or (H, W, C), masks (n, H, W) and a seed -> image and all n masks; such as `augment.draw` with its recipe."""


class Feed(keras.utils.PyDataset, ABC):
    """Batches of numbered examples, one epoch after the other; a subclass says in `make` what is in them.

    Shuffled, the examples come as one long row of passes, each pass all of them in an order of its own, and an epoch is the next
    `steps` batches of that row: none comes again before all have come. Not shuffled, every epoch starts with the first example:
    what is validated stays the same. Either way every batch is full, the last one with examples of the next pass, since
    TensorFlow and JAX compile for one shape.

    What a batch holds depends on `seed`, the epoch and its position in the epoch alone. So threads change nothing, and a training
    that goes on in epoch k with `first_epoch=k` is fed as if it had never stopped. On JAX and PyTorch Keras would mix this up:
    `training.fit_or_load` sees to it; before a plain `fit` there, call `training.build`.

    Args:
        count: of examples.
        batch_size: examples.
        steps: batches per epoch; None: as many as hold all examples once.
        shuffle: see above.
        seed: of the order and of all changes, not negative.
        first_epoch: how many epochs were done before.
        workers: threads. Keras starts them from 2 on; with fewer, TensorFlow still makes batches ahead on one thread of its own,
            on JAX and PyTorch the network waits for each.
        max_queue_size: batches that may be ready, with 2 workers and more.

    Raises:
        InputError, ParameterError: there is no example, or a number is out of its range.
    """

    def __init__(
        self, count: int, batch_size: int, steps: int | None, shuffle: bool, seed: int, first_epoch: int,
        workers: int, max_queue_size: int,
    ):  # fmt: skip
        super().__init__(workers=workers, max_queue_size=max_queue_size)
        if not count:
            raise InputError("A feed needs at least one example; there is none.")
        if batch_size < 1 or (steps is not None and steps < 1):
            raise ParameterError(f"batch_size and steps must be at least 1; they are {batch_size} and {steps}.")
        self.count, self.batch_size, self.shuffle, self.seed, self.epoch = count, batch_size, shuffle, seed, first_epoch
        self.steps = -(-count // batch_size) if steps is None else steps
        self._begun = False

    @abstractmethod
    def make(self, drawn: list[tuple[int, int]]) -> tuple[Any, ...]:
        """A batch, as Keras' `fit` wants it, of examples by their numbers, each with a seed for its change."""

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Batch `index` of the present epoch."""
        positions = range(index * self.batch_size, (index + 1) * self.batch_size)
        return self.make([(self._number(position), self._seed(position)) for position in positions])

    def on_epoch_begin(self) -> None:
        """Called by Keras: batches are being taken."""
        self._begun = True

    def on_epoch_end(self) -> None:
        """Called by Keras: go on to the next epoch's order and changes."""
        # Keras also calls this before the first epoch. It is only here, with no thread at work, that the epoch may change.
        self.epoch += self._begun
        self._begun = False

    def _number(self, position: int) -> int:
        """Which example stands at a position of the present epoch."""
        if not self.shuffle:
            return position % self.count
        turn, place = divmod(self.epoch * self.steps * self.batch_size + position, self.count)
        return int(np.random.default_rng((self.seed, 0, turn)).permutation(self.count)[place])

    def _seed(self, position: int) -> int:
        return int(np.random.SeedSequence((self.seed, 1, self.epoch, position)).generate_state(1, np.uint64)[0])


class Pictures(Feed):
    """Images with one mask each, as a segmentation network's `fit` and `evaluate` take them.

    A batch is (images, masks): float32 (B, S, S, 3) in [0, 1], a grey image three times, and float32 (B, S, S, 1), 0 or 1. There
    are no weights. Heights and widths need not be equal.

    Args:
        images: each float32 (H, W) or (H, W, 3) in [0, 1].
        masks: each bool (H, W), its image's size.
        batch_size: images.
        steps: batches per epoch; None: as many as hold all images once.
        augment: what is done to an image and its mask before they enter a batch, with a new seed each time, such as
            `partial(augment.draw, augment.tang2020(320))`; None: nothing. What comes out must be of one size.
        seed, first_epoch, shuffle, workers, max_queue_size: as for `Feed`. Validate with `shuffle=False`.

    Raises:
        InputError, ParameterError: with the image's number; also where a batch is made, of what `augment` gave.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        masks: Sequence[np.ndarray],
        batch_size: int,
        steps: int | None = None,
        augment: Augment | None = None,
        seed: int = 0,
        first_epoch: int = 0,
        shuffle: bool = True,
        workers: int = 2,
        max_queue_size: int = 4,
    ):
        super().__init__(len(images), batch_size, steps, shuffle, seed, first_epoch, workers, max_queue_size)
        if len(masks) != len(images):
            raise InputError(f"Each image has one mask; there are {len(images)} images and {len(masks)} masks.")
        self.images, self.masks, self.augment = images, masks, augment
        for number in range(self.count):
            self._check(number)

    def make(self, drawn: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Images (B, S, S, 3) and masks (B, S, S, 1), float32, each pair changed with its seed.

        Raises:
            InputError: `augment` gave something else than pictures with masks, or several sizes.
        """
        made = [self._one(number, seed) for number, seed in drawn]
        sizes = {mask.shape for _, mask in made}
        if len(sizes) != 1:
            raise InputError(f"The images of a batch must be of one size; after `augment` here are {sorted(sizes)}.")
        images, masks = zip(*made, strict=True)
        return np.stack(images), np.stack(masks)[..., None].astype("float32")

    def _one(self, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The image (S, S, 3) and the mask (S, S)."""
        image, mask = self.images[number], self.masks[number]
        if self.augment is not None:
            try:
                image, (mask,) = self.augment(image, mask[None], seed)
            except InputError as error:
                raise InputError(f"image {number}: {error}") from error
        return _three_channels(image), mask

    def _check(self, number: int) -> None:
        """Raises InputError now for what would otherwise end a training in the middle."""
        image, mask = self.images[number], self.masks[number]
        _check_picture(image, f"image {number}")
        if mask.dtype != bool or mask.shape != image.shape[:2]:
            raise InputError(
                f"image {number}: its mask must be bool {image.shape[:2]}, as the image; it is {mask.dtype} {mask.shape}."
            )
        if self.augment is None and mask.shape != self.masks[0].shape:
            raise InputError(
                f"image {number}: without `augment` all images must be of one size; this one is {mask.shape}, the first "
                f"{self.masks[0].shape}."
            )


class Labelled(Feed):
    """Images with one label each, yes or no, as a classifier's `fit` and `evaluate` take them.

    A batch is (images, labels): float32 (B, H, W, 3) in [0, 1], a grey image three times, and float32 (B, 1), 0 or 1. Not
    shuffled, an epoch is every image once and the last batch holds what is left: by the loss of these images a training may be
    stopped.

    Args:
        images: float32 in [0, 1], (H, W) or (H, W, 3), all of one size.
        labels: bool, one per image.
        batch_size, steps, seed, first_epoch, shuffle, workers, max_queue_size: as for `Feed`.

    Raises:
        InputError, ParameterError: with the image's number.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        labels: Sequence[bool] | np.ndarray,
        batch_size: int,
        steps: int | None = None,
        seed: int = 0,
        first_epoch: int = 0,
        shuffle: bool = True,
        workers: int = 2,
        max_queue_size: int = 4,
    ):
        super().__init__(len(images), batch_size, steps, shuffle, seed, first_epoch, workers, max_queue_size)
        if len(labels) != len(images):
            raise InputError(f"Each image has one label; there are {len(images)} images and {len(labels)} labels.")
        self.images, self.labels = images, np.asarray(labels)
        if self.labels.dtype != bool:
            raise InputError(f"Labels must be bool, none missing; these are {self.labels.dtype}.")
        if not shuffle and steps is not None:
            raise ParameterError("Not shuffled, an epoch is every image once: leave steps out.")
        for number in range(self.count):
            image = self.images[number]
            _check_picture(image, f"image {number}")
            if image.shape != self.images[0].shape:
                raise InputError(
                    f"image {number}: images must be of one size; this one is {image.shape}, the first {self.images[0].shape}."
                )

    def make(self, drawn: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Images (B, H, W, 3) and labels (B, 1), float32; seeds are not used."""
        numbers = [number for number, _ in drawn]
        images = np.stack([_three_channels(self.images[number]) for number in numbers])
        return images, self.labels[numbers, None].astype("float32")

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        images, labels = super().__getitem__(index)
        left = len(images) if self.shuffle else self.count - index * self.batch_size
        return images[:left], labels[:left]


def _three_channels(image: np.ndarray) -> np.ndarray:
    """A grey image (H, W) three times; one of three channels as it is."""
    return np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image


def _check_picture(image: np.ndarray, name: str) -> None:
    """Raises InputError unless `image` is float32, (H, W) or (H, W, 3), and as `check_image` wants it."""
    check_image(image[..., None] if image.ndim == 2 else image, name)
    if image.shape[2:] not in ((), (3,)) or image.dtype != np.float32:
        raise InputError(f"{name}: an image must be float32 (H, W) or (H, W, 3); this one is {image.dtype} {image.shape}.")


def check_image(image: np.ndarray, name: str) -> None:
    """Raises InputError unless `image` is (H, W, 1) or (H, W, 3), floating, finite, in [0, 1] and not empty."""
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or 0 in image.shape:
        raise InputError(f"{name}: an image must be (H, W), (H, W, 1) or (H, W, 3); this one is {image.shape}.")
    if not np.issubdtype(image.dtype, np.floating):
        raise InputError(
            f"{name}: an image must be floating, in [0, 1]; this one is {image.dtype}, {image.min()} ... {image.max()}. "
            "Divide 8-bit images by 255; window 16-bit images and CT first."
        )
    low, high = float(image.min()), float(image.max())
    if not np.isfinite(low + high):
        row, column = np.argwhere(~np.isfinite(image))[0][:2]
        bad = int((~np.isfinite(image)).sum())
        raise InputError(f"{name}: {bad} pixels are NaN or infinite, the first in row {row}, column {column}.")
    if low < 0 or high > 1:
        kind = "8-bit, to be divided by 255" if 0 <= low and high <= 255 else "16-bit or CT, to be windowed to [0, 1]"
        raise InputError(f"{name}: an image must be in [0, 1]; this one goes from {low:g} to {high:g}. It may be {kind}.")
    if high == 0:
        raise InputError(f"{name}: all pixels are 0. Was it read, and windowed, as it should?")


def check_classes(normal: Sequence[np.ndarray], lesioned: Sequence[np.ndarray]) -> None:
    """Raises InputError unless there are images of both classes, all of one size."""
    if not len(normal):
        raise InputError(
            f"There are no normal images among the {len(lesioned)} for training. What a lesion is, is learned from the "
            "difference to normal images: take slices without lesions too, such as those of healthy people (set cc_ccii), or "
            "the slices without lesion of the same volumes."
        )
    if not len(lesioned):
        raise InputError(f"The {len(normal)} training images are all of one class, normal: there is no lesion to be learned.")
    shapes = {np.shape(images[i]) for images in (normal, lesioned) for i in range(len(images))}
    if len(shapes) > 1 or len(next(iter(shapes))) != 2:
        raise InputError(f"Images must be (H, W) and of one size; here are {sorted(shapes)}.")
