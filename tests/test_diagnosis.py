"""What zhang2020's diagnosis can't do without, and which pixels its crops remove."""

import json
import shutil

import numpy as np
import pandas
import pytest

from covidcxr import datasets, diagnosis, splits, squares
from covidcxr.errors import InputError, ParameterError
from covidcxr.squares import Greys


def kept(dataset) -> pandas.DataFrame:
    """The images that the paper's rule keeps."""
    table = dataset.cases()
    return table[table.excluded.isna()]


def test_a_file_without_tags_is_an_image_without_label(tmp_path, phantom_smoke):
    """As read from the files: an annotation that has lost its tags."""
    shutil.copytree(phantom_smoke / "v7_cxr", tmp_path / "v7_cxr")
    victim = kept(datasets.open("v7_cxr", tmp_path)).case.iloc[2]
    (path,) = (tmp_path / "v7_cxr").rglob(f"{victim}.json")
    content = json.loads(path.read_text())
    content["annotations"] = [annotation for annotation in content["annotations"] if "tag" not in annotation]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"Of 1 images it is not known whether they show COVID-19: {victim}.*Tag them"):
        splits.zhang2020(kept(datasets.open("v7_cxr", tmp_path)), "diagnosis", seed=0)


@pytest.mark.parametrize(("gone", "left"), [(True, "other"), (False, "COVID-19")])
def test_a_set_of_one_class_is_refused(tmp_path, phantom_smoke, gone, left):
    shutil.copytree(phantom_smoke / "v7_cxr", tmp_path / "v7_cxr")
    for row in datasets.open("v7_cxr", tmp_path).cases().itertuples():
        if row.covid == gone:
            (tmp_path / "v7_cxr" / row.image).unlink()
    with pytest.raises(InputError, match=f"these .* are all {left} images"):
        splits.zhang2020(kept(datasets.open("v7_cxr", tmp_path)), "diagnosis", seed=0)


def test_an_image_that_can_not_be_read_is_named(tmp_path, phantom_smoke):
    shutil.copytree(phantom_smoke / "v7_cxr", tmp_path / "v7_cxr")
    v7 = datasets.open("v7_cxr", tmp_path)
    cases = kept(v7)
    path = tmp_path / "v7_cxr" / cases.image.iloc[1]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=f"{path.name}: not a readable image"):
        squares.read(v7, cases.case, 32, kind=None)


@pytest.mark.parametrize(("crop", "size", "shape", "first"), [
    ("printed", 256, (246, 236), (10, 10)), ("left_top_20", 256, (236, 236), (20, 20)), ("none", 256, (256, 256), (0, 0)),
    ("printed", 128, (123, 118), (5, 5)), ("left_top_20", 96, (88, 88), (8, 8)),
])  # fmt: skip
def test_crops_remove_the_pixels_that_the_paper_names(crop, size, shape, first):
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 256, (3, size, size), dtype=np.uint8)
    images = diagnosis.cropped(Greys(whole), crop)
    assert len(images) == 3 and images[1].shape == shape and images[1].dtype == np.float32
    np.testing.assert_array_equal(images.bytes[:, 0, 0], whole[:, first[0], first[1]])
    np.testing.assert_array_equal(images.bytes[:, -1, 0], whole[:, -1, first[1]])  # nothing is removed at the bottom
    right = diagnosis.edges(size, crop)[3]
    np.testing.assert_array_equal(images.bytes[:, 0, -1], whole[:, first[0], size - 1 - right])
    assert right == {"printed": first[1]}.get(crop, 0)
    assert np.shares_memory(images.bytes, whole)


def test_other_crops_and_other_shapes_are_refused():
    with pytest.raises(ParameterError, match="crop is one of printed, left_top_20, none; found 'left'"):
        diagnosis.edges(256, "left")
    with pytest.raises(InputError, match="those of squares; these images are 8 x 9"):
        diagnosis.cropped(Greys(np.zeros((2, 8, 9), np.uint8)))
