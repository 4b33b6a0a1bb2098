"""Average precision against pycocotools and closed forms, and results against the masks that they were made of."""

import contextlib
import copy
import io
import json
import tracemalloc
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from covidcxr.errors import InputError
from covidcxr.labels import run_lengths
from covidcxr.maskrcnn.batches import boxes_of_masks
from covidcxr.maskrcnn.coco import average_precision, results, truth
from covidcxr.maskrcnn.inference import Found
from covidcxr.maskrcnn.masks import paste_masks

CLASSES = ["left lung", "right lung", "infection"]


def box_mask(x1, y1, x2, y2, height=60, width=80):
    mask = np.zeros((height, width), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def picture(name, masks, labels=None, shape=(60, 80)):
    stacked = np.stack(masks) if len(masks) else np.zeros((0, *shape), bool)
    return SimpleNamespace(name=name, masks=stacked, labels=np.ones(len(masks), "int32") if labels is None else np.array(labels))


def result(mask, score, image=1, label=1):
    x1, y1, x2, y2 = (float(x) for x in boxes_of_masks(mask[None])[0])
    return {
        "image_id": image, "category_id": label, "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1],
        "segmentation": run_lengths(mask),
    }


def random_mask(rng):
    row, column = np.ogrid[:60, :80]
    (y, x), (a, b) = rng.uniform((5, 5), (55, 75)), rng.uniform(2, 20, 2)
    return ((row - y) / a) ** 2 + ((column - x) / b) ** 2 < 1


def random_case(seed):
    """Truth of three classes, the third without instances, and results near them, elsewhere and of equal scores."""
    rng = np.random.default_rng(seed)
    pictures, found = [], []
    for image in range(1, 9):
        count = 0 if image == 3 else rng.integers(0, 6)
        masks = [random_mask(rng) for _ in range(count)]
        labels = rng.integers(1, 3, count)
        pictures.append(picture(f"image{image}", masks, labels))
        for mask, label in zip(masks, labels, strict=True):
            for _ in range(rng.integers(0, 4)):
                near = np.roll(mask, rng.integers(-4, 5, 2), (0, 1))
                found.append(result(near, float(rng.integers(1, 10)) / 10, image, int(label if rng.random() < 0.8 else 3)))
        # More than the 100 that count in one image.
        for _ in range(120 if image == 5 else rng.integers(0, 3)):
            found.append(result(random_mask(rng), float(rng.random()), image, int(rng.integers(1, 4))))
    return truth(pictures, CLASSES), found


def by_pycocotools(known, found, kind):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(known)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(found)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("seed", range(3))
def test_the_same_as_pycocotools(seed, kind):
    known, found = random_case(seed)
    ours, peer = average_precision(known, found, kind), by_pycocotools(known, found, kind)
    same = {"rel": 1e-14}  # precisions differ by one unit in the last place, here and there
    assert [ours["AP"], ours["AP50"], ours["AP75"]] == pytest.approx(peer.stats[:3].tolist(), **same)
    assert 0.01 < ours["AP"] < ours["AP50"] < 0.99
    precision = peer.eval["precision"][..., 0, -1]
    for i, name in enumerate(CLASSES[:2]):
        expected = [part[..., i].mean() for part in (precision, precision[0], precision[5])]
        assert [ours["classes"][name][key] for key in ("AP", "AP50", "AP75")] == pytest.approx(expected, **same)
    assert (precision[..., 2] == -1).all() and np.isnan(ours["classes"]["infection"]["AP"])
    assert ours["classes"]["infection"]["results"] > 0


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_closed_forms(kind):
    first, second = box_mask(5, 5, 25, 25), box_mask(40, 30, 60, 50)
    known = truth([picture("a", [first, second]), picture("b", [])], ["lesion"])

    def score(*found):
        scores = average_precision(known, found, kind)
        return [scores["AP"], scores["AP50"], scores["AP75"]]

    both = [result(first, 0.9), result(second, 0.8)]
    assert score(*both) == [1, 1, 1]
    # One of two: precision 1 at the 51 of 101 recalls up to a half.
    assert score(both[0]) == pytest.approx([51 / 101] * 3)
    # Something that is not there, and surer: precision 1 / 2 up to a recall of a half, 2 / 3 after it, so 2 / 3 everywhere.
    assert score(*both, result(box_mask(60, 2, 70, 9), 0.95, 2)) == pytest.approx([2 / 3] * 3)
    # Less sure than both, it costs nothing.
    assert score(*both, result(box_mask(60, 2, 70, 9), 0.1, 2)) == [1, 1, 1]
    # 17 of 20 columns in common: 17 / 23 = 0.739, above 5 of the 10 thresholds.
    moved = [result(np.roll(mask, 3, 1), 0.9) for mask in (first, second)]
    assert score(*moved) == pytest.approx([0.5, 1, 0])
    # Found twice, the second is wrong.
    assert score(both[0], {**both[0], "score": 0.85}, both[1]) == pytest.approx([(51 + 50 * 2 / 3) / 101] * 3)


def test_masks_and_boxes_are_told_apart():
    """An L and the square that fills its box: boxes agree, masks do not."""
    square = box_mask(10, 10, 30, 30)
    ell = square & ~box_mask(15, 10, 30, 25)
    known = truth([picture("a", [ell])], ["lesion"])
    assert average_precision(known, [result(square, 1.0)], "bbox")["AP"] == 1
    assert average_precision(known, [result(square, 1.0)], "segm")["AP50"] == 0


def test_what_is_empty_is_said_so():
    mask = box_mask(5, 5, 25, 25)
    known = truth([picture("a", [mask]), picture("b", [])], ["lesion", "lung"])
    nothing = average_precision(known, [], "segm")
    assert [nothing[key] for key in ("AP", "AP50", "AP75")] == [0, 0, 0]
    assert (nothing["images"], nothing["instances"], nothing["results"]) == (2, 1, 0)
    assert nothing["classes"]["lesion"]["AP"] == 0 and nothing["classes"]["lesion"]["instances"] == 1
    assert np.isnan([nothing["classes"]["lung"][key] for key in ("AP", "AP50", "AP75")]).all()
    # A class without instances takes no part in the mean, whatever is said to be of it.
    scores = average_precision(known, [result(mask, 0.9), result(mask, 0.9, 2, label=2)], "segm")
    assert scores["AP"] == 1 and np.isnan(scores["classes"]["lung"]["AP"]) and scores["classes"]["lung"]["results"] == 1

    healthy = truth([picture("a", []), picture("b", [])], ["lesion"])
    for found in ([], [result(mask, 0.9)]):
        scores = average_precision(healthy, found, "bbox")
        assert np.isnan([scores["AP"], scores["AP50"], scores["AP75"], scores["classes"]["lesion"]["AP"]]).all()
        assert scores["instances"] == 0 and scores["results"] == len(found)


def test_nothing_is_printed_and_nothing_changed(capfd):
    known, found = random_case(0)
    before = copy.deepcopy((known, found))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        average_precision(known, found, "segm")
        average_precision(known, [], "bbox")
    assert (known, found) == before
    assert capfd.readouterr() == ("", "")


def test_truth_is_what_pictures_hold():
    masks = [random_mask(np.random.default_rng(seed)) for seed in range(3)]
    known = json.loads(json.dumps(truth([picture("a", []), picture("b", masks, [2, 1, 3])], CLASSES)))
    assert [image["file_name"] for image in known["images"]] == ["a", "b"]
    assert [category["name"] for category in known["categories"]] == CLASSES
    assert [a["category_id"] for a in known["annotations"]] == [2, 1, 3]
    for annotation, mask in zip(known["annotations"], masks, strict=True):
        assert np.array_equal(coco_mask.decode(annotation["segmentation"]).astype(bool), mask)
        x, y, width, height = annotation["bbox"]
        np.testing.assert_array_equal(boxes_of_masks(mask[None])[0], [x, y, x + width, y + height])
        assert annotation["image_id"] == 2 and annotation["area"] == mask.sum()


def found_in(height, width, count, seed=0):
    """Objects with boxes of whole and of broken coordinates."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, (width * 0.7, height * 0.7), (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(4, (width * 0.3, height * 0.3), (count, 2))], 1).astype("float32")
    masks = rng.random((count, 14, 14), dtype="float32")
    scores = np.sort(rng.random(count).astype("float32"))[::-1]
    return Found((height, width), boxes, scores, np.arange(count, dtype="int32") % 3 + 1, masks)


def test_results_hold_what_was_found():
    found = [found_in(50, 70, 4), found_in(40, 30, 0), found_in(64, 48, 2, seed=1)]
    made = json.loads(json.dumps(results(found)))
    assert [entry["image_id"] for entry in made] == [1, 1, 1, 1, 3, 3]
    for start, objects in ((0, found[0]), (4, found[2])):
        whole = paste_masks(objects.masks, objects.boxes, *objects.shape) >= 0.5
        for i, mask in enumerate(whole):
            entry = made[start + i]
            assert np.array_equal(coco_mask.decode(entry["segmentation"]).astype(bool), mask)
            x, y, width, height = entry["bbox"]
            np.testing.assert_allclose([x, y, x + width, y + height], objects.boxes[i], rtol=1e-6)
            assert (entry["score"], entry["category_id"]) == (objects.scores[i], objects.labels[i])
    assert results(found[1:2]) == []
    lower = coco_mask.area([entry["segmentation"] for entry in results(found[:1], threshold=0.3)])
    assert (lower > coco_mask.area([entry["segmentation"] for entry in results(found[:1])])).all()


def test_found_ellipses_score_as_their_masks_allow():
    """Masks of 28 x 28 of true ellipses, pasted back, are at least at 0.85 of them."""
    rng = np.random.default_rng(0)
    pictures, found = [], []
    for i in range(4):
        mask = random_mask(rng)
        (box,) = boxes_of_masks(mask[None])
        x1, y1, x2, y2 = box.astype(int)
        rows, columns = ((np.arange(28) + 0.5) / 28 * (y2 - y1)).astype(int), ((np.arange(28) + 0.5) / 28 * (x2 - x1)).astype(int)
        small = mask[y1:y2, x1:x2][np.ix_(rows, columns)].astype("float32")
        pictures.append(picture(f"{i}", [mask]))
        found.append(Found((60, 80), box[None], np.ones(1, "float32"), np.ones(1, "int32"), small[None]))
    known = truth(pictures, ["lesion"])
    assert average_precision(known, results(found), "bbox")["AP"] == 1
    assert average_precision(known, results(found), "segm")["AP"] > 0.75


def test_many_large_detections_are_coded_one_by_one():
    found = found_in(512, 512, 100)
    tracemalloc.start()
    made = results([found])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(made) == 100
    assert peak < 12 * 512 * 512 * 4  # bytes of 12 float pictures; 100 at once would take 100


@pytest.mark.parametrize(("changes", "message"), [
    ({"image_id": 7}, "Result 0 is of image 7 .*2 images, from 1 to 2"),
    ({"category_id": 2}, "category 2; .*categories 1"),
    ({"segmentation": run_lengths(np.ones((80, 60), bool))}, r"\[80, 60\], image 1 of the truth is \[60, 80\]"),
    ({"score": float("nan")}, "score is nan"),
])
def test_results_of_something_else_are_refused(changes, message):
    mask = box_mask(5, 5, 25, 25)
    known = truth([picture("a", [mask]), picture("b", [])], ["lesion"])
    with pytest.raises(InputError, match=message):
        average_precision(known, [{**result(mask, 0.5), **changes}], "segm")


def test_a_truth_that_cannot_be_scored_is_refused():
    known = truth([picture("a", [box_mask(5, 5, 25, 25), box_mask(30, 5, 40, 25)])], ["lesion"])
    for ids in ((0, 1), (4, 4)):
        changed = copy.deepcopy(known)
        for annotation, number in zip(changed["annotations"], ids, strict=True):
            annotation["id"] = number
        with pytest.raises(InputError, match="Ids of the truth"):
            average_precision(changed, [], "segm")
    with pytest.raises(InputError, match="no images"):
        average_precision({**known, "images": [], "annotations": []}, [], "segm")
    with pytest.raises(InputError, match="kind"):
        average_precision(known, [], "boundary")
