"""From pictures to found objects in the pictures' own pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from keras import ops

from covidcxr.errors import InputError
from covidcxr.maskrcnn.batches import batch
from covidcxr.maskrcnn.masks import paste_masks
from covidcxr.maskrcnn.pixels import normalise

if TYPE_CHECKING:
    from covidcxr.maskrcnn.model import MaskRCNN

NO_OBJECTS = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0), "masks": np.zeros((0, 0, 0), bool)}


class Picture(Protocol):
    """What `find` needs of a picture: its name, float32 (H, W), and height and width of the original it was fitted from."""

    @property
    def name(self) -> str: ...
    @property
    def image(self) -> np.ndarray: ...
    @property
    def original(self) -> tuple[int, int]: ...


@dataclass(frozen=True, eq=False)
class Found:
    """Objects found in one picture, best first, in pixels of the original.

    Attributes:
        shape: height and width of the original.
        boxes: float32 (n, 4).
        scores: float32 (n,).
        labels: int32 (n,), from 1.
        masks: float32 (n, m, m), probabilities within the box.
    """

    shape: tuple[int, int]
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: np.ndarray

    def above(self, score: float) -> Found:
        """Those whose score is at least `score`."""
        kept = self.scores >= score
        return Found(self.shape, self.boxes[kept], self.scores[kept], self.labels[kept], self.masks[kept])

    def resized(self, shape: tuple[int, int]) -> Found:
        """The same in a picture of height and width `shape`."""
        down, along = shape[0] / self.shape[0], shape[1] / self.shape[1]
        return Found(shape, self.boxes * np.array([along, down, along, down], "float32"), self.scores, self.labels, self.masks)

    def whole_masks(self, threshold: float = 0.5) -> np.ndarray:
        """bool (n, H, W), one after the other, so that n float pictures are never held at once."""
        whole = np.zeros((len(self.boxes), *self.shape), bool)
        for mask, box, canvas in zip(self.masks, self.boxes, whole, strict=True):
            canvas[:] = paste_masks(mask[None], box[None], *self.shape)[0] >= threshold
        return whole

    def union(self, threshold: float = 0.5) -> np.ndarray:
        """All objects together, bool (H, W)."""
        together = np.zeros(self.shape, bool)
        for mask, box in zip(self.masks, self.boxes, strict=True):
            together |= paste_masks(mask[None], box[None], *self.shape)[0] >= threshold
        return together


def find(model: MaskRCNN, pictures: Sequence[Picture], shape: tuple[int, int], batch_size: int = 2) -> list[Found]:
    """What the model finds in each picture.

    Args:
        model: a trained `MaskRCNN`.
        pictures: such as `instances.Instances`; their objects are not looked at.
        shape: height and width that pictures are padded to; one shape is compiled once.
        batch_size: pictures at a time. The last ones are filled up, so that no other shape is compiled.
    """
    if not pictures:
        raise InputError("There is no picture to look at.")
    found: list[Found] = []
    for start in range(0, len(pictures), batch_size):
        part = list(pictures[start : start + batch_size])
        filled = part + part[-1:] * (batch_size - len(part))
        arrays = batch([p.image for p in filled], [NO_OBJECTS] * batch_size, model.settings, shape, [p.name for p in filled])
        detections = model.predict_on_batch({"images": arrays["images"], "sizes": arrays["sizes"]})
        for i, picture in enumerate(part):
            found.append(_of_picture({key: np.asarray(value[i]) for key, value in detections.items()}, picture))
    return found


def proposed(model: MaskRCNN, picture: Picture, shape: tuple[int, int]) -> np.ndarray:
    """The boxes that the proposal network hands on for a picture, best first: float32 (n, 4), in pixels of `picture.image`."""
    images, sizes, _ = model.read(batch([picture.image], [NO_OBJECTS], model.settings, shape, [picture.name]))
    maps = model.feature_maps(normalise(images, sizes, model.settings.pixels))
    logits, deltas = model.rpn_outputs(maps)
    proposals = model.proposals(model.anchors_of(maps), logits, deltas, sizes)
    boxes, valid = (ops.convert_to_numpy(proposals[key][0]) for key in ("boxes", "valid"))
    return boxes[valid]


def _of_picture(detections: dict[str, np.ndarray], picture: Picture) -> Found:
    kept = detections["valid"].astype(bool)
    boxes, scores, labels, masks = (detections[key][kept] for key in ("boxes", "scores", "labels", "masks"))
    return Found(picture.image.shape, boxes, scores, labels, masks).resized(picture.original)
