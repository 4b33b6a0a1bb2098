"""Weight files of torch, detectron2 and Keras are read without them, and nothing in them is run."""

import os
import pickle
import zipfile

import h5py
import numpy as np
import pytest
from keras_files import write_keras_h5
from peer_fixtures.peer_weights import FOLDER

from covidcxr.errors import InputError
from covidcxr.models.checkpoints import read


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


ARRAYS = {"conv1": {"kernel": np.arange(6, dtype="float32").reshape(1, 1, 2, 3), "bias": np.ones(3, "float16")}, "relu": {}}


def test_files_of_keras_are_read(tmp_path):
    path = tmp_path / "keras.h5"
    names = write_keras_h5(path, ARRAYS, {"rpn_model": {"rpn_conv": {"bias": np.zeros(2)}}})
    assert names == {"conv1/conv1/kernel:0", "conv1/conv1/bias:0", "rpn_model/rpn_conv/bias:0"}
    tensors = read(path)
    assert set(tensors) == names
    for kind, array in ARRAYS["conv1"].items():
        assert tensors[f"conv1/conv1/{kind}:0"].dtype == array.dtype
        np.testing.assert_array_equal(tensors[f"conv1/conv1/{kind}:0"], array)


def test_an_h5_gives_nothing_of_other_files(tmp_path):
    secret, path = tmp_path / "secret.h5", tmp_path / "keras.h5"
    with h5py.File(secret, "w") as file:
        file["numbers"] = np.arange(3)
    write_keras_h5(path, ARRAYS)
    with h5py.File(path, "a") as file:
        file["conv1/link"] = h5py.ExternalLink(str(secret), "numbers")
        file["text"] = "no tensor"
    assert set(read(path)) == {"conv1/conv1/kernel:0", "conv1/conv1/bias:0"}
    with h5py.File(path, "a") as file:
        file.create_dataset("outside", (3,), "u1", external=[(str(secret), 0, 3)])
    with pytest.raises(InputError, match="keras.h5 is not read: outside lies in another file"):
        read(path)
    layout = h5py.VirtualLayout((3,), "i8")
    layout[:] = h5py.VirtualSource(str(secret), "numbers", (3,))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("outside", layout)
    with pytest.raises(InputError, match="virtual.h5 is not read: outside lies in another file"):
        read(tmp_path / "virtual.h5")


def test_a_damaged_h5_is_told(tmp_path):
    write_keras_h5(tmp_path / "keras.h5", {"conv1": {"kernel": np.random.default_rng(0).random(50_000)}})
    whole = (tmp_path / "keras.h5").read_bytes()
    for share in (0.01, 0.5, 0.99):
        (tmp_path / "cut.h5").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match="cut.h5 is damaged or cut off"):
            read(tmp_path / "cut.h5")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(InputError, match="empty.h5 holds no tensors"):
        read(tmp_path / "empty.h5")
