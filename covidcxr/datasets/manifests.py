"""The digest of a set's folder: names, sizes and contents of all its files in one hash, with a cache of the single hashes."""

import hashlib
import json
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from covidcxr import paths

RECORD = "SOURCE.txt"  # written by `data fetch`; says where the files come from and is no part of the data
# A file changed less than this before it was hashed may be changed again within the clock's step and keep its time: its hash is
# not cached.
_RACY_NS = 2_000_000_000


def files_of(folder: Path) -> list[Path]:
    """All files below a folder, sorted by relative path; hidden files and folders and unfinished downloads are left out."""
    found, seen = [], set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".") and not name.endswith((".part", ".tmp"))]
    found = [path for path in found if path.is_file() and path != folder / RECORD]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def file_hashes(folder: Path, files: list[Path] | None = None) -> dict[str, str]:
    """sha256 of each file by relative path, from the cache where path, size and time of change are as they were."""
    files = files_of(folder) if files is None else files
    cache_file = paths.cache_dir() / "manifests" / f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}.json"
    known = _read_cache(cache_file)
    hashes, entries, unknown = {}, {}, []
    for path in files:
        name, stat = path.relative_to(folder).as_posix(), path.stat()
        entry = known.get(name)
        if entry and entry[:2] == [stat.st_size, stat.st_mtime_ns]:
            hashes[name], entries[name] = entry[2], entry
        else:
            unknown.append((name, path))
    with ThreadPoolExecutor(2) as pool:  # hashing releases the interpreter's lock
        for name, entry in pool.map(_hash_file, unknown):
            hashes[name] = entry[2]
            if time.time_ns() - entry[1] > _RACY_NS:
                entries[name] = entry
    merged = known | entries
    if merged != known:
        try:
            paths.write_atomically(cache_file, json.dumps(merged))
        except OSError:
            pass  # without the cache the next call hashes again, the result is the same
    return hashes


def _hash_file(item: tuple[str, Path]) -> tuple[str, list]:
    name, path = item
    with open(path, "rb") as file:
        stat = os.fstat(file.fileno())
        return name, [stat.st_size, stat.st_mtime_ns, hashlib.file_digest(file, "sha256").hexdigest()]


def _read_cache(path: Path) -> dict:
    try:
        content = paths.parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return {name: entry for name, entry in content.items() if _is_entry(entry)} if isinstance(content, dict) else {}


def _is_entry(entry) -> bool:
    """[size, time of change, sha256]"""
    return isinstance(entry, list) and len(entry) == 3 and bool(re.fullmatch("[0-9a-f]{64}", str(entry[2])))


def folder_digest(folder: Path) -> dict:
    """{"files", "bytes", "sha256"} of a folder; sha256 over the sorted lines "path, size, sha256" of its files."""
    files = files_of(folder)
    hashes = file_hashes(folder, files)
    total, lines = 0, []
    for path in files:
        name, size = path.relative_to(folder).as_posix(), path.stat().st_size
        total += size
        lines.append(f"{name}\t{size}\t{hashes[name]}\n")
    return {"files": len(files), "bytes": total, "sha256": hashlib.sha256("".join(lines).encode()).hexdigest()}
