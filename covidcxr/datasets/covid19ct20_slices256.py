"""The 20 cases of COVID-19-CT-Seg as axial slices of 256 x 256 with lung and lesion masks (papers gaikwad2020, yang2021).

Source: https://github.com/dstaroff/COVID19-CT-Segmentation, data/img (the repository's MIT licence covers its code; the scans are
those of Zenodo 3757476, CC BY 4.0).

Layout taken:
    image/<nnnn>.png, lung/<nnnn>.png, lesion/<nnnn>.png          8-bit grey; masks 0 / 255

Quirks:
- Contrast was equalised and stretched: no HU. Only slices with infection, of the middle part of each volume, in volume order.
- The case of a slice is lost, and found again here by content: neighbours in a volume correlate by 0.95 and more, the last
  slice of one and the first of the next by less than 0.5. `patient` is such a run of slices, a volume; `patient_known` is False.
- Slices from about 1200 on (radiopaedia) lie upside down. Left and right lung are merged.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import numpy as np

from covidcxr.datasets.base import Dataset
from covidcxr.datasets.images import read_image
from covidcxr.errors import InputError

SAME_VOLUME = 0.7
"""Correlation of neighbouring slices, as thumbnails of 64 x 64, from which they are of one volume."""


def volumes(thumbnails: Iterable[np.ndarray | None]) -> list[int]:
    """Number of the volume that each slice of a row belongs to, from 0; one not read (None) goes with those before."""
    jumps, before = [], None
    for here in thumbnails:
        jump = False
        if before is not None and here is not None:
            with np.errstate(invalid="ignore"):  # an even picture correlates with nothing: no jump
                jump = float(np.corrcoef(before.ravel(), here.ravel())[0, 1]) < SAME_VOLUME
        jumps.append(jump)
        before = before if here is None else here
    return list(accumulate(map(int, jumps)))


class CT20Slices(Dataset):
    """Slices with masks of lungs and lesions; the volume that each is from is found again by content."""

    LABELS = {"lung": ("lung", (255,)), "lesion": ("lesion", (255,))}
    EXPECTED_LABELS = {"lung": (0, 255), "lesion": (0, 255)}

    def _rows(self) -> list[dict]:
        files = [path for path in sorted((self.folder / "image").glob("*.png")) if path.stem.isdigit()]
        with ThreadPoolExecutor() as pool:
            numbers = volumes(pool.map(_thumbnail, files))
        rows = []
        for path, number in zip(files, numbers, strict=True):
            rows.append(
                {
                    "case": path.stem,
                    "patient": f"volume-{number:02d}",
                    "modality": "CT",
                    "view": "axial slice",
                    "finding": "COVID-19",
                    "image": f"image/{path.name}",
                    "lung": f"lung/{path.name}",
                    "lesion": f"lesion/{path.name}",
                    "licence": "scans CC BY 4.0 (Zenodo 3757476); slices not stated",
                    "source": "dstaroff/COVID19-CT-Segmentation",
                    "patient_known": False,
                }
            )
        return rows


def _thumbnail(path: Path) -> np.ndarray | None:
    """A slice of 64 x 64 pixels; None where it can't be read, which the verifier tells."""
    import cv2

    try:
        return cv2.resize(read_image(path), (64, 64), interpolation=cv2.INTER_AREA)
    except InputError:
        return None
