"""The table of cases: its columns, their types, and the common words for findings."""

from pathlib import PurePosixPath

from covidcxr.errors import InputError

COLUMNS = {
    "case": "identifier, unique in the set",
    "patient": "identifier of the patient; images of one patient share it. Splits are grouped by it",
    "modality": "CXR (radiograph) or CT",
    "view": "PA, AP, AP supine, lateral; volume or axial slice for CT; None when unknown",
    "finding": "normalised diagnosis (see `normalise_finding`); None when unknown",
    "covid": "True / False / missing: does the finding include COVID-19",
    "image": "path of the image or volume, relative to the set's folder; None where there is only a table row",
    "lung": "path of the mask of both lungs, or list of paths to be united; None when there is none",
    "left_lung": "the same for the patient's left lung (on a radiograph's right side)",
    "right_lung": "the same for the patient's right lung",
    "lesion": "the same for the lesions (opacities: ground glass and consolidation)",
    "icu": "True / False / missing: was the patient admitted to intensive care",
    "death": "True / False / missing: did the patient die",
    "sex": "M, F, or None",
    "age": "years (float), missing when unknown",
    "licence": "licence of this image as stated at its source",
    "source": "address or name of where this image comes from",
}
_BOOLEAN = ("covid", "icu", "death")
_LONGEST_NAME, _LONGEST_PATH = 255, 1000  # bytes of a file's name on usual disks; characters, well within what systems take
_SHOWN = 80  # characters of a text in a message

_FINDINGS = {
    "covid-19": "COVID-19",
    "covid19": "COVID-19",
    "covid": "COVID-19",
    "covid-19, ards": "COVID-19 with ARDS",
    "no finding": "no finding",
    "normal": "no finding",
    "pneumonia": "pneumonia",
    "bacteria": "bacterial pneumonia",
    "bacterial": "bacterial pneumonia",
    "virus": "viral pneumonia",
    "viral": "viral pneumonia",
    "sars": "SARS",
    "mers": "MERS",
    "mers-cov": "MERS",
    "ards": "ARDS",
    "pneumocystis": "Pneumocystis pneumonia",
    "streptococcus": "Streptococcus pneumonia",
    "legionella": "Legionella pneumonia",
    "klebsiella": "Klebsiella pneumonia",
}


def normalise_finding(text) -> str | None:
    """One word for one finding: the last step of paths such as "Pneumonia/Viral/COVID-19", in the common spelling.

    Unknown findings are kept as they are; empty, "todo" and "Unknown" become None.
    """
    if text is None or text != text:
        return None
    last = str(text).split("/")[-1].strip()
    if last.lower() in ("", "todo", "unknown", "nan"):
        return None
    return _FINDINGS.get(last.lower(), last)


def is_covid(finding: str | None) -> bool | None:
    """Whether a finding is COVID-19; None where no finding is known."""
    return None if finding is None else finding.startswith("COVID-19")


def yes_no(value, yes=("Y", "YES", "1", "1.0", "TRUE"), no=("N", "NO", "0", "0.0", "FALSE")) -> bool | None:
    """True, False or None (empty or unclear) for the ways in which tables say yes and no."""
    word = str(value).strip().upper()
    return True if word in yes else False if word in no else None


def case_table(rows: list[dict], where):
    """pandas.DataFrame of the rows: all `COLUMNS` first, then the set's own, with fixed types; cases must be unique.

    Args:
        rows: one dict per case; what is left out is missing.
        where: folder or file named in errors.
    """
    import pandas

    if not rows:
        raise InputError(
            f"{where}: no case found. The layouts that are read stand at the top of the set's module and in its "
            "entry in params/datasets.yaml."
        )
    extra = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in COLUMNS]
    full = []
    for row in rows:
        row = {column: row.get(column) for column in [*COLUMNS, *extra]}
        if row["covid"] is None:
            row["covid"] = is_covid(row["finding"])
        full.append(row)
    columns = {}
    for column in [*COLUMNS, *extra]:
        values = [row[column] for row in full]
        if column in _BOOLEAN:
            columns[column] = pandas.array(values, dtype="boolean")
        elif column == "age":
            columns[column] = pandas.Series(
                [float("nan") if value is None else float(value) for value in values], dtype="float64"
            )
        elif column in COLUMNS or any(isinstance(value, (str, list)) for value in values):
            columns[column] = pandas.Series(values, dtype="object")  # None stays None, lists stay lists
        else:
            columns[column] = values
    table = pandas.DataFrame(columns)
    twice = table.case[table.case.duplicated()].unique()
    if len(twice):
        raise InputError(f"{where}: these cases occur more than once: {', '.join(map(str, twice[:5]))}")
    return table


def paths_in(cell) -> list[str]:
    """Paths in a cell of the table: none, one, or several."""
    if cell is None or cell != cell:
        return []
    return [cell] if isinstance(cell, str) else list(cell)


def inside(path: str, where) -> str:
    """A path read from a table, if it stays in the set's folder; InputError with `where` (table and line) if it leads out, or is
    none that a disk could hold."""
    parts = PurePosixPath(path).parts
    too_long = len(path) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in parts)
    if not parts or too_long or "\\" in path or "\0" in path or path.startswith("/") or ".." in parts:
        raise InputError(f"{where}: {path[:_SHOWN]!r} is not a path inside the set's folder")
    return path


def read_csv(path, required: tuple[str, ...] = (), **options):
    """A table with every cell as text ("" when empty); clear errors for unreadable files and missing columns."""
    import pandas

    def read(encoding: str):
        return pandas.read_csv(path, dtype=str, keep_default_na=False, encoding=encoding, **options)

    try:
        try:
            table = read("utf-8-sig")
        except UnicodeDecodeError:
            # spreadsheet programs write the local code page; latin-1 reads any byte, and only place names are affected
            table = read("latin-1")
    except FileNotFoundError:
        raise InputError(f"{path}: the table is missing") from None
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise InputError(f"{path}: not a readable table ({' '.join(str(error).split())})") from error
    if not isinstance(table.index, pandas.RangeIndex):  # pandas takes the first cells of all rows for names of the rows
        raise InputError(f"{path}: its rows have more cells than its header has columns")
    missing = [column for column in required if column not in table.columns]
    if missing:
        raise InputError(f"{path}: column {', '.join(map(repr, missing))} missing; found {', '.join(map(str, table.columns))}")
    return table
