"""The thin front over Snakemake: which stages to run, and how Snakemake is called."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from covidcxr import paths
from covidcxr.errors import CovidcxrError, InputError
from covidcxr.study import Plan


def run(
    plan: Plan,
    targets: Sequence[str] = (),
    *,
    cores: int,
    force: Sequence[str] = (),
    keep_going: bool = False,
    extra: Sequence[str] = (),
) -> bool:
    """Bring the target stages, and all they need, up to date.

    Args:
        targets: stage names; empty for all.
        cores: how many cores may be used at once.
        force: stages to run again in any case.
        keep_going: after a failure, go on with the stages that do not need the failed one.
        extra: further Snakemake options, such as `--executor slurm`.

    Returns:
        Whether every target has ended (done, or without data).
    """
    stages = plan.with_needs([*targets, *force] if targets else [])
    for name in force:
        plan.stage(name)
    stale = [stage.name for stage in stages if plan.state(stage).stale or stage.name in force]
    if not stale:
        print(f"{plan.profile}: nothing to do, {len(stages)} stages are up to date", file=sys.stderr)
        return True
    with _only_engine(plan.folder):
        _prepare_data(plan, stale)
        return _snakemake(plan, [stage.name for stage in stages], stale, cores, keep_going, extra)


def _prepare_data(plan: Plan, stale: list[str]) -> None:
    """Make the phantom cohort before the stages that read it start side by side."""
    readers = [stage for stage in map(plan.stage, stale) if stage.datasets or stage.optional_datasets]
    for size in sorted({stage.data.partition(":")[2] for stage in readers if stage.data.startswith("phantom:")}):
        from covidcxr import phantom

        phantom.ensure_cohort(size)


def _snakemake(
    plan: Plan, stages: list[str], stale: list[str], cores: int, keep_going: bool, extra: Sequence[str]
) -> bool:
    from snakemake.cli import main

    arguments = [
        *(f"{name}/run.json" for name in stages),
        "--snakefile", str(paths.project_root() / "Snakefile"),
        "--directory", str(plan.folder),
        "--config", f"profile={plan.profile}", f"overrides={list(plan.overrides)!r}",
        "--cores", str(cores),
        "--forcerun", *stale,
        # The plan has decided what is out of date; Snakemake adds what comes after it and what was cut short.
        "--rerun-triggers", "input", "--rerun-incomplete", "--nolock",
        "--scheduler", "greedy",
        *([] if extra else ["--quiet", "all"]),  # whoever speaks to Snakemake wants to hear it
        *([] if any(word == "--resources" for word in extra) else ["--resources", "gpu=1"]),
        *(["--keep-going"] if keep_going else []),
        *extra,
    ]
    try:
        main(arguments)
    except SystemExit as end:
        return end.code in (0, None)
    return True


@contextmanager
def _only_engine(folder: Path) -> Iterator[None]:
    """Hold the profile's lock; the system frees it when this process ends, so that a killed engine can be resumed at once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a+")
    except OSError as error:
        raise InputError(
            f"Can't write to {folder}: {error.strerror}. Choose another folder with COVIDCXR_OUTPUTS, or mend this one."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise CovidcxrError(
                f"This profile is being run already by process {lock.read().strip()}. Wait for it, or stop it; another profile "
                "can run at the same time."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
