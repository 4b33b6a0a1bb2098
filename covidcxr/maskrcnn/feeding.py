"""Feeding Mask R-CNN: batches made by threads while the network trains, the same ones whatever their number."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from covidcxr import feeding
from covidcxr.errors import InputError
from covidcxr.feeding import check_image
from covidcxr.maskrcnn.batches import batch, boxes_of_masks, check_objects, check_shape
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


class Feed(feeding.Feed):
    """Examples as `MaskRCNN.fit` and `evaluate` take them, one epoch after the other.

        recipe = augment.ramesh2021()
        feed = Feed(examples, settings, (1024, 1024), 2, steps=200, change=partial(augment.apply, recipe))
        model.fit(feed, epochs=30)

    Which example stands where, and how threads and a training that goes on are fed the same, says `feeding.Feed`.

    Args:
        examples: see `Example`. All are checked when the feed is made. Of more instances than `settings.largest_instances` the
            largest are kept (see `dropped`); matterport's program keeps a random choice.
        settings: of the model.
        shape: height and width of the batches, multiples of 32; images are padded at the bottom and right.
        batch_size: images.
        steps: batches per epoch; None: as many as hold all examples once.
        change: what is done to an example before it enters a batch, with a new seed each time; None: nothing.
        shuffle, seed, first_epoch, workers: as for `feeding.Feed`.
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
        super().__init__(len(examples), batch_size, steps, shuffle, seed, first_epoch, workers, max_queue_size)
        self.examples, self.settings, self.shape, self.change = examples, settings, shape, change
        for example in examples:
            self._check(example)

    @property
    def dropped(self) -> int:
        """Instances that are left out of every pass, since their images have more than `settings.largest_instances`."""
        return sum(max(0, len(example.masks) - self.settings.largest_instances) for example in self.examples)

    def make(self, drawn: list[tuple[int, int]]) -> tuple[dict[str, np.ndarray]]:
        """A batch, in the tuple in which Keras wants x alone."""
        chosen = [(self.examples[number].name, *self._changed(self.examples[number], seed)) for number, seed in drawn]
        names, images, objects = zip(*chosen, strict=True)
        return (batch(images, objects, self.settings, self.shape, names),)

    def _changed(self, example: Example, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """An image and its objects."""
        image, (masks, labels) = example.image, self._largest(example)
        try:
            if self.change is not None:
                changed = self.change(image, masks, labels, seed)
                if changed[0].any():  # a dark image that has turned black all over would teach nothing; it comes as it is
                    image, masks, labels = changed
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
