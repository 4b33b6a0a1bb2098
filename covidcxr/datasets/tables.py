"""Two tables without images: severity scores of radiographs, and outcomes of the rural cohort (paper tang2020).

Sources: covid-severity-scores.csv of ieee8023/covid-chestxray-dataset (CC BY-SA); covid_rural_patient_info.csv of
haimingt/opacity_segmentation_covid_chest_X_ray (the cohort of TCIA COVID-19-AR, 10.7937/tcia.2020.py71-5978; no licence file).

Layout taken:
    covid-severity-scores.csv        filename, geographic_mean (0..8), opacity_mean (0..6); lines starting with # are comments
    covid_rural_patient_info.csv     PATIENT_ID, AGE, SEX, ICU Admit, MORTALITY, …
One of them may be absent. A case is a row; the column `table` says of which table ("severity" or "rural"); there is no image. The
severity scores join the Cohen images by `filename`, where their patients stand too, so `patient` is None in those rows.
"""

from covidcxr.datasets.base import Dataset
from covidcxr.datasets.cohen import number
from covidcxr.datasets.images import stem
from covidcxr.datasets.tables_of_cases import read_csv, yes_no

SEVERITY, RURAL = "covid-severity-scores.csv", "covid_rural_patient_info.csv"
RANGES = {"geographic_mean": (0.0, 8.0), "opacity_mean": (0.0, 6.0)}


class OutcomeTables(Dataset):
    SUPPORT_FILES = (SEVERITY, RURAL)

    def _rows(self) -> list[dict]:
        rows = []
        if (self.folder / SEVERITY).is_file():
            for row in read_csv(self.folder / SEVERITY, ("filename", *RANGES), comment="#").to_dict("records"):
                rows.append(
                    {
                        "case": f"severity/{stem(row['filename'])}",
                        "modality": "CXR",
                        "table": "severity",
                        "filename": row["filename"],
                        **{key: number(row[key]) for key in RANGES},
                        "licence": "CC BY-SA",
                        "source": "Cohen et al., arXiv 2005.11856",
                    }
                )
        if (self.folder / RURAL).is_file():
            needed = ("PATIENT_ID", "AGE", "SEX", "ICU Admit", "MORTALITY")
            for row in read_csv(self.folder / RURAL, needed).to_dict("records"):
                rows.append(
                    {
                        "case": f"rural/{row['PATIENT_ID']}",
                        "patient": row["PATIENT_ID"],
                        "modality": "CXR",
                        "table": "rural",
                        "finding": "COVID-19" if yes_no(row.get("COVID TEST POSITIVE")) else None,
                        "icu": yes_no(row["ICU Admit"]),
                        "death": yes_no(row["MORTALITY"]),
                        "sex": row["SEX"] or None,
                        "age": number(row["AGE"]),
                        "licence": "not stated",
                        "source": "TCIA COVID-19-AR",
                    }
                )
        return rows

    def _check_set(self, table, report) -> None:
        for column, (low, high) in RANGES.items():
            if column in table:
                wrong = table[(table.table == "severity") & ~table[column].between(low, high)]
                for row in wrong.itertuples():
                    report.error(
                        "value range", f"{column} is {getattr(row, column)}, expected {low:g} to {high:g}", case=row.case
                    )
        rural = table[table.table == "rural"]
        for row in rural[~rural.age.between(0, 120)].itertuples():
            report.warning("value range", f"age is {row.age}", case=row.case)

    def _counts(self, table) -> dict[str, int]:
        rural = table[table.table == "rural"]
        return {
            "severity rows": int((table.table == "severity").sum()),
            "rural rows": len(rural),
            "rural ICU": int(rural.icu.sum()),
            "rural deaths": int(rural.death.sum()),
        }
