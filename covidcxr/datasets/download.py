"""Downloads: pooch checks the hash, an own downloader resumes what was cut off, archives unpack inside their folder only.

What is under way lies in the hidden folder `.downloads` of the set: `<file>.part` while it is incomplete, the archive until it is
unpacked, and `receipt.json`, which says what has been unpacked. Nothing gets its final name before its hash was right.
"""

import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from covidcxr import paths
from covidcxr.datasets import holds_data
from covidcxr.datasets.archives import unpack_zip
from covidcxr.datasets.manifests import RECORD
from covidcxr.errors import DataMissing, InputError

_TIMEOUT = (30, 120)  # s, to connect and between two pieces
_PIECE = 1 << 16  # what a broken connection may lose


def instructions(name: str, folder: Path, facts: dict) -> str:
    """How to get a set by hand: where from, what to put where, licence and citation."""
    steps = [f"  {number}. {step.replace('{folder}', str(folder))}" for number, step in enumerate(facts["steps"], start=1)]
    lines = [f"{name}: {facts['title']}", *steps, f"  Check it with: python -m covidcxr data verify {name}", *_terms(facts)]
    return "\n".join(lines)


def _terms(facts: dict) -> list[str]:
    return [f"  Source: {facts['source']}", f"  Licence: {facts['licence']}", f"  Please cite: {facts['citation']}".rstrip()]


def fetch_dataset(name: str, folder: Path, facts: dict, mirror: str | None = None, report=print) -> Path:
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


def _fetch_file(name: str, folder: Path, downloads: Path, entry: dict, mirror: str | None, report) -> None:
    file = Path(urlsplit(entry["url"]).path).name
    target = folder / entry["unpack_to"]
    receipt_path = downloads / "receipt.json"
    receipt = json.loads(receipt_path.read_text()) if receipt_path.is_file() else {}
    known = receipt.get(file, {})
    if known.get("sha256") == entry["sha256"] and _all_there(target, known["unpacked"]):
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


def _all_there(target: Path, unpacked: dict[str, int]) -> bool:
    return all((target / file).is_file() and (target / file).stat().st_size == size for file, size in unpacked.items())


def download(url: str, folder: Path, sha256: str, name: str, report=print) -> Path:
    """Download one file into a folder, resuming an earlier attempt, and check its hash; see `fetch_dataset` for the errors."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    file = Path(urlsplit(url).path).name
    part = folder / f"{file}.part"
    try:
        return Path(
            pooch.retrieve(
                url,
                known_hash=f"sha256:{sha256}",
                fname=file,
                path=folder,
                downloader=ResumingDownloader(part, name, sha256, report),
            )
        )
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        if "hash" not in str(error).lower():
            raise
        found = [word for word in re.findall(r"\b[0-9a-f]{64}\b", str(error)) if word != sha256]
        raise InputError(
            f"{url}: the file is not the published one: sha256 is {found[0] if found else 'another'}, expected {sha256}. "
            "It was removed. Try again; if it happens again, the source has changed and its new contents must be looked at first."
        ) from error


class ResumingDownloader:
    """A downloader for pooch over HTTP that keeps what came in a `.part` file and asks only for the rest.

    Args:
        part: the file that collects the pieces.
        name: of the data set, for errors.
        sha256: expected hash, for the advice on fetching by hand.
        report: called with each line of progress.
    """

    def __init__(self, part: Path, name: str, sha256: str, report=print):
        self.part, self.name, self.sha256, self.report = part, name, sha256, report

    def __call__(self, url: str, output_file: str, pooch=None, check_only: bool = False) -> None:
        import requests

        try:
            self._download(url)
        except requests.RequestException as error:
            self._stopped(url, None, error)
        os.replace(self.part, output_file)

    def _stopped(self, url: str, total: int | None, reason) -> None:
        have = self.part.stat().st_size if self.part.is_file() else 0
        if have:
            of = f" of {_size(total)}" if total else ""
            text = (
                f"{url}: the download stopped after {_size(have)}{of} ({reason}). What came is kept in {self.part}; run the "
                "same command again and it goes on from there."
            )
        else:
            text = (
                f"{url} cannot be reached ({reason}). Without a connection: download it elsewhere (sha256 {self.sha256}), put it "
                f"into {self.part.parent} under its own name, and run the same command again."
            )
        raise DataMissing(text, self.name, f"python -m covidcxr data fetch {self.name}") from (
            reason if isinstance(reason, Exception) else None
        )

    def _download(self, url: str, fresh: bool = False) -> None:
        import requests

        if fresh:
            self.part.unlink(missing_ok=True)
        have = self.part.stat().st_size if self.part.is_file() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as answer:
            if answer.status_code == 416 and have:  # nothing after `have`: complete already, or longer than the file
                if _total(answer) == have:
                    return
                return self._download(url, fresh=True)
            if answer.status_code == 206 and _start(answer) != have:
                return self._download(url, fresh=True)
            answer.raise_for_status()
            resumed = answer.status_code == 206
            total = _total(answer)
            self._check_room(url, None if total is None else total - (have if resumed else 0))
            self.report(
                f"  {url}: "
                + (f"resuming at {_size(have)}" if resumed else "downloading")
                + (f" of {_size(total)}" if total else "")
            )
            broken = False
            with open(self.part, "ab" if resumed else "wb") as file:
                try:
                    for piece in answer.iter_content(_PIECE):
                        file.write(piece)
                except requests.RequestException:
                    broken = True
        if broken or (total is not None and self.part.stat().st_size < total):
            self._stopped(url, total, "the connection broke")

    def _check_room(self, url: str, needed: int | None) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if needed is not None and needed > free:
            raise InputError(
                f"{url}: {_size(needed)} are needed, {self.part.parent} has {_size(free)} free. Make room, or set "
                "COVIDCXR_DATA to a folder on a larger disk."
            )


def _start(answer) -> int | None:
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(match.group(1)) if match else None


def _total(answer) -> int | None:
    """Size of the whole file, from Content-Range ("bytes 5-9/10", "bytes */10") or Content-Length."""
    match = re.search(r"/(\d+)$", answer.headers.get("Content-Range", ""))
    if match:
        return int(match.group(1))
    length = answer.headers.get("Content-Length")
    return int(length) if length and answer.status_code == 200 else None


def _size(number: int) -> str:
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number} bytes"
