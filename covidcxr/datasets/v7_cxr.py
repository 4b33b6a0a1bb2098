"""V7 Darwin COVID-19 radiographs: lung masks joined to the images they were drawn on (paper zhang2020).

Sources: v7labs/covid-19-xray-dataset (masks and Darwin JSON; annotations CC BY 4.0), the Cohen collection (COVID images, licence
per image) and Kermany's paediatric radiographs (Mendeley, CC BY 4.0 as V7's page states).

Layout taken (the join as prepared for this study):
    v7_map.csv                                    every V7 id: v7_id, group, original_filename, width, height, ct, match, …
    covid/images, covid/masks/<stem>.png          COVID radiographs, a few CT pictures; covid/metadata.csv (Cohen)
    covid/darwin_json/<v7 id>.json                V7's own annotation files (not needed)
    noncovid_fullsize/images, …/masks             Kermany radiographs of original size
    kermany224/images/<train|test>/<NORMAL|PNEUMONIA>, kermany224/masks/<stem>.png      the same at 224 x 224
Each part may be absent. Case names start with the part: covid/, fullsize/, 224/.

Quirks handled here:
- Masks: 255 lung (the heart is included), 127 "Ignore", 0 background; kinds `lung` and `ignore`.
- The V7 id of a non-COVID image was inferred (upload order and size): column `match` says how; a wrong partner is possible.
- An image of noncovid_fullsize is also in kermany224: same patient, so that grouped splits keep them together. Use one part.
- CT pictures among the COVID images have modality CT.
- patient: "cohen-<patientid>"; Kermany "kermany-<person…>" or "kermany-<IM-nnnn>". Numbers may be shared by two patients
  (bacteria and virus, train and test were numbered apart): grouping by them then joins more than needed, never less.
- Empty masks exist (CT and lateral views without lung outline).
"""

import re
from pathlib import Path

from covidcxr.datasets.base import Dataset
from covidcxr.datasets.cohen import outcomes, read_metadata
from covidcxr.datasets.images import IMAGE_SUFFIXES, stem
from covidcxr.datasets.tables_of_cases import normalise_finding, read_csv


class V7CXR(Dataset):
    LABELS = {"lung": ("lung", (255,)), "ignore": ("lung", (127,))}
    EXPECTED_LABELS = {"lung": (0, 127, 255)}
    SUPPORT_FILES = ("v7_map.csv",)
    OPTIONAL_FILES = ("covid/metadata.csv", "covid/darwin_json/*.json")

    def _rows(self) -> list[dict]:
        known = {}
        if (self.folder / "v7_map.csv").is_file():
            table = read_csv(self.folder / "v7_map.csv", ("v7_id", "group", "original_filename"))
            known = {stem(row["original_filename"]): row for row in table.to_dict("records") if row["original_filename"]}
        metadata = read_metadata(self.folder / "covid" / "metadata.csv")
        rows = [self._covid(path, known, metadata) for path in self._pictures("covid/images")]
        rows += [
            self._kermany("fullsize", path, "noncovid_fullsize/masks", known)
            for path in self._pictures("noncovid_fullsize/images")
        ]
        rows += [self._kermany("224", path, "kermany224/masks", known) for path in self._pictures("kermany224/images")]
        return rows

    def _pictures(self, folder: str) -> list[Path]:
        return sorted(path for path in (self.folder / folder).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)

    def _common(self, part: str, path: Path, masks: str, known: dict) -> dict:
        entry = known.get(stem(path), {})
        mask = f"{masks}/{stem(path)}.png"
        return {
            "case": f"{part}/{stem(path)}",
            "image": path.relative_to(self.folder).as_posix(),
            "lung": mask if (self.folder / mask).is_file() else None,
            "modality": "CT" if entry.get("ct") == "True" else "CXR",
            "part": part,
            "v7_id": entry.get("v7_id") or None,
            "match": entry.get("match") or None,
        }

    def _covid(self, path: Path, known: dict, metadata: dict) -> dict:
        about = metadata.get(path.name, {})
        identifier = str(about.get("patientid") or "").strip()
        return {
            **self._common("covid", path, "covid/masks", known),
            **outcomes(about),
            "patient": f"cohen-{identifier}" if identifier else f"file-{stem(path)}",
            "view": about.get("view") or None,
            "finding": normalise_finding(about.get("finding")),
            "licence": about.get("license") or "not stated",
            "source": about.get("url") or "Cohen collection",
        }

    def _kermany(self, part: str, path: Path, masks: str, known: dict) -> dict:
        row = self._common(part, path, masks, known)
        name = stem(path)
        person = re.match(r"(person\d+)_(bacteria|virus)_", name)
        if person:
            patient, finding = person.group(1), normalise_finding(person.group(2))
        else:
            normal = re.match(r"(?:NORMAL2-)?IM-\d+", name)
            patient, finding = normal.group() if normal else name, "no finding"
        return {
            **row,
            "patient": f"kermany-{patient}",
            "view": "AP",
            "finding": finding,
            "licence": "CC BY 4.0 (stated for the Mendeley source)",
            "source": "Kermany et al., Mendeley rscbjbr9sj",
        }

    def _counts(self, table) -> dict[str, int]:
        return {f"part {part}": int(n) for part, n in table.part.value_counts(sort=False).items()} | {
            "lung masks": int(table.lung.notna().sum())
        }
