"""Notebook 11 on finished, failed and missing stages."""

import json
from pathlib import Path

import papermill
import pytest
import synthetic_profile

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "11_paper_vs_reproduced.ipynb"


@pytest.mark.parametrize("stages", ["some", "none"])
def test_it_compares_whatever_has_been_run(tmp_path, stages):
    profile = synthetic_profile.write(tmp_path / "pilot") if stages == "some" else tmp_path / "nothing"
    folder = tmp_path / "out" / "paper_vs_reproduced"
    parameters = {"stage_dir": str(folder), "profile_dir": str(profile), "data": "real", "simulations": 400}
    papermill.execute_notebook(NOTEBOOK, tmp_path / "executed.ipynb", parameters, kernel_name="python3", progress_bar=False)

    results = json.loads((folder / "results.json").read_text())
    assert results["finished"] and not results["claims"]
    numbers = {entry["name"]: entry["value"] for entry in results["numbers"]}
    expected = {"match": 3, "differs": 3, "paper_inconsistent": 3} if stages == "some" else {"match": 0, "paper_inconsistent": 3}
    assert {name: numbers[f"claims_{name}"] for name in expected} == expected
    assert sum(value for name, value in numbers.items() if name.startswith("claims_")) == 209
    assert 0.10 < numbers["auc_with_ten_deaths_half_width"] < 0.18
    assert {entry["name"] for entry in results["figures"]} == {"headlines", "verdicts", "forest", "finding_nothing"}
    assert len((folder / "tables" / "claims.csv").read_text().splitlines()) >= 210
