"""MedSeg COVID-19 CT "dataset nr. 2": 9 CT volumes with lungs and lesions, as NIfTI (stand-in for the papers' CT sets).

Source: https://github.com/nthai-cit/covid-seg (DICOM and PNG masks; no licence stated there), converted to NIfTI.

Layout taken:
    case<i>_image.nii.gz       int16, approximate HU
    case<i>_lesion.nii.gz      1 lesion
    case<i>_lung_lr.nii.gz     1 left lung, 2 right lung

Quirks handled here:
- HU were re-estimated from 8-bit steps by two anchors (air, soft tissue): about +/-60 HU, clipped to about -1400..+370.
- case3 is case2's patient: both have the patient "case2".
- The sides of the lungs were derived when the set was converted; lesion masks hold ground glass and consolidation together.
- case6 has a single lesion slice.
"""

from covidcxr.datasets.base import Dataset
from covidcxr.datasets.images import stem

SAME_PATIENT = {"case3": "case2"}


class MedSegVolumes(Dataset):
    """Nine volumes of eight patients with masks of lungs, sides and lesions."""

    LABELS = {
        "left_lung": ("left_lung", (1,)),
        "right_lung": ("right_lung", (2,)),
        "lung": ("lung", (1, 2)),
        "lesion": ("lesion", None),
    }
    EXPECTED_LABELS = {"lung": (0, 1, 2), "left_lung": (0, 1, 2), "right_lung": (0, 1, 2), "lesion": (0, 1)}

    def _rows(self) -> list[dict]:
        rows = []
        for path in sorted(self.folder.glob("case*_image.nii*"), key=lambda path: (len(path.name), path.name)):
            case = stem(path).removesuffix("_image")
            lung, lesion = (f"{case}_{kind}.nii.gz" for kind in ("lung_lr", "lesion"))
            rows.append(
                {
                    "case": case,
                    "patient": SAME_PATIENT.get(case, case),
                    "modality": "CT",
                    "view": "volume",
                    "finding": "COVID-19",
                    "image": path.name,
                    "lung": lung,
                    "left_lung": lung,
                    "right_lung": lung,
                    "lesion": lesion,
                    "licence": "synthetic" if self.phantom else "not stated",
                    "source": "covidcxr.phantom" if self.phantom else "nthai-cit/covid-seg",
                    "expected_units": "HU",
                }
            )
        return rows
