"""Instances: what a mask falls into, fitted pictures, and masks that survive a trip to the disk."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

from covidcxr import datasets, instances, labels
from covidcxr.errors import InputError


def two_blocks():
    """A picture of 60 x 120 with two blocks and a speck."""
    mask = np.zeros((60, 120), bool)
    mask[10:30, 20:50] = mask[40:50, 70:110] = True
    mask[5, 5] = True
    return np.linspace(0, 1, mask.size, dtype="float32").reshape(mask.shape), mask


@pytest.mark.parametrize("longer_side, shape", [(120, (60, 120)), (240, (120, 240)), (60, (30, 60)), (96, (48, 96))])
def test_regions_of_a_mask_are_instances_at_any_size(longer_side, shape):
    image, mask = two_blocks()
    made = instances.instances("one", "somebody", image, [mask], longer_side)
    assert made.image.shape == shape and made.image.dtype == np.float32 and 0 <= made.image.min() <= made.image.max() <= 1
    assert made.masks.shape == (2, *shape) and made.labels.tolist() == [1, 1] and made.original == (60, 120)
    scale = longer_side / 120
    assert made.masks.sum(axis=(1, 2)) == pytest.approx(np.array([600, 400]) * scale**2, rel=0.02)
    assert made.union.sum() == made.masks.sum(), "the blocks do not overlap, the speck is left out"


def test_each_mask_is_a_class_and_none_is_fine():
    image, mask = two_blocks()
    left, right = mask.copy(), mask.copy()
    left[:, 60:] = right[:, :60] = False
    made = instances.instances("one", "somebody", image, [right, left], 120)
    assert made.labels.tolist() == [1, 2] and made.masks[0, 45, 80] and made.masks[1, 20, 30]
    empty = instances.instances("one", "somebody", image, [np.zeros_like(mask)], 120)
    assert empty.masks.shape == (0, 60, 120) and empty.labels.shape == (0,) and not empty.union.any()


def test_a_mask_of_another_size_is_refused():
    image, mask = two_blocks()
    with pytest.raises(InputError, match=r"one: mask 1 is \(60, 100\), the picture \(60, 120\)"):
        instances.instances("one", "somebody", image, [mask[:, :100]], 64)


def test_a_data_set_is_read_in_order(phantom_smoke):
    xrays = datasets.open("general_blockchain_cxr", str(phantom_smoke))
    cases = xrays.cases().case[::-1]
    read = instances.of_dataset(xrays, cases, ["lung"], 64)
    assert [picture.name for picture in read] == list(cases)
    assert all(len(picture.masks) == 2 and max(picture.image.shape) == 64 for picture in read), "two lungs"
    assert {picture.patient for picture in read} == set(xrays.cases().patient)


def test_projections_come_with_the_polygons_of_their_lesions(tmp_path):
    image, mask = two_blocks()
    (tmp_path / "projections").mkdir()
    cv2.imwrite(str(tmp_path / "projections" / "set__case.png"), (image * 65535).astype(np.uint16))
    found = labels.label_projection(mask, 0.0, min_area=10)
    written = labels.to_coco([labels.ImageLabels("projections/set__case.png", mask.shape, found)])
    instances.write_atomically(tmp_path / "coco.json", json.dumps(written))
    pd.DataFrame([{"set": "set", "case": "007", "patient": "p1", "image": "projections/set__case.png"}]).to_csv(
        tmp_path / "images.csv", index=False
    )
    (read,) = instances.of_projections(tmp_path, tmp_path, 120)
    assert read.name == "set/007" and read.patient == "p1" and len(read.masks) == 2
    assert np.abs(read.image - image).max() < 1e-4
    mask[5, 5] = False
    assert np.count_nonzero(read.union != mask) < 0.02 * mask.sum()

    cv2.imwrite(str(tmp_path / "projections" / "set__case.png"), (image * 255).astype(np.uint8))
    with pytest.raises(InputError, match="set__case.png: a 16-bit grey picture is expected"):
        instances.of_projections(tmp_path, tmp_path, 120)


def test_a_digest_tells_pictures_of_one_name_apart():
    image, mask = two_blocks()
    made = instances.instances("one", "p", image, [mask], 120)
    assert instances.digest([made]) == instances.digest([instances.instances("one", "q", image.copy(), [mask], 120)])
    other = [
        instances.instances("two", "p", image, [mask], 120),
        instances.instances("one", "p", image[:, ::-1], [mask], 120),
        instances.instances("one", "p", image, [mask[:, ::-1]], 120),
        instances.instances("one", "p", image, [mask & False, mask], 120),  # another class
        instances.instances("one", "p", image, [mask], 60),
    ]
    assert len({instances.digest([picture]) for picture in (made, *other)}) == 6
    assert instances.digest([made, other[0]]) != instances.digest([other[0], made]) != instances.digest([made])


def test_twins_are_left_out():
    rng, nothing = np.random.default_rng(0), np.zeros((64, 64), bool)
    pictures = [
        instances.instances(str(k), "p", cv2.resize(rng.random((8, 8), dtype="float32"), (64, 64)), [nothing], 64)
        for k in range(6)
    ]
    darker = instances.instances("twin", "q", cv2.resize(pictures[2].image * 0.8, (50, 50)), [np.zeros((50, 50), bool)], 64)
    kept = instances.unlike([*pictures[3:], darker], pictures[:3])
    assert [picture.name for picture in kept] == ["3", "4", "5"]


def test_masks_come_back_as_they_were(tmp_path):
    _, mask = two_blocks()
    masks = {"covid/odd name (1).png": mask, "other": np.zeros((3, 4), bool)}
    instances.save_masks(tmp_path / "predictions", masks)
    loaded = instances.load_masks(tmp_path / "predictions")
    assert list(loaded) == list(masks) and all(np.array_equal(loaded[name], masks[name]) for name in masks)
    table = tmp_path / "predictions" / "masks.csv"
    table.write_text(table.read_text().replace("0000.png", "../0000.png"))
    with pytest.raises(InputError, match="not a path inside"):
        instances.load_masks(tmp_path / "predictions")


def test_pictures_are_drawn_by_the_seed_in_their_order():
    pictures = [instances.instances(str(i), "p", np.ones((8, 8), np.float32), [], 8) for i in range(9)]
    drawn = [picture.name for picture in instances.draw(pictures, 4, seed=3)]
    assert drawn == sorted(drawn) and len(set(drawn)) == 4
    assert drawn == [picture.name for picture in instances.draw(pictures, 4, seed=3)]
    assert len({tuple(p.name for p in instances.draw(pictures, 4, seed)) for seed in range(5)}) > 1
    assert instances.draw(pictures, 20, seed=0) == pictures
