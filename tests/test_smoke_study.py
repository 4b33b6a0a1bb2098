"""The real study, whole, on the smallest phantom: every notebook, every claim, the report; and what damaged data do to it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from disturbed_study import outcome
from test_pages import MAIN, blocks

from covidcxr import claims, outcomes

STUDY = yaml.safe_load((ROOT / "params" / "study.yaml").read_text())
LEFT_OUT = yaml.safe_load((ROOT / "params" / "smoke.yaml").read_text()).get("leave_out") or []
STAGES = [name for name in STUDY["stages"] if name not in LEFT_OUT]
MOST_MEMORY = 2200  # MB: 2 GB, and a tenth for what allocators keep


def command(outputs: Path, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "COVIDCXR_OUTPUTS": str(outputs)}
    environment.pop("PYTEST_CURRENT_TEST", None)  # with it kernels leave out of notebooks what users would see there
    return subprocess.run([sys.executable, "-m", "covidcxr", *words], env=environment, capture_output=True, text=True)


def outputs_of(stage: Path) -> list[dict]:
    """What the cells of the executed notebook have printed and shown."""
    cells = json.loads((stage / "notebook.ipynb").read_text())["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, phantom_smoke) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    done = command(folder, "run", "smoke", "--keep-going")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(params=STAGES)
def stage(request, outputs) -> Path:
    return outputs / "smoke" / request.param


def test_every_stage_is_done_and_a_second_run_does_nothing(outputs):
    lines = command(outputs, "status", "smoke").stdout.splitlines()
    assert {line.split()[0]: line.split()[1] for line in lines} == dict.fromkeys(STAGES, "done")
    assert "nothing to do" in command(outputs, "run", "smoke").stderr


def test_a_stage_is_small(stage):
    assert 100 < json.loads((stage / "run.json").read_text())["peak_memory_mb"] < MOST_MEMORY


def test_a_stage_records_what_it_owes(stage):
    written = json.loads((stage / "results.json").read_text())
    recorded = {entry["id"] for entry in written["claims"]} | {entry["reproduces"] for entry in written["figures"]}
    assert claims.load().owed(STUDY["stages"][stage.name].get("claims") or []) <= recorded


def test_the_report_calls_all_of_it_phantom(outputs):
    assessed = outcomes.assess(claims.load(), outcomes.read_study(), outcomes.read_profile(outputs / "smoke"))
    of_stages = [entry for entry in assessed.values() if entry.stage in STAGES]
    words = {entry.status for entry in of_stages}
    assert len(of_stages) > 100 and words <= {"phantom", "figure only", "paper inconsistent"}, words


def test_an_executed_notebook_is_clean(stage):
    for output in outputs_of(stage):
        assert output["output_type"] != "error" and output.get("name") != "stderr", "".join(output.get("text", []))
    assert "<html" in (stage / "notebook.html").read_text()[:500]


def test_files_of_the_record_are_there(stage):
    written = json.loads((stage / "results.json").read_text())
    for entry in written["tables"] + written["figures"]:
        assert (stage / entry["file"]).stat().st_size > 0
    assert json.loads((stage / "run.json").read_text())["datasets"] == written["datasets"]


def test_the_report_stands_alone(outputs):
    page = (outputs / "smoke" / "report.html").read_text()
    assert "phantom" in page and "<script" not in page
    assert len(page) < 15e6


@pytest.mark.parametrize("stage", ["start_here", "mask_rcnn_ten_xrays", "unet_opacity_ramesh", "diagnosis", "decomposition_gan"])
def test_the_same_seed_gives_the_same_numbers(outputs, stage):
    """Also where networks are trained: with `--force` all of it is done again."""
    folder = outputs / "smoke" / stage
    first = outcome(folder)
    again = command(outputs, "run", "smoke", stage, "--force", stage)
    assert again.returncode == 0, again.stderr
    printed = "".join("".join(output.get("text", [])) for output in outputs_of(folder))
    assert "trained before" not in printed
    assert outcome(folder) == first


def test_the_readme_measures_images_of_ones_own(outputs, tmp_path, phantom_smoke, monkeypatch, capsys):
    images = sorted((phantom_smoke / "general_blockchain_cxr" / "images").iterdir())[:2]
    (tmp_path / "folder" / "images").mkdir(parents=True)
    for image in images:
        shutil.copy(image, tmp_path / "folder" / "images")
    monkeypatch.setenv("COVIDCXR_DATA", str(tmp_path))
    monkeypatch.setenv("COVIDCXR_OUTPUTS", str(outputs))
    (program,) = [text for text in blocks(MAIN, "python") if "of_dataset" in text]
    exec(program.replace('"pilot"', '"smoke"'), {})
    said = capsys.readouterr().out
    assert "predicted_percentage" in said and all(image.stem in said for image in images)


@pytest.fixture
def damaged(tmp_path, phantom_smoke) -> Path:
    """A data folder with one CT set, to be damaged by the test."""
    shutil.copytree(phantom_smoke / "medseg_nr2_volumes", tmp_path / "data" / "medseg_nr2_volumes")
    return tmp_path / "data"


def truncate(folder: Path) -> str:
    path = sorted(folder.glob("*_image.nii.gz"))[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path.name


def move_mask(folder: Path) -> str:
    import nibabel

    path = sorted(folder.glob("*_lesion.nii.gz"))[0]
    mask = nibabel.load(path)
    affine = mask.affine.copy()
    affine[:3, 3] += 20
    nibabel.Nifti1Image(mask.get_fdata().astype("uint8"), affine).to_filename(path)
    return path.name


def put_nan(folder: Path) -> str:
    import nibabel
    import numpy as np

    path = sorted(folder.glob("*_image.nii.gz"))[0]
    volume = nibabel.load(path)
    voxels = volume.get_fdata(dtype=np.float32)
    voxels[5:9, 5:9, 5:9] = np.nan
    nibabel.Nifti1Image(voxels, volume.affine).to_filename(path)
    return path.name


@pytest.mark.parametrize("damage", [truncate, move_mask, put_nan])
def test_damaged_volumes_fail_their_stage_by_name(tmp_path, damaged, damage):
    name = damage(damaged / "medseg_nr2_volumes")
    failed = command(tmp_path, "run", "smoke", "ct_projection", "--set", f"ct_projection.data={damaged}")
    assert failed.returncode == 1
    assert "ct_projection failed in cell" in failed.stderr and "InputError" in failed.stderr and name in failed.stderr
    assert not (tmp_path / "smoke" / "ct_projection" / "run.json").exists()
    assert (tmp_path / "smoke" / "ct_projection" / "notebook.failed.ipynb").is_file()

    verified = command(tmp_path, "data", "verify", "medseg_nr2_volumes", "--data", str(damaged))
    assert verified.returncode == 1 and name in verified.stdout and "Traceback" not in verified.stderr
