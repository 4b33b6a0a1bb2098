"""The thin front over Snakemake: which stages to run, and how Snakemake is called.

The plan alone decides what has to run. Snakemake is given just these stages, with stamps that are new in every run: it takes care
of order, of what runs side by side and of clusters, and never touches a stage's results.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from covidcxr import paths
from covidcxr.errors import InputError
from covidcxr.execution import gpus
from covidcxr.results import PARTIAL
from covidcxr.study import Plan, Stage

ONLY_PLANNING = {"-n", "--dry-run", "--dryrun"}
GIB_OF_A_TRAINING = 4  # on a processor, of the profiles for laptops; the most that one of them has held


def run(
    plan: Plan,
    targets: Sequence[str] = (),
    *,
    cores: int | None = None,
    force: Sequence[str] = (),
    keep_going: bool = False,
    extra: Sequence[str] = (),
) -> bool:
    """Bring the target stages, and all they need, up to date.

    Args:
        targets: stage names; empty for all.
        cores: how many cores may be used at once; None for those of this machine, or for what a cluster gives.
        force: stages to run again in any case.
        keep_going: after a failure, go on with the stages that do not need the failed one.
        extra: further Snakemake options, such as `--executor slurm`.

    Returns:
        Whether every target has ended (done, or without data).

    Raises:
        KeyboardInterrupt: the run was interrupted or told to end; the stages that were running have been stopped.
    """
    stages = plan.with_needs([*targets, *force] if targets else [])
    for name in force:
        plan.stage(name)
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"Can't write to {plan.folder}: {error.strerror}. Choose another folder with COVIDCXR_OUTPUTS, or mend this one."
        ) from error
    with paths.hold_lock(plan.folder / ".lock", f"Profile {plan.profile}"):
        todo = _stale(plan, stages, force)
        if not todo:
            print(f"{plan.profile}: nothing to do, {len(stages)} stages are up to date", file=sys.stderr)
            return True
        if not ONLY_PLANNING & set(extra):
            _prepare_data(todo)
        for name in force:
            (plan.folder / PARTIAL / name / "run.json").unlink(missing_ok=True)  # a complete run of before is not what is asked
        said = _snakemake(plan, todo, cores, keep_going, extra)
        if ONLY_PLANNING & set(extra):
            return said
        if keep_going and not said:  # what runs over whatever has finished does not wait for what failed
            now = plan.again()
            last = [stage for stage in _stale(now, stages, ()) if stage.after and now.state(stage).word != "failed"]
            if last:
                _snakemake(plan, last, cores, keep_going, extra)
        now = plan.again()
        well = not any(now.state(stage).stale for stage in stages)
        if not well and not any(now.state(stage).word == "failed" for stage in stages):
            _show_log(plan.folder)
        return well


def _stale(plan: Plan, stages: Sequence[Stage], force: Sequence[str]) -> list[Stage]:
    """Stages that have to run, with those that come after them."""
    todo: list[Stage] = []
    for stage in stages:
        if plan.state(stage).stale or stage.name in force or {other.name for other in todo} & set(stage.before):
            todo.append(stage)
    return todo


def _prepare_data(todo: Sequence[Stage]) -> None:
    """Make the phantom cohort before the stages that read it start side by side."""
    readers = [stage for stage in todo if stage.datasets or stage.optional_datasets]
    for size in sorted({stage.phantom_size for stage in readers} - {""}):
        from covidcxr import phantom

        phantom.ensure_cohort(size)


def _snakemake(plan: Plan, todo: Sequence[Stage], cores: int | None, keep_going: bool, extra: Sequence[str]) -> bool:
    """Run the stages; returns what Snakemake says of them."""
    from snakemake.cli import main

    names = {stage.name for stage in todo}
    for stamp in (plan.folder / PARTIAL).glob("*.ended"):
        stamp.unlink()
    stages = {
        stage.name: {
            "before": [name for name in stage.before if name in names], "threads": _cores(stage, extra), "gpu": stage.gpu,
        }
        for stage in todo
    }
    content = {"profile": plan.profile, "overrides": list(plan.overrides), "stages": stages}
    paths.write_atomically(plan.folder / PARTIAL / "todo.json", json.dumps(content, indent=1))
    if cores is None and "--executor" not in extra:
        cores = paths.available_cores()
    arguments = [
        "--snakefile", str(paths.project_root() / "Snakefile"),
        "--directory", str(plan.folder),
        *(["--cores", str(cores)] if cores is not None else []),
        "--forceall", "--ignore-incomplete", "--drop-metadata", "--nolock",
        "--scheduler", "greedy",
        *([] if extra else ["--quiet", "all"]),  # whoever speaks to Snakemake wants to hear it
        *([] if any(word == "--resources" for word in extra) else ["--resources", f"gpu={_trainings_at_once()}"]),
        *(["--keep-going"] if keep_going else []),
        *extra,
    ]
    try:
        with _StopStages() as stopped:
            main(arguments)
    except SystemExit as end:
        if stopped.by:
            raise KeyboardInterrupt from None
        return end.code in (0, None)
    return True


def _cores(stage: Stage, extra: Sequence[str]) -> int:
    """How many cores Snakemake keeps free for a stage.

    On the processor of this machine one: two networks that share two cores are sooner done than one after the other, since much
    of a stage (its start, tracing, evaluation, drawing) uses one core, whatever it is given.
    """
    return stage.threads if "--executor" in extra or gpus() else 1


def _trainings_at_once() -> int:
    """How many stages that would use a GPU may run side by side: one on a machine that has one, else as many as memory holds."""
    import psutil

    return 1 if gpus() else max(1, int(psutil.virtual_memory().total / GIB_OF_A_TRAINING / 2**30))


class _StopStages:
    """While it is open, a signal to end stops the running stages at once; Snakemake alone would wait for them.

    The signals' numbers are read from a pipe, so that it does not matter which handlers Snakemake installs.
    """

    def __init__(self) -> None:
        self.by = 0

    def __enter__(self) -> _StopStages:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        # Without a handler of Python's own the signal would end the process before anything is read.
        self._before = signal.signal(signal.SIGTERM, lambda number, frame: None)
        self._earlier = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        signal.set_wakeup_fd(self._earlier)
        signal.signal(signal.SIGTERM, self._before)
        os.close(self._write)

    def _watch(self) -> None:
        import psutil

        with os.fdopen(self._read, "rb", buffering=0) as pipe:
            while number := pipe.read(1):
                if number[0] in (signal.SIGTERM, signal.SIGINT):
                    self.by = number[0]
                    for child in psutil.Process().children():
                        child.terminate()


def _show_log(folder: Path) -> None:
    """The end of Snakemake's own log: no stage has failed, so it must say what has."""
    logs = sorted((folder / ".snakemake" / "log").glob("*.log"), key=lambda path: path.stat().st_mtime)
    if logs:
        print(*logs[-1].read_text(encoding="utf-8", errors="replace").splitlines()[-12:], sep="\n", file=sys.stderr)
