"""The registry of data sets: where they come from, how they lie on disk, how they are read and checked.

    from covidcxr import datasets
    cxr = datasets.open("general_blockchain_cxr", "real")
    table = cxr.cases()                       # one row per image; columns: covidcxr.datasets.base.COLUMNS
    image = cxr.image(table.case[0])          # float32 (H, W) in [0, 1]
    lesion = cxr.mask(table.case[0], "lesion")
    print(cxr.verify())

Each set has one module of its own name here, and one entry in `params/datasets.yaml`. `data` is everywhere the same word:
"phantom:demo" or "phantom:smoke" (the embedded cohort), "real" ($COVIDCXR_DATA, else `data/` of the project), or the path of
a folder that holds one folder per set.
"""

import functools
from importlib import import_module
from pathlib import Path
from typing import Literal, TypedDict

from covidcxr import entries, paths
from covidcxr.errors import DataMissing, InputError, ParameterError, did_you_mean

# name of the set (= its folder, its module and its entry in params/datasets.yaml) -> class in that module
CLASSES = {
    "general_blockchain_cxr": "GeneralBlockchainCXR",
    "covid19_ct_seg": "COVID19CTSeg",
    "mosmeddata": "MosMedData",
    "covid_19_20": "COVID1920",
    "medseg_nr2_volumes": "MedSegVolumes",
    "v7_cxr": "V7CXR",
    "rural_covid_cxr": "RuralCovidCXR",
    "cohen_cxr": "CohenCXR",
    "cvt_ct_labels": "CVTLabels",
    "covid19ct20_slices256": "CT20Slices",
    "cc_ccii": "CCCCII",
    "tables": "OutcomeTables",
    "folder": "UserFolder",
}
NAMES = tuple(CLASSES)
PHANTOM_PREFIX = "phantom:"
COHORT_TABLE = "cohort.csv"  # in the folder of every phantom cohort, and of nothing else


def check_name(name: str) -> str:
    """`name`, if it is a data set; else ParameterError with the nearest name."""
    if name not in CLASSES:
        raise ParameterError(f"No data set is called {name!r}.{did_you_mean(name, NAMES)} There are: {', '.join(NAMES)}.")
    return name


def names_cohort(data: str | Path) -> bool:
    """Whether `data` names a phantom cohort, "phantom:<size>"."""
    return isinstance(data, str) and (data == "phantom" or data.startswith(PHANTOM_PREFIX))


def is_phantom(data: str | Path) -> bool:
    """Whether `data` are synthetic: a phantom cohort by name, or a folder that holds one, also as the folder of real data."""
    if names_cohort(data):
        return True
    folder = paths.data_dir() if data == "real" else Path(data).expanduser()
    return (folder / COHORT_TABLE).is_file()


def data_root(data: str | Path) -> Path:
    """Folder that holds one folder per data set.

    Raises:
        ParameterError: an unknown phantom size, or a path that is not a folder.
    """
    if names_cohort(data):
        from covidcxr import phantom

        size = str(data).partition(":")[2]
        if size not in phantom.SIZES:
            cohorts = [PHANTOM_PREFIX + known for known in phantom.SIZES]
            hint = did_you_mean(data, cohorts)
            raise ParameterError(f"No phantom cohort is called {data!r}.{hint} There are: {', '.join(cohorts)}.")
        return phantom.ensure_cohort(size)
    if data == "real":
        return paths.data_dir()
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise ParameterError(
            f"data is {str(data)!r}: neither 'real', nor 'phantom:<size>', nor an existing folder. A folder given here holds "
            f"one folder per data set ({', '.join(NAMES[:3])}, …)."
        )
    return folder.resolve()


class Archive(TypedDict):
    """A file to be downloaded; `unpack_to` is the folder of the set that takes its content."""

    url: str
    sha256: str
    unpack_to: str


class Facts(TypedDict):
    """What params/datasets.yaml says of a set.

    `how` is the one line that gets it, `steps` are all of them; `layout` is what the folder holds; `expected` are counts of the
    complete set, by what is counted.
    """

    title: str
    source: str
    licence: str
    citation: str
    needed_by: list[str]
    access: Literal["open", "manual", "registration", "own"]
    how: str
    steps: list[str]
    layout: list[str]
    files: list[Archive]
    expected: dict[str, int]


def facts(name: str) -> Facts:
    """The entry of a set in params/datasets.yaml.

    Raises:
        InputError: the file can't be read, or an entry is not in its form.
    """
    return _all_facts(paths.params_dir() / "datasets.yaml")[check_name(name)]


@functools.cache
def _all_facts(path: Path) -> dict[str, Facts]:
    content = paths.read_yaml(path)
    found = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise InputError(f"{path}: a mapping `datasets` with the facts about them is expected. Restore it from the project.")
    missing = sorted(set(NAMES) - set(found))
    if missing:
        raise InputError(f"{path}: no entry for {', '.join(missing)}")
    for name in NAMES:
        entries.check(Facts, found[name], f"{path}, {name}")
    return found


def set_folder(name: str, data: str | Path) -> Path:
    """Where the set lies, or would lie, under `data`.

    The set `folder` may also be given directly: the path itself is the set when it holds images/, volumes/ or cases.csv.
    """
    root = data_root(data)
    if check_name(name) == "folder" and any((root / part).exists() for part in ("images", "volumes", "cases.csv")):
        return root
    return root / name


def holds_data(folder: Path) -> bool:
    """Is the folder there with anything but hidden files, such as those of an unfinished download."""
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def open(name: str, data: str | Path = "real"):  # noqa: A001 - reads as datasets.open(...)
    """Open a data set.

    Args:
        name: one of `NAMES`.
        data: "phantom:demo", "phantom:smoke", "real", or a folder that holds one folder per set.

    Returns:
        a `covidcxr.datasets.base.Dataset`.

    Raises:
        ParameterError: unknown name, or unknown `data`.
        DataMissing: the set is not there; its `how` is the one line that gets it.
    """
    folder = set_folder(name, data)
    if not holds_data(folder):
        how = f"use data='real'; {facts(name)['how']}" if names_cohort(data) else facts(name)["how"]
        where = "the phantom cohort has none" if names_cohort(data) else f"{folder} is missing or empty"
        if folder.parent.name == name:
            where += f" (data should be the folder that holds {name}/: {folder.parent.parent})"
        raise DataMissing(f"Data set {name}: {where}. To get it: {how}", name, how)
    module = import_module(f"covidcxr.datasets.{name}")
    return getattr(module, CLASSES[name])(name, folder, phantom=is_phantom(data))


def present(data: str | Path = "real") -> tuple[str, ...]:
    """Names of the sets whose folder exists under `data` and is not empty."""
    found = []
    for name in NAMES:
        folder = set_folder(name, data)
        if holds_data(folder):
            found.append(name)
    return tuple(found)


def manifest(name: str, data: str | Path = "real") -> dict:
    """What exactly lies there: {"name", "data", "root", "files", "bytes", "sha256", "licence", "source"}.

    `sha256` depends on the names, sizes and contents of the files only: touching or moving them does not change it.
    Hashes of single files are cached by path, size and time of change, so that asking again is quick.
    """
    from covidcxr.datasets.manifests import folder_digest

    dataset = open(name, data)
    digest = folder_digest(dataset.folder)
    about = facts(name)
    return {
        "name": name,
        "data": "phantom" if dataset.phantom else "real",
        "root": str(dataset.folder),
        **digest,
        "licence": "synthetic" if dataset.phantom else about["licence"],
        "source": "covidcxr.phantom" if dataset.phantom else about["source"],
    }


def status(data: str | Path = "real") -> list[dict]:
    """One row per set: name, title, present, cases (None when absent or unreadable), access, licence, how, note."""
    there = present(data)
    rows = []
    for name in NAMES:
        about = facts(name)
        row = {
            "name": name,
            "title": about["title"],
            "present": name in there,
            "cases": None,
            "access": about["access"],
            "licence": about["licence"],
            "how": about["how"],
            "note": "",
        }
        if row["present"]:
            try:
                row["cases"] = len(open(name, data).cases())
            except InputError as error:
                row["note"] = str(error)
        rows.append(row)
    return rows


def fetch(name: str, data: str | Path = "real", mirror: str | None = None, report=print) -> Path:
    """Download a set that is openly downloadable, check every file's hash and unpack it; see `download.fetch_dataset`."""
    from covidcxr.datasets.download import fetch_dataset

    if names_cohort(data):
        raise ParameterError("A phantom cohort is made, not fetched: datasets.data_root('phantom:demo') makes it.")
    root = paths.data_dir() if data == "real" else Path(data).expanduser().resolve()
    return fetch_dataset(check_name(name), root / name, facts(name), mirror=mirror, report=report)
