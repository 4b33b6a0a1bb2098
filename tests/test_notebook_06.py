"""What notebook 06 teaches about rates and ties, taken from its cells."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import auc, confusion_matrix

from covidcxr import diagnosis, roc, shortcuts
from covidcxr.squares import Greys

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "06_diagnosis_cnn.ipynb"


@pytest.fixture(scope="module")
def taught() -> dict:
    """The functions of the cells in which they are taught."""
    sources = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"]]
    names: dict = {"np": np, "math": math}
    for first in ("def confusion(", "def tie("):
        (cell,) = [source for source in sources if first in source]
        exec(cell.partition("\n\nprint(")[0], names)
    return names


@pytest.fixture
def answers() -> tuple[np.ndarray, np.ndarray]:
    """Truth and scores of sixty cases, some scores alike."""
    random = np.random.default_rng(3)
    truth = random.random(60) < 0.4
    return truth, np.round(random.random(60) + 0.5 * truth, 1)


def rates(taught, reading, truth, scores, thresholds):
    return taught["READINGS"][reading][2](*taught["confusion"](truth, scores, thresholds))


def test_counts_are_those_of_scikit_learn(taught, answers):
    truth, scores = answers
    thresholds = np.array([0.0, 0.5, 0.7, 9.0])
    tp, fp, tn, fn = taught["confusion"](truth, scores, thresholds)
    for i, threshold in enumerate(thresholds):
        assert [[tn[i], fp[i]], [fn[i], tp[i]]] == confusion_matrix(truth, scores >= threshold).tolist()


def test_corrected_rates_are_the_roc_and_printed_words_its_mirror_image(taught, answers):
    truth, scores = answers
    curve = roc.curve(truth, scores)
    fpr, tpr = rates(taught, "corrected", truth, scores, curve.thresholds)
    np.testing.assert_allclose(fpr, curve.false_positive_rate)
    np.testing.assert_allclose(tpr, curve.true_positive_rate)
    swapped = rates(taught, "printed words", truth, scores, curve.thresholds)
    np.testing.assert_array_equal(swapped, [tpr, fpr])
    assert auc(*swapped) == pytest.approx(1 - roc.auc(truth, scores))


def test_the_other_readings_are_precision_recall_and_shares_of_errors(taught):
    truth = np.array([True] * 5 + [False] * 10)
    scores = np.array([0.9] * 3 + [0.1] * 2 + [0.9] * 4 + [0.1] * 6)  # TP 3, FN 2, FP 4, TN 6
    for reading, expected in (("printed formulas", [3 / 5, 4 / 6]), ("with the paper's letters", [3 / 7, 2 / 6])):
        found = rates(taught, reading, truth, scores, np.array([0.5]))
        assert [float(rate[0]) for rate in found] == pytest.approx(expected)
    # Nothing called ill: no precision; all errors are misses.
    precision, misses = rates(taught, "with the paper's letters", truth, scores, np.array([2.0]))
    assert np.isnan(precision[0]) and misses[0] == 1


@pytest.mark.parametrize("reading", ["corrected", "printed words", "printed formulas", "with the paper's letters"])
def test_the_formulas_that_are_shown_are_those_that_are_computed(taught, answers, reading):
    truth, scores = answers
    parts = taught["confusion"](truth, scores, np.array([0.6]))
    counts = {name: float(part[0]) for name, part in zip(("TP", "FP", "TN", "FN"), parts, strict=True)}
    fpr, tpr, _ = taught["READINGS"][reading]
    found = rates(taught, reading, truth, scores, np.array([0.6]))
    assert [float(rate[0]) for rate in found] == pytest.approx([eval(formula, {}, counts) for formula in (fpr, tpr)])


def test_ties_of_two_networks_of_equal_skill(taught):
    tie = taught["tie"]
    assert [tie(d) for d in (0, 1, 2, 3, 4)] == [1, 0, 0.5, 0, 0.375]
    random = np.random.default_rng(0)
    assert tie(32) == pytest.approx(np.mean(random.binomial(32, 0.5, 200_000) == 16), abs=0.004)
    assert tie(128) == pytest.approx(math.sqrt(2 / (math.pi * 128)), rel=0.01)  # Stirling


@pytest.mark.parametrize("lungs_from", ["", "lung_segmentation"])
def test_with_a_stage_for_lungs_nothing_else_is_seen(lungs_from):
    cells = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"]]
    (cell,) = [source for source in cells if "if lungs_from:" in source]
    whole = np.random.default_rng(0).integers(100, 256, (3, 64, 64)).astype(np.uint8)
    lungs = np.zeros(whole.shape, bool)
    lungs[:, 20:50, 10:55] = True
    finder = SimpleNamespace(masks=lambda images: [lungs[i] for i in range(len(images))])
    names: dict = {
        "np": np, "diagnosis": diagnosis, "shortcuts": shortcuts, "crop": "printed", "lungs_from": lungs_from,
        "pictures": SimpleNamespace(images=Greys(whole)), "stage": SimpleNamespace(upstream=lambda name: name),
        "LungModel": SimpleNamespace(of_stage={"lung_segmentation": finder}.__getitem__),
    }  # fmt: skip
    exec(cell.partition("shape = ")[0], names)
    top, left, bottom, right = diagnosis.edges(64, "printed")
    seen = np.where(lungs, whole, shortcuts.FILL) if lungs_from else whole
    np.testing.assert_array_equal(names["images"].bytes, seen[:, top : 64 - bottom, left : 64 - right])
