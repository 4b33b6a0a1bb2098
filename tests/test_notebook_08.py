"""What notebook 08 asks of slices before it trains: who is kept, who can be scored, and whether their source can be told."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidcxr import roc, shortcuts
from covidcxr.slice_labels import LabelledSlices, Truth
from covidcxr.slice_sources import Harmony
from covidcxr.squares import Greys

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "08_weakly_supervised_gan.ipynb"
CELLS = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"]]


def taught(*functions: str, **names) -> dict:
    """Functions of the cells in which they are taught."""
    known = {"np": np, "pd": pd, "roc": roc, "shortcuts": shortcuts, "seed": 0, **names}
    for name in functions:
        (cell,) = [source for source in CELLS if f"def {name}(" in source]
        exec(f"def {name}(" + cell.partition(f"def {name}(")[2].partition("\n\n\n")[0], known)
    return known


@pytest.fixture
def some() -> tuple[LabelledSlices, Truth]:
    """Twelve slices: six without lesion, four with one that is drawn, two with one that nobody drew."""
    greys = np.random.default_rng(0).integers(20, 90, (12, 16, 16)).astype(np.uint8)
    lesions = np.zeros(greys.shape, bool)
    lesions[6:10, 3:6, 3:6] = True
    names = [str(i) for i in range(12)]
    return LabelledSlices(names, names, ["here"] * 12, np.arange(12) >= 6, Greys(greys)), Truth(lesions, greys > 0)


def test_no_more_than_wanted_are_kept_of_either_label(some):
    lot, (slices, _) = taught("drawn_by_lot")["drawn_by_lot"], some
    assert lot(slices, [0, 0]).tolist() == list(range(12)), "0 keeps all"
    kept = lot(slices, [2, 3])
    assert len(kept) == 5 and slices.has_lesion[kept].sum() == 3 and (np.diff(kept) > 0).all()
    assert lot(slices, [2, 3]).tolist() == kept.tolist(), "the same seed, the same lot"
    assert lot(slices, [99, 1]).size == 7


def test_slices_whose_lesion_nobody_drew_are_not_scored(some):
    slices, truth = taught("drawn_by_lot", "scorable")["scorable"](some, 0)
    assert slices.names == [str(i) for i in range(10)]
    assert (truth.lesions.any(axis=(1, 2)) == slices.has_lesion).all()
    few, its = taught("drawn_by_lot", "scorable")["scorable"](some, 2)
    assert few.has_lesion.sum() == its.lesions.any(axis=(1, 2)).sum() == 2 and len(few) == 4
    for name, image in zip(few.names, few.images, strict=True):
        np.testing.assert_array_equal(image, some[0].images[int(name)])


def test_a_planted_source_is_told_and_no_longer_after_harmonisation():
    """Twenty patients; of every second one all slices are 30 grey values darker, whatever their label."""
    rng = np.random.default_rng(1)
    whose = np.repeat([f"p{i:02d}" for i in range(20)], 4)
    coin = np.repeat(np.arange(20) % 2 == 0, 4)
    greys = rng.normal(90, 8, (80, 16, 16))
    greys[1::2, 2:8, 2:8] += rng.uniform(40, 80, (40, 1, 1))  # every second slice has a lesion
    greys[coin] -= 30
    slices = LabelledSlices([str(i) for i in range(80)], whose.tolist(), ["here"] * 80, np.arange(80) % 2 == 1,
                            Greys(greys.round().clip(1, 255).astype(np.uint8)))
    told = taught("told", whose=whose)["told"]
    assert told(slices.images, coin).value > 0.95
    alike = Harmony.of(slices)(slices)
    assert told(alike.images, coin).low < 0.6
    assert abs(alike.images.bytes[1::2, 2:8, 2:8].mean() - alike.images.bytes[::2].mean()) > 40, "lesions stay as bright"
