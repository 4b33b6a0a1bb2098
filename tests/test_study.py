"""The study as a user meets it: the real command on a small study, run, changed, broken, killed and resumed."""

import html
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import yaml
from conftest import PARAMETERS, ROOT

from covidcxr import engine, execution, fingerprint
from covidcxr.result_files import damage_of

ALL_DONE = {"first": "done", "second": "done", "alone": "done"}


def states(study, *words: str) -> dict[str, str]:
    """First words of what the status command says of each stage."""
    known = r"done|will run|no data|blocked|failed|running"
    return {stage: re.match(known, state)[0] for stage, state in study.status(*words).items()}


def run(study, *words: str):
    done = study.command("run", "smoke", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def wait_for(condition, seconds: float = 120):
    """Poll until the condition gives something; the bound only keeps a broken test from hanging."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("what the test waits for did not happen")


def processes_of(study) -> list[int]:
    """Processes whose command line or environment belongs to this study."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/environ", "rb") as environment:
                if f"COVIDCXR_HOME={study.root}".encode() in environment.read().split(b"\0"):
                    found.append(int(entry))
        except OSError:
            continue
    return found


def test_a_run_ends_in_complete_stages_and_a_report(small_study):
    assert states(small_study) == dict.fromkeys(ALL_DONE, "will run")
    done = run(small_study)
    assert states(small_study) == ALL_DONE
    report = small_study.outputs / "report.html"
    assert f"Report: {report}" in done.stdout and report.is_file()

    folder = small_study.outputs / "first"
    record = small_study.record("first")
    assert record["status"] == "done" and record["parameters"]["number"] == 1.0 and record["seed"] == 0
    assert record["seconds"] > 0 and record["peak_memory_mb"] > 10 and record["versions"]["papermill"]
    assert json.loads((folder / "results.json").read_text())["claims"][0]["value"] == 1.0
    assert "The number" in (folder / "notebook.html").read_text()
    assert set(small_study.record("second")["upstream"]) == {"first"}
    assert not [path for path in (small_study.outputs / ".partial").iterdir() if path.is_dir()]


def test_a_dry_run_says_what_would_run_and_how_long_it_may_take(small_study):
    (small_study.root / "params" / "smoke.yaml").write_text("data: ''\nminutes: {first: 2, second: 90}\n")
    before = run(small_study, "--dry-run").stdout
    assert re.search(r"first +will run +CPU +2 min  estimated in params/smoke.yaml", before)
    assert re.search(r"alone +will run +CPU +\?", before)
    assert "Not in this sum, since neither measured nor estimated: alone." in before
    assert "3 of 3 stages would run, 92 min one after the other." in before
    assert not small_study.outputs.exists()

    done = run(small_study, "--set", "first.number=5", "first").stdout  # a stage may also be named after an option
    assert re.search(r"first +\d+ s +100% +\d+ MB", done) and "second" not in done
    after = run(small_study, "--dry-run", "--set", "first.number=5").stdout
    assert re.search(r"first +done +CPU +\d+ s  measured here on 20", after) and "2 of 3 stages would run" in after
    assert re.search(r"first +will run +CPU +2 min  estimated", run(small_study, "--dry-run").stdout)  # other parameters


def test_a_dry_run_makes_no_phantom(small_study, monkeypatch):
    monkeypatch.setenv("COVIDCXR_CACHE", str(small_study.root / "cache"))
    (small_study.root / "params" / "smoke.yaml").write_text("data: phantom:smoke\n")
    small_study.write("params/study.yaml", "stages: {alone: {notebook: alone, datasets: [v7_cxr]}}")
    assert re.search(r"alone +will run", run(small_study, "--dry-run").stdout)
    assert not (small_study.root / "cache" / "phantom").exists()


def test_an_estimate_is_a_number_of_minutes_of_a_stage(small_study):
    for minutes, message in (("{frist: 2}", "Did you mean 'first'?"), ("{first: soon}", "number of minutes, found 'soon'")):
        (small_study.root / "params" / "smoke.yaml").write_text(f"data: ''\nminutes: {minutes}\n")
        failed = small_study.command("run", "smoke", "--dry-run")
        assert failed.returncode == 2 and message in failed.stderr


def test_what_runs_again_is_what_changed_and_what_hangs_on_it(small_study):
    run(small_study)
    records = small_study.records()

    os.utime(small_study.root / "notebooks" / "first.ipynb")
    (small_study.outputs / "first" / "run.json").touch()
    assert "nothing to do" in run(small_study).stderr
    assert small_study.records() == records

    source = small_study.root / "notebooks" / "first.ipynb"
    source.write_text(source.read_text().replace("# unused here", "# prose").replace("## The number", "## Prose"))
    assert states(small_study) == ALL_DONE, "comments and prose are no code"

    source = small_study.root / "notebooks" / "alone.ipynb"
    source.write_text(source.read_text().replace("what='a number'", "what='another number'"))
    assert small_study.status()["alone"] == "will run  code changed: alone.ipynb"
    run(small_study)
    changed = small_study.records()
    assert {stage for stage in records if changed[stage] != records[stage]} == {"alone"}

    overridden = small_study.command("status", "smoke", "--set", "first.number=2").stdout
    assert "parameter number: 1.0 → 2.0" in overridden and "first runs before it" in overridden
    run(small_study, "--set", "first.number=1.05")
    again = small_study.records()
    assert {stage for stage in records if changed[stage] != again[stage]} == {"first", "second"}


def test_chosen_stages_run_with_what_they_need_and_force_runs_again(small_study):
    run(small_study, "second")
    assert states(small_study) == {"first": "done", "second": "done", "alone": "will run"}
    records = small_study.records()
    run(small_study, "second", "--force", "second")
    changed = small_study.records()
    assert changed["first"] == records["first"] and changed["second"] != records["second"]


def test_parameters_file_repeats_a_stage_by_hand_beside_the_study(small_study):
    run(small_study, "alone", "--set", "alone.number=3")
    folder = small_study.outputs / "alone"
    kept = (folder / "results.json").read_bytes()
    words = [small_study.root / "notebooks" / "alone.ipynb", small_study.root / "again.ipynb", "-f", folder / "params.yaml"]
    subprocess.run([sys.executable, "-m", "papermill", *words], env=small_study.environment, check=True, capture_output=True)
    repeated = json.loads((small_study.outputs / ".by_hand" / "alone" / "results.json").read_text())
    assert repeated["numbers"][0]["value"] == 3
    assert (folder / "results.json").read_bytes() == kept


WRITE_FILES = """
    for name in ("tables/scores.csv", "figures/curve.svg", "checkpoints/net.weights.h5", "checkpoints/.aside.net.weights.h5",
                 "split.csv"):
        (stage.folder / name).parent.mkdir(exist_ok=True)
        (stage.folder / name).write_text(name)
"""


def test_files_that_were_changed_or_removed_are_no_longer_believed(small_study, monkeypatch):
    small_study.notebook("first", [WRITE_FILES, "stage.record('paper.number', number, n=1)", "stage.finish()"])
    run(small_study, "second")
    folder, record = small_study.outputs / "first", small_study.record("first")
    written = ["checkpoints/net.weights.h5", "figures/curve.svg", "split.csv", "tables/scores.csv"]
    assert set(record["files"]) == {*written, "results.json", "params.yaml", "notebook.html"}
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "file_digest", lambda path: pytest.fail(f"{path} is read though nothing touched it"))
        assert damage_of(folder, record) == ""
    for name in record["files"]:
        path = folder / name
        kept = path.read_bytes()
        for content in (kept[:-1] + bytes([kept[-1] ^ 1]), kept + b" ", b""):
            path.write_bytes(content)
            assert damage_of(folder, record) == f"results changed or removed: {name}"
        path.unlink()
        assert damage_of(folder, record) == f"results changed or removed: {name}"
        path.mkdir()
        assert damage_of(folder, record) == f"results changed or removed: {name}"
        path.rmdir()
        path.write_bytes(kept)
        assert damage_of(folder, record) == "", "what it was again, at another time"
    (folder / "notebook.ipynb").write_text("opened, run and saved by somebody")
    shutil.copytree(folder, folder.with_name("copy"), copy_function=shutil.copyfile)
    os.replace(folder, folder.with_name("kept"))
    os.replace(folder.with_name("copy"), folder)
    assert states(small_study)["first"] == states(small_study)["second"] == "done", "a copy is as good"

    for name in written:
        (folder / name).unlink()
    assert small_study.status()["first"] == (
        "will run  results changed or removed: checkpoints/net.weights.h5, figures/curve.svg, split.csv and 1 more"
    )
    assert small_study.status()["second"] == "will run  first runs before it"
    run(small_study, "second")
    assert (folder / "split.csv").read_text() == "split.csv" and states(small_study)["second"] == "done"


@pytest.mark.parametrize("files", [None, {}, [], {"results.json": 3}, {"a\0b": {}}, {"a" * 300: {}}])
def test_a_record_that_does_not_say_what_its_files_were_is_not_believed(tmp_path, files):
    (tmp_path / "results.json").write_text("{}")
    assert damage_of(tmp_path, {"status": "done", "files": files})


def test_another_backend_makes_other_results_of_stages_with_networks(small_study, monkeypatch):
    small_study.write("params/study.yaml", """
        stages:
          alone: {notebook: alone, gpu: true}
          first: {notebook: first, claims: [paper.number]}
    """)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    run(small_study)
    assert small_study.record("alone")["keras_backend"] == "tensorflow"
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    changed = small_study.status()
    assert changed["alone"] == "will run  the backend has changed from tensorflow to jax"
    assert changed["first"].startswith("done")


def test_values_reach_the_notebook_as_they_were_given(small_study):
    odd = """a\\b "c" 'd' {e} $HOME `f` ü; # g"""
    run(small_study, "alone", "--set", f"alone.data={odd}")
    assert small_study.record("alone")["parameters"]["data"] == odd
    assert json.loads((small_study.outputs / "alone" / "results.json").read_text())["source"] == odd
    command = shlex.join(["python", "-m", "covidcxr", "run", "smoke", "alone", "--set", f"alone.data={odd}"])
    assert command in html.unescape((small_study.outputs / "report.html").read_text()), "the report repeats it"


def test_files_and_claims_that_a_stage_hangs_on(small_study):
    small_study.write("params/list.txt", "one")
    small_study.write("params/study.yaml", "stages: {alone: {notebook: alone, files: [params/list.txt]}}")
    run(small_study)
    small_study.write("params/list.txt", "two")
    assert small_study.status()["alone"] == "will run  file changed: params/list.txt"
    run(small_study)
    small_study.write("params/study.yaml", "stages: {alone: {notebook: alone, files: [params/list.txt], claims: [paper.number]}}")
    assert small_study.status()["alone"] == "will run  it owes other claims"


def test_an_executor_plugin_runs_stages_as_jobs_of_a_cluster(small_study):
    """The "cluster" is this machine: jobs are submitted to a shell, each in a Snakemake of its own, as on a node."""
    cluster = ["--executor", "cluster-generic", "--cluster-generic-submit-cmd", "bash", "--jobs", "2"]
    run(small_study, "second", "--set", "first.number=1.05", "--set", "alone.number=2", "--", *cluster)
    assert small_study.record("first")["parameters"]["number"] == 1.05
    assert small_study.record("second")["overrides"] == ["first.number=1.05"], "its own, and of what it is made from"
    shown = small_study.command("status", "smoke", "--set", "first.number=1.05").stdout
    assert [line.split()[1] for line in shown.splitlines()] == ["done", "done", "will"]


@pytest.mark.parametrize(("words", "message"), [
    (["run", "smok"], "unknown profile 'smok'. Did you mean 'smoke'"),
    (["run", "smoke", "frist"], "unknown stage 'frist'. Did you mean 'first'"),
    (["run", "smoke", "--force", "frist"], "Did you mean 'first'"),
    (["run", "smoke", "--set", "first.nubmer=2"], "unknown parameter 'nubmer'. Did you mean 'number'"),
    (["run", "smoke", "--set", "first.number=two"], "number must be float, got 'two'"),
    (["run", "smoke", "--set", "first.crash=1"], "crash must be bool, got 1"),
    (["run", "smoke", "--set", "first"], "expected stage.name=value"),
    (["run", "smoke", "--set", "first.stage_dir=/elsewhere"], "unknown parameter 'stage_dir'"),
    (["status", "smoke", "--set", "frist.number=2"], "Did you mean 'first'"),
])
def test_wrong_words_are_refused_before_a_kernel_starts(small_study, words, message):
    refused = small_study.command(*words)
    assert refused.returncode == 2
    assert message in refused.stderr and "Traceback" not in refused.stderr
    assert not small_study.outputs.exists()


@pytest.mark.parametrize(("file", "content", "message"), [
    ("params/smoke.yaml", "{common: {sed: 1}}", "unknown common parameter 'sed'. Did you mean 'seed'"),
    ("params/smoke.yaml", "{common: {seed: '1'}}", "seed must be int, got '1'"),
    ("params/smoke.yaml", "{stages: {first: {numbr: 1}}}", "Did you mean 'number'"),
    ("params/smoke.yaml", "{stage: {}}", "unknown key 'stage'. Did you mean 'stages'"),
    ("params/smoke.yaml", "{", "can't be read as YAML"),
    ("params/smoke.yaml", "{common: {}, common: {seed: 1}}", "the key 'common' stands here twice"),
    ("params/smoke.yaml", "{common: 5}", "params/smoke.yaml, common: expected a mapping"),
    ("params/smoke.yaml", "{stages: {first: 3}}", "stage first: expected a mapping"),
    ("params/smoke.yaml", "{leave_out: first}", "`leave_out` must be a list of stages, found 'first'"),
    ("params/smoke.yaml", "{leave_out: [alon]}", "leave_out: unknown stage 'alon'. Did you mean 'alone'"),
    ("params/smoke.yaml", "{leave_out: [first]}", "leaves out first, which second needs"),
    ("params/study.yaml", "{stages: {all: {notebook: first}}}", "and not `all`"),
    ("params/study.yaml", "{stages: {first: {}}}", "`notebook` must name a file"),
    ("params/study.yaml", "{stages: {first: {notebook: first, needs: alone}}}", "`needs` must be a list"),
    ("params/study.yaml", "{stages: {first: {notebook: first, threads: two}}}", "`threads` must be a number"),
    ("params/study.yaml", "{stages: {first: {notebook: frist}}}", "frist.ipynb is not there"),
    ("params/study.yaml", "{stages: {first: {notebook: first, need: [second]}}}", "unknown key 'need'. Did you mean 'needs'"),
    ("params/study.yaml", "{stages: {first: {notebook: first, needs: [first]}}}", "need each other in a circle"),
])
def test_wrong_files_are_refused_before_a_kernel_starts(small_study, file, content, message):
    small_study.write(file, content)
    refused = small_study.command("run", "smoke")
    assert refused.returncode == 2
    assert message in refused.stderr and "Traceback" not in refused.stderr
    assert not small_study.outputs.exists()


def test_a_profile_can_leave_stages_out(small_study):
    small_study.write("params/study.yaml", """
        stages:
          alone: {notebook: alone, claims: [paper.number]}
          second: {notebook: second, needs: [first], after: [alone]}
          first: {notebook: first}
    """)
    small_study.write("params/smoke.yaml", "{leave_out: [alone]}")
    path = small_study.root / "notebooks" / "first.ipynb"
    path.write_text(path.read_text().replace("stage.record('paper.number', number, n=1)", ""))
    run(small_study)
    assert states(small_study) == {"first": "done", "second": "done"}
    assert not (small_study.outputs / "alone").exists()
    report = (small_study.outputs / "report.html").read_text()
    assert "left out" in report and "This profile leaves the stage out." in report
    small_study.write("params/smoke.yaml", "{leave_out: []}")
    assert states(small_study) == {"alone": "will run", "first": "done", "second": "will run"}


def test_a_stage_that_a_parameter_names_is_needed_as_others_are(small_study):
    cells = ["if source: stage.upstream(source)", "stage.number('number', number, what='a number', n=1)", "stage.finish()"]
    small_study.notebook("second", cells, f"{PARAMETERS}    source: str = ''  # a finished stage")
    small_study.write("params/study.yaml", """
        stages:
          second: {notebook: second, needs_named_by: [source]}
          first: {notebook: first, claims: [paper.number]}
    """)
    run(small_study, "second")
    assert states(small_study) == {"second": "done", "first": "will run"}
    run(small_study, "second", "--set", "second.source=first")
    assert set(small_study.record("second")["upstream"]) == {"first"}
    for value, message in (("frist", "parameter source: unknown stage 'frist'. Did you mean 'first'"), ("second", "in a circle")):
        refused = small_study.command("run", "smoke", "--set", f"second.source={value}")
        assert refused.returncode == 2 and message in refused.stderr


def test_a_notebook_without_parameters_cell_is_refused(small_study):
    path = small_study.root / "notebooks" / "first.ipynb"
    path.write_text(path.read_text().replace('"tags": ["parameters"]', '"tags": []'))
    refused = small_study.command("run", "smoke")
    assert refused.returncode == 2 and "has 0 cells tagged `parameters`" in refused.stderr


def test_an_error_in_a_cell_is_told_with_its_place_and_nothing_is_lost(small_study):
    run(small_study)
    kept = (small_study.outputs / "first" / "results.json").read_text()
    failed = small_study.command("run", "smoke", "--set", "first.crash=true", "--keep-going")
    assert failed.returncode == 1
    assert "first failed in cell 4, section “A place to crash”: ValueError: the first stage can not go on" in failed.stderr
    assert "if crash: raise ValueError" in failed.stderr, "the traceback's last lines show the code"
    assert "python -m covidcxr run smoke first --set first.crash=true" in failed.stderr
    assert (small_study.outputs / "first" / "notebook.failed.ipynb").is_file()
    assert states(small_study, "--set", "first.crash=true") == {"first": "failed", "second": "will run", "alone": "done"}
    assert (small_study.outputs / "first" / "results.json").read_text() == kept

    records = small_study.records()
    assert "nothing to do" in run(small_study).stderr, "with the old value the old results are today's again"
    assert states(small_study) == ALL_DONE and small_study.records() == records
    run(small_study, "first", "--force", "first")
    assert not (small_study.outputs / "first" / "notebook.failed.ipynb").exists()


def test_what_runs_over_whatever_has_finished_runs_after_a_failure(small_study):
    study = (small_study.root / "params" / "study.yaml").read_text() + "  last: {notebook: last, after: all}\n"
    small_study.write("params/study.yaml", study)
    small_study.notebook("last", ["stage.finish()"])
    failed = small_study.command("run", "smoke", "--keep-going", "--set", "first.crash=true")
    assert failed.returncode == 1
    assert small_study.record("last")["status"] == "done"
    assert "first runs before it" in small_study.status()["last"], "and again when what failed is mended"
    run(small_study)
    assert states(small_study) == {**ALL_DONE, "last": "done"}


def test_a_killed_kernel_is_told_as_such(small_study):
    small_study.notebook("first", ["## Too much", "os.kill(os.getpid(), signal.SIGKILL)", "stage.record('paper.number', 1, n=1)",
                                   "stage.finish()"])
    failed = small_study.command("run", "smoke", "first")
    assert failed.returncode == 1
    assert "first failed in cell 4, section “Too much”: the kernel died" in failed.stderr
    assert states(small_study)["first"] == "failed"
    assert not (small_study.outputs / "first" / "run.json").exists()


def test_what_libraries_below_python_say_is_kept_aside(small_study):
    small_study.notebook("alone", ["import os", "_ = os.write(2, b'a library notes')", "stage.finish()"])
    done = run(small_study, "alone", "first")
    assert "a library notes" not in done.stdout + done.stderr
    assert "a library notes" in (small_study.outputs / "alone" / "kernel.log").read_text()
    assert not (small_study.outputs / "first" / "kernel.log").exists()


@pytest.mark.parametrize(("cells", "message"), [
    (["stage.finish()"], "claims owed and not recorded: paper.number"),
    (["stage.record('paper.number', 1, n=1)"], "ended without `stage.finish()`"),
    (["stage.record('paper.nubmer', 1, n=1)"], "Did you mean paper.number?"),
])
def test_a_notebook_that_does_not_record_what_it_owes_has_failed(small_study, cells, message):
    small_study.notebook("first", cells)
    failed = small_study.command("run", "smoke", "first")
    assert failed.returncode == 1 and message in failed.stderr
    assert states(small_study)["first"] == "failed"


def test_a_stage_without_data_ends_and_blocks_only_what_needs_it(small_study):
    small_study.write("params/study.yaml", """
        stages:
          first: {notebook: first, claims: [paper.number], datasets: [tables], params: {data: real}}
          second: {notebook: second, needs: [first], params: {data: real}}
          alone: {notebook: alone}
    """)
    (small_study.root / "params" / "datasets.yaml").symlink_to(ROOT / "params" / "datasets.yaml")
    there, away = small_study.data / "tables", small_study.root / "unplugged"
    there.mkdir()
    (there / "covid-severity-scores.csv").write_text("filename,geographic_mean,opacity_mean\na.png,1,2\n")
    run(small_study)
    records = small_study.records()

    there.rename(away)
    done = run(small_study)
    assert "first: no-data" in done.stderr and "second: blocked" in done.stderr
    assert states(small_study) == {"first": "no data", "second": "blocked", "alone": "done"}
    assert "tables" in small_study.status()["first"] and "To get it: " in small_study.status()["first"]
    assert "nothing to do" in run(small_study).stderr, "nothing has changed, nothing is tried again"

    away.rename(there)
    assert "started" not in run(small_study).stderr, "results come back with their data"
    assert states(small_study) == ALL_DONE and small_study.records() == records


def test_a_killed_engine_is_resumed_and_leaves_no_process(small_study):
    small_study.notebook("second", ["time.sleep(600)", "stage.finish()"])
    engine = small_study.start("run", "smoke", "second")
    wait_for((small_study.outputs / ".partial" / "second" / "results.json").exists)
    os.kill(engine.pid, signal.SIGKILL)
    engine.communicate()
    wait_for(lambda: not processes_of(small_study))
    first = small_study.records()["first"]
    assert states(small_study) == {"first": "done", "second": "will run", "alone": "will run"}
    assert "interrupted" in small_study.status()["second"]

    small_study.notebook("second", ["stage.finish()"])
    run(small_study, "second")
    assert states(small_study)["second"] == "done"
    assert small_study.records()["first"] == first, "what was done stays"


def test_a_killed_stage_ends_its_run_and_leaves_no_process(small_study):
    small_study.notebook("first", ["time.sleep(600)"])
    engine = small_study.start("run", "smoke", "first")
    wait_for((small_study.outputs / ".partial" / "first" / "results.json").exists)
    [stage] = [number for number in processes_of(small_study) if "execute" in psutil.Process(number).cmdline()]
    os.kill(stage, signal.SIGKILL)
    text = engine.communicate()[0]
    assert engine.returncode == 1 and "Not every stage has ended" in text and "Traceback" not in text, text
    wait_for(lambda: not processes_of(small_study))
    assert small_study.status()["first"] == "will run  an earlier run was interrupted"


@pytest.mark.parametrize("stop", [
    lambda engine: os.killpg(engine.pid, signal.SIGINT),  # Ctrl-C in a terminal reaches every process of the run
    lambda engine: os.kill(engine.pid, signal.SIGINT),
    lambda engine: os.kill(engine.pid, signal.SIGTERM),  # what a batch system sends
])
def test_a_run_that_is_told_to_end_stops_its_stages_and_can_go_on(small_study, stop):
    small_study.notebook("first", ["time.sleep(600)"])
    engine = small_study.start("run", "smoke", "first")
    wait_for((small_study.outputs / ".partial" / "first" / "results.json").exists)
    stop(engine)
    text = engine.communicate()[0]
    assert engine.returncode == 130 and "Traceback" not in text and "goes on where this one stopped" in text, text
    wait_for(lambda: not processes_of(small_study))
    assert states(small_study)["first"] == "will run"


def test_a_run_in_the_background_of_a_script_can_be_told_to_end(small_study):
    small_study.notebook("first", ["time.sleep(600)"])
    engine = small_study.start("run", "smoke", "first", on_interrupt=signal.SIG_IGN)
    wait_for((small_study.outputs / ".partial" / "first" / "results.json").exists)
    os.kill(engine.pid, signal.SIGTERM)
    text = engine.communicate()[0]
    assert engine.returncode == 130 and "goes on where this one stopped" in text, text
    wait_for(lambda: not processes_of(small_study))
    assert states(small_study)["first"] == "will run"


def test_two_runs_of_one_profile_at_once_are_refused(small_study):
    small_study.notebook("first", ["time.sleep(600)"])
    engine = small_study.start("run", "smoke", "first")
    wait_for((small_study.outputs / ".partial" / "first" / "results.json").exists)
    second = small_study.command("run", "smoke", "alone")
    assert states(small_study)["first"].startswith("running")
    os.killpg(engine.pid, signal.SIGKILL)
    engine.communicate()
    assert second.returncode == 2
    assert f"Profile smoke is being run already by process {engine.pid}" in second.stderr


def test_outputs_that_can_not_be_written_are_named(small_study):
    (small_study.root / "outputs").write_text("a file where a folder should be")
    refused = small_study.command("run", "smoke")
    assert refused.returncode == 2
    assert "Can't write to" in refused.stderr and "COVIDCXR_OUTPUTS" in refused.stderr and "Traceback" not in refused.stderr


def test_a_file_too_large_for_the_disk_fails_its_stage_only(small_study):
    run(small_study, "first")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19))"
    small_study.notebook("alone", [limit, "open(stage.folder / 'large', 'wb').write(bytes(1 << 20))", "stage.finish()"])
    failed = small_study.command("run", "smoke", "alone")
    assert failed.returncode == 1 and "OSError" in failed.stderr and "alone failed" in failed.stderr
    assert states(small_study) == {"first": "done", "second": "will run", "alone": "failed"}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("filled", [150, 290, 300])
def test_a_full_disk_is_told_and_no_stage_is_wrongly_done(small_study, small_disk, filled):
    (small_disk / "filled").write_bytes(bytes(filled << 10))
    (small_study.root / "outputs").symlink_to(small_disk)
    failed = small_study.command("run", "smoke", "alone")
    assert failed.returncode in (1, 2)
    assert "No space left on device" in failed.stderr and "Traceback" not in failed.stderr
    assert states(small_study)["alone"] in ("failed", "will run")
    (small_disk / "filled").unlink()


def test_a_complete_run_that_was_stopped_before_its_last_rename_is_kept(small_study):
    run(small_study, "alone")
    done = small_study.outputs / "alone"
    record = os.stat(done / "run.json").st_ino
    os.replace(done, small_study.outputs / ".partial" / "alone")
    assert states(small_study)["alone"] == "will run"
    run(small_study, "alone")
    assert states(small_study)["alone"] == "done" and os.stat(done / "run.json").st_ino == record
    os.replace(done, small_study.outputs / ".partial" / "alone")
    run(small_study, "alone", "--force", "alone")
    assert os.stat(done / "run.json").st_ino != record, "forced is forced"
    os.replace(done, small_study.outputs / ".partial" / "alone")
    (small_study.outputs / ".partial" / "alone" / "notebook.html").write_text("half a page")
    run(small_study, "alone")
    assert states(small_study)["alone"] == "done" and "half a page" not in (done / "notebook.html").read_text()


def test_checkpoints_stay_for_the_same_attempt_only(small_study):
    look = "print('found:', os.path.exists('checkpoints')); os.makedirs('checkpoints', exist_ok=True)"
    small_study.notebook("alone", [look, "if number < 3: raise ValueError('as asked')", "stage.finish()"])
    seen = []
    for number in ("1", "1", "2"):
        assert small_study.command("run", "smoke", "alone", "--set", f"alone.number={number}").returncode == 1
        seen.append("found: True" in (small_study.outputs / "alone" / "notebook.failed.ipynb").read_text())
    assert seen == [False, True, False]


def test_a_damaged_mark_of_an_attempt_is_that_of_another(small_study):
    small_study.notebook("alone", ["if number < 3: raise ValueError('as asked')", "stage.finish()"])
    assert small_study.command("run", "smoke", "alone").returncode == 1
    (small_study.outputs / ".partial" / "alone" / "attempt.txt").write_bytes(b"\xff\xfe")
    run(small_study, "alone", "--set", "alone.number=3")


def test_a_clock_that_is_set_back_makes_no_stage_end_before_it_began(small_study, monkeypatch):
    small_study.write("sitecustomize.py", """
        import time
        began, clock = time.monotonic(), time.time
        time.time = lambda: clock() - 1e8 * (time.monotonic() - began)
    """)
    monkeypatch.setenv("PYTHONPATH", str(small_study.root))
    run(small_study, "alone")
    assert 0 < small_study.record("alone")["seconds"] < 1e4


def test_a_damaged_record_is_no_record(small_study):
    run(small_study, "alone")
    for content in ("", "{", "[]", '{"status": "don', '{"status": 3}'):
        (small_study.outputs / "alone" / "run.json").write_text(content)
        assert states(small_study)["alone"] == "will run", content
        run(small_study, "alone")
        assert small_study.record("alone")["status"] == "done", content
    assert states(small_study)["alone"] == "done"


WAIT_FOR = """
    from pathlib import Path
    meeting = Path({meeting!r})
    (meeting / {name!r}).touch()
    for _ in range(600):
        if len(list(meeting.iterdir())) == 2:
            break
        time.sleep(0.1)
    else:
        raise TimeoutError("the other stage has not started")
"""


@pytest.fixture
def two_trainings(small_study):
    """`first` and `alone` would use a GPU, and each waits for the other to start."""
    meeting = small_study.root / "meeting"
    meeting.mkdir()
    entries = {name: {"notebook": name, "gpu": True, "threads": 2} for name in ("first", "alone")}
    small_study.write("params/study.yaml", yaml.safe_dump({"stages": entries}))
    for name in ("first", "alone"):
        small_study.notebook(name, [WAIT_FOR.format(meeting=str(meeting), name=name), "stage.finish()"])
    return small_study


@pytest.mark.skipif(bool(execution.gpus()), reason="this machine has a GPU")
def test_trainings_run_side_by_side_without_a_gpu(two_trainings):
    run(two_trainings, "--cores", "2")


def test_trainings_take_turns_on_a_gpu(monkeypatch):
    training = SimpleNamespace(threads=2)
    monkeypatch.setattr(engine, "gpus", lambda: ["a card"])
    assert engine._trainings_at_once() == 1 and engine._cores(training, []) == 2
    monkeypatch.setattr(engine, "gpus", lambda: [])
    assert engine._cores(training, []) == 1 and engine._cores(training, ["--executor", "slurm"]) == 2
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=10 * 2**30))
    assert engine._trainings_at_once() == 2
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=2**30))
    assert engine._trainings_at_once() == 1
