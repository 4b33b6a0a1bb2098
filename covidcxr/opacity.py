"""Radiographs and their opacities as a segmentation network sees them: squares, cut to the lungs or whole.

    rural = datasets.open("rural_covid_cxr", "phantom:demo")
    usable, without = opacity.with_lungs(rural)
    pictures = opacity.of_dataset(rural, usable.case, 320)         # a generator: a few images are in memory at a time
    table = opacity.measure(model, pictures, batch_size=8)         # one row per image, percentages included

tang2020, section 2.4, cuts to the lungs: "The input X-ray image was then cropped to only keep the lung regions by mapping the
original image with the lung contour segmentation." That may mean that the rest was made black (*mapping*), that the rectangle
around the lungs was cut out (*cropped*), or both; no program was published that would tell. `Crop` offers all of them.

ramesh2021's baseline sees whole radiographs and projections: `of_instances` makes squares of what notebook 03 learns from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np

from covidcxr import metrics, paths
from covidcxr.arithmetic import is_number
from covidcxr.errors import InputError, ParameterError
from covidcxr.instances import Instances, stretch

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from covidcxr.datasets.base import Dataset

Crop = Literal["box_and_blank", "box", "blank", "none"]
"""What is kept of an image: the rectangle around the lungs with the rest black, that rectangle, the whole image with the rest
black, or all of it."""

THRESHOLD = 0.5
"""Probability from which a pixel counts as opacity."""

MODEL = "unet.keras"
CARD = "unet.json"  # from which probability a pixel is opacity to that network

_AT_ONCE = 4  # images of full size in memory, without a finder of lungs
_BATCH = 8


class LungFinder(Protocol):
    """What finds lungs where none are drawn: `lungs.LungModel`, or anything else with this."""

    def masks(self, images: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """Lungs, bool (H, W), of images, float32 (H, W) in [0, 1], each of its own size."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A radiograph as the network sees it, with what is drawn on it.

    Attributes:
        name: of the case.
        patient: whom it shows.
        data_set: where it comes from.
        image: float32 (S, S) in [0, 1].
        opacity: bool (S, S), as it was drawn, also where it leaves the lungs; None where nothing was drawn.
        lungs: bool (S, S), drawn or found; all False where none were found; None where nobody looked for them.
        original: height and width of the image before.
        box: top, left, bottom, right (exclusive) of what was cut out of it, in its pixels.
        manual_percentage: of the drawn lungs that the drawn opacity covers, at the original size; NaN where one is not drawn.
    """

    name: str
    patient: str
    data_set: str
    image: np.ndarray
    opacity: np.ndarray | None
    lungs: np.ndarray | None
    original: tuple[int, int]
    box: tuple[int, int, int, int]
    manual_percentage: float = float("nan")


def percentage(opacity: np.ndarray, lungs: np.ndarray) -> float:
    """Share of the lungs that the opacity covers, 0 to 100; NaN where there are no lungs. Opacity outside of them does not count.

    tang2020, section 2.7, has it upside down ("dividing the size of both lung fields by the size of the opacity regions").
    """
    area = np.count_nonzero(lungs)
    return 100 * np.count_nonzero(opacity & lungs) / area if area else float("nan")


def with_lungs(dataset: Dataset) -> tuple[pd.DataFrame, list[str]]:
    """The rows of a data set's table on whose images lungs are drawn, and the names of annotated images without lungs.

    Raises:
        InputError: the outlines of an image can't be read; the message names the file.
    """
    cases = dataset.cases()
    annotated = cases[cases.annotated] if "annotated" in cases else cases
    drawn = annotated.lung.notna()
    for case in annotated.case[~drawn]:
        dataset.mask(case, "lung")  # empty, or refused: a damaged file has no lungs in the table either
    return annotated[drawn].reset_index(drop=True), annotated.case[~drawn].tolist()


def picture(
    name: str, patient: str, data_set: str, image: np.ndarray, opacity: np.ndarray | None, lungs: np.ndarray | None, size: int,
    crop: Crop = "box_and_blank", manual_percentage: float = float("nan"),
) -> Picture:
    """A square picture of `size` pixels, which is stretched as in the paper ("resized to 320 by 320 pixels").

    Args:
        image: float32 (H, W) in [0, 1]; `opacity` and `lungs` bool (H, W), see `Picture`.
        crop: see `Crop`. An image with empty `lungs` is kept whole, with nothing made black.
    """
    _check_crop(crop)
    for what, mask in (("opacity", opacity), ("lungs", lungs)):
        if mask is not None and mask.shape != image.shape:
            raise InputError(f"{name}: the mask of the {what} is {mask.shape}, the image {image.shape}.")
    if crop != "none" and lungs is None:
        raise InputError(f"{name}: its lungs are not known, so it can't be cut to them. Draw or find them, or take crop='none'.")
    box = (0, 0, *image.shape)
    if lungs is not None and lungs.any():
        image = np.where(lungs, image, np.float32(0)) if crop in ("blank", "box_and_blank") else image
        box = _box(lungs) if crop in ("box", "box_and_blank") else box

    def cut(whole: np.ndarray | None) -> np.ndarray | None:
        return None if whole is None else stretch(whole[box[0] : box[2], box[1] : box[3]], (size, size))

    squared = cut(image)
    assert squared is not None
    original = (image.shape[0], image.shape[1])
    return Picture(name, patient, data_set, squared, cut(opacity), cut(lungs), original, box, manual_percentage)


def of_dataset(
    dataset: Dataset, cases: Iterable[str], size: int, *, crop: Crop = "box_and_blank", finder: LungFinder | None = None,
) -> Iterator[Picture]:
    """The pictures of a data set, a few at a time, in the order of `cases`.

    Args:
        dataset: of `datasets.open`. Without masks of the kind lesion no opacity is known, without those of lung a finder is
            needed, such as for a user's own images. Images that it calls not `annotated` have neither.
        cases: names of its cases.
        size: side of the squares, in pixels.
        crop: see `Crop`.
        finder: finds the lungs; None: those that are drawn.

    Raises:
        InputError: a case whose lungs are needed has none drawn; also whatever is wrong with its files.
    """
    _check_crop(crop)
    patients = dataset.cases().set_index("case").patient

    def read(case: str) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        drawn = dataset.row(case).get("annotated", True)
        lungs = dataset.mask(case, "lung") if drawn and "lung" in dataset.kinds else None
        if finder is None and crop != "none" and (lungs is None or not lungs.any()):
            raise InputError(f"{dataset.name}: no lungs are drawn on {case}. Leave it out (`with_lungs`) or give a finder.")
        return dataset.image(case), dataset.mask(case, "lesion") if drawn and "lesion" in dataset.kinds else None, lungs

    with ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1)) as pool:
        for part in _chunks(cases, _BATCH if finder else _AT_ONCE):  # a finder that sees full batches wastes nothing
            raw = list(pool.map(read, part))
            used = finder.masks([image for image, _, _ in raw]) if finder else [lungs for _, _, lungs in raw]
            for case, (image, opacity, drawn), lungs in zip(part, raw, used, strict=True):
                known = opacity is not None and drawn is not None
                manual = percentage(opacity, drawn) if known else float("nan")  # type: ignore[arg-type]
                yield picture(case, str(patients[case]), dataset.name, image, opacity, lungs, size, crop, manual)


def of_instances(pictures: Iterable[Instances], data_set: str, size: int) -> Iterator[Picture]:
    """Whole pictures of notebook 03 as squares; the union of their objects is the opacity, lungs are not looked for."""
    for one in pictures:
        image, opacity = (stretch(whole, (size, size)) for whole in (one.image, one.union))
        yield Picture(one.name, one.patient, data_set, image, opacity, None, one.original, (0, 0, *one.original))


def digest(pictures: Iterable[Picture]) -> str:
    """Hash of pictures with their opacities, pixel by pixel: what a training that is loaded again must have been made from."""
    hashed = hashlib.sha256()
    for one in pictures:
        opacity = b"none" if one.opacity is None else np.packbits(one.opacity).tobytes()
        hashed.update(repr((one.name, one.image.shape)).encode() + np.ascontiguousarray(one.image).tobytes() + opacity)
    return hashed.hexdigest()


def predict(model: keras.Model, pictures: Iterable[Picture], batch_size: int = _BATCH) -> Iterator[tuple[Picture, np.ndarray]]:
    """Each picture with the model's probability of opacity, float32 (S, S); no more than one batch is held.

    Args:
        model: from (N, S, S, C) to (N, S, S, 1), such as `models.unet.resnet18_unet`. Grey is repeated for C > 1.
        batch_size: pictures at a time. The last ones are filled up, so that no other shape is compiled.
    """
    channels = model.input_shape[-1]
    for part in _chunks(pictures, batch_size):
        filled = part + part[-1:] * (batch_size - len(part))
        images = np.stack([one.image for one in filled])[..., None].repeat(channels, axis=-1)
        found = np.asarray(model.predict_on_batch(images), np.float32)[..., 0]
        yield from zip(part, found[: len(part)], strict=True)


def pasted(probability: np.ndarray, one: Picture, threshold: float = THRESHOLD) -> np.ndarray:
    """A prediction, float (S, S), as bool (H, W) at the image's original size; False outside of what was cut out."""
    top, left, bottom, right = one.box
    whole = np.zeros(one.original, bool)
    whole[top:bottom, left:right] = stretch(probability, (bottom - top, right - left)) >= threshold
    return whole


def measure(
    model: keras.Model, pictures: Iterable[Picture], *, batch_size: int = _BATCH, threshold: float = THRESHOLD
) -> pd.DataFrame:
    """What a model says of pictures, in one pass and with memory that does not grow with their number.

    Returns:
        One row per picture: `case`, `data_set`, `patient`, `manual_percentage`, `predicted_percentage` (of the picture's lungs;
        NaN where it has none), and the columns of `metrics.overlap_sums` (NaN where no opacity was drawn).
    """
    import pandas as pd

    rows = []
    for one, probability in predict(model, pictures, batch_size):
        found = np.nan if one.lungs is None else percentage(probability >= threshold, one.lungs)
        row = {"case": one.name, "data_set": one.data_set, "patient": one.patient,
               "manual_percentage": one.manual_percentage, "predicted_percentage": found}
        rows.append(row | ({} if one.opacity is None else metrics.overlap_sums(probability, one.opacity, threshold=threshold)))
    return pd.DataFrame(rows)


def save(model: keras.Model, folder: Path, threshold: float = THRESHOLD) -> Path:
    """Keep a trained model for other stages as `folder/unet.keras`, without its loss and optimiser, beside it its threshold."""
    import keras

    paths.write_atomically(folder / CARD, json.dumps({"threshold": threshold}))
    aside = folder / f".aside.{MODEL}"
    keras.Model(model.inputs, model.outputs).save(aside)
    return aside.replace(folder / MODEL)


def load(folder: Path) -> tuple[keras.Model, float]:
    """The model that the stage `unet_opacity` has kept in its folder (`stage.upstream("unet_opacity")`), ready for `predict`, and
    the threshold with which it was scored."""
    import keras

    for name in (MODEL, CARD):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is not there. Run the stage unet_opacity again: it writes it.")
    card = paths.read_json(folder / CARD, "card of the network")
    if not isinstance(card, dict) or not is_number(card.get("threshold")):
        raise InputError(f"{folder / CARD}: a number `threshold` is expected. Run the stage unet_opacity again: it writes it.")
    return keras.models.load_model(folder / MODEL, compile=False), card["threshold"]


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom and right (exclusive) of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _chunks(items: Iterable, count: int) -> Iterator[list]:
    remaining = iter(items)
    while part := list(islice(remaining, count)):
        yield part


def _check_crop(crop: str) -> None:
    if crop not in get_args(Crop):
        raise ParameterError(f"crop is one of {', '.join(get_args(Crop))}; found {crop!r}.")
