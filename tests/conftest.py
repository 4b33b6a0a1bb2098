"""Fixtures that tests share: data sets, and a small study of its own to run, break and repair."""

import ctypes
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="module")
def memory_given_back():
    """After each file of tests the networks that it built go: a process of tests would otherwise grow by gigabytes."""
    yield
    give_back_memory()


def give_back_memory() -> None:
    if "keras" in sys.modules:
        sys.modules["keras"].backend.clear_session()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data sets; the test is skipped where there is none."""
    folder = os.environ.get("COVIDCXR_DATA")
    if not folder:
        pytest.skip("real data are not at hand: COVIDCXR_DATA is not set")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def phantom_smoke() -> Path:
    """Folder of the smallest phantom cohort."""
    from covidcxr import phantom

    return phantom.ensure_cohort("smoke")


@pytest.fixture(scope="session")
def segmentation_models():
    """The library that tang2020 used, on TensorFlow."""
    pytest.importorskip("tensorflow")
    os.environ.setdefault("SM_FRAMEWORK", "tf.keras")
    import segmentation_models

    return segmentation_models


PARAMETERS = """
    data: str = "phantom:smoke"  # unused here
    seed: int = 0
    stage_dir: str = ""
    number: float = 1.0  # what this stage computes
    crash: bool = False
"""
OPENING = """
    import os, signal, time
    from covidcxr import results
    stage = results.open_stage({name!r}, stage_dir, data=data, seed=seed)
"""


def write_notebook(path: Path, cells: list[str | tuple[str, str]]) -> None:
    """A notebook of code cells; a tuple is (tag, source), a text that starts with # and a space a heading."""
    written = []
    for index, cell in enumerate(cells):
        tag, source = cell if isinstance(cell, tuple) else ("", cell)
        source = textwrap.dedent(source).strip()
        kind = "markdown" if source.startswith("## ") else "code"
        code = {"execution_count": None, "outputs": []} if kind == "code" else {}
        metadata = {"tags": [tag]} if tag else {}
        written.append({"cell_type": kind, "id": f"cell{index}", "metadata": metadata, "source": source, **code})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    path.write_text(json.dumps({"cells": written, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}))


class SmallStudy:
    """A study of three stages, `first` → `second` and `alone`, in a folder of its own, run by the real command."""

    def __init__(self, root: Path):
        self.root = root
        self.data = root / "data"
        for folder in ("params", "notebooks", "data"):
            (root / folder).mkdir()
        shutil.copy(ROOT / "Snakefile", root)
        self.write("params/study.yaml", """
            stages:
              first: {notebook: first, claims: [paper.number]}
              second: {notebook: second, needs: [first]}
              alone: {notebook: alone}
        """)
        self.write("params/smoke.yaml", "{title: Smoke, description: small, common: {seed: 0}}")
        self.write("params/claims.yaml", CLAIMS)
        body = ["## The number", "stage.number('number', number, what='a number', n=1)", "## The end", "stage.finish()"]
        first = [
            "## A place to crash", "if crash: raise ValueError('the first stage can not go on')",
            "stage.record('paper.number', number, n=1)",
        ]
        self.notebook("first", first + body)
        self.notebook("second", ["upstream = stage.upstream('first')", *body])
        self.notebook("alone", body)

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(textwrap.dedent(text))

    def notebook(self, name: str, cells: list[str], parameters: str = PARAMETERS) -> None:
        opening = [("parameters", parameters), OPENING.format(name=name)]
        write_notebook(self.root / "notebooks" / f"{name}.ipynb", [*opening, *cells])

    @property
    def outputs(self) -> Path:
        return self.root / "outputs" / "smoke"

    @property
    def environment(self) -> dict[str, str]:
        own = {"COVIDCXR_HOME": str(self.root), "COVIDCXR_OUTPUTS": str(self.root / "outputs"), "COVIDCXR_DATA": str(self.data)}
        return {**os.environ, **own}

    def command(self, *words: str, **options) -> subprocess.CompletedProcess:
        """Run `python -m covidcxr …` to its end; output is captured as text."""
        return subprocess.run(
            [sys.executable, "-m", "covidcxr", *words], env=self.environment, capture_output=True, text=True, **options
        )

    def start(self, *words: str, on_interrupt=signal.SIG_DFL, **options) -> subprocess.Popen:
        """Start `python -m covidcxr …` in a session of its own and leave it running.

        It hears Ctrl-C even where the tests themselves were started in the background, with SIGINT ignored; with `on_interrupt`
        SIG_IGN it is deaf to it, as what a script starts in the background.
        """
        return subprocess.Popen(
            [sys.executable, "-m", "covidcxr", *words], env=self.environment, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, on_interrupt),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options,
        )

    def status(self, *words: str) -> dict[str, str]:
        """State of each stage, as the status command prints it: `done`, `will run`, …, with the reason after it."""
        shown = self.command("status", "smoke", *words)
        assert shown.returncode == 0, shown.stderr
        return {line.split()[0]: line.split(maxsplit=1)[1] for line in shown.stdout.splitlines()}

    def record(self, stage: str) -> dict:
        return json.loads((self.outputs / stage / "run.json").read_text())

    def records(self) -> dict[str, int]:
        """The file behind each completion record: another one when the stage has run again."""
        return {path.parent.name: path.stat().st_ino for path in self.outputs.glob("*/run.json")}


@pytest.fixture
def small_study(tmp_path) -> SmallStudy:
    return SmallStudy(tmp_path)


CLAIMS = """
    papers:
      paper: {title: A paper, authors: Nobody, venue: Nowhere, year: 2020, doi_or_url: null, code: null, inconsistencies: []}
    claims:
      - {id: paper.number, paper: paper, place: Table 1, what: A number, value: 1.0, unit: "1", tolerance: 0.1, kind: performance}
"""
