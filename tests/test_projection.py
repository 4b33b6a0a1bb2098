"""Projection: closed forms, orientation, geometry shared by volumes and masks, and peers on the same volume."""

import itertools
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from covidcxr.errors import InputError, ParameterError
from covidcxr.projection import MU_WATER, body_mask, display, project, project_mask
from covidcxr.volumes import Volume, memory_order, read_volume, volume_from_array

MODES = ("sum", "mean", "beer_lambert")
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product([1, -1], repeat=3)))


def chest(shape=(48, 40, 32)) -> np.ndarray:
    """int16 HU in RAS+: room air, a body with two lungs, bone in the body's right front upper corner."""
    x, y, _ = shape
    voxels = np.full(shape, -1000, np.int16)
    voxels[x // 8 : -x // 8, y // 8 : -y // 8] = 40
    voxels[x // 4 : x // 2 - 2, y // 4 : -y // 4, 3:-3] = -850
    voxels[x // 2 + 2 : -x // 4, y // 4 : -y // 4, 3:-3] = -850
    voxels[-x // 8 - 3 : -x // 8, -y // 8 - 2 : -y // 8, -4:] = 900
    return voxels


def ct(voxels=None, spacing=(1.0, 1.0, 1.0)) -> Volume:
    return volume_from_array(chest() if voxels is None else voxels, np.diag([*spacing, 1]), units="HU")


def uniform(shape, hu, spacing=(1.0, 1.0, 1.0)) -> Volume:
    return Volume(np.full(shape, hu, np.int16), spacing, np.diag([*spacing, 1]), "HU", Path("uniform"))


def turned(voxels, order, signs, spacing):
    """The same patient in an array with other axes: array and affine."""
    array = voxels.transpose(order)[tuple(slice(None, None, s) for s in signs)]
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for file_axis, (axis, sign) in enumerate(zip(order, signs, strict=True)):
        affine[axis, file_axis] = sign * spacing[axis]
        affine[axis, 3] = 0 if sign > 0 else (voxels.shape[axis] - 1) * spacing[axis]
    return array, affine


# --- the formulas -----------------------------------------------------------------------------------------------------


def test_sum_is_equation_1_literally():
    volume = ct(np.random.default_rng(0).integers(-1000, 3000, (7, 6, 5)).astype(np.int16))
    image = project(volume, "sum").image
    for x, z in itertools.product(range(7), range(5)):
        theta = sum(int(volume.voxels[x, y, z]) for y in range(6))
        assert image[4 - z, 6 - x] == theta  # superior up, right on the left


def test_mean_is_the_sum_over_the_depth():
    volume = ct(spacing=(1.0, 2.0, 1.0))
    assert np.allclose(project(volume, "mean").image, project(volume, "sum").image / 40)
    assert np.allclose(project(volume, "mean", "lateral", 1.0).image, project(volume, "sum", "lateral", 1.0).image / 48)


@pytest.mark.parametrize("hu, factor", [(0, 1.0), (-1000, 0.0), (1000, 2.0), (-500, 0.5), (-1024, 0.0), (-3024, 0.0)])
@pytest.mark.parametrize("view, length", [("frontal", 30 * 0.8), ("lateral", 20 * 0.5)])
def test_a_uniform_slab_obeys_beer_and_lambert(hu, factor, view, length):
    volume = uniform((20, 30, 10), hu, (0.5, 0.8, 2.0))
    image = project(volume, "beer_lambert", view).image
    assert np.allclose(image, np.exp(-MU_WATER * factor * length / 10), rtol=1e-6)
    assert np.allclose(project(volume, "beer_lambert", view, mu_water=0.4).image, np.exp(-0.4 * factor * length / 10), rtol=1e-6)


def test_attenuation_adds_up_along_the_ray():
    voxels = np.full((4, 30, 4), -1000, np.int16)
    voxels[:, :10], voxels[:, 10:15] = 0, 1000
    image = project(ct(voxels, (1.0, 2.0, 1.0)), "beer_lambert").image
    assert np.allclose(image, np.exp(-MU_WATER * (10 + 5 * 2) * 0.2))


def test_thinner_voxels_of_the_same_patient_change_the_sum_but_not_the_radiograph():
    coarse = ct(spacing=(1.0, 2.0, 1.0))
    fine = ct(np.repeat(chest(), 2, axis=1), (1.0, 1.0, 1.0))
    assert np.allclose(project(coarse, "beer_lambert").image, project(fine, "beer_lambert").image, rtol=1e-6)
    assert np.allclose(project(coarse, "mean").image, project(fine, "mean").image)
    assert np.allclose(project(coarse, "sum").image * 2, project(fine, "sum").image)


def test_mu_of_water_lies_between_the_tables_neighbours():
    assert 0.1837 < MU_WATER < 0.2059  # NIST at 80 and 60 keV
    assert MU_WATER == pytest.approx(np.exp(np.interp(np.log(70), np.log([60, 80]), np.log([0.2059, 0.1837]))), abs=2e-4)


def test_sums_are_exact_where_single_precision_is_not():
    voxels = np.full((3, 4000, 3), 30000, np.int16)
    voxels[0, 0, 0] = 29999
    volume = ct(voxels)
    total = project(volume, "mean").image.astype(float) * 4000
    assert total[2, 2] == pytest.approx(4000 * 30000 - 1, abs=8)
    assert project(volume, "sum").image.max() == 120_000_000


# --- orientation and geometry -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order, signs", ORIENTATIONS)
def test_all_48_orientations_give_the_same_pictures(order, signs):
    spacing = (0.7, 1.1, 2.5)
    array, affine = turned(chest(), order, signs, spacing)
    expected, volume = ct(spacing=spacing), volume_from_array(np.asfortranarray(array), affine)
    mask = volume_from_array(np.asfortranarray((array > 500).astype(np.int16)), affine, units="unknown").voxels
    for view in ("frontal", "lateral"):
        for mode in MODES:
            assert np.array_equal(project(volume, mode, view).image, project(expected, mode, view).image)
        one, other = project_mask(mask, volume, view), project_mask(chest() > 500, expected, view)
        assert np.array_equal(one.thickness, other.thickness) and np.array_equal(one.support, other.support)


def test_frontal_has_superior_up_and_right_on_the_left():
    brightest = np.unravel_index(project(ct()).image.argmax(), (32, 48))
    assert brightest[0] < 4 and brightest[1] < 24  # the bone sits in the right upper corner


def test_lateral_has_superior_up_and_front_on_the_left():
    bone = project_mask(chest() > 500, ct(), "lateral").support
    rows, columns = np.nonzero(bone)
    assert rows.max() < 4 and columns.max() < 20


def test_a_file_is_projected_as_its_array(tmp_path):
    array, affine = turned(chest(), (2, 0, 1), (-1, 1, -1), (0.7, 1.1, 2.5))
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "ct.nii.gz")
    assert np.array_equal(project(read_volume(tmp_path / "ct.nii.gz")).image, project(ct(spacing=(0.7, 1.1, 2.5))).image)


def test_slabs_do_not_change_the_sum():
    voxels = np.random.default_rng(1).integers(-1000, 1000, (64, 200, 401)).astype(np.int16)  # several slabs
    for order in itertools.permutations(range(3)):
        volume = ct(voxels.transpose(order).copy().transpose(np.argsort(order)))
        assert np.array_equal(project(volume).image, voxels.sum(axis=1, dtype=np.int64).T[::-1, ::-1].astype(np.float32))


@pytest.mark.parametrize("spacing, shape", [
    ((0.7, 0.7, 5.0), (229, 48)), ((2.0, 0.7, 0.5), (32, 192)), ((1.0, 1.0, 1.0), (32, 48)),
])
def test_pixels_are_square_and_as_fine_as_the_finer_spacing(spacing, shape):
    projection = project(ct(spacing=spacing))
    assert projection.image.shape == shape and projection.pixel_mm == min(spacing[0], spacing[2])
    assert project(ct(spacing=spacing), pixel_mm=3.0).image.shape == (round(32 * spacing[2] / 3), round(48 * spacing[0] / 3))


def test_the_size_of_things_is_kept_whatever_the_spacing():
    """A 60 mm cube is 60 mm high and wide in the picture of any voxel size."""
    for spacing in ((0.5, 1.0, 4.0), (2.0, 1.0, 1.0), (3.0, 2.0, 0.75)):
        voxels = np.zeros([round(120 / s) for s in spacing], bool)
        voxels[tuple(slice(round(24 / s), round(84 / s)) for s in spacing)] = True
        for view in ("frontal", "lateral"):
            thickness, support = project_mask(voxels, spacing, view, pixel_mm=1.0)
            rows, columns = np.nonzero(support)
            assert (rows.min(), rows.max(), columns.min(), columns.max()) == (36, 95, 36, 95)
            assert thickness[60, 60] == pytest.approx(60)


def test_volume_and_mask_share_their_pixels():
    volume = ct(spacing=(0.7, 1.0, 3.0))
    for view, pixel in itertools.product(("frontal", "lateral"), (None, 0.9, 4.0)):
        bone = project_mask(volume.voxels > 500, volume, view, pixel)
        image = project(ct(np.where(volume.voxels > 500, 1000, -1000).astype(np.int16), volume.spacing), "sum", view, pixel).image
        assert bone.support.shape == bone.thickness.shape == image.shape
        ray = 1 if view == "frontal" else 0
        expected = (image / 1000 + volume.shape[ray]) / 2 * volume.spacing[ray]
        assert np.allclose(bone.thickness, expected, atol=1e-3)


def test_thickness_keeps_the_volume_of_the_mask():
    mask = np.random.default_rng(2).random((40, 30, 20)) < 0.2
    for spacing in ((1.0, 2.0, 1.0), (0.5, 1.0, 2.5)):
        thickness, _ = project_mask(mask, spacing, pixel_mm=2.5)
        assert thickness.sum() * 2.5**2 == pytest.approx(mask.sum() * np.prod(spacing), rel=1e-5)


def test_labels_count_as_mask_and_no_lesion_is_no_support():
    labels = np.zeros(chest().shape, np.uint8)
    assert not project_mask(labels, ct()).support.any() and not project_mask(labels, ct()).thickness.any()
    labels[10:20, 5, 10:14], labels[10:20, 9, 10:14] = 3, 1
    assert project_mask(labels, ct()).thickness.max() == 2
    assert np.array_equal(project_mask(labels > 0, ct()).support, project_mask(labels, ct()).support)


# --- units ------------------------------------------------------------------------------------------------------------


def test_grey_values_are_not_taken_for_hu():
    low, high = -1250, 250
    hu = np.clip(chest(), low, high)
    grey = np.rint((hu - low) / (high - low) * 255).astype(np.int16)
    with pytest.warns(UserWarning, match="not in HU"):
        volume = volume_from_array(grey, np.eye(4))
    with pytest.raises(InputError, match=r"grey values 0 to 255.*window=\(-1250, 250\)"):
        project(volume, "beer_lambert")
    with pytest.raises(InputError, match="body_only=True needs HU"):
        project(volume, "mean", body_only=True)
    assert project(volume, "sum").units == "windowed"
    again = project(volume, "beer_lambert", window=(low, high))
    assert again.units == "HU"
    ours, truth = -np.log(again.image), -np.log(project(ct(hu), "beer_lambert").image)
    assert np.abs(ours - truth).max() < 40 * 0.1 * MU_WATER * (high - low) / 255 / 2 / 1000 + 0.003
    assert np.corrcoef(ours.ravel(), truth.ravel())[0, 1] > 0.9999


def test_values_that_are_not_recognised_are_refused_by_beer_and_lambert():
    with pytest.warns(UserWarning, match="not recognised"):
        volume = volume_from_array(chest() + 1024, np.eye(4))
    with pytest.raises(InputError, match="Convert the file to HU"):
        project(volume, "beer_lambert")


def test_display_is_bone_white_within_0_and_1():
    for mode in MODES:
        shown = display(project(ct(), mode))
        assert shown.dtype == np.float32 and shown.min() == 0 and shown.max() == 1
        assert shown[1, 8] == 1 and shown[16, 18] < shown[16, 24] and shown[16, 0] == 0  # bone; lung under spine; room
    assert not display(project(uniform((9, 9, 9), 40))).any()


def test_display_does_not_let_one_bright_pixel_darken_the_rest():
    voxels = chest((96, 40, 64))
    before = display(project(ct(voxels)))
    voxels[50, :, 30] = 30000
    assert np.abs(display(project(ct(voxels))) - before).mean() < 0.01


# --- the body without its table ---------------------------------------------------------------------------------------


def table_scan():
    """A round body with two lungs on a thin shell of a table that touches its back."""
    x, y, z = np.ogrid[:128, :128, :24]
    voxels = np.full((128, 128, 24), -1000, np.int16)
    body = np.broadcast_to(((x - 64) / 50) ** 2 + ((y - 72) / 32) ** 2 < 1, voxels.shape)
    voxels[body] = 40
    for centre in (42, 86):
        voxels[np.broadcast_to(((x - centre) / 16) ** 2 + ((y - 72) / 20) ** 2 < 1, voxels.shape)] = -850
    table = np.zeros_like(body)
    table[8:120, 38:40], table[8:120, 26:28] = True, True
    voxels[table & ~body] = -100
    return voxels, body, table & ~body


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (2.5, 2.5, 6.0)])
def test_body_mask_holds_the_body_with_its_lungs_and_not_the_table(spacing):
    voxels, body, table = table_scan()
    found = body_mask(ct(voxels, spacing))
    assert (found & body).sum() / body.sum() > 0.98
    assert (found & table).sum() / table.sum() < 0.12
    assert (found & ~body).sum() / body.sum() < 0.15


def test_body_only_takes_the_table_out_of_the_radiograph():
    voxels, _, table = table_scan()
    without = np.where(table, -1000, voxels).astype(np.int16)
    truth, bare, cleaned = (-np.log(project(ct(v, (2.0,) * 3), "beer_lambert", "lateral", body_only=only).image)
                            for v, only in ((without, False), (voxels, False), (voxels, True)))
    assert np.abs(cleaned - truth).max() < 0.25 * np.abs(bare - truth).max()


def test_body_mask_lies_in_memory_as_the_voxels_do_and_needs_a_body():
    array, affine = turned(table_scan()[0], (2, 1, 0), (-1, 1, -1), (2.0, 2.0, 2.0))
    volume = volume_from_array(np.asfortranarray(array), affine)
    found = body_mask(volume)
    assert np.array_equal(found, body_mask(ct(table_scan()[0], (2.0, 2.0, 2.0))))
    assert memory_order(found).shape == memory_order(volume.voxels).shape
    with pytest.raises(InputError, match="no body found"):
        body_mask(ct(np.full((30, 30, 30), -900, np.int16) + np.eye(30, dtype=np.int16)[..., None]))


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, message", [
    ({"mode": "max"}, "mode is one of sum, mean, beer_lambert; found 'max'"),
    ({"view": "coronal"}, "view is one of frontal, lateral"),
    ({"pixel_mm": 0.0}, "pixel_mm"), ({"pixel_mm": float("nan")}, "pixel_mm"), ({"pixel_mm": 1e-4}, "longest side"),
    ({"mu_water": -1.0}, "mu_water"), ({"mu_water": float("nan")}, "mu_water"),
])
def test_parameters_out_of_range_are_refused(arguments, message):
    with pytest.raises(ParameterError, match=message):
        project(ct(), **arguments)


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"\(48, 40, 31\).*\(48, 40, 32\)"):
        project_mask(np.zeros((48, 40, 31), bool), ct())
    with pytest.raises(InputError, match="bool or integer"):
        project_mask(np.zeros(chest().shape), ct())
    with pytest.raises(InputError, match="three axes"):
        project_mask(np.zeros((4, 4), bool), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="Spacing"):
        project_mask(np.zeros((4, 4, 4), bool), (1.0, 0.0, 1.0))


# --- peers ------------------------------------------------------------------------------------------------------------


def test_sum_and_mean_are_those_of_simpleitk(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    array, affine = turned(chest(), (0, 1, 2), (-1, -1, 1), (1.0, 2.0, 1.0))
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "ct.nii.gz")
    image = sitk.Cast(sitk.ReadImage(str(tmp_path / "ct.nii.gz")), sitk.sitkFloat64)  # stored leftwards and backwards
    ours = read_volume(tmp_path / "ct.nii.gz")
    for mode, peer in (("sum", sitk.SumProjection), ("mean", sitk.MeanProjection)):
        theirs = sitk.GetArrayFromImage(peer(image, 1))[::-1, 0]  # their rows run from feet to head
        assert np.allclose(project(ours, mode).image, theirs, rtol=1e-6)


def test_the_line_integral_is_that_of_numpy_on_real_volumes(real_data):
    path = real_data / "medseg_nr2_volumes" / "case2_image.nii.gz"
    volume = read_volume(path)
    hu = nib.as_closest_canonical(nib.load(path)).get_fdata()
    mu = MU_WATER * np.maximum(1 + hu / 1000, 0)
    integral = mu.sum(axis=1).T[::-1, ::-1] * volume.spacing[1] / 10
    square = replace(volume, spacing=(6.0, volume.spacing[1], 6.0))  # so that nothing is resampled
    assert np.allclose(-np.log(project(square, "beer_lambert").image), integral, rtol=1e-5, atol=1e-5)
    assert project(volume).image.shape == (round(39 * 6 / volume.spacing[0]), 315)
