"""Who is in a cohort: patients with sex, age, disease, images and outcome, drawn without making any image."""

from dataclasses import dataclass

import numpy as np

from covidcxr.phantom.lesions import COVID, NORMAL, PNEUMONIA, Disease
from covidcxr.phantom.spec import CohortSpec

CXR_SET = "general_blockchain_cxr"  # radiographs; each again in one of the next two (`outlined_set`)
RURAL_SET, COHEN_SET = "rural_covid_cxr", "cohen_cxr"  # the first also has patients with COVID-19 whom no other set has
V7_SET = "v7_cxr"  # the first set's radiographs once more, and those of patients without COVID-19 whom no other set has


@dataclass(frozen=True)
class Study:
    """One examination of a patient: day after admission, view ("CT" for a CT), what the lungs show, its data set."""

    dataset: str
    name: str
    day: int
    view: str
    disease: Disease
    second: bool = False
    windowed: bool = False


@dataclass(frozen=True)
class Patient:
    """One patient of the truth table. `seed` is the root of every random stream of this patient."""

    number: int
    seed: tuple[int, int]
    sex: str
    age: int
    group: str
    icu: bool
    death: bool
    studies: tuple[Study, ...]

    @property
    def share(self) -> float:
        """Largest opaque share of the lungs that any study shows."""
        return max(study.disease.share for study in self.studies)


def has_radiographs(patient: Patient) -> bool:
    """Whether a patient's images are radiographs; else they are CT volumes. No patient has both."""
    return patient.studies[0].dataset in (CXR_SET, V7_SET, RURAL_SET)


def outlined_set(patient: Patient) -> str:
    """The second set of a radiograph patient: no patient is in both, so that one can test what was trained on the other.

    The rural cohort has two of three COVID-19 patients and all with clear lungs, who there stand for those that tested positive
    without an opacity (a third of the public set's images); the Cohen collection has the others.
    """
    rural = patient.group == NORMAL or (patient.group == COVID and patient.number % 3 != 0)
    return RURAL_SET if rural or patient.studies[0].dataset == RURAL_SET else COHEN_SET


def unlabelled(patient: Patient) -> str:
    """What the V7 set has of a patient besides frontal radiographs, without an outline: "lateral", "CT" or ""."""
    return {2: "lateral", 3: "CT"}.get(patient.number % 6, "") if patient.group == COVID else ""


def risk(share: np.ndarray | float, age: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of ICU admission and of death from the true opaque share (0..1) and age (years): two logistic models.

    The odds of intensive care are even at a share of 0.32 and an age of 60, and grow fivefold with each tenth of the lungs. From
    that follows what a score can reach at best: among patients with COVID-19 the true share itself tells ICU admission with an
    AUC of 0.91 and death with 0.77, and in a rural cohort of which one patient in seven has clear lungs with 0.92 and 0.80.
    The relation is planted that strongly so that a cohort of 44 patients can show it through a network's errors: of 400 cohorts
    drawn with other seeds, and outlined as badly as by ten short epochs, 97 % had all intervals of notebook 07 (manual and
    predicted, by image and by patient) above 0.5. Real lungs decide less.
    """
    def logistic(t):
        return 1 / (1 + np.exp(-t))

    share, age = np.asarray(share, float), np.asarray(age, float)
    return logistic(-5.1 + 16.0 * share + 0.020 * (age - 60)), logistic(-4.1 + 8.0 * share + 0.055 * (age - 60))


def draw_disease(group: str, rng: np.random.Generator) -> Disease:
    """Disease of one patient at its height."""
    if group == COVID:
        share = 0.02 + 0.68 * rng.beta(1.25, 2.4)
        dense = np.clip(0.04 + 0.55 * share + 0.08 * rng.standard_normal(), 0, 0.6)
    elif group == PNEUMONIA:
        share = 0.05 + 0.22 * rng.beta(1.6, 2.2)
        dense = rng.uniform(0.62, 0.9)
    else:
        share, dense = 0.0, 0.0
    return Disease(group, round(float(share), 4), round(float(dense), 4))


def _person(rng: np.random.Generator, group: str) -> tuple[str, int, Disease]:
    sex = "M" if rng.random() < (0.62 if group == COVID else 0.5) else "F"
    age = int(np.clip(round(rng.normal(58 if group != NORMAL else 46, 15)), 20, 90))
    return sex, age, draw_disease(group, rng)


def _outcome(rng: np.random.Generator, share: float, age: int) -> tuple[bool, bool]:
    icu, death = risk(share, age)
    # The same two numbers are drawn whatever the risk, so that a change of the model leaves the images alone.
    first, second = rng.random(2)
    return bool(first < icu), bool(second < death)


def draw_patients(spec: CohortSpec) -> list[Patient]:
    """Every patient of a cohort: radiograph patients first, then those of each CT data set, then those whom the V7 set has alone,
    then those of the rural cohort alone; all are different people."""
    patients: list[Patient] = []
    for group, (count, images) in ((COVID, spec.covid), (PNEUMONIA, spec.pneumonia), (NORMAL, spec.normal)):
        for place in range(count):
            patients.append(_cxr_patient(spec, len(patients) + 1, CXR_SET, group, _studies(count, images, place)))
    for dataset, volumes in spec.volumes.items():
        for place in range(volumes.patients):
            patients.append(_ct_patient(spec, len(patients) + 1, dataset, place))
    count, images = spec.others
    for place in range(count):
        group = NORMAL if place % 3 == 2 else PNEUMONIA
        patients.append(_cxr_patient(spec, len(patients) + 1, V7_SET, group, _studies(count, images, place)))
    count, images = spec.rural
    for place in range(count):
        patients.append(_cxr_patient(spec, len(patients) + 1, RURAL_SET, COVID, _studies(count, images, place)))
    return patients


def _studies(count: int, images: int, place: int) -> int:
    """How many of `images` the patient at this place of `count` has."""
    # Those beyond one each go to the first patients, two or three at most.
    return 1 + (images - count + count - 1 - place) // count


def _cxr_patient(spec: CohortSpec, number: int, dataset: str, group: str, images: int) -> Patient:
    seed = (spec.seed, number)
    rng = np.random.default_rng([*seed, 0])
    sex, age, worst = _person(rng, group)
    icu, death = _outcome(rng, worst.share, age)
    shares = _course(worst.share, images, rng)
    ill = worst.share > 0.22
    studies, day = [], int(rng.integers(0, 4))
    for k in range(images):
        view = str(rng.choice(["PA", "AP", "AP Supine"], p=[0.25, 0.45, 0.30] if ill else [0.72, 0.24, 0.04]))
        studies.append(Study(dataset, f"phantom-{number:03d}-day{day}", day, view, Disease(group, shares[k], worst.dense)))
        day += int(rng.integers(1, 6))
    return Patient(number, seed, sex, age, group, icu, death, tuple(studies))


def _course(worst: float, images: int, rng: np.random.Generator) -> list[float]:
    """Opaque share of successive images: it rises to its worst and may fall again."""
    if images <= 1:
        return [worst] * images
    peak = int(rng.integers(1, images))
    factors = [1 - 0.30 * abs(k - peak) * rng.uniform(0.7, 1.4) for k in range(images)]
    return [round(worst * max(0.15, f), 4) for f in factors]


def _ct_patient(spec: CohortSpec, number: int, dataset: str, place: int) -> Patient:
    seed = (spec.seed, number)
    rng = np.random.default_rng([*seed, 0])
    sex, age, disease = _person(rng, COVID)
    volumes = spec.volumes[dataset]
    if dataset == "mosmeddata":
        # The set's 50 masks are all of CT-1 studies: at most a quarter of the lungs.
        disease = Disease(COVID, round(0.01 + 0.22 * (disease.share / 0.70), 4), disease.dense)
    icu, death = _outcome(rng, disease.share, age)
    plain = volumes.patients - volumes.windowed
    studies = []
    if dataset == "covid19_ct_seg":
        windowed = place >= plain
        tail = int(rng.integers(0, 40))
        name = f"coronacases_{place + 1:03d}"
        if windowed:
            name = f"radiopaedia_org_covid-19-pneumonia-{place - plain + 4}_{tail}_0-dcm"
        studies.append(Study(dataset, name, 0, "CT", disease, windowed=windowed))
    elif dataset == "mosmeddata":
        studies.append(Study(dataset, f"study_{255 + place:04d}", 0, "CT", disease))
    elif dataset == "covid_19_20":
        public = (3, 11, 14, 16, 25, 31, 38, 39)[place % 8] + 50 * (place // 8)
        studies.append(Study(dataset, f"volume-covid19-A-{public:04d}", 0, "CT", disease))
    else:
        case = place + 1 + (1 if volumes.second_scan_mm and place > 1 else 0)
        studies.append(Study(dataset, f"case{case}", 0, "CT", disease))
        if volumes.second_scan_mm and place == 1:
            # In life too the third volume of this set is the second's patient again, on a finer grid.
            later = Disease(COVID, round(disease.share * 1.15, 4), disease.dense)
            studies.append(Study(dataset, "case3", 4, "CT", later, second=True))
    return Patient(number, seed, sex, age, COVID, icu, death, tuple(studies))
