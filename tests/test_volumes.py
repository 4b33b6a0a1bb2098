"""Reading volumes and masks: orientation, number formats, units, and every fault that a file can have."""

import gzip
import itertools
import re
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from covidcxr import streams
from covidcxr.errors import InputError
from covidcxr.projection import project
from covidcxr.volumes import VolumeWarning, corner_distance, detect_units, read_mask, read_volume, to_hu, volume_from_array

SPACING = (2.0, 3.0, 5.0)


def chest(shape=(24, 20, 16)) -> np.ndarray:
    """int16 HU in RAS+: room air, a body of soft tissue, two lungs, and bone in the right front upper corner of the body."""
    voxels = np.full(shape, -1000, np.int16)
    voxels[3:-3, 3:-3] = 40
    voxels[5:10, 6:-6, 2:-2] = -850
    voxels[14:19, 6:-6, 2:-2] = -850
    voxels[-6:-3, -5:-3, -2:] = 700
    return voxels


def save(path, array, affine=None):
    nib.save(nib.Nifti1Image(array, np.diag([*SPACING, 1]) if affine is None else affine), path)
    return path


def stored_as(voxels, order, flips):
    """The array and the affine of a file that holds RAS+ voxels with permuted and reversed axes."""
    affine = np.diag([*SPACING, 1]) @ np.array([[1, 0, 0, -30], [0, 1, 0, 7], [0, 0, 1, 11], [0, 0, 0, 1]], float)
    to_canonical = np.zeros((4, 4))
    to_canonical[3, 3] = 1
    for file_axis, axis in enumerate(order):
        to_canonical[axis, file_axis] = -1 if flips[file_axis] else 1
        to_canonical[axis, 3] = voxels.shape[axis] - 1 if flips[file_axis] else 0
    array = voxels.transpose(order)[tuple(slice(None, None, -1 if f else 1) for f in flips)]
    return array, affine @ to_canonical


ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product([False, True], repeat=3)))


@pytest.fixture
def volume(tmp_path):
    return read_volume(save(tmp_path / "ct.nii.gz", chest()))


@pytest.mark.parametrize("order, flips", ORIENTATIONS)
def test_all_48_orientations_are_the_same_volume(tmp_path, order, flips):
    voxels = chest()
    array, affine = stored_as(voxels, order, flips)
    read = read_volume(save(tmp_path / "ct.nii.gz", array, affine))
    assert np.array_equal(read.voxels, voxels)
    assert read.voxels.dtype == np.int16 and read.spacing == pytest.approx(SPACING)
    assert np.allclose(read.affine, [[2, 0, 0, -60], [0, 3, 0, 21], [0, 0, 5, 55], [0, 0, 0, 1]])


def test_reorienting_copies_nothing(tmp_path):
    array, affine = stored_as(chest(), (2, 0, 1), (True, False, True))
    read = read_volume(save(tmp_path / "ct.nii", array, affine))
    assert read.voxels.base is not None and not read.voxels.flags.c_contiguous and not read.voxels.flags.f_contiguous


@pytest.mark.parametrize("dtype", ["i2", ">i2", "i4", "f4", "f8", ">f4", "i8"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_number_formats_and_byte_orders(tmp_path, dtype, suffix):
    voxels = chest()
    header = nib.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    nib.save(nib.Nifti1Image(voxels.astype(dtype), np.eye(4), header, dtype=dtype), tmp_path / f"ct{suffix}")
    assert np.array_equal(read_volume(tmp_path / f"ct{suffix}").voxels, voxels)


def test_scaled_values_become_hu_by_slope_and_intercept(tmp_path):
    voxels = chest()
    image = nib.Nifti1Image(((voxels + 1024) // 2).astype(np.uint16), np.eye(4))
    image.header.set_slope_inter(2, -1024)
    nib.save(image, tmp_path / "ct.nii.gz")
    assert np.array_equal(read_volume(tmp_path / "ct.nii.gz").voxels, (voxels + 1024) // 2 * 2 - 1024)


def test_a_volume_longer_than_one_slab_is_read_whole(tmp_path):
    voxels = np.random.default_rng(0).integers(-1000, 1000, (160, 160, 110)).astype(np.float32)  # 11 MB of floats
    read = read_volume(save(tmp_path / "ct.nii.gz", voxels))
    assert np.array_equal(read.voxels, voxels.astype(np.int16))


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_reading_and_projecting_hold_little_more_than_the_int16_volume(tmp_path, dtype):
    path = save(tmp_path / "ct.nii.gz", np.resize(chest(), (200, 200, 400)).astype(dtype))
    project(read_volume(path), "beer_lambert")  # whatever is loaded on first use
    tracemalloc.start()
    project(read_volume(path), "beer_lambert")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * 200 * 200 * 400 * 2


def test_pair_of_header_and_image(tmp_path):
    nib.save(nib.Nifti1Pair(chest(), np.eye(4)), tmp_path / "ct.img")
    assert np.array_equal(read_volume(tmp_path / "ct.hdr").voxels, chest())


def test_gzip_of_several_members_and_padding(tmp_path):
    save(tmp_path / "ct.nii", chest())
    content = (tmp_path / "ct.nii").read_bytes()
    parts = gzip.compress(content[:1000]) + gzip.compress(content[1000:]) + bytes(700)
    (tmp_path / "ct.nii.gz").write_bytes(parts)
    assert np.array_equal(read_volume(tmp_path / "ct.nii.gz").voxels, chest())


def test_gzip_headers_with_names_comments_and_extra_fields(tmp_path):
    save(tmp_path / "ct.nii", chest())
    packed = gzip.compress((tmp_path / "ct.nii").read_bytes())
    header = packed[:3] + bytes([2 | 4 | 8 | 16]) + packed[4:10]  # check, extra, name, comment
    more = b"\x05\x00extra" + b"ct.nii\0" + b"a comment\0" + b"\x12\x34"
    (tmp_path / "ct.nii.gz").write_bytes(header + more + packed[10:])
    assert np.array_equal(read_volume(tmp_path / "ct.nii.gz").voxels, chest())


def test_a_file_of_many_pieces_is_read_as_nibabel_reads_it_and_its_checksum_is_held(tmp_path):
    path = save(tmp_path / "ct.nii.gz", np.random.default_rng(0).integers(-1000, 1000, (160, 160, 110)).astype(np.int16))
    assert np.array_equal(read_volume(path).voxels, np.asanyarray(nib.load(path).dataobj))
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # in the checksum
    path.write_bytes(content)
    with pytest.raises(InputError, match="checksum"):
        read_volume(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="ends early"):
        read_volume(path)


def test_a_stream_that_is_left_early_ends_its_thread(tmp_path):
    path = save(tmp_path / "ct.nii.gz", np.random.default_rng(0).integers(-1000, 1000, (300, 300, 110)).astype(np.int16))
    with streams.ByteStream(path) as stream:
        assert stream.fill(memoryview(bytearray(100))) and stream.position == 100
    assert not stream._thread.is_alive()


def test_what_follows_the_compressed_data_must_be_gzip(tmp_path):
    path = save(tmp_path / "ct.nii.gz", chest())
    path.write_bytes(path.read_bytes() + b"something else")
    with pytest.raises(InputError, match="not gzip follows"):
        read_volume(path)


def test_a_trailing_axis_of_one_is_dropped(tmp_path):
    assert read_volume(save(tmp_path / "ct.nii.gz", chest()[..., None])).shape == chest().shape


def test_an_array_is_reoriented_like_a_file(tmp_path):
    array, affine = stored_as(chest(), (1, 2, 0), (False, True, True))
    made = volume_from_array(array, affine)
    assert np.array_equal(made.voxels, chest()) and made.units == "HU"
    assert volume_from_array(array, affine, units="unknown").units == "unknown"
    with pytest.raises(InputError, match="integers"):
        volume_from_array(array.astype(float), affine)
    with pytest.raises(InputError, match="three axes"):
        volume_from_array(array[0], affine)
    with pytest.raises(InputError, match="-32768 to 32767"):
        volume_from_array(array.astype(np.int32) * 100, affine)


# --- units ------------------------------------------------------------------------------------------------------------


def windowed(low=-1250, high=250):
    return np.rint((np.clip(chest(), low, high) - low) / (high - low) * 255).astype(np.int16)


@pytest.mark.parametrize("voxels, units", [
    (chest(), "HU"),
    (np.clip(chest(), -1000, 300), "HU"),
    (windowed(), "windowed"),
    (chest() + 1024, "unknown"),
    (np.maximum(chest(), 0), "unknown"),  # no air
    (np.minimum(chest(), -600) - 1, "unknown"),  # nothing but air
])
def test_units_are_told_from_the_values(voxels, units):
    assert detect_units(voxels) == units


def test_grey_values_are_said_to_be_so_and_become_hu_with_their_window(tmp_path):
    path = save(tmp_path / "ct.nii.gz", windowed())
    with pytest.warns(VolumeWarning, match="grey values 0 to 255"):
        grey = read_volume(path)
    assert grey.units == "windowed" and "not in HU" in grey.notes[0]
    for back in (to_hu(grey, (-1250, 250)), read_volume(path, window=(-1250, 250))):
        assert back.units == "HU" and back.window == (-1250, 250) and "re-derived" in back.notes[-1]
        assert np.abs(back.voxels - np.clip(chest(), -1250, 250)).max() <= 1500 / 255 / 2 + 1
        assert len(back.notes) == 1
    assert np.array_equal(grey.voxels, windowed())


def test_a_window_is_refused_where_it_does_not_belong(volume, tmp_path):
    with pytest.raises(InputError, match="units are 'HU'"):
        to_hu(volume, (-1250, 250))
    with pytest.raises(InputError, match="low < high"), pytest.warns(VolumeWarning):
        to_hu(read_volume(save(tmp_path / "grey.nii.gz", windowed())), (250, -1250))


def test_values_of_zero_to_one_are_refused_not_rounded_away(tmp_path):
    with pytest.raises(InputError, match="between 0 and 1"):
        read_volume(save(tmp_path / "ct.nii.gz", (windowed() / 255).astype(np.float32)))


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix, kept", [(".nii.gz", 0.5), (".nii.gz", 0.999), (".nii", 0.5), (".nii", 0.02), (".nii.gz", 0.01)])
def test_a_truncated_file_is_refused(tmp_path, suffix, kept):
    path = save(tmp_path / f"ct{suffix}", np.random.default_rng(0).integers(-1000, 1000, (40, 40, 40)).astype(np.int16))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError, match=f"{re.escape(str(path))}.*(ends early|not a readable)"):
        read_volume(path)


def test_a_file_cut_before_its_checksum_is_refused(tmp_path):
    path = save(tmp_path / "ct.nii.gz", chest())
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match="ends early"):
        read_volume(path)


def test_a_flipped_bit_is_noticed(tmp_path):
    path = save(tmp_path / "ct.nii.gz", np.random.default_rng(0).integers(-1000, 1000, (40, 40, 40)).astype(np.int16))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        read_volume(path)


def test_not_nifti(tmp_path):
    for name, content, message in [
        ("a.nii.gz", b"hello", "not a readable NIfTI"), ("a.nii", b"", "not a readable NIfTI"),
        ("a.dcm", b"DICM", "expected a NIfTI file"), ("a.nii", bytes(400), "not a readable NIfTI"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_volume(tmp_path / name)
    with pytest.raises(InputError, match="No such file"):
        read_volume(tmp_path / "none.nii.gz")
    nib.save(nib.AnalyzeImage(chest(), np.eye(4)), tmp_path / "old.img")
    with pytest.raises(InputError, match="AnalyzeImage"):
        read_volume(tmp_path / "old.hdr")


def test_four_axes_two_axes_colour_and_complex_are_refused(tmp_path):
    colour = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for array, message in [
        (np.zeros((4, 4, 4, 3), np.int16), r"three axes.*\(4, 4, 4, 3\)"), (np.zeros((4, 4), np.int16), "three axes"),
        (colour, "colour"), (np.zeros((4, 4, 4), np.complex64), "one number per voxel"),
    ]:
        with pytest.raises(InputError, match=message):
            read_volume(save(tmp_path / "ct.nii.gz", array))


@pytest.mark.parametrize("array", [np.zeros((5, 5, 5), np.int16), np.full((5, 5, 5), -1000, np.int16)])
def test_an_empty_volume_is_refused(tmp_path, array):
    with pytest.raises(InputError, match="empty"):
        read_volume(save(tmp_path / "ct.nii.gz", array))


def test_a_header_of_no_voxels_is_refused(tmp_path):
    path = save(tmp_path / "ct.nii", chest())
    content = bytearray(path.read_bytes())
    content[46:48] = (0).to_bytes(2, "little")  # dim[3]
    path.write_bytes(content)
    with pytest.raises(InputError, match="empty|not a readable"):
        read_volume(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_or_filled_on_demand(tmp_path, bad):
    voxels = chest().astype(np.float32)
    voxels[0, :2, 0] = bad
    path = save(tmp_path / "ct.nii.gz", voxels)
    with pytest.raises(InputError, match="not finite.*nan_value"):
        read_volume(path)
    with pytest.warns(VolumeWarning, match="2 voxels that are not finite were set to -1000"):
        assert np.array_equal(read_volume(path, nan_value=-1000).voxels, chest())


def test_values_beyond_int16_are_refused(tmp_path):
    with pytest.raises(InputError, match="40000; expected -32768 to 32767"):
        read_volume(save(tmp_path / "ct.nii.gz", np.where(chest() > 0, 40000, 0).astype(np.int32)))


@pytest.mark.parametrize("affine", [np.diag([1.0, 1, 0, 1]), [[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]])
def test_an_affine_that_spans_no_space_is_refused(tmp_path, affine):
    path = save(tmp_path / "ct.nii", chest())
    image = nib.load(path)
    image.header.set_sform(affine, 1)
    image.header["qform_code"] = 0
    content = bytearray(path.read_bytes())
    content[:348] = image.header.binaryblock
    path.write_bytes(content)
    with pytest.raises(InputError, match="does not span space"):
        read_volume(path)


def test_an_oblique_affine_takes_the_closest_axes_and_says_so(tmp_path):
    angle = np.radians(12)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    with pytest.warns(VolumeWarning, match="tilted by 12.0 degrees.*nothing is resampled"):
        read = read_volume(save(tmp_path / "ct.nii.gz", chest(), turn @ np.diag([*SPACING, 1])))
    assert np.array_equal(read.voxels, chest()) and read.spacing == pytest.approx(SPACING)


def test_a_file_without_orientation_is_read_and_says_so(tmp_path):
    path = save(tmp_path / "ct.nii", chest())
    content = bytearray(path.read_bytes())
    content[252:256] = bytes(4)  # qform_code, sform_code
    path.write_bytes(content)
    with pytest.warns(VolumeWarning, match="left-right is a guess"):
        assert read_volume(path).spacing == pytest.approx(SPACING)


def test_sform_and_qform_that_disagree_are_said_to(tmp_path):
    image = nib.Nifti1Image(chest(), np.diag([*SPACING, 1]))
    image.set_sform(np.diag([*SPACING, 1]), 1)
    image.set_qform(np.diag([-2.0, 3, 5, 1]), 1)
    nib.save(image, tmp_path / "ct.nii.gz")
    with pytest.warns(VolumeWarning, match="92.0 mm apart; the sform is used"):
        assert np.array_equal(read_volume(tmp_path / "ct.nii.gz").voxels, chest())


# --- masks ------------------------------------------------------------------------------------------------------------


def lesion():
    mask = np.zeros(chest().shape, np.uint8)
    mask[5:8, 8:12, 4:9] = 3
    mask[15, 9, 5] = 1
    return mask


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_a_mask_is_read_in_the_order_of_its_volume(tmp_path, volume, dtype):
    for order, flips in ORIENTATIONS[::7]:
        array, affine = stored_as(lesion(), order, flips)
        affine = affine.copy()
        shift = volume.affine @ np.linalg.inv(np.diag([*SPACING, 1]) @ np.array(
            [[1, 0, 0, -30], [0, 1, 0, 7], [0, 0, 1, 11], [0, 0, 0, 1.0]]))
        read = read_mask(save(tmp_path / "mask.nii.gz", array.astype(dtype), shift @ affine), volume)
        assert read.dtype == np.uint8 and np.array_equal(read, lesion())


def test_an_empty_mask_is_fine(tmp_path, volume):
    assert not read_mask(save(tmp_path / "mask.nii.gz", np.zeros_like(lesion())), volume).any()


def test_a_mask_of_another_shape_is_refused_with_both_names(tmp_path, volume):
    path = save(tmp_path / "mask.nii.gz", lesion()[:, :, 1:])
    with pytest.raises(InputError, match=r"mask.nii.gz.*\(24, 20, 15\).*ct.nii.gz.*\(24, 20, 16\)"):
        read_mask(path, volume)


@pytest.mark.parametrize("affine, distance", [
    (np.diag([2.0, 3, 5.5, 1]), "7.50 mm"),
    (np.diag([-2.0, 3, 5, 1]), "46.00 mm"),
    (np.array([[2.0, 0, 0, 1], [0, 3, 0, 0], [0, 0, 5, 0], [0, 0, 0, 1]]), "1.00 mm"),
])
def test_a_mask_in_another_place_is_refused_with_the_distance(tmp_path, volume, affine, distance):
    path = save(tmp_path / "mask.nii.gz", lesion(), affine)
    with pytest.raises(InputError, match=f"up to {distance} away.*allowed 0.200 mm"):
        read_mask(path, volume)
    if distance == "1.00 mm":
        assert read_mask(path, volume, tolerance_mm=1.5).any()


def test_an_affine_rounded_by_another_tool_is_the_same_place(tmp_path, volume):
    assert read_mask(save(tmp_path / "mask.nii.gz", lesion(), np.diag([2.0001, 3, 5, 1])), volume).any()


@pytest.mark.parametrize("values, message", [
    (lesion() * 0.5, "whole label values; found"),
    (lesion().astype(np.int16) * 200, "0 to 255"),
    (-lesion().astype(np.int16), "0 to 255"),
    (np.where(lesion(), np.nan, 0.0), "not finite"),
])
def test_a_mask_of_other_values_than_labels_is_refused(tmp_path, volume, values, message):
    with pytest.raises(InputError, match=message):
        read_mask(save(tmp_path / "mask.nii.gz", values), volume)


def test_corner_distance_is_the_largest_of_all_voxels():
    rng = np.random.default_rng(1)
    one, other = np.eye(4), np.eye(4)
    other[:3] += rng.normal(0, 0.1, (3, 4))
    grid = np.stack([*np.meshgrid(*[np.arange(n) for n in (5, 4, 3)], indexing="ij"), np.ones((5, 4, 3))], -1)
    apart = np.linalg.norm((grid @ (one - other).T)[..., :3], axis=-1)
    assert corner_distance(one, other, (5, 4, 3)) == pytest.approx(apart.max())


def test_real_volumes_are_hu_and_their_left_lung_is_left(real_data):
    folder = real_data / "medseg_nr2_volumes"
    for path in sorted(folder.glob("case*_image.nii.gz")):
        ct = read_volume(path)
        lungs = read_mask(folder / path.name.replace("image", "lung_lr"), ct)
        left, right = (np.nonzero((lungs == side).any(axis=(1, 2)))[0].mean() for side in (1, 2))
        assert ct.units == "HU" and left < right  # axis 0 grows to the patient's right
        assert ct.voxels[lungs > 0].mean() < -500


def test_nifti_2_is_read_too(tmp_path):
    nib.save(nib.Nifti2Image(chest(), np.diag([*SPACING, 1])), tmp_path / "ct.nii.gz")
    assert np.array_equal(read_volume(tmp_path / "ct.nii.gz").voxels, chest())
