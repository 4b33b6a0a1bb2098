"""Losses and scores that notebook 04 teaches, taken from its cells; and its way through data that are not the paper's."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest

keras = pytest.importorskip("keras")

from covidcxr import datasets, lungs, training  # noqa: E402
from covidcxr.models.lung_unet import lung_unet  # noqa: E402

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "04_unet_opacity.ipynb"


@pytest.fixture(scope="module")
def taught() -> dict:
    """The functions of the cell in which they are taught."""
    sources = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"]]
    (cell,) = [source for source in sources if "def focal_loss(" in source]
    names: dict = {"keras": keras, "ops": keras.ops, "dice_of": "batch"}
    exec(cell, names)
    return names


@pytest.fixture
def batch() -> tuple[np.ndarray, np.ndarray]:
    """Truth and probabilities of three images, one of them without truth; some probabilities are exactly 0 or 1."""
    random = np.random.default_rng(5)
    true = (random.random((3, 16, 12, 1)) < 0.3).astype("float32")
    true[1] = 0
    predicted = random.random(true.shape).astype("float32")
    predicted[0, :2] = 0
    predicted[2, :2] = 1
    return true, predicted


def number(value) -> float:
    return float(keras.ops.convert_to_numpy(value))


def test_scores_of_known_masks(taught):
    true, predicted = np.zeros((2, 1, 2, 4, 1), "float32")
    true[..., :2, 0], predicted[..., 1:3, 0] = 1, 1  # 4 pixels each, 2 of them common
    assert number(taught["iou"](true, predicted)) == pytest.approx(2 / 6, rel=1e-5)
    assert number(taught["f1"](true, predicted)) == pytest.approx(4 / 8, rel=1e-5)
    assert number(taught["iou"](true, true)) == number(taught["f1"](true, true)) == 1


def test_an_empty_image_scores_one_if_nothing_is_left_and_next_to_nothing_otherwise(taught):
    empty = np.zeros((2, 320, 320, 1), "float32")
    assert number(taught["iou"](empty, empty)) == number(taught["f1"](empty, empty)) == 1
    assert number(taught["iou"](empty, empty + 0.001)) == pytest.approx(1e-5 / (204.8 + 1e-5), rel=1e-4)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.9])
def test_losses_of_a_constant_probability(taught, p):
    true = np.zeros((1, 8, 8, 1), "float32")
    true[:, :2] = 1  # a quarter
    predicted = np.full_like(true, p)
    focal = -(0.25 * 0.25 * (1 - p) ** 2 * np.log(p) + 0.75 * 0.75 * p**2 * np.log(1 - p))
    dice = 1 - 2 * 0.25 * p / (0.25 + p)
    assert number(taught["focal_loss"](true, predicted)) == pytest.approx(focal, rel=1e-4)
    assert number(taught["loss"](true, predicted)) == pytest.approx(dice + focal, rel=1e-4)


def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_most(taught, batch):
    true, predicted = batch
    assert number(taught["loss"](true, true)) == pytest.approx(0, abs=1e-6)
    assert number(taught["loss"](true, predicted)) < number(taught["loss"](true, 1 - true))


def test_they_are_those_of_segmentation_models(taught, batch, segmentation_models):
    true, predicted = batch
    losses, metrics = segmentation_models.losses, segmentation_models.metrics
    assert number(taught["iou"](true, predicted)) == pytest.approx(float(metrics.iou_score(true, predicted)), rel=1e-6)
    assert number(taught["f1"](true, predicted)) == pytest.approx(float(metrics.f1_score(true, predicted)), rel=1e-6)
    assert 1 - number(taught["f1"](true, predicted)) == pytest.approx(float(losses.DiceLoss()(true, predicted)), rel=1e-5)
    focal = float(losses.BinaryFocalLoss()(true, predicted))
    assert number(taught["focal_loss"](true, predicted)) == pytest.approx(focal, rel=1e-5)
    for dice_of in ("batch", "image"):
        both = losses.DiceLoss(per_image=dice_of == "image") + losses.BinaryFocalLoss()
        taught["dice_of"] = dice_of
        assert number(taught["loss"](true, predicted)) == pytest.approx(float(both(true, predicted)), rel=1e-5)
    taught["dice_of"] = "batch"


def test_the_focal_loss_is_that_of_keras(taught, batch):
    true, predicted = batch
    theirs = keras.losses.BinaryFocalCrossentropy(apply_class_balancing=True, alpha=0.25, gamma=2.0)
    assert number(taught["focal_loss"](true, predicted)) == pytest.approx(number(theirs(true, predicted)), rel=1e-5)


def test_f1_and_iou_of_a_batch_tell_the_same(taught, batch):
    found = number(taught["iou"](*batch))
    assert number(taught["f1"](*batch)) == pytest.approx(2 * found / (1 + found), rel=1e-4)


def execute(tmp_path, data, **parameters) -> tuple[Path, dict]:
    folder = tmp_path / "out" / "unet_opacity"
    small = {"image_size": 32, "batch_size": 2, "epochs": 1, "steps": 1, "data": str(data), "stage_dir": str(folder)}
    given = small | parameters
    papermill.execute_notebook(NOTEBOOK, tmp_path / "executed.ipynb", given, kernel_name="python3", progress_bar=False)
    return folder, json.loads((folder / "results.json").read_text())


def test_general_blockchain_stands_in_and_is_said_to_where_the_cohort_is_not_at_hand(tmp_path, phantom_smoke):
    shutil.copytree(phantom_smoke / "general_blockchain_cxr", tmp_path / "data" / "general_blockchain_cxr")
    folder, written = execute(tmp_path, tmp_path / "data", repeats=2)
    assert [entry["name"] for entry in written["datasets"]] == ["general_blockchain_cxr"]
    claims = {entry["id"]: entry for entry in written["claims"]}
    for name in ("data.images", "iou.train", "iou.test", "iou.corrected", "released.log.loss", "correct_location"):
        entry = claims[f"tang2020.{name}"]
        assert not entry["comparable"] and "General Blockchain stand in" in entry["why"] and entry["value"] is not None
    assert claims["tang2020.iou.validation"]["value"] is None and claims["tang2020.data.severity_images"]["value"] is None
    seeds = {entry["name"]: entry["seeds"] for entry in written["numbers"]}
    assert seeds["iou_unet"] == seeds["iou_unet_averaged"] == [0, 1] and seeds["iou_whole_lung"] == [0]
    scores = pd.read_csv(folder / "scores.csv").by.value_counts()
    assert scores["unet"] == 2 * scores["unet averaged"] == 2 * scores["whole lung"]
    table = pd.read_csv(folder / "opacity_percentages.csv")
    assert set(table.role) == {"train", "test"} and (table.lungs == "manual").all()
    assert table.predicted_percentage.between(0, 100).all() and table.manual_percentage.between(0, 100).all()


def test_lungs_may_be_a_networks_and_cohens_x_rays_of_v7_are_measured(tmp_path, phantom_smoke):
    for name in ("general_blockchain_cxr", "v7_cxr"):
        shutil.copytree(phantom_smoke / name, tmp_path / "data" / name)
    data, design = tmp_path / "data", {"base_filters": 2, "depth": 2, "dropout": 0.0}
    training.set_seed(0)
    finder = lungs.LungModel(lung_unet(32, **design), 32, 0.5)
    upstream = tmp_path / "out" / "lung_segmentation"
    upstream.mkdir(parents=True)
    finder.network.save_weights(upstream / "lungs.weights.h5")
    finder.save(upstream, upstream / "lungs.weights.h5", {"image_size": 32, **design})
    (upstream / "run.json").write_text(json.dumps({"status": "done", "parameters": {"data": str(data)}}))
    folder, written = execute(tmp_path, data, lungs_from="lung_segmentation")
    assert {entry["name"] for entry in written["datasets"]} == {"general_blockchain_cxr", "v7_cxr"}
    assert "lungs by a network" in {entry["id"]: entry for entry in written["claims"]}["tang2020.iou.test"]["why"]

    table = pd.read_csv(folder / "opacity_percentages.csv", dtype={"case": str, "patient": str})
    split = pd.read_csv(folder / "split.csv", dtype=str)
    cases = datasets.open("v7_cxr", data).cases()
    known = cases[cases.excluded.isna() & cases.covid & (cases.icu.notna() | cases.death.notna())]
    new = known[~known.patient.isin(split.patient[split.role == "train"])]
    theirs = table[table.data_set == "v7_cxr"]
    assert set(theirs.case) == set(new.case) and 0 < len(new) < len(known)
    assert (table.lungs == "predicted").all() and (theirs.role == "none").all() and theirs.manual_percentage.isna().all()
    assert table.manual_percentage[table.data_set != "v7_cxr"].notna().all()
