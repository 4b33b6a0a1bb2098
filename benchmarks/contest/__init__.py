"""Contestants measured in processes of their own, in turns, and the table of what was found.

Who runs first changes from round to round. Seconds are medians of all calls of all rounds, and the least: on a machine that
others use too, that is what tells most. The first call of a process, which traces or compiles, is left out. Processor seconds,
the least of a call, hardly depend on others, but count threads that wait for each other. Memory is the peak of a process with its
imports.
"""

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

KEYS = ("median", "least", "processor", "peak")
"""What contestants are compared by (see `table`)."""


def timed(work: Callable[[], object], calls: int, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Seconds of each of some calls."""
    seconds = []
    for _ in range(calls):
        start = clock()
        work()
        seconds.append(clock() - start)
    return seconds


def peak() -> float:
    """The most memory that this process has held so far, GiB. Not ru_maxrss: that one starts at what the parent held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    raise SystemExit("This benchmark reads memory from /proc, which only Linux has.")


def measure(work: Callable[[], object], calls: int) -> dict:
    """Seconds, processor seconds and memory of some calls after a first one, plain values."""
    (first,) = timed(work, 1)
    processor: list[float] = []
    seconds = timed(lambda: processor.extend(timed(work, 1, time.process_time)), calls)
    return {"first": first, "seconds": seconds, "processor": processor, "peak": peak()}


def child(words: Sequence[str], environment: Mapping[str, str] | None = None) -> dict:
    """What a command prints as JSON in its last line."""
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def in_turns(contestants: Mapping[str, Callable[[], dict]], rounds: int) -> dict[str, dict[str, float]]:
    """The `summary` of each contestant, a function that returns what `measure` does."""
    names = list(contestants)
    runs: dict[str, list[dict]] = {name: [] for name in names}
    for k in range(rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            runs[name].append(contestants[name]())
    return {name: summary(own) for name, own in runs.items()}


def summary(runs: Sequence[dict]) -> dict[str, float]:
    """Of the runs of one contestant."""
    seconds, processor = ([second for one in runs for second in one[key]] for key in ("seconds", "processor"))
    return {
        "median": statistics.median(seconds), "least": min(seconds), "most": max(seconds), "processor": min(processor),
        "first": statistics.median(one["first"] for one in runs), "peak": max(one["peak"] for one in runs),
    }


def print_table(found: Mapping[str, dict[str, float]], width: int = 28) -> None:
    """A line per contestant below the names of the columns."""
    print(f"{'':{width}} {'median s':>9} {'least':>7} {'most':>7} {'first':>7} {'processor':>10} {'peak GiB':>9}")
    for name, own in found.items():
        walls = f"{own['median']:9.2f} {own['least']:7.2f} {own['most']:7.2f} {own['first']:7.1f}"
        print(f"{name:{width}} {walls} {own['processor']:10.2f} {own['peak']:9.2f}")


def over_best(found: Mapping[str, dict[str, float]], name: str) -> dict[str, float]:
    """A contestant's numbers over the best of the others, by `KEYS`."""
    return {key: found[name][key] / min(own[key] for other, own in found.items() if other != name) for key in KEYS}
