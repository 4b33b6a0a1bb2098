"""Near-duplicates among ten thousand images: seconds to fingerprint them and to compare every pair, and whether all are found.

    python benchmarks/near_duplicates.py [--images 10000] [--side 512] [--copies 100] [--workers 2]

Images are smooth random pictures with noise; the last `copies` are smaller, darker, noisier ones of the first. Fingerprints are
made from arrays in memory, on threads, as the verifier makes them while it reads files; reading is not part of it. The search
compares all pairs of hashes, then the thumbnails of those that are near. A bare loop over Python's own integers, on a part of the
pairs, is what the search is compared with.
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from contest import note, sizes

from covidcxr.datasets.near_duplicates import MAX_DISTANCE, Fingerprint, close_pairs, fingerprint, near_duplicates
from covidcxr.resizing import resize

_AT_ONCE = 256


def picture(number: int, side: int, copied: bool) -> np.ndarray:
    """Picture of this number, float32 (side, side); a copy is smaller, darker and noisier."""
    rng = np.random.default_rng(number)
    image = resize(rng.random((9, 9), np.float32), (side, side))
    if copied:
        image = 0.6 * resize(image, (side // 3, side // 3)) + 0.1
    return image + 0.01 * np.random.default_rng((number, copied)).standard_normal(image.shape, np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes(parser, images=(10_000, 500), side=(512, 128), copies=(100, 10), workers=(2, 2))
    chosen = parser.parse_args()
    originals = chosen.images - chosen.copies
    planted = {(number, originals + number) for number in range(chosen.copies)}

    prints: list[Fingerprint] = []
    making = 0.0
    with ThreadPoolExecutor(chosen.workers) as pool:
        for start in range(0, chosen.images, _AT_ONCE):  # pictures are drawn outside of the time that counts
            numbers = range(start, min(start + _AT_ONCE, chosen.images))
            images = [picture(n if n < originals else n - originals, chosen.side, n >= originals) for n in numbers]
            began = time.perf_counter()
            prints += pool.map(fingerprint, images)
            making += time.perf_counter() - began
    began = time.perf_counter()
    found = near_duplicates(prints)
    searching = time.perf_counter() - began
    pairs = {(i, j) for i, j, *_ in found}

    hashes = np.stack([one.hash for one in prints])
    few = min(400, chosen.images)
    words = [int.from_bytes(one.tobytes(), "little") for one in hashes[:few]]
    began = time.perf_counter()
    bare = [(i, j) for i in range(few) for j in range(i + 1, few) if (words[i] ^ words[j]).bit_count() <= MAX_DISTANCE]
    loop = time.perf_counter() - began
    assert bare == [(int(i), int(j)) for i, j, _ in close_pairs(hashes[:few])]
    comparisons = chosen.images * (chosen.images - 1) / 2

    print(f"{chosen.images} images of {chosen.side} x {chosen.side}, {chosen.workers} threads")
    print(f"  fingerprints {making:7.2f} s   {1000 * making / chosen.images:.2f} ms an image")
    print(f"  search       {searching:7.2f} s   {comparisons / searching / 1e6:.0f} million pairs a second")
    print(f"  {len(pairs - planted)} pairs found that are no planted copies")
    note(f"near-duplicates, all of {chosen.images} images", making + searching, "s")
    note("near-duplicates, search", searching, "s", f"a bare loop, from {few} images", loop * comparisons / (few * (few - 1) / 2))
    note(f"near-duplicates, missed of {len(planted)} planted", len(planted - pairs), "copies")


if __name__ == "__main__":
    main()
