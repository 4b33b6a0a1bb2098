"""CC-CCII: CT slices of patients with COVID-19, with other pneumonia, and without (paper yang2021, "COVID-cell").

Source: China Consortium of Chest CT Image Investigation, 2019nCoVR of the China National Center for Bioinformation,
http://ncov-ai.big.ac.cn/download; paper: Zhang et al., Cell 2020, 10.1016/j.cell.2020.04.045.

Layout taken (as the archives unpack):
    NCP|CP|Normal/<patient>/<scan>/<slice>.jpg|png|bmp|tif     slices: COVID-19, other pneumonia, normal
    lesions_slices.csv          column imgpath: the slices of NCP and CP on which a lesion was seen
    unzip_filenames.csv         columns label, patient_id, scan_id, n_slice: how many slices each scan should have; optional
    ct_lesion_seg/image/<patient>/<slice>.jpg                  750 further slices of 150 patients
    ct_lesion_seg/mask/<patient>/<slice>.png                   0 background, 1 lung, 2 ground glass, 3 consolidation

Quirks:
- No HU: grey values of unknown windows, and slices of some scans are cut to the lungs already.
- `has_lesion`: True for slices of the list; False for those of Normal, and for unlisted slices of a scan of which others are
  listed; missing for scans without any listed slice, which may never have been looked at.
- Patients of ct_lesion_seg have numbers of their own: they are called "lesion_seg-<n>" and `patient_known` is False. They may be
  patients of NCP, so test on them only what was not trained on NCP, or look for near-duplicates first.
- yang2021's lists of 2007 + 870 training slices and 128 test slices, and its labels of the latter, were not published.
"""

import re
from collections import Counter
from pathlib import Path

from covidcxr.datasets.base import Dataset
from covidcxr.datasets.images import IMAGE_SUFFIXES
from covidcxr.datasets.tables_of_cases import read_csv
from covidcxr.errors import InputError

CLASSES = {"NCP": "COVID-19", "CP": "pneumonia", "Normal": "no finding"}
LESIONS, COUNTS, SEGMENTED = "lesions_slices.csv", "unzip_filenames.csv", "ct_lesion_seg"


class CCCCII(Dataset):
    """Slices labelled by class, with the list of those that show a lesion; masks of 750 further ones."""

    LABELS = {
        "lung": ("lung", (1, 2, 3)),
        "lesion": ("lesion", (2, 3)),
        "ground_glass": ("lesion", (2,)),
        "consolidation": ("lesion", (3,)),
    }
    EXPECTED_LABELS = {"lung": (0, 1, 2, 3), "lesion": (0, 1, 2, 3)}
    SUPPORT_FILES = (LESIONS,)
    OPTIONAL_FILES = (COUNTS, "metadata.csv")

    def _rows(self) -> list[dict]:
        rows = [self._row(path) for label in CLASSES for path in self._pictures(label)]
        listed = self._listed() if rows else set()
        scans = {path.rpartition("/")[0] for path in listed}
        for row in rows:
            scan = row["image"].rpartition("/")[0]
            looked_at = scan in scans or row["label"] == "Normal"
            row["has_lesion"] = row["image"] in listed if looked_at else None
        return rows + [self._segmented(path) for path in self._pictures(f"{SEGMENTED}/image")]

    def _pictures(self, part: str) -> list[Path]:
        return sorted(path for path in (self.folder / part).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)

    def _listed(self) -> set[str]:
        """Paths of slices with lesions, as the list has them."""
        return set(read_csv(self.folder / LESIONS, ("imgpath",)).imgpath)

    def _row(self, path: Path) -> dict:
        image = path.relative_to(self.folder).as_posix()
        parts = image.split("/")
        if len(parts) != 4:
            raise InputError(f"{path}: a slice of cc_ccii lies in <class>/<patient>/<scan>/; this one does not.")
        return {
            "case": image.rpartition(".")[0], "patient": f"{parts[0]}-{parts[1]}", "modality": "CT", "view": "axial slice",
            "finding": CLASSES[parts[0]], "image": image, "licence": "synthetic" if self.phantom else "see the source's terms",
            "source": "covidcxr.phantom" if self.phantom else f"CC-CCII {parts[0]}", "label": parts[0], "scan": parts[2],
            "patient_known": True,
        }

    def _segmented(self, path: Path) -> dict:
        image = path.relative_to(self.folder).as_posix()
        patient = path.parent.name
        mask = f"{SEGMENTED}/mask/{patient}/{path.stem}.png"
        return {
            "case": image.rpartition(".")[0], "patient": f"lesion_seg-{patient}", "modality": "CT", "view": "axial slice",
            "finding": "COVID-19", "image": image, "lung": mask, "lesion": mask,
            "licence": "synthetic" if self.phantom else "see the source's terms",
            "source": "covidcxr.phantom" if self.phantom else f"CC-CCII {SEGMENTED}", "label": SEGMENTED, "scan": None,
            "patient_known": False, "has_lesion": None,
        }

    def _check_set(self, table, report) -> None:
        slices = table[table.label != SEGMENTED]
        if len(slices):
            lost = sorted(self._listed() - set(slices.image))
            for path in lost:
                report.error("listed slice missing", f"{path} of {LESIONS} is not there", file=path)
            for path in sorted(path for path in self._listed() if path.startswith("Normal/")):
                report.warning("lesion on a normal", f"{LESIONS} lists {path}, whose class is Normal", file=path)
        numbers = slices.groupby(slices.patient.str.partition("-")[2]).label.nunique()
        for number in numbers.index[numbers > 1]:
            text = f"patient {number} is in two classes; they count as two patients"
            report.warning("patient in two classes", text)
        if (self.folder / COUNTS).is_file():
            self._check_counts(slices, report)

    def _check_counts(self, slices, report) -> None:
        """The numbers of slices of each scan, as the set's own table has them."""
        found = Counter(path.rpartition("/")[0] for path in slices.image)
        for row in read_csv(self.folder / COUNTS, ("label", "patient_id", "scan_id", "n_slice")).itertuples():
            scan = f"{row.label}/{row.patient_id}/{row.scan_id}"
            expected = int(row.n_slice) if re.fullmatch(r"[0-9]{1,9}", row.n_slice) else None
            if expected is None:
                report.warning("slice count", f"{COUNTS} has {row.n_slice!r} slices for {scan}", file=COUNTS)
            elif scan not in found:
                report.warning("scan not here", f"{scan} with {expected} slices is not there: its archive was not unpacked")
            elif found[scan] != expected:
                report.error("slice count", f"{scan} has {found[scan]} slices, {COUNTS} says {expected}")

    def _counts(self, table) -> dict[str, int]:
        return {
            **{f"slices of {label}": int((table.label == label).sum()) for label in CLASSES},
            "slices with lesion": int(table.has_lesion.eq(True).sum()),
            "slices segmented": int((table.label == SEGMENTED).sum()),
        }
