"""Contestants measured in processes of their own, in turns, the table of what was found, and notes for the table over all.

Who runs first changes from round to round. Seconds are medians of all calls of all rounds, and the least: on a machine that
others use too, that is what tells most. The first call of a process, which traces or compiles, is left out. Processor seconds,
the least of a call, hardly depend on others, but count threads that wait for each other. Memory is the peak of a process with its
imports.

What a script finds it says by `note`, a line each. Where COVIDCXR_NOTES names a file, each is also added there as a line of
JSON: `python benchmarks` makes one table of them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

KEYS = {"median": "s", "least": "s", "processor": "s", "peak": "GiB"}
"""What contestants are compared by (see `print_table`), and its unit."""
NOTES = "COVIDCXR_NOTES"
QUICK = "--quick"


def sizes(parser: argparse.ArgumentParser, **named: tuple[int, int]) -> None:
    """An option for each of some sizes, of which both defaults are given: the one that counts, and a small one for --quick."""
    parser.allow_abbrev = False
    parser.add_argument(QUICK, action="store_true", help="small sizes, to try the script; the numbers mean nothing")
    for name, (full, small) in named.items():
        parser.add_argument(f"--{name}", type=int, default=small if QUICK in sys.argv else full, help=f"{full}; {small} if quick")


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


def note(
    what: str, ours: float, unit: str, peer: str = "", theirs: float | None = None, *, bar: float | None = None,
    ratio: float | None = None,
) -> None:  # fmt: skip
    """Say what was found, and keep it where COVIDCXR_NOTES says. Less is better.

    The bar is the most that the ratio may be or, without a peer, the most that our own number may be. A peer without a number is
    not at hand. The ratio is ours over theirs, unless another is given (such as the median of the ratios of rounds).
    """
    if ratio is None and theirs is not None:
        ratio = ours / theirs
    judged = ratio if peer else ours
    held = None if bar is None or judged is None else judged <= bar
    row = {"what": what, "ours": ours, "unit": unit, "peer": peer, "theirs": theirs, "ratio": ratio, "bar": bar, "held": held}
    row["quick"] = QUICK in sys.argv
    print("  " + "  ".join(cell for cell in cells(row) if cell), flush=True)
    if NOTES in os.environ:
        with Path(os.environ[NOTES]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def note_over_best(what: str, found: Mapping[str, dict[str, float]], name: str, peer: str, bars: Mapping[str, float]) -> None:
    """A `note` of each of `KEYS`: a contestant beside the best of the others; `peer` says whom it lacks where there are none."""
    for key, unit in KEYS.items():
        best = min((own[key], other) for other, own in found.items() if other != name) if len(found) > 1 else (None, peer)
        note(f"{what}, {key}", found[name][key], unit, best[1], best[0], bar=bars.get(key))


COLUMNS = ("what", "ours", "beside", "theirs", "ratio", "bar", "held")


def cells(row: Mapping) -> tuple[str, ...]:
    """A note as text, by `COLUMNS`. Small sizes hold or miss no bar."""

    def shown(value: float | None, unit: str) -> str:
        if value is None:
            return ""
        return f"{value:.0f} {unit}" if abs(value) >= 1000 else f"{value:.3g} {unit}"

    theirs = shown(row["theirs"], row["unit"]) or ("not at hand" if row["peer"] else "")
    ratio = "" if row["ratio"] is None else f"x {row['ratio']:{'.2f' if row['ratio'] >= 0.1 else '.2g'}}"
    bar = "" if row["bar"] is None else f"x {row['bar']:g}" if row["peer"] else f"{row['bar']:g} {row['unit']}"
    held = "" if row["held"] is None else "small sizes" if row["quick"] else "held" if row["held"] else "MISSED"
    return row["what"], shown(row["ours"], row["unit"]), row["peer"], theirs, ratio, bar and f"bar {bar}", held
