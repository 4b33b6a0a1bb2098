"""Where and when to kill a running study: processes by what they are, moments by what is on the disk."""

import random
import re
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil
from disturbed_study import AT_MOST, DisturbedStudy, content, words_of

MOMENTS = (
    "at any time", "as a stage starts", "as a kernel starts", "as a checkpoint is written", "as a notebook ends",
    "as a record is written", "as a stage is put in place",
)  # fmt: skip
LONGEST_WAIT = 15.0  # seconds from a restart to a kill at any time: about the length of a stage
POLL = 0.001


EXECUTE = re.compile(r"covidcxr execute \S+ (\w+)")


class Target(NamedTuple):
    """A process of a run, the stage that it works for, the processes below it."""

    process: psutil.Process
    stage: str
    below: list[psutil.Process]


class Kill:
    """A process that was killed, the state of its stage, and how long what hung on it went on."""

    def __init__(self, target: str, state: str, stage: str, below: list[psutil.Process]):
        self.target, self.state, self.stage, self.below = target, state, stage, below
        self.seconds = 0.0
        self._watch = threading.Thread(target=self._wait)
        self._watch.start()

    def _wait(self) -> None:
        began = time.monotonic()
        _, self.left = psutil.wait_procs(self.below, AT_MOST)
        self.seconds = time.monotonic() - began

    def wait_until_gone(self) -> float:
        """Wait until all processes below the killed one have gone; how many seconds after the kill that was."""
        self._watch.join()
        assert not self.left, f"still there after {AT_MOST} s: {[words_of(process) for process in self.left]}"
        return self.seconds

    def leads_to(self, word: str, why: str, recorded: bool) -> bool:
        """Whether status says of the stage what this kill, with which the run ended, must lead to.

        Args:
            word, why: what status says, once nothing of the run is left.
            recorded: whether the stage has a completion record, of this run or of an earlier one.
        """
        if self.target == "kernel":
            return word == "failed" and "kernel died" in why.lower()
        if word == "failed":  # what an earlier kill has left, until the stage begins
            return self.state == "starting"
        if recorded:  # it came to its end before it was stopped, or what it found earlier is out of date
            return word in ("done", "will run")
        begun = "an earlier run was interrupted"
        return word == "will run" and (why == begun or self.state == "starting" and why == "it has not run yet")

    def __str__(self) -> str:
        return f"{self.target:6}  {self.stage:22}  {self.state:28}"


@dataclass
class Tally:
    """The kills of a campaign."""

    kills: list[tuple[str, str, str, str]] = field(default_factory=list)  # target, moment, state of the stage, stage
    starts: int = 0
    longest: float = 0.0  # seconds until the last process had gone
    began: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        lines = [
            f"{len(self.kills)} kills in {self.starts} starts, {time.monotonic() - self.began:.0f} s; "
            f"what hung on a killed process was gone after {self.longest:.1f} s at most"
        ]
        for title, column in zip(("target", "moment", "stage was", "stage"), zip(*self.kills, strict=True), strict=True):
            lines += [f"  {title:10} {name:30} {count:4}" for name, count in Counter(column).most_common()]
        return "\n".join(lines)


class Hunt:
    """One run of the study that is to be killed."""

    def __init__(self, study: DisturbedStudy, engine: subprocess.Popen, draw: random.Random):
        self.study, self.engine, self.draw = study, engine, draw
        self.started = self.began = time.time()
        self.there = self._records()
        self.found: dict[str, list[Target]] = {}
        self._survey()

    def _records(self) -> dict[str, int]:
        return {path.parent.name: path.stat().st_ino for path in self.study.folder.glob("*/run.json")}

    def _fresh(self, pattern: str, since: float) -> list[Path]:
        """Files of running stages, written since then."""
        found = []
        for path in self.study.folder.glob(f".partial/{pattern}"):
            try:
                found += [path] if path.stat().st_mtime >= since else []
            except OSError:
                continue
        return found

    def _is(self, moment: str, wait: float) -> bool:
        if moment == "as a stage starts":
            return bool(self._fresh("*/params.yaml", self.began))
        if moment == "as a kernel starts":
            return bool(self._fresh("*/params.yaml", self.began) and self._survey().get("kernel"))
        if moment == "as a checkpoint is written":
            return bool(self._fresh("*/checkpoints/.*aside*", self.began))
        if moment == "as a notebook ends":
            return any(content(path).get("finished") for path in self._fresh("*/results.json", self.began))
        if moment == "as a record is written":
            return bool(self._fresh("*/run.json", self.began))
        if moment == "as a stage is put in place":
            return self._ended() > 0
        return time.time() - self.began >= wait

    def _ended(self) -> int:
        """How many stages were put in place since the wait began."""
        return sum(self.there.get(stage) != number for stage, number in self._records().items())

    def wait_for_progress(self, stages: int) -> bool:
        """Wait until so many stages are done; False when the run has ended before."""
        while len(self.study.done()) < stages:
            if self.engine.poll() is not None:
                return False
            time.sleep(0.05)
        self.began, self.there = time.time(), self._records()
        return self.engine.poll() is None

    def wait_for(self, moment: str) -> bool:
        """Wait for a moment, but not while more than two stages end; False when the run has ended before."""
        wait = self.draw.uniform(0, LONGEST_WAIT)
        while not self._is(moment, wait) and self._ended() < 2:
            if self.engine.poll() is not None:
                return False
            if time.time() - self.surveyed > 0.3:
                self._survey()
            time.sleep(POLL)
        time.sleep(self.draw.choice((0, 0, self.draw.uniform(0, 0.5))))
        return self.engine.poll() is None

    def _survey(self) -> dict[str, list[Target]]:
        """The processes of the run by what they are. It takes longer than a rename, so it is done ahead."""
        self.surveyed = time.time()
        engine = psutil.Process(self.engine.pid)
        try:
            below = [(child, child.ppid(), words_of(child)) for child in engine.children(recursive=True)]
        except psutil.NoSuchProcess:
            return self.found
        names = {child.pid: match[1] for child, _, words in below if (match := EXECUTE.search(words))}
        self.found = {"engine": [Target(engine, next(iter(names.values()), ""), [child for child, _, _ in below])]}
        for child, parent, words in below:
            kind = "kernel" if "ipykernel_launcher" in words else "stage" if child.pid in names else ""
            if kind:
                stage = names.get(parent if kind == "kernel" else child.pid, "")
                hanging = [other for other, its_parent, _ in below if its_parent == child.pid]
                self.found.setdefault(kind, []).append(Target(child, stage, hanging))
        return self.found

    def kill(self) -> Kill | None:
        """Kill one process with SIGKILL; None when the run has ended before."""
        while self.engine.poll() is None:
            kind = self.draw.choice(sorted(self.found))
            target = self.draw.choice(self.found[kind])
            state = self._state(target.stage)
            try:
                target.process.kill()
            except psutil.NoSuchProcess:
                self._survey()
                continue
            return Kill(kind, state, target.stage or "none", target.below)
        return None

    def ends_of(self, kill: Kill) -> bool:
        """Wait until the run has ended of a kill; False when the stage came to its end all the same, and the run goes on."""
        there = self._records().get(kill.stage)
        while self.engine.poll() is None:
            if kill.target == "kernel" and self._records().get(kill.stage) != there:
                self._survey()
                return False
            time.sleep(0.02)
        return True

    def _state(self, stage: str) -> str:
        if not stage:
            return "between stages"
        fresh = {path.name: path for path in self._fresh(f"{stage}/*", self.started)}
        if "run.json" in fresh:
            return "complete, not yet in place"
        if "results.json" in fresh and content(fresh["results.json"]).get("finished"):
            return "at its end, being exported"
        if self._fresh(f"{stage}/checkpoints/*", self.started):
            return "training or after it"
        if "results.json" in fresh:
            return "running its notebook"
        if "params.yaml" in fresh:
            return "starting its kernel"
        return "in place" if self._records().get(stage) != self.there.get(stage) else "starting"
