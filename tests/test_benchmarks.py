"""The table over all benchmarks: `python benchmarks`, on small scripts instead of measurements."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

NOTES = {
    "faster": "note('faster', 2.0, 's', 'a peer', 4.0, bar=1.0)",
    "slower": "note('slower', 5.0, 's', 'a peer', 4.0, bar=1.0)",
    "absent": "note('absent', 2.0, 's', 'a peer', bar=1.0)",
    "large": "note('large', 3.0, 'GiB', bar=2.0)",
    "rounds": "note('rounds', 2.0, 's', 'a peer', 4.0, ratio=0.75)",
    "best": "note_over_best('best', {'ours': dict.fromkeys(KEYS, 6.0), 'a': dict.fromkeys(KEYS, 4.0), "
    "'b': dict.fromkeys(KEYS, 3.0)}, 'ours', 'a peer', {'peak': 2.5})",
    "alone": "note_over_best('alone', {'ours': dict.fromkeys(KEYS, 6.0)}, 'ours', 'a peer', {'peak': 2.5})",
}


@pytest.fixture
def table(tmp_path):
    """Runs scripts of some lines each, and returns the exit status and the lines of the table, cell by cell."""

    def run(*options: str, **scripts: str) -> tuple[int, list[list[str]]]:
        files = [tmp_path / f"{name}.py" for name in scripts]
        for file, code in zip(files, scripts.values(), strict=True):
            file.write_text(f"import sys\nfrom contest import *\n{code}\n")
        words = [sys.executable, str(ROOT / "benchmarks"), *options, *map(str, files)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")}
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        lines = done.stdout.splitlines()
        (start,) = [k for k, line in enumerate(lines) if line.startswith("what ")]
        return done.returncode, [[cell.strip() for cell in line.split("  ") if cell] for line in lines[start + 2 :]]

    return run


def test_notes_are_rows_with_their_ratio_and_whether_the_bar_is_held(table):
    status, lines = table(all="\n".join(NOTES.values()))
    assert (status, [line for line in lines if line[0].split(",")[0] in NOTES]) == (0, [
        ["faster", "2 s", "a peer", "4 s", "x 0.50", "bar x 1", "held"],
        ["slower", "5 s", "a peer", "4 s", "x 1.25", "bar x 1", "MISSED"],
        ["absent", "2 s", "a peer", "not at hand", "bar x 1"],
        ["large", "3 GiB", "bar 2 GiB", "MISSED"],
        ["rounds", "2 s", "a peer", "4 s", "x 0.75"],
        *(["best, " + key, "6 s", "b", "3 s", "x 2.00"] for key in ("median", "least", "processor")),
        ["best, peak", "6 GiB", "b", "3 GiB", "x 2.00", "bar x 2.5", "held"],
        *(["alone, " + key, "6 s", "a peer", "not at hand"] for key in ("median", "least", "processor")),
        ["alone, peak", "6 GiB", "a peer", "not at hand", "bar x 2.5"],
    ])  # fmt: skip
    assert lines[-1] == ["2 of 4 bars held; peers not at hand in 5 rows; 0 of 1 scripts failed"]


def test_a_script_that_fails_is_a_row_beside_its_notes_and_hides_no_other(table):
    status, lines = table(first=NOTES["faster"] + "\nsys.exit('broken')", silent="", last=NOTES["slower"])
    assert status == 1
    assert [line[0] for line in lines[:-1]] == ["faster", "first.py", "silent.py", "slower"]
    assert (lines[1][-1], lines[2][-1]) == ("FAILED: exit status 1", "FAILED: it noted nothing")


def test_small_sizes_are_taken_and_judge_no_bar(table):
    code = "p = argparse.ArgumentParser()\nsizes(p, size=(512, 64))\nnote('size', p.parse_args().size, 'pixels', bar=100)"
    assert table(one=code)[1][0] == ["size", "512 pixels", "bar 100 pixels", "MISSED"]
    assert table("--quick", one=code)[1][0] == ["size", "64 pixels", "bar 100 pixels", "small sizes"]


def test_the_interpreter_with_torch_goes_to_the_scripts_that_take_it(table):
    takes = "p = argparse.ArgumentParser()\np.add_argument(\"--torch\")\nnote(p.parse_args().torch, 1, 's')"
    status, lines = table("--torch", "a-python", takes=takes, other="note(str(sys.argv[1:]), 1, 's')")
    assert (status, lines[0][0], lines[1][0]) == (0, "a-python", "[]")
