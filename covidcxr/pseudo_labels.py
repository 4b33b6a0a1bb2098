"""Pseudo-labels: what a model predicts, written as an annotated data set, with a card that says what it is worth.

The first result that ramesh2021 names is a public set of radiographs "with COVID-19 lung lesion annotations produced by our Mask
R-CNN model". Such annotations are predictions. So each carries its score, and the set says what made it, on which images it was
trained, and how well it does where the truth is known, beside predictors that know nothing.

    pictures = (
        Predicted(row.image, found.whole_masks(card.mask_threshold), found.scores, found.labels, row.licence, row.case in trained)
        for row, found in zip(table.itertuples(), inference.find(model, pictures, shape), strict=True)
    )
    pseudo_labels.write(stage.folder / "pseudo_labels", pictures, card)
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from covidcxr.errors import InputError, ParameterError
from covidcxr.labels import ImageLabels, Region, to_coco
from covidcxr.paths import write_atomically

if TYPE_CHECKING:
    from pandas import DataFrame

COCO, CARD = "coco.json", "DATA_CARD.md"
NOT_TRUTH = "Predictions of a model, not annotations by people. Not for clinical use."
SUMMARY = (
    "images", "iou", "iou_low", "iou_high", "iou_n", "agreement", "agreement_low", "agreement_high", "false_alarms",
    "without_lesion",
)
_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}


class Predicted(NamedTuple):
    """What a model predicts of one image.

    Attributes:
        file_name: of the image, in its data set; the image itself is not copied.
        masks: bool (n, H, W), of the image's size; n may be 0.
        scores: (n,), in [0, 1].
        labels: int (n,), classes, from 1.
        licence: of the image.
        trained: whether the image was among those that the model was trained on.
    """

    file_name: str
    masks: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    licence: str
    trained: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class Card:
    """What a set of predictions has to say of itself. Nothing may be left empty.

    Attributes:
        title: of the set.
        data_set: the images' set, and `source`, where to get it.
        categories: names of the labels 1, 2, …
        model: its architecture and size.
        start: the weights that training began with.
        training_set: what it was trained on; `training_images`, how many images that are.
        split: how training and test images were told apart, and the file that says it.
        seed: of the training.
        score_threshold: smallest score of an object that is put out.
        mask_threshold: probability from which a pixel belongs to an object.
        scores: what is known of its quality: `metrics.overlap_summary` of the images with known truth that did not train it, one
            row for the model and one for each trivial predictor; its index holds their names.
        predictor: the model's row of `scores`.
        truth: whose annotations are the truth.
        interval: how the intervals of `scores` were made.
        licence: of these annotations.
        regenerate: the command that makes the set again.
    """

    title: str
    data_set: str
    source: str
    categories: tuple[str, ...]
    model: str
    start: str
    training_set: str
    training_images: int
    split: str
    seed: int
    score_threshold: float
    mask_threshold: float
    scores: DataFrame
    predictor: str
    truth: str
    interval: str
    licence: str
    regenerate: str

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            kind = _TYPES.get(str(field.type))
            if value is None or (isinstance(value, str) and not value.strip()):
                raise ParameterError(f"The card of pseudo-labels needs {field.name}; it is {value!r}.")
            fits = not kind or (isinstance(value, kind) and not isinstance(value, bool))
            if not fits or (isinstance(value, float) and not math.isfinite(value)):
                raise ParameterError(f"The card's {field.name} is of the type {field.type}, and finite; found {value!r}.")
        if isinstance(self.categories, str) or not self.categories or not all(name.strip() for name in self.categories):
            raise ParameterError(f"The card's categories are a tuple of names; found {self.categories!r}.")
        for name in ("score_threshold", "mask_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ParameterError(f"The card's {name} lies between 0 and 1; it is {getattr(self, name)!r}.")
        missing = [column for column in SUMMARY if column not in self.scores]
        if missing:
            raise ParameterError(f"The card's scores lack {', '.join(missing)}; they are made by metrics.overlap_summary.")
        if self.predictor not in self.scores.index or len(self.scores) < 2:
            rows = ", ".join(map(str, self.scores.index)) or "none"
            raise ParameterError(
                f"The card's scores need a row {self.predictor!r} and one of a trivial predictor beside it; their rows: {rows}."
            )


def write(folder: Path, pictures: Iterable[Predicted], card: Card) -> None:
    """Write predictions as `coco.json`, COCO's instance format with a `score` per annotation, and `DATA_CARD.md`.

    Objects without a pixel are left out, and counted on the card.

    Args:
        folder: of the new set; made if need be.
        pictures: taken one by one, so that a generator keeps memory small.
        card: about the set.

    Raises:
        InputError: there is no picture, a file name comes twice, or masks, scores and labels of a picture don't fit together.
    """
    images, scores, licences, trained, empty = [], [], [], [], 0
    for picture in pictures:
        _check(picture, card)
        kept = picture.masks.any(axis=(1, 2))
        empty += int(np.count_nonzero(~kept))
        regions = [_region(mask, int(label)) for mask, label in zip(picture.masks[kept], picture.labels[kept], strict=True)]
        height, width = picture.masks.shape[1:]
        images.append(ImageLabels(picture.file_name, (height, width), regions))
        scores += [float(score) for score in picture.scores[kept]]
        licences.append(picture.licence)
        trained.append(bool(picture.trained))
    if not images:
        raise InputError(f"{folder}: there is no picture to write pseudo-labels of.")
    content = to_coco(images, card.categories, card.title, exact=True)
    content["info"] |= {
        "note": NOT_TRUTH, "model": card.model, "training_set": card.training_set, "split": card.split, "seed": card.seed,
        "score_threshold": card.score_threshold, "mask_threshold": card.mask_threshold, "images_from": card.source,
        "licence_of_annotations": card.licence,
    }
    ids = {licence: number for number, licence in enumerate(dict.fromkeys(licences), 1)}
    content["licenses"] = [{"id": number, "name": licence, "url": ""} for licence, number in ids.items()]
    for image, licence, seen in zip(content["images"], licences, trained, strict=True):
        image |= {"license": ids[licence], "trained_the_model": seen}
    for annotation, score in zip(content["annotations"], scores, strict=True):
        annotation["score"] = score
    write_atomically(folder / CARD, _card_text(card, content, Counter(licences), sum(trained), empty))
    write_atomically(folder / COCO, json.dumps(content, allow_nan=False))


def _region(mask: np.ndarray, label: int) -> Region:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x0, y0, x1, y1 = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    inside = mask[y0:y1, x0:x1].copy()  # a view would keep the whole picture in memory
    return Region(inside, np.array([x0, y0, x1, y1], np.float32), int(np.count_nonzero(inside)), label=label)


def _check(picture: Predicted, card: Card) -> None:
    name, masks, scores, labels = picture[:4]
    if not name or not picture.licence:
        raise InputError(f"A picture needs a file name and a licence; found {name!r} and {picture.licence!r}.")
    if masks.ndim != 3 or masks.dtype != bool:
        raise InputError(f"{name}: masks are bool (n, H, W); found {masks.dtype} of shape {masks.shape}.")
    if not len(masks) == len(scores) == len(labels):
        raise InputError(f"{name}: {len(masks)} masks, {len(scores)} scores and {len(labels)} labels don't fit together.")
    wrong = [float(score) for score in scores if not card.score_threshold <= score <= 1]
    if wrong:
        raise InputError(f"{name}: scores lie between the threshold {card.score_threshold:g} and 1; found {wrong[0]:g}.")


# ---- card ------------------------------------------------------------------------------------------------------------


def _card_text(card: Card, content: dict, licences: Counter[str], trained: int, empty: int) -> str:
    images, annotations = len(content["images"]), len(content["annotations"])
    without = images - len({annotation["image_id"] for annotation in content["annotations"]})
    per_class = Counter(annotation["category_id"] for annotation in content["annotations"])
    classes = ", ".join(f"{name} {per_class[label]}" for label, name in enumerate(card.categories, 1))
    left_out = f" Objects without a pixel, which are left out: {empty}." if empty else ""
    return f"""# {card.title}

**{NOT_TRUTH}**

## What it is

Outlines that a model drew on images of {card.data_set}: {annotations} objects ({classes}) on {images} images, of which
{without} have none.{left_out} `{COCO}` holds them in COCO's instance format, pixel by pixel, each with the model's `score`.

## What it is not

- It is not a ground truth: nobody has looked at these outlines or corrected them. A score is the model's own, not a
  measured probability.
- It does not hold the images. Their file names are those of their source: {card.source}
- It is not a test set. Of the {images} images {trained} trained the model (`trained_the_model` in `{COCO}`); its outlines there
  say little about new images.
- It is not for clinical use, and not for decisions about patients.

## How it was made

| | |
|---|---|
| Model | {_cell(card.model)} |
| Weights before training | {_cell(card.start)} |
| Training set | {_cell(card.training_set)}, {card.training_images} images |
| Split | {_cell(card.split)} |
| Seed | {card.seed} |
| Smallest score | {card.score_threshold:g} |
| A pixel belongs to an object from the probability | {card.mask_threshold:g} |

## How good it is

On images that did not train the model and whose truth is known ({card.truth}), beside predictors that know nothing of the
image. Intervals: {card.interval}.

| Predictor | Images | Overlap of lesions (IoU) | of images | Pixel agreement | False alarms |
|---|---|---|---|---|---|
{_score_rows(card)}

The overlap counts images with a lesion only. Pixel agreement also counts the background on which prediction and truth agree,
so that it is high wherever lesions are small. A false alarm is an image without lesion on which one is predicted.

## Licences

The annotations: {card.licence}. The images, which are not included, keep their own (`license` of each in `{COCO}`):

{chr(10).join(f"- {licence}: {count} of {images}" for licence, count in sorted(licences.items()))}

## How to make it again

```
{card.regenerate}
```
"""


def _score_rows(card: Card) -> str:
    rows = []
    for name in [card.predictor, *(other for other in card.scores.index if other != card.predictor)]:
        row = card.scores.loc[name]
        label = f"**{_cell(str(name))}** (this set)" if name == card.predictor else _cell(str(name))
        rows.append(
            f"| {label} | {int(row.images)} | {_interval(row, 'iou')} | {int(row.iou_n)} | {_interval(row, 'agreement')} "
            f"| {int(row.false_alarms)} of {int(row.without_lesion)} |"
        )
    return "\n".join(rows)


def _interval(row, score: str) -> str:
    value, low, high = (float(row[key]) for key in (score, f"{score}_low", f"{score}_high"))
    if math.isnan(value):
        return "none"
    return f"{value:.4f}" + (" (no interval)" if math.isnan(low + high) else f" [{low:.4f}, {high:.4f}]")


def _cell(words: str) -> str:
    """Words for a cell of a Markdown table."""
    return " ".join(words.split()).replace("|", "\\|")
