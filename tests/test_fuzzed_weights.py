"""Damaged and hostile weights, archives, receipts and checkpoints (see `fuzzing`)."""

import io
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fuzzing import ends_well, examples, root_folder, watched, write  # noqa: F401 - fixtures
from hypothesis import given
from hypothesis import strategies as st
from keras_files import write_keras_h5
from mutations import OUTSIDE, TEXTS, damaged, json_files
from peer_fixtures.peer_weights import FOLDER as PEER_WEIGHTS
from test_training import model

from covidcxr import lungs, paths, training
from covidcxr.datasets import archives, download
from covidcxr.datasets.archives import unpack_zip
from covidcxr.datasets.manifests import file_hashes
from covidcxr.errors import InputError
from covidcxr.models import checkpoints

pytestmark = pytest.mark.filterwarnings("ignore")  # what readers warn of is the files' fault

# ---- published weights ------------------------------------------------------------------------------------------------


def weight_files(root: Path) -> dict[str, bytes]:
    write_keras_h5(root / "w.h5", {"conv1": {"kernel": np.arange(6, dtype="float32").reshape(1, 1, 2, 3)}})
    zoo = pickle.dumps({"model": {"a.weight": np.arange(12, dtype="f4").reshape(3, 4)}, "step": 3}, 2)
    return {
        "h5": (root / "w.h5").read_bytes(),
        "zoo": zoo,
        **{name: Path(PEER_WEIGHTS, f"{name}.pth").read_bytes() for name in ("torch_zip", "torch_legacy")},
    }


@pytest.mark.parametrize("form", ["h5", "zoo", "torch_zip", "torch_legacy"])
def test_weights(form, root):
    path = root / f"weights-{form}.pth"

    @examples(150)
    @given(damaged(weight_files(root)[form]))
    def check(content):
        write(path, content)
        tensors = ends_well(lambda: checkpoints.read(path), path.name)
        assert tensors is None or all(array.dtype.kind in "fiub" for array in tensors.values())

    check()


def test_damaged_pickles_inside_an_archive_of_torch(root):
    path = root / "inner.pth"
    with zipfile.ZipFile(Path(PEER_WEIGHTS, "torch_zip.pth")) as old:
        members = {name: old.read(name) for name in old.namelist()}
    (inner,) = [name for name in members if name.endswith("/data.pkl")]

    @examples(200)
    @given(damaged(members[inner]))
    def check(content):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, content if name == inner else data)
        ends_well(lambda: checkpoints.read(path), path.name)

    check()


class Asks:
    """An array that a pickle asks numpy for without writing it."""

    def __reduce__(self):
        return np._core.multiarray._reconstruct, (np.ndarray, (1 << 40,), b"b")


def test_weights_take_no_memory_that_their_file_can_not_fill(root):
    path = write(root / "asks.pkl", pickle.dumps({"model": {"a": Asks()}}))
    with pytest.raises(InputError, match="asks.pkl is not read: it wants an array of shape"):
        checkpoints.read(path)
    import h5py

    with h5py.File(root / "sparse.h5", "w") as file:
        file.create_dataset("conv1/kernel", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))
    with pytest.raises(InputError, match="sparse.h5 is not read: conv1/kernel would take"):
        checkpoints.read(root / "sparse.h5")


# ---- archives ---------------------------------------------------------------------------------------------------------


def zipped(entries: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return content.getvalue()


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_archives(root):
    path, workspace = root / "set.zip", root / "unpacking"
    workspace.mkdir()
    texts = [name for name in TEXTS if name and not re.search("[\ud800-\udfff]", name)]
    names = st.one_of(
        st.sampled_from(["a", "a/b", "set/one.png", "./a", "/", *texts]),
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda name: name[0] != "\0"),
    )
    hostile = st.dictionaries(names, st.binary(max_size=40), max_size=4)
    contents = st.one_of(hostile.map(zipped), damaged(zipped({"set/one.txt": b"one" * 50, "set/sub/two.txt": bytes(500)})))

    @examples(120)
    @given(contents)
    def check(content):
        shutil.rmtree(workspace / "set", ignore_errors=True)
        write(path, content)
        before = files_below(root.parent)
        unpacked = ends_well(lambda: unpack_zip(path, workspace / "set", workspace), path.name)
        new = {name for name in files_below(root.parent) - before if not name.startswith("data/unpacking/set")}
        assert not new
        for name, size in (unpacked or {}).items():
            assert (workspace / "set" / name).stat().st_size == size
        assert [part.name for part in workspace.iterdir()] in ([], ["set"])

    check()


def test_a_small_archive_of_very_much_is_refused(root, monkeypatch):
    monkeypatch.setattr(archives, "_LARGEST", 1 << 20)
    path = write(root / "bomb.zip", zipped({f"{number}.txt": bytes(4 << 20) for number in range(3)}))
    with pytest.raises(InputError, match="bomb.zip: unpacked it takes 12 MiB"):
        unpack_zip(path, root / "bomb", root)
    assert not (root / "bomb").exists()


def test_receipts_and_caches_of_hashes(root):
    path = root / "receipt" / "receipt.json"
    sound = {"a.zip": {"sha256": "ab" * 32, "unpacked": {"one.txt": 3}}}
    folder = root / "hashed"
    write(folder / "one.txt", b"one")
    os.utime(folder / "one.txt", (1e9, 1e9))  # hashes of files that have just been written are not kept
    known = file_hashes(folder)
    (cache,) = (paths.cache_dir() / "manifests").glob("hashed-*.json")
    entry = {"one.txt": [3, (folder / "one.txt").stat().st_mtime_ns - 1, "0" * 64]}

    @examples(80)
    @given(json_files(sound), json_files(entry))
    def check(receipt, hashes):
        write(path, receipt)
        for known_part in download._read_receipt(path).values():
            assert download._all_there(folder, known_part.get("unpacked")) in (True, False)
        write(cache, hashes)
        found = ends_well(lambda: file_hashes(folder), str(folder))
        assert set(found) == set(known)

    check()


# ---- what a training left ---------------------------------------------------------------------------------------------


def test_the_record_of_a_training(root):
    path = root / "net.json"

    @examples(100)
    @given(json_files({"key": "k", "made_from": {}, "history": [{"loss": 0.5, "seconds": 1.0}], "files": {}}))
    def check(content):
        write(path, content)
        history = training.read_record(path, "k")
        assert history is None or isinstance(history, list)

    check()


def test_the_state_of_an_interrupted_training(tmp_path):
    """A damaged state is as good as none: training begins anew."""
    net = model()
    path = tmp_path / "net.progress.npz"
    progress = training._Progress(net, path, "k", 5, 1, None, False)
    net.optimizer.build(net.trainable_variables)
    progress.history = [{"loss": 0.5, "seconds": 1.0, "learning_rate": 0.1}]
    progress.save()
    sound = path.read_bytes()
    assert progress.resume() == 1

    @examples(50)
    @given(damaged(sound))
    def check(content):
        write(path, content)
        assert progress.resume() in (0, 1)

    @examples(100)
    @given(json_files({"key": "k", "history": progress.history, "state": len(progress.state()), "best": 0}))
    def check_about(about):
        with np.load(io.BytesIO(sound)) as stored:
            arrays = {name: stored[name] for name in stored.files}
        np.savez(path, **arrays | {"about": np.frombuffer(about, np.uint8)})
        assert progress.resume() >= 0

    check()
    check_about()


def test_the_card_of_a_lung_network(root, monkeypatch):
    path = root / "lungs" / lungs.CARD

    class Network:
        def load_weights(self, file):
            assert file.resolve().is_relative_to(path.parent)
            raise OSError("there are none")

    monkeypatch.setattr("covidcxr.models.lung_unet.lung_unet", lambda **_: Network())

    @examples(100)
    @given(json_files({"weights": f"../../{OUTSIDE}/one.json", "network": {}, "size": 64, "threshold": 0.5}))
    def check(content):
        write(path, content)
        assert ends_well(lambda: lungs.LungModel.of_stage(path.parent), str(path.parent)) is None

    check()
