"""Radiographs and their masks as squares of one size, as zhang2020 feeds them: read once, held as bytes, kept on disk if wanted.

    v7 = datasets.open("v7_cxr", "real")
    table = v7.cases()
    pictures = squares.read(v7, table.case[table.excluded.isna()], 256, kind="lung", cache=True)
    feeding.Pictures(pictures.images[train], pictures.masks[train], batch_size=8)

Section 3 of the paper: "all of the images had their height and width resized initially to 256 pixels", so proportions change.
Section 4.2: "a threshold of 0.5 is adapted so that all pixels that have a value of 0.5 or below are set to 0 and the rest are
set to 1". In V7's masks the lung is 255 and "Ignore" 127, which is 0.498: the threshold makes it background, and so does `read`.

Grey values are rounded to eight bits, which is what the published pictures have; six thousand squares of 256 pixels then take
420 MB, not 1.7 GB. A cache on disk is mapped into memory, so that processes share it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from covidcxr import paths
from covidcxr.errors import InputError, ParameterError
from covidcxr.fingerprint import digest, module_parts
from covidcxr.resizing import resize

if TYPE_CHECKING:
    from covidcxr.datasets.base import Dataset

MASK_THRESHOLD = 0.5


class Greys(Sequence):
    """Images (S, S), float32 in [0, 1], made of bytes when they are asked for. An array of numbers or of bool takes several, as
    NumPy's does; a single number one image.

    Attributes:
        bytes: uint8 (N, S, S).
    """

    def __init__(self, stored: np.ndarray):
        self.bytes = stored

    def __len__(self) -> int:
        return len(self.bytes)

    def __getitem__(self, index):
        chosen = self.bytes[index]
        return chosen.astype(np.float32) / np.float32(255) if chosen.ndim == 2 else Greys(chosen)


@dataclass(frozen=True, eq=False)
class Squares:
    """Square pictures of one data set.

    Attributes:
        cases, patients: N names each.
        images: N float32 (S, S) in [0, 1].
        masks: bool (N, S, S); None where none were asked for.
    """

    cases: list[str]
    patients: list[str]
    images: Greys
    masks: np.ndarray | None

    def __len__(self) -> int:
        return len(self.cases)

    def take(self, chosen) -> Squares:
        """Some of the pictures: an array of numbers, or of bool with one for each."""
        numbers = np.arange(len(self))[np.asarray(chosen)]
        return Squares(
            [self.cases[i] for i in numbers], [self.patients[i] for i in numbers], self.images[numbers],
            None if self.masks is None else self.masks[numbers],
        )

    def digest(self) -> str:
        """Hash of names, images and masks: what a training that is loaded again must have been made from."""
        hashed = hashlib.sha256(repr((self.cases, self.images.bytes.shape, self.masks is None)).encode())
        for i in range(len(self)):
            hashed.update(self.images.bytes[i].tobytes())
            if self.masks is not None:
                hashed.update(np.packbits(self.masks[i]).tobytes())
        return hashed.hexdigest()


def read(dataset: Dataset, cases: Iterable[str], size: int, kind: str | None = "lung", cache: bool = False) -> Squares:
    """The pictures of a data set, resized to `size` x `size` pixels: area means where they shrink, linear where they grow.

    Args:
        dataset: of `datasets.open`.
        cases: names of its cases.
        kind: of the masks; a pixel belongs to it where more than half of its area does. None: no masks.
        cache: keep the squares in the folder of caches, under the hash of all that they depend on, and take them from there.

    Raises:
        InputError: no case, an image that cannot be read, or one that has no mask or one of another size; it says which.
    """
    names = [str(case) for case in cases]
    if not names:
        raise InputError(f"{dataset.name}: no case is left to read.")
    if size < 1:
        raise ParameterError(f"size is a number of pixels, at least 1; found {size!r}.")
    patient = dataset.cases().set_index("case").patient
    unknown = [name for name in names if name not in patient.index]
    if unknown:
        dataset.row(unknown[0])  # says which, and the nearest name
    patients = patient[names].astype(str).tolist()
    stored = _cached(dataset, names, size, kind) if cache else _read(dataset, names, size, kind, _in_memory)
    return Squares(names, patients, Greys(stored["images"]), stored.get("masks"))


def _types(kind: str | None) -> dict[str, type]:
    """Type of the array of each part."""
    return {"images": np.uint8} if kind is None else {"images": np.uint8, "masks": np.bool_}


def _in_memory(part: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.empty(shape, dtype)


def _read(dataset: Dataset, names: list[str], size: int, kind: str | None, make) -> dict[str, np.ndarray]:
    """Arrays by part; `make` gives the empty ones, by part, shape and type."""
    arrays = {part: make(part, (len(names), size, size), dtype) for part, dtype in _types(kind).items()}

    def fill(number: int) -> None:
        image = dataset.image(names[number])
        arrays["images"][number] = np.round(resize(image, (size, size)).clip(0, 1) * 255)
        if kind is not None:
            mask = resize(dataset.mask(names[number], kind).astype(np.float32), (size, size))
            arrays["masks"][number] = mask > MASK_THRESHOLD

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding and resizing leave Python free for other threads
        for _ in pool.map(fill, range(len(names))):
            pass
    return arrays


def _cached(dataset: Dataset, names: list[str], size: int, kind: str | None) -> dict[str, np.ndarray]:
    from covidcxr.datasets.manifests import folder_digest

    content = folder_digest(dataset.folder)["sha256"]
    key = digest([content, names, size, kind, module_parts({__name__, type(dataset).__module__})])[:24]
    folder = paths.cache_dir() / "squares" / f"{dataset.name}-{size}-{key}"
    kept = _load(folder, (len(names), size, size), kind)
    if kept is None:
        shutil.rmtree(folder, ignore_errors=True)  # damaged, if there
        aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.making")
        aside.mkdir(parents=True)
        try:
            _read(dataset, names, size, kind, lambda part, shape, dtype: _on_disk(aside / f"{part}.npy", shape, dtype))
            if not folder.is_dir():  # another process may have been quicker
                os.replace(aside, folder)
        except OSError as error:
            if not folder.is_dir():
                reason = error.strerror or error
                raise InputError(f"{folder} can't be written: {reason}. Free the disk, or set cache=False.") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        kept = _load(folder, (len(names), size, size), kind)
    if kept is None:
        raise InputError(f"{folder} can't be read, although it has just been written. Delete it, or set cache=False.")
    return kept


def _load(folder: Path, shape: tuple[int, ...], kind: str | None) -> dict[str, np.ndarray] | None:
    """The arrays of a cache, mapped into memory; None where one is missing or damaged."""
    arrays: dict[str, np.ndarray] = {}
    for part, dtype in _types(kind).items():
        try:
            arrays[part] = np.lib.format.open_memmap(folder / f"{part}.npy", mode="r")
        except Exception:  # whatever a damaged header leads to in NumPy
            return None
        if arrays[part].shape != shape or arrays[part].dtype != dtype:
            return None
    return arrays


def _on_disk(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
