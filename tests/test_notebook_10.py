"""What notebook 10 asks of neighbours and of verdicts elsewhere, taken from its cells, and its control with a planted letter."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from covidcxr import datasets, paths, roc, shortcuts
from covidcxr.squares import Greys

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "10_shortcuts_and_robustness.ipynb"


@pytest.fixture(scope="module")
def taught() -> dict:
    """The functions of the cells in which they are taught."""
    cells = [source for cell in json.loads(NOTEBOOK.read_text())["cells"] if (source := "".join(cell["source"]))]
    names: dict = {"np": np, "roc": roc, "shortcuts": shortcuts}
    for name in ("neighbour", "worth"):
        (cell,) = [source for source in cells if f"def {name}(" in source]
        exec(f"def {name}(" + cell.partition(f"def {name}(")[2].partition("\n\n\n")[0], names)
    return names


@pytest.fixture
def control() -> str:
    """The cell that tosses coins and burns in a letter."""
    cells = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"]]
    (cell,) = [source for source in cells if "with_letter =" in source]
    return cell.partition("part = ")[0]


def test_a_neighbour_is_never_the_image_itself_and_apart_never_the_patient(taught):
    random = np.random.default_rng(0)
    thumbs = random.standard_normal((12, 20))
    thumbs[1::2] = thumbs[::2] + 0.1 * random.standard_normal((6, 20))  # each image has a twin
    thumbs /= np.linalg.norm(thumbs, axis=1, keepdims=True)
    owner = np.repeat([f"p{i}" for i in range(6)], 2)  # of the same patient
    near, far = (taught["neighbour"](thumbs, owner, apart) for apart in (False, True))
    assert near.tolist() == [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10]
    assert (owner[far] != owner).all()
    likeness = thumbs @ thumbs.T
    likeness[owner[:, None] == owner[None]] = -2
    assert far.tolist() == likeness.argmax(axis=1).tolist()


def test_a_verdict_is_worth_what_counting_says_where_as_many_are_ill(taught):
    truth = np.array([True] * 8 + [False] * 32)
    scores = np.array([1.0] * 6 + [0.0] * 2 + [1.0] * 4 + [0.0] * 28)
    worth, point = taught["worth"], roc.at_threshold(truth, scores, 0.5, np.arange(40), seed=0)
    assert worth(point, 0, 8 / 40) == pytest.approx(6 / 10)
    assert worth(point, 0, 0.01) == pytest.approx(0.75 * 0.01 / (0.75 * 0.01 + 0.125 * 0.99))
    assert worth(point, 1, 0.2) < worth(point, 0, 0.2) < worth(point, 2, 0.2)
    # No false alarm among 32 does not make a verdict certain.
    point = roc.at_threshold(truth, truth.astype(float), 0.5, np.arange(40), seed=0)
    assert worth(point, 0, 0.01) == 1 and worth(point, 1, 0.01) < 0.1


def test_the_planted_letter_goes_with_the_coin_is_found_and_leaves_no_trace(control):
    """The coin knows nothing of disease and is one for each patient; marks tell it with the letter, and not without."""
    random = np.random.default_rng(1)
    cases = pd.DataFrame([(f"p{i}", i % 3 == 0) for i in range(90) for _ in range(1 + i % 2)], columns=["patient", "covid"])
    level = random.uniform(60, 140, (len(cases), 1, 1))
    clean = Greys((level + 3 * random.standard_normal((len(cases), 256, 256))).astype(np.uint8))
    lungs = np.zeros(clean.bytes.shape, bool)
    lungs[:, 80:200, 60:110] = lungs[:, 80:200, 150:200] = True

    class fine:
        images, masks = clean, lungs

    names: dict = {
        "np": np, "shortcuts": shortcuts, "Greys": Greys, "cases": cases, "clean": clean, "fine": fine, "seed": 0,
        "planted": 0.95,
    }  # fmt: skip
    exec(control, names)
    coin, lettered = names["coin"], names["with_letter"]
    assert cases.groupby("patient").covid.size().shape == (90,)
    assert pd.Series(coin).groupby(cases.patient).nunique().eq(1).all()
    for kind in (True, False):
        assert pd.Series(coin)[cases.covid == kind].groupby(cases.patient).first().mean() == pytest.approx(0.5, abs=0.04)
    assert 0.87 < (coin == lettered).mean() < 1
    np.testing.assert_array_equal(names["found_again"].any(axis=(1, 2)), lettered)
    corner = {name: pictures.bytes[:, 10:60, 10:42].mean(axis=(1, 2)) for name, pictures in names["controls"].items()}
    assert roc.auc(coin, corner["letter burnt in"]) > 0.7
    area = roc.bootstrap_auc(coin, corner["letter painted over"], cases.patient, seed=0)
    assert area.low < 0.5 < area.high


def test_near_duplicates_are_looked_for_in_every_set_of_images():
    """A set that the stage does not declare could not be read in a run."""
    stage = paths.read_yaml(paths.params_dir() / "study.yaml")["stages"]["shortcuts"]
    assert {*stage["datasets"], *stage["optional_datasets"]} == set(datasets.NAMES) - {"tables", "folder"}
