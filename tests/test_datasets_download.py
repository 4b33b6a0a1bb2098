"""Downloads against a local HTTP server: good, truncated, resumed, wrong hash, hostile and damaged archives."""

import hashlib
import http.server
import io
import re
import shutil
import socket
import stat
import threading
import zipfile

import numpy as np
import pytest

from covidcxr import datasets
from covidcxr.datasets.archives import unpack_zip
from covidcxr.datasets.download import download, fetch_dataset
from covidcxr.errors import DataMissing, InputError, ParameterError

NOISE = np.random.default_rng(0).bytes(3 << 20)


def zipped(entries: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return content.getvalue()


class Server:
    """An HTTP server on this machine.

    Attributes:
        files: path -> content.
        cut_after: bytes after which the connection is closed, or None.
        ranges: does it know Range requests.
        requests: (path, Range header) of each request.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.cut_after: int | None = None
        self.ranges = True
        self.requests: list[tuple[str, str | None]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append((self.path, self.headers.get("Range")))
                content = outer.files.get(self.path)
                if content is None:
                    return self.send_error(404)
                start = 0
                asked = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
                if asked and outer.ranges:
                    start = int(asked.group(1))
                    if start >= len(content):
                        self.send_response(416)
                        self.send_header("Content-Range", f"bytes */{len(content)}")
                        self.send_header("Content-Length", "0")
                        return self.end_headers()
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                else:
                    self.send_response(200)
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                self.wfile.write(content[start:][: outer.cut_after])

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- single files ----------------------------------------------------------------------------------------------------


def test_a_good_download_arrives_whole_and_is_not_fetched_again(server, tmp_path):
    server.files["/a.bin"] = NOISE
    for _ in range(2):
        path = download(f"{server.address}/a.bin", tmp_path, sha256(NOISE), "folder", report=str)
        assert path.read_bytes() == NOISE and names(tmp_path) == ["a.bin"]
    assert len(server.requests) == 1


def test_a_truncated_download_is_told_kept_and_resumed_where_it_stopped(server, tmp_path):
    server.files["/a.bin"], server.cut_after = NOISE, 1_300_000
    with pytest.raises(DataMissing, match=r"stopped after 1.2 MiB of 3.0 MiB.*goes on from there") as caught:
        download(f"{server.address}/a.bin", tmp_path, sha256(NOISE), "covid19_ct_seg", report=str)
    assert caught.value.how == "python -m covidcxr data fetch covid19_ct_seg"
    kept = (tmp_path / "a.bin.part").read_bytes()
    assert names(tmp_path) == ["a.bin.part"] and 1_200_000 < len(kept) <= 1_300_000 and NOISE.startswith(kept)
    server.cut_after = None
    lines = []
    path = download(f"{server.address}/a.bin", tmp_path, sha256(NOISE), "covid19_ct_seg", lines.append)
    assert path.read_bytes() == NOISE and names(tmp_path) == ["a.bin"]
    assert [asked for _, asked in server.requests] == [None, f"bytes={len(kept)}-"]
    assert "resuming at 1.2 MiB of 3.0 MiB" in lines[0]


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.files["/a.bin"], server.ranges = NOISE, False
    (tmp_path / "a.bin.part").write_bytes(NOISE[:1000])
    assert download(f"{server.address}/a.bin", tmp_path, sha256(NOISE), "folder", report=str).read_bytes() == NOISE


@pytest.mark.parametrize("have", (NOISE, NOISE + b"more"), ids=("complete", "too long"))
def test_a_part_that_has_nothing_left_to_fetch(server, tmp_path, have):
    server.files["/a.bin"] = NOISE
    (tmp_path / "a.bin.part").write_bytes(have)
    assert download(f"{server.address}/a.bin", tmp_path, sha256(NOISE), "folder", report=str).read_bytes() == NOISE
    assert names(tmp_path) == ["a.bin"]


def test_a_wrong_hash_leaves_nothing_behind(server, tmp_path):
    server.files["/a.bin"] = NOISE
    with pytest.raises(InputError, match=f"sha256 is {sha256(NOISE)}, expected {'0' * 64}"):
        download(f"{server.address}/a.bin", tmp_path, "0" * 64, "folder", report=str)
    assert names(tmp_path) == []


def test_a_resumed_part_of_another_file_is_caught_by_the_hash_and_the_next_try_is_fresh(server, tmp_path):
    server.files["/a.bin"] = NOISE
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    with pytest.raises(InputError, match="not the published one"):
        download(f"{server.address}/a.bin", tmp_path, sha256(NOISE), "folder", report=str)
    assert download(f"{server.address}/a.bin", tmp_path, sha256(NOISE), "folder", report=str).read_bytes() == NOISE


def test_a_missing_file_and_a_silent_server_say_what_to_do(server, tmp_path):
    with pytest.raises(DataMissing, match=rf"404.*sha256 {'1' * 64}"):
        download(f"{server.address}/none.bin", tmp_path, "1" * 64, "folder", report=str)
    with socket.socket() as free:  # a port on which nobody listens
        free.bind(("127.0.0.1", 0))
        silent = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(DataMissing, match=r"cannot be reached.*download it elsewhere"):
        download(f"{silent}/a.bin", tmp_path, "1" * 64, "folder", report=str)
    assert names(tmp_path) == []


def test_a_file_fetched_by_hand_is_taken(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(NOISE)
    assert download(f"{server.address}/a.bin", tmp_path, sha256(NOISE), "folder", report=str).read_bytes() == NOISE
    assert server.requests == []


def test_too_little_room_is_told_before_the_download(server, tmp_path, monkeypatch):
    server.files["/a.bin"] = NOISE
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(InputError, match=r"3.0 MiB are needed, .* has 1 bytes free"):
        download(f"{server.address}/a.bin", tmp_path, sha256(NOISE), "folder", report=str)
    assert names(tmp_path) == []


# ---- archives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ("../outside.txt", "a/../../outside.txt", "/outside.txt", "C:/outside.txt", "..\\outside.txt"))
def test_an_entry_that_leads_outside_stops_everything(tmp_path, name):
    archive = tmp_path / "archive.zip"
    archive.write_bytes(zipped({"good.txt": b"good", name: b"bad"}))
    with pytest.raises(InputError, match="unsafe.*nothing was unpacked"):
        unpack_zip(archive, tmp_path / "in" / "target", tmp_path)
    assert names(tmp_path) == ["archive.zip"]


def test_a_link_in_an_archive_is_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(InputError, match="a link"):
        unpack_zip(tmp_path / "archive.zip", tmp_path / "target", tmp_path)
    assert names(tmp_path) == ["archive.zip"]


def test_a_damaged_archive_leaves_nothing(tmp_path):
    content = bytearray(zipped({"one.txt": b"1" * 1000, "two.txt": b"2" * 1000}))
    content[content.index(b"2222")] ^= 1  # the checksum of the second entry no longer fits
    for damaged in (bytes(content), bytes(content[:-50]), b"no archive"):
        (tmp_path / "archive.zip").write_bytes(damaged)
        with pytest.raises(InputError, match="archive.zip: not a readable zip archive"):
            unpack_zip(tmp_path / "archive.zip", tmp_path / "target", tmp_path)
        assert names(tmp_path) == ["archive.zip"]


def test_the_archives_own_top_folder_and_system_litter_are_left_out(tmp_path):
    for entries in (
        {"target/a/1.txt": b"1", "target/2.txt": b"22"},
        {"a/1.txt": b"1", "2.txt": b"22", "__MACOSX/._2.txt": b"", "a/.DS_Store": b""},
    ):
        (tmp_path / "archive.zip").write_bytes(zipped(entries))
        assert unpack_zip(tmp_path / "archive.zip", tmp_path / "target", tmp_path) == {"a/1.txt": 1, "2.txt": 2}
        assert (tmp_path / "target" / "a" / "1.txt").read_bytes() == b"1"
        shutil.rmtree(tmp_path / "target")


# ---- whole sets ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_facts(server):
    """Facts of a set of two archives on the server."""
    images = {"one.nii.gz": b"volume", "two.nii.gz": b"volume 2"}
    archives = {"images.zip": zipped(images), "masks.zip": zipped({"one.nii.gz": b"m"})}
    server.files |= {f"/files/{name}": content for name, content in archives.items()}
    files = [
        {"url": f"{server.address}/files/{name}", "sha256": sha256(content), "unpack_to": name.removesuffix(".zip")}
        for name, content in archives.items()
    ]
    return {**datasets.facts("covid19_ct_seg"), "files": files}


def test_fetching_a_set_unpacks_it_and_records_licence_and_citation(server, small_facts, tmp_path):
    lines = []
    folder = fetch_dataset("covid19_ct_seg", tmp_path / "set", small_facts, report=lines.append)
    assert names(folder) == [".downloads", "SOURCE.txt", "images", "masks"]
    assert names(folder / "images") == ["one.nii.gz", "two.nii.gz"]
    assert names(folder / ".downloads") == ["receipt.json"]
    record = (folder / "SOURCE.txt").read_text()
    for text in ("\n".join(lines), record):
        assert "CC BY 4.0" in text and "10.5281/zenodo.3757476" in text
    assert small_facts["files"][0]["sha256"] in record


def test_fetching_again_fetches_nothing_or_only_what_was_lost(server, small_facts, tmp_path):
    folder = fetch_dataset("covid19_ct_seg", tmp_path / "set", small_facts, report=str)
    fetch_dataset("covid19_ct_seg", folder, small_facts, report=str)
    assert len(server.requests) == 2
    (folder / "masks" / "one.nii.gz").unlink()
    fetch_dataset("covid19_ct_seg", folder, small_facts, report=str)
    assert [path for path, _ in server.requests[2:]] == ["/files/masks.zip"] and (folder / "masks" / "one.nii.gz").is_file()


def test_what_a_user_has_unpacked_is_left_alone(server, small_facts, tmp_path):
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "one.nii.gz").write_bytes(b"by hand")
    lines = []
    fetch_dataset("covid19_ct_seg", tmp_path / "set", small_facts, report=lines.append)
    assert (tmp_path / "set" / "images" / "one.nii.gz").read_bytes() == b"by hand"
    assert [path for path, _ in server.requests] == ["/files/masks.zip"] and "left alone" in "".join(lines)


def test_a_mirror_is_used_and_held_to_the_same_hashes(server, small_facts, tmp_path):
    server.files |= {path.replace("/files/", "/mirror/"): content for path, content in server.files.items()}
    fetch_dataset("covid19_ct_seg", tmp_path / "set", small_facts, mirror=f"{server.address}/mirror/", report=str)
    assert {path for path, _ in server.requests} == {"/mirror/images.zip", "/mirror/masks.zip"}
    server.files["/mirror/images.zip"] = zipped({"one.nii.gz": b"forged"})
    with pytest.raises(InputError, match="not the published one"):
        fetch_dataset("covid19_ct_seg", tmp_path / "other", small_facts, mirror=f"{server.address}/mirror", report=str)
    assert not (tmp_path / "other" / "images").exists()


def test_the_published_set_is_fetched_by_name(server, tmp_path):
    server.files["/COVID-19-CT-Seg_20cases.zip"] = zipped({"coronacases_001.nii.gz": b"not the real one"})
    with pytest.raises(InputError, match="a5060480eff9315b069b086312dac4872777901fb80d268a5a83edd9f4e7b440"):
        datasets.fetch("covid19_ct_seg", tmp_path, mirror=server.address, report=str)
    assert datasets.present(tmp_path) == ()  # what is under way is not yet the set
    assert names(tmp_path / "covid19_ct_seg") == [".downloads"] and names(tmp_path / "covid19_ct_seg" / ".downloads") == []


BY_HAND = [name for name in datasets.NAMES if datasets.facts(name)["access"] in ("manual", "registration")]


@pytest.mark.parametrize("name", BY_HAND)
def test_a_set_that_cannot_be_downloaded_says_exactly_what_to_do(name, tmp_path):
    with pytest.raises(DataMissing) as caught:
        datasets.fetch(name, tmp_path)
    text = str(caught.value)
    assert str(tmp_path / name) in text and "{folder}" not in text and re.search("https?://", text)
    assert "Licence: " in text and f"python -m covidcxr data verify {name}" in text


def test_a_phantom_is_not_fetched(tmp_path):
    with pytest.raises(ParameterError, match="made, not fetched"):
        datasets.fetch("mosmeddata", "phantom:smoke")
