"""Ribs, spine, clavicles, scapulae, sternum and humeri as clouds of bone points in reference coordinates."""

import numpy as np

from covidcxr.phantom import shapes
from covidcxr.phantom.anatomy import CAVITY_BOXINESS, Person, cavity_shape, spine_depth
from covidcxr.phantom.grid import profile

VERTEBRA = 23.0
T1 = 91.0
_FALL = (0, -0.045, 0.02, 0.22, 0.58, 0.86, 1)


def density(person: Person) -> float:
    """Bone mineral relative to a young adult."""
    loss = max(0, person.age - 45) * (0.009 if person.sex == "F" else 0.006)
    return 1.05 - loss


def rib_paths(person: Person):
    """Twelve ribs a side: (side, number, path (N, 3), outward (N, 3))."""
    rng = person.stream(5)
    slope = 1 + 0.12 * rng.standard_normal()
    for number in range(1, 13):
        drop = (34, 56, 72, 82, 90, 95, 97, 95, 90, 80, 56, 38)[number - 1] * slope
        end = (128, 142, 150, 152, 150, 146, 140, 132, 122, 112, 78, 56)[number - 1]
        start = T1 - VERTEBRA * (number - 1) + 5
        for side in (-1, 1):
            wobble = rng.standard_normal(2)
            angle = np.radians(np.linspace(13, end + 2 * wobble[0], 64))
            along = np.linspace(0, 1, 64) * end / 150
            # Level or rising behind, steep in the flank, flatter again in front.
            z = start - (drop + 2 * wobble[1]) * profile(along, (0, 0.1, 0.25, 0.42, 0.62, 0.82, 1), _FALL)
            width, depth, centre = cavity_shape(z)
            if number <= 2:
                # The first two ribs run outside the dome of the pleura, flatter than it.
                width, depth = np.maximum(width, 60 + 14 * number), np.maximum(depth, 36 + 8 * number)
            u, v = np.sin(angle), np.cos(angle)
            norm = shapes.squircle(u, v, CAVITY_BOXINESS)
            x, y = (width + 5) * u / norm, centre + (depth + 5) * v / norm
            fade = np.clip((np.degrees(angle) - 13) / 14, 0, 1)
            y = y * fade + (1 - fade) * (spine_depth(z) + 30)
            path = np.stack([side * x, y, z], axis=1)
            outward = np.stack([side * u, v, 0 * u], axis=1)
            yield side, number, shapes.rounded(path), shapes.rounded(outward)


def bones(person: Person, step: float):
    """All bones as (points (N, 3) mm reference coordinates, volumes mm³, HU)."""
    k = density(person)
    cortex, marrow = 1250 * k, 260 * k
    rng = person.stream(6)
    clouds = []
    for _, number, path, outward in rib_paths(person):
        tall = (5.2, 5.6, 6.0, 6.3, 6.4, 6.5, 6.5, 6.4, 6.2, 5.8, 5.0, 4.2)[number - 1]
        # Slender neck beside the spine, full height from the angle on.
        height = tall * profile(np.arange(64), (0, 6, 14, 64), (0.62, 0.66, 1, 1))
        clouds.append(shapes.tube_cloud(path, 3.6, height, step, cortex, marrow, 1.25, hint=outward))
    clouds += _spine(k, step)
    for side in (-1, 1):
        clouds += _shoulder(person, side, cortex, marrow, step, rng)
    front = [(0, -50, 58), (0, -62, 30), (0, -74, -10), (0, -88, -80)]
    clouds.append(shapes.tube_cloud(front, [20, 16, 13, 15], [4.5, 4.5, 4, 4], step, 420 * k, 130, 1.5, hint=(1.0, 0.0, 0.0)))
    return shapes.joined(clouds)


def _spine(k: float, step: float):
    clouds = []
    for level in range(-4, 15):
        z = T1 - VERTEBRA * level
        y = float(spine_depth(np.array([z]))[0])
        size = 0.78 + 0.022 * max(level, 0)
        a, b, h = 19 * size, 15 * size, 17.5 * (0.9 + 0.012 * max(level, 0)) / 2
        if level < 0:
            a, b = 12.0, 9.0
        up = np.array([0.0, 1.0, 0.0])
        body = [(0, y, z - h), (0, y, z - h / 3), (0, y, z + h / 3), (0, y, z + h)]
        waist = np.array([1.0, 0.92, 0.92, 1.0])
        clouds.append(shapes.tube_cloud(body, b * waist, a * waist, step * 1.4, 620 * k, 215 * k, 1.6, hint=up))
        for end in (-1, 1):
            plate = [(0, y, z + end * (h - 0.9)), (0, y, z + end * (h + 0.4))]
            clouds.append(shapes.tube_cloud(plate, b, a, step * 1.15, 900 * k, 850 * k, 1.0, hint=up))
        arch = y + b
        for side in (-1, 1):
            inner, outer = side * 0.6 * a, side * (a + 15)
            pedicle = [(inner, arch - 3, z + 3), (inner, arch + 9, z + 3)]
            clouds.append(shapes.tube_cloud(pedicle, 3.6, 5.4, step, 1000 * k, 420 * k, 1.4, hint=(1.0, 0.0, 0.0)))
            process = [(inner, arch + 8, z + 3), (outer, arch + 20, z + 7)]
            clouds.append(shapes.tube_cloud(process, 3.2, 4.6, step, 480 * k, 190 * k, 1.1))
            lamina = [(inner, arch + 8, z + 2), (0, arch + 18, z - 6)]
            clouds.append(shapes.tube_cloud(lamina, 2.6, 7.0, step, 560 * k, 260 * k, 1.2))
        spinous = [(0, arch + 17, z - 4), (0, arch + 40, z - 20)]
        clouds.append(shapes.tube_cloud(spinous, 2.8, 5.4, step, 800 * k, 320 * k, 1.2, hint=(1.0, 0.0, 0.0)))
    return clouds


def _shoulder(person: Person, side: int, cortex: float, marrow: float, step: float, rng):
    """Clavicle, scapula and, with the arms down, the humerus of one side."""
    raised = person.arms == "up"
    tilt = 3 * rng.standard_normal()
    rise = 18 if raised else 0
    collar = np.array([
        (13, -52, 62), (28, -58, 66 + tilt / 2), (62, -50, 76 + tilt + rise / 2), (100, -16, 86 + tilt + rise),
        (135, 8, 92 + tilt + rise), (156, 12, 96 + tilt + rise),
    ], float)
    thick = np.array([9.0, 7.0, 6.0, 5.8, 6.2, 6.5])
    collar[:, 0] *= side
    clouds = [shapes.tube_cloud(collar, thick, thick, step, 1.1 * cortex, 1.3 * marrow, 1.9)]
    # Shoulder blade: rolled forward and outward with the arms down, further out and up with the arms raised.
    out, up = (14, 22) if raised else (4 if person.supine else 16, 0)
    upper, lower = (82 + out, 92, 84 + up), (98 + out * 1.4, 108, -52 + up)
    socket = (140 + out * 0.4, 50, 72 + up)
    corners = np.array([upper, lower, socket], float) * (side, 1, 1)
    clouds.append(shapes.plate_cloud(corners, 3.4, step * 0.9, 620 * density(person), bow=(0, 8, 0)))

    def rod(points, across, height):
        return shapes.tube_cloud(np.array(points, float) * (side, 1, 1), across, height, step, cortex * 0.85, marrow, 1.3)

    clouds.append(rod([lower, ((lower[0] + socket[0]) / 2 + 3, 84, 8 + up), socket], 4.0, 4.4))
    clouds.append(rod([upper, ((upper[0] + lower[0]) / 2 - 2, 104, 18 + up), lower], 2.0, 2.2))
    clouds.append(rod([(84 + out, 104, 62 + up), (120 + out, 90, 78 + up), (160 + out * 0.4, 48, 99 + up), (172, 24, 101 + up)],
                      [2.2, 3.6, 5.0, 7.0], [2.5, 3.6, 4.0, 3.6]))
    clouds.append(rod([(socket[0] - 4, 44, 78 + up), (socket[0] - 10, 22, 88 + up), (socket[0] - 2, 12, 80 + up)], 4.0, 4.5))
    clouds.append(rod([(socket[0] - 3, 52, 72 + up - 16), (socket[0] - 1, 48, 72 + up + 14)], 5.0, 10.0))
    if not raised:
        head = [(166, 26, 50), (166, 26, 60), (167, 26, 72), (167, 26, 84), (166, 26, 93)]
        size = np.array([15, 21, 23, 20, 8]) * 0.97
        ball = np.array(head, float) * (side, 1, 1)
        clouds.append(shapes.tube_cloud(ball, size, size, step * 1.3, cortex * 0.6, 0.5 * marrow, 1.5))
        shaft = np.array([(170, 26, 56), (184, 22, 10), (206, 18, -70), (232, 10, -260)], float) * (side, 1, 1)
        thick = np.array([15, 11, 10.5, 10.5])
        clouds.append(shapes.tube_cloud(shaft, thick, thick, step * 1.2, cortex, 40, 3.2))
    return clouds
