"""COCO results and average precision: how detectors are compared.

    known = truth(pictures, ["left lung", "right lung", "infection"])
    scores = average_precision(known, results(inference.find(model, pictures, shape)), "segm")
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from covidcxr.errors import InputError
from covidcxr.labels import ImageLabels, Region, run_lengths, to_coco
from covidcxr.maskrcnn.batches import boxes_of_masks
from covidcxr.maskrcnn.inference import Found
from covidcxr.maskrcnn.masks import paste_masks


class Labelled(Protocol):
    """What `truth` needs of a picture: its name, bool (n, H, W) and int (n,), from 1."""

    @property
    def name(self) -> str: ...
    @property
    def masks(self) -> np.ndarray: ...
    @property
    def labels(self) -> np.ndarray: ...


def truth(pictures: Sequence[Labelled], categories: Sequence[str]) -> dict:
    """The instances of pictures in COCO's format, pixel by pixel; image ids count from 1 in the order of the pictures.

    Args:
        pictures: such as `instances.Instances`.
        categories: names of the labels, in order.
    """
    images = []
    for picture in pictures:
        boxes = boxes_of_masks(picture.masks)
        regions = []
        for mask, box, label in zip(picture.masks, boxes, picture.labels, strict=True):
            x0, y0, x1, y1 = box.astype(int)
            regions.append(Region(mask[y0:y1, x0:x1], box, int(np.count_nonzero(mask)), label=int(label)))
        height, width = picture.masks.shape[1:]
        images.append(ImageLabels(picture.name, (height, width), regions))
    return to_coco(images, categories, exact=True)


def results(found: Sequence[Found], threshold: float = 0.5) -> list[dict[str, Any]]:
    """What was found, as COCO's list of results; image ids count from 1 in the order of `found`.

    Each mask is pasted into a picture of its own and coded before the next, so that memory holds one at a time.

    Args:
        found: of `inference.find`, in pixels of the pictures that the truth is of.
        threshold: of the masks' probabilities.
    """
    made = []
    for image_id, picture in enumerate(found, 1):
        for box, score, label, mask in zip(picture.boxes, picture.scores, picture.labels, picture.masks, strict=True):
            x1, y1, x2, y2 = (float(x) for x in box)
            made.append({
                "image_id": image_id,
                "category_id": int(label),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(score),
                "segmentation": run_lengths(paste_masks(mask[None], box[None], *picture.shape)[0] >= threshold),
            })
    return made


def average_precision(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: Literal["segm", "bbox"]
) -> dict[str, Any]:
    """COCO's average precision, in [0, 1], at most 100 results per image and class, objects of all sizes.

    Args:
        truth: COCO's instance format, ids of annotations from 1.
        results: COCO's results; neither is changed.
        kind: whether masks overlap ("segm") or boxes ("bbox").

    Returns:
        `AP`, the mean over the thresholds 0.50, 0.55, ... 0.95 of the overlap and over the classes, `AP50` and `AP75`, at one
        threshold; `images`, `instances` (of the truth) and `results`, how many there are; `classes`, by name, each with its own
        `AP`, `AP50`, `AP75`, `instances` and `results`. A class without instances has NaN and does not count in the means, which
        are NaN where no class has any. A class with instances and without results has 0.

    Raises:
        InputError: results and truth do not belong together, or cannot be told apart.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    check(truth, results, kind)
    # Evaluation writes into the dictionaries that it is given.
    copied = {key: [dict(item) for item in truth[key]] for key in ("images", "annotations", "categories")}
    known = COCO(copied)
    evaluation = COCOeval_faster(known, known.loadRes([dict(result) for result in results]), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, -1]  # thresholds, recalls, classes; all sizes, 100 results; -1: no truth
    thresholds = evaluation.params.iouThrs
    names = {category["id"]: category["name"] for category in truth["categories"]}
    instances = Counter(annotation["category_id"] for annotation in truth["annotations"])
    counts = Counter(result["category_id"] for result in results)
    return {
        **_means(precision, thresholds),
        "images": len(truth["images"]),
        "instances": len(truth["annotations"]),
        "results": len(results),
        "classes": {
            names[number]: {**_means(precision[:, :, i], thresholds), "instances": instances[number], "results": counts[number]}
            for i, number in enumerate(evaluation.params.catIds)
        },
    }


def _means(precision: np.ndarray, thresholds: np.ndarray) -> dict[str, float]:
    parts = {"AP": precision, "AP50": precision[np.isclose(thresholds, 0.5)], "AP75": precision[np.isclose(thresholds, 0.75)]}
    return {name: float(part[part > -1].mean()) if (part > -1).any() else float("nan") for name, part in parts.items()}


def check(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str) -> None:
    """What COCO evaluation would pass over in silence."""
    if kind not in ("segm", "bbox"):
        raise InputError(f'kind must be "segm" or "bbox"; it is {kind!r}.')
    if not truth["images"]:
        raise InputError("The truth lists no images.")
    ids = [annotation["id"] for annotation in truth["annotations"]]
    if len(set(ids)) < len(ids) or 0 in ids:
        raise InputError("Ids of the truth's annotations must differ from each other and from 0, which stands for no match.")
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    classes = [category["id"] for category in truth["categories"]]
    for i, result in enumerate(results):
        image, label = result["image_id"], result["category_id"]
        if image not in sizes or label not in classes:
            raise InputError(
                f"Result {i} is of image {image} and category {label}; the truth has {len(sizes)} images, from "
                f"{min(sizes)} to {max(sizes)}, and the categories {', '.join(map(str, classes))}."
            )
        if kind == "segm" and list(result["segmentation"]["size"]) != sizes[image]:
            raise InputError(
                f"Result {i}: its mask is {result['segmentation']['size']}, image {image} of the truth is {sizes[image]} "
                "(height, width)."
            )
        if not np.isfinite(result["score"]):
            raise InputError(f"Result {i}: its score is {result['score']}.")
