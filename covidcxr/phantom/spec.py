"""How large a phantom cohort is: the two embedded sizes."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class VolumeSpec:
    """One CT data set of a cohort. patients: CT volumes of as many patients; windowed: how many of covid19_ct_seg's are the
    radiopaedia kind (0..255 instead of HU); spacing_mm: (in plane, slice); field_mm: in-plane extent."""

    patients: int
    spacing_mm: tuple[float, float]
    field_mm: float = 380.0
    windowed: int = 0
    second_scan_mm: tuple[float, float] | None = None


@dataclass(frozen=True)
class SliceSpec:
    """CC-CCII's stand-in, `write_cc_ccii`. patients: with COVID-19, with other pneumonia, with neither; segmented: further ones
    with COVID-19, whose slices have masks; spacing_mm: (in plane, slice to slice)."""

    patients: tuple[int, int, int]
    segmented: int
    spacing_mm: tuple[float, float]


@dataclass(frozen=True)
class CohortSpec:
    """A phantom cohort.

    Args:
        covid, pneumonia, normal: (patients, images) of radiographs per group, images >= patients (0, 0 for none).
        rows: least and greatest number of rows of a radiograph, pixels.
        beam_grid_mm: voxels of the CT a radiograph is made from: (x and z, y along the beam).
        volumes: CT data set name -> its VolumeSpec.
        tips: ends of each vessel tree; more is finer.
        others: (patients, images) of further radiographs without COVID-19, two of three with pneumonia, in the V7 set alone.
        rural: (patients, images) of further radiographs with COVID-19 in the rural cohort alone.
        slices: CC-CCII's slices, of people who are in no other set; None: the cohort has none.
    """

    name: str
    seed: int
    covid: tuple[int, int]
    pneumonia: tuple[int, int]
    normal: tuple[int, int]
    rows: tuple[int, int]
    beam_grid_mm: tuple[float, float]
    tips: int
    volumes: dict[str, VolumeSpec]
    others: tuple[int, int] = (0, 0)
    rural: tuple[int, int] = (0, 0)
    slices: SliceSpec | None = None

    def as_dict(self) -> dict:
        """JSON-able; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "CohortSpec":
        """The spec that `as_dict` (or its JSON) came from."""
        values = dict(values)
        for key in ("covid", "pneumonia", "normal", "rows", "beam_grid_mm", "others", "rural"):
            values[key] = tuple(values[key])
        volumes = {}
        for name, entry in values["volumes"].items():
            entry = dict(entry)
            entry["spacing_mm"] = tuple(entry["spacing_mm"])
            if entry.get("second_scan_mm") is not None:
                entry["second_scan_mm"] = tuple(entry["second_scan_mm"])
            volumes[name] = VolumeSpec(**entry)
        if values.get("slices") is not None:
            entry = values["slices"]
            values["slices"] = SliceSpec(tuple(entry["patients"]), entry["segmented"], tuple(entry["spacing_mm"]))
        return cls(**{**values, "volumes": volumes})


SIZES = {
    "smoke": CohortSpec(
        name="smoke", seed=20, covid=(3, 5), pneumonia=(2, 2), normal=(1, 1), rows=(160, 224), beam_grid_mm=(2.4, 8.0), tips=50,
        others=(3, 4), slices=SliceSpec((2, 1, 2), 2, (5.8, 10.0)),
        volumes={
            "covid19_ct_seg": VolumeSpec(3, (5.8, 6.0), windowed=1),
            "mosmeddata": VolumeSpec(1, (6.0, 8.0)),
            "covid_19_20": VolumeSpec(1, (6.0, 6.0)),
            "medseg_nr2_volumes": VolumeSpec(2, (5.8, 6.0)),
        },
    ),
    "demo": CohortSpec(
        name="demo", seed=20, covid=(26, 39), pneumonia=(13, 15), normal=(6, 6), rows=(384, 640), beam_grid_mm=(1.25, 6.0),
        tips=170, others=(36, 40), rural=(20, 20), slices=SliceSpec((10, 4, 12), 8, (2.6, 6.0)),
        volumes={
            "covid19_ct_seg": VolumeSpec(8, (1.7, 5.0), windowed=3),
            "mosmeddata": VolumeSpec(4, (1.8, 8.0)),
            "covid_19_20": VolumeSpec(4, (1.7, 5.0)),
            "medseg_nr2_volumes": VolumeSpec(3, (1.7, 6.0), second_scan_mm=(2.6, 2.5)),
        },
    ),
}
