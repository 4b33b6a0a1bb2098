"""Reads weight files of PyTorch (.pth), detectron2's model zoo (.pkl) and Keras (.h5) without either, running nothing in them.

The first two are pickles, which can name any function to be called. Here only the few names that build arrays are known; any
other is an error. Of an .h5 the arrays in the file itself are read, not those it refers to elsewhere on the disk. The result is
{name: numpy array}, for `weights.load`.
"""

import importlib
import io
import math
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from covidcxr.errors import InputError

# torch's storage classes, as little-endian numpy types. bfloat16 is read as the upper half of float32.
STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
H5_MAGIC = b"\x89HDF\r\n\x1a\n"
MOST_BYTES = 1 << 32  # of one file; weights of the largest networks here take a tenth of it
_NDARRAY = "numpy.ndarray"  # stands for the class, which pickles only name
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # what torch.save wrote first before its files were zip archives (torch 1.6)
NUMPY_PLACES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")


@dataclass(frozen=True)
class _Storage:
    """A run of numbers in the file, by its key."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage, in numbers, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: str | Path) -> dict[str, np.ndarray]:
    """All tensors of a weight file.

    Args:
        path: .pth or .pt of torch.save, old or new format, or .pkl of detectron2's zoo, whose tensors may lie under "model",
            "state_dict" or "blobs"; or .h5 of Keras 2 or later, whose names are paths within the file, such as
            "bn_conv1/bn_conv1/gamma:0". What is not a tensor, such as a step number, is left out.

    Raises:
        InputError: the file is of another kind, is damaged, or wants something that is not an array; the message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no weight file {path}.")
    with path.open("rb") as file:
        tensors = _read_h5(path) if file.read(len(H5_MAGIC)) == H5_MAGIC else _read_pickle(path)
    if not tensors:
        raise InputError(f"{path} holds no tensors.")
    return tensors


def _read_h5(path):
    import h5py

    tensors = {}

    def visit(name, item):  # of hard links only: soft and external ones, which may lead out of the file, are not followed
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu":
            if item.external or item.is_virtual:
                raise InputError(f"{path} is not read: {name} lies in another file.")
            if item.nbytes > MOST_BYTES:
                raise InputError(f"{path} is not read: {name} would take {item.nbytes} bytes.")
            tensors[name] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file leads to inside h5py
        raise InputError(f"{path} is damaged or cut off: {error}.") from error
    return tensors


def _read_pickle(path):
    try:
        if zipfile.is_zipfile(path):
            content, load = _open_zip(path)
        else:
            with path.open("rb") as file:
                content, load = _open_pickle(file)
        for key in ("model", "state_dict", "blobs"):
            if isinstance(content, dict) and isinstance(content.get(key), dict):
                content = content[key]
        if not isinstance(content, dict):
            raise InputError(f"it holds a {type(content).__name__}, not a dictionary of tensors")
        tensors = {name: value for name, value in content.items() if isinstance(value, _Tensor | np.ndarray)}
        return {str(name): array for name, value in tensors.items() if (array := _array(value, load)).dtype.kind in "fiub"}
    except InputError as error:
        raise InputError(f"{path} is not read: {error}.") from None
    except Exception as error:  # whatever a damaged pickle or archive leads to
        raise InputError(
            f"{path} is damaged, or no weight file of PyTorch, detectron2 or Keras: {type(error).__name__}: {error}."
        ) from error


def _array(value, load):
    if isinstance(value, np.ndarray):
        return value
    numbers = load(value.storage)
    last = value.offset + sum((n - 1) * s for n, s in zip(value.shape, value.strides, strict=True))
    if 0 in value.shape:
        return np.zeros(value.shape, numbers.dtype)
    if value.offset < 0 or min(value.strides, default=0) < 0 or last >= len(numbers):
        raise InputError(f"a tensor of shape {value.shape} reaches beyond its storage of {len(numbers)} numbers")
    if math.prod(value.shape) > len(numbers):
        raise InputError(f"a tensor of shape {value.shape} repeats the {len(numbers)} numbers of its storage")
    strides = [s * numbers.itemsize for s in value.strides]
    return np.lib.stride_tricks.as_strided(numbers[value.offset :], value.shape, strides).copy()


def _numbers(data, storage):
    kind = STORAGES[storage.kind]
    if len(data) != storage.count * np.dtype(kind).itemsize:
        raise InputError(
            f"storage {storage.key} has {len(data)} bytes, not {storage.count} numbers of {kind}: the file is cut off"
        )
    numbers = np.frombuffer(data, kind)
    if storage.kind == "BFloat16Storage":
        return (numbers.astype("<u4") << 16).view("<f4")
    return numbers


def _open_zip(path):
    """The newer format: an archive of `data.pkl` and one file per storage."""
    with zipfile.ZipFile(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InputError("it is an archive, but not one of torch.save")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise InputError("its numbers are big-endian")
        if sum(info.file_size for info in archive.infolist()) > MOST_BYTES:
            raise InputError(f"it would unpack to more than {MOST_BYTES} bytes")
        content = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()

    def load(storage):
        with zipfile.ZipFile(path) as archive:
            return _numbers(archive.read(f"{folder}data/{storage.key}"), storage)

    return content, load


def _open_pickle(file):
    """The older format of torch.save, several pickles and then the storages, or a plain pickle of numpy arrays."""
    content = _Unpickler(file).load()
    if content != LEGACY_MAGIC:
        return content, None
    for _ in range(2):  # protocol version, properties of the machine
        _Unpickler(file).load()
    reader = _Unpickler(file)
    content = reader.load()
    loaded = {}
    for key in _Unpickler(file).load():
        storage = reader.storages[key]
        if int.from_bytes(file.read(8), "little") != storage.count:
            raise InputError(f"storage {key} is not of the length announced")
        size = storage.count * np.dtype(STORAGES[storage.kind]).itemsize
        if size > MOST_BYTES:
            raise InputError(f"storage {key} would take {size} bytes")
        loaded[key] = _numbers(file.read(size), storage)
    return content, lambda storage: loaded[storage.key]


def _tensor(storage, offset, shape, strides, *_):
    """Stands for torch._utils._rebuild_tensor_v2."""
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _empty(kind, shape, typecode):
    """Stands for numpy's _reconstruct, whose array a pickle then fills: it may not ask for memory by itself."""
    if kind is not _NDARRAY or shape != (0,):
        raise InputError(f"it wants an array of shape {shape} that nothing was written of")
    return np.ndarray((0,), typecode)


def _parameter(tensor, *_):
    """Stands for torch._utils._rebuild_parameter."""
    return tensor


class _Unpickler(pickle.Unpickler):
    """Knows the names that make up arrays, and no others."""

    def __init__(self, file):
        super().__init__(file, encoding="latin1")  # the zoo's files were written by Python 2
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if module == "torch" and name in STORAGES:
            return name
        if module in NUMPY_PLACES and name == "ndarray":
            return _NDARRAY
        if module in NUMPY_PLACES and name == "dtype":
            return np.dtype
        if module in NUMPY_PLACES and name == "_reconstruct":
            return _empty
        if module in NUMPY_PLACES and name in ("scalar", "_frombuffer"):
            place = "numpy._core.numeric" if name == "_frombuffer" else "numpy._core.multiarray"
            return getattr(importlib.import_module(place), name)
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise InputError(f"it wants {module}.{name}, which is not needed for weights and is not run")

    def persistent_load(self, pid):
        kind, storage_class, key, _, count = pid[:5]
        if kind != "storage" or storage_class not in STORAGES:
            raise InputError(f"it refers to a {kind}, which is not known")
        return self.storages.setdefault(str(key), _Storage(storage_class, str(key), int(count)))


def _encode(text, encoding):
    """Bytes that pickle of Python 3 wrote in the protocol of Python 2."""
    return text.encode("latin1") if encoding == "latin1" else text.encode("utf-8")
