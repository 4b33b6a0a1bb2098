"""Damaged and hostile volumes and pictures (see `fuzzing`)."""

import gzip
import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from fuzzing import SIZE, ends_well, examples, root_folder, watched, write  # noqa: F401 - fixtures
from hypothesis import given
from hypothesis import strategies as st
from mutations import damaged
from PIL import Image
from test_datasets_dicom import made as dicom

from covidcxr import volumes
from covidcxr.datasets.images import read_image, read_labels, read_pixels, read_size
from covidcxr.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # what readers warn of is the files' fault

# ---- volumes ----------------------------------------------------------------------------------------------------------


def nifti(dtype=np.int16, **changes) -> bytes:
    """A sound NIfTI-1 file of 12 x 10 x 8 voxels; fields of its header may be others."""
    import nibabel

    values = np.full((12, 10, 8), -1000)
    values[3:9, 2:8] = 40
    values = values.clip(0, 255) if dtype is np.uint8 else values
    image = nibabel.Nifti1Image(values.astype(dtype), np.diag([-4.0, -4, 6, 1]))
    content = bytearray(image.to_bytes())
    for place, form, value in changes.values():
        struct.pack_into(form, content, place, *value)
    return bytes(content)


FIELDS = {  # of the header: place, form
    "dim": (40, "<8h"),
    "datatype": (70, "<h"),
    "bitpix": (72, "<h"),
    "pixdim": (76, "<8f"),
    "vox_offset": (108, "<f"),
    "scl_slope": (112, "<f"),
    "scl_inter": (116, "<f"),
    "qform_code": (252, "<h"),
    "sform_code": (254, "<h"),
    "quatern": (256, "<6f"),
    "srow": (280, "<12f"),
    "sizeof_hdr": (0, "<i"),
    "magic": (344, "<4B"),
    "extension": (348, "<4B"),
    "esize": (352, "<2i"),
}
WHOLE = (-32768, -1, 0, 1, 2, 3, 4, 7, 16, 64, 128, 512, 1536, 2304, 32767)
BROKEN = (float("nan"), float("inf"), -1.0, 0.0, 1.0, 352.0, 1e9, 1e18, 3e38, -3e38, 1e-30)


@st.composite
def niftis(draw) -> bytes:
    content = bytearray(nifti(draw(st.sampled_from((np.int16, np.uint8, np.float32, np.float64)))))
    for name in draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=3)):
        place, form = FIELDS[name]
        old = list(struct.unpack_from(form, content, place))
        values = {"f": BROKEN, "B": range(256), "i": (*WHOLE, -(2**31), 2**31 - 1)}.get(form[-1], WHOLE)
        for index in draw(st.lists(st.integers(0, len(old) - 1), min_size=1, max_size=3)):
            old[index] = draw(st.sampled_from(values))
        struct.pack_into(form, content, place, *old)
    if draw(st.booleans()):
        return draw(damaged(bytes(content)))
    return bytes(content)


def sound_volume(path: Path) -> None:
    volume = volumes.read_volume(path, nan_value=-1000)
    assert volume.voxels.dtype == np.int16 and volume.voxels.size <= volumes.MOST_VOXELS
    assert np.isfinite(volume.affine).all() and min(volume.spacing) > 0


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".hdr"])
def test_volumes(suffix, root):
    path = root / f"scan{suffix}"

    @examples(150)
    @given(niftis(), st.data())
    def check(content, data):
        if suffix == ".nii.gz":
            content = gzip.compress(content, 1)
            content = data.draw(damaged(content)) if data.draw(st.integers(0, 3)) == 0 else content
        if suffix == ".hdr":
            write(path.with_suffix(".img"), content[352:])
            content = content[:344] + (b"ni1\0" if data.draw(st.booleans()) else content[344:348]) + content[348:352]
        write(path, content)
        ends_well(lambda: sound_volume(path), path.name)

    check()


def test_masks_of_volumes(root):
    like = volumes.read_volume(write(root / "like.nii", nifti()))
    path = root / "labels.nii"

    @examples(100)
    @given(niftis())
    def check(content):
        write(path, content)
        mask = ends_well(lambda: volumes.read_mask(path, like), path.name)
        assert mask is None or (mask.dtype == np.uint8 and mask.shape == like.shape)

    check()


def test_a_volume_takes_no_memory_that_its_file_can_not_fill(root):
    terabytes = nifti(dim=(40, "<8h", (3, 32767, 32767, 32767, 1, 1, 1, 1)))
    some = nifti(dim=(40, "<8h", (3, 1000, 1000, 1000, 1, 1, 1, 1)))
    for name, content, message in (
        ("a.nii", terabytes, "not those of a CT"),
        ("a.nii.gz", gzip.compress(terabytes), "not those of a CT"),
        ("b.nii", some, "ends early"),
        ("b.nii.gz", gzip.compress(some), "ends early"),
        ("c.nii", nifti(vox_offset=(108, "<f", (1e12,))), "c.nii"),
    ):
        with pytest.raises(InputError, match=message):
            volumes.read_volume(write(root / name, content))


def test_what_is_hidden_in_little_compressed_data_is_not_unpacked(root):
    bomb = gzip.compress(bytes(64 << 20), 9)
    path = write(root / "bomb.nii.gz", gzip.compress(nifti()) + bomb)
    with pytest.raises(InputError, match="far more than its header promises"):
        volumes.read_volume(path)
    extended = nifti(extension=(348, "<4B", (1, 0, 0, 0)), esize=(352, "<2i", (0, 0)), vox_offset=(108, "<f", (3e8,)))
    write(path, gzip.compress(extended) + bomb)
    tracemalloc.start()
    with pytest.raises(InputError, match="bomb.nii.gz"):
        volumes.read_volume(path)
    assert tracemalloc.get_traced_memory()[1] < 24 << 20
    tracemalloc.stop()


def test_a_header_without_its_voxels_says_which_file_is_missing(root):
    content = nifti()
    write(root / "alone.hdr", content[:344] + b"ni1\0" + bytes(4))
    with pytest.raises(InputError, match=r"alone\.img.*can't be read"):
        volumes.read_volume(root / "alone.hdr")


# ---- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        ("png", "L"),
        ("png", "P"),
        ("png", "RGBA"),
        ("png", "I;16"),
        ("png", "1"),
        ("jpg", "L"),
        ("jpg", "RGB"),
        ("jpg", "CMYK"),
        ("bmp", "RGB"),
        ("tif", "L"),
        ("tif", "F"),
        ("tif", "LAB"),
        ("gif", "P"),
        ("webp", "RGB"),
    ],
)
def test_pictures(suffix, mode, root):
    path = root / f"picture-{suffix}-{mode[0]}.png"
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 255, SIZE, dtype=np.uint8))
    written = io.BytesIO()
    picture = Image.frombytes("LAB", SIZE[::-1], bytes(3 * SIZE[0] * SIZE[1])) if mode == "LAB" else grey.convert(mode)
    picture.save(written, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))

    def read():
        pixels = read_pixels(path)
        assert pixels.size and pixels.dtype in (np.uint8, np.uint16)
        assert read_size(path) == pixels.shape[:2]
        image = read_image(path)
        assert image.dtype == np.float32 and 0 <= image.min() and image.max() <= 1

    @examples(60)
    @given(damaged(written.getvalue()))
    def check(content):
        write(path, content)
        ends_well(read, path.name)
        ends_well(lambda: read_size(path), path.name)
        ends_well(lambda: read_labels(path), path.name)

    check()


def test_a_picture_of_gigapixels_is_refused_by_its_header(root):
    written = io.BytesIO()
    Image.new("L", (4, 4)).save(written, "png")
    content = bytearray(written.getvalue())
    content[16:24] = struct.pack(">II", 1 << 20, 1 << 20)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    path = write(root / "giant.png", bytes(content))
    for read in (read_pixels, read_size, read_labels):
        with pytest.raises(InputError, match="giant.png: not a readable image"):
            read(path)


def test_no_program_is_started_for_a_picture(root):
    path = write(root / "page.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(InputError, match="page.png: not a readable image"):
        read_pixels(path)


@st.composite
def dicoms(draw) -> bytes:
    """A radiograph of which elements have other values, other types, or are gone."""
    names = (
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "SamplesPerPixel",
        "NumberOfFrames",
        "WindowCenter",
        "WindowWidth",
        "RescaleSlope",
        "RescaleIntercept",
        "PixelPaddingValue",
        "PatientOrientation",
        "ViewPosition",
        "PhotometricInterpretation",
        "VOILUTFunction",
    )
    values = (0, 1, 2, 3, 16, 65535, "", "0", "-1", "1e400", "nan", "x", "L\\F", "A\\B\\C")
    file = dicom()
    for name in draw(st.lists(st.sampled_from(names), max_size=3)):
        try:
            setattr(file, name, draw(st.sampled_from(values)))
        except (ValueError, TypeError, OverflowError):
            continue
    written = io.BytesIO()
    try:
        file.save_as(written, enforce_file_format=True)
    except Exception:  # pydicom does not write everything that others do
        dicom().save_as(written := io.BytesIO(), enforce_file_format=True)
    return draw(damaged(written.getvalue())) if draw(st.booleans()) else written.getvalue()


def test_dicom(root):
    path = root / "one.dcm"
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE

    def read():
        image = read_image(path)
        assert np.isfinite(image).all() and image.shape == read_size(path)

    @examples(200)
    @given(dicoms())
    def check(content):
        write(path, content)
        ends_well(read, path.name)
        ends_well(lambda: read_size(path), path.name)

    check()
    pydicom.config.settings.writing_validation_mode = pydicom.config.RAISE


def test_deflated_dicom_is_refused_before_it_is_unpacked(root):
    file = dicom()
    file.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    file.save_as(root / "small.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="small.dcm: deflated"):
        read_size(root / "small.dcm")
