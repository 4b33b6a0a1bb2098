"""MosMedData: 1110 chest CT of Moscow hospitals, 50 of them with an infection mask (paper ramesh2021).

Source: https://mosmed.ai/datasets/covid191110 (CC BY-NC-ND 3.0); paper: Morozov et al., 10.1101/2020.05.20.20100362.

Layout taken (as the archive unpacks):
    studies/CT-<0..4>/study_<nnnn>.nii.gz       severity class in the folder's name: CT-0 no sign of pneumonia … CT-4 critical
    masks/study_<nnnn>_mask.nii.gz              1 ground glass or consolidation; 50 studies of CT-1 only

Quirks: infection masks only, no lungs; studies without a mask have not been outlined (their lesion column is None, which does not
mean healthy). Paper ramesh2021 used 22 of the 50 masks and does not say which.
"""

from covidcxr.datasets.base import Dataset
from covidcxr.datasets.images import stem


class MosMedData(Dataset):
    """Volumes with their class of severity; 50 of CT-1 have a mask of lesions."""

    LABELS = {"lesion": ("lesion", None)}
    EXPECTED_LABELS = {"lesion": (0, 1)}

    def _rows(self) -> list[dict]:
        masks = {
            stem(path).removesuffix("_mask"): f"masks/{path.name}" for path in sorted((self.folder / "masks").glob("*_mask.nii*"))
        }
        rows = []
        for path in sorted((self.folder / "studies").glob("CT-*/study_*.nii*")):
            case, severity = stem(path), path.parent.name
            rows.append(
                {
                    "case": case,
                    "patient": case,
                    "modality": "CT",
                    "view": "volume",
                    "finding": "no finding" if severity == "CT-0" else "COVID-19",
                    "image": f"studies/{severity}/{path.name}",
                    "lesion": masks.get(case),
                    "licence": "synthetic" if self.phantom else "CC BY-NC-ND 3.0",
                    "source": "covidcxr.phantom" if self.phantom else "mosmed.ai",
                    "severity": severity,
                    "expected_units": "HU",
                }
            )
        return rows

    def _counts(self, table) -> dict[str, int]:
        return {"infection masks": int(table.lesion.notna().sum())}
