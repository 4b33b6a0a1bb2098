"""General Blockchain: 100 radiographs with lungs, opacities, devices outlined by radiologists (papers ramesh2021, tang2020).

Source: https://github.com/GeneralBlockchain/covid-19-chest-xray-segmentations-dataset (git). Annotations CC BY 4.0; the images
come from the Cohen collection and keep the licence of each image (column `license` of metadata.csv, often empty).

Layout taken (as upstream):
    images/<Filename>            the radiographs
    structure.csv                one row per annotation: Filename, Template Name, Mask, Resolution, Top, Left, Width, Height
    masks/<sha1>_<id>.png        crops named in the column Mask
    annotation/results.json      COCO (polygons or RLE); used where present, the crops otherwise
    metadata.csv                 the Cohen collection's table: patient, finding, view, outcome, licence (optional)

Quirks handled here:
- The columns Image and Tag of structure.csv name files that are not distributed; Filename and Mask do the job.
- A mask is a crop of Width x Height to be pasted at (Top, Left) into a canvas of Resolution (width x height). It is RGBA with an
  opaque black background: foreground is any(RGB > 0).
- Rows with an empty Mask (14 of Monitoring Probes) hold no outline and are left out.
- One image has two Right Lung rows: rows of the same class are united. One has no right, another no left lung: the column is
  None there, `lungs_complete` is False, and the mask of that side is empty.
- Five images have no opacity: their lesion mask is empty. Lesion = ground glass ∪ consolidation, which overlap.
- Only 65 of the 100 are COVID-19.
- patient: "cohen-<patientid>" of metadata.csv, so that the same patient has the same name in every set made from the Cohen
  collection. An image without metadata: "file-<name>", the file name without view (-PA, -AP) and without -day<N>, so that
  follow-ups with such names stay together.
"""

import re

import numpy as np

from covidcxr.datasets.base import Dataset
from covidcxr.datasets.coco import CocoMasks
from covidcxr.datasets.cohen import outcomes, patient, read_metadata
from covidcxr.datasets.images import read_pixels, read_size, stem, united
from covidcxr.datasets.tables_of_cases import inside, normalise_finding, read_csv
from covidcxr.errors import InputError

CLASSES = {
    "Cardiomediastinum": "cardiomediastinum",
    "Right Lung": "right_lung",
    "Left Lung": "left_lung",
    "Airways": "airways",
    "Ground Glass Opacities": "ground_glass",
    "Consolidation": "consolidation",
    "Pleural Effusion": "pleural_effusion",
    "Pneumothorax": "pneumothorax",
    "Endotracheal Tube": "endotracheal_tube",
    "Central Venous Line": "central_venous_line",
    "Monitoring Probes": "monitoring_probes",
    "Nosogastric Tube": "nasogastric_tube",  # spelt so in the table
    "Nasogastric Tube": "nasogastric_tube",
    "Chest Tube": "chest_tube",
    "Tubings": "tubings",
}
ANNOTATION_COLUMNS = ("Filename", "Template Name", "Mask", "Resolution", "Top", "Left", "Width", "Height")
_BY_LOWER_NAME = {name.lower(): kind for name, kind in CLASSES.items()}


def class_kind(name: str) -> str | None:
    """Kind of mask for a class name of structure.csv or of the COCO file ("COVID-19 Left Lung" or "Left Lung")."""
    return _BY_LOWER_NAME.get(re.sub(r"^covid-19\s+", "", name.strip().lower()))


class GeneralBlockchainCXR(Dataset):
    """100 radiographs with outlines, from the COCO file where it is there, from the crops otherwise."""

    SUPPORT_FILES = ("structure.csv",)
    OPTIONAL_FILES = ("metadata.csv", "annotation/results.json")
    LABELS = {kind: (kind, None) for kind in dict.fromkeys(CLASSES.values())}
    UNIONS = {"lung": ("left_lung", "right_lung"), "lesion": ("ground_glass", "consolidation")}

    def _rows(self) -> list[dict]:
        self._coco: CocoMasks | None = None
        self._annotations = None
        coco_path = self.folder / "annotation" / "results.json"
        structure_path = self.folder / "structure.csv"
        if coco_path.is_file():
            self._coco = CocoMasks(coco_path, class_kind)
        if structure_path.is_file():
            self._annotations = read_csv(structure_path, ANNOTATION_COLUMNS)
            filenames = [inside(name, structure_path) for name in self._annotations["Filename"]]
        elif self._coco is not None:
            self.SUPPORT_FILES = ("annotation/results.json",)
            filenames = [inside(name, coco_path) for name in self._coco.filenames]
        else:
            raise InputError(
                f"{self.folder}: neither structure.csv nor annotation/results.json is there. Clone the whole repository: "
                "git clone https://github.com/GeneralBlockchain/covid-19-chest-xray-segmentations-dataset.git"
            )
        self._crops = self._read_crops()
        metadata = read_metadata(self.folder / "metadata.csv")
        return [self._row(filename, metadata.get(filename)) for filename in dict.fromkeys(filenames)]

    def _read_crops(self) -> dict[str, dict[str, list[dict]]]:
        """case -> kind -> crops (path, top, left, width, height, resolution, row number in the table)."""
        crops: dict[str, dict[str, list[dict]]] = {}
        if self._annotations is None:
            return crops
        for number, row in enumerate(self._annotations.to_dict("records"), start=2):  # line 1 is the header
            kind = class_kind(row["Template Name"])
            if kind is None:
                raise InputError(
                    f"{self.folder / 'structure.csv'}, line {number}: unknown class {row['Template Name']!r}; "
                    f"known: {', '.join(CLASSES)}"
                )
            if not row["Mask"].strip():
                continue
            try:
                width, height = (int(part) for part in row["Resolution"].lower().split("x"))
                box = {key.lower(): int(float(row[key])) for key in ("Top", "Left", "Width", "Height")}
            except (ValueError, OverflowError):
                raise InputError(
                    f"{self.folder / 'structure.csv'}, line {number}: Resolution (WxH), Top, Left, Width and Height "
                    f"must be whole numbers; found {[row[key] for key in ANNOTATION_COLUMNS[3:]]}"
                ) from None
            path = inside(row["Mask"].strip(), f"{self.folder / 'structure.csv'}, line {number}")
            crop = {"path": path, "size": (height, width), "line": number, **box}
            crops.setdefault(stem(row["Filename"]), {}).setdefault(kind, []).append(crop)
        return crops

    def _row(self, filename: str, about: dict | None) -> dict:
        case = stem(filename)
        about = about or {}
        row = {"case": case, "image": f"images/{filename}", "modality": "CXR", **outcomes(about)}
        row["patient"] = self._patient(filename, about)
        row["view"] = about.get("view") or None
        row["finding"] = normalise_finding(about.get("finding"))
        row["licence"] = "synthetic" if self.phantom else about.get("license") or "not stated (annotations CC BY 4.0)"
        row["source"] = about.get("url") or ("covidcxr.phantom" if self.phantom else "Cohen collection")
        for kind in self.LABELS:
            row[kind] = self._mask_paths(case, kind)
        for kind, parts in self.UNIONS.items():
            row[kind] = [path for part in parts for path in row[part] or ()] or None
        row["lungs_complete"] = bool(row["left_lung"] and row["right_lung"])
        return row

    def _mask_paths(self, case: str, kind: str) -> list[str] | None:
        crops = self._crops.get(case, {}).get(kind, ())
        if self._coco is not None and not crops:
            return ["annotation/results.json"] if self._coco.has(case, kind) else None
        return [crop["path"] for crop in crops] or None

    def _patient(self, filename: str, about: dict) -> str:
        named = patient(about, self.phantom)
        if named:
            return named
        name = re.sub(r"-(PA|AP|L)$", "", stem(filename), flags=re.IGNORECASE)
        return "file-" + re.sub(r"-day-?\d+$", "", name, flags=re.IGNORECASE)

    # ---- masks -------------------------------------------------------------------------------------------------------

    def mask(self, case: str, kind: str) -> np.ndarray:
        """Mask of an image, bool (H, W). Every class was looked for in every image, so a class without outline gives an
        empty mask; a missing lung too (`lungs_complete` of the table is False there).

        The COCO file is used where it is there; the crops of structure.csv otherwise.
        """
        self._check_kind(kind)
        if kind in self.UNIONS:
            return united(self.mask(case, part) for part in self.UNIONS[kind])
        size = read_size(self._image_path(self.row(case), volume=False))
        if self._coco is not None:
            return self._coco.mask(case, kind, size)
        return self.mask_from_crops(case, kind, size)

    def mask_from_crops(self, case: str, kind: str, size: tuple[int, int]) -> np.ndarray:
        """Union of the crops of one class pasted into a canvas of `size` (H, W), bool."""
        self.row(case)  # reads the tables, and refuses an unknown case
        canvas = np.zeros(size, bool)
        for crop in self._crops.get(case, {}).get(kind, ()):
            self._paste(canvas, crop, case)
        return canvas

    def _paste(self, canvas: np.ndarray, crop: dict, case: str) -> None:
        where = f"{self.folder / crop['path']} (structure.csv, line {crop['line']}, image {case})"
        if crop["size"] != canvas.shape:
            raise InputError(
                f"{where}: Resolution says {crop['size'][1]} x {crop['size'][0]} (width x height), the image has "
                f"{canvas.shape[1]} x {canvas.shape[0]}"
            )
        pixels = read_pixels(self.folder / crop["path"])
        if pixels.shape[:2] != (crop["height"], crop["width"]):
            raise InputError(
                f"{where}: the crop has {pixels.shape[1]} x {pixels.shape[0]} pixels, the table says "
                f"{crop['width']} x {crop['height']} (width x height)"
            )
        top, left, bottom, right = crop["top"], crop["left"], crop["top"] + crop["height"], crop["left"] + crop["width"]
        if top < 0 or left < 0 or bottom > canvas.shape[0] or right > canvas.shape[1]:
            raise InputError(
                f"{where}: the crop's box (left {left}, top {top}, right {right}, bottom {bottom}) is out of bounds of "
                f"an image of {canvas.shape[1]} x {canvas.shape[0]} pixels"
            )
        if pixels.ndim == 3:
            pixels = pixels[:, :, 0] | pixels[:, :, 1] | pixels[:, :, 2] if pixels.shape[2] >= 3 else pixels[:, :, 0]
        canvas[top:bottom, left:right] |= pixels > 0

    # ---- verification ------------------------------------------------------------------------------------------------

    def _check_case(self, row: dict, report) -> dict:
        from covidcxr.datasets.checks import check_image_file, check_lesion_in_lung

        case = row["case"]
        measured, image = check_image_file(self.folder / row["image"], report)
        if image is None:
            return measured
        masks = {}
        for kind in self.LABELS:
            if not row[kind]:
                continue
            try:
                masks[kind] = self.mask(case, kind)
            except InputError as error:
                report.error("mask", str(error), file=row[kind][0])
                continue
            if not masks[kind].any():
                report.warning("empty mask", f"the mask of {kind} has no foreground", file=row[kind][0])
            if self._coco is not None and self._crops.get(case, {}).get(kind):
                self._compare_with_crops(case, kind, masks[kind], report)
        for side in ("left_lung", "right_lung"):
            if not row[side]:
                report.warning("lung missing", f"no {side.replace('_', ' ')} is outlined")
        if "left_lung" in masks and "right_lung" in masks and masks["left_lung"].any() and masks["right_lung"].any():
            middle = [np.nonzero(masks[side].any(axis=0))[0].mean() for side in ("left_lung", "right_lung")]
            if middle[0] < middle[1]:
                report.warning("sides", "the left lung lies on the image's left: mirrored image or swapped names")
        nothing = np.zeros(image.shape, bool)
        lesion = masks.get("ground_glass", nothing) | masks.get("consolidation", nothing)
        lung = masks.get("left_lung", nothing) | masks.get("right_lung", nothing)
        measured["lung_pixels"], measured["lesion_pixels"] = int(lung.sum()), int(lesion.sum())
        check_lesion_in_lung(lesion, lung, measured, report)
        return measured

    def _compare_with_crops(self, case: str, kind: str, mask: np.ndarray, report) -> None:
        try:
            crops = self.mask_from_crops(case, kind, mask.shape)
        except InputError as error:
            report.error("mask", str(error))
            return
        union = (mask | crops).sum()
        overlap = (mask & crops).sum() / union if union else 1.0
        if overlap < 0.9:
            report.warning("COCO against crops", f"{kind}: the COCO outline and the crops overlap by IoU {overlap:.2f} only")

    def _check_set(self, table, report) -> None:
        others = table[~table.covid.fillna(True)]
        if len(others) and not self.phantom:
            findings = ", ".join(f"{name} {number}" for name, number in others.finding.value_counts().items())
            report.warning("not COVID-19", f"{len(others)} of {len(table)} images show something else: {findings}")

    def _counts(self, table) -> dict[str, int]:
        rows = 0 if self._annotations is None else len(self._annotations)
        return {
            "annotation rows": rows,
            "mask files": sum(len(crops) for kinds in self._crops.values() for crops in kinds.values()),
            "images with an opacity": int(table.lesion.notna().sum()),
            "images with both lungs": int(table.lungs_complete.sum()),
            "COVID-19 images": int(table.covid.sum()),
        }
