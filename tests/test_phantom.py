"""The phantom's body: tissue densities, sides, lesions of a known share, outcomes, beam physics."""

from dataclasses import replace

import numpy as np
import pytest

from covidcxr import roc
from covidcxr.phantom import SIZES, anatomy, beam, cohort, lesions, overlays, scan
from covidcxr.phantom.grid import Grid, coverage, deposit, resample, smooth_noise
from covidcxr.phantom.shapes import ellipsoid, tube_cloud

GRID = Grid.box((-200, -150, -200), (200, 150, 130), (5, 5, 5))


def person(number: int = 1, arms: str = "up", sex: str = "M", age: int = 55) -> anatomy.Person:
    return anatomy.draw_person((7, number), sex, age, arms, arms == "up")


@pytest.fixture(scope="module")
def healthy() -> scan.Scan:
    return scan.make_scan(person(), lesions.Disease("normal", 0.0, 0.0), GRID, tips=40)


@pytest.fixture(scope="module")
def ill() -> scan.Scan:
    return scan.make_scan(person(), lesions.Disease("covid", 0.25, 0.3), GRID, tips=40)


def test_tissue_has_its_density(healthy):
    hu = healthy.hu
    assert -900 < np.median(hu[healthy.lung > 0]) < -820
    assert hu.min() == pytest.approx(-1000, abs=1) and np.median(hu[:3]) == pytest.approx(-1000, abs=1)
    x, y, z = healthy.grid.scaled(healthy.person.scale).mesh()
    heart = healthy.thorax.heart < -8
    values = resample(healthy.thorax.tissue, healthy.thorax.grid, healthy.thorax.grid)[heart]
    assert 25 < np.median(values) < 65
    assert np.percentile(hu, 99.8) > 250, "bone"
    trunk = hu[(np.abs(x) < 120) & (hu > -300) & (hu < 200) & (z > -190) & (np.abs(y) < 200)]
    assert 20 < np.percentile(trunk, 60) < 80, "soft tissue"


def test_vertebrae_lie_behind_and_sternum_before_the_heart(healthy):
    bone = healthy.hu > 200
    middle = bone[np.abs(healthy.grid.x) < 20].any(axis=0)
    slab = middle[:, np.abs(healthy.grid.z + 40) < 20].any(axis=1)
    y = healthy.grid.y[slab]
    heart = np.argwhere(healthy.thorax.heart < 0)
    centre = healthy.thorax.grid.y[heart[:, 1]].mean() * healthy.person.scale[1]
    assert y.min() < centre < y.max()
    assert np.count_nonzero(y > centre) > np.count_nonzero(y < centre)


def test_each_lung_is_on_its_side_and_the_right_is_larger(healthy):
    left, right = (np.argwhere(healthy.lung == label)[:, 0] for label in (1, 2))
    assert healthy.grid.x[left].min() > -25 and healthy.grid.x[right].max() < 25
    assert healthy.grid.x[left].mean() > 40 and healthy.grid.x[right].mean() < -40
    assert 1.02 < len(right) / len(left) < 1.6
    litres = np.count_nonzero(healthy.lung) * np.prod(healthy.grid.spacing) / 1e6
    assert 2.0 < litres < 7.5


def test_heart_leans_to_the_left_and_the_right_dome_is_higher(healthy):
    at = np.argwhere(healthy.thorax.heart < 0)
    x = healthy.thorax.grid.x[at[:, 0]]
    assert x.mean() > 5 and x.max() > -x.min()
    assert healthy.thorax.dome_top[0].max() > healthy.thorax.dome_top[1].max()


@pytest.mark.parametrize("kind", ["covid", "pneumonia"])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.6])
def test_opacity_share_is_the_one_asked_for_and_inside_the_lungs(kind, share):
    if kind == "pneumonia" and share > 0.3:
        share = 0.25
    made = scan.make_scan(person(3), lesions.Disease(kind, share, 0.4), GRID, tips=20)
    assert made.opacity_share == pytest.approx(share, abs=2e-4)
    assert not (made.lesion & (made.lung == 0)).any()
    assert not (made.ground_glass & made.consolidation).any()
    assert np.count_nonzero(made.consolidation) == pytest.approx(0.4 * np.count_nonzero(made.lesion), rel=0.02)


def test_opacities_are_denser_than_lung_and_consolidation_denser_than_ground_glass(healthy, ill):
    lung = np.median(healthy.hu[healthy.lung > 0])
    glass, dense = np.median(ill.hu[ill.ground_glass]), np.median(ill.hu[ill.consolidation])
    assert lung + 100 < glass < -350
    assert -200 < dense < 60


def test_covid_borders_are_blurred_and_lobar_ones_are_not():
    def edge(kind):
        made = scan.make_scan(person(5), lesions.Disease(kind, 0.15, 0.5), GRID, tips=0)
        clean = scan.make_scan(person(5), lesions.Disease("normal", 0.0, 0.0), GRID, tips=0)
        added = (made.hu - clean.hu)[made.lesion]
        return np.mean((added > 100) & (added < 300))

    assert edge("covid") > 1.5 * edge("pneumonia")


def test_covid_is_bilateral_posterior_and_basal_and_pneumonia_is_of_one_lung():
    height, depth, sides = [], [], []
    for number in range(8):
        made = scan.make_scan(person(number), lesions.Disease("covid", 0.2, 0.2), GRID, tips=0)
        place, lung = np.argwhere(made.lesion), np.argwhere(made.lung > 0)
        height.append(GRID.z[place[:, 2]].mean() - GRID.z[lung[:, 2]].mean())
        depth.append(GRID.y[place[:, 1]].mean() - GRID.y[lung[:, 1]].mean())
        right = np.count_nonzero(made.lesion & (made.lung == 2)) / np.count_nonzero(made.lesion)
        sides.append(min(right, 1 - right))
    assert np.mean(height) < -8 and np.mean(depth) > 10
    assert np.median(sides) > 0.2
    for number in range(3):
        made = scan.make_scan(person(number), lesions.Disease("pneumonia", 0.15, 0.8), GRID, tips=0)
        right = np.count_nonzero(made.lesion & (made.lung == 2)) / np.count_nonzero(made.lesion)
        assert right in (0, 1)


def test_a_larger_share_contains_the_smaller_one():
    small, large = (scan.make_scan(person(4), lesions.Disease("covid", s, 0.2), GRID, tips=0).lesion for s in (0.1, 0.3))
    assert not (small & ~large).any()


def test_one_person_is_the_same_on_another_grid():
    """A second scan with other voxels shows the same lesions in the same places."""
    fine = Grid.box((-200, -150, -200), (200, 150, 130), (4, 4, 10))
    disease = lesions.Disease("covid", 0.2, 0.2)
    first, second = (scan.make_scan(person(6), disease, grid, tips=0) for grid in (GRID, fine))
    moved = resample(second.lesion.astype(np.float32), fine, GRID) > 0.5
    overlap = 2 * np.count_nonzero(moved & first.lesion) / (np.count_nonzero(moved) + np.count_nonzero(first.lesion))
    assert overlap > 0.85


def test_severity_classes():
    shares = {0: "CT-0", 0.01: "CT-1", 0.25: "CT-1", 0.26: "CT-2", 0.75: "CT-3", 0.9: "CT-4"}
    assert {share: lesions.severity_of(share) for share in shares} == shares


def test_risk_rises_with_the_opaque_share_and_with_age():
    shares = np.linspace(0, 0.7, 30)
    for young, old in zip(cohort.risk(shares, 40), cohort.risk(shares, 80), strict=True):
        assert (np.diff(young) > 0).all() and (old > young).all()


def many(covid: int, normal: int = 0) -> list[cohort.Patient]:
    """Patients with one radiograph each."""
    size = replace(SIZES["smoke"], covid=(covid, covid), normal=(normal, normal), pneumonia=(0, 0), others=(0, 0), volumes={})
    return cohort.draw_patients(size)


def test_outcomes_follow_the_risk_in_many_patients():
    people = many(covid=3000)
    share, icu, death = (np.array([getattr(p, name) for p in people], float) for name in ("share", "icu", "death"))
    bands = np.digitize(share, [0.15, 0.3])
    for outcome in (icu, death):
        rates = [outcome[bands == band].mean() for band in range(3)]
        assert rates[0] < rates[1] < rates[2]
        assert rates[2] - rates[0] > 0.2


def planted_area(people: list[cohort.Patient], outcome: int) -> float:
    """AUC of the true share for an outcome (0 ICU, 1 death) that the risks of these people imply, whatever was drawn of them."""
    age, share = (np.array([getattr(p, name) for p in people], float) for name in ("age", "share"))
    risk, above = cohort.risk(share, age)[outcome], share[:, None] - share
    weight = risk[:, None] * (1 - risk)
    return float((weight * ((above > 0) + (above == 0) / 2)).sum() / weight.sum())


def test_the_planted_areas_are_those_that_the_risk_says():
    rural = many(covid=3800, normal=600)
    for people, icu, death in ((rural[:3800], 0.91, 0.77), (rural, 0.92, 0.80)):
        assert planted_area(people, 0) == pytest.approx(icu, abs=0.01)
        assert planted_area(people, 1) == pytest.approx(death, abs=0.01)


def test_the_demo_cohort_shows_the_planted_area():
    """That of the true share for ICU among its rural patients lies within the interval found, which lies above chance."""
    patients = [patient for patient in cohort.draw_patients(SIZES["demo"]) if cohort.has_radiographs(patient)]
    rural = [patient for patient in patients
             if patient.studies[0].dataset != cohort.V7_SET and cohort.outlined_set(patient) == cohort.RURAL_SET]
    found = roc.bootstrap_auc([patient.icu for patient in rural], [patient.share for patient in rural], range(len(rural)), seed=0)
    assert len(rural) == 44 and 0.5 < found.low < planted_area(rural, 0) < found.high


def test_letters_are_commoner_on_covid_images():
    def rate(group):
        return np.mean([overlays.draw_overlay(np.random.default_rng([3, n]), group, "PA").lettered for n in range(600)])

    assert rate("covid") > rate("normal") + 0.25
    assert rate("covid") > rate("pneumonia") + 0.25


def technique(view: str = "PA", **changes) -> beam.Technique:
    drawn = beam.draw_technique(np.random.default_rng(5), view, (160.0, 285.0), 190.0, (200, 200))
    plain = {"roll": 0.0, "heel": 0.0, "gradient": 0.0, "centre": (0.0, 0.0), **changes}
    return beam.Technique(**{**drawn.__dict__, **plain})


def test_thicker_water_is_darkened_exponentially_and_bone_hardens_the_beam():
    """Without scatter the log signal of water is steeper at first, and bone counts more than water of the same HU."""
    how = technique(scatter=0.0, photons=1e9, blur_mm=0.0)
    signal = {}
    for water in (50.0, 100.0, 200.0):
        flat = np.full(how.size, water)
        signal[water] = float(np.median(beam.expose(flat, np.zeros(how.size), how, np.random.default_rng(0))))
    first, second = signal[50.0] / signal[100.0], np.sqrt(signal[100.0] / signal[200.0])
    assert first > second > np.exp(50 * min(beam.WATER)), "the hardened beam penetrates better"
    flat = np.full(how.size, 100.0)
    bone = float(np.median(beam.expose(flat, np.full(how.size, 20.0), how, np.random.default_rng(0))))
    water = float(np.median(beam.expose(flat + 20.0, np.zeros(how.size), how, np.random.default_rng(0))))
    assert bone < water


def test_noise_is_that_of_counting():
    how = technique(scatter=0.0, photons=1000.0, blur_mm=0.0)
    flat = np.full(how.size, 60.0)
    signal = beam.expose(flat, np.zeros(how.size), how, np.random.default_rng(0)) * how.photons
    # The detector's own blur (0.45 pixels) keeps a known part of the variance of independent counts.
    from scipy import ndimage

    kernel = ndimage.gaussian_filter(np.pad([[1.0]], 8), 0.45)
    assert signal.var() / signal.mean() == pytest.approx((kernel**2).sum(), rel=0.05)


def test_scatter_lowers_contrast():
    lung = np.full((200, 200), 60.0)
    lung[:, 100:] = 160.0
    contrast = []
    for scatter in (0.0, 2.0):
        how = technique(scatter=scatter, photons=1e8, size=(200, 200))
        signal = beam.expose(lung, np.zeros(lung.shape), how, np.random.default_rng(0))
        contrast.append(np.median(signal[:, :80]) / np.median(signal[:, 120:]))
    assert contrast[1] < 0.8 * contrast[0]


@pytest.mark.parametrize(("view", "larger"), [("PA", False), ("AP", True)])
def test_what_lies_in_front_is_magnified_in_ap_views(view, larger):
    grid = Grid.box((-100, -150, -100), (100, 150, 100), (2, 6, 2))
    ball = np.zeros((2, *grid.shape), np.float32)
    for k, y in enumerate((-90, 90)):
        ball[k] = ellipsoid(grid, (0, y, 0), (40, 40, 40)) < 0
    how = technique(view, source_mm=1000.0)
    front, back = (np.count_nonzero(beam.ray_sum(b, grid, how) > 1) for b in ball)
    assert (front > 1.1 * back) if larger else (back > 1.1 * front)


def test_radiograph_shows_right_on_the_left_and_superior_up(healthy):
    how = technique()
    for label, is_left_half in ((2, True), (1, False)):
        plane = beam.to_detector(beam.ray_sum((healthy.lung == label).astype(np.float32), GRID, how), GRID, how)
        centre = (plane * np.arange(plane.shape[1])).sum() / plane.sum()
        assert (centre < plane.shape[1] / 2) == is_left_half
    plane = beam.to_detector(beam.ray_sum((healthy.hu > -300).astype(np.float32), GRID, how), GRID, how)
    rows = plane.shape[0]
    assert plane[: rows // 8].mean() < plane[-rows // 8:].mean(), "neck above, abdomen below"


def test_radiograph_is_not_the_plain_projection(healthy):
    """The sum of HU along y, stretched to the same size, has another histogram and is not a linear function of the image."""
    how = technique()
    soft, bone = beam.line_integrals(healthy.hu, GRID, how)
    shown = beam.render(beam.expose(soft, bone, how, np.random.default_rng(1)), soft, how)
    plain = beam.to_detector(healthy.hu.sum(axis=1), GRID, how)
    inside = (soft > 30) & (shown < 0.999)
    a, b = shown[inside], plain[inside]
    slope = np.cov(a, b)[0, 1] / b.var()
    residual = a - a.mean() - slope * (b - b.mean())
    assert residual.std() > 0.05
    grey = (b - b.min()) / (b.max() - b.min())
    distance = np.abs(np.sort(a)[::50] - np.sort(grey)[::50]).mean()
    assert distance > 0.05


def test_a_cloud_keeps_its_volume_in_any_grid():
    points, volumes, values = tube_cloud([(-30, 0, 0), (30, 12, 8)], 2.0, 3.0, 0.8, core=40.0)
    assert volumes.sum() == pytest.approx(np.pi * 6.0 * np.sqrt(60**2 + 12**2 + 8**2), rel=0.01)
    for spacing in ((1, 1, 1), (1.5, 6, 1.5), (2, 2, 8)):
        grid = Grid.box((-60, -60, -60), (60, 60, 60), spacing)
        hu = np.zeros(grid.shape, np.float32)
        deposit(hu, grid, points, volumes, np.full(len(points), 1.0))
        assert hu.sum() * np.prod(grid.spacing) == pytest.approx(volumes.sum(), rel=0.03)


def test_coverage_keeps_a_balls_volume_in_thick_slices():
    source = Grid.box((-50, -50, -50), (50, 50, 50), (2.5, 2.5, 2.5))
    level = ellipsoid(source, (0, 0, 0), (30, 30, 30))
    for spacing in ((2, 2, 2), (2, 2, 10)):
        target = Grid.box((-50, -50, -50), (50, 50, 50), spacing)
        volume = coverage(level, source, target).sum() * np.prod(target.spacing)
        assert volume == pytest.approx(4 / 3 * np.pi * 30**3, rel=0.04)


def test_noise_is_standard_and_seeded():
    first, second = (smooth_noise(GRID, 20.0, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(first, second)
    assert abs(first.mean()) < 0.1 and 0.5 < first.std() < 1.3


def test_sizes_keep_patients_apart_and_meet_their_counts():
    for spec in SIZES.values():
        patients = cohort.draw_patients(spec)
        assert len({p.number for p in patients}) == len(patients) and len({p.seed for p in patients}) == len(patients)
        for group, (count, images) in (("covid", spec.covid), ("pneumonia", spec.pneumonia), ("normal", spec.normal)):
            mine = [p for p in patients if p.group == group and p.studies[0].dataset == cohort.CXR_SET]
            assert (len(mine), sum(len(p.studies) for p in mine)) == (count, images)
        names = [(study.dataset, study.name) for p in patients for study in p.studies]
        assert len(set(names)) == len(names)
