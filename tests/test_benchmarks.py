"""The table over all benchmarks: `python benchmarks`, on small scripts instead of measurements; and what those that measure
learning make of scores that are known."""

import importlib.util
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from covidcxr import datasets, splits

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


def learning(name: str) -> ModuleType:
    """A script of benchmarks/learning."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / "learning" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_starts_are_compared_image_by_image_though_each_was_trained_thrice():
    higher, rows = {"random": 0.0, "random, longer": 0.3, "lungs": 0.1}, []
    for seed in range(2):
        for start, more in higher.items():
            for case, iou in {"a": 0.2, "b": 0.5, "c": np.nan}.items():  # c has no lesion
                rows += [(seed, start, case, f"of {case}", iou + more + off) for off in (-0.1, 0.0, 0.1)]
    table = pd.DataFrame(rows, columns=["seed", "start", "case", "patient", "iou"])
    differences = learning("lung_start").differences
    assert differences(table) == [
        "lungs - random: +0.100, over patients [+0.100, +0.100], over 2 seeds [+0.100, +0.100]",
        "lungs - random, longer: -0.200, over patients [-0.200, -0.200], over 2 seeds [-0.200, -0.200]",
    ]
    assert differences(table[table.seed == 0])[0] == "lungs - random: +0.100, over patients [+0.100, +0.100]"


def test_the_longer_start_is_as_long_as_both_lessons_together_as_they_are_given():
    overrides = learning("lung_start").overrides
    given = {"epochs": "7", "lung_epochs": "4"}
    assert overrides("pilot", given, "random, longer") == {**given, "repeats": 1, "start": "random", "epochs": 11}
    assert overrides("pilot", given, "lungs") == {**given, "repeats": 1, "start": "lungs"}
    assert overrides("pilot", {"repeats": "2"}, "random") == {"repeats": "2", "start": "random"}


@pytest.mark.parametrize("seed", [0, 1])
def test_parameters_are_chosen_without_the_test_images_and_their_patients(phantom_smoke, seed):
    chooser, x_rays = learning("choose_on_training"), "general_blockchain_cxr"
    split = splits.ramesh2021(datasets.open(x_rays, phantom_smoke).cases(), "patient_grouped", seed=seed)
    opened = chooser.training_only({"data": phantom_smoke, "split": "patient_grouped", "seed": seed})
    seen = opened(x_rays, phantom_smoke).cases()
    assert set(seen.case) == set(split.case[split.role == "train"])
    others, all_others = (opener("v7_cxr", phantom_smoke).cases() for opener in (opened, datasets.open))
    tested = split.patient[split.role == "test"]
    assert set(all_others.case) - set(others.case) == set(all_others.case[all_others.patient.isin(tested)]) != set()
    held_out = chooser.hold_out(seen, "patient_grouped", seed=seed)
    assert set(held_out.case) == set(seen.case) and set(held_out.role) == {"train", "test"}
    assert (held_out.groupby("patient").role.nunique() == 1).all() and not held_out.ten.any()


def test_thresholds_are_scored_by_the_mean_over_lesions_and_trainings():
    truth = np.zeros((4, 4), bool)
    truth[0] = True

    def found(score: float, rows: int):
        """An object of so many rows, the first one right, that is seen up to a score; each row is less probable by 0.2."""
        probability = (0.8 - 0.2 * np.arange(4)) * (np.arange(4) < rows)

        def above(threshold):
            return SimpleNamespace(union=lambda mask: (probability * (score >= threshold) >= mask)[:, None].repeat(4, axis=1))

        return SimpleNamespace(above=above)

    names = {
        "test": [SimpleNamespace(name=name, patient="p") for name in "ab"], "truth": [truth, np.zeros_like(truth)],
        "finds": [[found(0.9, 1), found(0.9, 2)], [found(0.4, 2), found(0.9, 2)]],
    }  # fmt: skip
    scored = learning("choose_on_training").score(names, [(0.1, 0.5), (0.5, 0.5), (0.1, 0.7)])
    assert scored.index.tolist() == [("a", "p")]
    assert scored.mean().to_dict() == {(0.1, 0.5): 0.75, (0.5, 0.5): 0.5, (0.1, 0.7): 1.0}


def test_other_parameters_are_taken_only_where_pairs_of_images_show_a_gain():
    verdict, own, other = learning("choose_on_training").verdict, (12, 0.1, 0.5), (12, 0.1, 0.3)
    index = pd.MultiIndex.from_arrays([list("abcdef"), list("uvwxyz")], names=["case", "patient"])
    scores = pd.DataFrame({own: [0.2, 0.4, 0.5, 0.6, 0.7, 0.8]}, index=index)
    assert verdict(pd.DataFrame({own: scores[own], other: 0.0}), own, 0).endswith("which is what the profile has")
    gains = scores[own] + [0.05, 0.04, 0.06, 0.05, 0.03, 0.07]
    assert verdict(pd.DataFrame({own: scores[own], other: gains}), own, 0).endswith("by 0.050 [0.040, 0.060]. Take it.")
    luck = scores[own] + [0.3, -0.05, -0.04, -0.03, 0.0, -0.05]
    assert verdict(pd.DataFrame({own: scores[own], other: luck}), own, 0).endswith("Not shown to be better.")
