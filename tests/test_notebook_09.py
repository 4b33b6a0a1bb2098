"""What notebook 09 measures with its own functions, taken from its cells."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidcxr import clustered_ap, ct_slices, instances
from covidcxr.ct_slices import CLASSES
from covidcxr.maskrcnn import coco
from covidcxr.maskrcnn.inference import Found

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "09_ct_instance_segmentation.ipynb"


def slice_of(case: str, index: int, where: slice) -> ct_slices.Slice:
    """Two lungs, and an infection in the columns `where`."""
    masks = {kind: np.zeros((32, 32), bool) for kind in ct_slices.KINDS}
    masks["right_lung"][4:28, 3:14], masks["left_lung"][4:28, 18:29], masks["lesion"][10:20, where] = True, True, True
    return ct_slices.make(case, case, index, np.full((32, 32), 0.5, np.float32), masks, 32)


@pytest.fixture(scope="module")
def taught() -> dict:
    sources = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"]]
    names: dict = {"np": np, "pd": pd, "replace": replace, "instances": instances, "coco": coco, "CLASSES": CLASSES,
                   "clustered_ap": clustered_ap, "ct_slices": ct_slices, "score_threshold": 0.5, "seed": 0}  # fmt: skip
    (cell,) = [source for source in sources if source.startswith("def blind(")]
    exec(cell, names)
    (cell,) = [source for source in sources if "def overlap(" in source]
    exec(cell[cell.index("def overlap(") :].partition("\n\n\n")[0], names)
    return names


def found_of(one: ct_slices.Slice, scores) -> Found:
    """What a network would have found that sees each object exactly."""
    from covidcxr.maskrcnn.batches import boxes_of_masks

    boxes = boxes_of_masks(one.masks)
    filled = np.ones((len(one.labels), 14, 14), np.float32)  # all objects are boxes here
    return Found(one.grey.shape, boxes, np.asarray(scores, np.float32), one.labels, filled)


def test_who_never_looks_knows_lungs_and_no_infection_that_moves(taught):
    train = [slice_of("a", k, slice(4 + 5 * (k % 2), 8 + 5 * (k % 2))) for k in range(6)]
    made = taught["blind"](train, [slice_of("b", 0, slice(4, 8)), slice_of("b", 1, slice(20, 24))])
    assert [(entry["image_id"], entry["category_id"]) for entry in made] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert all(entry["score"] == 1.0 for entry in made)


def test_readings_of_one_network(taught):
    """Seen exactly: AP is 1, whatever counts as an object. One of two infections missed: half of the regions, and the united
    object with half of its area."""
    both = slice_of("b", 0, slice(4, 8))
    masks = {kind: both.of_class(label) for label, kind in enumerate(ct_slices.KINDS, 1)}
    masks["lesion"][10:20, 20:24] = True
    both = ct_slices.make("b", "b", 0, both.image, masks, 32)
    assert both.labels.tolist() == [1, 2, 3, 3]
    pictures = [both, slice_of("c", 0, slice(4, 8))]

    def scores(of_first):
        finds = [found_of(pictures[0], of_first), found_of(pictures[1], [0.95] * 3)]
        table = taught["score"](pictures, [finds], pictures, "volume").set_index(["objects_are", "kind", "class", "measure"])
        return table.value.sort_index(), taught["overlap"](pictures[0], finds[0])

    whole, overlap = scores([0.9] * 4)
    assert overlap == 1 and np.allclose(whole.drop("average mask"), 1)
    half, overlap = scores([0.9, 0.9, 0.9, 0.1])
    assert overlap == 0.5
    assert half["regions", "mask", "infection", "AP50"] == pytest.approx(1), "AP takes results of any score"
    assert half["one per slice", "mask", "infection", "AP50"] == pytest.approx(1)
    assert half["one per slice", "mask", "infection", "AP75"] == pytest.approx(51 / 101), "half of one object is no hit there"
