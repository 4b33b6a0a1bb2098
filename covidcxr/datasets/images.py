"""Reading radiographs, slices and masks stored as ordinary pictures, and radiographs stored as DICOM; unions of masks."""

import functools
from pathlib import Path

import numpy as np

from covidcxr.datasets.dicom import is_dicom, read_dicom, read_dicom_size
from covidcxr.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
VOLUME_SUFFIXES = (".nii.gz", ".nii")
# What is taken for a picture, whatever its name. Pillow knows more formats, and starts Ghostscript for one of them.
_FORMATS = ("PNG", "JPEG", "MPO", "BMP", "TIFF", "GIF", "WEBP")
# ITU-R BT.601 weights of luminance, as Pillow and OpenCV use them
_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


def is_volume(path: str | Path) -> bool:
    """Whether a file is a volume, by its suffix."""
    return str(path).lower().endswith(VOLUME_SUFFIXES)


def stem(path: str | Path) -> str:
    """File name without its suffix; ".nii.gz" counts as one suffix and other dots belong to the name."""
    name = Path(path).name
    for suffix in VOLUME_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name.rpartition(".")[0] or name


def read_pixels(path: Path) -> np.ndarray:
    """Stored pixels: uint8 or uint16 (H, W), or uint8 (H, W, 3) or (H, W, 4). Palettes are resolved to colours.
    Of DICOM, the grey values to be shown (`covidcxr.datasets.dicom`).

    Raises:
        InputError: missing, not a picture, truncated, or of an unreasonable size.
    """
    from PIL import Image

    if is_dicom(path):
        return read_dicom(path)
    try:
        with Image.open(path, formats=_FORMATS) as file:
            picture: Image.Image = file
            if file.mode in ("P", "PA"):
                picture = file.convert("RGBA" if "transparency" in file.info or file.mode == "PA" else "RGB")
            elif file.mode in ("1", "CMYK", "YCbCr", "LAB", "HSV"):
                picture = file.convert("L" if file.mode == "1" else "RGB")
            pixels = np.asarray(picture)
    except FileNotFoundError:
        raise InputError(f"{path}: the image is missing") from None
    except Exception as error:
        # whatever a damaged file leads to inside Pillow
        raise InputError(f"{path}: not a readable image ({type(error).__name__}: {error}). Fetch or copy it again.") from error
    if pixels.dtype == np.int32:  # Pillow's mode "I" holds 16-bit values
        if pixels.min(initial=0) < 0 or pixels.max(initial=0) > 65535:
            raise InputError(f"{path}: 32-bit integer pixels outside 0..65535; save it as 8- or 16-bit grey")
        pixels = pixels.astype(np.uint16)
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim not in (2, 3):
        raise InputError(
            f"{path}: pixels of type {pixels.dtype} and shape {pixels.shape}; 8- or 16-bit grey or colour is expected"
        )
    return pixels


def to_luminance(pixels: np.ndarray) -> np.ndarray:
    """float32 (H, W) in [0, 1] from stored pixels; grey pictures stored as colours keep their exact values; alpha is ignored."""
    full = np.float32(np.iinfo(pixels.dtype).max)
    if pixels.ndim == 3 and pixels.shape[2] == 2:  # grey and alpha
        pixels = pixels[:, :, 0]
    if pixels.ndim == 3:
        colours = pixels[:, :, :3]
        if is_grey(colours):
            pixels = colours[:, :, 0]
        else:
            return np.minimum(colours.astype(np.float32) @ (_LUMINANCE / full), np.float32(1))
    return pixels.astype(np.float32) / full


def is_grey(colours: np.ndarray) -> bool:
    """Whether the three channels of an image (H, W, 3) or (H, W, 4) are the same."""
    return bool((colours[:, :, 0] == colours[:, :, 1]).all() and (colours[:, :, 1] == colours[:, :, 2]).all())


def read_image(path: Path) -> np.ndarray:
    """Radiograph or slice as float32 (H, W) in [0, 1]: luminance of colour pictures (BT.601), alpha ignored."""
    return to_luminance(read_pixels(path))


def read_size(path: Path) -> tuple[int, int]:
    """(H, W) from the picture's header, without decoding it."""
    from PIL import Image

    if is_dicom(path):
        return read_dicom_size(path)
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            return picture.height, picture.width
    except FileNotFoundError:
        raise InputError(f"{path}: the image is missing") from None
    except Exception as error:
        # whatever a damaged file leads to inside Pillow
        raise InputError(f"{path}: not a readable image ({type(error).__name__}: {error}). Fetch or copy it again.") from error


def read_labels(path: Path) -> np.ndarray:
    """Label picture as uint8 or uint16 (H, W); a colour picture must be grey (R = G = B), alpha is ignored."""
    if is_dicom(path):
        raise InputError(f"{path}: a mask must be an ordinary picture (PNG), not DICOM, whose values are windowed")
    pixels = read_pixels(path)
    if pixels.ndim == 3:
        if pixels.shape[2] >= 3 and not is_grey(pixels):
            raise InputError(f"{path}: a mask must be grey, but this picture has colours")
        pixels = pixels[:, :, 0]
    return pixels


def united(masks) -> np.ndarray:
    """Union of masks, in the first one's memory; np.logical_or.reduce would copy them all into another order of axes first."""
    return functools.reduce(lambda union, mask: np.logical_or(union, mask, out=union), masks)
