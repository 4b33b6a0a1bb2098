"""The tags of the V7 set, as columns: "Age:54" and "Sex/F" say their value, others are findings or say how the image was made."""

from collections.abc import Callable, Iterable

from covidcxr.datasets.cohen import number, view
from covidcxr.datasets.tables_of_cases import yes_no

COVID = "COVID-19"
# Findings, the more special first: an image of COVID-19 is also tagged as viral pneumonia.
FINDINGS = {
    "COVID-19": "COVID-19",
    "SARS": "SARS",
    "Varicella": "Varicella pneumonia",
    "Influenza": "Influenza pneumonia",
    "Streptococcus": "Streptococcus pneumonia",
    "Klebsiella": "Klebsiella pneumonia",
    "Legionella": "Legionella pneumonia",
    "Mycoplasma": "Mycoplasma pneumonia",
    "Chlamydophila": "Chlamydophila pneumonia",
    "E.Coli": "E. coli pneumonia",
    "Pneumocystis": "Pneumocystis pneumonia",
    "Lipoid pneumonia": "lipoid pneumonia",
    "Fungal Pneumonia": "fungal pneumonia",
    "Bacterial Pneumonia": "bacterial pneumonia",
    "Viral Pneumonia": "viral pneumonia",
    "Undefined Pneumonia": "pneumonia",
    "Pneumonia": "pneumonia",
    "ARDS": "ARDS",
    "No Pneumonia (healthy)": "no finding",
    "No Finding": "no finding",
}
_MODALITIES = {"x-ray": "CXR", "xray": "CXR", "ct": "CT", "ct scan": "CT"}
# Key of a tag with a value -> column, and what reads the value (None: it can't).
_VALUES: dict[str, tuple[str, Callable]] = {
    "age": ("age", number),
    "sex": ("sex", lambda text: text.upper() or None),
    "view": ("view", view),
    "patientid": ("patient_id", lambda text: text or None),
    "location": ("location", lambda text: text or None),
    "temperature": ("temperature", number),
    "po2_saturation": ("po2_saturation", number),
    "leukocyte_count": ("leukocyte_count", number),
    "neutrophil_count": ("neutrophil_count", number),
    "lymphocyte_count": ("lymphocyte_count", number),
    "icu_admission": ("icu", yes_no),
    "in_icu_scan": ("in_icu", yes_no),
    "survival": ("survival", yes_no),
    "intubation": ("intubated", yes_no),
    "intubation_present": ("intubation_present", yes_no),
    "extubated": ("extubated", yes_no),
    "needed_supplemental_o2": ("needed_supplemental_o2", yes_no),
}
_FINDING_OF = {tag.lower(): finding for tag, finding in FINDINGS.items()}
_RANK = {finding: rank for rank, finding in enumerate(FINDINGS.values())}


def read_tags(tags: Iterable[str]) -> tuple[dict, list[str]]:
    """Columns that tags fill, and the tags that no column understands.

    Columns: covid (bool; False where tags are there but none is COVID-19), finding, ards (bool), modality, and those that have a
    value, such as age, sex, view, patient_id, icu, death. Upper and lower case are alike.

    Returns:
        ({column: value}, unknown tags). No tags at all: ({}, []).
    """
    tags = [str(tag).strip() for tag in tags]
    columns: dict = {}
    findings, unknown = [], []
    for tag in tags:
        key, text = _key_and_value(tag)
        if key in _VALUES:
            column, convert = _VALUES[key]
            columns[column] = convert(text)
            if columns[column] is None:
                unknown.append(tag)
        elif tag.lower() in _FINDING_OF:
            findings.append(_FINDING_OF[tag.lower()])
        elif tag.lower() in _MODALITIES:
            columns["modality"] = _MODALITIES[tag.lower()]
        else:
            unknown.append(tag)
    if not tags:
        return {}, []
    survival, in_icu = columns.pop("survival", None), columns.pop("in_icu", None)
    columns["death"] = None if survival is None else not survival
    columns["icu"] = True if in_icu else columns.get("icu")
    columns |= {"covid": COVID in findings, "ards": "ARDS" in findings}
    columns["finding"] = min(findings, key=_RANK.__getitem__) if findings else None
    if columns["covid"] and columns["ards"]:
        columns["finding"] = "COVID-19 with ARDS"
    return {column: value for column, value in columns.items() if value is not None}, unknown


def _key_and_value(tag: str) -> tuple[str, str]:
    """"Age:54" and "Sex/F" in two parts; a tag without value has an empty second."""
    for separator in (":", "/"):
        name, found, text = tag.partition(separator)
        key = name.strip().lower().replace(" ", "_").removesuffix("_on_admission")
        if found and key in _VALUES:
            return key, text.strip()
    return tag, ""
