"""Level sets on a grid (negative inside, roughly mm) and point clouds of tubes and plates."""

import numpy as np

from covidcxr.phantom.grid import Grid


def rounded(value: np.ndarray) -> np.ndarray:
    """Coordinates to 1e-4 mm: the last bits of sines and powers differ between machines, this does not."""
    return np.round(np.asarray(value, float), 4)


def squircle(u, v, boxiness: float):
    """Radius of (u, v) in a norm between circle (0) and a squarish oval (1): sqrt((1-k)(u²+v²) + k sqrt(u⁴+v⁴))."""
    u2, v2 = u * u, v * v
    return np.sqrt((1 - boxiness) * (u2 + v2) + boxiness * np.sqrt(u2 * u2 + v2 * v2))


def ellipsoid(grid: Grid, centre, radii, along=None) -> np.ndarray:
    """Ellipsoid; `along` is the direction of the first radius (default: x), the other axes follow from it and z."""
    x, y, z = grid.mesh()
    x, y, z = x - np.float32(centre[0]), y - np.float32(centre[1]), z - np.float32(centre[2])
    a, b, c = (np.float32(r) for r in radii)
    if along is not None:
        first, second, third = frame(np.asarray(along, float))
        x, y, z = (
            np.float32(d[0]) * x + np.float32(d[1]) * y + np.float32(d[2]) * z for d in (first, second, third)
        )
    q = (x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2
    return (np.sqrt(q) - 1) * np.float32(min(radii))


def frame(direction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three orthonormal vectors, the first along `direction`, the third as near to superior as can be."""
    first = direction / np.sqrt((direction**2).sum())
    helper = np.array([0.0, 0.0, 1.0]) if abs(first[2]) < 0.95 else np.array([0.0, 1.0, 0.0])
    third = helper - first * (helper * first).sum()
    third /= np.sqrt((third**2).sum())
    second = np.array([
        third[1] * first[2] - third[2] * first[1],
        third[2] * first[0] - third[0] * first[2],
        third[0] * first[1] - third[1] * first[0],
    ])
    return rounded(first), rounded(second), rounded(third)


def tube_level(grid: Grid, path, radius, reach: float = 40.0) -> np.ndarray:
    """Tube around the polyline `path` ((N, 3) mm) of `radius` (a number or one per node); exact within `reach` mm."""
    path = np.asarray(path, float)
    radii = np.broadcast_to(np.asarray(radius, float), len(path))
    level = np.full(grid.shape, np.float32(reach))
    for start, end, r0, r1 in zip(path[:-1], path[1:], radii[:-1], radii[1:], strict=True):
        span = reach + max(r0, r1)
        block = tuple(
            slice(*np.searchsorted(axis, (min(p, q) - span, max(p, q) + span)))
            for axis, p, q in zip(grid.axes, start, end, strict=True)
        )
        part = level[block]
        if not part.size:
            continue
        x, y, z = Grid(*(axis[b] for axis, b in zip(grid.axes, block, strict=True))).mesh()
        x, y, z = (a - np.float32(s) for a, s in zip((x, y, z), start, strict=True))
        d = (end - start).astype(np.float32)
        t = np.clip((x * d[0] + y * d[1] + z * d[2]) / np.float32(max((d * d).sum(), 1e-6)), 0, 1)
        far = np.sqrt((x - t * d[0]) ** 2 + (y - t * d[1]) ** 2 + (z - t * d[2]) ** 2)
        np.minimum(part, far - (np.float32(r0) + t * np.float32(r1 - r0)), out=part)
    return level


def resample_path(path: np.ndarray, step: float, *columns: np.ndarray):
    """Points every `step` mm along a polyline; `columns` (one value per node) are interpolated alike."""
    path = np.asarray(path, float)
    lengths = np.sqrt((np.diff(path, axis=0) ** 2).sum(axis=1))
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    count = max(2, int(along[-1] / step) + 1)
    at = (np.arange(count) + 0.5) * along[-1] / count
    points = np.stack([np.interp(at, along, path[:, k]) for k in range(3)], axis=1)
    return points, along[-1] / count, [np.interp(at, along, np.broadcast_to(c, len(path))) for c in columns]


def disc(count: int) -> np.ndarray:
    """`count` points spread evenly over the unit disc (sunflower), (count, 2)."""
    k = np.arange(count) + 0.5
    radius, angle = np.sqrt(k / count), k * np.pi * (3 - np.sqrt(5))
    return rounded(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1))


def tube_cloud(path, across, up, step: float, shell: float = 0.0, core: float = 0.0, wall: float = 0.0, hint=None):
    """Points of a solid tube with elliptic section.

    Args:
        path: (N, 3) mm. across, up: half axes in mm (number or per node) along the two normals; `hint` is the direction
            that `across` lies nearest to (a vector, or one per node), by default posterior.
        shell, core: HU of the outer `wall` mm and of the inside.
    Returns: points (M, 3), volumes (M,), values (M,).
    """
    path = np.asarray(path, float)
    hint = np.broadcast_to(np.asarray([0.0, 1.0, 0.0] if hint is None else hint, float), path.shape)
    nodes, ds, (a, b, hx, hy, hz) = resample_path(path, step, across, up, hint[:, 0], hint[:, 1], hint[:, 2])
    tangent = np.gradient(nodes, axis=0)
    tangent /= np.sqrt((tangent**2).sum(axis=1, keepdims=True)) + 1e-12
    first = np.stack([hx, hy, hz], axis=1)
    first -= tangent * (first * tangent).sum(axis=1, keepdims=True)
    first /= np.sqrt((first**2).sum(axis=1, keepdims=True)) + 1e-9
    second = np.cross(tangent, first)
    count = max(3, int(np.ceil(np.pi * a.max() * b.max() / step**2)))
    pattern = disc(count)
    # The pattern turns from node to node, so that its rings do not print through as stripes.
    turn = 2.399963 * np.arange(len(nodes))
    c, s = np.cos(turn)[:, None], np.sin(turn)[:, None]
    u, v = c * pattern[:, 0] - s * pattern[:, 1], s * pattern[:, 0] + c * pattern[:, 1]
    points = nodes[:, None] + (a[:, None] * u)[..., None] * first[:, None] + (b[:, None] * v)[..., None] * second[:, None]
    volumes = np.broadcast_to((np.pi * a * b * ds / count)[:, None], u.shape)
    depth = (1 - np.sqrt(u * u + v * v)) * np.minimum(a, b)[:, None]
    values = np.where(depth < wall, shell, core)
    return rounded(points.reshape(-1, 3)), volumes.ravel(), values.ravel()


def plate_cloud(corners, thickness: float, step: float, value: float, bow=(0.0, 0.0, 0.0)):
    """Points of a triangular plate ((3, 3) mm), `thickness` mm, bowed by `bow` mm at its middle."""
    a, b, c = np.asarray(corners, float)
    normal = np.cross(b - a, c - a)
    area = np.sqrt((normal**2).sum()) / 2
    n = max(2, int(np.sqrt(2 * area) / step))
    i, j = np.meshgrid(np.arange(n) + 0.5, np.arange(n) + 0.5, indexing="ij")
    u, v = i / n, j / n
    fold = u + v > 1
    u, v = np.where(fold, 1 - u, u).ravel(), np.where(fold, 1 - v, v).ravel()
    lift = 27 * u * v * (1 - u - v)
    points = a + u[:, None] * (b - a) + v[:, None] * (c - a) + lift[:, None] * np.asarray(bow, float)
    volume = np.full(len(points), area * thickness / len(points))
    return rounded(points), volume, np.full(len(points), float(value))


def joined(clouds):
    """One cloud from several (points, volumes, values)."""
    points, volumes, values = zip(*clouds, strict=True)
    return np.concatenate(points), np.concatenate(volumes), np.concatenate(values)
