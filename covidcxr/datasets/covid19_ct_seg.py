"""COVID-19-CT-Seg: 20 CT volumes with left lung, right lung and infection (papers ramesh2021, gaikwad2020, yang2021).

Source: Zenodo 10.5281/zenodo.3757476 (CC BY 4.0), open download; paper: Ma et al., Medical Physics 2021, 10.1002/mp.14676.

Layout taken (as the four archives unpack, each into a folder of its own name):
    COVID-19-CT-Seg_20cases/<case>.nii.gz       the volumes
    Lung_Mask/<case>.nii.gz                     1 left lung, 2 right lung
    Infection_Mask/<case>.nii.gz                1 infection
    Lung_and_Infection_Mask/<case>.nii.gz       1 left lung, 2 right lung, 3 infection

Quirks handled here:
- coronacases_* are in HU; radiopaedia_* were windowed to [-1250, 250] HU and stretched to grey values 0..255. The column
  `expected_units` says which; `volumes.read_volume` tells by the values, and the verifier compares the two.
- Where only Lung_and_Infection_Mask is there, lung and lesion come from it; the sides cannot (the infected part of a lung has
  lost its side), so left_lung and right_lung are None then.
- One volume is one patient, as far as is known.
"""

from covidcxr.datasets.base import Dataset
from covidcxr.datasets.images import VOLUME_SUFFIXES, stem
from covidcxr.errors import InputError

IMAGES, LUNGS, INFECTION, BOTH = "COVID-19-CT-Seg_20cases", "Lung_Mask", "Infection_Mask", "Lung_and_Infection_Mask"
WINDOW = (-1250.0, 250.0)  # HU at grey values 0 and 255 of the windowed volumes, as the set's page states


class COVID19CTSeg(Dataset):
    """20 volumes with masks of lungs, sides and lesions, from files of their own or from the combined one."""

    LABELS = {
        "left_lung": ("left_lung", (1,)),
        "right_lung": ("right_lung", (2,)),
        "lung": ("lung", (1, 2, 3)),
        "lesion": ("lesion", None),
    }
    EXPECTED_LABELS = {"lung": (0, 1, 2, 3), "left_lung": (0, 1, 2), "right_lung": (0, 1, 2), "lesion": (0, 1, 2, 3)}

    OPTIONAL_FILES = (f"{BOTH}/*",)

    def _rows(self) -> list[dict]:
        rows = []
        for path in sorted((self.folder / IMAGES).glob("*.nii*")):
            if not path.name.endswith(VOLUME_SUFFIXES):
                continue
            lung, lesion, both = (self._mask(folder, path.name) for folder in (LUNGS, INFECTION, BOTH))
            rows.append(
                {
                    "case": stem(path),
                    "patient": stem(path),
                    "modality": "CT",
                    "view": "volume",
                    "finding": "COVID-19",
                    "image": f"{IMAGES}/{path.name}",
                    "lung": lung or both,
                    "left_lung": lung,
                    "right_lung": lung,
                    "lesion": lesion or both,
                    "licence": "synthetic" if self.phantom else "CC BY 4.0",
                    "source": "covidcxr.phantom" if self.phantom else "Zenodo 3757476",
                    "expected_units": "windowed" if path.name.startswith("radiopaedia") else "HU",
                    "lung_and_infection": both,
                }
            )
        return rows

    def _mask(self, folder: str, name: str) -> str | None:
        return f"{folder}/{name}" if (self.folder / folder / name).is_file() else None

    def select(self, row, kind, labels):
        """Where a kind's label values lie; a lesion is label 3 where it comes from the combined file."""
        if kind == "lesion" and row["lesion"] == row["lung_and_infection"]:  # no Infection_Mask: 3 in the combined file
            return labels == 3
        return super().select(row, kind, labels)

    def _check_case(self, row, report):
        measured = super()._check_case(row, report)
        if row["lung_and_infection"] and row["lesion"] and row["lesion"] != row["lung_and_infection"] and "shape" in measured:
            self._compare_with_combined(row, report)
        return measured

    def _compare_with_combined(self, row: dict, report) -> None:
        """The infection is stored twice; say so where the two differ."""
        from covidcxr import volumes

        try:
            volume = volumes.read_volume(self.folder / row["image"])
            combined = volumes.read_mask(self.folder / row["lung_and_infection"], volume) == 3
            alone = volumes.read_mask(self.folder / row["lesion"], volume) > 0
        except InputError as error:
            report.error("combined mask", str(error), file=row["lung_and_infection"])
            return
        union = int((combined | alone).sum())
        overlap = int((combined & alone).sum()) / union if union else 1.0
        if overlap < 0.95:
            text = f"infection of {INFECTION} and label 3 of {BOTH} overlap by IoU {overlap:.2f} only"
            report.warning("combined mask", text, file=row["lung_and_infection"])
