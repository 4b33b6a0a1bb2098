"""A study of its own, run by the real command, to be killed and damaged; and what must hold of it whatever has happened."""

import hashlib
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import psutil
from conftest import ROOT

STATES = re.compile(r"(?P<stage>\w+) +(?P<word>done|will run|no data|blocked|failed|running) *(?P<why>.*)")
OF_THE_MACHINE = re.compile(r"second|_mb$|^peak")  # columns that another run measures anew
AT_MOST = 60  # seconds in which processes must be gone; only keeps a broken study from hanging the tests
LONGEST_COMMAND = 3600  # seconds; likewise. A whole study takes minutes


def make_home(home: Path, cohort: Path) -> Path:
    """A copy of the package, its notebooks, its parameters and a phantom cohort: what is done to them is done to nobody else."""
    for name in ("covidcxr", "notebooks", "params"):
        shutil.copytree(ROOT / name, home / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    shutil.copy(ROOT / "Snakefile", home)
    shutil.copytree(cohort, home / "cache" / "phantom" / cohort.name)
    for name in ("tmp", "logs"):
        (home / name).mkdir()
    return home


class Command(subprocess.Popen):
    """A command that is running, or has ended; what it says goes to a file.

    Whoever waits for its end or asks for it fails when it takes longer than LONGEST_COMMAND. It is then killed, with all that it
    has started.
    """

    def __init__(self, log: Path, words: list[str], **options: Any):
        self.log = log
        self.until = time.monotonic() + LONGEST_COMMAND
        with open(log, "wb") as said:
            super().__init__(words, stdout=said, stderr=subprocess.STDOUT, **options)

    def poll(self) -> int | None:
        code = super().poll()
        if code is None and time.monotonic() > self.until:
            self._hangs()
        return code

    def wait(self, timeout: float | None = None) -> int:
        try:
            return super().wait(max(0.0, self.until - time.monotonic()) if timeout is None else timeout)
        except subprocess.TimeoutExpired:
            self._hangs()

    def _hangs(self) -> NoReturn:
        self.until = math.inf
        process = psutil.Process(self.pid)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        super().wait()
        raise AssertionError(f"{' '.join(self.args)} hangs; it said:\n{self.said()}")

    def said(self) -> str:
        return self.log.read_text(errors="replace")


class DisturbedStudy:
    """A profile of the copy in `home` with a folder of outputs of its own."""

    def __init__(self, home: Path, outputs: Path, profile: str = "smoke"):
        self.home, self.outputs, self.profile = home, outputs, profile
        self.folder, self.count = outputs / profile, 0
        outputs.mkdir(parents=True, exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("COVIDCXR_", "PYTEST_"))}
        own = {"COVIDCXR_HOME": self.home, "COVIDCXR_OUTPUTS": self.outputs, "COVIDCXR_CACHE": self.home / "cache"}
        own |= {"PYTHONPATH": self.home, "TMPDIR": self.home / "tmp"}
        return kept | {name: str(path) for name, path in own.items()}

    def start(self, *words: str, environment: dict[str, str] | None = None, **options: Any) -> Command:
        """Start `python -m covidcxr WORD PROFILE …` and leave it running."""
        self.count += 1
        command = [sys.executable, "-m", "covidcxr", words[0], self.profile, *words[1:]]
        log = self.home / "logs" / f"{self.outputs.name}_{self.profile}_{self.count:03}_{words[0]}.txt"
        return Command(log, command, env=self.environment | (environment or {}), cwd=self.home, **options)

    def command(self, *words: str, **options: Any) -> tuple[int, str]:
        """Run a command to its end; its exit code and all that it said."""
        command = self.start(*words, **options)
        return command.wait(), command.said()

    def run(self, *words: str, **options: Any) -> str:
        """Run the profile, which must end well."""
        code, said = self.command("run", *words, **options)
        assert code == 0, said
        return said

    def processes(self) -> list[psutil.Process]:
        """All processes that work for this study: they have its folder of outputs in their environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("COVIDCXR_OUTPUTS") == str(self.outputs):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def wait_until_quiet(self) -> float:
        """Wait until no process of the study is left; how many seconds that took."""
        began = time.monotonic()
        while left := self.processes():
            seconds = time.monotonic() - began
            assert seconds < AT_MOST, f"still there after {seconds:.0f} s: {[words_of(process) for process in left]}"
            time.sleep(0.05)
        return time.monotonic() - began

    def states(self) -> dict[str, tuple[str, str]]:
        """(state, why) of each stage by the status command, which must explain every one."""
        code, said = self.command("status")
        assert code == 0 and "Traceback" not in said, said
        found = {}
        for line in said.splitlines():
            state = STATES.fullmatch(line)
            assert state and state["why"], f"status says {line!r}"
            found[state["stage"]] = (state["word"], state["why"])
        return found

    def record(self, stage: str) -> dict[str, Any]:
        return content(self.folder / stage / "run.json")

    def done(self, where: str = ".") -> set[str]:
        """Stages whose record says that they are done; with `.partial`, those that wait there to be put in place."""
        records = (self.folder / where).glob("*/run.json")
        return {path.parent.name for path in records if content(path).get("status") == "done"}

    def look(self, reference: Mapping[str, Any], damaged: Collection[str] = ()) -> dict[str, tuple[str, str]]:
        """The states of the stages.

        Every stage whose record says done must be complete, with the numbers of the reference; but of stages whose files were
        damaged by hand only that status does not call them done.
        """
        states = self.states()
        called_done = {stage for stage, (word, _) in states.items() if word == "done"}
        assert called_done <= self.done() - set(damaged), states
        for stage in self.done() - set(damaged):
            check_complete(self.folder / stage)
            found = outcome(self.folder / stage)
            other = {part: (reference[stage][part], value) for part, value in found.items() if value != reference[stage][part]}
            assert not other, f"{stage} is not as in the undisturbed run: {other}"
        return states

    def must_equal(self, reference: Mapping[str, Any], *stages: str) -> None:
        """Every stage, or every one of these, is done with the numbers of the reference, and a further run does nothing."""
        states = self.look(reference)
        assert {states[stage][0] for stage in stages or reference} == {"done"}, states
        assert "nothing to do" in self.run(*stages)


def words_of(process: psutil.Process) -> str:
    """A process' command line; empty when it has gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def content(path: Path) -> dict[str, Any]:
    """A JSON file's mapping; empty when it can't be read or is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def check_complete(folder: Path) -> None:
    """The results of a stage that is called done are whole: the record's hashes, the end of the notebook, all files."""
    recorded = content(folder / "run.json")["files"]
    for name, entry in recorded.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert found == entry["sha256"], f"{folder} is done with another {name}"
    written = json.loads((folder / "results.json").read_bytes())
    assert written["finished"] is True, f"{folder} is done without its notebook's end"
    files = {"results.json", "notebook.html", "params.yaml", *(entry["file"] for entry in files_of(written))}
    assert files <= recorded.keys(), f"{folder} is done without a hash of {files - recorded.keys()}"
    for name in ("notebook.ipynb", *files):
        assert (folder / name).stat().st_size > 0, f"{folder} is done with an empty {name}"
    assert (folder / "notebook.html").read_text().rstrip().endswith("</html>"), f"{folder} is done with half a page"
    json.loads((folder / "notebook.ipynb").read_text())


def files_of(written: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for part in ("tables", "figures", "models"):
        yield from written[part]


def outcome(folder: Path) -> dict[str, Any]:
    """What a stage has found, without what it measured of the machine (`is_of_the_machine`, `OF_THE_MACHINE`)."""
    import pandas as pd

    written = content(folder / "results.json")
    tables = {}
    for entry in written["tables"]:
        table = pd.read_csv(io.BytesIO((folder / entry["file"]).read_bytes()))
        tables[entry["name"]] = table[[name for name in table if not OF_THE_MACHINE.search(name)]].to_csv(index=False)
    return {
        "numbers": [entry for entry in written["numbers"] if not is_of_the_machine(entry)],
        "models": [{key: value for key, value in entry.items() if key != "seconds"} for entry in written["models"]],
        "datasets": [{key: value for key, value in entry.items() if key != "root"} for entry in written["datasets"]],
        "tables": tables,
        **{part: written[part] for part in ("stage", "source", "seed", "claims", "figures")},
    }


def is_of_the_machine(number: dict[str, Any]) -> bool:
    """Whether a number is a measured time: in seconds or per second by its unit, or a ratio of times by its own words."""
    return bool(re.search(r"(^|/ ?)s$", number["unit"]) or re.match(r"(seconds|time) ", number["what"]))
