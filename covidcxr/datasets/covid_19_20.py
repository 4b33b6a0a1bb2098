"""COVID-19-20: 199 training CT volumes of the lesion segmentation challenge (paper ramesh2021).

Source: https://covid-segmentation.grand-challenge.org (registration); paper: Roth et al., Medical Image Analysis 82:102605.

Layout taken (as the archive unpacks):
    Train/volume-covid19-A-<nnnn>_ct.nii.gz      the volume
    Train/volume-covid19-A-<nnnn>_seg.nii.gz     1 infection
    Validation/…_ct.nii.gz                       without masks (optional)

Quirks: infection masks only, no lungs. Whether two scans belong to one patient is not stated: the number after "A-" is taken
as the patient, and a further _1, _2 after it as the number of the scan.
"""

import re

from covidcxr.datasets.base import Dataset
from covidcxr.datasets.images import stem


class COVID1920(Dataset):
    """Volumes with masks of lesions; those of Validation have none."""

    LABELS = {"lesion": ("lesion", None)}
    EXPECTED_LABELS = {"lesion": (0, 1)}

    def _rows(self) -> list[dict]:
        rows = []
        for part in ("Train", "Validation"):
            for path in sorted((self.folder / part).glob("*_ct.nii*")):
                case = stem(path).removesuffix("_ct")
                mask = path.with_name(path.name.replace("_ct.nii", "_seg.nii"))
                rows.append(
                    {
                        "case": case,
                        "patient": re.sub(r"[_-]\d$", "", case),
                        "modality": "CT",
                        "view": "volume",
                        "finding": "COVID-19",
                        "image": f"{part}/{path.name}",
                        "lesion": f"{part}/{mask.name}" if mask.is_file() or part == "Train" else None,
                        "licence": "synthetic" if self.phantom else "see the challenge's terms",
                        "source": "covidcxr.phantom" if self.phantom else "COVID-19-20 challenge",
                        "part": part,
                        "expected_units": "HU",
                    }
                )
        return rows
