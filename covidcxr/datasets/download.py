"""Data sets from their source: files come by hash (`covidcxr.downloads`), archives unpack inside their folder only.

What is under way lies in the hidden folder `.downloads` of the set: `<file>.part` while it is incomplete, the archive until it is
unpacked, and `receipt.json`, which says what has been unpacked. Nothing gets its final name before its hash was right.
"""

import json
from pathlib import Path
from urllib.parse import urlsplit

from covidcxr import paths
from covidcxr.datasets import Archive, Facts, holds_data
from covidcxr.datasets.archives import unpack_zip
from covidcxr.datasets.manifests import RECORD
from covidcxr.datasets.tables_of_cases import inside
from covidcxr.downloads import download
from covidcxr.errors import DataMissing, InputError


def instructions(name: str, folder: Path, facts: Facts) -> str:
    """How to get a set by hand: where from, what to put where, licence and citation."""
    steps = [f"  {number}. {step.replace('{folder}', str(folder))}" for number, step in enumerate(facts["steps"], start=1)]
    lines = [f"{name}: {facts['title']}", *steps, f"  Check it with: python -m covidcxr data verify {name}", *_terms(facts)]
    return "\n".join(lines)


def _terms(facts: Facts) -> list[str]:
    return [f"  Source: {facts['source']}", f"  Licence: {facts['licence']}", f"  Please cite: {facts['citation']}".rstrip()]


def fetch_dataset(name: str, folder: Path, facts: Facts, mirror: str | None = None, report=print) -> Path:
    """Download and unpack the files of a set; what is already there is left alone.

    Args:
        name: of the set.
        folder: where the set will lie.
        facts: entry of params/datasets.yaml; `files` gives url, sha256 and unpack_to.
        mirror: address that has files of the same names, instead of the source; the hashes decide all the same.
        report: called with each line of progress.

    Returns:
        the folder.

    Raises:
        DataMissing: the set is not openly downloadable (the message tells how to get it), the server cannot be reached, or the
            connection broke off (what came is kept, and fetched on from there the next time).
        InputError: a file has another hash than published, an archive is unsafe or damaged, or the disk is too full.
    """
    if not facts["files"]:
        if holds_data(folder):
            report(f"{name} is already there: {folder}")
            return folder
        text = f"{name} cannot be downloaded automatically ({facts['access']}).\n{instructions(name, folder, facts)}"
        raise DataMissing(text, name, facts["how"])
    for line in (f"{name}: {facts['title']}", *_terms(facts)):
        report(line)
    downloads = folder / ".downloads"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{downloads} cannot be made ({error}). Set COVIDCXR_DATA to a folder you may write to.") from error
    for entry in facts["files"]:
        _fetch_file(name, folder, downloads, entry, mirror, report)
    files = [f"{entry['url']}  sha256 {entry['sha256']}" for entry in facts["files"]]
    paths.write_atomically(folder / RECORD, "\n".join([f"{name}: {facts['title']}", *_terms(facts), "Files:", *files, ""]))
    report(f"{name} is ready: {folder}")
    return folder


def _fetch_file(name: str, folder: Path, downloads: Path, entry: Archive, mirror: str | None, report) -> None:
    file = Path(urlsplit(entry["url"]).path).name
    target = folder / entry["unpack_to"]
    receipt_path = downloads / "receipt.json"
    receipt = _read_receipt(receipt_path)
    known = receipt.get(file, {})
    if known.get("sha256") == entry["sha256"] and _all_there(target, known.get("unpacked")):
        report(f"  {file}: already unpacked")
        return
    if not known and holds_data(target):
        report(
            f"  {file}: {target} is already there and was not fetched by this command; it is left alone. Delete it to fetch it."
        )
        return
    url = f"{mirror.rstrip('/')}/{file}" if mirror else entry["url"]
    archive = download(url, downloads, entry["sha256"], name, report)
    unpacked = unpack_zip(archive, target, downloads)
    receipt[file] = {"sha256": entry["sha256"], "unpacked": unpacked}
    paths.write_atomically(receipt_path, json.dumps(receipt, indent=1))
    archive.unlink()
    report(f"  {file}: {len(unpacked)} files unpacked into {target}")


def _read_receipt(path: Path) -> dict[str, dict]:
    """What has been unpacked, by archive; a damaged receipt is as good as none."""
    if not path.is_file():
        return {}
    try:
        content = paths.read_json(path, "receipt")
    except InputError:
        return {}
    return {file: known for file, known in content.items() if isinstance(known, dict)} if isinstance(content, dict) else {}


def _all_there(target: Path, unpacked) -> bool:
    if not isinstance(unpacked, dict):
        return False
    try:
        return all((target / inside(file, target)).stat().st_size == size for file, size in unpacked.items())
    except (OSError, InputError):
        return False
