"""Unpacking of zip archives that may be hostile or damaged: everything stays inside the target folder, or nothing is written."""

import re
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from covidcxr.errors import InputError
from covidcxr.paths import DISK_TROUBLE

_LARGEST, _PACKED = 1 << 30, 100  # an archive of more bytes than this holds at most so many times its own size
_LONGEST_NAME, _LONGEST_PATH = 255, 1000  # as `tables_of_cases.inside`
_IGNORED = ("__MACOSX", ".DS_Store", "Thumbs.db")


def unpack_zip(archive: Path, target: Path, workspace: Path) -> dict[str, int]:
    """Unpack an archive into `target`.

    Every entry is checked before the first is written; files are written aside in `workspace` (on the same disk) and moved
    when all are complete. A single top folder of the target's own name is left out, so that archives with and without it give
    one layout.

    Returns:
        {path relative to target: size} of the unpacked files.

    Raises:
        InputError: not a zip archive, damaged, encrypted, too large for the disk, or with an entry that leads outside
            (absolute path, "..", link).
    """
    try:
        with zipfile.ZipFile(archive) as content:
            members = _members(content, archive, target.name)
            needed = sum(info.file_size for _, info in members)
            if needed > max(_LARGEST, _PACKED * archive.stat().st_size):
                raise InputError(f"{archive}: unpacked it takes {needed / 2**20:.0f} MiB, too much for an archive of its size")
            free = shutil.disk_usage(workspace).free
            if needed > free:
                raise InputError(
                    f"{archive}: unpacked it takes {needed / 2**20:.0f} MiB, {workspace} has {free / 2**20:.0f} MiB free"
                )
            with tempfile.TemporaryDirectory(prefix="unpack-", dir=workspace) as aside:
                Path(aside, "new").mkdir()
                for name, info in members:
                    path = Path(aside, "new", name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with content.open(info) as source, open(path, "wb") as file:
                        shutil.copyfileobj(source, file, 1 << 20)
                        if file.tell() != info.file_size:
                            raise InputError(f"{archive}: {name} has {file.tell()} bytes, {info.file_size} are announced")
                if not target.exists():  # the usual case: the folder appears complete or not at all
                    target.parent.mkdir(parents=True, exist_ok=True)
                    Path(aside, "new").rename(target)
                else:
                    for name, _ in members:
                        (target / name).parent.mkdir(parents=True, exist_ok=True)
                        Path(aside, "new", name).replace(target / name)
    except InputError:
        raise
    except Exception as error:
        # whatever a damaged archive leads to in zipfile and its decompressors, but not the disk's own trouble
        if isinstance(error, OSError) and error.errno in DISK_TROUBLE:
            raise
        raise InputError(f"{archive}: not a readable zip archive ({error}). Delete it and fetch it again.") from error
    return {str(name): info.file_size for name, info in members}


def _members(content: zipfile.ZipFile, archive: Path, own_name: str) -> list[tuple[PurePosixPath, zipfile.ZipInfo]]:
    members = []
    for info in content.infolist():
        name = PurePosixPath(info.orig_filename)
        why = _danger(info)
        if why:
            raise InputError(f"{archive}: the entry {info.orig_filename!r} is unsafe ({why}); nothing was unpacked")
        if not info.is_dir() and not set(name.parts) & set(_IGNORED):
            members.append((name, info))
    if members and all(len(name.parts) > 1 and name.parts[0] == own_name for name, _ in members):
        members = [(PurePosixPath(*name.parts[1:]), info) for name, info in members]
    names = {name for name, _ in members}
    if len(names) != len(members) or names & {folder for name in names for folder in name.parents}:
        raise InputError(f"{archive}: several entries have the same name; nothing was unpacked")
    return members


def _danger(info: zipfile.ZipInfo) -> str:
    """Why an entry must not be unpacked; "" for one that may be."""
    stored = info.orig_filename  # ZipInfo.filename has been cleaned of some of what is looked for
    name = PurePosixPath(stored)
    if name.is_absolute() or re.match(r"[A-Za-z]:", stored):
        return "an absolute path"
    if ".." in name.parts:
        return "'..' in its path"
    if "\\" in stored or "\0" in stored:
        return "a backslash or a zero byte in its path"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "a link"
    if not name.parts or len(str(name)) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in name.parts):
        return "no name, or one that is too long"
    if info.flag_bits & 1:
        return "encrypted"
    return ""
