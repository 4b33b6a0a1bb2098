"""Opacities: where they sit, how far they reach, and their density.

Each disease is a field over the lungs; the part of the lung above a threshold is opacity, and the threshold is set so that
its share of the lung volume is the one asked for. Raising the share lets the same lesions grow, as follow-up images show.
COVID-19: many soft patches under the pleura, posterior, basal, on both sides, ground glass first, consolidation in the cores
of the severe (Ramesh et al. 2021, introduction; Bernheim et al. 2020). Other pneumonia: one lobe or segment of one
lung, dense, bounded by the fissure, with air bronchograms.
"""

from dataclasses import dataclass

import numpy as np

from covidcxr.phantom.anatomy import CAVITY_BOXINESS, Person, Thorax, cavity_shape
from covidcxr.phantom.grid import Grid, resample, smooth_noise
from covidcxr.phantom.shapes import squircle

COVID, PNEUMONIA, NORMAL = "covid", "pneumonia", "normal"


@dataclass(frozen=True)
class Disease:
    """What a patient's lungs show: `kind`, `share` of the lung volume that is opaque (0..0.8), `dense`: share of the opacity
    that is consolidated (0..1)."""

    kind: str
    share: float
    dense: float

    @property
    def visible(self) -> bool:
        """Whether the lungs show it."""
        return self.kind != NORMAL and self.share > 0


def oblique_fissure(grid: Grid) -> np.ndarray:
    """Signed distance, mm, positive behind and below the oblique fissure (lower lobe)."""
    _, y, z = grid.mesh()
    return (np.float32(0.80) * (y - 5) - np.float32(0.60) * (z + 28)) * np.float32(1.0)


def covid_field(thorax: Thorax) -> np.ndarray:
    """Patches under the pleura, most behind and below, on both sides; larger is sooner ill."""
    rng, grid, person = thorax.person.stream(30), thorax.grid, thorax.person
    x, y, z = grid.mesh()
    lung = np.minimum(thorax.right, thorax.left)
    worse = 0.38 if rng.random() < 0.5 else 0.62
    count = int(rng.integers(8, 16))
    field = np.full(grid.shape, np.float32(-2.0))
    for k in range(count):
        centre = _subpleural(rng, -1 if rng.random() < worse else 1, person)
        size = float(np.round(13 + 15 * rng.random() ** 1.5, 3))
        flat = 0.75 + 0.5 * rng.random(3)
        far = np.sqrt(sum(((a - np.float32(c)) / np.float32(size * f)) ** 2
                          for a, c, f in zip((x, y, z), centre, flat, strict=True)))
        # The patches start one after another: the first ones are the largest at any time.
        np.maximum(field, np.float32(1.0 - 0.06 * k) - np.float32(0.55) * far, out=field)
    depth = np.clip(-lung, 0, 40) / np.float32(40)
    field += 0.35 * smooth_noise(grid, 9.0, rng) + 0.25 * smooth_noise(grid, 22.0, rng)
    posterior = (y / np.float32(90)) * np.float32(0.25) - (z + 40) / np.float32(120) * np.float32(0.16)
    return field + posterior - np.float32(0.55) * depth


def _subpleural(rng: np.random.Generator, side: int, person: Person) -> np.ndarray:
    """A point some 8 mm under the pleura of one lung: mostly behind (angle near 0), mostly in the lower half."""
    angle = np.radians(22 + 135 * rng.beta(1.1, 2.1))
    base = (-118 if side < 0 else -124) + person.lift - 38 * max(0.0, np.cos(angle))
    z = base + (95 - base) * rng.beta(1.15, 1.75)
    width, depth, centre = (float(v[0]) for v in cavity_shape(np.array([z])))
    u, v = np.sin(angle), np.cos(angle)
    norm = squircle(u, v, CAVITY_BOXINESS)
    return np.round([side * max(20.0, width - 8) * u / norm, centre + max(8.0, depth - 8) * v / norm, z], 3)


def lobar_field(thorax: Thorax) -> np.ndarray:
    """One lobe or segment of one lung, spreading from its centre to the fissure."""
    rng, grid = thorax.person.stream(31), thorax.grid
    x, y, z = grid.mesh()
    side = -1 if rng.random() < 0.6 else 1
    behind = oblique_fissure(grid)
    lobe = str(rng.choice(["lower", "upper", "middle"], p=[0.45, 0.3, 0.25]))
    if lobe == "lower":
        region, centre = behind, (side * 72, 48, -70)
    elif lobe == "upper":
        region, centre = np.minimum(-behind, z + 12 + 6 * smooth_noise(grid, 40.0, rng)), (side * 66, 0, 48)
    else:
        region, centre = np.minimum(-behind, -12 - z), (side * 62, -38, -62)
    middle = np.round(np.array(centre) + 9 * rng.standard_normal(3), 3)
    far = np.sqrt(sum(((a - np.float32(c)) / np.float32(s)) ** 2
                      for a, c, s in zip((x, y, z), middle, (52, 48, 46), strict=True)))
    field = 1 - far + 0.10 * smooth_noise(grid, 14.0, rng)
    field += np.clip(region * np.float32(0.12), -1.5, 0)
    # Beyond the fissure and in the other lung the field is too low ever to be reached before the lobe is full.
    field = np.where(region < -1, field - np.float32(3.0), field)
    return np.where(x * side < 0, field - np.float32(12.0), field)


def involve(parenchyma: np.ndarray, lung: np.ndarray, thorax: Thorax, patient: Grid, disease: Disease):
    """Put the disease into the lung tissue, in place.

    Args:
        parenchyma: (X, Y, Z) float32 HU of the lung tissue on the patient grid (everywhere, also outside the lungs).
        lung: bool of the same shape.
        thorax: the coarse anatomy. patient: the patient grid in reference coordinates.
    Returns: (ground_glass, consolidation), bool (X, Y, Z), disjoint, inside `lung`; their volume over that of `lung` is
        `disease.share` to the voxel.
    """
    nothing = np.zeros(parenchyma.shape, bool)
    wanted = int(round(disease.share * np.count_nonzero(lung)))
    if not disease.visible or wanted == 0:
        return nothing, nothing.copy()
    field = covid_field(thorax) if disease.kind == COVID else lobar_field(thorax)
    rng = thorax.person.stream(32)
    fine = resample(field + np.float32(0.08) * smooth_noise(thorax.grid, 5.0, rng), thorax.grid, patient)
    values = fine[lung]
    threshold = np.partition(values, len(values) - wanted)[len(values) - wanted]
    cores = max(0, int(round(disease.dense * wanted)))
    core = np.partition(values, len(values) - cores)[len(values) - cores] if cores else np.float32(np.inf)
    lesion = lung & (fine >= threshold)
    dense = lung & (fine >= core)
    soft = np.float32(0.34 if disease.kind == COVID else 0.12)
    rise = np.clip((fine - threshold) / soft + np.float32(0.30), 0, 1)
    rise *= rise * (3 - 2 * rise)
    texture = 1 + np.float32(0.16) * resample(smooth_noise(thorax.grid, 6.0, rng), thorax.grid, patient)
    glass = np.float32(360.0 if disease.kind == COVID else 420.0)
    added = rise * glass * texture
    if cores:
        firm = np.clip((fine - core) / np.float32(0.20 if disease.kind == COVID else 0.08) + np.float32(0.5), 0, 1)
        added += firm * (np.float32(850.0) * (2 - texture) - added)
    parenchyma += added
    np.minimum(parenchyma, 30, out=parenchyma)
    return lesion & ~dense, dense


def severity_of(share: float) -> str:
    """CT severity class of MosMedData for an opaque share of the lungs (CT-0 none, CT-1 up to 25 %, ... CT-4 over 75 %)."""
    return "CT-0" if share <= 0 else f"CT-{min(4, int(share / 0.25 - 1e-9) + 1)}"


__all__ = ["COVID", "NORMAL", "PNEUMONIA", "Disease", "Person", "involve", "severity_of"]
