"""Whose slices they are: what tells the sources of CT slices apart, and grey values made alike.

    pictures = whole(dataset, slices.names, 64)                   # before anything was cut away
    plain = shortcuts.statistics(pictures, sizes)                 # and `shortcuts.out_of_fold` says whether they tell the source
    alike = Harmony.of(train)(slices)

Where normal slices come from other hands than those with lesions, a critic can tell the two by a window, or by what lies outside
of the lungs, and the "lesion" is then what the hands differ in. Cutting to the lungs takes away what is outside; `Harmony` takes
away the level of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from covidcxr.ct_slices import WINDOW, axial, windowed
from covidcxr.datasets.images import is_volume
from covidcxr.errors import InputError, ParameterError
from covidcxr.resizing import resize
from covidcxr.squares import Greys

if TYPE_CHECKING:
    from covidcxr.datasets.base import Dataset
    from covidcxr.slice_labels import LabelledSlices

def whole(
    dataset: Dataset, names: Sequence[str], size: int, *, window: tuple[float, float] = WINDOW,
    stored_window: tuple[float, float] = WINDOW,
) -> Greys:
    """The slices that `slice_labels` has named so, as they are before they are cut to the lungs, (size, size).

    Args:
        dataset: which they are of, of volumes or of pictures.
        names: of `LabelledSlices`.
        size, window, stored_window: as for `slice_labels.of_volumes`.

    Raises:
        InputError: there is no name, or a case or slice of that name.
    """
    if not len(names):
        raise InputError(f"{dataset.name}: no slice is named.")
    made = [resize(image, (size, size)).clip(0, 1) for image in _read(dataset, names, window, stored_window)]
    return Greys(np.stack([np.round(image * 255).astype(np.uint8) for image in made]))


def _read(dataset: Dataset, names: Sequence[str], window: tuple[float, float], stored_window: tuple[float, float]):
    cases = set(dataset.cases().case)
    for name in names:
        case, _, index = name.rpartition("/")
        if name in cases or case not in cases:
            yield dataset.image(name)
            continue
        row = dataset.row(case)
        if not is_volume(row["image"]):
            raise InputError(f"{dataset.name}: {name} names slice {index} of {case}, which is no volume.")
        volume = dataset.volume(case, stored_window if row["expected_units"] == "windowed" else None)
        if not index.isdigit() or int(index) >= volume.shape[2]:
            raise InputError(f"{dataset.name}: {case} has slices 0 to {volume.shape[2] - 1}; not {index!r}.")
        yield windowed(axial(volume.voxels, int(index)), window)


@dataclass(frozen=True)
class Harmony:
    """A shift of each patient's grey values, after which the air in the lungs is as dark in all.

    The level is the mean of the darkest quarter of the lungs' pixels, which lesions leave alone while a quarter of the lungs is
    healthy. That undoes the level of a window, not its width: within the lungs nothing else is of one known density, and whatever
    is bright may be what is looked for. One shift serves all slices of a patient, since a window is that of a scan, and a slice
    may be ill all over. Slices whose patient is not known go together by their source.

    Attributes:
        level: grey value in [0, 1] that the darkest quarter is brought to.
    """

    level: float

    def __post_init__(self):
        if not 0 < self.level < 1:
            raise ParameterError(f"The level of air in lungs lies between 0 and 1; it is {self.level}.")

    @classmethod
    def of(cls, slices: LabelledSlices) -> Harmony:
        """The median level of these slices' patients. Give the slices of training alone."""
        return cls(float(np.median([_level(slices.images.bytes[chosen]) for chosen in _patients(slices)])))

    def __call__(self, slices: LabelledSlices) -> LabelledSlices:
        """The slices with shifted grey values; what is outside of the lungs, 0, stays so, and no pixel of the lungs becomes 0."""
        made = np.zeros_like(slices.images.bytes)
        for chosen in _patients(slices):
            greys = slices.images.bytes[chosen]
            shifted = greys + np.round((self.level - _level(greys)) * 255)
            made[chosen] = np.where(greys > 0, shifted.clip(1, 255), 0).astype(np.uint8)
        return replace(slices, images=Greys(made))


def _patients(slices: LabelledSlices) -> list[np.ndarray]:
    """Numbers of the slices of each patient; one name in two sources is of two."""
    whose = np.array([f"{source}\0{patient}" for source, patient in zip(slices.sources, slices.patients, strict=True)])
    return [np.flatnonzero(whose == name) for name in np.unique(whose)]


def _level(greys: np.ndarray) -> float:
    """Mean of the darkest quarter of the lungs, in [0, 1]."""
    lungs = np.sort(greys[greys > 0])
    return float(lungs[: max(1, len(lungs) // 4)].mean() / 255)
