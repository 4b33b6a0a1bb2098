"""Pictures with their objects, one mask each, as instance segmentation learns from them.

A mask of a data set says which pixels are lesion, or lung; an *instance* is one connected region of it. Pictures are shrunk or
enlarged so that their longer side has the wanted length, keeping their proportions (matterport's "square" mode, but padded only
when a batch is made).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from covidcxr.errors import InputError
from covidcxr.labels import regions
from covidcxr.paths import write_atomically
from covidcxr.resizing import resize

if TYPE_CHECKING:
    from covidcxr.datasets.base import Dataset

SMALLEST_SHARE = 5e-4
"""Smallest region that counts as an object, as a share of the picture: 2.3 % of its sides. Specks of an outline are no lesion,
and radiographs here have no spacing that would give millimetres."""

MASKS = "masks.csv"


@dataclass(frozen=True, eq=False)
class Instances:
    """A picture with its objects.

    Attributes:
        name: of the case.
        patient: whom it shows.
        image: float32 (H, W) in [0, 1].
        masks: bool (n, H, W), one per object; n may be 0.
        labels: int32 (n,), classes, from 1.
        original: height and width of the picture before it was fitted.
    """

    name: str
    patient: str
    image: np.ndarray
    masks: np.ndarray
    labels: np.ndarray
    original: tuple[int, int]

    @property
    def union(self) -> np.ndarray:
        """All objects together, bool (H, W)."""
        return np.any(self.masks, axis=0)


def fit(picture: np.ndarray, longer_side: int) -> np.ndarray:
    """A picture (H, W), float or bool, whose longer side has been brought to `longer_side` pixels.

    A mask keeps the pixels that it covers by more than half.
    """
    scale = longer_side / max(picture.shape)
    height, width = (max(1, round(side * scale)) for side in picture.shape)
    return stretch(picture, (height, width))


def stretch(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A picture (H, W), float or bool, brought to `shape`, whatever becomes of its proportions; masks as in `fit`."""
    stretched = resize(picture.astype(np.float32), shape).clip(0.0, 1.0)
    return stretched.round().astype(bool) if picture.dtype == bool else stretched


def instances(name: str, patient: str, image: np.ndarray, masks: Sequence[np.ndarray], longer_side: int) -> Instances:
    """A fitted picture with the regions of its masks.

    Args:
        name: of the case.
        patient: whom it shows.
        image: float32 (H, W) in [0, 1].
        masks: bool (H, W), one per class; the regions of the first have label 1, and so on. Regions below `SMALLEST_SHARE` are
            left out.
        longer_side: pixels.
    """
    picture = fit(image, longer_side)
    smallest = max(1, int(np.ceil(SMALLEST_SHARE * picture.size)))
    found, labels = [], []
    for label, mask in enumerate(masks, 1):
        if mask.shape != image.shape:
            raise InputError(f"{name}: mask {label} is {mask.shape}, the picture {image.shape}.")
        for region in regions(fit(mask, longer_side), smallest):
            x0, y0, x1, y1 = region.box.astype(int)
            whole = np.zeros(picture.shape, bool)
            whole[y0:y1, x0:x1] = region.mask
            found.append(whole)
            labels.append(label)
    stacked = np.stack(found) if found else np.zeros((0, *picture.shape), bool)
    return Instances(name, patient, picture, stacked, np.array(labels, np.int32), (image.shape[0], image.shape[1]))


def of_dataset(dataset: Dataset, cases: Iterable[str], kinds: Sequence[str], longer_side: int) -> list[Instances]:
    """The pictures of a data set with the regions of its masks.

    Args:
        dataset: of `datasets.open`.
        cases: names of its cases.
        kinds: kinds of masks, one per class: ("lesion",) or ("left_lung", "right_lung").
        longer_side: pixels.
    """
    patient = dataset.cases().set_index("case").patient

    def read(case: str) -> Instances:
        masks = [dataset.mask(case, kind) for kind in kinds]
        return instances(case, str(patient[case]), dataset.image(case), masks, longer_side)

    return _side_by_side(read, cases)


def of_projections(projections: Path, labels: Path, longer_side: int) -> list[Instances]:
    """The radiographs projected from CT, with the polygons of their lesions as pycocotools fills them.

    Args:
        projections: folder of the stage `ct_projection`, whose pictures are 16-bit.
        labels: folder `labels` of the stage `label_generation`, with `coco.json` and `images.csv`.
        longer_side: pixels.
    """
    import cv2

    from covidcxr.datasets.coco import CocoMasks
    from covidcxr.datasets.images import stem
    from covidcxr.datasets.tables_of_cases import inside, read_csv

    lesions = CocoMasks(labels / "coco.json", kind_of=str)
    table = read_csv(labels / "images.csv", ("image", "set", "case", "patient"))

    def read(row) -> Instances:
        path = projections / inside(row.image, labels / "images.csv")
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if picture is None or picture.dtype != np.uint16 or picture.ndim != 2:
            raise InputError(f"{path}: a 16-bit grey picture is expected; run the stage ct_projection again.")
        lesion = lesions.mask(stem(row.image), "lesion", picture.shape)
        return instances(row.set + "/" + row.case, row.patient, picture / np.float32(65535), [lesion], longer_side)

    return _side_by_side(read, table.itertuples())


def digest(pictures: Iterable[Instances]) -> str:
    """Hash of pictures with their objects, pixel by pixel: what a training that is loaded again must have been made from."""
    hashed = hashlib.sha256()
    for picture in pictures:
        hashed.update(repr((picture.name, picture.masks.shape, picture.labels.tolist())).encode())
        hashed.update(np.ascontiguousarray(picture.image).tobytes())
        hashed.update(np.packbits(picture.masks).tobytes())
    return hashed.hexdigest()


def draw(pictures: Sequence[Instances], count: int, seed: int) -> list[Instances]:
    """`count` of the pictures, drawn at random, in their order; all of them where there are fewer."""
    drawn = np.random.default_rng(seed).permutation(len(pictures))[:count]
    return [pictures[i] for i in np.sort(drawn)]


def unlike(pictures: Sequence[Instances], others: Sequence[Instances]) -> list[Instances]:
    """The pictures of which no near-duplicate is among the others (see `datasets.near_duplicates`)."""
    from covidcxr.datasets.near_duplicates import fingerprint, near_duplicates

    pairs = near_duplicates([fingerprint(picture.image) for picture in [*others, *pictures]])
    twins = {j - len(others) for i, j, _, _ in pairs if i < len(others) <= j}
    return [picture for k, picture in enumerate(pictures) if k not in twins]


def save_masks(folder: Path, masks: Mapping[str, np.ndarray]) -> None:
    """Masks, bool (H, W), by name: one PNG each, black and white, and `masks.csv`, which says whose it is."""
    import cv2
    import pandas as pd

    folder.mkdir(parents=True, exist_ok=True)
    files = {name: f"{number:04}.png" for number, name in enumerate(masks)}
    for name, file in files.items():
        _, encoded = cv2.imencode(".png", masks[name].astype(np.uint8) * 255)
        write_atomically(folder / file, encoded.tobytes())
    write_atomically(folder / MASKS, pd.DataFrame({"name": files.keys(), "file": files.values()}).to_csv(index=False))


def load_masks(folder: Path) -> dict[str, np.ndarray]:
    """The masks of `save_masks`, by name."""
    from covidcxr.datasets.images import read_labels
    from covidcxr.datasets.tables_of_cases import inside, read_csv

    table = read_csv(folder / MASKS, ("name", "file"))
    return {row["name"]: read_labels(folder / inside(row["file"], folder / MASKS)) > 0 for row in table.to_dict("records")}


def _side_by_side(read: Callable, items: Iterable) -> list:
    """`read` of every item, in order; decoding and resizing leave Python free for other threads."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(read, items))
