"""CSV as every machine writes it: UTF-8, line feeds, fields in the order given."""

import csv
import io
from pathlib import Path

from covidcxr.paths import write_atomically

# Columns of the Cohen collection's table, which the General Blockchain set repeats.
METADATA = (
    "patientid", "offset", "sex", "age", "finding", "survival", "intubated", "intubation_present", "went_icu", "in_icu",
    "needed_supplemental_O2", "extubated", "temperature", "pO2_saturation", "leukocyte_count", "neutrophil_count",
    "lymphocyte_count", "view", "modality", "date", "location", "folder", "filename", "doi", "url", "license", "clinical_notes",
    "other_notes", "",
)


def write_csv(path: Path, columns, rows: list[dict]) -> None:
    """Rows as dictionaries; a missing field is empty, an unknown one an error."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
