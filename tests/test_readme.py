"""The README's commands and programs, run: the same words, on a small study that has the names they use.

Elsewhere: `make` (test_environment.py), `report --reference` (test_reference.py), downloads (test_datasets_download.py).
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from functools import partial

import numpy as np
import pytest
import yaml
from conftest import ROOT, SmallStudy
from PIL import Image
from test_pages import MAIN, blocks, commands, prose

from covidcxr.study import Plan

LINES = [line.partition("#")[0].strip() for line in commands(MAIN)]
OURS = [line for line in LINES if "python -m covidcxr" in line]
STAGES = {
    "ct_projection": "01_ct_projection", "label_generation": "02_label_generation", "lung_segmentation": "05_lung_segmentation",
}  # fmt: skip
PARAMETERS = """
    data: str = "phantom:smoke"
    seed: int = 0
    stage_dir: str = ""
    mode: str = "sum"
    number: float = 1.0
    precision: str = "float32"
    jit: str = "auto"
    devices: int = 1
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study with the README's stages, all four profiles, and an image in its folder of data."""
    small = SmallStudy(tmp_path_factory.mktemp("readme"))
    entries = {name: {"notebook": notebook} for name, notebook in STAGES.items()}
    entries["label_generation"]["needs"] = ["ct_projection"]
    small.write("params/study.yaml", yaml.safe_dump({"stages": entries}))
    for profile in ("smoke", "demo", "pilot", "paper"):
        small.write(f"params/{profile}.yaml", f"{{title: {profile}, description: small}}")
    shutil.copy(ROOT / "params" / "datasets.yaml", small.root / "params")
    for name, notebook in STAGES.items():
        body = [f"stage = results.open_stage({name!r}, stage_dir, data=data, seed=seed)",
                "stage.number('number', number, what='a number', n=1)", "stage.finish()"]
        small.notebook(notebook, body, PARAMETERS)
    (small.data / "folder" / "images").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    Image.fromarray(noise).save(small.data / "folder" / "images" / "one.png")
    return small


def shell(study, line: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    return subprocess.run(
        line, shell=True, cwd=study.root, env={**study.environment, "PATH": path, "PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("line", [line for line in OURS if not re.search(" data fetch |--executor|--reference", line)])
def test_a_command_does_what_the_readme_says(study, line):
    done = shell(study, line)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stage_is_repeated_by_hand_beside_the_study(study):
    (line,) = [line for line in LINES if line.startswith("papermill")]
    assert shell(study, "python -m covidcxr run demo").returncode == 0
    before = study.outputs.parent.joinpath("demo", "ct_projection", "run.json").stat().st_ino
    done = shell(study, line)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (study.root / "again.ipynb").is_file() and list((study.root / "outputs" / "demo" / ".by_hand").iterdir())
    assert study.outputs.parent.joinpath("demo", "ct_projection", "run.json").stat().st_ino == before


def test_a_download_begins_and_says_what_is_missing_without_a_network(study):
    (line,) = [line for line in OURS if " data fetch " in line]
    offline = "http_proxy=http://127.0.0.1:9 https_proxy=http://127.0.0.1:9"
    done = shell(study, f"{offline} {line}")
    assert done.returncode == 2 and "covid19_ct_seg" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_cluster_is_asked_as_the_readme_says(study, monkeypatch):
    """With a cluster that consists of this machine in the place of Slurm, whose own options are left out."""
    (line,) = [line for line in OURS if "--executor" in line]
    assert "--executor slurm" in line and "--resources gpu=" in line
    local = line.partition("--default-resources")[0].replace("slurm", "cluster-generic")
    done = shell(study, f"{local} --cluster-generic-submit-cmd sh")
    assert done.returncode == 0, done.stdout + done.stderr


def test_parameters_of_the_readme_are_those_of_the_study():
    for line in OURS:
        words = shlex.split(line)
        for override in [words[k + 1] for k, word in enumerate(words) if word == "--set"]:
            Plan.load("paper", [override])


def test_the_mask_rcnn_of_the_readme_trains_and_finds(monkeypatch, capsys):
    from covidcxr.instances import Instances
    from covidcxr.maskrcnn import settings, weights
    from covidcxr.models.resnet import ResNet

    (program,) = [text for text in blocks(MAIN, "python") if "MaskRCNN" in text]
    asked = []
    monkeypatch.setattr(weights, "load", lambda model, name: asked.append(name) or "loaded")
    small = partial(settings.Settings, backbone=ResNet(18), pyramid_channels=16, box_units=16, largest_instances=2)
    monkeypatch.setattr(settings, "Settings", small)
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 16:40, 20:50] = True
    image = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    pictures = [Instances(f"image{k}", "somebody", image, mask, np.array([1], np.int32), (64, 64)) for k in range(2)]
    names = {"examples": pictures, "pictures": pictures}
    exec(program.replace("(512, 512)", "(64, 64)").replace("epochs=12", "epochs=1, verbose=0"), names)
    assert asked == ["torchvision_mask_rcnn_r50_fpn"] and capsys.readouterr().out.strip() == "loaded"
    assert len(names["found"]) == 2 and names["found"][0].boxes.shape[1] == 4


@pytest.mark.parametrize("published", [False, True])
def test_the_files_named_for_a_copy_are_all_that_it_needs(tmp_path, published):
    (named,) = re.findall(r"To copy the network, take (.+?); published weights also need (.+?)\. ", " ".join(prose(MAIN).split()))
    for name in re.findall("`([^`]+)`", " ".join(named if published else named[:1])):
        source = ROOT / name if name.startswith("params/") else ROOT / "covidcxr" / name
        target = tmp_path / source.relative_to(ROOT)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    program = f"""
        import importlib, pkgutil, sys
        import covidcxr.maskrcnn as copied
        for module in pkgutil.iter_modules(copied.__path__):
            if {published} or module.name != "weights":
                importlib.import_module(f"covidcxr.maskrcnn.{{module.name}}")
        if {published}:
            from covidcxr.models import published
            assert "torchvision_mask_rcnn_r50_fpn" in published.table()
        # Where the study is installed, Python finds there what is missing here.
        loaded = {{name: module for name, module in sys.modules.items() if name.startswith("covidcxr")}}
        places = {{name: list(getattr(module, "__path__", None) or [module.__file__])[0] for name, module in loaded.items()}}
        print([name for name, place in places.items() if not place.startswith({str(tmp_path)!r})])
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("COVIDCXR_HOME", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
