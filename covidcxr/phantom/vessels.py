"""Pulmonary arteries, veins and bronchi: trees that grow from each hilum into the lung.

Targets are scattered through the lung; each is joined, nearest first, to the point of the tree that makes the shortest
detour from the hilum. Calibres follow from the number of tips fed (a Murray law), so that vessels taper and fork as they do.
"""

import numpy as np

from covidcxr.phantom import shapes
from covidcxr.phantom.anatomy import BLOOD, Thorax

HILA = {
    ("artery", -1): (-36.0, 7.0, -16.0), ("artery", 1): (42.0, 17.0, -4.0),
    ("vein", -1): (-28.0, 12.0, -38.0), ("vein", 1): (38.0, 18.0, -38.0),
}


def _targets(level: np.ndarray, thorax: Thorax, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points scattered inside one lung, at least 7 mm under the pleura."""
    # Thrown over the whole chest and kept where they hit: in another breath or pose most of a person's vessels stay.
    spread = np.round(rng.random((24 * count, 3)) * (300, 200, 320) - (150, 100, 200), 3)
    start = np.array([axis[0] for axis in thorax.grid.axes])
    place = np.floor((spread - start) / np.array(thorax.grid.spacing) + 0.5).astype(int)
    return spread[level[place[:, 0], place[:, 1], place[:, 2]] < -7][:count]


def grow(root: np.ndarray, targets: np.ndarray, rng: np.random.Generator):
    """Tree as (nodes (N, 3), parent (N,)); the parent of the root is -1."""
    order = np.argsort(np.round(((targets - root) ** 2).sum(axis=1), 6), kind="stable")
    capacity = 1 + 14 * len(targets)
    nodes = np.zeros((capacity, 3))
    parent = np.full(capacity, -1)
    depth = np.zeros(capacity)
    nodes[0] = root
    used = 1
    for target in targets[order]:
        away = np.sqrt(((nodes[:used] - target) ** 2).sum(axis=1))
        at = int(np.argmin(np.round(away + 0.55 * depth[:used], 6)))
        steps = int(min(12, max(1, round(away[at] / 9))))
        start, previous = nodes[at].copy(), at
        side = rng.standard_normal(3) * 0.07 * away[at]
        # Branches leave their parent gradually: the curve starts along the parent's own direction.
        heading = start - nodes[parent[at]] if parent[at] >= 0 else np.zeros(3)
        size = np.sqrt((heading**2).sum())
        heading = heading / size * away[at] * 0.35 if size > 0 else heading
        for k in range(1, steps + 1):
            t = k / steps
            nodes[used] = start + t * (target - start) + t * (1 - t) * (side + heading * (1 - t))
            parent[used] = previous
            depth[used] = depth[previous] + away[at] / steps
            previous = used
            used += 1
    return shapes.rounded(nodes[:used]), parent[:used]


def calibres(parent: np.ndarray, tip: float, power: float, largest: float) -> np.ndarray:
    """Radius of each node: tip * (tips fed)^(1/power), at most `largest` mm."""
    fed = np.zeros(len(parent))
    has_child = np.zeros(len(parent), bool)
    has_child[parent[1:]] = True
    fed[~has_child] = 1
    for node in range(len(parent) - 1, 0, -1):
        fed[parent[node]] += fed[node]
    return np.round(np.minimum(tip * fed ** (1 / power), largest), 4)


def _cloud(nodes, parent, radius, step: float, value: float):
    """Points of all branches, grouped by calibre so that thin ones cost little."""
    child = np.arange(1, len(nodes))
    start, end = nodes[parent[child]], nodes[child]
    length = np.sqrt(((end - start) ** 2).sum(axis=1))
    size = radius[child]
    clouds = []
    edges = (0.0, 0.8, 1.3, 2.0, 3.2, 5.0, 99.0)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        pick = np.flatnonzero((size >= low) & (size < high))
        if not len(pick):
            continue
        widest = float(size[pick].max())
        count = max(1, int(np.ceil(np.pi * widest**2 / step**2)))
        pattern = shapes.disc(count) if count > 1 else np.zeros((1, 2))
        repeats = np.maximum(1, (length[pick] / step).astype(int) + 1)
        which = np.repeat(pick, repeats)
        first = np.cumsum(repeats) - repeats
        t = (np.arange(len(which)) - np.repeat(first, repeats) + 0.5) / np.repeat(repeats, repeats)
        axis = (end[which] - start[which]) / np.maximum(length[which], 1e-6)[:, None]
        helper = np.where(np.abs(axis[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
        one = np.cross(axis, helper)
        one /= np.sqrt((one**2).sum(axis=1, keepdims=True)) + 1e-9
        two = np.cross(axis, one)
        centre = start[which] + t[:, None] * (end[which] - start[which])
        r = size[which][:, None, None]
        points = centre[:, None] + r * (pattern[:, :1] * one[:, None] + pattern[:, 1:] * two[:, None])
        volume = np.pi * size[which] ** 2 * length[which] / np.repeat(repeats, repeats) / count
        clouds.append((
            shapes.rounded(points.reshape(-1, 3)), np.repeat(volume, count), np.full(len(which) * count, value),
        ))
    return shapes.joined(clouds)


def trees(thorax: Thorax, step: float, tips: int):
    """Two clouds, blood and air, of every lung's arteries, veins and bronchi (reference coordinates, mm)."""
    blood, air = [], []
    for side, level in ((-1, thorax.right), (1, thorax.left)):
        for kind in ("artery", "vein"):
            rng = thorax.person.stream(20 + (side > 0) + 2 * (kind == "vein"))
            targets = _targets(level, thorax, tips, rng)
            if not len(targets):
                continue
            root = np.array(HILA[kind, side])
            nodes, parent = grow(root, targets, rng)
            radius = calibres(parent, 0.80, 2.3, 8.5 if kind == "artery" else 6.5)
            blood.append(_cloud(nodes, parent, radius, step, BLOOD - 4))
            if kind == "artery":
                large = radius > 1.5
                keep = np.flatnonzero(large)
                remap = np.full(len(nodes), -1)
                remap[keep] = np.arange(len(keep))
                shift = np.array([0.0, 0.75, 0.75])
                moved = nodes[keep] + radius[keep][:, None] * shift * 1.25
                up = remap[parent[keep]]
                up[0] = -1
                calibre = radius[keep] * 0.78
                if len(keep) > 2:
                    blood.append(_cloud(moved, up, calibre + 0.9, step, -60.0))
                    air.append(_cloud(moved, up, np.maximum(calibre - 0.5, 0.4), step, -980.0))
    empty = (np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    return (shapes.joined(blood) if blood else empty), (shapes.joined(air) if air else empty)
