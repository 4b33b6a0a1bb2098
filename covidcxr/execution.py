"""Run one stage: its notebook through papermill, aside, and into place only when it is complete.

The notebook writes to `outputs/<profile>/.partial/<stage>/`. When it has run to its end and recorded what it owes, it is exported
to HTML, its completion record `run.json` is written as the last file, and the folder is renamed to `outputs/<profile>/<stage>/`.
A stage is done only when that record says so: papermill's own output of a killed kernel looks finished.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import os
import platform
import re
import resource
import shutil
import signal
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

from covidcxr import claims, fingerprint, outcomes, paths
from covidcxr.errors import CovidcxrError, DataMissing
from covidcxr.result_files import damage_of, files_of_results
from covidcxr.results import BY_HAND, PARTIAL, data_kind, read_record, run_command
from covidcxr.study import Plan, Stage

NOTEBOOK = "notebook.ipynb"
KERNEL_LOG = "kernel.log"  # what the kernel and the libraries in it say besides the notebook
FAILED_NOTEBOOK = "notebook.failed.ipynb"
EARLIER = "run.earlier.json"  # record of complete results whose data are away
CHECKPOINTS = "checkpoints"  # kept from one attempt to the next, so that an interrupted training can go on
TRACEBACK_LINES = 12
PACKAGES = (
    "covidcxr", "tensorflow", "tensorflow-cpu", "jax", "torch", "keras", "segmentation-models", "albumentations", "numpy",
    "scipy", "pandas", "scikit-image", "scikit-learn", "nibabel", "shapely", "opencv-python-headless", "matplotlib", "papermill",
    "snakemake",
)
KERNEL_ENVIRONMENT = {
    "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel python3 is this environment's, also where the user has one of that name
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
    with paths.hold_lock(plan.folder / PARTIAL / f"{stage.name}.lock", f"Stage {stage.name}"):
        try:
            return _complete_earlier(plan, stage, partial, folder) or _execute(plan, stage, partial, folder)
        except StageFailed as failure:
            _keep_failure(partial, folder, failure)
            raise
        except Exception as error:
            # Whatever else goes wrong around a notebook is a failure of its stage, and must leave a record as such.
            wrapped = StageFailed(stage.name, _in_words(error), command=retry_command(plan, stage))
            with suppress(OSError):  # the disk may be too full even for this
                _keep_failure(partial, folder, wrapped)
            raise wrapped from error


def _in_words(error: Exception) -> str:
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"
    where = f" ({error.filename})" if error.filename else ""
    advice = " Free the disk, or choose another folder with COVIDCXR_OUTPUTS." if error.errno in paths.DISK_TROUBLE else ""
    return f"{error.strerror or error}{where}.{advice}"


def retry_command(plan: Plan, stage: Stage) -> str:
    """The command that runs this stage again."""
    return run_command(plan.profile, stage.name, plan.overrides_of(stage))


def _execute(plan: Plan, stage: Stage, partial: Path, folder: Path) -> dict[str, Any]:
    started, began = time.time(), time.monotonic()  # the clock may be set while a stage runs
    record: dict[str, Any] = {
        "stage": stage.name, "profile": plan.profile, "status": "done", "why": "", "how": "",
        "parameters": {**stage.parameters, "stage_dir": str(folder)}, "seed": stage.parameters.get("seed"),
        "overrides": plan.overrides_of(stage), "data": data_kind(stage.data),
        "started": datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds"),
        "git": _git_state(), "versions": _versions(), "keras_backend": fingerprint.keras_backend(), "hardware": _hardware(),
        "fingerprint": plan.fingerprint(stage), "upstream": plan.upstream(stage), "datasets": [],
    }
    blocking = [name for name in stage.needs if read_record(plan.folder / name).get("status") != "done"]
    missing = plan.missing_data(stage)
    if blocking:
        return _end_without_results(folder, record, "blocked", f"It needs {', '.join(blocking)}, which has no results.")
    if missing:
        return _end_without_results(folder, record, "no-data", " ".join(map(str, missing)))

    (folder / "failure.json").unlink(missing_ok=True)
    _clear(partial, fingerprint.digest(record["fingerprint"]))
    given = {**stage.parameters, "stage_dir": str(partial)}
    # Repeated by hand, a stage writes beside the study, not over its results.
    by_hand = {**given, "stage_dir": str(plan.folder / BY_HAND / stage.name)}
    paths.write_atomically(partial / "params.yaml", yaml.safe_dump(by_hand, sort_keys=False))
    print(f"{stage.name}: started", file=sys.stderr, flush=True)
    try:
        written = _run_notebook(plan, stage, partial, given)
    except DataMissing as error:
        return _end_without_results(folder, record, "no-data", str(error))
    _export_html(partial)
    record |= {
        "seconds": round(time.monotonic() - began, 1),
        "peak_memory_mb": _peak_memory_of_children(),
        "datasets": written.datasets,
        "files": files_of_results(partial),
    }
    paths.write_atomically(partial / "run.json", json.dumps(record, indent=1) + "\n")
    _put_in_place(partial, folder)
    spent = f"{record['seconds']:.0f} s, {record['peak_memory_mb']} MB at its peak"
    print(f"{stage.name}: done in {spent}", file=sys.stderr, flush=True)
    return record


def _run_notebook(plan: Plan, stage: Stage, partial: Path, parameters: dict[str, Any]) -> outcomes.Outcome:
    """Execute the notebook, check that it ended, and return what it recorded.

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
        with _stderr_into(partial / KERNEL_LOG):
            papermill.execute_notebook(
                # papermill fills in braces in paths
                *(str(path).replace("{", "{{").replace("}", "}}") for path in (stage.notebook, output)),
                parameters, kernel_name="python3", progress_bar=False, cwd=str(partial),
                # Sockets in the file system: no ports that others on the machine could reach or take.
                config=Config({"KernelManager": {"transport": "ipc"}}),
                # A stopped kernel's own tracebacks say nothing about the study; nor does what TensorFlow's C++ prints, which
                # belongs into the log, not between the notebook's lines.
                extra_arguments=["--log-level=CRITICAL", "--IPKernelApp.capture_fd_output=False"],
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
            *_place(output, _last_started(output)), _end_of(partial / KERNEL_LOG), command,
        ) from None
    except KeyboardInterrupt:
        # On leaving, asyncio would show a traceback of the cell that was cut short, for nobody asked how it ended.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise
    return _complete_results(stage, partial, command)


@contextmanager
def _stderr_into(file: Path) -> Iterator[None]:
    """Let what this process and its children write to stderr go to a file: TensorFlow's notes would drown the study's own lines.

    The file is removed when nothing was written.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with file.open("wb") as log:
            os.dup2(log.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
    finally:
        os.close(kept)
    if not file.stat().st_size:
        file.unlink()


def _end_of(log: Path) -> str:
    """The last lines of a log; a crash in a library says its last words there."""
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-TRACEBACK_LINES:])
    except OSError:
        return ""


def _complete_results(stage: Stage, partial: Path, command: str) -> outcomes.Outcome:
    """What the notebook recorded; refused when it has not finished its record, when the report could not use an entry, and when a
    claim that the stage owes is left out."""
    written = outcomes.read_stage(partial, need_run=False)
    if written.problems:
        raise StageFailed(stage.name, f"its results can't be used. {' '.join(written.problems)}", command=command)
    if written.state.status != "done":
        raise StageFailed(stage.name, "the notebook ended without `stage.finish()`.", command=command)
    pictured = {entry["reproduces"] for entry in written.figures if isinstance(entry.get("reproduces"), str)}
    owed = sorted(claims.load().owed(stage.claims) - set(written.claims) - pictured)
    if owed:
        raise StageFailed(stage.name, f"claims owed and not recorded: {', '.join(owed)}.", command=command)
    undeclared = sorted({entry["name"] for entry in written.datasets} - set(stage.datasets + stage.optional_datasets))
    if undeclared:
        raise StageFailed(
            stage.name, f"it read {', '.join(undeclared)}, which params/study.yaml does not name among its data sets: a change "
            "of these data would not be noticed. Add them to `optional_datasets`.", command=command,
        )
    return written


def _end_without_results(folder: Path, record: dict[str, Any], status: str, why: str) -> dict[str, Any]:
    why, _, how = why.partition("To get it: ")
    how = how and f"To get it: {how}"
    record |= {"status": status, "why": why.strip(), "how": how, "seconds": 0.0, "peak_memory_mb": 0}
    if read_record(folder).get("status") == "done":
        os.replace(folder / "run.json", folder / EARLIER)  # its results come back with its data
    for name in ("failure.json", FAILED_NOTEBOOK):
        (folder / name).unlink(missing_ok=True)
    paths.write_atomically(folder / "run.json", json.dumps(record, indent=1) + "\n")
    print(f"{record['stage']}: {status}. {record['why']} {record['how']}".rstrip(), file=sys.stderr, flush=True)
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
    """Take a complete run that is still today's: one that was stopped before its last rename, or one whose data had been away."""
    current = json.loads(json.dumps({"fingerprint": plan.fingerprint(stage), "upstream": plan.upstream(stage)}))
    for path in (partial / "run.json", folder / EARLIER):
        record = read_record(path.parent, path.name)
        todays = record.get("status") == "done" and all(record.get(key) == value for key, value in current.items())
        if todays and not damage_of(path.parent, record):
            if path.parent == partial:
                _put_in_place(partial, folder)
            else:
                os.replace(path, folder / "run.json")
            return record
    return None


def _put_in_place(partial: Path, folder: Path) -> None:
    earlier = partial.with_name(f"{partial.name}.earlier")
    shutil.rmtree(earlier, ignore_errors=True)
    if folder.exists():
        os.replace(folder, earlier)
    os.replace(partial, folder)
    shutil.rmtree(earlier, ignore_errors=True)


def _clear(partial: Path, identity: str) -> None:
    """Empty the folder of an attempt. Checkpoints stay for the next one if it is of the same code, parameters and data."""
    partial.mkdir(parents=True, exist_ok=True)
    mark = partial / "attempt.txt"
    same = mark.is_file() and mark.read_bytes() == identity.encode()
    for path in partial.iterdir():
        if path.is_dir() and not path.is_symlink():
            if not (same and path.name == CHECKPOINTS):
                shutil.rmtree(path)
        else:
            path.unlink()
    paths.write_atomically(mark, identity)


def _export_html(partial: Path) -> None:
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter().from_filename(str(partial / NOTEBOOK))
    paths.write_atomically(partial / "notebook.html", page)


def _executed_cells(notebook: Path) -> list[dict[str, Any]]:
    """Cells of the executed notebook, without those that papermill puts in to point at an error."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"] if notebook.exists() else []
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


def stop_when_orphaned() -> None:
    """End this process and its kernel when the engine that started it is gone: a resumed study must not meet them.

    The engine names itself in the environment, so that it is also noticed when it has gone before this was called.
    """
    parent = int(os.environ.get("COVIDCXR_ENGINE_PROCESS", os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        import psutil

        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def stop_when_told() -> None:
    """End on SIGTERM as on Ctrl-C, with the kernel shut down and locks released.

    The engine sends SIGTERM, for what a script starts in the background is deaf to SIGINT, and so are its children.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)


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
    return {
        "cpu": cpu, "cores": paths.available_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30), "gpu": gpus(), "system": platform.platform(),
    }


def gpus() -> list[str]:
    """Names of this machine's NVIDIA GPUs."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip().splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
