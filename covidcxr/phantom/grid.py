"""Voxel grids and the few operations the generator is built from.

Only additions, products, quotients and square roots touch voxels, so that two machines round the same way; angles and powers
are taken on scalars and control points, which are rounded to a ten-thousandth of a millimetre.
Axes everywhere in this package: x grows to the patient's left, y to posterior, z to superior; millimetres.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Voxel centres of a rectilinear grid: three increasing float64 vectors in mm, equally spaced along each axis."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray

    @classmethod
    def box(cls, lower, upper, spacing) -> "Grid":
        """Grid from `lower` to `upper` (mm, three numbers each) with the given spacing (mm)."""
        axes = []
        for low, high, step in zip(lower, upper, spacing, strict=True):
            count = max(2, int(round((high - low) / step)))
            axes.append(low + step * (np.arange(count) + 0.5))
        return cls(*axes)

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y and z."""
        return self.x, self.y, self.z

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y and z."""
        return len(self.x), len(self.y), len(self.z)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of voxel centres along x, y and z, mm."""
        return float(self.x[1] - self.x[0]), float(self.y[1] - self.y[0]), float(self.z[1] - self.z[0])

    def scaled(self, factors) -> "Grid":
        """The same voxels with coordinates divided by `factors` (x, y, z)."""
        return Grid(*(axis / factor for axis, factor in zip(self.axes, factors, strict=True)))

    def mesh(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates as float32 arrays that broadcast to `shape`."""
        return (
            self.x.astype(np.float32)[:, None, None],
            self.y.astype(np.float32)[None, :, None],
            self.z.astype(np.float32)[None, None, :],
        )


def resample(values: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Linear interpolation of `values` on `source` to the voxels of `target`; beyond the edge the edge value holds."""
    for axis, (old, new) in enumerate(zip(source.axes, target.axes, strict=True)):
        if len(old) == len(new) and np.array_equal(old, new):
            continue
        place = np.clip((new - old[0]) / (old[1] - old[0]), 0, len(old) - 1)
        index = np.minimum(place.astype(np.int64), len(old) - 2)
        weight = (place - index).astype(np.float32)
        weight = weight.reshape([-1 if a == axis else 1 for a in range(3)])
        below = np.take(values, index, axis=axis)
        above = np.take(values, index + 1, axis=axis)
        above -= below
        above *= weight
        above += below
        values = above
    return values


def coverage(level: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Share of each voxel of `target` inside the surface `level` = 0 (negative inside), as a box-filtered edge.

    The edge is as wide as a target voxel seen along the surface normal, so that thick slices show partial volume and thin
    ones a sharp border, whatever the scale of `level`.
    """
    width = np.full(level.shape, 1e-3, np.float32)
    for axis, (own, step) in enumerate(zip(source.spacing, target.spacing, strict=True)):
        slope = np.gradient(level, axis=axis)
        np.abs(slope, out=slope)
        slope *= np.float32(step / own)
        width += slope
    inside = resample(level / width, source, target)
    np.subtract(np.float32(0.5), inside, out=inside)
    return np.clip(inside, 0, 1, out=inside)


def mix(hu: np.ndarray, share: np.ndarray, value) -> None:
    """In place: replace `share` of each voxel by `value` (a number or an array)."""
    hu += share * (np.float32(value) - hu if isinstance(value, float | int) else value - hu)


def deposit(hu: np.ndarray, grid: Grid, points: np.ndarray, volumes: np.ndarray, values: np.ndarray) -> None:
    """In place: material given as points ((N, 3) mm, `volumes` mm³, `values` HU) replaces what the voxels held.

    Along the fine axes each point is shared out between its two neighbours; along an axis three times as coarse it goes to
    the voxel that holds it, which for a dense cloud is the voxel's partial volume. Volume is kept either way.
    """
    if not len(points):
        return
    shape = np.array(grid.shape)
    start = np.array([axis[0] for axis in grid.axes])
    spacing = np.array(grid.spacing)
    place = (points - start) / spacing
    keep = np.all((place > 0) & (place < shape - 1), axis=1)
    place, volumes, values = place[keep], volumes[keep], values[keep]
    if not len(place):
        return
    shared = spacing < 3 * spacing.min()
    place[:, ~shared] = np.floor(place[:, ~shared] + 0.5)
    base = place.astype(np.int64)
    part = place - base
    low = base.min(axis=0)
    size = base.max(axis=0) + 1 + shared - low
    base -= low
    strides = np.array([size[1] * size[2], size[2], 1])
    index = base @ strides
    single = values.min() == values.max()
    total, moment = np.zeros(int(size.prod())), np.zeros(0 if single else int(size.prod()))
    for corner in np.ndindex(*(2 if s else 1 for s in shared)):
        weight = volumes
        for axis, step in enumerate(corner):
            if shared[axis]:
                weight = weight * (part[:, axis] if step else 1 - part[:, axis])
        at = index + int((np.array(corner) * strides).sum())
        total += np.bincount(at, weight, minlength=len(total))
        if not single:
            moment += np.bincount(at, weight * values, minlength=len(total))
    inner = tuple(slice(int(a), int(a + n)) for a, n in zip(low, size, strict=True))
    share = np.minimum(total / spacing.prod(), 1).astype(np.float32).reshape(size)
    if single:
        mix(hu[inner], share, float(values[0]))
    else:
        mix(hu[inner], share, (moment / np.maximum(total, 1e-12)).astype(np.float32).reshape(size))


def smooth_union(first: np.ndarray, second: np.ndarray, radius: float) -> np.ndarray:
    """Union of two level sets with a fillet of about `radius` mm (polynomial smooth minimum)."""
    share = np.clip(np.float32(0.5) + (second - first) * np.float32(0.5 / radius), 0, 1)
    return second + share * (first - second) - np.float32(radius) * share * (1 - share)


def smooth_noise(grid: Grid, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Random field on `grid`, zero mean, standard deviation about 1, correlated over about `scale` mm; float32."""
    knots = Grid(*(axis[0] - scale + scale * np.arange(int((axis[-1] - axis[0]) / scale) + 4) for axis in grid.axes))
    field = rng.standard_normal(knots.shape).astype(np.float32)
    for axis in range(3):
        field = (np.roll(field, 1, axis) + 2 * field + np.roll(field, -1, axis)) / np.float32(2.45)
    return resample(field, knots, grid)


def profile(at: np.ndarray, knots, values) -> np.ndarray:
    """Smooth curve without overshoot through (knots, values); constant beyond the ends. `knots` in any order."""
    from scipy.interpolate import PchipInterpolator

    order = np.argsort(knots)
    knots, values = np.asarray(knots, float)[order], np.asarray(values, float)[order]
    return np.round(PchipInterpolator(knots, values)(np.clip(at, knots[0], knots[-1])), 6)
