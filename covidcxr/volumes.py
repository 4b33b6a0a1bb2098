"""CT volumes and their masks: read from NIfTI, put into one orientation, told apart by units.

A volume is held as int16 and never as floating point: a chest CT of 512 x 512 x 300 voxels takes 150 MiB that way and
600 MiB as float64. The compressed file is decompressed straight into the array. Orientation is nibabel's RAS+: axis 0
grows towards the patient's right, axis 1 towards the front (anterior), axis 2 towards the head (superior); reorienting is
a matter of strides and copies nothing.
"""

import itertools
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from covidcxr.errors import InputError
from covidcxr.streams import ByteStream

Units = Literal["HU", "windowed", "unknown"]

GRID_TOLERANCE = 0.1  # of the finest spacing: how far a voxel may lie from its partner in another file
OBLIQUE_DEGREES = 1.0  # tilt from which the affine is called oblique
MOST_VOXELS = 1 << 30  # a chest CT has some hundred million; a damaged or hostile header may ask for any number
_SLAB_BYTES = 1 << 20
_HEAD_BYTES = 1 << 20  # of a file, in which its header and the extensions of that must end


class VolumeWarning(UserWarning):
    """Something about a volume that a reader of the results should know, such as a tilted gantry."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT volume in RAS+ order.

    Attributes:
        voxels: int16 (X, Y, Z); often a view with negative strides of the array as the file stores it.
        spacing: (sx, sy, sz) in mm.
        affine: (4, 4) float64, voxel index to mm in RAS+.
        units: "HU"; "windowed" when the values are grey values 0 to 255 of some window; "unknown" otherwise.
        path: the file it came from, for messages.
        window: (low, high) in HU when HU were re-derived from grey values.
        notes: what was found and done on reading, in words (tilt, missing orientation, window, filled values).
    """

    voxels: np.ndarray
    spacing: tuple[float, float, float]
    affine: np.ndarray
    units: Units
    path: Path
    window: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels, (X, Y, Z)."""
        return self.voxels.shape


def read_volume(
    path: Path | str, window: tuple[float, float] | None = None, nan_value: float | None = None
) -> Volume:
    """Read a CT volume from a NIfTI file (.nii, .nii.gz, .hdr/.img).

    Args:
        path: the file.
        window: (low, high) in HU, for a file that holds grey values 0 to 255 of that window; HU are re-derived from it.
        nan_value: what stands in for NaN and infinity in files of floating point; None refuses such files.

    Returns:
        Volume with `units` "HU" or, for files that are not, "windowed" or "unknown" (see `detect_units`).

    Raises:
        InputError: the file is missing, not NIfTI, truncated or damaged; holds colour, complex or more than three axes;
            is empty (no voxels, or one value everywhere); holds NaN or values that int16 cannot; its affine says nothing.
    """
    path = Path(path)
    header = _open(path)
    raw, filled = _read_array(header, np.int16, nan_value)
    notes = list(header.notes)
    if filled:
        notes.append(f"{filled} voxels that are not finite were set to {nan_value:g}")
    return _assemble(raw, header.affine, path, window, notes)


def volume_from_array(voxels: np.ndarray, affine: np.ndarray, units: Units | None = None, path: str = "array") -> Volume:
    """A Volume from an array already in memory, checked and reoriented as `read_volume` does.

    Args:
        voxels: (X, Y, Z), integers within int16; int16 is not copied.
        affine: (4, 4), voxel index to mm in RAS+.
        units: what the values are; None detects it.
        path: name for messages.
    """
    voxels = np.asarray(voxels)
    if voxels.ndim != 3 or voxels.size == 0:
        raise InputError(f"{path}: a volume has three axes with at least one voxel each; found shape {voxels.shape}.")
    if voxels.dtype.kind not in "iu":
        raise InputError(f"{path}: voxels must be integers; found {voxels.dtype}. Round them to HU first.")
    if voxels.dtype != np.int16:
        _check_range(float(voxels.min()), float(voxels.max()), np.int16, path)
        voxels = voxels.astype(np.int16)
    return _assemble(voxels, _check_affine(np.asarray(affine, float), path), Path(path), None, [], units)


def read_mask(path: Path | str, like: Volume, tolerance_mm: float | None = None) -> np.ndarray:
    """Read a mask that belongs to a volume.

    Args:
        path: NIfTI file of label values, integers 0 to 255 in any number format.
        like: the volume; the mask must lie on the same grid (its own axes may run in other directions).
        tolerance_mm: how far any voxel may lie from its partner; default: a tenth of the finest spacing.

    Returns:
        uint8 (X, Y, Z) label values in the order of `like.voxels`.

    Raises:
        InputError: as `read_volume` (an empty mask is fine); another shape or another place than the volume; values that
            are not whole numbers 0 to 255.
    """
    path = Path(path)
    header = _open(path)
    canonical_shape = tuple(header.shape[i] for i in np.argsort(header.orientation[:, 0]))
    if canonical_shape != like.shape:
        raise InputError(
            f"Mask and volume differ in shape: {path} has {canonical_shape} voxels (right, front, up), "
            f"{like.path} has {like.shape}. Give the mask that was drawn on this volume."
        )
    affine = _canonical_affine(header.affine, header.orientation, header.shape)
    off = corner_distance(affine, like.affine, like.shape)
    limit = GRID_TOLERANCE * min(like.spacing) if tolerance_mm is None else tolerance_mm
    if off > limit:
        raise InputError(
            f"Mask and volume lie in different places: voxels of {path} are up to {off:.2f} mm away from those of "
            f"{like.path} (allowed {limit:.3f} mm). Mask affine {_short(affine)}, volume affine {_short(like.affine)}. "
            "Give the mask that was drawn on this volume, or resample it to the volume's grid."
        )
    raw, _ = _read_array(header, np.uint8, None)
    return _reorient(raw, header.orientation)


def to_hu(volume: Volume, window: tuple[float, float]) -> Volume:
    """HU from grey values: 0 becomes the window's low end, 255 its high end. What the window cut off stays cut off.

    Args:
        volume: with units "windowed".
        window: (low, high) in HU, low < high.
    """
    low, high = _check_window(window, volume.path)
    if volume.units != "windowed":
        raise InputError(
            f"{volume.path}: a window turns grey values 0 to 255 into HU, but this volume's units are {volume.units!r}. "
            "Leave the window out."
        )
    table = np.rint(low + np.arange(256) * (high - low) / 255).astype(np.int16)
    voxels = np.empty_like(volume.voxels)  # keeps the memory order, so slabs stay contiguous
    source, target = memory_order(volume.voxels), memory_order(voxels)
    for slab in slabs(source):
        target[slab] = table[source[slab]]
    note = f"HU re-derived from grey values 0 to 255 of the window [{low:g}, {high:g}]; values beyond it are lost"
    notes = tuple(n for n in volume.notes if "grey values" not in n) + (note,)
    return replace(volume, voxels=voxels, units="HU", window=(low, high), notes=notes)


def detect_units(voxels: np.ndarray) -> Units:
    """Tell HU from grey values by the values themselves; no header of a NIfTI file says it.

    A chest CT in HU holds air (lung and room, below -500) and soft tissue (-200 to 300), each at least 1 % of the voxels.
    Values all within 0 to 255 are the grey values of a window. Anything else, such as stored values offset by 1024 or a
    volume without air, is "unknown".
    """
    low, high = _extremes(voxels)
    if low >= 0 and high <= 255:
        return "windowed"
    sample = voxels[tuple(slice(None, None, max(1, n // 48)) for n in voxels.shape)]
    air = np.count_nonzero(sample < -500) / sample.size
    soft = np.count_nonzero((sample > -200) & (sample < 300)) / sample.size
    return "HU" if air >= 0.01 and soft >= 0.01 else "unknown"


def memory_order(array: np.ndarray) -> np.ndarray:
    """The same voxels seen as they lie in memory: axes by falling stride, no axis running backwards. A view."""
    forward = array[tuple(slice(None, None, -1 if s < 0 else 1) for s in array.strides)]
    return forward.transpose(np.argsort([-s for s in forward.strides], kind="stable"))


def slabs(array: np.ndarray) -> Iterator[slice]:
    """Slices of the first axis, each of about a mebibyte."""
    step = max(1, _SLAB_BYTES // max(1, array[0].nbytes))
    for start in range(0, len(array), step):
        yield slice(start, min(start + step, len(array)))


def corner_distance(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """Largest distance in mm between a voxel's places under two affines; an affine map is furthest off at a corner."""
    corners = np.array([[*c, 1] for c in itertools.product(*[(0, n - 1) for n in shape])], float)
    return float(np.linalg.norm((corners @ (affine - other).T)[:, :3], axis=1).max())


# --- what a file says about itself ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Header:
    path: Path
    data_path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    affine: np.ndarray
    orientation: np.ndarray
    notes: list[str]


def _open(path: Path) -> _Header:
    """Read and check the header; no voxel is touched."""
    import nibabel as nib

    if not path.is_file():
        raise InputError(f"No such file: {path}. A volume is one NIfTI file (.nii or .nii.gz).")
    if not path.name.lower().endswith((".nii", ".nii.gz", ".hdr", ".img")):
        raise InputError(f"{path}: expected a NIfTI file (.nii or .nii.gz). Convert DICOM series with dcm2niix first.")
    try:
        image: Any = _load(path)
        if not isinstance(image, nib.Nifti1Pair | nib.Nifti2Pair):  # single files, pairs and NIfTI-2 derive from it
            found = type(image).__name__
            raise InputError(f"{path}: expected NIfTI, found {found}, which does not say how the patient lies.")
        proxy: Any = image.dataobj
        header = image.header
        shape, dtype = tuple(int(n) for n in image.shape), proxy.dtype
        offset, slope, intercept = int(proxy.offset), float(proxy.slope), float(proxy.inter)
        notes = _orientation_notes(header)
    except InputError:
        raise
    except Exception as error:
        # whatever a damaged header leads to inside nibabel
        raise InputError(f"{path}: not a readable NIfTI file ({error}). Get the file again.") from error
    if dtype.kind not in "iuf":
        kind = "colour" if dtype.names else str(dtype)
        raise InputError(f"{path}: expected one number per voxel, found {kind} voxels. Give the original CT or mask.")
    while len(shape) > 3 and shape[-1] == 1:  # some tools write (X, Y, Z, 1)
        shape = shape[:-1]
    if len(shape) != 3:
        raise InputError(f"{path}: expected three axes (X, Y, Z), found shape {shape}. Give one volume, not a series or a slice.")
    if 0 in shape:
        raise InputError(f"{path}: the volume is empty, its shape is {shape}. Get the file again.")
    if min(shape) < 0 or math.prod(shape) > MOST_VOXELS or not 0 <= offset <= _HEAD_BYTES:
        raise InputError(f"{path}: {shape} voxels from byte {offset} on are not those of a CT volume. Get the file again.")
    affine = _check_affine(np.asarray(image.affine, float), path)
    tilt = _tilt(affine)
    if tilt > OBLIQUE_DEGREES:
        notes.append(f"oblique affine, tilted by {tilt:.1f} degrees: the closest anatomical axes are used, nothing is resampled")
    return _Header(
        path, Path(image.file_map["image"].filename or path), shape, dtype, offset, slope, intercept, affine,
        nib.io_orientation(affine), notes,
    )


def _load(path: Path) -> Any:
    """The image as nibabel has it, without voxels. Of a single file nibabel sees the beginning only: the length of a header's
    extension is whatever the file says, and a small compressed file can hold any number of bytes."""
    import nibabel as nib

    if path.suffix.lower() in (".hdr", ".img"):
        return nib.load(path)
    head = bytearray(_HEAD_BYTES)
    with ByteStream(path) as stream:
        stream.fill(memoryview(head))
        del head[stream.position :]
    kind = nib.Nifti2Image if nib.Nifti2Header.may_contain_header(bytes(head)) else nib.Nifti1Image
    return kind.from_bytes(bytes(head))


def _orientation_notes(header) -> list[str]:
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if not sform and not qform:
        return ["the file states no orientation (sform and qform codes are 0); left-right is a guess"]
    if sform and qform:
        off = corner_distance(header.get_sform(), header.get_qform(), header.get_data_shape()[:3])
        if off > 1.0:
            return [f"sform and qform place voxels up to {off:.1f} mm apart; the sform is used"]
    return []


def _check_affine(affine: np.ndarray, path) -> np.ndarray:
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise InputError(f"{path}: the affine must be 4 x 4 finite numbers; found {_short(affine)}.")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if (lengths < 1e-3).any() or abs(np.linalg.det(affine[:3, :3] / np.maximum(lengths, 1e-9))) < 1e-3:
        raise InputError(f"{path}: the affine does not span space (spacing {lengths.round(4).tolist()} mm): {_short(affine)}.")
    return affine


def _tilt(affine: np.ndarray) -> float:
    """Largest angle in degrees between an array axis and the anatomical axis it stands for."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(np.abs(directions).max(axis=0), 0, 1))).max())


def _short(affine: np.ndarray) -> str:
    return str(np.round(affine[:3], 3).tolist()) if affine.ndim == 2 else str(affine)


# --- voxels -----------------------------------------------------------------------------------------------------------


def _assemble(raw: np.ndarray, affine: np.ndarray, path: Path, window, notes: list[str], units: Units | None = None) -> Volume:
    from nibabel import io_orientation

    low, high = _extremes(raw)
    if low == high:
        raise InputError(f"{path}: the volume is empty, every voxel is {low}. Get the file again.")
    orientation = io_orientation(affine)
    canonical = _canonical_affine(affine, orientation, raw.shape)
    voxels = _reorient(raw, orientation)
    sx, sy, sz = (float(s) for s in np.linalg.norm(canonical[:3, :3], axis=0))
    detected = units or detect_units(voxels)
    if units is None and detected == "windowed":
        notes.append(f"not in HU: grey values 0 to 255 (found {low} to {high}); name the window to re-derive HU")
    elif units is None and detected == "unknown":
        notes.append(f"not recognised as HU: values {low} to {high} without the air or the soft tissue of a chest CT")
    volume = Volume(voxels, (sx, sy, sz), canonical, detected, path, None, tuple(notes))
    for note in notes:
        if "grey values" not in note or window is None:
            warnings.warn(f"{path}: {note}", VolumeWarning, stacklevel=3)
    return volume if window is None else to_hu(volume, window)


def _reorient(array: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    from nibabel import apply_orientation

    return apply_orientation(array, orientation)


def _canonical_affine(affine: np.ndarray, orientation: np.ndarray, shape) -> np.ndarray:
    from nibabel.orientations import inv_ornt_aff

    return affine @ inv_ornt_aff(orientation, shape)


def _check_window(window, path) -> tuple[float, float]:
    low, high = (float(v) for v in window)
    if not (-32768 <= low < high <= 32767):
        raise InputError(f"{path}: a window is (low, high) in HU with low < high; found ({low:g}, {high:g}).")
    return low, high


def _extremes(voxels: np.ndarray) -> tuple[int, int]:
    flat = memory_order(voxels)
    pairs = [(int(flat[s].min()), int(flat[s].max())) for s in slabs(flat)]
    return min(p[0] for p in pairs), max(p[1] for p in pairs)


def _check_range(low: float, high: float, dtype, path) -> None:
    limits = np.iinfo(dtype)
    if low < limits.min or high > limits.max:
        raise InputError(
            f"{path}: values run from {low:g} to {high:g}; expected {limits.min} to {limits.max} "
            f"({'HU' if limits.min < 0 else 'label values'})."
        )


def _read_array(header: _Header, dtype, nan_value: float | None) -> tuple[np.ndarray, int]:
    """The file's voxels in the file's own order (X fastest), as int16 or uint8, and how many were not finite."""
    scaled = (header.slope, header.intercept) != (1.0, 0.0)
    filled = 0
    with _opened(header) as stream:  # decompression begins while the array is being made
        # not np.empty: it asks the system for huge pages, and getting those may take longer than reading the file
        flat = np.frombuffer(bytearray(math.prod(header.shape) * np.dtype(dtype).itemsize), dtype)
        _fill(stream, memoryview(bytearray(header.offset)), header)
        if header.dtype == flat.dtype and not scaled:
            _fill(stream, flat.data.cast("B"), header)
        else:
            step = max(1, _SLAB_BYTES // header.dtype.itemsize)
            buffer = np.empty(min(step, flat.size), header.dtype)
            for start in range(0, flat.size, step):
                part = buffer[: min(step, flat.size - start)]
                _fill(stream, part.view(np.uint8).data, header)
                filled += _convert(part, flat[start : start + part.size], header, nan_value)
        stream.finish(_HEAD_BYTES + flat.size * header.dtype.itemsize)
    return flat.reshape(header.shape, order="F"), filled


def _opened(header: _Header) -> ByteStream:
    """The file's bytes, if there can be as many as its header promises: gzip packs a thousand into one at best."""
    try:
        stream = ByteStream(header.data_path)
    except OSError as error:
        raise InputError(f"{header.data_path}: the voxels of {header.path} can't be read ({error.strerror}).") from error
    size = header.data_path.stat().st_size * (1100 if stream.compressed else 1)
    if header.offset + math.prod(header.shape) * header.dtype.itemsize > size:
        with stream:
            raise _ends_early(header, f"at most {size}")
    return stream


def _fill(stream: ByteStream, target: memoryview, header: _Header) -> None:
    if not stream.fill(target):
        raise _ends_early(header, stream.position)


def _ends_early(header: _Header, found: int | str) -> InputError:
    wanted = header.offset + math.prod(header.shape) * header.dtype.itemsize
    return InputError(
        f"{header.path}: the file ends early. Its header promises {wanted} bytes for {header.shape} voxels, "
        f"found {found}. Get the file again."
    )


def _convert(part: np.ndarray, target: np.ndarray, header: _Header, nan_value: float | None) -> int:
    """Scale, check and round one run of voxels into the target; returns how many were not finite."""
    values, filled = part, 0
    if (header.slope, header.intercept) != (1.0, 0.0):
        values = part * np.float64(header.slope) + header.intercept
    if values.dtype.kind == "f":
        bad = ~np.isfinite(values)
        filled = int(np.count_nonzero(bad))
        if filled and nan_value is None:
            raise InputError(
                f"{header.path}: holds values that are not finite (NaN or infinite), {filled} in the first part that has any. "
                "If they mark what lies outside the scan, say what stands in for them, such as nan_value=-1000."
            )
        if filled and nan_value is not None:
            values = np.where(bad, nan_value, values)
        whole = np.rint(values)
        if target.dtype == np.uint8 and not np.array_equal(whole, values):
            odd = float(values[whole != values][0])
            raise InputError(f"{header.path}: a mask holds whole label values; found {odd:g}. Resample by nearest neighbour.")
        if target.dtype == np.int16 and values.min() >= 0 and 0 < values.max() <= 1 and not np.array_equal(whole, values):
            raise InputError(f"{header.path}: values lie between 0 and 1, not HU. Give the CT before it was normalised.")
        values = whole
    _check_range(float(values.min()), float(values.max()), target.dtype, header.path)
    target[:] = values
    return filled
