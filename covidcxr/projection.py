"""Radiographs from CT: parallel projection of a volume, and of its masks with the same geometry (ramesh2021, section 2.2).

Three modes, from the paper's formula to the physics of a radiograph:

- `sum`: Eq. (1) literally, theta(x, z) = sum over y of phi(x, y, z). Air counts as -1000 per voxel, spacing is ignored
  along the ray, so volumes of different spacing are on different scales.
- `mean`: the same divided by the number of voxels on the ray.
- `beer_lambert`: mu = mu_water (1 + HU / 1000), never below 0; I / I0 = exp(-sum of mu times the path in cm).

Limits: one energy; parallel rays, where a real tube sends a cone (the heart is not magnified here); no scatter, noise or
detector; arms are up in CT; the table is part of the picture unless `body_only` takes it out.

Pictures are spacing-true: square pixels, superior up. Frontal: the patient's right on the picture's left. Lateral: the
patient's front on the picture's left.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from covidcxr.errors import InputError, ParameterError
from covidcxr.resizing import resize
from covidcxr.volumes import Volume, memory_order, slabs, to_hu

Mode = Literal["sum", "mean", "beer_lambert"]
View = Literal["frontal", "lateral"]

# Per cm. Liquid water, NIST XCOM tables (mu/rho in cm2/g): 0.2059 at 60 keV, 0.1837 at 80 keV; log-log between them at
# 70 keV, about the mean energy of the tube voltages that chest CT uses, for which the HU were made.
MU_WATER = 0.1937
BODY_HU = -400  # between lung (-900 to -500) and soft tissue (0 to 100)
_LONGEST_SIDE = 16384
_RAY_AXIS = {"frontal": 1, "lateral": 0}


@dataclass(frozen=True, eq=False)
class Projection:
    """A projected volume.

    Attributes:
        image: float32 (H, W). sum: HU times voxels; mean: HU; beer_lambert: I / I0, the fraction that passes, 0 to 1.
            Of a volume that is not in HU, grey values stand in the place of HU.
        pixel_mm: side of the square pixels.
        mode, view: as given to `project`.
        units: the volume's units.
    """

    image: np.ndarray
    pixel_mm: float
    mode: Mode
    view: View
    units: str


class MaskProjection(NamedTuple):
    """A projected mask: `thickness` float32 (H, W), mm of mask along the ray; `support` bool (H, W), where a ray meets it."""

    thickness: np.ndarray
    support: np.ndarray


def project(
    volume: Volume,
    mode: Mode = "sum",
    view: View = "frontal",
    pixel_mm: float | None = None,
    *,
    window: tuple[float, float] | None = None,
    mu_water: float = MU_WATER,
    body_only: bool = False,
) -> Projection:
    """Project a volume along parallel rays, front to back (frontal) or right to left (lateral).

    Args:
        volume: from `volumes.read_volume`; its voxels are summed as integers in the order of memory, without a copy.
        mode: "sum", "mean" or "beer_lambert".
        view: "frontal" or "lateral".
        pixel_mm: side of the picture's pixels; default: the finer spacing of the picture's two axes.
        window: (low, high) in HU, to re-derive HU of a volume of grey values first (`volumes.to_hu`; copies it once).
        mu_water: attenuation of water per cm, for beer_lambert.
        body_only: count everything outside `body_mask` as air.

    Raises:
        ParameterError: unknown mode or view, pixel or mu_water not positive.
        InputError: beer_lambert or body_only of a volume that is not in HU.
    """
    _check_choice("mode", mode, Mode)
    axis = _ray_axis(view)
    if not mu_water > 0:
        raise ParameterError(f"mu_water is an attenuation per cm, above 0; found {mu_water!r}.")
    if window is not None:
        volume = to_hu(volume, window)
    if volume.units != "HU" and (mode == "beer_lambert" or body_only):
        need = "mode='beer_lambert'" if mode == "beer_lambert" else "body_only=True"
        found = "grey values 0 to 255 of a window" if volume.units == "windowed" else "values that are not recognised as HU"
        raise InputError(
            f"{volume.path}: {need} needs HU, found {found}. "
            + ("Give the window they were made with, such as window=(-1250, 250), or use mode='mean'."
               if volume.units == "windowed" else "Convert the file to HU, or use mode='mean'.")
        )
    floor = -1000 if mode == "beer_lambert" else None  # mu is never negative
    total = _sum_along(volume.voxels, axis, floor, body_mask(volume) if body_only else None)
    depth = volume.shape[axis]
    if mode == "sum":
        values = total.astype(np.float32)
    elif mode == "mean":
        values = (total / depth).astype(np.float32)
    else:
        path_cm = volume.spacing[axis] / 10
        values = np.exp(-mu_water * path_cm * (total / 1000 + depth)).astype(np.float32)
    pixel = _pixel(volume.spacing, view, pixel_mm)
    return Projection(_picture(values, volume.spacing, view, pixel), pixel, mode, view, volume.units)


def project_mask(
    mask: np.ndarray, like: Volume | tuple[float, float, float], view: View = "frontal", pixel_mm: float | None = None
) -> MaskProjection:
    """Project a mask onto the same pixels that `project` gives its volume.

    Args:
        mask: bool or integer (X, Y, Z) in the order of the volume; what is not 0 counts.
        like: the volume, or its spacing in mm.
        view, pixel_mm: as for `project`.

    Returns:
        MaskProjection(thickness, support). Where pixels are coarser than voxels, a pixel belongs to the support when at
        least half of it does, so that areas are kept; a region thinner than half a pixel is lost.
    """
    axis = _ray_axis(view)
    mask = np.asarray(mask)
    if mask.ndim != 3 or mask.dtype.kind not in "biu":
        raise InputError(f"A mask is bool or integer with three axes; found {mask.dtype} of shape {mask.shape}.")
    if isinstance(like, Volume):
        if mask.shape != like.shape:
            raise InputError(f"The mask has shape {mask.shape}, its volume {like.path} has {like.shape}; they must be equal.")
        spacing = like.spacing
    else:
        if len(like) != 3 or not all(s > 0 for s in like):
            raise InputError(f"Spacing is three lengths in mm above 0; found {like!r}.")
        spacing = float(like[0]), float(like[1]), float(like[2])
    counts = _sum_along(mask.view(np.uint8) if mask.dtype == bool else mask, axis, None, None, binary=True)
    pixel = _pixel(spacing, view, pixel_mm)
    thickness = _picture((counts * spacing[axis]).astype(np.float32), spacing, view, pixel)
    share = _picture((counts > 0).astype(np.float32), spacing, view, pixel)
    return MaskProjection(thickness, share >= 0.5)


def display(projection: Projection, low: float = 1.0, high: float = 99.5) -> np.ndarray:
    """Map a projection to [0, 1] for looking at, bone white: float32 (H, W).

    beer_lambert is shown as -log(I / I0), as detectors do. Grey runs from the `low` to the `high` percentile of the
    picture, so that single bright pixels (metal, table edges) do not darken the rest.
    """
    image = projection.image
    if projection.mode == "beer_lambert":
        image = -np.log(np.maximum(image, np.finfo(np.float32).tiny))
    bottom, top = np.percentile(image, [low, high])
    if top <= bottom:
        return np.zeros_like(image)
    return np.clip((image - bottom) / np.float32(top - bottom), 0, 1).astype(np.float32)


def body_mask(volume: Volume, step_mm: float = 3.0) -> np.ndarray:
    """The patient without the table: bool (X, Y, Z).

    On a grid of about `step_mm`: what is above -400 HU, opened by one step within each axial slice, which cuts thin sheets
    such as a table's shell and blankets; the largest connected part; all that it encloses in each slice, so that lungs and
    airways are in; opened by three steps, now that it is solid, and given one step of margin. Arms that touch the body stay.

    Raises:
        InputError: the volume is not in HU, or holds nothing as dense and wide as a body.
    """
    from scipy import ndimage

    if volume.units != "HU":
        raise InputError(f"{volume.path}: a body mask needs HU, found units {volume.units!r}.")
    steps = [max(1, round(step_mm / s)) for s in volume.spacing]
    every = tuple(slice(k // 2, None, k) if n > k else slice(None) for k, n in zip(steps, volume.shape, strict=True))
    within = ndimage.generate_binary_structure(2, 1)[..., None]  # not across slices: thick ones differ too much

    def opened(mask: np.ndarray, times: int) -> np.ndarray:
        edge = ((times, times), (times, times), (0, 0))  # so that a body cut by the field of view is not eroded there
        return ndimage.binary_opening(np.pad(mask, edge, mode="edge"), within, times)[times:-times, times:-times]

    parts, count = ndimage.label(opened(volume.voxels[every] > BODY_HU, 1))
    if count == 0:
        raise InputError(f"{volume.path}: no body found, nothing {3 * step_mm:g} mm wide is above {BODY_HU} HU.")
    body = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    for z in range(body.shape[2]):
        body[:, :, z] = ndimage.binary_fill_holes(body[:, :, z])
    body = ndimage.binary_dilation(opened(body, 3), within)
    full = np.empty_like(volume.voxels, dtype=bool)  # same memory order as the voxels
    index = [np.minimum(np.arange(n) // k, m - 1) for n, k, m in zip(volume.shape, steps, body.shape, strict=True)]
    for z, coarse in enumerate(index[2]):
        full[:, :, z] = body[:, :, coarse][np.ix_(index[0], index[1])]
    return full


def _sum_along(voxels: np.ndarray, axis: int, floor: int | None, keep: np.ndarray | None, binary: bool = False) -> np.ndarray:
    """Exact sum along one axis, int64 over the other two; walks memory forwards in slabs, holds one slab at most.

    Args:
        floor: smallest value that counts; smaller ones are raised to it.
        keep: bool like voxels; elsewhere the value is air, -1000.
        binary: count what is not 0.
    """
    order = _memory_axes(voxels)
    ray = order.index(axis)
    forward = memory_order(voxels)
    inside = None if keep is None else _forward_like(keep, voxels)
    total = np.zeros([n for i, n in enumerate(forward.shape) if i != ray], np.int64)
    scratch = None if floor is None else np.empty_like(forward[next(slabs(forward))])
    for slab in slabs(forward):
        part = forward[slab]
        if binary:
            part = part != 0
        if floor is not None and scratch is not None:
            part = np.maximum(part, np.int16(floor), out=scratch[: len(part)])
        if inside is not None:
            part = np.where(inside[slab], part, np.int16(-1000))
        if ray == 0:
            total += part.sum(axis=0, dtype=np.int32)
        else:  # int32 holds 65535 voxels of any int16 value
            total[slab] = part.sum(axis=ray, dtype=np.int32)
    left = [a for a in order if a != axis]  # which anatomical axis each axis of `total` is
    total = total if left[0] < left[1] else total.T
    backwards = tuple(slice(None, None, -1 if voxels.strides[a] < 0 else 1) for a in sorted(left))
    return total[backwards]


def _memory_axes(array: np.ndarray) -> list[int]:
    return [int(i) for i in np.argsort([-abs(s) for s in array.strides], kind="stable")]


def _forward_like(array: np.ndarray, like: np.ndarray) -> np.ndarray:
    """`array` with its axes flipped and ordered as `memory_order(like)` does to `like`."""
    flipped = array[tuple(slice(None, None, -1 if s < 0 else 1) for s in like.strides)]
    return flipped.transpose(_memory_axes(like))


def _picture(values: np.ndarray, spacing, view: View, pixel_mm: float) -> np.ndarray:
    """From (right, up) or (front, up) indices to a picture: superior up, right or front on the left, square pixels."""
    rows, columns = values.shape[1] * spacing[2], values.shape[0] * spacing[_column_axis(view)]  # mm
    shape = max(1, round(rows / pixel_mm)), max(1, round(columns / pixel_mm))
    if max(shape) > _LONGEST_SIDE:
        raise ParameterError(
            f"Pixels of {pixel_mm:g} mm make a picture of {shape[0]} x {shape[1]}; the longest side allowed is {_LONGEST_SIDE}. "
            "Give a larger pixel_mm."
        )
    return resize(np.ascontiguousarray(values[::-1, ::-1].T), shape)


def _pixel(spacing, view: View, pixel_mm: float | None) -> float:
    if pixel_mm is None:
        return min(spacing[2], spacing[_column_axis(view)])
    if not 0 < pixel_mm < np.inf:
        raise ParameterError(f"pixel_mm is a length above 0; found {pixel_mm!r}.")
    return float(pixel_mm)


def _column_axis(view: View) -> int:
    return 1 - _RAY_AXIS[view]


def _ray_axis(view: View) -> int:
    _check_choice("view", view, View)
    return _RAY_AXIS[view]


def _check_choice(name: str, value: str, allowed) -> None:
    if value not in get_args(allowed):
        raise ParameterError(f"{name} is one of {', '.join(get_args(allowed))}; found {value!r}.")
