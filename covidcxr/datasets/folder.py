"""A user's own images, volumes, masks and table.

Layout taken (any part but images/volumes may be absent):
    images/<case>.png|jpg|jpeg|bmp|tif    radiographs or slices, 8- or 16-bit, grey or colour
    images/<case>.dcm, images/<case>      radiographs as DICOM, also without a suffix (`covidcxr.datasets.dicom`)
    volumes/<case>.nii.gz|nii             CT volumes
    masks/<kind>/<case>.*                 masks: 0 background, anything else foreground. Kinds are the names of the folders.
                                          lung is the union of left_lung and right_lung, and lesion that of ground_glass and
                                          consolidation, where they have no folder of their own
    cases.csv                             one row per case: column `case` (file name without suffix), and any of patient,
                                          modality, view, finding, icu, death, sex, age, licence, source; further columns are
                                          kept. icu and death: Y/N, yes/no, 1/0, true/false. Files that are not listed are left
                                          out; listed cases must have a file

Without cases.csv every image is its own patient: give patients when there are several images of one, or splits will leak. Of
DICOM, nothing but the pixels and the view (View Position) is taken: patients, dates and the like are not read from the files.
"""

from covidcxr.datasets.base import Dataset
from covidcxr.datasets.cohen import number
from covidcxr.datasets.dicom import SUFFIXES as DICOM_SUFFIXES
from covidcxr.datasets.dicom import is_dicom, read_dicom_view
from covidcxr.datasets.images import IMAGE_SUFFIXES, VOLUME_SUFFIXES, is_volume, stem
from covidcxr.datasets.tables_of_cases import COLUMNS, normalise_finding, read_csv, yes_no
from covidcxr.errors import InputError

_UNIONS = {"lung": ("left_lung", "right_lung"), "lesion": ("ground_glass", "consolidation")}


class UserFolder(Dataset):
    """Images and volumes of the user; every folder of masks is a kind."""

    def __init__(self, name, folder, phantom=False):
        super().__init__(name, folder, phantom)
        kinds = sorted(path.name for path in (folder / "masks").glob("*") if path.is_dir())
        clash = [kind for kind in kinds if kind in COLUMNS and kind not in ("lung", "left_lung", "right_lung", "lesion")]
        if clash:
            raise InputError(f"{folder / 'masks'}: a kind of mask cannot be called {clash[0]!r}, which is a column of the table")
        self.LABELS = {kind: (kind, None) for kind in kinds}
        self.UNIONS = {kind: parts for kind, parts in _UNIONS.items() if kind not in kinds and set(parts) <= set(kinds)}
        self.SUPPORT_FILES = ("cases.csv",) if (folder / "cases.csv").is_file() else ()

    def _rows(self) -> list[dict]:
        files = self._files("images", IMAGE_SUFFIXES + DICOM_SUFFIXES) | self._files("volumes", VOLUME_SUFFIXES)
        if not files:
            raise InputError(
                f"{self.folder}: no images found. Expected images/<case>.png (or jpg, bmp, tif, dcm) or volumes/<case>.nii.gz, "
                "masks/<kind>/<case>.* and, if wanted, cases.csv."
            )
        masks = {kind: self._files(f"masks/{kind}", IMAGE_SUFFIXES + VOLUME_SUFFIXES) for kind in self.LABELS}
        table = self._table(files)
        rows = []
        for case, image in files.items():
            if table and case not in table:
                continue  # the verifier names the file as unused
            row: dict = {
                "case": case,
                "image": image,
                "patient": case,
                "modality": "CT" if is_volume(image) else "CXR",
                "view": "volume" if is_volume(image) else self._view(image),
                "licence": "the user's own",
                "source": str(self.folder.name),
            }
            row |= {key: value for key, value in table.get(case, {}).items() if value is not None}
            row |= {kind: found.get(case) for kind, found in masks.items()}
            for kind, parts in self.UNIONS.items():
                row[kind] = [path for part in parts if (path := masks[part].get(case))] or None
            rows.append(row)
        return rows

    def _view(self, image: str) -> str | None:
        """The view that a DICOM file states; None for others, and for damaged ones, which reading the image tells by name."""
        try:
            return read_dicom_view(self.folder / image) if is_dicom(self.folder / image) else None
        except InputError:
            return None

    def _files(self, folder: str, suffixes: tuple[str, ...]) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in sorted((self.folder / folder).glob("*")):
            nameless = not path.suffix and ".dcm" in suffixes and path.is_file() and is_dicom(path)
            if not (path.name.lower().endswith(suffixes) or nameless) or path.name.startswith("."):
                continue
            case = stem(path)
            if case in found:
                raise InputError(
                    f"{self.folder}: two files are called {case}: {found[case]} and {folder}/{path.name}. Names must differ."
                )
            found[case] = f"{folder}/{path.name}"
        return found

    def _table(self, files: dict[str, str]) -> dict[str, dict]:
        path = self.folder / "cases.csv"
        if not path.is_file():
            return {}
        table = {}
        for number_of_line, row in enumerate(read_csv(path, ("case",)).to_dict("records"), start=2):
            where = f"{path}, line {number_of_line}"
            case = row.pop("case").strip()
            if case in table:
                raise InputError(f"{where}: case {case!r} is listed twice")
            if case not in files:
                raise InputError(
                    f"{where}: case {case!r} has no file; expected images/{case}.png (or another picture) or "
                    f"volumes/{case}.nii.gz"
                )
            table[case] = {
                key: self._value(key, text.strip(), where)
                for key, text in row.items()
                if key not in ("image", *self.LABELS, *self.UNIONS)
            }
        return table

    @staticmethod
    def _value(column: str, text: str, where: str):
        if not text:
            return None
        if column in ("icu", "death", "covid"):
            value = yes_no(text)
            if value is None:
                raise InputError(
                    f"{where}: column {column} is {text!r}; Y/N, yes/no, 1/0, true/false or an empty cell is expected"
                )
            return value
        if column == "age":
            years = number(text)
            if years is None:
                raise InputError(f"{where}: column age is {text!r}; a number of years or an empty cell is expected")
            return years
        return normalise_finding(text) if column == "finding" else text
