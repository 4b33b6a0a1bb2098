"""Notebook 07 where data are not the paper's, or lack what it needs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import papermill
import pytest

from covidcxr import datasets, severity

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "07_severity_roc.ipynb"
SET = "general_blockchain_cxr"


@pytest.fixture
def data(tmp_path, phantom_smoke) -> Path:
    """General Blockchain alone, without the table that makes it known as a phantom."""
    shutil.copytree(phantom_smoke / SET, tmp_path / "data" / SET)
    return tmp_path / "data"


def execute(tmp_path, data: Path, more: pd.DataFrame | None = None) -> dict:
    """Run the notebook on percentages that rise from image to image, and `more`, as if `unet_opacity` had left them."""
    cases = datasets.open(SET, data).cases()
    percentages = cases[["case", "patient"]].assign(data_set=SET, role=np.where(cases.index < 3, "train", "test"), lungs="manual")
    percentages["manual_percentage"] = np.linspace(0, 90, len(cases))
    percentages["predicted_percentage"] = np.linspace(80, 5, len(cases))
    percentages = pd.concat([percentages, more], ignore_index=True)
    upstream = tmp_path / "out" / "unet_opacity"
    upstream.mkdir(parents=True)
    percentages[list(severity.COLUMNS)].to_csv(upstream / "opacity_percentages.csv", index=False)
    (upstream / "run.json").write_text(json.dumps({"status": "done", "parameters": {"data": str(data)}}))
    folder = tmp_path / "out" / "severity_roc"
    parameters = {"data": str(data), "stage_dir": str(folder), "compute_scores": False}
    papermill.execute_notebook(NOTEBOOK, tmp_path / "executed.ipynb", parameters, kernel_name="python3", progress_bar=False)
    return json.loads((folder / "results.json").read_text())


def test_what_is_not_at_hand_is_said(tmp_path, data):
    written = execute(tmp_path, data)
    claims = {entry["id"].removeprefix("tang2020."): entry for entry in written["claims"]}
    assert "general_blockchain stands in for the rural cohort" in claims["figure3"]["why"]
    assert "git clone" in claims["figure4"]["why"] and 'pip install -e ".[opacity-score]"' in claims["figure4"]["why"]
    assert claims["released.deaths"]["value"] is None and "not at hand" in claims["released.deaths"]["why"]
    drawn = {entry["reproduces"] for entry in written["figures"]}
    assert "tang2020.figure3" in drawn and "tang2020.figure4" not in drawn


def test_numbers_are_those_of_the_images_whose_outcome_is_known(tmp_path, data):
    """The percentages rise with the row, the predicted ones fall: areas follow from the order of the outcomes alone."""
    written = execute(tmp_path, data)
    died = datasets.open(SET, data).cases().death
    known = died.notna()
    rank = np.arange(len(died))[known]
    dead, alive = (rank[died[known].astype(bool) == value] for value in (True, False))
    expected = (dead[:, None] > alive).mean()
    numbers = {entry["name"]: entry for entry in written["numbers"]}
    assert numbers["auc_death_manual_general_blockchain"]["value"] == pytest.approx(expected)
    assert numbers["auc_death_predicted_general_blockchain"]["value"] == pytest.approx(1 - expected)
    assert numbers["auc_death_manual_general_blockchain"]["n"] == known.sum() < len(died) + 1
    icu = numbers["auc_icu_manual_general_blockchain"]
    assert icu["value"] is None and "needs both classes" in icu["what"]


def test_without_any_outcome_there_is_an_error_that_says_so(tmp_path, data):
    path = data / SET / "metadata.csv"
    table = pd.read_csv(path, dtype=str)
    table.assign(survival="", went_icu="", in_icu="").to_csv(path, index=False)
    with pytest.raises(papermill.PapermillExecutionError, match="neither outcome is known .* data verify general_blockchain_cxr"):
        execute(tmp_path, data)


def test_a_set_on_which_nobody_drew_opacities_has_areas_of_the_predicted_percentage_only(tmp_path, data, phantom_smoke):
    shutil.copytree(phantom_smoke / "v7_cxr", data / "v7_cxr")
    cases = datasets.open("v7_cxr", data).cases()
    cases = cases[cases.excluded.isna() & cases.covid & cases.death.notna()].reset_index(drop=True)
    more = cases[["case", "patient"]].assign(data_set="v7_cxr", role="none", lungs="manual", manual_percentage=np.nan)
    more["predicted_percentage"] = np.where(cases.death.astype(bool), 60.0, 20.0)  # the predicted share tells who died
    numbers = {entry["name"]: entry for entry in execute(tmp_path, data, more)["numbers"]}
    assert numbers["auc_death_predicted_v7_patients"]["value"] == 1
    assert numbers["auc_death_predicted_v7_patients"]["n"] == cases.patient.nunique() > 2
    assert not [name for name in numbers if "manual_v7" in name]
