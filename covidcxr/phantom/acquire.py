"""CT acquisition: the table, reconstruction blur, correlated noise, the round field of view; HU as int16."""

import numpy as np

from covidcxr.phantom.scan import Scan


def reconstruct(scan: Scan, rng: np.random.Generator, noise: float, kernel_mm: float, round_field: bool) -> np.ndarray:
    """What the scanner stores: int16 HU, (X, Y, Z).

    Args:
        noise: standard deviation in soft tissue, HU. kernel_mm: standard deviation of the reconstruction blur in plane.
        round_field: outside the circle that the gantry measures, -1024.
    """
    from scipy import ndimage

    hu = scan.hu.copy()
    grid = scan.grid
    x, y, _ = grid.mesh()
    back = float(np.round(130 * scan.person.scale[1] + 8 + 0.5 * scan.person.fat, 3))
    far = y - np.float32(back) + x * x / np.float32(900.0)
    for depth, thick, value in ((4.0, 1.4, 120.0), (14.0, 9.0, -880.0), (25.0, 1.6, 160.0)):
        cover = np.clip(np.float32(thick / grid.spacing[1]) * 0.5 + np.float32(0.5)
                        - np.abs(far - np.float32(depth)) / np.float32(grid.spacing[1]), 0, 1)
        cover = np.where(np.abs(x) < 205, cover, 0)
        hu += np.where(hu < -960, cover, 0) * np.float32(value + 1000)
    sigma = [kernel_mm / grid.spacing[0], kernel_mm / grid.spacing[1], 0]
    hu = ndimage.gaussian_filter(hu, sigma, mode="nearest")
    grain = rng.standard_normal(hu.shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(grain, [0.7, 0.7, 0], mode="wrap") - 0.6 * ndimage.gaussian_filter(
        grain, [1.6, 1.6, 0], mode="wrap")
    # Photon starvation: noisier through the shoulders and the abdomen than through the aerated chest.
    load = (hu > -500).mean(axis=(0, 1)).astype(np.float64)
    level = np.sqrt(0.5 + load / max(load.mean(), 1e-6) * 0.5)[None, None, :].astype(np.float32)
    hu += grain * (np.float32(noise / 0.29) * level) * np.clip((hu + 1150) / np.float32(1100), 0.35, 1)
    if round_field:
        radius = min(-grid.x[0], grid.x[-1], (grid.y[-1] - grid.y[0]) / 2)
        middle = np.float32((grid.y[0] + grid.y[-1]) / 2)
        hu = np.where(x * x + (y - middle) ** 2 > np.float32(radius) ** 2, np.float32(-1024), hu)
    return np.clip(np.round(hu), -1024, 3071).astype(np.int16)
