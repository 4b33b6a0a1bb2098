"""Run one stage: its notebook through papermill, aside, and into place only when it is complete.

The notebook writes to `outputs/<profile>/.partial/<stage>/`. When it has run to its end and recorded what it owes, it is exported
to HTML, its completion record `run.json` is written as the last file, and the folder is renamed to `outputs/<profile>/<stage>/`.
A stage is done only when that record says so: papermill's own output of a killed kernel looks finished.
"""

from __future__ import annotations

import datetime
import fcntl
import importlib.metadata
import json
import logging
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from covidcxr import claims, paths
from covidcxr.errors import CovidcxrError, DataMissing
from covidcxr.results import PARTIAL, data_kind, read_record
from covidcxr.study import Plan, Stage

NOTEBOOK = "notebook.ipynb"
FAILED_NOTEBOOK = "notebook.failed.ipynb"
CHECKPOINTS = "checkpoints"  # kept from one attempt to the next, so that an interrupted training can go on
TRACEBACK_LINES = 12
PACKAGES = (
    "covidcxr", "tensorflow", "tensorflow-cpu", "jax", "torch", "keras", "segmentation-models", "albumentations", "numpy",
    "scipy", "pandas", "scikit-image", "scikit-learn", "nibabel", "shapely", "opencv-python-headless", "matplotlib", "papermill",
    "snakemake",
)
KERNEL_ENVIRONMENT = {
    "NO_ALBUMENTATIONS_UPDATE": "1",  # albumentations asks the network for updates when it is imported
    "PYTHONHASHSEED": "0",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # else one kernel takes the whole card
}


@dataclass
class StageFailed(CovidcxrError):
    """A stage did not end. `cell` counts from 1; `heading` is the notebook's section."""

    stage: str
    error: str
    cell: str = ""
    heading: str = ""
    traceback: str = ""
    command: str = ""
    notebook: str = ""

    def __str__(self) -> str:
        place = " in " + ", ".join(text for text in (self.cell, self.heading) if text) if self.cell or self.heading else ""
        lines = [f"{self.stage} failed{place}: {self.error}"]
        lines += ["", *(f"    {line}" for line in self.traceback.splitlines()), ""] if self.traceback else []
        lines += [f"The notebook as far as it got: {self.notebook}"] if self.notebook else []
        return "\n".join([*lines, f"Try again: {self.command}"])


def execute(plan: Plan, stage: Stage) -> dict[str, Any]:
    """Run a stage and return its completion record.

    A stage whose data are missing ends as `no-data`; one that needs a stage without results ends as `blocked`. Neither is a
    failure: the rest of the study goes on.

    Raises:
        StageFailed: an error in a cell, a dead kernel, a claim that is owed and was not recorded, or a disk that can't be
            written.
    """
    folder = plan.folder / stage.name
    partial = plan.folder / PARTIAL / stage.name
    try:
        with _only_runner(plan.folder / PARTIAL, stage.name):
            _stop_when_orphaned()
            return _complete_earlier(plan, stage, partial, folder) or _execute(plan, stage, partial, folder)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        failure = StageFailed(
            stage.name, f"{error.strerror or error}{where}. Free the disk, or choose another folder with COVIDCXR_OUTPUTS.",
            command=retry_command(plan, stage),
        )
        with suppress(OSError):  # the disk may be too full even for this
            _keep_failure(partial, folder, failure)
        raise failure from error


def retry_command(plan: Plan, stage: Stage) -> str:
    """The command that runs this stage again."""
    import shlex

    overrides = "".join(f" --set {shlex.quote(text)}" for text in plan.overrides)
    return f"python -m covidcxr run {plan.profile} {stage.name}{overrides}"


def _execute(plan: Plan, stage: Stage, partial: Path, folder: Path) -> dict[str, Any]:
    started = time.time()
    record: dict[str, Any] = {
        "stage": stage.name, "profile": plan.profile, "status": "done", "why": "", "how": "",
        "parameters": {**stage.parameters, "stage_dir": str(folder)}, "seed": stage.parameters.get("seed"),
        "data": data_kind(stage.data),
        "started": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds"),
        "git": _git_state(), "versions": _versions(), "hardware": _hardware(),
        "fingerprint": plan.fingerprint(stage), "upstream": plan.upstream(stage), "datasets": [],
    }
    blocking = [name for name in stage.needs if read_record(plan.folder / name).get("status") != "done"]
    missing = plan.missing_data(stage)
    if blocking:
        return _end_without_results(folder, record, "blocked", f"It needs {', '.join(blocking)}, which has no results.")
    if missing:
        return _end_without_results(folder, record, "no-data", " ".join(map(str, missing)))

    _clear(partial)
    given = {**stage.parameters, "stage_dir": str(partial)}
    paths.write_atomically(partial / "params.yaml", yaml.safe_dump({**given, "stage_dir": str(folder)}, sort_keys=False))
    print(f"{stage.name}: started", file=sys.stderr, flush=True)
    try:
        _run_notebook(plan, stage, partial, given)
    except DataMissing as error:
        return _end_without_results(folder, record, "no-data", str(error))
    except StageFailed as failure:
        _keep_failure(partial, folder, failure)
        raise
    written = json.loads((partial / "results.json").read_text())
    _export_html(partial)
    record |= {
        "seconds": round(time.time() - started, 1),
        "peak_memory_mb": _peak_memory_of_children(),
        "datasets": written["datasets"],
    }
    paths.write_atomically(partial / "run.json", json.dumps(record, indent=1) + "\n")
    _put_in_place(partial, folder)
    spent = f"{record['seconds']:.0f} s, {record['peak_memory_mb']} MB at its peak"
    print(f"{stage.name}: done in {spent}", file=sys.stderr, flush=True)
    return record


def _run_notebook(plan: Plan, stage: Stage, partial: Path, parameters: dict[str, Any]) -> None:
    """Execute the notebook and check that it ended.

    Raises:
        DataMissing: the notebook found that its data are not there.
        StageFailed: it did not end as it should.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    output = partial / NOTEBOOK
    command = retry_command(plan, stage)
    # Its own reading of the parameters cell does not know Literal; names and types have been checked already.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    os.environ.update({name: os.environ.get(name, value) for name, value in KERNEL_ENVIRONMENT.items()})
    try:
        papermill.execute_notebook(
            str(stage.notebook), str(output), parameters, kernel_name="python3", progress_bar=False, cwd=str(partial),
            # Sockets in the file system: no ports that others on the machine could reach or take.
            config=Config({"KernelManager": {"transport": "ipc"}}),
            extra_arguments=["--log-level=CRITICAL"],  # a stopped kernel's own tracebacks say nothing about the study
        )
    except PapermillExecutionError as error:
        if error.ename == DataMissing.__name__:
            raise DataMissing(error.evalue, "", "") from None
        text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback or []))
        raise StageFailed(
            stage.name, f"{error.ename}: {error.evalue}", *_place(output, error.cell_index),
            "\n".join(text.splitlines()[-TRACEBACK_LINES:]), command,
        ) from None
    except DeadKernelError:
        raise StageFailed(
            stage.name, "the kernel died. It was killed, most often because memory ran out.",
            *_place(output, _last_started(output)), command=command,
        ) from None
    _check_complete(stage, partial, command)


def _check_complete(stage: Stage, partial: Path, command: str) -> None:
    """Refuse a notebook that ended without finishing its record or without a claim that it owes."""
    try:
        written = json.loads((partial / "results.json").read_text())
    except (OSError, ValueError) as error:
        raise StageFailed(stage.name, f"its results can't be read ({error}).", command=command) from None
    if not written["finished"]:
        raise StageFailed(stage.name, "the notebook ended without `stage.finish()`.", command=command)
    recorded = {entry["id"] for entry in written["claims"]} | {entry["reproduces"] for entry in written["figures"]}
    owed = sorted(claims.load().owed(stage.claims) - recorded)
    if owed:
        raise StageFailed(stage.name, f"claims owed and not recorded: {', '.join(owed)}.", command=command)


def _end_without_results(folder: Path, record: dict[str, Any], status: str, why: str) -> dict[str, Any]:
    why, _, how = why.partition(" To get it: ")
    record |= {"status": status, "why": why, "how": how, "seconds": 0.0, "peak_memory_mb": 0}
    for name in ("failure.json", FAILED_NOTEBOOK):
        (folder / name).unlink(missing_ok=True)
    paths.write_atomically(folder / "run.json", json.dumps(record, indent=1) + "\n")
    print(f"{record['stage']}: {status}. {why} {how}".rstrip(), file=sys.stderr, flush=True)
    return record


def _keep_failure(partial: Path, folder: Path, failure: StageFailed) -> None:
    """Keep the notebook of a failed run and a record of what failed, without touching earlier results."""
    folder.mkdir(parents=True, exist_ok=True)
    if (partial / NOTEBOOK).exists():
        os.replace(partial / NOTEBOOK, folder / FAILED_NOTEBOOK)
        failure.notebook = str(folder / FAILED_NOTEBOOK)
    content = {
        "stage": failure.stage, "status": "failed", "cell": failure.cell, "heading": failure.heading, "error": failure.error,
        "traceback": failure.traceback, "command": failure.command,
    }
    paths.write_atomically(folder / "failure.json", json.dumps(content, indent=1) + "\n")


def _complete_earlier(plan: Plan, stage: Stage, partial: Path, folder: Path) -> dict[str, Any] | None:
    """Put a complete run into place that was stopped before its last rename, if it is still today's."""
    record = read_record(partial)
    current = json.loads(json.dumps({"fingerprint": plan.fingerprint(stage), "upstream": plan.upstream(stage)}))
    if record.get("status") != "done" or any(record.get(key) != value for key, value in current.items()):
        return None
    _put_in_place(partial, folder)
    return record


def _put_in_place(partial: Path, folder: Path) -> None:
    earlier = partial.with_name(f"{partial.name}.earlier")
    shutil.rmtree(earlier, ignore_errors=True)
    if folder.exists():
        os.replace(folder, earlier)
    os.replace(partial, folder)
    shutil.rmtree(earlier, ignore_errors=True)


def _clear(partial: Path) -> None:
    partial.mkdir(parents=True, exist_ok=True)
    for path in partial.iterdir():
        if path.is_dir() and path.name != CHECKPOINTS:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


def _export_html(partial: Path) -> None:
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter().from_filename(str(partial / NOTEBOOK))
    paths.write_atomically(partial / "notebook.html", page)


def _executed_cells(notebook: Path) -> list[dict[str, Any]]:
    """Cells of the executed notebook, without those that papermill puts in to point at an error."""
    cells = json.loads(notebook.read_text())["cells"] if notebook.exists() else []
    return [cell for cell in cells if "papermill-error-cell-tag" not in cell["metadata"].get("tags", [])]


def _place(notebook: Path, index: int | None) -> tuple[str, str]:
    """Number of a cell, counted from 1 as in the notebook that was executed, and the heading above it."""
    if index is None:
        return "", ""
    before = _executed_cells(notebook)[:index]
    number = 1 + sum("injected-parameters" not in cell["metadata"].get("tags", []) for cell in before)
    text = "\n".join("".join(cell["source"]) for cell in before if cell["cell_type"] == "markdown")
    headings = re.findall(r"^#+ +(.+)$", text, flags=re.MULTILINE)
    return f"cell {number}", f"section “{headings[-1]}”" if headings else ""


def _last_started(notebook: Path) -> int | None:
    """Index of the last code cell that was started, by papermill's notes (their `status` says completed in any case)."""
    started = [
        index for index, cell in enumerate(_executed_cells(notebook))
        if cell["cell_type"] == "code" and cell["metadata"].get("papermill", {}).get("start_time")
    ]
    return max(started, default=None)


@contextmanager
def _only_runner(folder: Path, name: str) -> Iterator[None]:
    """Hold the stage's lock, which the system frees when this process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise CovidcxrError(
                f"Stage {name} is being run already by {lock.read().strip() or 'another process'}. Wait for it, or stop it."
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}")
        lock.flush()
        yield


def _stop_when_orphaned() -> None:
    """End this process and its kernel when the engine that started it is killed: a resumed study must not meet them."""
    parent = os.getppid()

    def watch() -> None:
        import psutil

        while os.getppid() == parent:
            time.sleep(1)
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _peak_memory_of_children() -> int:
    """Largest resident memory of a child process that has ended, that is of the kernel, in MB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10  # the system reports bytes there, kilobytes elsewhere
    return round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit)


def _git_state() -> dict[str, Any]:
    def git(*words: str) -> str | None:
        try:
            return subprocess.run(
                ["git", *words], cwd=paths.project_root(), capture_output=True, text=True, timeout=20, check=True
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    changes = git("status", "--porcelain")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _hardware() -> dict[str, Any]:
    import psutil

    cpu = platform.processor() or platform.machine()
    try:
        cpu = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)[0]
    except (OSError, IndexError):
        pass
    try:
        query = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=True
        )
        gpu = query.stdout.strip().splitlines()
    except (OSError, subprocess.SubprocessError):
        gpu = []
    return {
        "cpu": cpu, "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30), "gpu": gpu, "system": platform.platform(),
    }
