"""CSV as every machine writes it: UTF-8, line feeds, fields in the order given."""

import csv
import io
from pathlib import Path

from covidcxr.paths import write_atomically


def write_csv(path: Path, columns, rows: list[dict]) -> None:
    """Rows as dictionaries; a missing field is empty, an unknown one an error."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
