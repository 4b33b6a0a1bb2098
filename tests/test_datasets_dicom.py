"""Radiographs as DICOM: the values that a viewer would show, the way up, what is refused, and that nobody's name is read."""

import warnings

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless, RLELossless, generate_uid

from covidcxr import datasets
from covidcxr.datasets.dicom import is_dicom, read_dicom_view, window
from covidcxr.datasets.images import read_image, read_labels, read_pixels, read_size
from covidcxr.errors import InputError

NAME = "Doe^Jane-Unmistakable"
RAMP = np.arange(12, dtype=np.uint16).reshape(3, 4) * 300  # 0 … 3300


def made(stored: np.ndarray = RAMP, **elements) -> FileDataset:
    """A radiograph with identifying elements; `elements` are set last, None removes one."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["covidcxr"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.PatientName, file.PatientID, file.PatientBirthDate, file.StudyDate = NAME, "ID-Unmistakable", "19300101", "20200401"
    file.Modality, file.ViewPosition = "DX", "PA"
    file.Rows, file.Columns = stored.shape[-2:]
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit = 8 * stored.itemsize, 8 * stored.itemsize, 8 * stored.itemsize - 1
    file.PixelRepresentation = int(stored.dtype.kind == "i")
    file.PixelData = stored.tobytes()
    for key, value in elements.items():
        if value is None:
            delattr(file, key)
        else:
            setattr(file, key, value)
    return file


@pytest.fixture
def shown(tmp_path):
    """Writes a DICOM file and reads it as an image."""

    def show(stored: np.ndarray = RAMP, **elements) -> np.ndarray:
        path = tmp_path / "one.dcm"
        made(stored, **elements).save_as(path, enforce_file_format=True)
        image = read_image(path)
        assert image.dtype == np.float32 and image.shape == read_size(path)
        return image

    return show


# ---- grey values -----------------------------------------------------------------------------------------------------


def close(values) -> object:
    return pytest.approx(np.asarray(values, float), abs=1e-5)


def test_without_a_window_the_whole_range_is_shown(shown):
    assert shown() == close(RAMP / 3300)
    assert shown(np.full((2, 2), 7, np.uint16)) == close(np.zeros((2, 2)))


def test_monochrome1_is_inverted(shown):
    assert shown(PhotometricInterpretation="MONOCHROME1") == close(1 - RAMP / 3300)


def test_signed_values_slope_and_intercept_come_before_the_window(shown):
    stored = np.array([[-100, 0, 100, 500]], np.int16)
    image = shown(stored, RescaleSlope="2", RescaleIntercept="-50", WindowCenter="150.5", WindowWidth="401")
    assert image == close([[0, 0, 0.5, 1]])  # -250, -50, 150, 950 in a window from -50 to 350


def test_the_first_of_several_windows_is_taken(shown):
    image = shown(np.array([[0, 50, 100]], np.uint16), WindowCenter=["50.5", "1000"], WindowWidth=["101", "5"])
    assert image == close([[0, 0.5, 1]])


def test_windows_are_the_standards():
    """DICOM PS3.3 C.11.2.1.2.1: centre 2048, width 4096 shows 0 as least and 4095 as greatest; width 1 is a threshold."""
    values = np.array([0.0, 2047.5, 4095.0])
    assert window(values, 2048, 4096) == close([0, 0.5, 1])
    assert window(np.array([9.0, 9.6, 10.0]), 10, 1).tolist() == [0, 1, 1]
    assert window(np.array([0.0, 50.0, 100.0]), 50, 100, "LINEAR_EXACT") == close([0, 0.5, 1])
    assert window(np.array([0.0, 50.0, 100.0]), 50, 100, "SIGMOID") == close([1 / (1 + np.e**2), 0.5, 1 / (1 + np.e**-2)])
    assert window(np.array([-1e9, 1e9]), 50, 1, "SIGMOID") == close([0, 1])


@pytest.mark.parametrize("elements", [
    {"WindowCenter": "5", "WindowWidth": "0"}, {"WindowCenter": "5", "WindowWidth": "9", "VOILUTFunction": "CUBIC"},
])
def test_a_window_that_means_nothing_is_told(shown, elements):
    with pytest.raises(InputError, match=r"one\.dcm: its pixels .*(width 0|'CUBIC')"):
        shown(**elements)


def test_a_voi_lut_goes_before_a_window(shown):
    table = Dataset()
    table.LUTDescriptor = [4, 10, 8]  # 4 entries from value 10 on, of 8 bits
    table.LUTData = np.array([0, 51, 102, 255], np.uint16).tobytes()
    stored = np.array([[0, 10, 11, 12, 13, 99]], np.uint16)
    image = shown(stored, VOILUTSequence=[table], WindowCenter="5", WindowWidth="3")
    assert image == close([[0, 0, 0.2, 0.4, 1, 1]])


def test_padding_is_black_and_not_part_of_the_range(shown):
    stored = np.array([[4000, 4000, 100, 200, 300]], np.uint16)
    assert shown(stored, PixelPaddingValue=4000) == close([[0, 0, 0, 0.5, 1]])
    assert shown(stored, PixelPaddingValue=4000, PhotometricInterpretation="MONOCHROME1") == close([[0, 0, 1, 0.5, 0]])
    assert shown(stored, PixelPaddingValue=3000, PixelPaddingRangeLimit=4095) == close([[0, 0, 0, 0.5, 1]])
    assert shown(np.array([[9, 9]], np.uint16), PixelPaddingValue=9) == close([[0, 0]])


# ---- the way up ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("orientation", "expected"), [
    (["L", "F"], RAMP), (["R", "F"], RAMP[:, ::-1]), (["L", "H"], RAMP[::-1]), (["R", "H"], RAMP[::-1, ::-1]),
    (["F", "L"], RAMP.T), (["H", "R"], RAMP.T[::-1, ::-1]), (["A", "F"], RAMP), (["P", "H"], RAMP[::-1]),
    (["LP", "FA"], RAMP), (["X", "Y"], RAMP), (None, RAMP),
])
def test_head_up_and_the_patients_left_on_the_right_side(shown, orientation, expected):
    image = shown(**({} if orientation is None else {"PatientOrientation": orientation}))
    assert image.shape == expected.shape and image == close(expected / 3300)


@pytest.mark.parametrize(("stated", "view"), [("PA", "PA"), ("AP", "AP"), ("LL", "lateral"), ("", None), ("RLO", None)])
def test_the_view_is_read(tmp_path, stated, view):
    made(ViewPosition=stated).save_as(tmp_path / "one.dcm", enforce_file_format=True)
    assert read_dicom_view(tmp_path / "one.dcm") == view


# ---- compression -----------------------------------------------------------------------------------------------------


def test_lossless_rle_and_jpeg_are_decoded(tmp_path):
    file = made()
    file.compress(RLELossless)
    file.save_as(tmp_path / "rle.dcm", enforce_file_format=True)
    assert read_image(tmp_path / "rle.dcm") == close(RAMP / 3300)
    grey = np.repeat(np.arange(0, 256, 16, dtype=np.uint8), 16).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "grey.jpg", quality=100)
    file = made(grey)
    file.PixelData = encapsulate([(tmp_path / "grey.jpg").read_bytes()])
    file.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    file["PixelData"].VR = "OB"
    file.save_as(tmp_path / "jpeg.dcm", enforce_file_format=True)
    assert read_image(tmp_path / "jpeg.dcm") == pytest.approx(grey / 240, abs=0.02)


def test_a_compression_that_cannot_be_decoded_is_named(tmp_path):
    file = made()
    file.PixelData = encapsulate([b"\xff\xd8\xff\xf7" + bytes(20)])
    file.file_meta.TransferSyntaxUID = JPEGLSLossless
    file.save_as(tmp_path / "one.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match=r"one\.dcm: its compression, JPEG-LS Lossless .* cannot be decoded"):
        read_image(tmp_path / "one.dcm")
    assert read_size(tmp_path / "one.dcm") == RAMP.shape  # the header is sound


# ---- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("elements", "message"), [
    ({"NumberOfFrames": 2}, "2 frames; a radiograph has one"),
    ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "grey image .* is expected, this one is RGB"),
    ({"PixelData": None}, "PixelData is not in the file"),
    ({"Rows": None}, "Rows is not in the file"),
    ({"Rows": 0}, "are not those of a radiograph"),
    ({"Rows": 65535, "Columns": 65535}, "65535 x 65535 pixels"),
    ({"Rows": 4}, "its pixels"),
    ({"BitsStored": 99}, "its pixels"),
])
def test_what_is_no_single_grey_image_is_refused_by_name(shown, elements, message):
    with pytest.raises(InputError, match=rf"one\.dcm: .*{message}"):
        shown(**elements)


def test_damaged_files_are_refused_by_name(tmp_path):
    whole, path = tmp_path / "whole.dcm", tmp_path / "one.dcm"
    made().save_as(whole, enforce_file_format=True)
    content = whole.read_bytes()
    for cut in (0, 100, 131, 132, 140, 200, 350, len(content) - 10):
        path.write_bytes(content[:cut])
        with pytest.raises(InputError, match=r"one\.dcm"):
            read_image(path)
    path.write_bytes(b"\x89PNG" + bytes(300))
    with pytest.raises(InputError, match="not a DICOM file"):
        read_image(path)
    with pytest.raises(InputError, match="is missing"):
        read_image(tmp_path / "nowhere.dcm")


def test_random_damage_never_ends_otherwise_than_in_an_image_or_an_error(tmp_path):
    path, rng = tmp_path / "one.dcm", np.random.default_rng(3)
    made(WindowCenter="1000", WindowWidth="500").save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(132, len(content), 4):
            damaged[place] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = read_image(path)
        except InputError as error:
            assert "one.dcm" in str(error)
        else:
            assert image.ndim == 2 and np.isfinite(image).all()


# ---- privacy ---------------------------------------------------------------------------------------------------------


def test_identifying_elements_are_never_loaded(tmp_path, monkeypatch):
    path = tmp_path / "one.dcm"
    made().save_as(path, enforce_file_format=True)
    loaded, read = [], pydicom.dcmread
    monkeypatch.setattr(pydicom, "dcmread", lambda *args, **options: loaded.append(read(*args, **options)) or loaded[-1])
    read_image(path), read_size(path), read_dicom_view(path)
    assert len(loaded) == 3
    for dataset in loaded:
        assert "PatientName" not in dataset and "PatientID" not in dataset and "StudyDate" not in dataset
        assert "Unmistakable" not in str(dataset)


def test_no_message_names_the_patient(tmp_path, capfd):
    path = tmp_path / "one.dcm"
    for elements in ({"NumberOfFrames": 2}, {"BitsStored": 99}, {"Rows": 9}):
        file = made(**elements)
        file.save_as(path, enforce_file_format=True)
        path.write_bytes(path.read_bytes().replace(b"19300101", b"notadate"))
        with warnings.catch_warnings(record=True) as warned, pytest.raises(InputError) as caught:
            warnings.simplefilter("always")
            read_image(path)
        told = str(caught.value) + str(caught.value.__cause__) + "".join(str(warning.message) for warning in warned)
        assert "Unmistakable" not in told and "notadate" not in told
    out, err = capfd.readouterr()
    assert "Unmistakable" not in out + err


# ---- a user's folder -------------------------------------------------------------------------------------------------


def test_a_users_folder_takes_dicom(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(1)
    for number, name in enumerate(("a.dcm", "b.DCM", "c")):
        stored = rng.integers(0, 4096, (20, 30)).astype(np.uint16)
        made(stored, ViewPosition=("PA", "AP", "LL")[number]).save_as(images / name, enforce_file_format=True)
    (images / "notes").write_text("not an image")
    (tmp_path / "masks" / "lesion").mkdir(parents=True)
    Image.fromarray(np.full((20, 30), 255, np.uint8)).save(tmp_path / "masks" / "lesion" / "a.png")
    dataset = datasets.open("folder", tmp_path)
    table = dataset.cases()
    assert table.case.tolist() == ["a", "b", "c"] == table.patient.tolist() and table["view"].tolist() == ["PA", "AP", "lateral"]
    assert dataset.image("c").shape == (20, 30) and dataset.mask("a", "lesion").all()
    assert not table.astype(str).apply(lambda column: column.str.contains("Unmistakable|1930|2020")).to_numpy().any()
    verification = dataset.verify()
    assert verification.ok and verification.unused == ["images/notes"]
    assert verification.measured["a"]["pixels"] == "uint16 x 1"


def test_a_bad_file_among_good_ones_is_named_and_the_table_still_read(tmp_path):
    (tmp_path / "images").mkdir()
    made().save_as(tmp_path / "images" / "good.dcm", enforce_file_format=True)
    (tmp_path / "images" / "bad.dcm").write_bytes(b"nothing of the kind")
    dataset = datasets.open("folder", tmp_path)
    assert dataset.cases()["view"].tolist() == [None, "PA"]
    (problem,) = dataset.verify().errors
    assert problem.case == "bad" and "not a DICOM file" in problem.text


def test_a_mask_is_never_dicom(tmp_path):
    made().save_as(tmp_path / "mask.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="a mask must be an ordinary picture"):
        read_labels(tmp_path / "mask.dcm")


def test_pictures_are_told_from_dicom_by_content(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "one.png")
    made().save_as(tmp_path / "two.png", enforce_file_format=True)  # a wrong suffix
    assert not is_dicom(tmp_path / "one.png") and is_dicom(tmp_path / "two.png") and not is_dicom(tmp_path / "none.png")
    assert read_pixels(tmp_path / "two.png").dtype == np.uint16
