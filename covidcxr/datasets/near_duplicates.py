"""Near-duplicates: the same picture stored twice at another size, compression or brightness, found by perceptual hashes.

Two steps. A difference hash (dHash: is each cell of a 16 x 17 thumbnail brighter than its left neighbour, 256 bits) finds
candidates by their Hamming distance; chest radiographs look alike, so the correlation of 32 x 32 thumbnails decides. Both
ignore brightness and contrast, and both are fooled by cropping, rotation and mirroring, which they do not look for.

The limits were set on 940 radiographs of two public sets: copies at a third of the size, JPEG quality 40 and 80 % of the
contrast lay within distance 28 and correlation 0.966 of their originals, all of them; among the 440,000 pairs of unlike names
the limits let two pass, both truly alike (one patient's follow-up, one image published twice).
"""

from dataclasses import dataclass

import numpy as np

from covidcxr.errors import InputError

MAX_DISTANCE = 28  # of 256 bits
MIN_CORRELATION = 0.96
_ROWS, _COLUMNS, _SIDE = 16, 17, 32
_PAIRS_AT_ONCE = 4096  # candidates whose thumbnails are in memory together


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of an image: its hash, uint64 (4,), and its thumbnail, float32 (1024,), of zero mean and unit length."""

    hash: np.ndarray
    thumbnail: np.ndarray


def block_means(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Means of a grid of nearly equal blocks, float32 (rows, columns); an image smaller than the grid repeats pixels."""
    image = np.asarray(image, np.float32)
    if image.ndim != 2 or 0 in image.shape:
        raise InputError(f"a grey image (H, W) is expected, found shape {image.shape}")
    for axis, parts in ((0, rows), (1, columns)):
        length = image.shape[axis]
        if length < parts:
            image = np.repeat(image, -(-parts // length), axis=axis)
            length = image.shape[axis]
        edges = np.arange(parts + 1) * length // parts
        shape = [1, 1]
        shape[axis] = parts
        image = np.add.reduceat(image, edges[:-1], axis=axis) / np.diff(edges).astype(np.float32).reshape(shape)
    return image


def fingerprint(image: np.ndarray) -> Fingerprint:
    """Fingerprint of a grey image (H, W) of any size and range."""
    cells = block_means(image, _ROWS, _COLUMNS)
    # flat background must not turn noise into bits
    threshold = 0.002 * float(np.ptp(cells))
    bits = (cells[:, 1:] - cells[:, :-1]) > threshold
    small = block_means(image, _SIDE, _SIDE).ravel()
    small -= small.mean()
    length = float(np.linalg.norm(small))
    return Fingerprint(np.packbits(bits).view(np.uint64), (small / length if length else small).astype(np.float32))


def close_pairs(hashes: np.ndarray, max_distance: int = MAX_DISTANCE, block: int = 512) -> np.ndarray:
    """Pairs i < j of hashes within a Hamming distance; every pair is compared.

    Args:
        hashes: uint64 (n, words).
        max_distance: in bits.
        block: rows compared at once; memory is about block x n x 9 bytes.

    Returns:
        int64 (pairs, 3): i, j, distance; sorted.
    """
    hashes = np.ascontiguousarray(hashes, np.uint64)
    if hashes.ndim != 2:
        raise InputError(f"hashes of shape (n, words) are expected, found {hashes.shape}")
    found = [np.empty((0, 3), np.int64)]
    columns = [np.ascontiguousarray(hashes[:, word]) for word in range(hashes.shape[1])]
    for start in range(0, len(hashes), block):
        distance = np.zeros((min(block, len(hashes) - start), len(hashes) - start), np.uint16)
        for column in columns:
            distance += np.bitwise_count(column[start : start + block, None] ^ column[None, start:])
        i, j = np.nonzero(distance <= max_distance)
        later = j > i
        i, j = i[later], j[later]
        found.append(np.stack([i + start, j + start, distance[i, j]], axis=1).astype(np.int64))
    return np.concatenate(found)


def near_duplicates(
    fingerprints: list[Fingerprint], max_distance: int = MAX_DISTANCE, min_correlation: float = MIN_CORRELATION
) -> list[tuple[int, int, int, float]]:
    """Pairs of near-duplicates: (i, j, Hamming distance, correlation of thumbnails), i < j, sorted."""
    if len(fingerprints) < 2:
        return []
    pairs = close_pairs(np.stack([one.hash for one in fingerprints]), max_distance)
    thumbnails = np.stack([one.thumbnail for one in fingerprints])
    correlation = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):  # slices of CT are alike by the million
        i, j = pairs[start : start + _PAIRS_AT_ONCE, :2].T
        correlation[start : start + _PAIRS_AT_ONCE] = np.einsum("ij,ij->i", thumbnails[i], thumbnails[j])
    return [(int(i), int(j), int(d), float(c)) for (i, j, d), c in zip(pairs, correlation, strict=True) if c >= min_correlation]
