"""Time from a projected mask to regions with concave hulls: 1024 x 1024 pixels, 50 regions.

    python benchmarks/labels.py [--rounds 21]

Beside it, in the same rounds: scipy's connected components with skimage's convex hull of each region, and the steps of our
own way. Regions have the sizes that lesions have in projections (most small, a few large); `large` has 50 large ones, which
cover a fifth of the picture.
"""

import argparse
import statistics
import time

import numpy as np
from contest import note, sizes

from covidcxr import labels


def regions_of(radii: np.ndarray, size: int = 1024, seed: int = 0) -> np.ndarray:
    """A mask of one lobed region per radius (pixels), each in a cell of its own: bool (size, size)."""
    import cv2

    rng = np.random.default_rng(seed)
    mask = np.zeros((size, size), np.uint8)
    cells = int(np.ceil(np.sqrt(len(radii))))
    cell = size // cells
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    for i, radius in enumerate(radii):
        lobes = sum(rng.normal(0, 0.12) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 9))
        reach = np.clip(radius * (1 + lobes), 1, cell * 0.48)
        centre = ((i % cells + 0.5) * cell, (i // cells + 0.5) * cell)
        points = np.stack([centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle)], axis=1)
        cv2.fillPoly(mask, [points.astype(np.int32)], 1)
    return mask.astype(bool)


def convex_peer(mask: np.ndarray) -> int:
    from scipy import ndimage
    from skimage.morphology import convex_hull_image

    numbered, _ = ndimage.label(mask, np.ones((3, 3)))
    return sum(int(convex_hull_image(numbered[box] == i).sum()) for i, box in enumerate(ndimage.find_objects(numbered), 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes(parser, rounds=(21, 3))
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(1)
    masks = {"lesion-like": regions_of(np.minimum(rng.lognormal(2.5, 0.7, 50), 50)), "large": regions_of(np.full(50, 36.0))}
    own, peer = "covidcxr label_projection", "scipy label + skimage convex hull"
    ways = {own: labels.label_projection, "  of which regions": labels.regions, peer: convex_peer}
    for kind, mask in masks.items():
        found = labels.regions(mask)
        points = sum(len(labels.outline_points(region.mask)) for region in found)
        print(f"{kind}: {len(found)} regions, {mask.mean():.1%} of 1024 x 1024 pixels, {points} outline points; {rounds} rounds")
        wall, processor = {way: [] for way in ways}, {way: [] for way in ways}
        for _ in range(rounds):
            for way, function in ways.items():
                start = time.perf_counter(), time.process_time()
                function(mask)
                wall[way].append(time.perf_counter() - start[0])
                processor[way].append(time.process_time() - start[1])
        for way in ways:
            print(f"  {way:36}{1000 * statistics.median(wall[way]):8.1f} ms   (best {1000 * min(wall[way]):.1f}, "
                  f"processor {1000 * statistics.median(processor[way]):.1f})")
        note(f"labels of a projection, {kind}", statistics.median(wall[own]), "s", peer, statistics.median(wall[peer]))


if __name__ == "__main__":
    main()
