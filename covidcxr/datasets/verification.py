"""The verifier: what is required, present, missing, unused; counts; every file read and checked; duplicates.

In the manner of nnU-Net's `verify_dataset_integrity`: it reads everything, reports every problem by file name instead of
stopping at the first, and ends in a plain OK or in the list. An error is something that makes results wrong or reading
impossible; a warning is something a user should know (a part of the set, an empty mask, the same image under two patients).
"""

import threading
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from covidcxr.datasets.manifests import file_hashes, files_of
from covidcxr.datasets.near_duplicates import Fingerprint, near_duplicates
from covidcxr.datasets.tables_of_cases import paths_in
from covidcxr.errors import CovidcxrError

_DOCUMENTS = ("readme", "licence", "license", "citation", "source", "changes")
_SHOWN = 5  # names listed per kind of problem in the printed text


@dataclass(frozen=True)
class Problem:
    """One finding: `severity` "error" or "warning", what was `check`ed, the `case` and `file` (relative) it concerns, `text`."""

    severity: str
    check: str
    text: str
    case: str | None = None
    file: str | None = None


@dataclass
class Verification:
    """Result of a verification.

    Attributes:
        required, present, missing, unused: relative paths: what table and layout ask for; which of it is there; which is not;
            which files of the folder nothing asks for.
        counts: numbers of cases, patients, findings, and what else the set counts.
        problems: all findings; `errors` and `warnings` are its two halves.
        measured: case -> what was measured (shape, spacing, values, voxels of masks, …).
        same_images: groups of cases that hold the same image or nearly so; one fold each.
    """

    name: str
    folder: Path
    title: str
    licence: str
    counts: dict[str, int] = field(default_factory=dict)
    required: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    measured: dict[str, dict] = field(default_factory=dict)
    same_images: list[tuple[str, ...]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def errors(self) -> list[Problem]:
        """Problems by which the set, or a case, can't be used as it is."""
        return [problem for problem in self.problems if problem.severity == "error"]

    @property
    def warnings(self) -> list[Problem]:
        """Problems that a user should know of."""
        return [problem for problem in self.problems if problem.severity == "warning"]

    @property
    def ok(self) -> bool:
        """True when there is no error; warnings are allowed."""
        return not self.errors

    def to_frame(self):
        """pandas.DataFrame, one row per case: what was measured, and the numbers of errors and warnings."""
        import pandas

        errors, cautions = (Counter(problem.case for problem in half) for half in (self.errors, self.warnings))
        return pandas.DataFrame(
            {"case": case, **measured, "errors": errors[case], "warnings": cautions[case]}
            for case, measured in self.measured.items()
        )

    def problems_frame(self):
        """pandas.DataFrame, one row per problem: severity, check, case, file, text."""
        import pandas

        columns = ("severity", "check", "case", "file", "text")
        return pandas.DataFrame(
            [[getattr(problem, name) for name in columns] for problem in self.problems], columns=list(columns)
        )

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {self.title}",
            f"  folder    {self.folder}",
            f"  licence   {self.licence}",
            f"  files     required {len(self.required)}, present {len(self.present)}, missing {len(self.missing)}, "
            f"unused {len(self.unused)}",
            "  counts    " + ", ".join(f"{name} {number}" for name, number in self.counts.items()),
        ]
        for heading, problems in (("errors", self.errors), ("warnings", self.warnings)):
            if problems:
                lines.append(f"  {heading}    {len(problems)}")
                lines += [f"    {line}" for line in _grouped(problems)]
        lines.append(
            f"  {'OK' if self.ok else 'NOT OK'}: {len(self.errors)} errors, {len(self.warnings)} warnings ({self.seconds:.1f} s)"
        )
        return "\n".join(lines)


def _grouped(problems: list[Problem]) -> list[str]:
    """One line per problem, or one line per kind of problem where many cases share it."""
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.severity, problem.check), []).append(problem)
    lines = []
    for (_, check), members in groups.items():
        for problem in members[:_SHOWN]:
            where = problem.case or problem.file
            lines.append(f"{check}: " + (f"{where}: " if where and where not in problem.text else "") + problem.text)
        if len(members) > _SHOWN:
            lines.append(f"{check}: … and {len(members) - _SHOWN} more (problems_frame() lists all)")
    return lines


class Report:
    """Collects problems from several threads; `of(case)` gives a view that fills in the case."""

    def __init__(self):
        self.problems: list[Problem] = []
        self._lock = threading.Lock()

    def add(self, severity: str, check: str, text: str, case: str | None = None, file: str | None = None) -> None:
        """Note a problem; `check` is what found it."""
        with self._lock:
            self.problems.append(Problem(severity, check, text, case, file))

    def error(self, check: str, text: str, case: str | None = None, file: str | None = None) -> None:
        """Note a problem by which the set, or the case, can't be used as it is."""
        self.add("error", check, text, case, file)

    def warning(self, check: str, text: str, case: str | None = None, file: str | None = None) -> None:
        """Note a problem that a user should know of."""
        self.add("warning", check, text, case, file)


class CaseReport(Report):
    """A report of one case; keeps the fingerprint of its image for the search for near-duplicates."""

    def __init__(self, case: str):
        super().__init__()
        self.case = case
        self.fingerprint: Fingerprint | None = None

    def add(self, severity, check, text, case=None, file=None):
        """Note a problem of this case."""
        super().add(severity, check, text, case or self.case, file)


def verify(dataset, near_duplicates: bool = True, workers: int = 2) -> Verification:
    """Check a data set completely; faults of the data are reported, never raised.

    Args:
        dataset: from `datasets.open`.
        near_duplicates: also look for near-duplicates (`near_duplicates` module).
        workers: cases read at the same time; each may hold a CT volume and its masks in memory.
    """
    from covidcxr import datasets

    started = time.perf_counter()
    about = datasets.facts(dataset.name)
    result = Verification(dataset.name, dataset.folder, about["title"], "synthetic" if dataset.phantom else about["licence"])
    report = Report()
    try:
        table = dataset.cases()
    except CovidcxrError as error:
        report.error("layout", str(error))
        table = None
    if table is not None:
        rows = table.to_dict("records")
        _check_files(dataset, rows, result, report)
        _count(dataset, table, about["expected"], result, report)
        fingerprints = _check_cases(dataset, rows, workers, result, report)
        dataset._check_set(table, report)
        _check_duplicates(dataset, rows, fingerprints if near_duplicates else {}, result, report)
    result.problems = report.problems
    result.seconds = time.perf_counter() - started
    return result


def _check_files(dataset, rows: list[dict], result: Verification, report: Report) -> None:
    required = set(dataset.SUPPORT_FILES)
    for row in rows:
        required.update(paths_in(row["image"]))
        for column in dict.fromkeys(column for column, _ in dataset.LABELS.values()):
            required.update(paths_in(row.get(column)))
    there = {path.relative_to(dataset.folder).as_posix() for path in files_of(dataset.folder)}
    result.required = sorted(required)
    result.present = sorted(required & there)
    result.missing = sorted(required - there)
    result.unused = sorted(
        name
        for name in there - required
        if not Path(name).name.lower().startswith(_DOCUMENTS) and not any(fnmatch(name, form) for form in dataset.OPTIONAL_FILES)
    )
    for name in result.missing:
        report.error("missing file", f"{name} is not there", file=name)
    if result.unused:
        names = ", ".join(result.unused[:_SHOWN]) + (", …" if len(result.unused) > _SHOWN else "")
        report.warning("unused files", f"{len(result.unused)} files belong to no case: {names}")


def _count(dataset, table, expected: dict[str, int], result: Verification, report: Report) -> None:
    result.counts = {"cases": len(table), "patients": int(table.patient.nunique())}
    result.counts |= dataset._counts(table)
    result.counts |= {f"finding {name}": int(n) for name, n in table.finding.fillna("not stated").value_counts().items()}
    for outcome in ("icu", "death"):
        if table[outcome].notna().any():
            result.counts |= {f"{outcome} yes": int(table[outcome].sum()), f"{outcome} no": int((~table[outcome].dropna()).sum())}
    if dataset.phantom:
        return
    for name, number in expected.items():
        found = result.counts.get(name, 0)
        if found != number:
            report.warning("counts", f"{name}: {found} found, the complete set has {number}")


def _check_cases(dataset, rows: list[dict], workers: int, result: Verification, report: Report) -> dict[str, Fingerprint]:
    gone = set(result.missing)

    def check(row: dict) -> tuple[CaseReport, dict]:
        own = CaseReport(row["case"])
        if gone & set(paths_in(row["image"])):
            return own, {}  # already reported as missing
        present = {key: _without(value, gone) for key, value in row.items()}
        try:
            return own, dataset._check_case(present, own)
        except CovidcxrError as error:
            own.error("reading", str(error))
        except Exception as error:  # noqa: BLE001 - a fault of one file must not end the verification of the others
            own.error("reading", f"{row['image']}: {type(error).__name__}: {error}", file=row["image"])
        return own, {}

    fingerprints: dict[str, Fingerprint] = {}
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # what volumes warn of stands in the report
        for row, (own, measured) in zip(rows, pool.map(check, rows), strict=True):
            report.problems += own.problems
            result.measured[row["case"]] = {"patient": row["patient"], "image": row["image"], **measured}
            if own.fingerprint is not None:
                fingerprints[row["case"]] = own.fingerprint
    units = Counter(measured["units"] for measured in result.measured.values() if "units" in measured)
    result.counts |= {f"volumes {kind}": number for kind, number in units.items()}
    return fingerprints


def _without(cell, gone: set[str]):
    """A table's cell without the paths that are not there."""
    if isinstance(cell, list):
        return [path for path in cell if path not in gone] or None
    return None if isinstance(cell, str) and cell in gone else cell


def _check_duplicates(dataset, rows: list[dict], fingerprints: dict, result: Verification, report: Report) -> None:
    patients = {row["case"]: row["patient"] for row in rows}
    pairs = []
    hashes = file_hashes(dataset.folder, [dataset.folder / row["image"] for row in rows if row["image"] in result.present])
    first: dict[str, str] = {}
    for row in rows:
        digest = hashes.get(row["image"])
        if digest is None:
            continue
        if digest in first:
            pairs.append((first[digest], row["case"]))
            _report_pair(report, "duplicate", "the same file content", *pairs[-1], patients)
        first.setdefault(digest, row["case"])
    exact = set(pairs)
    cases = list(fingerprints)
    for i, j, distance, correlation in near_duplicates(list(fingerprints.values())):
        pair = (cases[i], cases[j])
        if pair not in exact:
            pairs.append(pair)
            text = f"nearly the same image (hash distance {distance} of 256, correlation {correlation:.3f})"
            _report_pair(report, "near-duplicate", text, *pair, patients)
    result.same_images = _components(pairs)


def _report_pair(report: Report, check: str, text: str, one: str, other: str, patients: dict) -> None:
    """Within a patient two like images are ordinary; across patients they leak between folds."""
    if patients[one] != patients[other]:
        report.warning(
            f"{check} across patients",
            f"{one} (patient {patients[one]}) and {other} (patient {patients[other]}): {text}; keep them in one fold",
            case=other,
        )


def _components(pairs: list[tuple[str, str]]) -> list[tuple[str, ...]]:
    """Groups of cases connected by pairs."""
    group: dict[str, set[str]] = {}
    for one, other in pairs:
        merged = group.get(one, {one}) | group.get(other, {other})
        for member in merged:
            group[member] = merged
    return sorted({tuple(sorted(members)) for members in group.values()})
