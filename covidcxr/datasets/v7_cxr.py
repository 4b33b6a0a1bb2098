"""V7 Darwin COVID-19 radiographs: lung masks with the images they were drawn on, and tags (paper zhang2020).

Sources: v7labs/covid-19-xray-dataset (masks and Darwin JSON; annotations CC BY 4.0), the Cohen collection (COVID images, licence
per image) and Kermany's paediatric radiographs (Mendeley, CC BY 4.0 as V7's page states).

Layouts taken. The public forms, as `darwin dataset pull` and the repository lay them down:
    images/<any folders>/<name>                   the radiographs, called as Darwin calls them or as they were uploaded
    any .json outside of images/                  Darwin JSON 1.0 or 2.0, one per image (`covidcxr.datasets.darwin`), or COCO
    annotations/all-images-semantic-masks/*.png, masks/*.png, releases/<name>/masks/*.png
                                                  grey masks called as the image, its json file, or V7's number of it
    class_mapping.csv                             beside the masks or above: what their grey values mean, if not as below
    v7_map.csv, metadata.csv                      as below; optional
The join as prepared for this study:
    v7_map.csv                                    every V7 id: v7_id, group, original_filename, width, height, ct, match, …
    covid/images, covid/masks/<stem>.png          COVID radiographs, a few CT pictures; covid/metadata.csv (Cohen)
    covid/darwin_json/<v7 id>.json                V7's own annotation files: their tags
    noncovid_fullsize/images, …/masks             Kermany radiographs of original size
    kermany224/images/<train|test>/<NORMAL|PNEUMONIA>, kermany224/masks/<stem>.png      the same at 224 x 224
Each part may be absent. Names of the join's cases start with the part: covid/, fullsize/, 224/.

What is read from them:
- Masks: 255 lung (the heart is included), 127 "Ignore", 0 background; kinds `lung` and `ignore`. Where an image has several forms
  of annotation, the grey mask comes first, then Darwin JSON, then COCO. Of several files of one image the first by path counts.
- Tags fill columns (`covidcxr.datasets.v7_tags`), `tags` keeps all of them, and the verifier tells those that no column
  understands. What metadata.csv says comes before them.
- `collection` says whose collection an image was taken from, by its file name there: "Kermany", or else "Cohen".
- `excluded` says why the paper's rule leaves an image out, None where it stays in: "CT slice", "lateral view", "no lung outline";
  and "also at its original size" for an image that is in two parts of the join.
- `listed()` has a row for every image that the annotations name, here or not: what Table 1 counts (`table1`).

Quirks:
- The V7 id of a non-COVID image was inferred (upload order and size): column `match` says how; a wrong partner is possible.
- patient: "cohen-<patientid>"; Kermany "kermany-<person…>" or "kermany-<IM-nnnn>". Numbers may be shared by two patients
  (bacteria and virus, train and test were numbered apart): grouping by them then joins more than needed, never less.
- Empty masks exist (CT and lateral views without lung outline).
"""

import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from covidcxr.datasets import cohen
from covidcxr.datasets.base import Dataset
from covidcxr.datasets.checks import check_image_file, check_picture_case
from covidcxr.datasets.coco import CocoMasks
from covidcxr.datasets.darwin import FORM, DarwinFile, is_darwin, stems
from covidcxr.datasets.images import IMAGE_SUFFIXES, read_labels, read_size, stem
from covidcxr.datasets.tables_of_cases import normalise_finding, read_csv
from covidcxr.datasets.v7_tags import read_tags
from covidcxr.errors import InputError
from covidcxr.paths import read_json

MASK_FOLDERS = ("annotations/all-images-semantic-masks", "masks", "releases/*/masks")
CLASSES = "class_mapping.csv"
_ALIKE = 0.98  # overlap from which an image's grey mask and polygons count as the same
_SHOWN = 8  # names in a message


def annotation_kind(name: str) -> str | None:
    """Kind of mask for the name of a class: lung, ignore, or None."""
    return {"lung": "lung", "lungs": "lung", "ignore": "ignore"}.get(name.strip().lower())


class V7CXR(Dataset):
    """Radiographs with masks of the lungs and tags, in any of the layouts."""

    LABELS = {"lung": ("lung", (255,)), "ignore": ("lung", (127,))}
    EXPECTED_LABELS = {"lung": (0, 127, 255)}
    OPTIONAL_FILES = ("v7_map.csv", "metadata.csv", "covid/metadata.csv", "*.json", f"*{CLASSES}", ".v7/*", "lists/*")

    def _rows(self) -> list[dict]:
        self._known: dict[str, dict] = {}
        self._metadata = {
            **cohen.read_metadata(self.folder / "metadata.csv"), **cohen.read_metadata(self.folder / "covid" / "metadata.csv")
        }
        if (self.folder / "v7_map.csv").is_file():
            table = read_csv(self.folder / "v7_map.csv", ("v7_id", "group", "original_filename"))
            self._known = {row["v7_id"]: row for row in table.to_dict("records")}
        self._by_original = {stem(row["original_filename"]): row for row in self._known.values() if row["original_filename"]}
        self._read_annotations()
        rows = [self._joined("covid", path, "covid/masks") for path in self._pictures("covid/images")]
        rows += [
            self._joined("fullsize", path, "noncovid_fullsize/masks") for path in self._pictures("noncovid_fullsize/images")
        ]
        rows += [self._joined("224", path, "kermany224/masks") for path in self._pictures("kermany224/images")]
        rows += [self._public(path) for path in self._pictures("images")]
        self._exclude(rows)
        return rows

    def _pictures(self, folder: str) -> list[Path]:
        return sorted(path for path in (self.folder / folder).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)

    # ---- annotations -------------------------------------------------------------------------------------------------

    def _read_annotations(self) -> None:
        """Darwin files by every name their image may have, COCO files, grey masks by name."""
        self._files: list[DarwinFile] = []
        self._by_name: dict[str, DarwinFile] = {}
        self._coco: list[CocoMasks] = []
        self._unreadable: dict[str, str] = {}
        for path in sorted(self.folder.rglob("*.json")):
            inner = path.relative_to(self.folder)
            if inner.parts[0] == "images" or any(part.startswith(".") for part in inner.parts):
                continue
            try:
                self._read_annotation(path)
            except InputError as error:
                self._unreadable[inner.as_posix()] = str(error)
        for file in self._files:
            for name in (*file.names, *stems(file)):
                self._by_name.setdefault(name, file)
        self._masks: dict[str, str] = {}
        for form in MASK_FOLDERS:
            for folder in sorted(self.folder.glob(form)):
                self._read_classes(folder)
                for path in sorted(folder.glob("*.png")):
                    self._masks.setdefault(stem(path), path.relative_to(self.folder).as_posix())

    def _read_annotation(self, path: Path) -> None:
        content = read_json(path, FORM)
        if is_darwin(content):
            self._files.append(DarwinFile(path, annotation_kind, content))
        else:
            self._coco.append(CocoMasks(path, annotation_kind))

    def _read_classes(self, folder: Path) -> None:
        """Take the grey values of the masks from their table, where there is one."""
        path = next((place / CLASSES for place in (folder, folder.parent) if (place / CLASSES).is_file()), None)
        if path is None:
            return
        values: dict[str, tuple[int, ...]] = {}
        for row in read_csv(path, ("class_idx", "class_name")).to_dict("records"):
            kind = annotation_kind(row["class_name"])
            grey = cohen.number(row["class_idx"])
            if grey is None or grey not in range(256):
                raise InputError(f"{path}: class_idx is a grey value of 0 to 255, found {row['class_idx']!r}")
            if kind:
                values[kind] = (*values.get(kind, ()), int(grey))
        if "lung" not in values:
            raise InputError(f"{path}: no class is called Lung")
        self.LABELS = type(self).LABELS | {kind: ("lung", grey) for kind, grey in values.items()}
        self.EXPECTED_LABELS = {"lung": (0, *(grey for kind in values.values() for grey in kind))}

    # ---- rows --------------------------------------------------------------------------------------------------------

    def _joined(self, part: str, path: Path, masks: str) -> dict:
        """A row of the join."""
        entry = self._by_original.get(stem(path), {})
        mask = f"{masks}/{stem(path)}.png"
        return {
            **self._about(path, path.name, self._by_name.get(path.name) if part == "covid" else None, part == "covid"),
            **({"modality": "CT"} if entry.get("ct") == "True" else {}),
            "case": f"{part}/{stem(path)}",
            "part": part,
            "lung": mask if (self.folder / mask).is_file() else None,
            "form": "mask" if (self.folder / mask).is_file() else None,
            "v7_id": entry.get("v7_id") or None,
            "match": entry.get("match") or None,
        }

    def _public(self, path: Path) -> dict:
        """A row of the public forms."""
        file = self._by_name.get(path.name) or self._by_name.get(stem(path))
        original = file.names[-1] if file else path.name
        entry = self._known.get(str(file.identifier) if file else stem(path)) or self._by_original.get(stem(original)) or {}
        original = entry.get("original_filename") or original
        identifier = entry.get("v7_id") or (str(file.identifier) if file and file.identifier is not None else None)
        names = [stem(path), *(stems(file) if file else ()), *([identifier] if identifier else ())]
        mask = next((self._masks[name] for name in names if name in self._masks), None)
        coco = next((coco for coco in self._coco if stem(path) in coco.tags), None)
        forms = (("mask", mask), ("darwin", file and file.path), ("coco", coco and coco.path))
        form, annotation = next((pair for pair in forms if pair[1]), (None, None))
        tags = file.tags if file else coco.tags[stem(path)] if coco else []
        group = entry.get("group")
        return {
            **self._about(path, original, file, None if group is None else group == "covid", tags),
            "case": path.relative_to(self.folder / "images").with_suffix("").as_posix(),
            "part": "images",
            "lung": annotation.relative_to(self.folder).as_posix() if isinstance(annotation, Path) else annotation,
            "form": form,
            "v7_id": identifier,
            "match": entry.get("match") or None,
        }

    def _about(
        self, path: Path, original: str, file: DarwinFile | None, covid: bool | None, tags: list[str] | None = None
    ) -> dict:
        """What is said of an image: in metadata.csv, in its tags, by its original file name. covid: what is known besides."""
        about = self._metadata.get(original, {})
        tags = file.tags if file is not None else tags or []
        columns, unknown = read_tags(tags)
        identifier = columns.pop("patient_id", "")
        patient = cohen.patient(about, self.phantom) or cohen.patient({"patientid": identifier}, self.phantom)
        told = {**cohen.outcomes(about), "view": cohen.view(about.get("view"))}
        told["finding"] = normalise_finding(about.get("finding"))
        licence, source, collection = "not stated", "Cohen collection", "Cohen"
        if not about and patient is None:
            patient, told["finding"] = kermany(original, self.phantom)
            if patient is not None:
                collection = "Kermany"
                licence, source = "CC BY 4.0 (stated for the Mendeley source)", "Kermany et al., Mendeley rscbjbr9sj"
                told["view"] = None if self.phantom else "AP"
        columns |= {column: value for column, value in told.items() if value is not None}
        if covid:
            columns.setdefault("finding", "COVID-19")
        return {
            "modality": "CXR",
            **columns,
            "patient": patient or f"file-{stem(original)}",
            "image": path.relative_to(self.folder).as_posix(),
            "licence": "synthetic" if self.phantom else about.get("license") or licence,
            "source": "covidcxr.phantom" if self.phantom else about.get("url") or source,
            "collection": collection,
            "tags": tags or None,
            "unknown_tags": unknown or None,
        }

    # ---- the paper's rule --------------------------------------------------------------------------------------------

    def _exclude(self, rows: list[dict]) -> None:
        """Fill the column `excluded`."""
        original = {row["case"].partition("/")[2] for row in rows if row["part"] == "fullsize"}
        outlined = self._outlined([row for row in rows if row["lung"] is not None])
        for row in rows:
            row["excluded"] = (
                "CT slice" if row["modality"] == "CT"
                else "lateral view" if row.get("view") == "lateral"
                else "also at its original size" if row["part"] == "224" and row["case"].partition("/")[2] in original
                else None if outlined.get(row["case"]) else "no lung outline"
            )  # fmt: skip

    def _outlined(self, rows: list[dict]) -> dict[str, bool]:
        """Case -> whether its lungs are outlined. Grey masks must be looked into; a damaged one counts as outlined: it is told of
        where it is read."""

        def look(row: dict) -> bool:
            if row["form"] == "darwin":
                return self._darwin(row).kinds["lung"] > 0
            if row["form"] == "coco":
                return self._coco_of(row).has(stem(row["image"]), "lung")
            try:
                return bool(self.select(row, "lung", read_labels(self.folder / row["lung"])).any())
            except InputError:
                return True

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return dict(zip([row["case"] for row in rows], pool.map(look, rows), strict=True))

    def listed(self):
        """pandas.DataFrame, a row for every image that V7's annotations name, whether or not it is here: `image` (its number or
        name), `covid`, `lung` (whether lungs are outlined) and `here`; missing where it is not known.

        From v7_map.csv where that is there, else from the annotation files, else from the images at hand.
        """
        import pandas

        table = self.cases()
        if self._known:
            here = set(table.v7_id)
            rows = [_of_map(row, row["v7_id"] in here) for row in self._known.values()]
            known = table[table.v7_id.notna() & ~table.part.isin(("fullsize", "224"))].set_index("v7_id").excluded
            for row in rows:
                if row["lung"] is None and row["image"] in known.index:
                    row["lung"] = known[row["image"]] is None
        elif self._files:
            here = {self._by_name.get(Path(image).name, self._by_name.get(stem(image))) for image in table.image}
            files = dict.fromkeys(self._by_name.values())  # each image once: of several files of one the others have no name
            rows = [_of_tags(file.names[-1], file.tags, file.kinds["lung"] > 0, file in here) for file in files]
        elif self._coco:
            here = {stem(image) for image in table.image}
            rows = [_of_tags(name, tags, coco.has(name, "lung"), name in here)
                    for coco in self._coco for name, tags in coco.tags.items()]
        else:
            rows = [
                {"image": row.case, "covid": row.covid, "lung": row.excluded is None, "here": True} for row in table.itertuples()
            ]
        frame = pandas.DataFrame(rows)
        return frame.astype({"covid": "boolean", "lung": "boolean"})

    def unknown_tags(self) -> Counter[str]:
        """Tags that no column understands, with the number of their images. One of them may be a finding that is spelt otherwise:
        where an image has tags and none says COVID-19, it counts as another image."""
        return Counter(tag for tags in self.cases().unknown_tags if tags for tag in tags)

    # ---- masks -------------------------------------------------------------------------------------------------------

    def mask(self, case: str, kind: str) -> np.ndarray:
        """Mask of an image, bool (H, W); empty where nothing of the kind is outlined in an annotated image.

        Raises:
            InputError: the image has no annotation, or it cannot be read or belongs to another size.
        """
        self._check_kind(kind)
        row = self.row(case)
        if row["form"] in ("mask", None):
            return super().mask(case, kind)
        size = read_size(self._image_path(row, volume=False))
        return self._polygons(row, kind, size)

    def _polygons(self, row: dict, kind: str, size: tuple[int, int]) -> np.ndarray:
        """A mask from polygons, as V7's grey masks have it: where something is to be ignored there is no lung."""
        if row["form"] == "coco":
            coco, name = self._coco_of(row), stem(row["image"])
            drawn = {each: coco.mask(name, each, size) for each in ("lung", "ignore")}
        else:
            file = self._darwin(row)
            drawn = {each: file.mask(each, size) for each in ("lung", "ignore")}
        return drawn["lung"] & ~drawn["ignore"] if kind == "lung" else drawn[kind]

    def _darwin(self, row: dict) -> DarwinFile:
        name = Path(row["image"]).name
        return self._by_name.get(name) or self._by_name[stem(name)]

    def _coco_of(self, row: dict) -> CocoMasks:
        return next(coco for coco in self._coco if coco.path == self.folder / row["lung"])

    # ---- verification ------------------------------------------------------------------------------------------------

    def _check_case(self, row: dict, report) -> dict:
        if row["form"] in ("mask", None):
            measured = check_picture_case(self, row, report)
            self._compare(row, report)
            return measured
        measured, image = check_image_file(self.folder / row["image"], report)
        if image is not None:
            try:
                lung = self._polygons(row, "lung", image.shape)
            except InputError as error:
                report.error("annotation", str(error), file=row["lung"])
            else:
                measured["lung_size"] = int(np.count_nonzero(lung))
        return measured

    def _compare(self, row: dict, report) -> None:
        """Tell where an image's polygons are not its grey mask."""
        file = self._by_name.get(Path(row["image"]).name) or self._by_name.get(stem(row["image"]))
        if file is None or row["lung"] is None:
            return
        try:
            mask = self.mask(row["case"], "lung")
            drawn = self._polygons({**row, "form": "darwin"}, "lung", mask.shape)
        except InputError as error:
            report.error("annotation", str(error), file=file.path.name)
            return
        union = np.count_nonzero(mask | drawn)
        overlap = np.count_nonzero(mask & drawn) / union if union else 1.0
        if overlap < _ALIKE:
            report.warning("mask and polygons differ", f"their lungs overlap by {overlap:.3f} only", file=file.path.name)

    def _check_set(self, table, report) -> None:
        for name, text in self._unreadable.items():
            report.error("unreadable annotation", text, file=name)
        for tag, number in self.unknown_tags().items():
            report.warning("unknown tag", f"{number} images have the tag {tag!r}, which no column understands")
        names = Counter(name for file in self._files for name in file.unknown)
        for name, number in names.items():
            report.warning("unknown class", f"{number} files have shapes called {name!r}, which are in no mask")
        listed = self.listed()
        absent = listed.image[~listed.here].tolist()
        if absent:
            shown = ", ".join(map(str, absent[:_SHOWN]))
            report.warning("images not here", f"{len(absent)} of {len(listed)} images that are listed are not here: {shown}, …")

    def _counts(self, table) -> dict[str, int]:
        listed = self.listed()
        excluded = table.excluded.fillna("none").value_counts(sort=False)
        return {
            "listed images": len(listed),
            "listed COVID-19 images": int(listed.covid.sum()),
            **{f"part {part}": int(n) for part, n in table.part.value_counts(sort=False).items()},
            "lung masks": int(table.lung.notna().sum()),
            **{f"excluded: {reason}": int(n) for reason, n in excluded.items() if reason != "none"},
        }


def kermany(name: str, phantom: bool = False) -> tuple[str | None, str | None]:
    """Patient and finding of a radiograph of Kermany's collection by its file name; (None, None) for other names.

    A phantom's patients have plain numbers, as in its other sets.
    """
    person = re.match(r"(person(\d+))_(bacteria|virus)_", stem(name))
    normal = re.match(r"((?:NORMAL2-)?IM-(\d+))", stem(name))
    found = person or normal
    if found is None:
        return None, None
    finding = normalise_finding(person.group(3)) if person else "no finding"
    return str(int(found.group(2))) if phantom else f"kermany-{found.group(1)}", finding


def table1(listed):
    """Table 1 of zhang2020, as pandas.DataFrame: `status`, the number of `images`, and how many are `unknown`, of which it is not
    known whether they belong there.

    Args:
        listed: columns `covid` and `lung`, as `V7CXR.listed()` has them.
    """
    import pandas

    covid, lung = listed.covid.astype("boolean"), listed.lung.astype("boolean")
    rows = {
        "Total": pandas.Series(True, index=listed.index, dtype="boolean"),
        "COVID": covid,
        "Non-COVID": ~covid,
        "Semantic Lung Mask Provided": lung,
        "Semantic Lung Mask Provided & COVID": lung & covid,
        "Semantic Lung Mask Provided & Non-COVID": lung & ~covid,
        "Semantic Lung Mask Missing": ~lung,
    }
    return pandas.DataFrame([
        {"status": status, "images": int(belongs.sum()), "unknown": int(belongs.isna().sum())} for status, belongs in rows.items()
    ])


def _of_map(row: dict, here: bool) -> dict:
    polygons = cohen.number(row.get("lung_polygons"))
    lung = None if polygons is None else polygons > 0
    return {"image": row["v7_id"], "covid": row["group"] == "covid", "lung": lung, "here": here}


def _of_tags(name: str, tags: list[str], lung: bool, here: bool) -> dict:
    return {"image": name, "covid": read_tags(tags)[0].get("covid"), "lung": lung, "here": here}
