"""Weight files of torch and detectron2 are read without either, and nothing in them is run."""

import os
import pickle
import zipfile

import numpy as np
import pytest
from peer_fixtures.peer_weights import FOLDER

from covidcxr.errors import InputError
from covidcxr.maskrcnn.checkpoints import read


def expected():
    with np.load(os.path.join(FOLDER, "torch_expected.npz")) as file:
        return {name: file[name] for name in file.files}


@pytest.mark.parametrize("name", ["torch_zip", "torch_zip_parameter", "torch_legacy"])
def test_files_of_torch_save_are_read(name):
    tensors = read(os.path.join(FOLDER, f"{name}.pth"))
    if "parameter" in name:
        np.testing.assert_array_equal(tensors.pop("param"), np.arange(24).reshape(4, 6))
    assert set(tensors) == set(expected())
    for key, value in expected().items():
        assert tensors[key].dtype == value.dtype and tensors[key].shape == value.shape
        np.testing.assert_array_equal(tensors[key], value)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_files_of_the_zoo_are_read(tmp_path, protocol):
    state = {"backbone.stem.conv1.weight": np.random.default_rng(0).random((4, 3, 7, 7), dtype="float32"), "n": np.arange(3)}
    (tmp_path / "zoo.pkl").write_bytes(pickle.dumps({"model": state, "__author__": "someone"}, protocol))
    tensors = read(tmp_path / "zoo.pkl")
    assert set(tensors) == set(state)
    for key, value in state.items():
        np.testing.assert_array_equal(tensors[key], value)


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["COVIDCXR_TEST_TRAP"],)


@pytest.mark.parametrize("archive", [True, False])
def test_a_file_that_would_run_something_is_refused(tmp_path, monkeypatch, archive):
    trap = tmp_path / "trap"
    monkeypatch.setenv("COVIDCXR_TEST_TRAP", str(trap))
    data, path = pickle.dumps({"model": {"w": Evil()}}), tmp_path / "evil.pth"
    if archive:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("evil/data.pkl", data)
    else:
        path.write_bytes(data)
    with pytest.raises(InputError, match=r"evil.pth is not read: it wants posix.mkdir, which is not needed for weights"):
        read(path)
    assert not trap.exists()


def test_damaged_files_are_told(tmp_path):
    with pytest.raises(InputError, match="There is no weight file"):
        read(tmp_path / "none.pth")
    for name in ("torch_zip", "torch_legacy"):
        with open(os.path.join(FOLDER, f"{name}.pth"), "rb") as file:
            whole = file.read()
        for share in (0.2, 0.5, 0.95):
            cut = tmp_path / f"{name}_{share}.pth"
            cut.write_bytes(whole[: int(share * len(whole))])
            with pytest.raises(InputError, match=cut.name):
                read(cut)
    (tmp_path / "text.pkl").write_text("Not found")
    with pytest.raises(InputError, match="text.pkl is damaged, or no weight file"):
        read(tmp_path / "text.pkl")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match="a list, not a dictionary"):
        read(tmp_path / "list.pkl")
    (tmp_path / "empty.pkl").write_bytes(pickle.dumps({"model": {}}))
    with pytest.raises(InputError, match="holds no tensors"):
        read(tmp_path / "empty.pkl")


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    path, forged = os.path.join(FOLDER, "torch_zip.pth"), tmp_path / "forged.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(forged, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("data.pkl"):
                assert data.count(b"K\x05\x85") == 2  # the shape (5,) of two tensors
                data = data.replace(b"K\x05\x85", b"K\x50\x85")
            new.writestr(name, data)
    with pytest.raises(InputError, match="reaches beyond its storage of 5 numbers"):
        read(forged)
