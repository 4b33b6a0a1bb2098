"""The adapters on the real sets, where they are at hand: published counts, masks that fit, a clean verification."""

import numpy as np
import pytest

from covidcxr import datasets

REAL = ("general_blockchain_cxr", "medseg_nr2_volumes", "v7_cxr", "cvt_ct_labels", "covid19ct20_slices256", "tables")


def opened(name: str, real_data):
    if name not in datasets.present(real_data):
        pytest.skip(f"{name} is not at hand")
    return datasets.open(name, real_data)


@pytest.fixture(scope="module")
def blockchain(real_data):
    return opened("general_blockchain_cxr", real_data)


@pytest.fixture(scope="module")
def verified(real_data):
    """Verification of a set by name, done once."""
    done = {}

    def verify(name: str):
        if name not in done:
            done[name] = opened(name, real_data).verify()
        return done[name]

    return verify


@pytest.mark.parametrize("name", REAL)
def test_every_real_set_verifies_without_an_error(name, verified):
    verification = verified(name)
    assert verification.ok, str(verification)
    assert not verification.missing and not verification.unused
    assert len(verification.measured) == verification.counts["cases"]


def test_general_blockchain_has_the_published_counts(verified):
    verification = verified("general_blockchain_cxr")
    assert not [problem for problem in verification.problems if problem.check == "counts"]
    expected = {"cases": 100, "annotation rows": 602, "mask files": 588, "images with an opacity": 95, "COVID-19 images": 65}
    assert {name: verification.counts[name] for name in expected} == expected
    missing_lungs = sorted(problem.case for problem in verification.problems if problem.check == "lung missing")
    assert missing_lungs == ["acute-respiratory-distress-syndrome-ards-1", "covid-19-pneumonia-12"]
    assert sum(problem.check == "coloured marks" for problem in verification.problems) == 12
    outside = {problem.case for problem in verification.problems if problem.check == "lesion outside lungs"}
    assert "nejmoa2001191_f1-PA" in outside
    assert not [problem for problem in verification.problems if problem.check == "sides"]


def test_general_blockchain_quirks(blockchain):
    table = blockchain.cases().set_index("case")
    twice = [case for case, paths in table.right_lung.items() if paths and len(paths) > 1]
    assert len(twice) == 1 and twice[0].startswith("auntminnie-d")
    no_opacity = sorted(case.split("-")[0] for case in table.index[table.lesion.isna()])
    assert no_opacity == ["23E99E2E", "7C69C012", "F051E018", "ciaa199.pdf", "ciaa199.pdf"]
    assert table.patient.nunique() == 73 and table.patient[table.index.str.startswith("auntminnie")].nunique() == 1
    assert table.monitoring_probes.notna().sum() == 12  # 26 rows, 14 without an outline
    assert {"CC BY-NC-SA": 41, "CC BY": 2, "CC BY-SA": 1}.items() <= table.licence.value_counts().to_dict().items()


def test_general_blockchain_opacity_share(blockchain):
    """13.2 % of the pixels on average, over the 100 images."""
    shares = []
    for case in blockchain.cases().case[::4]:
        image, lesion = blockchain.image(case), blockchain.mask(case, "lesion")
        assert image.dtype == np.float32 and image.ndim == 2 and image.shape == lesion.shape
        shares.append(lesion.mean())
    assert np.mean(shares) == pytest.approx(0.132, abs=0.03)


def test_medseg_lungs_lie_on_their_sides_and_hold_the_lesions(real_data):
    dataset = opened("medseg_nr2_volumes", real_data)
    for case in dataset.cases().case:
        volume = dataset.volume(case)
        left, right, lesion = (dataset.volume_mask(case, kind) for kind in ("left_lung", "right_lung", "lesion"))
        assert volume.units == "HU" and volume.voxels.dtype == np.int16
        assert np.nonzero(left)[0].mean() < np.nonzero(right)[0].mean()
        assert (lesion & (left | right)).sum() > 0.95 * lesion.sum()
        assert np.median(volume.voxels[left]) < -600


def test_v7_parts_share_patients_and_findings(real_data):
    dataset = opened("v7_cxr", real_data)
    table = dataset.cases()
    assert set(table.part) == {"covid", "fullsize", "224"} and table.lung.notna().all()
    small = table[table.part == "224"].assign(name=lambda frame: frame.case.str.removeprefix("224/")).set_index("name")
    full = table[table.part == "fullsize"].assign(name=lambda frame: frame.case.str.removeprefix("fullsize/")).set_index("name")
    both = full.index.intersection(small.index)
    assert len(both) >= 3 and (full.patient[both] == small.patient[both]).all()
    assert table[table.part == "covid"].covid.all() and not table[table.part != "covid"].covid.any()
    assert small[small.finding == "no finding"].patient.nunique() > 150
    covid = table[table.part == "covid"].case.iloc[0]
    assert dataset.mask(covid, "lung").shape == dataset.image(covid).shape


def test_tables_join_the_images_they_score(real_data, blockchain):
    table = opened("tables", real_data).cases()
    severity, rural = table[table.table == "severity"], table[table.table == "rural"]
    assert len(severity) == 94 and severity.geographic_mean.between(0, 8).all() and severity.opacity_mean.between(0, 6).all()
    images = set(blockchain.cases().image.str.removeprefix("images/"))
    assert severity.filename.isin(images).sum() == 64
    assert len(rural) == 104 and rural.icu.sum() == 29 and rural.death.sum() == 10 and rural.age.notna().all()


def test_the_cohen_collections_table_tells_views_and_scores(real_data, blockchain, tmp_path):
    """Its table and scores, with the images that General Blockchain took from it."""
    opened("tables", real_data)
    folder = tmp_path / "cohen_cxr"
    (folder / "annotations").mkdir(parents=True)
    for name, target in (("metadata.csv", "general_blockchain_cxr/metadata.csv"), ("images", "general_blockchain_cxr/images"),
                         ("annotations/covid-severity-scores.csv", "tables/covid-severity-scores.csv")):
        (folder / name).symlink_to(real_data / target)
    dataset = datasets.open("cohen_cxr", tmp_path)
    table = dataset.cases()
    assert table.modality.value_counts().to_dict() == {"CXR": 674, "CT": 63}  # and 21 volumes, which are not there
    assert (table["view"] == "lateral").sum() == 57 and (table.frontal & (table.modality == "CT")).sum() == 0
    scored = table[table.geographic_mean.notna()]
    assert len(scored) == 94 and scored.frontal.all() and (scored["view"] == "PA").all() and scored.covid.all()
    shared = table.merge(blockchain.cases(), on="case")
    assert len(shared) == 100 and (shared.patient_x == shared.patient_y).all()


def test_known_copies_are_found_in_v7(verified):
    """The radiographs that lie in two parts, at original size and at 224 x 224."""
    groups = [{case.partition("/")[2] for case in group} for group in verified("v7_cxr").same_images]
    assert {"person1484_virus_2576"} in groups and all(len(names) == 1 for names in groups)


def test_the_manifest_is_the_same_again(real_data, tmp_path, monkeypatch):
    monkeypatch.setenv("COVIDCXR_CACHE", str(tmp_path))
    opened("tables", real_data)
    first = datasets.manifest("tables", real_data)
    assert datasets.manifest("tables", real_data) == first and first["data"] == "real" and first["files"] >= 2


def test_the_20_cases_slices_fall_into_volumes(real_data):
    table = opened("covid19ct20_slices256", real_data).cases()
    assert table.groupby("patient").case.min().tolist()[:4] == ["0000", "0159", "0279", "0397"]
    assert not table.patient_known.any()
