"""Pseudo-labels: as pycocotools reads them, and a card that says everything and refuses gaps."""

import json
from dataclasses import fields, replace

import numpy as np
import pandas
import pytest

from covidcxr import metrics, pseudo_labels
from covidcxr.errors import InputError, ParameterError
from covidcxr.pseudo_labels import Card, Predicted


def summary():
    """Scores of a model and of two trivial predictors on five images of three patients, one without a lesion."""
    rng = np.random.default_rng(0)
    truth = [rng.random((12, 10)) > 0.7 for _ in range(4)] + [np.zeros((12, 10), bool)]
    cases, patients = list("abcde"), ["1", "1", "2", "3", "3"]
    found = {
        "Mask R-CNN": [mask & (rng.random(mask.shape) > 0.2) for mask in truth],
        "nothing": [np.zeros_like(mask) for mask in truth],
        "everything": [np.ones_like(mask) for mask in truth],
    }
    tables = [metrics.score_masks(masks, truth, cases, patients, by) for by, masks in found.items()]
    return metrics.overlap_summary(pandas.concat(tables), seed=0)


CARD = Card(
    title="Lesions predicted on radiographs", data_set="set X", source="https://example.org/x", categories=("lesion", "effusion"),
    model="Mask R-CNN, ResNet-101 FPN", start="ImageNet, file r101.npz", training_set="60 radiographs | X-rays only",
    training_images=60, split="by patient, split.csv", seed=7, score_threshold=0.5, mask_threshold=0.4, scores=summary(),
    predictor="Mask R-CNN", truth="radiologists of set X", interval="95 % bootstrap over patients", licence="CC BY 4.0",
    regenerate="python -m covidcxr run pilot mask_rcnn_xrays",
)


def pictures():
    rng = np.random.default_rng(1)
    masks = rng.random((3, 40, 30)) > 0.8
    masks[1] = False
    masks[1, 5:9, 7:20] = True
    return [
        Predicted("b.png", masks, np.array([0.9, 0.5, 0.75], "float32"), np.array([1, 2, 1]), "CC BY", True),
        Predicted("a.png", np.zeros((0, 20, 50), bool), np.zeros(0), np.zeros(0, int), "synthetic", False),
        Predicted("c.png", masks[1:2, :20], np.array([1.0]), np.array([2]), "CC BY", False),
    ]


def written(folder, card=CARD, some=None):
    pseudo_labels.write(folder, pictures() if some is None else some, card)
    return json.loads((folder / "coco.json").read_text()), (folder / "DATA_CARD.md").read_text()


def test_pycocotools_reads_every_mask_and_score(tmp_path):
    from pycocotools.coco import COCO

    written(tmp_path)
    coco = COCO(str(tmp_path / "coco.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["lesion", "effusion"]
    for image_id, picture in zip(coco.getImgIds(), pictures(), strict=True):
        image = coco.loadImgs(image_id)[0]
        assert (image["file_name"], image["height"], image["width"]) == (picture.file_name, *picture.masks.shape[1:])
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        assert len(annotations) == len(picture.masks)
        for annotation, mask, score, label in zip(annotations, *picture[1:4], strict=True):
            assert np.array_equal(coco.annToMask(annotation).astype(bool), mask)
            assert annotation["area"] == mask.sum() and annotation["category_id"] == label
            assert annotation["score"] == pytest.approx(float(score))
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation["bbox"]
            assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_annotations_serve_as_results_of_a_detector(tmp_path):
    from covidcxr.maskrcnn.coco import average_precision

    content, _ = written(tmp_path)
    scores = average_precision(content, content["annotations"], "segm")
    assert scores["AP"] == 1 and scores["results"] == 4


def test_file_says_that_nobody_drew_it(tmp_path):
    content, _ = written(tmp_path)
    assert "not annotations by people" in content["info"]["note"]
    for key, value in (("model", CARD.model), ("seed", 7), ("score_threshold", 0.5), ("split", CARD.split)):
        assert content["info"][key] == value
    licences = {licence["id"]: licence["name"] for licence in content["licenses"]}
    assert [licences[image["license"]] for image in content["images"]] == ["CC BY", "synthetic", "CC BY"]
    assert [image["trained_the_model"] for image in content["images"]] == [True, False, False]


def test_card_says_everything(tmp_path):
    _, card = written(tmp_path)
    for words in (
        CARD.title, CARD.data_set, CARD.source, CARD.model, CARD.start, CARD.split, CARD.truth, CARD.interval, CARD.licence,
        CARD.regenerate, "60 images", "| Seed | 7 |", "| 0.5 |", "| 0.4 |", "not annotations by people", "not for clinical use",
        "images of set X: 4 objects (lesion 2, effusion 2) on 3 images, of which 1 have none",
        "Of the 3 images 1 trained the model",
        "- CC BY: 2 of 3", "- synthetic: 1 of 3",
    ):
        assert words in " ".join(card.split("\n")), words
    assert "60 radiographs \\| X-rays only" in card  # a bar must not end a cell


def test_scores_stand_beside_trivial_predictors_with_their_intervals(tmp_path):
    _, card = written(tmp_path, replace(CARD, scores=CARD.scores[::-1]))
    rows = [line for line in card.splitlines() if line.startswith(("| **Mask R-CNN", "| nothing", "| everything"))]
    assert [row.split("|")[1].strip() for row in rows] == ["**Mask R-CNN** (this set)", "everything", "nothing"]
    known = CARD.scores.loc["Mask R-CNN"]
    assert f"| 5 | {known.iou:.4f} [{known.iou_low:.4f}, {known.iou_high:.4f}] | 4 | {known.agreement:.4f} [" in rows[0]
    assert rows[0].endswith("| 0 of 1 |") and rows[1].endswith("| 1 of 1 |") and "| 0.0000 [0.0000, 0.0000] |" in rows[2]


def test_an_interval_that_can_not_be_had_is_said(tmp_path):
    scores = CARD.scores.assign(iou_low=np.nan, iou_high=np.nan)
    scores.loc["nothing", "iou"] = np.nan
    _, card = written(tmp_path, replace(CARD, scores=scores))
    assert f"{CARD.scores.iou['Mask R-CNN']:.4f} (no interval)" in card and "| nothing | 5 | none | 4 |" in card


def test_objects_without_a_pixel_are_left_out_and_counted(tmp_path):
    picture = pictures()[0]
    picture.masks[2] = False
    content, card = written(tmp_path, some=[picture])
    assert [annotation["score"] for annotation in content["annotations"]] == pytest.approx([0.9, 0.5])
    assert "Objects without a pixel, which are left out: 1." in card


def test_pictures_are_taken_one_by_one(tmp_path):
    one_by_one, _ = written(tmp_path / "generator", some=(picture for picture in pictures()))
    assert one_by_one == written(tmp_path / "list")[0]


# ---- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [field.name for field in fields(Card)])
def test_nothing_may_be_missing(name):
    with pytest.raises(ParameterError, match=name):
        replace(CARD, **{name: None})
    with pytest.raises(TypeError, match=name):
        Card(**{field.name: getattr(CARD, field.name) for field in fields(Card) if field.name != name})


@pytest.mark.parametrize("name, value", [
    ("model", " "), ("seed", float("nan")), ("seed", "7"), ("seed", True), ("training_images", 1.5),
    ("score_threshold", float("nan")), ("score_threshold", 70),
    ("mask_threshold", -0.1), ("categories", "lesion"), ("categories", ()), ("predictor", "U-Net"),
    ("scores", CARD.scores[:1]), ("scores", CARD.scores.drop(columns="iou_low")), ("title", 3),
])
def test_wrong_values_are_refused(name, value):
    with pytest.raises(ParameterError, match=name):
        replace(CARD, **{name: value})


@pytest.mark.parametrize("change, message", [
    ({"masks": np.zeros((3, 4, 4))}, r"bool \(n, H, W\); found float64"),
    ({"scores": np.array([0.9])}, "3 masks, 1 scores and 3 labels"),
    ({"scores": np.array([0.9, 0.4, 0.7])}, "between the threshold 0.5 and 1; found 0.4"),
    ({"scores": np.array([0.9, np.nan, 0.7])}, "found nan"),
    ({"labels": np.array([1, 3, 1])}, "label 3"),
    ({"licence": ""}, "a file name and a licence"),
])
def test_pictures_that_do_not_fit_are_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        pseudo_labels.write(tmp_path / "set", [pictures()[0]._replace(**change)], CARD)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("some, message", [([], "no picture"), (pictures()[:1] * 2, "b.png")])
def test_nothing_and_twice_the_same_are_refused(tmp_path, some, message):
    with pytest.raises(InputError, match=message):
        pseudo_labels.write(tmp_path, some, CARD)
