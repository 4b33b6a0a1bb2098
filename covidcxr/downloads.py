"""Single files over HTTP, by hash: pooch checks what came, an own downloader resumes what was cut off.

What is under way lies beside its place as `<file>.part`. Nothing gets its final name before its hash was right.
"""

import hashlib
import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from covidcxr.errors import DataMissing, InputError

_TIMEOUT = (30, 120)  # s, to connect and between two pieces
_PIECE = 1 << 16  # what a broken connection may lose


def download(url: str, folder: Path, expected: str, name: str, report=print, how: str | None = None) -> Path:
    """Download one file into a folder, resuming an earlier attempt, and check its hash.

    Args:
        url: its last part is the name of the file.
        folder: exists; a file that is there already with the right hash is left alone.
        expected: sha256 in hexadecimal digits, or "md5:...". Fewer digits than a whole hash has are its first ones; then a file
            that is there already is the caller's to check (`check_hash`).
        name: of the data set or of the weights, for errors.
        report: called with each line of progress.
        how: the line that gets the file, for DataMissing; None: the command that fetches the data set `name`.

    Raises:
        DataMissing: the server cannot be reached, or the connection broke off (what came is kept, and fetched on from there the
            next time).
        InputError: the file has another hash, or the disk is too full.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    file = Path(urlsplit(url).path).name
    algorithm, digits = split_hash(expected)
    whole = len(digits) == 2 * hashlib.new(algorithm).digest_size
    get = ResumingDownloader(folder / f"{file}.part", name, expected, report, how)
    return Path(pooch.retrieve(url, f"{algorithm}:{digits}" if whole else None, file, folder, downloader=get))


def split_hash(expected: str) -> tuple[str, str]:
    """Algorithm and digits of "md5:2cb951" or of bare digits, which are of sha256."""
    algorithm, _, digits = expected.rpartition(":")
    return algorithm or "sha256", digits.lower()


def check_hash(path: Path, expected: str) -> None:
    """Raises InputError unless the hash of a file begins with the digits of `expected`; see `download`."""
    algorithm, digits = split_hash(expected)
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if not found.startswith(digits):
        raise InputError(f"the file is not the published one: {algorithm} is {found}, expected {digits}")


class ResumingDownloader:
    """A downloader for pooch over HTTP that keeps what came in a `.part` file and asks only for the rest.

    Args:
        part: the file that collects the pieces: the final name and `.part`.
        name, expected, report, how: as for `download`.
    """

    def __init__(self, part: Path, name: str, expected: str, report=print, how: str | None = None):
        self.part, self.name, self.expected, self.report = part, name, expected, report
        self.how = how or f"python -m covidcxr data fetch {name}"

    def __call__(self, url: str, output_file: str, pooch=None, check_only: bool = False) -> None:
        import requests

        try:
            self._download(url)
        except requests.RequestException as error:
            self._stopped(url, None, error)
        try:
            check_hash(self.part, self.expected)
        except InputError as error:
            self.part.unlink()
            raise InputError(
                f"{url}: {error}. It was removed. Try again; if it happens again, the source has changed and its new contents "
                "must be looked at first."
            ) from None
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
            algorithm, digits = split_hash(self.expected)
            text = (
                f"{url} cannot be reached ({reason}). Without a connection: download it elsewhere ({algorithm} {digits}), save "
                f"it as {self.part.with_suffix('')}, and run the same command again."
            )
        raise DataMissing(text, self.name, self.how) from (reason if isinstance(reason, Exception) else None)

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
                "COVIDCXR_DATA or COVIDCXR_CACHE to a folder on a larger disk."
            )


def _start(answer) -> int | None:
    match = re.match(r"bytes (\d{1,18})-", answer.headers.get("Content-Range", ""))
    return int(match.group(1)) if match else None


def _total(answer) -> int | None:
    """Size of the whole file, from Content-Range ("bytes 5-9/10", "bytes */10") or Content-Length."""
    match = re.search(r"/(\d{1,18})$", answer.headers.get("Content-Range", ""))
    if match:
        return int(match.group(1))
    length = answer.headers.get("Content-Length")
    return int(length) if length and re.fullmatch(r"\d{1,18}", length) and answer.status_code == 200 else None


def _size(number: int) -> str:
    return f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number} bytes"
