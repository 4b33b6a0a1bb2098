"""What every data set offers: a table of cases, lazy loading of images, volumes and masks, and a verifier.

A set's own module says which layouts it takes and makes the table (`_rows`); loading and checking are the same for all.
"""

from __future__ import annotations

import abc
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from covidcxr.datasets.images import is_volume, read_image, read_labels, read_size, united
from covidcxr.datasets.tables_of_cases import COLUMNS, case_table, paths_in
from covidcxr.errors import InputError, did_you_mean

if TYPE_CHECKING:
    import pandas

    from covidcxr.volumes import Volume

__all__ = ["COLUMNS", "Dataset", "case_table"]


class Dataset(abc.ABC):
    """A data set in its folder. Made by `datasets.open`.

    Attributes:
        name: name of the set.
        folder: where it lies; the table's paths are relative to it.
        phantom: True for an embedded synthetic cohort.
        LABELS: kind of mask -> (column of the table, label values that count; None: everything but 0). Kinds made of several
            columns are given as a tuple of kinds in `UNIONS`.
        EXPECTED_LABELS: column -> label values that may occur in its files; for the verifier.
    """

    LABELS: dict[str, tuple[str, tuple[int, ...] | None]] = {}
    UNIONS: dict[str, tuple[str, ...]] = {}
    EXPECTED_LABELS: dict[str, tuple[int, ...]] = {}
    SUPPORT_FILES: tuple[str, ...] = ()  # files the set needs besides the images and masks of the table
    OPTIONAL_FILES: tuple[str, ...] = ()  # files that may also be there (patterns)

    def __init__(self, name: str, folder: Path, phantom: bool = False):
        self.name = name
        self.folder = folder
        self.phantom = phantom
        self._cases: pandas.DataFrame | None = None
        self._last_volume: tuple[tuple[Path, tuple[float, float] | None], Volume] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} in {self.folder}>"

    # ---- table -------------------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _rows(self) -> list[dict]:
        """The cases found in the folder, one dict each (keys of `COLUMNS`, then the set's own)."""

    @property
    def _indexed(self) -> pandas.DataFrame:
        """The table by case, read once."""
        if self._cases is None:
            self._cases = case_table(self._rows(), self.folder).set_index("case", drop=False)
        return self._cases

    def cases(self) -> pandas.DataFrame:
        """pandas.DataFrame, one row per case: `COLUMNS`, then the columns of this set. A fresh copy at every call.

        Raises:
            InputError: the folder holds no case in a layout that this set takes, or a table of it is not readable.
        """
        return self._indexed.reset_index(drop=True).copy()

    def row(self, case: str) -> dict:
        """The table's row of one case; InputError with the nearest name when there is none."""
        table = self._indexed
        if case not in table.index:
            hint = did_you_mean(case, table.index)
            raise InputError(f"{self.name} has no case {case!r}.{hint} Its {len(table)} cases: datasets.open(...).cases()")
        return table.loc[case].to_dict()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of masks that this set has."""
        return (*self.LABELS, *self.UNIONS)

    def _check_kind(self, kind: str) -> None:
        if kind not in self.kinds:
            hint = did_you_mean(kind, self.kinds)
            has = ", ".join(self.kinds) or "none"
            raise InputError(f"{self.name} has no masks of kind {kind!r}.{hint} Its kinds: {has}.")

    def _image_path(self, row: dict, volume: bool) -> Path:
        case = row["case"]
        if row["image"] is None:
            raise InputError(f"{self.name}: case {case} is a row of a table without an image")
        if is_volume(row["image"]) != volume:
            raise InputError(
                f"{self.name}: case {case} is a CT volume: use volume() and volume_mask()"
                if not volume
                else f"{self.name}: case {case} is a picture, not a volume: use image() and mask()"
            )
        return self.folder / row["image"]

    # ---- pictures ----------------------------------------------------------------------------------------------------

    def image(self, case: str) -> np.ndarray:
        """Radiograph or slice, float32 (H, W) in [0, 1]: luminance of colour pictures; the stored size, not resampled."""
        return read_image(self._image_path(self.row(case), volume=False))

    def mask(self, case: str, kind: str) -> np.ndarray:
        """Mask of a picture, bool (H, W), of the picture's size.

        Raises:
            InputError: this set has no such kind, this case has no such mask, or its size differs from the picture's.
        """
        self._check_kind(kind)
        if kind in self.UNIONS:
            return united(self.mask(case, part) for part in self._parts(case, kind))
        row = self.row(case)
        image = self._image_path(row, volume=False)
        column = self.LABELS[kind][0]
        files = paths_in(row[column])
        if not files:
            raise InputError(f"{self.name}: case {case} has no mask of kind {kind!r} (column {column} of its row is empty)")
        union = np.zeros(read_size(image), bool)
        for file in files:
            labels = read_labels(self.folder / file)
            if labels.shape != union.shape:
                raise InputError(
                    f"{self.folder / file}: the mask has {labels.shape[0]} x {labels.shape[1]} pixels, its image "
                    f"{image.name} {union.shape[0]} x {union.shape[1]} (height x width)"
                )
            union |= self.select(row, kind, labels)
        return union

    def _parts(self, case: str, kind: str) -> list[str]:
        """The parts of a union that a case has; all of them where it has none, so that the error names one."""
        row = self.row(case)
        return [part for part in self.UNIONS[kind] if paths_in(row[self.LABELS[part][0]])] or list(self.UNIONS[kind])

    def select(self, row: dict, kind: str, labels: np.ndarray) -> np.ndarray:
        """Where a kind's label values lie in one file's labels; bool of their shape."""
        values = self.LABELS[kind][1]
        if values is None:
            return labels > 0
        chosen = labels == values[0]
        for value in values[1:]:  # a few comparisons: np.isin would hold eight bytes per voxel
            chosen |= labels == value
        return chosen

    # ---- volumes -----------------------------------------------------------------------------------------------------

    def volume(self, case: str, window: tuple[float, float] | None = None) -> Volume:
        """CT volume, `covidcxr.volumes.Volume`: int16 voxels (X, Y, Z) in RAS+ order, spacing in mm, units.

        Args:
            case: name of the case.
            window: (low, high) in HU, for a volume stored as grey values of that window: HU are re-derived from it.

        The last volume read is kept, so that its masks do not read it again; it is shared: do not write into it.
        """
        from covidcxr import volumes

        key = (self._image_path(self.row(case), volume=True), window)
        if self._last_volume is None or self._last_volume[0] != key:
            self._last_volume = None  # two of them may not fit into memory
            self._last_volume = (key, volumes.read_volume(key[0], window))
        return self._last_volume[1]

    def volume_mask(self, case: str, kind: str) -> np.ndarray:
        """Mask of a volume, bool (X, Y, Z), in the orientation of `volume(case).voxels`.

        Raises:
            InputError: no such kind or mask, or its shape or affine differs from the volume's.
        """
        from covidcxr import volumes

        self._check_kind(kind)
        if kind in self.UNIONS:
            return united(self.volume_mask(case, part) for part in self._parts(case, kind))
        row = self.row(case)
        image = self._image_path(row, volume=True)
        column = self.LABELS[kind][0]
        files = paths_in(row[column])
        if not files:
            raise InputError(f"{self.name}: case {case} has no mask of kind {kind!r} (column {column} of its row is empty)")
        last = self._last_volume  # with or without a window: the grid is the same
        like = last[1] if last is not None and last[0][0] == image else self.volume(case)
        return united(self.select(row, kind, volumes.read_mask(self.folder / file, like)) for file in files)

    # ---- verification ------------------------------------------------------------------------------------------------

    def verify(self, near_duplicates: bool = True, workers: int = 2):
        """Check every file; see `covidcxr.datasets.verification.verify`. Never raises for a fault of the data."""
        from covidcxr.datasets.verification import verify

        return verify(self, near_duplicates=near_duplicates, workers=workers)

    def _check_case(self, row: dict, report) -> dict:
        """Checks of one case. A set with masks of another form overrides it; see `checks`."""
        from covidcxr.datasets.checks import check_picture_case, check_volume_case

        if row["image"] is None:
            return {}
        return (check_volume_case if is_volume(row["image"]) else check_picture_case)(self, row, report)

    def _check_set(self, table, report) -> None:  # noqa: B027 - optional: most sets have nothing to add
        """Checks across cases that only this set knows."""

    def _counts(self, table) -> dict[str, int]:
        """Counts for the verifier, besides cases, patients and findings; compared with `expected` of params/datasets.yaml."""
        return {}
