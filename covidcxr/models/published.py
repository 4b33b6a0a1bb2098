"""Files of published weights, as listed in params/weights.yaml: where they come from, where they are kept, and their hashes."""

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypedDict
from urllib.parse import urlsplit

from covidcxr import paths
from covidcxr.downloads import check_hash, download
from covidcxr.entries import build, check
from covidcxr.errors import InputError, did_you_mean


class Design(TypedDict, total=False):
    """Fields of `ResNet`."""

    epsilon: float
    stride_in_1x1: bool
    pool_padding: Literal["both", "end"]


class Feeding(TypedDict):
    """Fields of `maskrcnn.settings.Pixels`."""

    order: Literal["rgb", "bgr"]
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class _File(TypedDict):
    sources: dict[str, dict]
    weights: dict[str, dict]


@dataclass(frozen=True)
class Published:
    """A file of params/weights.yaml.

    Attributes:
        name: the key there.
        title: what it is.
        url: where it comes from.
        hash: "sha256:" or "md5:" and hexadecimal digits, the first ones where no more are published; None: none is published.
        hash_from: who publishes the hash.
        size: as stated, in MiB; None: not stated.
        licence: as stated.
        design: what the residual network must have besides its shapes.
        pixels: how images are fed to it.
    """

    name: str
    title: str
    url: str
    hash: str | None
    hash_from: str
    size: float | None
    licence: str
    design: Design
    pixels: Feeding

    @property
    def file(self) -> str:
        """Name of the file, as in its URL."""
        return Path(urlsplit(self.url).path).name

    @property
    def path(self) -> Path:
        """Where it is kept: files of keras.applications where Keras itself keeps them, others in the cache."""
        if "/keras-applications/" in self.url:
            return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models" / self.file
        return paths.cache_dir() / "weights" / self.file


@cache
def _read(path: Path) -> dict[str, Published]:
    content = paths.read_yaml(path)
    check(_File, content, str(path))
    found = {}
    for name, stated in content["weights"].items():
        entry, where = dict(stated), f"{path}, {name}"
        named = entry.pop("source", None)
        if not isinstance(named, str) or named not in content["sources"]:
            raise InputError(f"{where}: source must be one of {', '.join(content['sources'])}.")
        if isinstance(entry.get("pixels"), dict):
            entry["pixels"] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry["pixels"].items()}
        found[name] = build(Published, {**content["sources"][named], **entry, "name": name}, where)
    return found


def table() -> dict[str, Published]:
    """All files, by name."""
    return _read(paths.params_dir() / "weights.yaml")


def entry_of(name: str) -> Published:
    """The file of that name; raises InputError where there is none."""
    if name not in table():
        raise InputError(f"params/weights.yaml has no {name!r}.{did_you_mean(name, table())} It has {', '.join(table())}.")
    return table()[name]


def fetch(name: str, sha256: str | None = None, mirror: str | None = None, report=print) -> Path:
    """A published file on this machine: the one that is there already, or a download. Its hash is checked either way.

    Args:
        name: in params/weights.yaml.
        sha256: the hash of the whole file, all 64 digits, checked besides the published one. Needed where none is published.
        mirror: address that has files of the same names, instead of the source; the hash decides all the same.
        report: called with each line of progress.

    Returns:
        the path.

    Raises:
        DataMissing: there is no connection, or it broke off; the message says which file to get from where, and where to put it.
        InputError: the name is unknown, the file has another hash, or no hash is published and none is given.
    """
    entry = entry_of(name)
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise InputError(f"sha256 must be 64 hexadecimal digits; it is {sha256!r}.")
    expected = sha256 or entry.hash
    if expected is None:
        raise InputError(
            f"{name}: no hash of {entry.file} is published, so it is not taken unseen. Download it from {entry.url}, and give "
            f"the path of your file instead of the name; or give the sha256 that you expect, which is then checked of "
            f"{entry.path}, or of what is downloaded to there."
        )
    path = entry.path
    if not path.is_file():
        url = f"{mirror.rstrip('/')}/{entry.file}" if mirror else entry.url
        size = f", {entry.size:g} MiB" if entry.size else ""
        report(f"{name}: {entry.title}{size}. Licence: {entry.licence}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path.parent} cannot be made ({error}). Set COVIDCXR_CACHE or KERAS_HOME to another.") from error
        download(url, path.parent, expected, name, report, how=f"download {entry.url} to {path}")
    for known in filter(None, (sha256, entry.hash)):
        try:
            check_hash(path, known)
        except InputError as error:
            raise InputError(
                f"{path}: {error}. Remove it, and it is downloaded anew; or give its path instead of the name {name}, to take it "
                "as it is."
            ) from None
    return path
