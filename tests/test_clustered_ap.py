"""Average precision by own matching against COCO's evaluation, and its draws against the evaluation of copied images."""

import copy

import numpy as np
import pytest
from test_maskrcnn_coco import box_mask, picture, random_case, result

from covidcxr import clustered_ap
from covidcxr.errors import InputError
from covidcxr.maskrcnn.coco import average_precision, truth


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("seed", range(6))
def test_equals_cocos_evaluation(seed, kind):
    known, found = random_case(seed)
    theirs = average_precision(known, found, kind)
    table = clustered_ap.intervals(known, found, kind, range(len(known["images"])), seed=0, resamples=20)
    for row in table.itertuples():
        expected = theirs if row[1] == "all" else theirs["classes"][row[1]]
        np.testing.assert_allclose(row.value, expected[row.measure], atol=1e-12)
        assert np.isnan(row.value) or row.low <= row.high


def copied(known, found, times):
    """The truth and the results with each image as often as `times` says."""
    images, annotations, results = [], [], []
    for image, count in zip(known["images"], times, strict=True):
        for _ in range(count):
            number = len(images) + 1
            images.append({**image, "id": number})
            for one in known["annotations"]:
                if one["image_id"] == image["id"]:
                    annotations.append({**copy.deepcopy(one), "image_id": number, "id": len(annotations) + 1})
            results += [{**one, "image_id": number} for one in found if one["image_id"] == image["id"]]
    return {**known, "images": images, "annotations": annotations}, results


def test_a_draw_is_the_evaluation_of_the_copied_images():
    known, found = random_case(1)
    found = [{**one, "score": one["score"] + 1e-6 * i} for i, one in enumerate(found)]  # among ties COCO's order would decide
    times = np.array([2, 0, 1, 3, 0, 1, 1, 0])
    made = clustered_ap.matches(known, found, "segm")
    theirs = average_precision(*copied(known, found, times), "segm")
    for name, one in made.items():
        np.testing.assert_allclose(np.mean(one.precision(times)), theirs["classes"][name]["AP"], atol=1e-12)


def test_the_interval_covers_what_differs_between_clusters():
    # In half of the volumes everything is found, in the other half nothing.
    masks = [box_mask(10, 10, 30, 30)]
    known = truth([picture(f"slice{i}", masks) for i in range(40)], ["lung"])
    found = [result(masks[0], 0.9, image) for image in range(1, 41) if (image - 1) // 5 % 2 == 0]
    by_volume = clustered_ap.intervals(known, found, "segm", [i // 5 for i in range(40)], seed=0).set_index(["class", "measure"])
    by_slice = clustered_ap.intervals(known, found, "segm", range(40), seed=0).set_index(["class", "measure"])
    wide, narrow = by_volume.loc[("all", "AP50")], by_slice.loc[("all", "AP50")]
    assert wide.value == narrow.value == pytest.approx(51 / 101) and wide.clusters == 8 and wide.objects == 40
    # The number of good volumes among 8 is binomial: 0.5 - 1.96 * sqrt(0.25 / 8) = 0.15.
    assert wide.low == pytest.approx(0.15, abs=0.06) and wide.high == pytest.approx(0.85, abs=0.06)
    assert wide.high - wide.low > 1.8 * (narrow.high - narrow.low)


def test_a_single_cluster_has_no_interval_and_a_class_without_objects_no_value():
    known, found = random_case(0)
    table = clustered_ap.intervals(known, found, "segm", ["one"] * len(known["images"]), seed=0)
    assert table.low.isna().all() and table.value[table["class"] == "infection"].isna().all()
    assert table.value[table["class"] == "all"].notna().all()


def test_refuses_what_does_not_belong_together():
    known, found = random_case(0)
    with pytest.raises(InputError, match="one cluster; there are 8 images and 3 clusters"):
        clustered_ap.intervals(known, found, "segm", [1, 2, 3], seed=0)
    crowd = copy.deepcopy(known)
    crowd["annotations"][0]["iscrowd"] = 1
    with pytest.raises(InputError, match="crowd"):
        clustered_ap.matches(crowd, found, "segm")
