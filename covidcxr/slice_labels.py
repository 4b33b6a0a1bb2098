"""CT slices for learning from image labels: cut to the lungs, with one bit each, lesion or none; masks apart, for scoring alone.

    slices, truth = slice_labels.of_volumes(ct, cases, size=256)     # training is given `slices`, never `truth`
    scale = Scale.of(slices.images)
    trainer.train(game, scale.all(slices.normal), scale.all(slices.lesioned), …)

Section 3.1 of yang2021: "the visual information outside the lung region was removed from each image […] Each image was resized to
256 x 256 pixels, and then normalized based on the mean and standard deviation of pixel values over all training images."

What is cut out is the mask of the lungs as it is: uniting it with the lesions, where these reach beyond it, would show training
where they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from covidcxr.ct_slices import SMALLEST_SHARE, WINDOW, axial, windowed
from covidcxr.datasets.images import is_volume
from covidcxr.errors import InputError, ParameterError
from covidcxr.resizing import resize
from covidcxr.squares import MASK_THRESHOLD, Greys

if TYPE_CHECKING:
    from pandas import DataFrame

    from covidcxr.datasets.base import Dataset

SMALLEST_LUNG = 0.02
"""Smallest lung, as a share of the slice, that a slice must show: above the apices and below the domes hardly any is left."""


CUT = 0.6
"""Share of black pixels from which a picture is taken to be cut to the lungs already, where its set does not say. Lungs fill less
than the rest; of a whole slice the corners outside of the scanner's field are black, a fifth, and at most the air as well."""


@dataclass(frozen=True, eq=False)
class LabelledSlices:
    """Slices and what is known of each as a whole. There is no mask of lesions in it.

    Attributes:
        names, patients, sources: N names each; a source is a data set, or a part of one.
        has_lesion: bool (N,).
        images: N float32 (S, S) in [0, 1], 0 outside of the lungs.

    Raises:
        InputError: lengths differ, there is no slice, or one shows no lung.
    """

    names: list[str]
    patients: list[str]
    sources: list[str]
    has_lesion: np.ndarray
    images: Greys

    def __post_init__(self):
        lengths = {len(self.names), len(self.patients), len(self.sources), len(self.has_lesion), len(self.images)}
        if lengths == {0}:
            raise InputError("No slice is left: none of those given shows lungs.")
        if len(lengths) > 1 or self.has_lesion.dtype != bool:
            raise InputError(f"Names, patients, sources, labels (bool) and images must be equally many: {sorted(lengths)}.")
        dark = [name for name, image in zip(self.names, self.images.bytes, strict=True) if not image.any()]
        if dark:
            names = ", ".join(dark[:5])
            raise InputError(f"{len(dark)} slices show no lung, all of their pixels are 0: {names}. Leave them out.")

    def __len__(self) -> int:
        return len(self.names)

    def take(self, chosen) -> LabelledSlices:
        """Some of the slices: an array of numbers, or of bool with one for each."""
        numbers = np.arange(len(self))[np.asarray(chosen)]
        names, patients, sources = ([part[i] for i in numbers] for part in (self.names, self.patients, self.sources))
        return LabelledSlices(names, patients, sources, self.has_lesion[numbers], self.images[numbers])

    @property
    def normal(self) -> Greys:
        """Images of slices without a lesion."""
        return self.images[~self.has_lesion]

    @property
    def lesioned(self) -> Greys:
        """Images of slices with a lesion."""
        return self.images[self.has_lesion]

    def digest(self) -> str:
        """Hash of names, labels and images: what a training that is loaded again must have been made from."""
        hashed = hashlib.sha256(repr((self.names, self.has_lesion.tolist(), self.images.bytes.shape)).encode())
        for image in self.images.bytes:
            hashed.update(image.tobytes())
        return hashed.hexdigest()


@dataclass(frozen=True, eq=False)
class Truth:
    """Where the lesions and the lungs of the same slices are, in their order: for scoring.

    Attributes:
        lesions, lungs: bool (N, S, S).
    """

    lesions: np.ndarray
    lungs: np.ndarray

    def take(self, chosen) -> Truth:
        """The truth of some of the slices: an array of numbers, or of bool with one for each."""
        return Truth(self.lesions[np.asarray(chosen)], self.lungs[np.asarray(chosen)])


@dataclass(frozen=True)
class Scale:
    """Grey values normalised by mean and standard deviation, and brought into [-1, 1], where tanh can follow.

    The paper says that the outputs lie "within the same range (-1, 1) as that of the model's input", but values over a standard
    deviation do not: `beyond` says how many. With lungs on black, which is most of a slice, that is nearly all of the lungs. So
    they are divided by `reach` standard deviations, and cut off there.

    Attributes:
        mean, sd: of all pixels of the training images.
        reach: standard deviations at 1; 1 is the paper's sentence taken literally.
    """

    mean: float
    sd: float
    reach: float

    def __post_init__(self):
        if self.sd <= 0 or self.reach <= 0:
            raise ParameterError(f"sd and reach must be above 0; they are {self.sd} and {self.reach}.")

    @classmethod
    def of(cls, images: Greys, reach: float | None = None) -> Scale:
        """The scale of these images: give those of training alone. Without `reach`, just nothing of them is cut off."""
        counts = np.zeros(256, np.int64)
        for image in images.bytes:
            counts += np.bincount(image.ravel(), minlength=256)
        greys = np.arange(256) / 255
        mean = float(counts @ greys / counts.sum())
        sd = float(np.sqrt(counts @ (greys - mean) ** 2 / counts.sum()))
        if sd == 0:
            raise InputError(f"All pixels of these {len(images)} images have one value: nothing can be learned from them.")
        farthest = np.abs(greys[counts > 0] - mean).max() / sd
        return cls(mean, sd, float(farthest) if reach is None else reach)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """float32 in [-1, 1]."""
        return (((image - self.mean) / (self.sd * self.reach)).clip(-1, 1)).astype(np.float32)

    def all(self, images: Greys) -> Sequence[np.ndarray]:
        """The images, scaled when they are asked for."""
        return _Scaled(images, self)

    def beyond(self, images: Greys) -> float:
        """Share of pixels more than `reach` standard deviations from the mean, which are cut off."""
        limit = self.sd * self.reach * (1 + 1e-6)
        return float(np.mean([np.mean(np.abs(images[i] - self.mean) > limit) for i in range(len(images))]))


def together(parts: Sequence[tuple[LabelledSlices, Truth]]) -> tuple[LabelledSlices, Truth]:
    """The slices of several sets after one another, with their truth.

    Raises:
        InputError: there is no part, slices differ in size, or two of one source have one name.
    """
    if not parts:
        raise InputError("There are no slices to be put together.")
    sizes = {slices.images.bytes.shape[1:] for slices, _ in parts}
    if len(sizes) > 1:
        raise InputError(f"Slices must be of one size to be put together; these are {sorted(sizes)}.")
    names, patients, sources = (
        [text for slices, _ in parts for text in getattr(slices, part)] for part in ("names", "patients", "sources")
    )
    if len(set(zip(sources, names, strict=True))) < len(names):
        raise InputError("Two slices of one source have the same name: was a set given twice?")
    labels = np.concatenate([slices.has_lesion for slices, _ in parts])
    images = Greys(np.concatenate([slices.images.bytes for slices, _ in parts]))
    lesions, lungs = (np.concatenate([getattr(truth, part) for _, truth in parts]) for part in ("lesions", "lungs"))
    return LabelledSlices(names, patients, sources, labels, images), Truth(lesions, lungs)


class _Scaled(Sequence):
    def __init__(self, images: Greys, scale: Scale):
        self.images, self.scale = images, scale

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index):
        if not isinstance(index, (int, np.integer)):
            return _Scaled(self.images[index], self.scale)
        return self.scale(self.images[int(index)])


class _Collected:
    """Slices that are gathered one by one."""

    def __init__(self, size: int):
        if size < 1:
            raise ParameterError(f"size is a number of pixels, at least 1; found {size!r}.")
        self.size = size
        self.names: list[str] = []
        self.patients: list[str] = []
        self.sources: list[str] = []
        self.labels: list[bool] = []
        self.images: list[np.ndarray] = []
        self.lesions: list[np.ndarray] = []
        self.lungs: list[np.ndarray] = []

    def add(
        self, name: str, patient: str, source: str, image: np.ndarray, lung: np.ndarray, lesion: np.ndarray, label: bool
    ) -> None:
        shape = (self.size, self.size)
        cover = resize(lung.astype(np.float32), shape)
        kept = cover > MASK_THRESHOLD
        # Cut at the original resolution: a pixel at the border is the mean of its lung, without the chest wall beside it.
        grey = resize(np.where(lung, image, np.float32(0)), shape) / np.where(kept, cover, 1)
        self.images.append(np.round(np.where(kept, grey, 0).clip(0, 1) * 255).astype(np.uint8))
        self.lungs.append(kept)
        self.lesions.append(resize(lesion.astype(np.float32), shape) > MASK_THRESHOLD)
        self.names.append(name)
        self.patients.append(patient)
        self.sources.append(source)
        self.labels.append(label)

    def done(self) -> tuple[LabelledSlices, Truth]:
        empty = (0, self.size, self.size)
        stacks = [np.stack(part) if part else np.zeros(empty, bool) for part in (self.lesions, self.lungs)]
        images = np.stack(self.images) if self.images else np.zeros(empty, np.uint8)
        slices = LabelledSlices(self.names, self.patients, self.sources, np.array(self.labels, bool), Greys(images))
        return slices, Truth(*stacks)


def of_volumes(
    dataset: Dataset, cases: Iterable[str], size: int, *, window: tuple[float, float] = WINDOW,
    stored_window: tuple[float, float] = WINDOW, step: int = 1,
) -> tuple[LabelledSlices, Truth]:
    """The axial slices of volumes that show lungs: with lesion where the mask of lesions says so, normal where it has none.

    Left out are slices with less lung than `SMALLEST_LUNG`, and those with a lesion smaller than `ct_slices.SMALLEST_SHARE`, of
    which no one would say either.

    Args:
        dataset: of `datasets.open`, with masks of lungs and lesions.
        cases: names of its volumes.
        size: side of the slices, pixels.
        window: HU that become black and white.
        stored_window: HU at grey values 0 and 255, for volumes that are stored as grey values.
        step: every how many slices one is taken.

    Raises:
        InputError: a mask is missing, or no slice shows lungs.
    """
    found = _Collected(size)
    for case in cases:
        row = dataset.row(case)
        volume = dataset.volume(case, stored_window if row["expected_units"] == "windowed" else None)
        lungs, lesions = dataset.volume_mask(case, "lung"), dataset.volume_mask(case, "lesion")
        for index in range(0, volume.shape[2], step):
            lung, lesion = axial(lungs, index), axial(lesions, index)
            share = lesion.mean()
            if lung.mean() >= SMALLEST_LUNG and not 0 < share < SMALLEST_SHARE:
                image = windowed(axial(volume.voxels, index), window)
                found.add(f"{case}/{index}", row["patient"], dataset.name, image, lung, lesion, bool(share))
    return found.done()


def of_pictures(
    dataset: Dataset, cases: Iterable[str], size: int, *, find_lungs: Callable[[np.ndarray], np.ndarray] | None = None,
    lenient: bool = False,
) -> tuple[LabelledSlices, Truth]:
    """Slices that are pictures, with what their set says of each: `covid`, or `has_lesion` where its table has that column.

    Args:
        dataset: of `datasets.open`, such as covid19ct20_slices256, cvt_ct_labels, cc_ccii.
        cases: names of its pictures.
        size: side of the slices, pixels.
        find_lungs: where a picture has no mask of the lungs, and is not cut to them already (`lungs_only`): from a picture,
            float32 (H, W) in [0, 1], to its lungs, bool (H, W). None refuses such pictures.
        lenient: a picture without lung is left out, and one of which the set says nothing is labelled by its mask of lesions;
            else both are refused.

    Returns:
        the slices, and their truth: where a picture has no mask of lesions, none is known, and its lesions are empty.

    Raises:
        InputError: of a picture it is not known whether it shows a lesion; its lungs are not known, or it has none.
    """
    found = _Collected(size)
    for case in cases:
        row = dataset.row(case)
        image = dataset.image(case)
        lesion = dataset.mask(case, "lesion") if row["lesion"] is not None else np.zeros(image.shape, bool)
        label = row["has_lesion"] if "has_lesion" in row else row["covid"]
        if label is None or label != label:
            if not lenient or row["lesion"] is None:
                raise InputError(f"{dataset.name}: of {case} it is not known whether it shows a lesion. Leave it out.")
            label = lesion.any()
        lung = _lungs(dataset, row, image, find_lungs)
        if lung.mean() >= SMALLEST_LUNG:
            found.add(case, row["patient"], row["source"], image, lung, lesion, bool(label))
        elif not lenient:
            raise InputError(
                f"{dataset.name}: {case} shows no lung: {lung.mean():.1%} of its pixels, expected {SMALLEST_LUNG:.0%} or more. "
                "Leave it out."
            )
    return found.done()


def known(dataset: Dataset, most: int = 0, seed: int = 0) -> DataFrame:
    """The cases of a data set that can be learned from or tested: it is known of them whether there is a lesion.

    Args:
        most: pictures of either label that are drawn; 0: all. Volumes are never left out.

    Returns:
        The set's table with three columns more, bool: `lungs_known` (there is a mask, or the picture is cut to the lungs),
        `drawn` (a mask says where the lesions are), `scorable` (drawn, or without lesion).

    Raises:
        InputError: there is no such case.
    """
    table = dataset.cases()
    volumes = table.image.map(is_volume)
    label = table["has_lesion" if "has_lesion" in table else "covid"].astype(object)
    drawn = table.lesion.notna()
    cut = table["lungs_only"].eq(True) if "lungs_only" in table else np.zeros(len(table), bool)
    table = table.assign(lungs_known=table.lung.notna() | cut, drawn=drawn, scorable=drawn | (~volumes & label.eq(False)))
    kept = np.where(volumes, drawn & table.lungs_known, label.notna() | drawn)
    if not kept.any():
        raise InputError(f"{dataset.name}: of none of its {len(table)} cases it is known whether it shows a lesion.")
    if most:
        shuffled = label.astype(str).iloc[np.random.default_rng(seed).permutation(len(table))]
        kept &= volumes | (shuffled.groupby(shuffled).cumcount().reindex(table.index) < most)
    return table[kept].reset_index(drop=True)


def of_cases(
    dataset: Dataset, cases: Iterable[str], size: int, *, find_lungs: Callable[[np.ndarray], np.ndarray] | None = None,
    step: int = 1,
) -> tuple[LabelledSlices, Truth]:
    """Slices of `known` cases, be they volumes or pictures; see `of_volumes` and `of_pictures`, which is lenient here."""
    names = list(cases)
    if names and is_volume(dataset.row(names[0])["image"]):
        return of_volumes(dataset, names, size, step=step)
    return of_pictures(dataset, names, size, find_lungs=find_lungs, lenient=True)


def _lungs(dataset: Dataset, row: dict, image: np.ndarray, find_lungs) -> np.ndarray:
    if row["lung"] is not None:
        return dataset.mask(row["case"], "lung")
    if row.get("lungs_only", (image == 0).mean() >= CUT):
        return image > 0
    if find_lungs is None:
        raise InputError(f"{dataset.name}: {row['case']} has no mask of the lungs, and nothing that finds them was given.")
    return find_lungs(image)
