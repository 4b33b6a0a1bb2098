"""Radiographs from CT: divergent polyenergetic beam, scatter, heel effect, counting noise, detector blur, film-like processing.

Not the sum of HU along y that a lesson would teach: intensities are exp(-∫ mu dy) averaged over the spectrum, magnification
depends on depth (the heart is larger in AP views), bone hardens the beam, scatter veils the dense parts, and each "vendor"
renders the logarithm of the signal with its own curve.
"""

from dataclasses import dataclass

import numpy as np

from covidcxr.phantom.grid import Grid

# At effective energies of 50, 70 and 95 keV: water's attenuation (1/mm; NIST); bone's excess over water per 1000 HU, relative to
# that at 70 keV.
WATER = (0.0227, 0.0194, 0.0172)
BONE = (1.9, 1.0, 0.62)
SPECTRA = {"PA": (0.30, 0.40, 0.30), "AP": (0.50, 0.36, 0.14), "AP Supine": (0.52, 0.36, 0.12)}


@dataclass(frozen=True)
class Technique:
    """How one radiograph is taken and rendered.

    view: "PA", "AP" or "AP Supine". source_mm: source to detector. centre: (x, z) mm of the field, field_mm: (width, height),
    size: (rows, columns). roll: degrees. photons: detected per pixel behind air. scatter: scattered over primary behind the
    mediastinum. heel, gradient: relative fall of intensity along z and x. Rendering: flatten (0..1) share of the
    wide-scale signal removed, sharpen, low and high percentiles of the window,
    shoulder, curve (share of an S), gamma, floor and ceiling of the grey scale.
    """

    view: str
    source_mm: float
    centre: tuple[float, float]
    field_mm: tuple[float, float]
    size: tuple[int, int]
    roll: float
    photons: float
    scatter: float
    heel: float
    gradient: float
    blur_mm: float
    flatten: float
    sharpen: float
    curve: float
    low: float
    high: float
    shoulder: float
    floor: float
    gamma: float
    ceiling: float

    @property
    def pixel_mm(self) -> float:
        """Size of a pixel, mm, at the plane y = 0."""
        return self.field_mm[1] / self.size[0]

    @property
    def portable(self) -> bool:
        """Whether it was taken at the bedside."""
        return self.view != "PA"


def draw_technique(rng: np.random.Generator, view: str, reach: tuple[float, float], limit: float,
                   pixels: tuple[int, int]) -> Technique:
    """A technique at random for one view.

    Args:
        reach: half width of the body and height from dome to shoulder of this person, mm, that the field is set from.
        limit: largest half width of the field, mm. pixels: smallest and largest number of rows.
    """
    portable = view != "PA"
    rows = int(rng.integers(pixels[0], pixels[1] + 1))
    height = float(reach[1] * rng.uniform(1.04, 1.32))
    aspect = float(np.clip(rng.normal(1.10 if portable else 1.0, 0.11), 0.84, 1.3))
    width = min(max(height * aspect, 2 * reach[0] * rng.uniform(0.82, 0.95)), 2 * limit)
    columns = int(round(rows * width / height))
    return Technique(
        view=view,
        source_mm=float(rng.uniform(1750, 1850) if not portable else rng.uniform(950, 1150)),
        centre=(round(float(rng.normal(0, 7)), 3), round(float(rng.normal(-22, 6)), 3)),
        field_mm=(round(width, 3), round(width * rows / columns, 3)),
        size=(rows, columns),
        roll=round(float(rng.normal(0, 2.6 if portable else 1.2)), 4),
        photons=float(np.round(rng.uniform(4000, 16000) if portable else rng.uniform(8000, 40000))),
        scatter=round(float(rng.uniform(1.4, 3.2) if portable else rng.uniform(0.8, 1.8)), 4),
        heel=round(float(rng.uniform(-0.18, 0.18)), 4),
        gradient=round(float(rng.normal(0, 0.10 if portable else 0.03)), 4),
        blur_mm=round(float(rng.uniform(0.3, 0.7) if portable else rng.uniform(0.15, 0.45)), 4),
        flatten=round(float(rng.uniform(0.45, 0.95)), 4),
        sharpen=round(float(rng.uniform(0.1, 0.9)), 4),
        curve=round(float(rng.uniform(0.0, 0.4)), 4),
        low=round(float(rng.uniform(0.5, 6.0)), 4),
        high=round(float(rng.uniform(99.0, 99.9)), 4),
        shoulder=round(float(rng.uniform(0.35, 1.4)), 4),
        floor=round(float(rng.choice([0.0, 0.02, 0.06])), 4),
        gamma=round(float(rng.uniform(1.25, 1.95)), 4),
        ceiling=round(float(rng.uniform(0.74, 0.98)), 4),
    )


def broad_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of many pixels, made on block means: as good as the full one and many times as fast."""
    from scipy import ndimage

    block = max(1, int(sigma / 5))
    rows, columns = image.shape
    padded = np.pad(image, ((0, -rows % block), (0, -columns % block)), mode="edge")
    small = padded.reshape(padded.shape[0] // block, block, padded.shape[1] // block, block).mean(axis=(1, 3))
    small = ndimage.gaussian_filter(small, sigma / block, mode="nearest", truncate=3)
    return ndimage.affine_transform(
        small, [1 / block, 1 / block], [(1 - block) / (2 * block)] * 2, (rows, columns), order=1, mode="nearest")


def _planes(grid: Grid, technique: Technique):
    """Magnification of each y relative to the plane y = 0 (through the carina)."""
    if technique.view == "PA":
        far = technique.source_mm - 150.0
        return far / (far - grid.y)
    far = technique.source_mm - 160.0
    return far / (far + grid.y)


def ray_sum(values: np.ndarray, grid: Grid, technique: Technique, slabs: int = 4) -> np.ndarray:
    """Line integrals of `values` (X, Y, Z) along the beam, in value · mm, on the (x, z) of `grid` at the plane y = 0.

    `slabs` neighbouring voxels along y share one magnification (4 voxels of 6 mm: 2 % at 1 m).
    """
    sizes = _planes(grid, technique)
    cx, cz = technique.centre[0], technique.centre[1]
    total = np.zeros((grid.shape[0], grid.shape[2]), np.float32)
    for start in range(0, grid.shape[1], slabs):
        stop = min(start + slabs, grid.shape[1])
        slab = values[:, start:stop].sum(axis=1, dtype=np.float32)
        size = float(sizes[start:stop].mean())
        for axis, (coordinates, centre) in enumerate(((grid.x, cx), (grid.z, cz))):
            place = ((centre + (coordinates - centre) / size) - coordinates[0]) / (coordinates[1] - coordinates[0])
            place = np.clip(place, 0, len(coordinates) - 1)
            index = np.minimum(place.astype(np.int64), len(coordinates) - 2)
            weight = (place - index).astype(np.float32)
            weight = weight[:, None] if axis == 0 else weight[None, :]
            slab = np.take(slab, index, axis) * (1 - weight) + np.take(slab, index + 1, axis) * weight
        total += slab
    return total * np.float32(grid.spacing[1])


def to_detector(plane: np.ndarray, grid: Grid, technique: Technique, order: int = 1) -> np.ndarray:
    """Resample an (x, z) image to the detector's (rows, columns): superior up, the patient's right on the left; float64."""
    from scipy import ndimage

    rows, columns = technique.size
    step_z, step_x = technique.field_mm[1] / rows, technique.field_mm[0] / columns
    angle = np.radians(technique.roll)
    c, s = round(float(np.cos(angle)), 8), round(float(np.sin(angle)), 8)
    # z and x of pixel (r, k): rotate (down, across) about the centre of the field.
    matrix = np.array([[-s * step_z, c * step_x], [-c * step_z, -s * step_x]])
    middle = np.array([(rows - 1) / 2, (columns - 1) / 2])
    offset = np.array(technique.centre) - matrix @ middle
    scale = np.array([grid.spacing[0], grid.spacing[2]])
    start = np.array([grid.x[0], grid.z[0]])
    return ndimage.affine_transform(
        plane.astype(np.float64), matrix / scale[:, None], (offset - start) / scale, (rows, columns), order=order, mode="nearest"
    )


def line_integrals(hu: np.ndarray, grid: Grid, technique: Technique) -> tuple[np.ndarray, np.ndarray]:
    """Water-equivalent path (mm) and bone excess (mm per 1000 HU) on the detector."""
    soft = np.minimum(hu, np.float32(120.0))
    bone = hu - soft
    soft += np.float32(1000.0)
    np.maximum(soft, 0, out=soft)
    return tuple(
        np.maximum(to_detector(ray_sum(part, grid, technique) / np.float32(1000.0), grid, technique, order=3), 0)
        for part in (soft, bone)
    )


def expose(soft: np.ndarray, bone: np.ndarray, technique: Technique, rng: np.random.Generator) -> np.ndarray:
    """Detected signal relative to the open beam, with scatter, heel effect and counting noise; (rows, columns) float64."""
    from scipy import ndimage

    primary = np.zeros(soft.shape)
    for weight, water, excess in zip(SPECTRA[technique.view], WATER, BONE, strict=True):
        primary += weight * np.exp(-(water * soft + WATER[1] * excess * bone))
    rows, columns = technique.size
    down = np.linspace(-1, 1, rows)[:, None]
    across = np.linspace(-1, 1, columns)[None, :]
    primary *= (1 + technique.heel * down) * (1 + technique.gradient * across)
    # Scatter comes from where there is matter to scatter in, and spreads over centimetres.
    thick = 1 - np.exp(-soft / 60.0)
    source = primary * thick
    wide = broad_blur(source, 38.0 / technique.pixel_mm)
    dense = float(np.median(primary[soft >= np.percentile(soft, 70)]))
    veil = technique.scatter * (0.55 * dense * broad_blur(thick, 25.0 / technique.pixel_mm) + 0.25 * wide)
    signal = ndimage.gaussian_filter(primary, technique.blur_mm / technique.pixel_mm, mode="nearest") + veil
    counts = rng.poisson(np.maximum(signal * technique.photons, 0)).astype(np.float64)
    counts = ndimage.gaussian_filter(counts, 0.45, mode="nearest")
    return np.maximum(counts, 0.3) / technique.photons


def render(signal: np.ndarray, soft: np.ndarray, technique: Technique) -> np.ndarray:
    """Grey values in [0, 1], dense white: logarithm, wide-scale flattening, sharpening, window and S-curve."""
    from scipy import ndimage

    density = -np.log(signal)
    body = soft > 25
    air = float(np.percentile(density, 1))
    density = np.maximum(density, air)
    wide = broad_blur(density, 30.0 / technique.pixel_mm)
    fine = density - ndimage.gaussian_filter(density, 2.2 / technique.pixel_mm, mode="nearest")
    middle = density - broad_blur(density, 9.0 / technique.pixel_mm)
    level = float(np.median(density[body]))
    # Digital systems lift fine contrast where the film would have been lost: more so the denser the surroundings.
    gain = 1 + np.clip((wide - level) / 0.8, -0.3, 1.6)
    shown = density - technique.flatten * 0.7 * (wide - level) + technique.sharpen * gain * (0.9 * fine + 0.75 * middle)
    low, high = np.percentile(shown[body], [technique.low, technique.high])
    grey = np.clip((shown - low) / max(high - low, 1e-6), 0, 1.2)
    # The shoulder of the curve compresses the densest parts, so that the spine stays apart from the heart without glaring.
    knee = technique.shoulder
    grey = np.clip(0.05 + 0.95 * grey * (1 + knee) / (grey + knee), 0, 1)
    grey = np.where(body, grey, grey * np.clip(soft / 25, 0, 1))
    steep = grey * grey * (3 - 2 * grey)
    grey = (1 - technique.curve) * grey + technique.curve * steep
    grey = technique.floor + (technique.ceiling - technique.floor) * grey**technique.gamma
    return np.clip(grey, 0, 1)
