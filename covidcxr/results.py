"""What a notebook records: claims of the papers, own numbers, tables, figures, and where they came from.

A notebook opens its stage once and records through it; every call rewrites `results.json` atomically, so that a notebook that
dies leaves the record of what it had reached, and `finish()` marks the record as complete.

    stage = results.open_stage("ct_projection", stage_dir, data=data, seed=seed)
    stage.record("ramesh2021.data.ct_total", 4, n=4, n_unit="volumes", comparable=False, why="4 of 241 volumes are here")
    stage.save_figure("modes", fig, caption="…", alt="…", kind="image")
    stage.finish()
"""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from covidcxr import claims, paths
from covidcxr.errors import CovidcxrError, InputError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from covidcxr.datasets.base import Dataset

NAME = re.compile(r"[a-z0-9][a-z0-9_]*")
INTERACTIVE = "interactive"
PARTIAL = ".partial"  # profile folder / .partial / stage: where a running stage writes until it is complete
BY_HAND = ".by_hand"  # profile folder / .by_hand / stage: where a stage that is repeated by hand from params.yaml writes
FALLBACK_PROFILES = ("demo", "smoke")  # where an interactive notebook looks for upstream stages


def open_stage(name: str, stage_dir: str = "", *, data: str, seed: int) -> Stage:
    """Begin the record of a stage; what an earlier, unfinished run recorded in the same folder is removed.

    Args:
        name: the stage's name in `params/study.yaml`.
        stage_dir: folder to write to; empty (a notebook opened by hand): `outputs/interactive/<name>`.
        data: the notebook's `data` parameter: `phantom:<size>`, `real` or a folder.
        seed: the seed behind every number recorded, unless a call says otherwise.
    """
    folder = Path(stage_dir) if stage_dir else paths.outputs_dir() / INTERACTIVE / name
    if read_record(folder).get("status") == "done":
        raise InputError(f"{folder} holds the results of a finished run, which would be lost. Choose another stage_dir.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("figures", "tables"):
            shutil.rmtree(folder / part, ignore_errors=True)
        stage = Stage(name, folder, data, seed)
        stage._write()
    except OSError as error:
        raise InputError(
            f"Stage {name} can't write to {folder}: {error.strerror or error}. Free the disk or choose another folder with "
            "COVIDCXR_OUTPUTS."
        ) from error
    return stage


def data_kind(data: str) -> Literal["phantom", "real"]:
    """Whether a `data` parameter names synthetic images."""
    from covidcxr import datasets

    return "phantom" if datasets.is_phantom(data) else "real"


class Stage:
    """The open record of one stage.

    Attributes:
        name: the stage's name.
        folder: folder to write further files to.
        data: the `data` parameter; `kind` is `phantom` or `real`.
        seed: default seed of the numbers.
        profile_dir: folder that holds the stages of this profile.
    """

    def __init__(self, name: str, folder: Path, data: str, seed: int):
        self.name, self.folder, self.data, self.seed = name, folder, data, seed
        self.kind = data_kind(data)
        self.profile_dir = folder.parent.parent if folder.parent.name in (PARTIAL, BY_HAND) else folder.parent
        self._content: dict[str, Any] = {
            "stage": name, "data": self.kind, "source": data, "seed": seed, "finished": False,
            "claims": [], "numbers": [], "tables": [], "figures": [], "datasets": [], "models": [],
        }

    def upstream(self, name: str) -> Path:
        """Folder of a finished stage of the same profile; in an interactive session, of one run by hand, or of demo or smoke.

        Raises:
            CovidcxrError: it is not finished, or was made from other data; the message says which command mends it.
        """
        candidates = [self.profile_dir / name]
        if self.profile_dir.name == INTERACTIVE:
            candidates += [paths.outputs_dir() / profile / name for profile in FALLBACK_PROFILES]
        finished = {folder: data for folder in candidates if (data := _finished_data(folder))}
        for folder, data in finished.items():
            if data == self.data:
                return folder
        if finished:
            folder, data = next(iter(finished.items()))
            raise CovidcxrError(
                f"Stage {self.name} works on {self.data}, but {folder} was made from {data}. Give both the same `data`."
            )
        profile = FALLBACK_PROFILES[0] if self.profile_dir.name == INTERACTIVE else self.profile_dir.name
        raise CovidcxrError(
            f"Stage {self.name} needs the results of {name}, which has not finished in {self.profile_dir}. "
            f"Run it first: {run_command(profile, name)}"
        )

    def use_dataset(self, name: str) -> Dataset:
        """Open a data set of this stage's data and note its manifest (files, bytes, hash, licence) in the record.

        Raises:
            DataMissing: the set is not there; the message holds the line that gets it.
        """
        from covidcxr import datasets

        dataset = datasets.open(name, self.data)
        self._put("datasets", "name", datasets.manifest(name, self.data))
        return dataset

    def record(
        self,
        claim_id: str,
        value: float | list[float] | None,
        *,
        ci: tuple[float, float] | None = None,
        ci_method: str = "",
        n: int,
        n_unit: str = "images",
        trivial: dict[str, float] | None = None,
        comparable: bool = True,
        why: str = "",
        seeds: list[int] | None = None,
    ) -> None:
        """Set our number beside a number of a paper.

        Args:
            claim_id: an id of `params/claims.yaml`; any other is refused.
            value: our number in the claim's unit (a list where the paper prints a list); None, with a reason in `why`, where none
                can be had.
            ci: 95 % interval, with `ci_method` naming how it was made and what was resampled; (nan, nan) where none can be had.
            n: how many `n_unit` stand behind the number.
            trivial: what trivial predictors score on the same images, by name.
            comparable: False where data or protocol differ from the paper's in a way that forbids a verdict; say why in `why`.
            seeds: the seeds behind the number where there were several.
        """
        claims.load().claim(claim_id)
        if value is None and not why:
            raise InputError(f"Claim {claim_id}: a value of None needs a reason in `why`.")
        if not comparable and not why:
            raise InputError(f"Claim {claim_id}: comparable=False needs a reason in `why`.")
        self._put("claims", "id", {
            "id": claim_id, "value": _number(value, claim_id), "ci": _interval(ci, ci_method, claim_id), "ci_method": ci_method,
            "n": int(n), "n_unit": n_unit, "seeds": list(seeds or [self.seed]), "comparable": comparable, "why": why,
            "trivial": {key: _number(score, claim_id) for key, score in (trivial or {}).items()},
        })

    def record_settings(self, prefix: str, settings: dict[str, Any], why: dict[str, str], otherwise: str) -> pd.DataFrame:
        """Set the settings of this run beside those that a paper prints.

        Args:
            prefix: what the claims' ids begin with, such as "ramesh2021.setting".
            settings: value of each, by the rest of the id; None where there is none here.
            why: reason why a setting differs, by the same name.
            otherwise: reason for all others that differ, such as that the run is scaled down.

        Returns:
            One row per setting: `setting`, `paper`, `here`, `same`.
        """
        import numpy as np
        import pandas as pd

        rows = []
        for name, value in settings.items():
            claim = claims.load().claim(f"{prefix}.{name}")
            value = list(value) if isinstance(value, tuple) else value
            printed = np.asarray(claim.value, dtype=float)
            same = value is not None and np.shape(value) == printed.shape and bool(np.allclose(value, printed))
            self.record(claim.id, value, n=1, n_unit="settings", comparable=same, why="" if same else why.get(name, otherwise))
            rows.append({"setting": name, "paper": _plain(claim.value), "here": _plain(value), "same": "yes" if same else "no"})
        return pd.DataFrame(rows)

    def number(
        self,
        name: str,
        value: float | None,
        *,
        what: str,
        n: int,
        n_unit: str = "images",
        unit: str = "",
        ci: tuple[float, float] | None = None,
        ci_method: str = "",
        seeds: list[int] | None = None,
    ) -> None:
        """Record a number of our own, with its meaning; the papers print no counterpart. Its seeds: as for `record`."""
        self._put("numbers", "name", {
            "name": _name(name), "value": _number(value, name), "ci": _interval(ci, ci_method, name), "ci_method": ci_method,
            "n": int(n), "n_unit": n_unit, "unit": unit, "what": what, "seeds": list(seeds or [self.seed]),
        })

    def record_model(
        self, name: str, *, what: str, parameters: int, start: str, trained_on: str, images: int, history: list[dict[str, float]],
        file: Path, limits: str,
    ) -> None:
        """Record a trained model: its card in the report.

        Args:
            what: architecture and size, in words.
            parameters: how many weights it has.
            start: the weights that training began with.
            trained_on: what it learned from, in words; `images`, how many that are.
            history: of `training.fit_or_load`: epochs and their seconds.
            file: the weights, in the stage's folder.
            limits: what it must not be used for, and what is known of where it fails.
        """
        for text, value in (("what", what), ("start", start), ("trained_on", trained_on), ("limits", limits)):
            if not value.strip():
                raise InputError(f"Model {name}: {text} must say something.")
        if not file.is_relative_to(self.folder) or not file.is_file():
            raise InputError(f"Model {name}: {file} is no file in the stage's folder {self.folder}.")
        self._put("models", "name", {
            "name": _name(name), "what": what, "parameters": int(parameters), "start": start, "trained_on": trained_on,
            "images": int(images), "epochs": len(history), "seconds": round(sum(epoch["seconds"] for epoch in history), 1),
            "seed": self.seed, "file": file.relative_to(self.folder).as_posix(), "bytes": file.stat().st_size, "limits": limits,
        })

    def save_table(self, name: str, table: pd.DataFrame, *, caption: str) -> None:
        """Save a table as CSV under `tables/`."""
        file = f"tables/{_name(name)}.csv"
        paths.write_atomically(self.folder / file, table.to_csv(index=False))
        self._put("tables", "name", {"name": name, "file": file, "caption": caption})

    def save_figure(
        self,
        name: str,
        figure: Figure,
        *,
        caption: str,
        alt: str,
        kind: Literal["chart", "image"] = "chart",
        reproduces: str | None = None,
    ) -> None:
        """Save a figure under `figures/`: charts as SVG, grids of images as PNG.

        Args:
            caption: what to see, one or two sentences.
            alt: what the picture shows, for readers who don't see it.
            reproduces: id of the papers' figure that this one regenerates, as in `params/claims.yaml`.
        """
        from covidcxr import figures

        if not alt.strip() or not caption.strip():
            raise InputError(f"Figure {name}: caption and alt text must both say something.")
        if reproduces is not None:
            claims.load().claim(reproduces)
        suffix: Literal["svg", "png"] = "svg" if kind == "chart" else "png"
        file = f"figures/{_name(name)}.{suffix}"
        about = f"{alt} Stage {self.name}, data {self.data}, seed {self.seed}."
        content = figures.encode(figure, suffix, name, Title=caption, Description=about)
        paths.write_atomically(self.folder / file, content)
        self._put("figures", "name", {
            "name": name, "file": file, "caption": caption, "alt": alt, "kind": kind, "reproduces": reproduces,
        })

    def finish(self) -> None:
        """Mark the record as complete and print what it holds. The last call of every notebook."""
        self._content["finished"] = True
        self._write()
        for entry in self._content["claims"]:
            claim = claims.load().claim(entry["id"])
            print(f"{entry['id']}: paper {_plain(claim.value)}, here {_text(entry)}")
        for entry in self._content["numbers"]:
            print(f"{entry['name']}: {_text(entry)} {entry['unit']}".rstrip())
        print(f"{len(self._content['figures'])} figures and {len(self._content['tables'])} tables in {self.folder}")

    def _put(self, section: str, key: str, entry: dict[str, Any]) -> None:
        """Add an entry, or replace the one of the same key: a cell may be run twice."""
        entries = self._content[section]
        self._content[section] = [old for old in entries if old[key] != entry[key]] + [entry]
        self._content["finished"] = False
        self._write()

    def _write(self) -> None:
        paths.write_atomically(self.folder / "results.json", json.dumps(self._content, indent=1, allow_nan=False) + "\n")


def run_command(profile: str, stage: str, overrides: Iterable[str] = ()) -> str:
    """The command that runs a stage, to be given to a shell.

    Args:
        overrides: texts `stage.name=value`, as after `--set`.
    """
    options = [word for text in overrides for word in ("--set", text)]
    return shlex.join(["python", "-m", "covidcxr", "run", profile, stage, *options])


def read_record(stage_folder: Path, name: str = "run.json") -> dict[str, Any]:
    """The completion record of a stage's folder; empty when there is none or it can't be read."""
    return paths.json_mapping(stage_folder / name)


def _finished_data(folder: Path) -> str | None:
    """The `data` parameter behind a stage's finished results; None where there are none.

    A stage of a profile is finished when its completion record says so; one run by hand when its notebook has reached its end.
    """
    if folder.parent.name != INTERACTIVE:
        record = read_record(folder)
        parameters = record.get("parameters")
        return parameters.get("data") if record.get("status") == "done" and isinstance(parameters, dict) else None
    written = read_record(folder, "results.json")
    return written.get("source") if written.get("finished") is True else None


def _name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} can't name a result: use lower-case letters, digits and underscores.")
    return name


def _number(value: Any, name: str) -> Any:
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return [_number(part, name) for part in value]
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{name}: {value!r} is not a finite number. Record None with a reason where none can be had.")
    return value


def _interval(ci: tuple[float, float] | None, method: str, name: str) -> list[float | int | None] | None:
    if ci is None:
        return None
    if all(end is not None and math.isnan(end) for end in ci):
        return None
    low, high = (_number(end, name) for end in ci)
    if low is None or high is None or low > high:
        raise InputError(f"{name}: interval {ci} must be (low, high) with low <= high.")
    if not method:
        raise InputError(f"{name}: an interval needs `ci_method`, which says how it was made and what was resampled.")
    return [low, high]


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return "–" if value is None else f"{value:.4g}"


def _text(entry: dict[str, Any]) -> str:
    value = _plain(entry["value"])
    interval = f" [{entry['ci'][0]:.4g}, {entry['ci'][1]:.4g}]" if entry["ci"] else ""
    return f"{value}{interval} (n = {entry['n']} {entry['n_unit']})"
