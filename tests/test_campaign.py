"""The fault campaign, `make campaign`: the smoke study is killed, its files and its disk are damaged, and its numbers must stay.

It takes half an hour and more on two cores, so that `make test` leaves it out. COVIDCXR_KILLS says how many times the study is
killed (50); COVIDCXR_KILL_SEED repeats the draw of a campaign, though not what the clock made of it.
"""

import datetime
import itertools
import os
import random
import resource
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from disturbed_study import DisturbedStudy, make_home, outcome
from kills import MOMENTS, Hunt, Tally

pytestmark = pytest.mark.campaign

KILLS = int(os.environ.get("COVIDCXR_KILLS", "50"))
SEED = int(os.environ.get("COVIDCXR_KILL_SEED", secrets.randbelow(1 << 30)))
NUMBERS = itertools.count()
YEARS = 365 * 86400


@pytest.fixture(scope="module")
def home(tmp_path_factory, phantom_smoke) -> Path:
    print(f"\nCOVIDCXR_KILL_SEED={SEED}", flush=True)
    return make_home(tmp_path_factory.mktemp("campaign"), phantom_smoke)


@pytest.fixture(scope="module")
def undisturbed(home) -> DisturbedStudy:
    """The study, run whole and in peace."""
    study = DisturbedStudy(home, home / "undisturbed")
    began = time.monotonic()
    study.run()
    print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
    return study


@pytest.fixture(scope="module")
def reference(undisturbed) -> dict[str, Any]:
    """What each stage finds when nothing happens to it."""
    found = {stage: outcome(undisturbed.folder / stage) for stage in undisturbed.states()}
    undisturbed.must_equal(found)
    return found


@pytest.fixture
def study(home) -> Iterator[DisturbedStudy]:
    """A study that has not run yet."""
    study = DisturbedStudy(home, home / f"study{next(NUMBERS)}")
    yield study
    study.wait_until_quiet()


@pytest.fixture
def finished(study, undisturbed, reference) -> DisturbedStudy:
    """A copy of the finished study."""
    shutil.copytree(undisturbed.folder, study.folder)
    return study


@pytest.fixture
def draw(request) -> random.Random:
    return random.Random(f"{SEED} {request.node.name}")


def test_a_study_that_is_killed_again_and_again_ends_in_the_same_numbers(study, reference, draw):
    tally = Tally()
    kept: set[str] = set()  # stages that had a record when a kill was due
    trusted: set[str] = set()  # those that status called done
    while len(tally.kills) < KILLS:
        engine = study.start("run")
        hunt = Hunt(study, engine, draw)
        tally.starts += 1
        moment = draw.choice(MOMENTS)
        # The kills are spread evenly over the stages.
        due = len(tally.kills) * len(reference) // KILLS
        progress = hunt.wait_for_progress(due)
        kept |= hunt.there.keys()
        kill = following = hunt.kill() if progress and hunt.wait_for(moment) else None
        while following is not None:
            kill = following
            tally.kills.append((kill.target, moment, kill.state, kill.stage))
            print(f"{len(tally.kills):3} {len(study.done()):2} done  {kill}  {moment}", flush=True)
            # A kernel that had done its work is not missed: the run goes on, and is killed again.
            following = None if hunt.ends_of(kill) else hunt.kill()
        code = engine.wait()
        assert "Traceback (most recent call last)" not in engine.said(), engine.said()
        if code == 0:  # it came to its end before it was killed
            lost = draw.sample(sorted(study.done()), len(reference) // 3)
            print(f"it came to its end; removed: {', '.join(lost)}", flush=True)
            removed(study, *lost)
            kept, trusted = set(), set()
            continue
        assert kill is not None and code == (-signal.SIGKILL if kill.target == "engine" else 1), engine.said()
        if draw.random() < 0.8:  # else the same command is given at once
            tally.longest = max(tally.longest, kill.wait_until_gone())
            study.wait_until_quiet()
            states = study.look(reference)
            if kill.stage != "none":
                assert kill.leads_to(*states[kill.stage], kill.stage in study.done()), f"after {kill}: {states[kill.stage]}"
            called_done = {stage for stage, (word, _) in states.items() if word == "done"}
            assert kept <= study.done() | study.done(".partial") and trusted <= called_done, f"after {kill}: {states}"
            trusted = called_done
    study.run()
    study.must_equal(reference)
    print(tally, flush=True)


def removed(study: DisturbedStudy, *stages: str) -> None:
    """The results of these stages get lost."""
    for stage in stages:
        shutil.rmtree(study.folder / stage)


def kill_at(study: DisturbedStudy, pattern: str, *words: str) -> None:
    """Start a run and kill its engine as soon as such a file of a running stage is there."""
    engine = study.start("run", *words)
    while not list((study.folder / ".partial").glob(pattern)):
        assert engine.poll() is None, engine.said()
        time.sleep(0.002)
    engine.kill()
    engine.wait()
    study.wait_until_quiet()


def size_of(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*"))


@pytest.fixture
def small_disk(study) -> Iterator[Any]:
    """A function that gives the outputs a file system of so many bytes, or resizes it."""

    def resize(size: int) -> None:
        remount = ["remount,"] if os.path.ismount(study.outputs) else [""]
        words = ["mount", "-t", "tmpfs", "-o", f"{remount[0]}size={size}", "tmpfs", str(study.outputs)]
        if subprocess.run(words, capture_output=True).returncode:
            pytest.skip("only root can mount a small file system; a limit on the size of files is tried everywhere")

    resize(1 << 20)
    yield resize
    study.wait_until_quiet()
    subprocess.run(["umount", study.outputs], check=True)


def test_a_disk_that_fills_up(study, small_disk, undisturbed, reference, draw):
    stages = ("ct_projection", "lung_segmentation")
    whole = sum(size_of(undisturbed.folder / stage) for stage in stages)
    said = []
    for share in sorted(draw.uniform(0, 1.1) for _ in range(4)):
        small_disk(int(share * whole) + 65536)
        code, text = study.command("run", *stages)
        said.append((round(share, 2), code, text))
        assert code == 0 or "Traceback" not in text and ("No space left" in text or "disk" in text.lower()), said
        study.look(reference)
    assert any(code for _, code, _ in said), "the disk was never full"
    small_disk(1 << 30)
    study.run(*stages)
    study.must_equal(reference, *stages)


@pytest.mark.parametrize("limit", [20_000, 400_000])
def test_files_that_can_not_grow(study, reference, limit):
    """As at a quota: the notebook as it runs does not fit, or its page does not."""
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))}
    code, said = study.command("run", "lung_segmentation", **limited)
    assert code in (1, 2) and "Traceback (most" not in said and "File too large" in said, said
    assert study.look(reference)["lung_segmentation"][0] == "failed"
    study.run("lung_segmentation")
    study.must_equal(reference, "lung_segmentation")


def damage(path: Path, draw: random.Random) -> str:
    """Damage a file as disks and people do; says how."""
    content = bytearray(path.read_bytes())
    how = draw.choice(("emptied", "cut", "flipped", "overwritten"))
    if how == "emptied":
        content.clear()
    elif how == "cut":
        del content[draw.randrange(max(1, len(content))) :]
    elif how == "flipped":
        for place in draw.sample(range(len(content)), min(20, len(content))):
            content[place] ^= 1 << draw.randrange(8)
    else:
        content[:] = draw.randbytes(100)
    path.write_bytes(content)
    return f"{path.parent.name}/{path.name} {how}"


@pytest.mark.parametrize(("stage", "until", "damaged"), [
    ("unet_opacity", "*.progress.npz", "*.progress.npz"), ("lung_segmentation", "*.json", "*.json"),
    ("diagnosis", "*.json", "*.weights.h5"),
])  # fmt: skip
def test_damaged_checkpoints_of_a_training_that_was_killed(study, reference, draw, stage, until, damaged):
    kill_at(study, f"{stage}/checkpoints/{until}", stage)
    for path in (study.folder / ".partial" / stage / "checkpoints").glob(damaged):
        print(damage(path, draw))
    study.look(reference)
    study.run(stage)
    study.must_equal(reference, stage)


def test_damaged_records_of_a_finished_study(finished, reference, draw):
    harmed = [("lung_segmentation_500", "results.json"), ("lung_segmentation_500", "params.yaml")]
    for stage, pattern in (
        ("start_here", "tables/*.csv"), ("severity_roc", "figures/*"), ("lung_segmentation", "checkpoints/*.weights.h5"),
    ):  # fmt: skip
        file = draw.choice(sorted((finished.folder / stage).glob(pattern)))
        harmed.append((stage, file.relative_to(finished.folder / stage).as_posix()))
    for name in (*map("/".join, harmed), "diagnosis_crop20/run.json", ".partial/todo.json"):
        print(damage(finished.folder / name, draw))
    states = finished.look(reference, damaged={stage for stage, _ in harmed} | {"diagnosis_crop20"})
    for stage, file in harmed:
        word, why = states[stage]
        assert word == "will run" and "results changed or removed: " in why and file in why, f"{file} is damaged: {states[stage]}"
    assert "lung_segmentation runs before it" in states["shortcuts"][1], states["shortcuts"]
    finished.run()
    finished.must_equal(reference)


def test_everything_that_a_killed_run_left_behind_is_damaged(finished, reference, draw):
    removed(finished, "lung_segmentation_500", "ct_projection")
    kill_at(finished, "*/checkpoints/*.json", "lung_segmentation_500")
    (finished.folder / ".partial" / "ct_projection").mkdir()
    for name in ("run.json", "results.json", "attempt.txt"):
        (finished.folder / ".partial" / "ct_projection" / name).write_bytes(draw.randbytes(100))
    left = [path for folder in (".partial", ".snakemake") for path in (finished.folder / folder).rglob("*") if path.is_file()]
    for path in [*left, finished.folder / ".lock", finished.folder / "report.html"]:
        print(damage(path, draw))
    finished.look(reference)
    finished.run()
    finished.must_equal(reference)


@pytest.mark.parametrize(("stage", "files"), [
    ("ct_projection", "covid19_ct_seg/COVID-19-CT-Seg_20cases/*.nii*"), ("start_here", "general_blockchain_cxr/images/*"),
])
def test_a_truncated_input_is_named_and_a_restored_one_is_taken(home, finished, reference, draw, stage, files):
    path = draw.choice(sorted(next((home / "cache" / "phantom").glob("smoke-*")).glob(files)))
    whole = path.read_bytes()
    removed(finished, stage)
    path.write_bytes(whole[: draw.randrange(1, len(whole) - 100)])
    try:
        code, said = finished.command("run", stage)
        assert code == 1 and f"{stage} failed" in said and path.name in said, said
        state = finished.look(reference)[stage]
        assert state[0] == "failed" and path.name in state[1]
    finally:
        path.write_bytes(whole)
    finished.run()
    finished.must_equal(reference)


def shift_times(folder: Path, seconds: int) -> None:
    """Let all files seem to be so much younger (or older) than they are."""
    for path in [folder, *folder.rglob("*")]:
        stat = path.stat()
        os.utime(path, (stat.st_atime + seconds, stat.st_mtime + seconds))


CLOCK = """
import os, time
_ahead, _real, _began = float(os.environ["CAMPAIGN_CLOCK"]), time.time, time.monotonic()
time.time = lambda: _real() + (_ahead if time.monotonic() - _began < 4 else -_ahead)
"""


def test_a_clock_that_jumps(home, finished, reference):
    """Only root can set a machine's clock. So files get times years ahead and years ago, and Python's clock in every process of
    the study jumps back or forth by years while it runs."""
    (home / "clock").mkdir()
    (home / "clock" / "sitecustomize.py").write_text(CLOCK)
    stages = ("lung_segmentation_500", "label_generation")
    for ahead in (10 * YEARS, -10 * YEARS):
        for folder in (finished.folder, home / "cache", home / "notebooks", home / "params"):
            shift_times(folder, ahead)
        finished.must_equal(reference, *stages)
        removed(finished, *stages)
        kill_at(finished, "lung_segmentation_500/checkpoints/*", "lung_segmentation_500")
        shift_times(finished.folder, -2 * ahead)
        clock = {"PYTHONPATH": f"{home / 'clock'}{os.pathsep}{home}", "CAMPAIGN_CLOCK": str(ahead)}
        finished.run(*stages, environment=clock)
        finished.must_equal(reference, *stages)
        records = [finished.record(stage) for stage in stages]
        assert all(0 < record["seconds"] < 3600 for record in records), f"stages took {[r['seconds'] for r in records]} s"
        started = [datetime.datetime.fromisoformat(record["started"]).timestamp() for record in records]
        assert all(abs(began - time.time()) > 9 * YEARS for began in started), "the clock has not jumped"
    finished.run()
    finished.must_equal(reference)


def test_a_second_run_of_a_profile_is_refused_and_harms_nothing(finished, reference):
    removed(finished, "lung_segmentation_500")
    first = finished.start("run")
    while not (finished.folder / ".partial" / "lung_segmentation_500" / "results.json").exists():
        assert first.poll() is None, first.said()
        time.sleep(0.05)
    for words in (["run"], ["run", "ct_projection", "--force", "ct_projection"], ["execute", "lung_segmentation_500"]):
        code, said = finished.command(*words)
        assert code in (1, 2) and "is being run already by process" in said and "Traceback" not in said, said
    assert finished.states()["lung_segmentation_500"][0] == "running"
    assert first.wait() == 0, first.said()
    finished.must_equal(reference)


def test_two_profiles_at_once(home, study, reference):
    (home / "params" / "twin.yaml").write_text((home / "params" / "smoke.yaml").read_text())
    twin = DisturbedStudy(home, study.outputs, "twin")
    stages = ("label_generation", "lung_segmentation")
    runs = [study.start("run", *stages), twin.start("run", *stages)]
    assert [run.wait() for run in runs] == [0, 0], [run.said() for run in runs]
    study.must_equal(reference, *stages)
    twin.must_equal(reference, *stages)
