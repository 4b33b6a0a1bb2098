"""Slices of CT: seen from the feet, packed without loss, measured, and put back where they came from."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from test_volumes import ORIENTATIONS, save, stored_as

from covidcxr import ct_slices, datasets
from covidcxr.ct_slices import CLASSES, KINDS, assemble, axial, infected_share, label_picture, windowed, write_labels
from covidcxr.datasets.covid19ct20_slices256 import volumes
from covidcxr.errors import InputError, ParameterError
from covidcxr.maskrcnn.coco import average_precision, truth
from covidcxr.maskrcnn.inference import Found
from covidcxr.volumes import read_volume

SHAPE = (24, 20, 16)


def chest():
    """int16 HU and masks by kind, RAS+: the right lung (large x) is longer, the infection lies at its back."""
    voxels = np.full(SHAPE, -1000, np.int16)
    voxels[3:-3, 3:-3] = 40
    masks = {kind: np.zeros(SHAPE, bool) for kind in KINDS}
    masks["left_lung"][5:10, 6:-6, 4:-2] = True
    masks["right_lung"][14:19, 6:-6, 2:-2] = True
    masks["lesion"][15:18, 6:9, 5:9] = True
    voxels[masks["left_lung"] | masks["right_lung"]] = -850
    voxels[masks["lesion"]] = -300
    return voxels, masks


class Folder:
    """A data set of NIfTI files, as `datasets.open` would give one."""

    name = "test"

    def __init__(self, folder, without=(), units="HU", voxels=None):
        ct, masks = chest()
        self.path, self.units, self.without = save(folder / "ct.nii.gz", ct if voxels is None else voxels), units, without
        self.masks = masks

    def row(self, case):
        lungs = {kind: None if kind in self.without else f"{kind}.nii.gz" for kind in KINDS}
        return {"case": case, "patient": "someone", "expected_units": self.units, **lungs}

    def volume(self, case, window=None):
        return read_volume(self.path, window)

    def volume_mask(self, case, kind):
        if kind in self.without:
            raise InputError(f"no {kind}")
        return self.masks[kind]


def test_the_right_lung_is_on_the_left_and_the_front_on_top():
    voxels, masks = chest()
    right, lesion = axial(masks["right_lung"], 6), axial(masks["lesion"], 6)
    assert right.shape == (20, 24)
    assert np.nonzero(right)[1].max() < 12 <= np.nonzero(axial(masks["left_lung"], 6))[1].min()
    assert np.nonzero(lesion)[0].mean() > np.nonzero(right)[0].mean()
    assert np.shares_memory(axial(voxels, 6), voxels)


def test_a_window_makes_greys():
    np.testing.assert_allclose(windowed(np.array([-2000, -1250, -500, 250, 900], np.int16)), [0, 0, 0.5, 1, 1])
    with pytest.raises(ParameterError, match="low < high"):
        windowed(np.zeros(2), (100, 100))


def test_slices_of_a_volume_with_what_is_drawn_on_them(tmp_path):
    made = list(ct_slices.of_volumes(Folder(tmp_path), ["one"], 24))
    assert [one.index for one in made] == list(range(2, 14))  # those that cut a lung
    assert made[0].name == "one/0002" and made[0].patient == "someone" and made[0].original == (20, 24)
    _, masks = chest()
    for one in made:
        for label, kind in enumerate(KINDS, 1):
            np.testing.assert_array_equal(one.of_class(label), axial(masks[kind], one.index))
        assert one.image.dtype == np.float32 and one.masks.dtype == bool
    assert [one.labels.tolist() for one in made[1:5]] == [[2], [1, 2], [1, 2, 3], [1, 2, 3]]
    assert [one.index for one in ct_slices.of_volumes(Folder(tmp_path), ["one"], 24, step=3)] == [3, 6, 9, 12]


def test_each_infection_is_an_object_and_each_lung_is_one():
    masks = {kind: np.zeros((40, 40), bool) for kind in KINDS}
    masks["left_lung"][5:15, 25:35] = masks["left_lung"][20:30, 25:35] = True
    for place in (5, 15, 25):
        masks["lesion"][place : place + 4, 28:32] = True
    masks["lesion"][38, 38] = True
    one = ct_slices.make("case", "patient", 3, np.zeros((40, 40), np.float32), masks, 400)
    assert one.labels.tolist() == [1, 3, 3, 3, 3] and one.masks.shape == (5, 400, 400)
    small = ct_slices.make("case", "patient", 3, np.zeros((40, 40), np.float32), masks | {"lesion": ~masks["lesion"]}, 8)
    assert small.masks.shape[1:] == (8, 8)
    masks["left_lung"] = masks["left_lung"][:30]
    with pytest.raises(InputError, match=r"case/3: the mask left_lung is \(30, 40\), the slice \(40, 40\)"):
        ct_slices.make("case", "patient", 3, np.zeros((40, 40), np.float32), masks, 40)


def test_lungs_that_nobody_drew_come_from_a_model_or_not_at_all(tmp_path):
    without = Folder(tmp_path, without=("left_lung", "right_lung"))
    with pytest.raises(InputError, match="no masks of the left and the right lung"):
        list(ct_slices.of_volumes(without, ["one"], 24))

    def find(image):
        dark = (image > 0.2) & (image < 0.4)
        return dark & (np.arange(24) >= 12), dark & (np.arange(24) < 12)

    made = list(ct_slices.of_volumes(without, ["one"], 24, find_lungs=find))
    assert [one.labels.tolist() for one in made[:4]] == [[2], [2], [1, 2], [1, 2, 3]]


def test_grey_values_become_hu_and_unknown_units_are_refused(tmp_path):
    voxels, _ = chest()
    grey = np.rint((voxels.clip(-1250, 250) + 1250) / 1500 * 255).astype(np.int16)
    made = list(ct_slices.of_volumes(Folder(tmp_path, units="windowed", voxels=grey), ["one"], 24))
    for one, other in zip(made, ct_slices.of_volumes(Folder(tmp_path), ["one"], 24), strict=True):
        assert abs(one.grey.astype(int) - other.grey).max() <= 1
    with pytest.warns(match="not recognised as HU"), pytest.raises(InputError, match="unknown, and slices are made from HU"):
        list(ct_slices.of_volumes(Folder(tmp_path, voxels=voxels + 1024), ["one"], 24))


def test_pictures_of_slices_have_their_sides_told(tmp_path):
    class Pictures:
        def row(self, case):
            return {"patient": "volume-00"}

        def image(self, case):
            return np.full((20, 24), 0.5, np.float32)

        def mask(self, case, kind):
            _, masks = chest()
            return axial(masks["lesion"] if kind == "lesion" else masks["left_lung"] | masks["right_lung"], 6)

    (one,) = ct_slices.of_pictures(Pictures(), ["0041"], 24)
    _, masks = chest()
    assert (one.name, one.index) == ("volume-00/0041", 41)
    for label, kind in enumerate(KINDS, 1):
        np.testing.assert_array_equal(one.of_class(label), axial(masks[kind], 6))


def test_volumes_are_told_apart_by_content():
    rng = np.random.default_rng(0)
    anatomy = [rng.random((64, 64)) for _ in range(2)]
    row = [anatomy[i] + 0.1 * rng.random((64, 64)) for i in (0, 0, 0, 1, 1)]
    assert volumes([row[0], None, *row[1:], None]) == [0, 0, 0, 0, 1, 1, 1]
    assert volumes([None, row[0], np.zeros((64, 64)), row[1]]) == [0, 0, 0, 0] and volumes([]) == []


def test_a_table_counts_the_objects(tmp_path):
    rows = ct_slices.table(ct_slices.of_volumes(Folder(tmp_path), ["one"], 24))
    assert list(rows.columns) == ["case", "patient", "volume", "index", *CLASSES]
    assert rows[[*CLASSES]].sum().tolist() == [10, 12, 4]


def test_infections_of_a_slice_can_count_as_one():
    masks = {kind: np.zeros((40, 40), bool) for kind in KINDS}
    masks["right_lung"][5:35, 2:18] = True
    masks["lesion"][8:12, 4:10] = masks["lesion"][20:30, 4:10] = True
    one = ct_slices.make("case", "patient", 3, np.zeros((40, 40), np.float32), masks, 40)
    whole = ct_slices.united(one)
    assert one.labels.tolist() == [2, 3, 3] and whole.labels.tolist() == [2, 3]
    np.testing.assert_array_equal(whole.masks[1], masks["lesion"])
    boxes = np.array([[2, 5, 18, 35], [4, 8, 10, 12], [4, 20, 10, 30], [20, 20, 30, 30]], np.float32)
    scores = np.array([0.9, 0.8, 0.6, 0.1], np.float32)
    found = Found((40, 40), boxes, scores, np.array([2, 3, 3, 3]), np.ones((4, 28, 28), np.float32))
    results = ct_slices.united_results([found], 0.5)
    by_slice = average_precision(truth([whole], CLASSES), results, "segm")["classes"]
    assert by_slice["infection"]["AP"] == by_slice["right lung"]["AP"] == pytest.approx(1)
    assert by_slice["infection"]["results"] == 1
    assert average_precision(truth([one], CLASSES), results, "segm")["classes"]["infection"]["AP"] < 1
    assert ct_slices.united_results([found], 0.95) == []
    bare = replace(one, labels=one.labels[:0], packed=one.packed[:0])
    assert not len(ct_slices.united(bare).labels)


# ---- quantities --------------------------------------------------------------------------------------------------------


def test_shares_of_a_slice():
    left, right, infection = (np.zeros((10, 20), bool) for _ in range(3))
    right[2:8, 1:9], left[2:8, 11:19] = True, True  # 48 pixels each
    infection[2:4, 1:7] = True  # 12 of the right lung
    infection[8:10, 12:14] = True  # 4 below the left one, which end of the lung its mask left out
    found = infected_share(left, right, infection, pixel_mm2=0.5)
    assert found["right_share"] == 12 / 48 and found["left_share"] == 4 / 52 and found["share"] == 16 / 100
    assert (found["left"], found["right_infected"], found["outside"]) == (26, 6, 2)
    nothing = np.zeros((10, 20), bool)
    alone = infected_share(nothing, nothing, infection)
    assert np.isnan(alone["share"]) and alone["outside"] == 16
    healthy = infected_share(left, nothing, nothing)
    assert healthy["left_share"] == 0 and np.isnan(healthy["right_share"])


def test_infection_lies_over_lungs():
    masks = np.zeros((3, 4, 4), bool)
    masks[0, 1:3, 1:3], masks[1, :2], masks[2, :, :2] = True, True, True
    picture = label_picture(masks, np.array([3, 1, 2]))
    assert picture.tolist() == [[2, 2, 1, 1], [2, 3, 3, 1], [2, 3, 3, 0], [2, 2, 0, 0]]
    assert not label_picture(masks[:0], np.zeros(0, int)).any()


# ---- volumes of labels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order, flips", ORIENTATIONS[::5])
def test_labels_lie_where_the_volume_lies(tmp_path, order, flips):
    voxels, masks = chest()
    array, affine = stored_as(voxels, order, flips)
    source = save(tmp_path / "ct.nii.gz", array, affine)
    volume = read_volume(source)
    labels = sum(label * mask.astype(np.uint8) * (label < 3) for label, mask in enumerate(masks.values(), 1))
    labels[masks["lesion"]] = 3
    pictures = ((k, axial(labels, k)) for k in range(SHAPE[2]))
    assembled = assemble(pictures, volume.shape)
    np.testing.assert_array_equal(assembled, labels)
    write_labels(assembled, volume, tmp_path / "labels.nii.gz")
    written, ct = nib.load(tmp_path / "labels.nii.gz"), nib.load(source)
    assert written.shape == ct.shape and written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(written.affine, ct.affine)
    np.testing.assert_array_equal(written.header.get_zooms(), ct.header.get_zooms())
    expected, _ = stored_as(labels, order, flips)
    np.testing.assert_array_equal(np.asarray(written.dataobj), expected)
    assert b"3 infection" in written.header["descrip"].item()


def test_what_does_not_fit_is_refused(tmp_path):
    volume = read_volume(save(tmp_path / "ct.nii.gz", chest()[0]))
    with pytest.raises(InputError, match=r"Slice 16 of \(20, 24\)"):
        assemble([(16, np.zeros((20, 24), np.uint8))], volume.shape)
    with pytest.raises(InputError, match=r"Slice 0 of \(24, 20\)"):
        assemble([(0, np.zeros((24, 20), np.uint8))], volume.shape)
    with pytest.raises(InputError, match="these are bool"):
        write_labels(np.zeros(volume.shape, bool), volume, tmp_path / "labels.nii.gz")
    with pytest.raises(InputError, match=r"saved as \.nii\.gz"):
        write_labels(np.zeros(volume.shape, np.uint8), volume, tmp_path / "labels.nii")


def test_the_phantoms_volumes(phantom_smoke):
    for name in ("covid19_ct_seg", "medseg_nr2_volumes"):
        ct = datasets.open(name, "phantom:smoke")
        case = ct.cases().case[0]
        made = list(ct_slices.of_volumes(ct, [case], 64))
        rows = ct_slices.table(made)
        assert (rows[["left lung", "right lung"]].sum() > 0).all() and rows.infection.sum() > 0
        middle = made[len(made) // 2]
        assert np.nonzero(middle.of_class(2))[1].mean() < 32 < np.nonzero(middle.of_class(1))[1].mean()
        assert middle.image[middle.of_class(1) | middle.of_class(2)].mean() < middle.image.max() / 2


@pytest.mark.parametrize("box_mode", ["XYXY_ABS", "XYWH_ABS"])
@pytest.mark.parametrize("outlines", ["polygons", "run_lengths"])
def test_records_are_those_of_table_1_and_hold_the_same_objects(tmp_path, box_mode, outlines):
    import cv2
    from pycocotools import mask as coco_mask

    lung = np.zeros((30, 40), bool)
    lung[5:25, 4:18], lung[10:14, 8:12] = True, False  # a vessel was left out
    other = np.zeros_like(lung)
    other[6:24, 22:36] = True
    lesion = other & (np.indices(lung.shape).sum(axis=0) % 9 < 4)
    image = np.linspace(0, 1, lung.size, dtype=np.float32).reshape(lung.shape)
    one = ct_slices.make("case", "someone", 7, image, {"left_lung": other, "right_lung": lung, "lesion": lesion}, 40)
    made = ct_slices.records([one], tmp_path, box_mode, outlines)
    assert json.loads((tmp_path / "records.json").read_text()) == made
    (record,) = made
    fields = {"file_name", "height", "width", "image_id", "annotations"}
    assert set(record) == fields and (record["height"], record["width"]) == lung.shape
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / record["file_name"]), cv2.IMREAD_UNCHANGED), one.grey)
    for annotation, mask, label in zip(record["annotations"], one.masks, one.labels, strict=True):
        assert set(annotation) == {"bbox", "bbox_mode", "category_id", "segmentation", "iscrowd"}
        assert annotation["category_id"] == label - 1
        drawn = annotation["segmentation"]
        codes = coco_mask.frPyObjects(drawn, *lung.shape) if outlines == "polygons" else [drawn]
        np.testing.assert_array_equal(coco_mask.decode(coco_mask.merge(codes)).astype(bool), mask)
        x, y, right, bottom = annotation["bbox"]
        if box_mode == "XYWH_ABS":
            right, bottom = x + right, y + bottom
        rows, columns = np.nonzero(mask)
        assert (x, y, right, bottom) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert annotation["bbox_mode"] == {"XYXY_ABS": 0, "XYWH_ABS": 1}[box_mode]


def test_records_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ParameterError, match="XYXY_ABS or XYWH_ABS"):
        ct_slices.records([], tmp_path, "XYXY")
