"""The files of a finished stage: which of them are its results, and whether they still are what they were when it ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from covidcxr import fingerprint

# In a stage's folder, but none of its results. Who opens the executed notebook in JupyterLab may well save it.
NOT_RESULTS = {"run.json", "attempt.txt", "kernel.log", "notebook.ipynb"}
NAMED_FILES = 3  # of those that have changed


def files_of_results(folder: Path) -> dict[str, dict[str, Any]]:
    """`bytes`, `mtime_ns` and `sha256` of every file that belongs to a stage's results, by its path within the stage's folder.

    Hidden files, such as those that a killed attempt was about to write, do not.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.as_posix() not in NOT_RESULTS and not any(part.startswith(".") for part in name.parts):
            stat, digest = path.stat(), fingerprint.file_digest(path)
            found[name.as_posix()] = {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": digest}
    return found


def damage_of(folder: Path, record: dict[str, Any]) -> str:
    """Which files of a stage's folder are no longer those that its completion record names, in words; empty when all are."""
    files = record.get("files")
    if not isinstance(files, dict) or not files:  # of an earlier version, or damaged
        return "its record does not name its files"
    changed = [name for name, then in files.items() if not _is_still(folder / name, then)]
    more = f" and {len(changed) - NAMED_FILES} more" if len(changed) > NAMED_FILES else ""
    return f"results changed or removed: {', '.join(changed[:NAMED_FILES])}{more}" if changed else ""


def _is_still(path: Path, then: Any) -> bool:
    """Whether a file is the one of an entry of `files_of_results`. It is read only where its time is another: weights are large,
    but a file that was touched or copied holds the same."""
    try:
        if not isinstance(then, dict) or not path.is_file() or path.stat().st_size != then.get("bytes"):
            return False
        return path.stat().st_mtime_ns == then.get("mtime_ns") or fingerprint.file_digest(path) == then.get("sha256")
    except (OSError, ValueError):  # it can't be read, or a damaged record names what can't be a file
        return False
