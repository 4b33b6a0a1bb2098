"""Feeding Mask R-CNN: batches made by threads while the network trains, the same ones whatever their number."""

from collections.abc import Callable, Sequence
from typing import Protocol

import keras
import numpy as np

from covidcxr.errors import InputError, ParameterError
from covidcxr.maskrcnn.batches import batch, boxes_of_masks, check_image, check_objects, check_shape
from covidcxr.maskrcnn.settings import Settings

Change = Callable[[np.ndarray, np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""image (H, W), masks (n, H, W), labels (n,) and a seed -> image, masks and labels; such as `augment.apply` with its recipe."""


class Example(Protocol):
    """What a Feed is made of: `instances.Instances`, or anything else with these."""

    @property
    def name(self) -> str: ...
    @property
    def image(self) -> np.ndarray: ...  # float32 (H, W) in [0, 1]
    @property
    def masks(self) -> np.ndarray: ...  # bool (n, H, W)
    @property
    def labels(self) -> np.ndarray: ...  # int32 (n,), from 1


class Feed(keras.utils.PyDataset):
    """Examples as `MaskRCNN.fit` and `evaluate` take them, one epoch after the other.

        recipe = augment.ramesh2021()
        feed = Feed(examples, settings, (1024, 1024), 2, steps=200, change=partial(augment.apply, recipe))
        model.fit(feed, epochs=30)

    Shuffled, the examples come as one long row of passes, each pass all of them in an order of its own, and an epoch is the next
    `steps` batches of that row: none comes again before all have come. Not shuffled, every epoch starts with the first example:
    what is validated stays the same. Either way every batch is full, the last one with examples of the next pass, since
    TensorFlow and JAX compile for one shape.

    What a batch holds depends on `seed`, the epoch and its position in the epoch alone. So threads change nothing, and a training
    that goes on in epoch k with `first_epoch=k` is fed as if it had never stopped.

    Args:
        examples: see `Example`. All are checked when the feed is made. Of more instances than `settings.largest_instances` the
            largest are kept (see `dropped`); matterport's program keeps a random choice.
        settings: of the model.
        shape: height and width of the batches, multiples of 32; images are padded at the bottom and right.
        batch_size: images.
        steps: batches per epoch; None: as many as hold all examples once.
        change: what is done to an example before it enters a batch, with a new seed each time; None: nothing.
        shuffle: see above.
        seed: of the order and of `change`, not negative.
        first_epoch: how many epochs were done before.
        workers: threads. Keras starts them from 2 on; with fewer, TensorFlow still makes batches ahead on one thread of its own,
            on JAX and PyTorch the network waits for each.
        max_queue_size: batches that may be ready, with 2 workers and more; each takes 4 + `settings.largest_instances` bytes per
            pixel of its (grey) images.

    Raises:
        InputError, ParameterError: with the name of the example.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        settings: Settings,
        shape: tuple[int, int],
        batch_size: int,
        steps: int | None = None,
        change: Change | None = None,
        shuffle: bool = True,
        seed: int = 0,
        first_epoch: int = 0,
        workers: int = 2,
        max_queue_size: int = 4,
    ):
        super().__init__(workers=workers, max_queue_size=max_queue_size)
        if not len(examples):
            raise InputError("A feed needs at least one example; there is none.")
        if batch_size < 1 or (steps is not None and steps < 1):
            raise ParameterError(f"batch_size and steps must be at least 1; they are {batch_size} and {steps}.")
        self.examples, self.settings, self.shape, self.batch_size = examples, settings, shape, batch_size
        self.steps = -(-len(examples) // batch_size) if steps is None else steps
        self.change, self.shuffle, self.seed, self.epoch = change, shuffle, seed, first_epoch
        self._begun = False
        for example in examples:
            self._check(example)

    @property
    def dropped(self) -> int:
        """Instances that are left out of every pass, since their images have more than `settings.largest_instances`."""
        return sum(max(0, len(example.masks) - self.settings.largest_instances) for example in self.examples)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray]]:
        """Batch `index` of the present epoch, in the tuple in which Keras wants x alone."""
        chosen = []
        for position in range(index * self.batch_size, (index + 1) * self.batch_size):
            example = self.examples[self._row(position)]
            chosen.append((example.name, *self._changed(example, position)))
        names, images, objects = zip(*chosen, strict=True)
        return (batch(images, objects, self.settings, self.shape, names),)

    def on_epoch_begin(self) -> None:
        self._begun = True

    def on_epoch_end(self) -> None:
        # Keras also calls this before the first epoch. It is only here, with no thread at work, that the epoch may change.
        self.epoch += self._begun
        self._begun = False

    def _row(self, position: int) -> int:
        """Which example stands at a position of the present epoch."""
        if not self.shuffle:
            return position % len(self.examples)
        turn, place = divmod(self.epoch * self.steps * self.batch_size + position, len(self.examples))
        return int(np.random.default_rng((self.seed, 0, turn)).permutation(len(self.examples))[place])

    def _changed(self, example: Example, position: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """An image and its objects."""
        image, (masks, labels) = example.image, self._largest(example)
        try:
            if self.change is not None:
                seed = np.random.SeedSequence((self.seed, 1, self.epoch, position)).generate_state(1, np.uint64)
                image, masks, labels = self.change(image, masks, labels, int(seed[0]))
            return image, {"boxes": boxes_of_masks(masks), "labels": labels, "masks": masks}
        except InputError as error:
            raise InputError(f"{example.name}: {error}") from error

    def _largest(self, example: Example) -> tuple[np.ndarray, np.ndarray]:
        """Masks and labels of the largest instances, in their order."""
        masks, labels, most = example.masks, example.labels, self.settings.largest_instances
        if len(masks) <= most:
            return masks, labels
        kept = np.sort(np.argsort(-np.count_nonzero(masks, axis=(1, 2)), kind="stable")[:most])
        return masks[kept], labels[kept]

    def _check(self, example: Example) -> None:
        """Raises InputError now for what would otherwise end a training in the middle."""
        image, size = example.image, example.image.shape[:2]
        check_image(image[..., None] if image.ndim == 2 else image, example.name)
        try:
            check_shape(self.shape, size)
            masks, labels = self._largest(example)
            boxes = boxes_of_masks(masks)
        except InputError as error:
            raise InputError(f"{example.name}: {error}") from error
        check_objects(boxes, labels, masks, size, self.settings, example.name)
