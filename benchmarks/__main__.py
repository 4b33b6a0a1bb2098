"""All benchmarks in turn, then one table of what they noted: ours, the peer or floor beside it, their ratio, and the bar.

    python benchmarks [--torch PYTHON] [--quick] [SCRIPT ...]

PYTHON is an interpreter with torch and torchvision, which the study does not need. Peers that are not at hand are said to be so.
A script that fails is a row of its own and hides none of the others; the exit status then is 1. A missed bar is no failure.
With `--quick` all sizes are small: a few minutes to see that everything runs, and numbers that mean nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from contest import COLUMNS, NOTES, QUICK, cells

NUMBERS = [COLUMNS.index(name) for name in ("ours", "theirs", "ratio")]


def scripts() -> list[Path]:
    return sorted(file for file in Path(__file__).parent.glob("*.py") if file.name != "__main__.py")


def run(script: Path, torch: str | None, quick: bool) -> tuple[list[dict], str]:
    """What a script noted, and how it failed, if it did."""
    words = [sys.executable, str(script)]
    if torch and '"--torch"' in script.read_text(encoding="utf-8"):
        words += ["--torch", torch]
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes.jsonl"
        done = subprocess.run(words + [QUICK] * quick, env={**os.environ, NOTES: str(notes)})
        rows = [json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines()] if notes.is_file() else []
    failure = f"exit status {done.returncode}" if done.returncode else "" if rows else "it noted nothing"
    return rows, failure


def print_table(found: dict[str, tuple[list[dict], str]], quick: bool) -> None:
    """A line per note and per script that failed, and how many of each kind there are."""
    lines: list[tuple[str, ...]] = []
    for name, (rows, failure) in found.items():
        lines += map(cells, rows)
        if failure:
            lines.append((name, *[""] * (len(COLUMNS) - 2), f"FAILED: {failure}"))
    widths = [max(map(len, column)) for column in zip(COLUMNS, *lines, strict=True)]
    for line in (COLUMNS, ["-" * width for width in widths], *lines):
        pairs = enumerate(zip(line, widths, strict=True))
        print("  ".join(text.rjust(width) if k in NUMBERS else text.ljust(width) for k, (text, width) in pairs).rstrip())
    notes = [row for rows, _ in found.values() for row in rows]
    judged = [row["held"] for row in notes if row["held"] is not None]
    absent = sum(bool(row["peer"]) and row["theirs"] is None for row in notes)
    bars = f"{len(judged)} bars, not judged at small sizes" if quick else f"{sum(judged)} of {len(judged)} bars held"
    failed = sum(bool(failure) for _, failure in found.values())
    print(f"{bars}; peers not at hand in {absent} rows; {failed} of {len(found)} scripts failed")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", metavar="PYTHON", help="interpreter that has torch and torchvision")
    parser.add_argument(QUICK, action="store_true", help="small sizes, to try the scripts")
    parser.add_argument("scripts", nargs="*", type=Path, metavar="SCRIPT", help="default: all")
    chosen = parser.parse_args()
    busy = os.getloadavg()[0]
    found = {}
    for script in chosen.scripts or scripts():
        print(f"== {script}", flush=True)
        found[script.name] = run(script, chosen.torch, chosen.quick)
    print(f"\n{os.cpu_count()} cores, load {busy:.1f} before; less is better; the ratio is ours over theirs")
    if chosen.quick:
        print("SIZES WERE SMALL (quick): these numbers show that everything runs, not how fast it is")
    print_table(found, chosen.quick)
    sys.exit(any(failure for _, failure in found.values()))


if __name__ == "__main__":
    main()
