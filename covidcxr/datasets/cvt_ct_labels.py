"""CT slices with image-level labels only (a stand-in for the training set of paper yang2021).

Source: https://github.com/Coronavirus-Visualization-Team/CVT_COVID-CT-CNN, Data/master-data (no licence stated).

Layout taken:
    COVID/Covid_(<n>).png, COVID/mosmed_img<n>.jpg          slices with disease (SARS-CoV-2 CT-scan set; MosMedData)
    NonCOVID/Non-Covid_(<n>).png, NonCOVID/nor_<p>_img_<k>.jpg    without (the same set; normal patients <p>)

Quirks:
- nor_* slices are already cut to the lungs (background 0), the others are not: column `lungs_only`. A classifier tells the
  two apart by the background, so cut the lungs out of all slices before training.
- Patients are known for nor_* only. The slices of every other source share one patient name ("… unknown") and `patient_known` is
  False: a grouped split then keeps a source together, which is the only safe choice.
- No masks, no HU: grey values of unknown windows.
"""

import re

from covidcxr.datasets.base import Dataset
from covidcxr.datasets.images import IMAGE_SUFFIXES, stem

_SOURCES = (
    ("mosmed", "MosMedData"),
    ("nor_", "normal patients"),
    ("covid", "SARS-CoV-2 CT-scan"),
    ("non-covid", "SARS-CoV-2 CT-scan"),
)


class CVTLabels(Dataset):
    """Slices with a label each, without masks."""

    def _rows(self) -> list[dict]:
        rows = []
        for label, finding in (("COVID", "COVID-19"), ("NonCOVID", None)):
            for path in sorted(
                (self.folder / label).glob("*"),
                key=lambda path: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", path.name)],
            ):
                if path.suffix.lower() not in IMAGE_SUFFIXES:
                    continue
                source = next((name for start, name in _SOURCES if path.name.lower().startswith(start)), "unknown source")
                normal = re.match(r"nor_(\d+)_img", path.name)
                rows.append(
                    {
                        "case": stem(path),
                        "patient": f"nor_{normal.group(1)}" if normal else f"{source} unknown",
                        "modality": "CT",
                        "view": "axial slice",
                        "finding": "no finding" if normal else finding,
                        "covid": label == "COVID",
                        "image": f"{label}/{path.name}",
                        "licence": "not stated",
                        "source": f"CVT_COVID-CT-CNN: {source}",
                        "lungs_only": normal is not None,
                        "patient_known": normal is not None,
                    }
                )
        return rows

    def _counts(self, table) -> dict[str, int]:
        return {
            "slices with disease": int(table.covid.sum()),
            "slices without": int((~table.covid).sum()),
            "slices cut to the lungs": int(table.lungs_only.sum()),
        }
