"""The 20 cases of COVID-19-CT-Seg as axial slices of 256 x 256 with lung and lesion masks (papers gaikwad2020, yang2021).

Source: https://github.com/dstaroff/COVID19-CT-Segmentation, data/img (the repository's MIT licence covers its code; the scans are
those of Zenodo 3757476, CC BY 4.0).

Layout taken:
    image/<nnnn>.png, lung/<nnnn>.png, lesion/<nnnn>.png          8-bit grey; masks 0 / 255

Quirks:
- Contrast was equalised and stretched: no HU. Only slices with infection, of the middle part of each volume, in volume order.
- The case of a slice is lost. `patient` is a block of 40 consecutive slices and `patient_known` is False: a patient may reach
  into the next block, so leave a block out between training and test blocks.
- Slices from about 1200 on (radiopaedia) lie upside down. Left and right lung are merged.
"""

from covidcxr.datasets.base import Dataset

BLOCK = 40


class CT20Slices(Dataset):
    LABELS = {"lung": ("lung", (255,)), "lesion": ("lesion", (255,))}
    EXPECTED_LABELS = {"lung": (0, 255), "lesion": (0, 255)}

    def _rows(self) -> list[dict]:
        rows = []
        for path in sorted((self.folder / "image").glob("*.png")):
            if not path.stem.isdigit():
                continue
            rows.append(
                {
                    "case": path.stem,
                    "patient": f"block-{int(path.stem) // BLOCK:02d}",
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
