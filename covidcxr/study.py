"""The study as a plan: stages with resolved parameters, what each depends on, what state each is in.

    plan = Plan.load("demo", ["ct_projection.mode=mean"])
    for stage in plan.stages:
        print(stage.name, plan.state(stage))

Values are resolved in the order: notebook default < `params/study.yaml` < profile < `--set`. Names and types are checked here,
before any kernel starts. Whether a stage has to run is decided here too, by comparing the fingerprints in its completion record
`run.json` with those of today, and the files named there with those in its folder; Snakemake then takes care of order, parallel
runs and clusters.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from covidcxr import claims, fingerprint, paths, result_files
from covidcxr.arithmetic import is_number
from covidcxr.errors import DataMissing, InputError, ParameterError
from covidcxr.parameters import Parameter, check_names, read_parameters
from covidcxr.results import PARTIAL, read_record

PROFILES = ("smoke", "demo", "pilot", "paper")
STAGE_KEYS = {
    "notebook", "needs", "needs_named_by", "after", "params", "datasets", "optional_datasets", "threads", "gpu", "files",
    "claims",
}  # fmt: skip
PROFILE_KEYS = {"title", "description", "data", "common", "stages", "leave_out", "minutes"}
RUNNER_PARAMETERS = {"stage_dir"}  # set by the runner, no part of a stage's identity
STAGE_NAME = re.compile(r"[a-z][a-z0-9_]*")
ENDED = ("done", "no-data", "blocked")


@dataclass(frozen=True)
class Stage:
    """A notebook with resolved parameters."""

    name: str
    notebook: Path
    parameters: dict[str, Any]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    optional_datasets: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    claims: tuple[str, ...] = ()
    threads: int = 1
    gpu: bool = False

    @property
    def data(self) -> str:
        return self.parameters.get("data", "")

    @property
    def phantom_size(self) -> str:
        """Size of the phantom cohort that it works on; empty for other data."""
        return self.data.removeprefix("phantom:") if self.data.startswith("phantom:") else ""

    @property
    def before(self) -> tuple[str, ...]:
        """Stages that must have ended before this one starts."""
        return tuple(dict.fromkeys(self.needs + self.after))


@dataclass(frozen=True)
class State:
    """What a stage is at the moment and why.

    `will run` covers never run, out of date and interrupted; `why` says which.
    """

    word: Literal["done", "will run", "no data", "blocked", "failed", "running"]
    why: str = ""

    @property
    def stale(self) -> bool:
        return self.word in ("will run", "failed", "running")


@dataclass
class Plan:
    """The stages of one profile, in an order in which each comes after what it needs."""

    profile: str
    title: str
    stages: list[Stage]
    overrides: tuple[str, ...] = ()
    minutes: dict[str, float] = field(default_factory=dict)
    """How long each stage may take, by the profile's own estimate."""
    _states: dict[str, State] = field(default_factory=dict, repr=False)
    _manifests: dict[tuple[str, str], str | None] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, profile: str, overrides: Sequence[str] = ()) -> Plan:
        """Read `params/study.yaml` and the profile, and resolve and check every parameter.

        Args:
            overrides: texts `stage.name=value`.

        Raises:
            ParameterError: an unknown profile, stage, key or parameter; a value of the wrong type; a notebook without a
                parameters cell; stages that need each other in a circle.
        """
        check_names([profile], available_profiles(), "profile", "params/")
        study = read_mapping(paths.params_dir() / "study.yaml", {"stages"})
        settings = read_mapping(paths.params_dir() / f"{profile}.yaml", PROFILE_KEYS)
        schemas: dict[str, dict[str, Parameter]] = {}
        values: dict[str, dict[str, Any]] = {}
        entries = _mapping(study.get("stages") or {}, "params/study.yaml, stages")
        left_out = _left_out(settings, list(entries), f"params/{profile}.yaml")
        for name, entry in entries.items():
            where = f"params/study.yaml, stage {name}"
            _check_entry(name, entry, where)
            schemas[name] = read_parameters(paths.notebooks_dir() / f"{entry['notebook']}.ipynb")
            values[name] = {key: parameter.default for key, parameter in schemas[name].items()}
            _set(values[name], schemas[name], entry.get("params") or {}, where)
        _apply_profile(values, schemas, settings, f"params/{profile}.yaml")
        _apply_overrides(values, schemas, overrides)
        stages = [_stage(name, entry, values[name], list(entries)) for name, entry in entries.items()]
        stages = [_without(stage, left_out, profile) for stage in stages if stage.name not in left_out]
        for stage in stages:
            claims.load().owed(stage.claims)  # refuses an id that no paper has
        minutes = _minutes(settings, list(entries), f"params/{profile}.yaml")
        return cls(profile, settings.get("title", profile), _in_order(stages), tuple(overrides), minutes)

    @property
    def folder(self) -> Path:
        return paths.outputs_dir() / self.profile

    def again(self) -> Plan:
        """The same plan, which looks anew at what has been done."""
        return Plan(self.profile, self.title, self.stages, self.overrides, self.minutes)

    def stage(self, name: str) -> Stage:
        """The stage of that name.

        Raises:
            ParameterError: there is none; the message lists them.
        """
        check_names([name], [stage.name for stage in self.stages], "stage", f"profile {self.profile}")
        return next(stage for stage in self.stages if stage.name == name)

    def with_needs(self, names: Iterable[str]) -> list[Stage]:
        """The named stages and all they need, in order; all stages for no name."""
        wanted = set(names) or {stage.name for stage in self.stages}
        for name in wanted:
            self.stage(name)
        for stage in reversed(self.stages):
            if stage.name in wanted:
                wanted |= set(stage.before)
        return [stage for stage in self.stages if stage.name in wanted]

    def overrides_of(self, stage: Stage) -> list[str]:
        """The `--set` texts behind a stage: its own and those of the stages before it."""
        concerned = {one.name for one in self.with_needs([stage.name])}
        return [text for text in self.overrides if text.partition(".")[0] in concerned]

    def fingerprint(self, stage: Stage) -> dict[str, Any]:
        """Hashes of what the stage's results depend on, besides the stages before it."""
        adapters = [f"covidcxr.datasets.{name}" for name in stage.datasets + stage.optional_datasets]
        identity = {key: value for key, value in stage.parameters.items() if key not in RUNNER_PARAMETERS}
        return {
            "code": fingerprint.code_parts(stage.notebook, adapters),
            # The hash of a syntax tree differs between versions of Python.
            "python": ".".join(platform.python_version_tuple()[:2]),
            "parameters": identity,
            "data": self._data_fingerprint(stage),
            "files": {str(path.relative_to(paths.project_root())): fingerprint.file_digest(path) for path in stage.files},
            "claims": sorted(stage.claims),
            "backend": fingerprint.keras_backend() if stage.gpu else None,  # other stages have no networks
        }

    def upstream(self, stage: Stage) -> dict[str, str | None]:
        """Hash of the completion record of each stage before this one."""
        return {name: fingerprint.file_digest(self.folder / name / "run.json") for name in stage.before}

    def missing_data(self, stage: Stage) -> list[DataMissing]:
        """The required data sets of a stage that are not there."""
        from covidcxr import datasets

        missing = []
        for name in stage.datasets:
            try:
                datasets.open(name, stage.data)
            except DataMissing as error:
                missing.append(error)
        return missing

    def state(self, stage: Stage) -> State:
        """The state of a stage and why it is so."""
        if stage.name not in self._states:
            self._states[stage.name] = self._find_state(stage)
        return self._states[stage.name]

    def _find_state(self, stage: Stage) -> State:
        record = read_record(self.folder / stage.name)
        holder = paths.lock_holder(self.folder / PARTIAL / f"{stage.name}.lock")
        if holder:
            return State("running", holder)
        if record.get("status") not in ENDED:
            return self._unfinished(stage)
        upstream = _part(record, "upstream")
        reasons = _differences(_part(record, "fingerprint"), self.fingerprint(stage))
        if record["status"] == "done" and (damage := result_files.damage_of(self.folder / stage.name, record)):
            reasons.append(damage)
        for name in stage.before:
            if self.state(self.stage(name)).stale:
                reasons.append(f"{name} runs before it")
            elif upstream.get(name) != self.upstream(stage)[name]:
                reasons.append(f"{name} has run since")
        if set(upstream) != set(stage.before):
            reasons.append("the stages before it are others now")
        if reasons:
            return self._failed(stage) or State("will run", "; ".join(reasons))
        if record["status"] == "done":
            seconds = record.get("seconds")
            took = f"{seconds:.0f} s" if is_number(seconds) else "some time"
            return State("done", f"{took} on {str(record.get('started', ''))[:10]}")
        word: Literal["no data", "blocked"] = "no data" if record["status"] == "no-data" else "blocked"
        return State(word, " ".join(str(text) for text in (record.get("why"), record.get("how")) if text))

    def _failed(self, stage: Stage) -> State | None:
        """The last run's failure, where there was one."""
        try:
            failure = paths.parse_json((self.folder / stage.name / "failure.json").read_bytes())
            place = failure["heading"] or failure["cell"]
            return State("failed", f"in {place}: {failure['error']}" if place else failure["error"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return State("will run", "its record of failure can't be read")

    def _unfinished(self, stage: Stage) -> State:
        failed = self._failed(stage)
        if failed:
            return failed
        if (self.folder / stage.name / "run.json").exists():
            return State("will run", "its record run.json can't be read")
        if (self.folder / PARTIAL / stage.name).exists():
            return State("will run", "an earlier run was interrupted")
        return State("will run", "it has not run yet")

    def _data_fingerprint(self, stage: Stage) -> dict[str, str | None]:
        """Hash of each data set; for a phantom that of its generator, so that a plan needs no images."""
        from covidcxr import datasets

        names = stage.datasets + stage.optional_datasets
        if stage.phantom_size:
            from covidcxr import phantom

            size = stage.phantom_size
            check_names([size], list(phantom.SIZES), "phantom cohort", f"{stage.name}.data")
            return {"phantom": phantom.fingerprint(phantom.SIZES[size])} if names else {}
        found: dict[str, str | None] = {}
        for name in names:
            key = (name, stage.data)
            if key not in self._manifests:
                try:
                    self._manifests[key] = datasets.manifest(name, stage.data)["sha256"]
                except DataMissing:
                    self._manifests[key] = None
            found[name] = self._manifests[key]
        return found


def available_profiles() -> list[str]:
    """Names of the profiles in `params/`: those of the kit, then a user's own (every other file but the study's own lists)."""
    own = [
        path.stem for path in sorted(paths.params_dir().glob("*.yaml"))
        if path.stem not in PROFILES + ("study", "claims", "claim_checklist", "datasets", "weights")
    ]
    return [name for name in PROFILES if (paths.params_dir() / f"{name}.yaml").is_file()] + own


def describe_profiles() -> dict[str, str]:
    """One line about each profile; for one that can't be read, why not."""
    lines = {}
    for name in available_profiles():
        try:
            settings = read_mapping(paths.params_dir() / f"{name}.yaml", PROFILE_KEYS)
            lines[name] = str(settings.get("description", "no description"))
        except ParameterError as error:
            lines[name] = str(error)
    return lines


def read_mapping(path: Path, keys: set[str]) -> dict[str, Any]:
    """A YAML file that must hold a mapping with these keys only.

    Raises:
        ParameterError: it can't be read, is no mapping, or has an unknown key.
    """
    try:
        content = paths.read_yaml(path)
    except InputError as error:
        raise ParameterError(str(error)) from None
    if not isinstance(content, dict):
        raise ParameterError(f"{path} must hold a mapping with the keys {', '.join(sorted(keys))}.")
    check_names(content, sorted(keys), "key", path.name)
    return content


def _mapping(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ParameterError(f"{where}: expected a mapping `name: value`, found {content!r}.")
    return content


def _check_entry(name: Any, entry: Any, where: str) -> None:
    """Refuse an entry of `stages:` that is not in the form of `params/study.yaml`."""
    if not STAGE_NAME.fullmatch(str(name)) or name == "all":
        raise ParameterError(f"{where}: a stage's name is lower-case letters, digits and underscores, and not `all`.")
    check_names(_mapping(entry, where), sorted(STAGE_KEYS), "key", where)
    if not isinstance(entry.get("notebook"), str) or Path(entry["notebook"]).name != entry["notebook"]:
        raise ParameterError(f"{where}: `notebook` must name a file in notebooks/, without .ipynb.")
    for key in ("needs", "needs_named_by", "datasets", "optional_datasets", "files", "claims"):
        if not _is_list_of_names(entry.get(key) or []):
            raise ParameterError(f"{where}: `{key}` must be a list of names, found {entry[key]!r}.")
    for file in entry.get("files") or ():
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise ParameterError(f"{where}: `files` are paths inside the project, found {file!r}.")
    if entry.get("after") not in (None, "all") and not _is_list_of_names(entry["after"]):
        raise ParameterError(f"{where}: `after` must be a list of stages or `all`, found {entry['after']!r}.")
    if type(entry.get("threads", 1)) is not int or entry.get("threads", 1) < 1 or type(entry.get("gpu", False)) is not bool:
        raise ParameterError(f"{where}: `threads` must be a number and `gpu` true or false.")


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _set(values: dict[str, Any], schema: dict[str, Parameter], given: Any, where: str) -> None:
    check_names(_mapping(given, where), sorted(set(schema) - RUNNER_PARAMETERS), "parameter", where)
    for key, value in given.items():
        values[key] = schema[key].check(value, where)


def _apply_profile(
    values: dict[str, dict[str, Any]], schemas: dict[str, dict[str, Parameter]], settings: dict[str, Any], where: str
) -> None:
    common = dict(_mapping(settings.get("common") or {}, f"{where}, common"))
    if "data" in settings:
        common["data"] = settings["data"]
    known = {key for schema in schemas.values() for key in schema} - RUNNER_PARAMETERS
    check_names(common, sorted(known), "common parameter", where)
    for name, schema in schemas.items():
        _set(values[name], schema, {key: value for key, value in common.items() if key in schema}, where)
    own = _mapping(settings.get("stages") or {}, f"{where}, stages")
    check_names(own, list(schemas), "stage", where)
    for name, given in own.items():
        _set(values[name], schemas[name], given or {}, f"{where}, stage {name}")


def _apply_overrides(
    values: dict[str, dict[str, Any]], schemas: dict[str, dict[str, Parameter]], overrides: Sequence[str]
) -> None:
    for text in overrides:
        target, equals, value = text.partition("=")
        stage, dot, key = target.partition(".")
        where = f"--set {text}"
        if not (equals and dot and stage and key):
            raise ParameterError(f"{where}: expected stage.name=value.")
        check_names([stage], list(schemas), "stage", where)
        check_names([key], sorted(set(schemas[stage]) - RUNNER_PARAMETERS), "parameter", where)
        values[stage][key] = schemas[stage][key].parse(value, where)


def _stage(name: str, entry: dict[str, Any], parameters: dict[str, Any], all_names: list[str]) -> Stage:
    where = f"params/study.yaml, stage {name}"
    needs = tuple(dict.fromkeys([*(entry.get("needs") or ()), *_named(entry, parameters, all_names, where)]))
    after = entry.get("after") or ()
    after = tuple(other for other in all_names if other != name) if after == "all" else tuple(after)
    check_names(needs + after, all_names, "stage", where)
    return Stage(
        name=name,
        notebook=paths.notebooks_dir() / f"{entry['notebook']}.ipynb",
        parameters=parameters,
        needs=needs,
        after=after,
        datasets=tuple(entry.get("datasets") or ()),
        optional_datasets=tuple(entry.get("optional_datasets") or ()),
        files=tuple(paths.project_root() / file for file in entry.get("files") or ()),
        claims=tuple(entry.get("claims") or ()),
        threads=entry.get("threads", 1),
        gpu=entry.get("gpu", False),
    )


def _named(entry: dict[str, Any], parameters: dict[str, Any], all_names: list[str], where: str) -> list[str]:
    """The stages that a stage's own parameters name; an empty one names none."""
    keys = entry.get("needs_named_by") or []
    check_names(keys, sorted(parameters), "parameter", where)
    for key in keys:
        check_names([parameters[key]] if parameters[key] else [], all_names, "stage", f"{where}, parameter {key}")
    return [parameters[key] for key in keys if parameters[key]]


def _left_out(settings: dict[str, Any], names: list[str], where: str) -> set[str]:
    """The stages that a profile does without."""
    listed = settings.get("leave_out") or []
    if not isinstance(listed, list):
        raise ParameterError(f"{where}: `leave_out` must be a list of stages, found {listed!r}.")
    check_names(listed, names, "stage", f"{where}, leave_out")
    return set(listed)


def _minutes(settings: dict[str, Any], names: list[str], where: str) -> dict[str, float]:
    """The estimates of a profile."""
    given = _mapping(settings.get("minutes") or {}, f"{where}, minutes")
    check_names(given, names, "stage", f"{where}, minutes")
    for name, value in given.items():
        if not is_number(value) or value < 0:
            raise ParameterError(f"{where}, minutes: {name} must be a number of minutes, found {value!r}.")
    return given


def _without(stage: Stage, left_out: set[str], profile: str) -> Stage:
    """The stage in a profile that leaves some of the others out."""
    missing = [name for name in stage.needs if name in left_out]
    if missing:
        raise ParameterError(
            f"params/{profile}.yaml leaves out {', '.join(missing)}, which {stage.name} needs. Leave that out too, or neither."
        )
    return replace(stage, after=tuple(name for name in stage.after if name not in left_out))


def _in_order(stages: list[Stage]) -> list[Stage]:
    """Stages sorted so that each comes after those before it; otherwise in the file's order."""
    ordered: list[Stage] = []
    waiting = list(stages)
    while waiting:
        ready = [stage for stage in waiting if set(stage.before) <= {other.name for other in ordered}]
        if not ready:
            raise ParameterError(f"params/study.yaml: stages need each other in a circle: {', '.join(s.name for s in waiting)}.")
        ordered.append(ready[0])
        waiting.remove(ready[0])
    return ordered


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two fingerprints, in words."""
    reasons = []
    for part, label in (("code", "code changed"), ("files", "file changed"), ("data", "data changed")):
        changed = _changed_keys(_part(then, part), now[part])
        if changed:
            reasons.append(f"{label}: {', '.join(changed)}")
    if then.get("python") != now["python"]:
        reasons.append(f"Python {then.get('python')} → {now['python']}")
    if then.get("claims") != now["claims"]:
        reasons.append("it owes other claims")
    if then.get("backend") != now["backend"]:
        reasons.append(f"the backend has changed from {then.get('backend') or 'none'} to {now['backend'] or 'none'}")
    before, after = _part(then, "parameters"), now["parameters"]
    for key in _changed_keys(before, after):
        reasons.append(f"parameter {key}: {before.get(key)!r} → {after.get(key)!r}")
    return reasons


def _part(record: dict[str, Any], name: str) -> dict[str, Any]:
    """A mapping within a record; empty where there is none, as in a damaged record."""
    part = record.get(name)
    return part if isinstance(part, dict) else {}


def _changed_keys(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return sorted(key for key in then.keys() | now.keys() if then.get(key) != now.get(key) or (key in then) != (key in now))
