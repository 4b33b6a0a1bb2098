"""Soft tissue of the thorax: body, chest cavity, diaphragm, heart, great vessels, lungs, as level sets.

A reference adult is described in mm about the carina (x left, y posterior, z superior; T5 at z = 0); a `Person` stretches it
and varies heart, aorta, diaphragm, fat, breasts and pose. Proportions follow ordinary radiographic anatomy: right dome higher
than the left, cardiothoracic ratio about 0.45 to 0.55, left hilum higher than the right, posterior recesses below the domes.
"""

from dataclasses import dataclass

import numpy as np

from covidcxr.phantom import shapes
from covidcxr.phantom.grid import Grid, mix, profile, smooth_noise, smooth_union

AIR, LUNG, FAT, MUSCLE, BLOOD, LIVER = -1000.0, -865.0, -98.0, 52.0, 44.0, 58.0


@dataclass(frozen=True)
class Person:
    """One body. Factors are relative to the reference adult; mm; `arms`: "down" (radiograph) or "up" (CT)."""

    seed: tuple[int, ...]
    sex: str
    age: int
    scale: tuple[float, float, float]
    fat: float
    heart: float
    aorta: float
    lift: float
    arms: str = "down"
    supine: bool = False

    def stream(self, purpose: int) -> np.random.Generator:
        """Independent random stream of this person for one purpose."""
        return np.random.default_rng([*self.seed, purpose])


def draw_person(seed: tuple[int, ...], sex: str, age: int, arms: str, supine: bool) -> Person:
    """A body of the given sex and age, everything else from its own random stream."""
    rng = np.random.default_rng([*seed, 1])
    size = 0.93 if sex == "F" else 1.0
    height = 1 + 0.05 * rng.standard_normal()
    fat = float(np.clip(rng.gamma(4.0, 4.0) + (4 if sex == "F" else 0), 6, 38))
    values = (
        size * (1 + 0.04 * rng.standard_normal()),
        size * (1 + 0.05 * rng.standard_normal()) * (1 + 0.0012 * (age - 55)),
        size * np.clip(height, 0.88, 1.12) * (0.97 if supine else 1.0),
    )
    return Person(
        seed=seed,
        sex=sex,
        age=age,
        scale=(round(float(values[0]), 4), round(float(values[1]), 4), round(float(values[2]), 4)),
        fat=round(fat, 3),
        heart=round(float(np.clip(1 + 0.07 * rng.standard_normal() + 0.002 * (age - 55), 0.86, 1.25)), 4),
        aorta=round(float(np.clip(1 + 0.006 * (age - 55) + 0.06 * rng.standard_normal(), 0.8, 1.35)), 4),
        lift=round(float(np.clip(rng.normal(12 if supine else 0, 9), -14, 38)), 3),
        arms=arms,
        supine=supine,
    )


# Chest cavity: half width, half depth and posterior wall by height; spine: centre of the vertebral bodies.
_HEIGHTS = (122, 116, 106, 92, 72, 42, 0, -60, -120, -200)
_WIDTHS = (34, 55, 72, 86, 100, 115, 127, 134, 137, 137)
_DEPTHS = (10, 22, 34, 44, 54, 65, 77, 86, 90, 88)
_BACK = (46, 53, 60, 68, 76, 85, 91, 95, 91, 80)
_SPINE_HEIGHTS = (230, 170, 112, 90, 0, -70, -163, -230)
_SPINE_DEPTHS = (20, 12, 17, 24, 44, 51, 43, 36)


def cavity_shape(z: np.ndarray):
    """Half width, half depth and centre (y) of the chest cavity at heights z, mm."""
    width, depth = profile(z, _HEIGHTS, _WIDTHS), profile(z, _HEIGHTS, _DEPTHS)
    return width, depth, profile(z, _HEIGHTS, _BACK) - depth


CAVITY_BOXINESS = 0.45


def spine_depth(z: np.ndarray) -> np.ndarray:
    """y of the centre of the vertebral bodies at heights z, mm."""
    return profile(z, _SPINE_HEIGHTS, _SPINE_DEPTHS)


def diaphragm_height(x: np.ndarray, y: np.ndarray, side: int, lift: float) -> np.ndarray:
    """Height of one dome (side -1 right, +1 left) over x, y (broadcast), mm."""
    top, centre = (-106.0 + lift, -66.0) if side < 0 else (-119.0 + 0.8 * lift, 70.0)
    out = (x - centre) * side
    lateral = np.clip(out, 0, None) / np.float32(66)
    medial = np.clip(-out, 0, None) / np.float32(66)
    behind = np.clip(y - 5, 0, None) / np.float32(88)
    before = np.clip(-5 - y, 0, None) / np.float32(82)
    fall = 46 * lateral * lateral * np.sqrt(lateral) + 13 * medial * medial
    return np.float32(top) - fall - 72 * behind * behind - 24 * before * before


def vessel_paths(person: Person) -> dict[str, tuple[np.ndarray, float]]:
    """Great vessels and airways: name -> (path (N, 3) mm, radius mm)."""
    k = person.aorta
    aorta = [
        (2, -25, -45), (-13 * k, -33, -12), (-15 * k, -28, 20), (-4, -12, 36 + 6 * k), (17 * k, 10, 38 + 6 * k),
        (26 * k, 27, 22), (27 * k, 33, -10), (23 * k, 37, -80), (13, 30, -165), (5, 26, -230),
    ]
    paths = {
        "aorta": (aorta, 12.5 * (0.85 + 0.15 * k)),
        "superior vena cava": ([(-21, -18, 62), (-25, -18, 20), (-26, -15, -30)], 9.0),
        "brachiocephalic veins": ([(-38, -12, 96), (-22, -22, 62), (4, -30, 70), (32, -22, 90)], 6.5),
        "brachiocephalic artery": ([(-4, -10, 40), (-17, 2, 82), (-26, 6, 112)], 6.0),
        "left carotid": ([(7, 3, 44), (15, 4, 92), (20, 6, 150)], 4.0),
        "right carotid": ([(-24, 5, 108), (-22, 6, 150)], 4.0),
        "left subclavian": ([(17, 12, 44), (25, 16, 92), (40, 12, 116)], 5.0),
        "pulmonary trunk": ([(20, -44, -36), (21, -32, -8), (16, -10, 2)], 13.0),
        "right pulmonary artery": ([(16, -8, 0), (-14, -4, -8), (-37, 6, -15)], 9.5),
        "left pulmonary artery": ([(16, -8, 2), (33, 6, 5), (42, 18, -3)], 9.5),
        "inferior vena cava": ([(-22, 2, -92), (-24, 8, -160)], 12.0),
        "oesophagus": ([(2, 6, 150), (4, 14, 80), (5, 24, 0), (8, 26, -80), (22, 14, -140)], 7.0),
        "trachea": ([(0, -22, 230), (0, -10, 140), (1, -1, 90), (4, 9, 40), (2, 14, 4)], 9.2),
        "right main bronchus": ([(2, 14, 4), (-16, 16, -10), (-32, 17, -26)], 7.2),
        "left main bronchus": ([(2, 14, 4), (20, 18, -10), (40, 20, -24)], 6.4),
    }
    return {name: (shapes.rounded(np.array(path, float)), round(radius, 4)) for name, (path, radius) in paths.items()}


AIRWAYS = ("trachea", "right main bronchus", "left main bronchus")


def heart_level(grid: Grid, person: Person) -> np.ndarray:
    """Heart with its chambers as one smooth body."""
    h, down = person.heart, -78 + 0.55 * person.lift
    left = shapes.ellipsoid(grid, (25 + 9 * (h - 1), -28, down), (64 * h, 43 * h, 38 * h), along=(0.74, -0.34, -0.58))
    right = shapes.ellipsoid(grid, (-13, -22, down + 4), (29 * h, 30 * h, 42 * h))
    atrium = shapes.ellipsoid(grid, (5, 10, down + 34), (36 * h, 22 * h, 26 * h))
    outflow = shapes.ellipsoid(grid, (25, -32, down + 38), (19 * h, 20 * h, 30 * h), along=(0.5, -0.1, -0.86))
    return smooth_union(smooth_union(smooth_union(left, right, 12), atrium, 10), outflow, 16)


def pericardial_level(grid: Grid, person: Person) -> np.ndarray:
    """Fat and pericardium on which the heart rests: fills the gap between heart and diaphragm."""
    top = -119 + 0.8 * person.lift
    return shapes.ellipsoid(grid, (22, -34, top - 2), (58 * person.heart, 40, 17))


def body_level(grid: Grid, person: Person) -> tuple[np.ndarray, np.ndarray]:
    """Skin and, inside it, the muscle wall under the fat."""
    x, y, z = grid.mesh()
    down = person.arms == "down"
    heights = (-230, -130, -60, 0, 40, 70, 90, 106, 118, 128, 138, 150, 168, 230)
    widths = (154, 160, 162, 162, 170, 184, 190, 180, 158, 124, 92, 70, 60, 57) if down else (
        154, 160, 162, 166, 178, 180, 174, 164, 150, 134, 114, 88, 66, 57)
    front = (-112, -108, -100, -84, -74, -65, -58, -52, -48, -45, -43, -43, -45, -46)
    back = (104, 114, 120, 123, 122, 119, 114, 108, 103, 99, 95, 91, 85, 80)
    extra = person.fat - 14
    width = (profile(grid.z, heights, widths) + extra * 0.8).astype(np.float32)[None, None, :]
    near = (profile(grid.z, heights, front) - extra * 0.8).astype(np.float32)[None, None, :]
    far = (profile(grid.z, heights, back) + extra * 0.5).astype(np.float32)[None, None, :]
    centre, depth = (near + far) / 2, (far - near) / 2
    skin = (shapes.squircle(x / width, (y - centre) / depth, 0.4) - 1) * np.minimum(width, depth)
    muscle = skin + np.float32(person.fat * 0.75)
    if down:
        for side in (-1, 1):
            arm = [(side * 172, 24, 84), (side * 190, 22, 40), (side * 214, 18, -60), (side * 238, 10, -260)]
            limb = shapes.tube_level(grid, arm, 36 + 0.5 * person.fat, reach=30)
            skin = smooth_union(skin, limb, 8)
            muscle = np.minimum(muscle, limb + np.float32(person.fat * 0.6))
    if person.sex == "F":
        rng = person.stream(2)
        size = float(np.clip(0.85 + 0.012 * person.fat + 0.1 * rng.standard_normal(), 0.8, 1.4))
        drop = -62 - 16 * size + (0 if person.arms == "down" else 14)
        for side in (-1, 1):
            spread = 82 if not person.supine else 96
            # A hanging drop: leaning back into the chest wall above, full and sharp below.
            u = (x - np.float32(side * spread)) / np.float32(56 * size)
            v = (y + np.float32(92 + 0.8 * extra) - np.float32(0.30) * (z - np.float32(drop))) / np.float32(33 * size)
            w = z - np.float32(drop)
            w = np.where(w > 0, w / np.float32(92 * size), w / np.float32(40 * size))
            breast = (np.sqrt(u * u + v * v + w * w) - 1) * np.float32(33 * size)
            skin = smooth_union(skin, breast, 20)
            muscle = np.minimum(muscle, smooth_union(breast + np.float32(15), muscle, 12))
    return skin, muscle


@dataclass
class Thorax:
    """Level sets and tissue of one person on a coarse grid (reference coordinates), before voxelisation."""

    grid: Grid
    person: Person
    skin: np.ndarray
    right: np.ndarray
    left: np.ndarray
    heart: np.ndarray
    vessels: np.ndarray
    airways: np.ndarray
    dome_top: np.ndarray
    tissue: np.ndarray


def thorax(person: Person, grid: Grid) -> Thorax:
    """Level sets of everything soft on `grid` (reference coordinates: patient mm divided by `person.scale`)."""
    x, y, z = grid.mesh()
    rng = person.stream(3)
    skin, muscle = body_level(grid, person)
    width, depth, centre = (v.astype(np.float32)[None, None, :] for v in cavity_shape(grid.z))
    cavity = (shapes.squircle(x / width, (y - centre) / depth, CAVITY_BOXINESS) - 1) * np.minimum(width, depth)
    cavity = np.maximum(cavity, (z - 122) * np.float32(0.7))

    heart = heart_level(grid, person)
    paths = vessel_paths(person)
    tubes = {name: shapes.tube_level(grid, path, radius) for name, (path, radius) in paths.items()}
    blood = np.minimum.reduce([level for name, level in tubes.items() if name not in (*AIRWAYS, "oesophagus")])
    airways = np.minimum.reduce([tubes[name] for name in AIRWAYS])

    spine_y = spine_depth(grid.z).astype(np.float32)[None, None, :]
    wide = profile(grid.z, (120, 60, 0, -100, -200), (19, 19, 21, 24, 27)).astype(np.float32)[None, None, :]
    # Narrow in front, where the lungs close in before the vertebrae, and wide behind, at the necks of the ribs.
    half = wide * np.clip(np.float32(0.58) + np.float32(0.011) * (y - spine_y + 18), 0.5, 1.15)
    spine = (np.abs(x) - half) * np.float32(0.9)
    spine = np.maximum(spine, spine_y - 19 - y)
    septum = np.abs(x - 2) - np.float32(4)
    core = np.maximum(np.abs(x - 2) - 11, np.abs(y - 8) - 26) + np.clip(z - 60, 0, None) * np.float32(0.05)
    rest = pericardial_level(grid, person)
    middle = smooth_union(smooth_union(heart - 4, rest, 14), np.minimum(blood, airways) - 4, 9)
    middle = smooth_union(middle, spine, 9)
    middle = smooth_union(middle, np.minimum(septum, core), 9)
    middle += 1.6 * smooth_noise(grid, 24.0, rng)

    lungs, domes = [], []
    sides = []
    for side in (-1, 1):
        dome = diaphragm_height(x, y, side, person.lift) + 2.0 * smooth_noise(
            Grid(grid.x, grid.y, grid.z[:2]), 40.0, rng)[:, :, :1]
        below = (dome - z) * np.float32(0.85)
        level = np.maximum(np.maximum(cavity + 2, below), -middle)
        lungs.append(np.maximum(level, 3 - side * (x - 2)))
        sides.append(below)
        inside = (dome > z) | (cavity > 0)
        domes.append(np.where(inside.all(axis=2), -400, dome[:, :, 0]).max(axis=1))
    right, left = lungs

    edge = np.float32(1 / grid.spacing[0])

    def share(level):
        # Borders between soft tissues need no more than the grid's own sharpness.
        return np.clip(np.float32(0.5) - level * edge, 0, 1)

    tissue = np.full(grid.shape, np.float32(FAT))
    mix(tissue, 1 - share(skin + 2.2), 20.0)
    mix(tissue, share(muscle), MUSCLE)
    wall = np.maximum(cavity - 14, 8 - np.abs(x))
    mix(tissue, share(np.maximum(wall, -(cavity - 11))) * np.float32(0.7), FAT)
    mix(tissue, share(cavity), -35.0 if person.fat > 14 else 0.0)
    mix(tissue, share(np.minimum(heart - 3, rest)), FAT)
    mix(tissue, share(heart), BLOOD)
    mix(tissue, share(np.minimum(blood, tubes["oesophagus"])), BLOOD)
    mix(tissue, share(airways - 2), 20.0)
    mix(tissue, share(spine), MUSCLE)
    abdomen = np.maximum(np.maximum(cavity + 3, -np.maximum(sides[0], sides[1])), -(heart - 2))
    mix(tissue, share(abdomen), 42.0)
    mix(tissue, share(np.maximum(abdomen + 3, x - 35)), LIVER)
    mix(tissue, share(tubes["aorta"]), BLOOD)
    fat_inside = shapes.ellipsoid(grid, (60, -10, -205), (60, 60, 40))
    mix(tissue, share(np.maximum(fat_inside, abdomen + 6)) * np.float32(0.6), FAT)
    _gas(tissue, grid, person, abdomen, share)
    tissue += 9 * smooth_noise(grid, 12.0, rng)
    return Thorax(grid, person, skin, right, left, heart, blood, airways, np.stack(domes), tissue)


def _gas(tissue, grid, person, abdomen, share) -> None:
    """Gas in the stomach's fundus (in front when supine) and, in some, in the splenic flexure of the colon."""
    rng = person.stream(4)
    top = -119 + 0.8 * person.lift
    size = float(np.clip(rng.normal(0.85, 0.35), 0.3, 1.6))
    depth = -38 if person.supine else 4
    at = (60 + 7 * rng.standard_normal(), depth, top - 10 - 19 * size)
    bubble = shapes.ellipsoid(grid, np.round(at, 3), (33 * size, 30 * size, 21 * size))
    if not person.supine:
        # Upright, the gas lies over fluid: a flat lower border.
        _, _, z = grid.mesh()
        bubble = np.maximum(bubble, np.float32(at[2] - 8 * size) - z)
    bubble += 2.0 * smooth_noise(grid, 18.0, rng)
    if size > 0.5:
        mix(tissue, share(np.maximum(bubble, abdomen + 5)), -940.0)
    for _ in range(int(rng.integers(0, 5))):
        at = (rng.normal(80, 22), rng.normal(-30, 20), top - 62 - 12 * rng.random())
        radii = 9 + 9 * rng.random(3)
        loop = shapes.ellipsoid(grid, np.round(at, 3), np.round(radii, 3))
        mix(tissue, share(np.maximum(loop, abdomen + 4)), -900.0)
