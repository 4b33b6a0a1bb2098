"""How long stages took, and how long they may take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from covidcxr.arithmetic import is_number
from covidcxr.results import read_record
from covidcxr.study import RUNNER_PARAMETERS, Plan, Stage

Records = dict[str, dict[str, Any]]
"""Completion record by stage; empty for one that has none."""


def records(plan: Plan, stages: Iterable[Stage]) -> Records:
    """What is on record of the stages at the moment."""
    return {stage.name: read_record(plan.folder / stage.name) for stage in stages}


def forecast(plan: Plan, stages: Iterable[Stage]) -> str:
    """A line per stage: its state, how long it may take and how that is known; then the sum of what would run.

    A stage that has run with the same parameters is expected to take as long again. For others the profile's own `minutes` are
    taken, whose basis stands in its file.
    """
    lines, total, unknown, waiting = [], 0.0, [], 0
    found = records(plan, stages := list(stages))
    width = max((len(stage.name) for stage in stages), default=0)
    for stage in stages:
        word = plan.state(stage).word
        if plan.state(stage).stale and not stage.phantom_size and plan.missing_data(stage):  # a phantom can always be made
            word = "no data"
        seconds, basis = _expected(plan, stage, found[stage.name])
        if plan.state(stage).stale and word != "no data":
            waiting += 1
            total += seconds or 0
            unknown += [] if seconds is not None else [stage.name]
        device = "GPU" if stage.gpu else "CPU"
        lines.append(f"{stage.name:{width}}  {word:8}  {device}  {_words(seconds):>8}  {basis}".rstrip())
    lines += ["", f"{waiting} of {len(stages)} stages would run, {_words(total)} one after the other."]
    if unknown:
        lines.append(f"Not in this sum, since neither measured nor estimated: {', '.join(unknown)}.")
    return "\n".join(lines)


def shares(earlier: Records, now: Records) -> str:
    """A line per stage that has run in between, the longest first: its time, its share of all, its peak of memory."""
    took = {name: record for name, record in now.items() if record != earlier[name] and is_number(record.get("seconds"))}
    total = sum(record["seconds"] for record in took.values()) or 1.0
    width = max(map(len, took), default=0)
    return "\n".join(
        f"{name:{width}}  {record['seconds']:6.0f} s  {record['seconds'] / total:4.0%}  {record.get('peak_memory_mb', '?'):>6} MB"
        for name, record in sorted(took.items(), key=lambda item: -item[1]["seconds"])
    )


def _expected(plan: Plan, stage: Stage, record: Mapping[str, Any]) -> tuple[float | None, str]:
    """Seconds, or None, and how they are known."""
    then = record.get("parameters")
    same = isinstance(then, dict) and _own(then) == _own(stage.parameters)
    if record.get("status") == "done" and same and is_number(record.get("seconds")):
        return record["seconds"], f"measured here on {str(record.get('started', ''))[:10]}"
    if stage.name in plan.minutes:
        return 60 * plan.minutes[stage.name], f"estimated in params/{plan.profile}.yaml"
    return None, ""


def _own(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parameters.items() if key not in RUNNER_PARAMETERS}


def _words(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
