"""A thorax CT of one person on any grid: HU, lungs, opacities, and what a radiograph's annotator needs."""

from dataclasses import dataclass

import numpy as np

from covidcxr.phantom import anatomy, lesions, skeleton, vessels
from covidcxr.phantom.grid import Grid, coverage, deposit, mix, resample, smooth_noise


@dataclass
class Scan:
    """One CT. Arrays (X, Y, Z): x to the patient's left, y to posterior, z to superior; `grid` in mm.

    hu: float32 without acquisition noise. lung: uint8, 1 left lung, 2 right lung. ground_glass, consolidation: bool.
    thorax: the coarse level sets (reference coordinates, mm over `person.scale`).
    """

    grid: Grid
    person: anatomy.Person
    disease: lesions.Disease
    hu: np.ndarray
    lung: np.ndarray
    ground_glass: np.ndarray
    consolidation: np.ndarray
    thorax: anatomy.Thorax

    @property
    def lesion(self) -> np.ndarray:
        """Ground glass and consolidation together, bool."""
        return self.ground_glass | self.consolidation

    @property
    def opacity_share(self) -> float:
        """Opaque share of the lung volume, 0..1."""
        return float(np.count_nonzero(self.lesion) / np.count_nonzero(self.lung))


# Soft shapes, noise and lesions are evaluated on this grid whatever the voxels asked for, so that one person looks the same
# in every scan. Reference coordinates.
REFERENCE = Grid.box((-216, -160, -216), (216, 152, 178), (4.4, 4.4, 4.4))


def make_scan(person: anatomy.Person, disease: lesions.Disease, grid: Grid, tips: int = 150) -> Scan:
    """Voxelise one person.

    Args:
        grid: voxel centres in mm about the carina. tips: ends of each vessel tree.
    """
    own = grid.scaled(person.scale)
    coarse = REFERENCE
    thorax = anatomy.thorax(person, coarse)
    hu = np.full(grid.shape, np.float32(anatomy.AIR))
    mix(hu, coverage(thorax.skin, coarse, own), resample(thorax.tissue, coarse, own))
    right, left = coverage(thorax.right, coarse, own), coverage(thorax.left, coarse, own)
    both = np.minimum(right + left, 1)
    lung = np.where(left > 0.5, np.uint8(1), np.where(right > 0.5, np.uint8(2), np.uint8(0)))
    parenchyma = resample(_parenchyma(thorax), coarse, own)
    glass, dense = lesions.involve(parenchyma, lung > 0, thorax, own, disease)
    mix(hu, both, parenchyma)
    del right, left, both, parenchyma
    scale = np.array(person.scale)
    step = min(grid.spacing)
    step = float(np.clip(step, 0.8, 3.0))
    blood, air = vessels.trees(thorax, step, tips)
    for cloud in (blood, air, skeleton.bones(person, step)):
        points, volumes, values = cloud
        deposit(hu, grid, points * scale, volumes * scale.prod(), values)
    mix(hu, coverage(thorax.airways, coarse, own), -985.0)
    return Scan(grid, person, disease, hu, lung, glass, dense, thorax)


def _parenchyma(thorax: anatomy.Thorax) -> np.ndarray:
    """Density of aerated lung: gravity, mottle, and the fissures as faint lines."""
    grid, rng = thorax.grid, thorax.person.stream(40)
    _, y, z = grid.mesh()
    down = y if thorax.person.supine else -z * np.float32(0.6)
    hu = np.full(grid.shape, np.float32(anatomy.LUNG)) + down * np.float32(0.28)
    hu += 13 * smooth_noise(grid, 7.0, rng) + 9 * smooth_noise(grid, 20.0, rng)
    far = np.abs(lesions.oblique_fissure(grid) + 3 * smooth_noise(grid, 45.0, rng))
    hu += np.clip(1 - far / np.float32(4.0), 0, 1) * np.float32(45.0)
    return hu
