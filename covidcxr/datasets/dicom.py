"""Radiographs stored as DICOM: from the stored values to the grey values that a viewer would show.

What is done, in the order of DICOM PS3.3 C.11 and PS3.4 N.2: padding is found, the modality LUT or rescale slope and intercept
are applied, then the first VOI LUT or else the first window (linear, exactly linear or sigmoid); without either the range from
the least to the greatest value, padding apart, is shown. MONOCHROME1, which stores bright as dark, is inverted. Padding is black.
The picture is turned and mirrored as its Patient Orientation asks: head up, and a frontal view's patient left on the right side.

Only the elements named here are read from a file: names, dates and other identifying elements are never loaded, so that nothing
of them can be printed or copied.
"""

from pathlib import Path
from typing import Any

import numpy as np

from covidcxr.errors import InputError

SUFFIXES = (".dcm", ".dicom")
ELEMENTS = (
    "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept",
    "ModalityLUTSequence", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "PatientOrientation",
    "ViewPosition", "PixelData",
)
MOST_PIXELS = 1 << 27  # a radiograph has some ten million; a damaged or hostile header may ask for any number
_VIEWS = {"PA": "PA", "AP": "AP", "LL": "lateral", "RL": "lateral", "LATERAL": "lateral", "LLD": "lateral", "RLD": "lateral"}
_MAGIC_AT, _MAGIC = 128, b"DICM"


def is_dicom(path: Path) -> bool:
    """By the file's name, or by the marker behind its preamble."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with open(path, "rb") as file:
            return file.read(_MAGIC_AT + len(_MAGIC))[_MAGIC_AT:] == _MAGIC
    except OSError:
        return False


def read_dicom(path: Path) -> np.ndarray:
    """Grey values as a viewer shows them, uint16 (H, W), black 0, white 65535.

    Raises:
        InputError: not a DICOM file, not a single grey image, a compression that cannot be decoded here, or damaged.
    """
    dataset = _read_header(path, pixels=True)
    _check_decoder(dataset, path)
    try:
        stored = dataset.pixel_array
        if stored.shape != (int(dataset.Rows), int(dataset.Columns)):  # of all that is there, whatever the number of frames says
            raise ValueError(f"they have the shape {stored.shape}, the header says {dataset.Rows} x {dataset.Columns}")
        grey = _shown(dataset, stored)
    except Exception as error:
        # whatever a damaged element leads to inside pydicom
        raise InputError(
            f"{path}: its pixels ({dataset.file_meta.TransferSyntaxUID.name}) cannot be read ({type(error).__name__}: {error}). "
            "Export or copy the file again."
        ) from error
    return _upright(np.rint(grey * 65535).astype(np.uint16), dataset)


def read_dicom_size(path: Path) -> tuple[int, int]:
    """(H, W) of what `read_dicom` returns, from the header."""
    dataset = _read_header(path, pixels=False)
    size = int(dataset.Rows), int(dataset.Columns)
    return size[::-1] if _turned(dataset) else size


def read_dicom_view(path: Path) -> str | None:
    """PA, AP or lateral as View Position says; None where it says nothing of these."""
    return _VIEWS.get(str(_read_header(path, pixels=False).get("ViewPosition") or "").strip().upper())


def _read_header(path: Path, pixels: bool) -> Any:
    """The elements of `ELEMENTS`, checked as far as the header goes."""
    import pydicom
    from pydicom.errors import InvalidDicomError
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    elements = ELEMENTS if pixels else ELEMENTS[:-1]
    try:
        if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:  # unpacked whole before all else
            raise InputError(f"{path}: deflated DICOM is not read. Store it uncompressed (Explicit VR Little Endian).")
        dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, specific_tags=list(elements))
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: the image is missing") from None
    except InvalidDicomError:
        raise InputError(f"{path}: not a DICOM file (no {_MAGIC.decode()} behind the first {_MAGIC_AT} bytes)") from None
    except Exception as error:
        # whatever a damaged file leads to inside pydicom
        raise InputError(f"{path}: not a readable DICOM file ({type(error).__name__}: {error})") from error
    try:
        _check_image(dataset, pixels, path)
    except InputError:
        raise
    except Exception as error:
        # elements are parsed when they are asked for
        raise InputError(f"{path}: its header is damaged ({type(error).__name__}: {error})") from error
    return dataset


def _check_image(dataset: Any, pixels: bool, path: Path) -> None:
    needed = ["Rows", "Columns", "PhotometricInterpretation", "BitsStored", *(["PixelData"] if pixels else [])]
    missing = [element for element in needed if dataset.get(element) is None]
    if missing or "TransferSyntaxUID" not in dataset.file_meta:
        raise InputError(f"{path}: no image: {', '.join(missing) or 'TransferSyntaxUID'} is not in the file")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise InputError(f"{path}: {frames} frames; a radiograph has one. Export the wanted frame as a file of its own.")
    if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2") or int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise InputError(
            f"{path}: a grey image (MONOCHROME1 or MONOCHROME2) is expected, this one is {dataset.PhotometricInterpretation}"
        )
    for element in ELEMENTS[:-1]:
        dataset.get(element)
    _directions(dataset)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not 0 < rows * columns <= MOST_PIXELS:
        raise InputError(f"{path}: {columns} x {rows} pixels (width x height) are not those of a radiograph")


def _check_decoder(dataset: Any, path: Path) -> None:
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise InputError(
            f"{path}: its compression, {syntax.name}, cannot be decoded here. Store it uncompressed (Explicit VR Little Endian), "
            "for example with `gdcmconv --raw`, or export it as PNG."
        )


def _shown(dataset: Any, stored: np.ndarray) -> np.ndarray:
    """Grey values in [0, 1], (H, W) as stored."""
    from pydicom.pixels import apply_modality_lut

    padding = _padding(dataset, stored)
    values = np.asarray(apply_modality_lut(stored, dataset), np.float64)
    if dataset.get("VOILUTSequence"):
        grey = _looked_up(values, dataset)
    elif dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        function = str(dataset.get("VOILUTFunction") or "LINEAR")
        grey = window(values, _first(dataset.WindowCenter), _first(dataset.WindowWidth), function)
    else:
        seen = values[~padding]
        low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 0.0)
        grey = np.clip((values - low) / ((high - low) or 1.0), 0, 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    grey[padding] = 0
    return grey


def _padding(dataset: Any, stored: np.ndarray) -> np.ndarray:
    """Where the stored values are padding, bool (H, W)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    return (stored >= low) & (stored <= high)


def _looked_up(values: np.ndarray, dataset: Any) -> np.ndarray:
    from pydicom.pixels import apply_voi

    bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
    return np.clip(apply_voi(np.rint(values).astype(np.int64), dataset) / (2**bits - 1), 0, 1)


def window(values: np.ndarray, centre: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Grey values in [0, 1] of a window, as DICOM PS3.3 C.11.2.1 defines its functions LINEAR, LINEAR_EXACT and SIGMOID.

    Raises:
        ValueError: an unknown function, or a width that it does not take.
    """
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ValueError(f"VOI LUT function {function!r} is not known")
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise ValueError(f"a window of width {width:g}")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _first(value: Any) -> float:
    """A number, or the first of several."""
    from pydicom.multival import MultiValue

    return float(value[0] if isinstance(value, MultiValue) else value)


def _directions(dataset: Any) -> tuple[str, str]:
    """Where rows and columns lead, one letter each ("L", "F" as a rule); empty where unknown."""
    letters = [str(direction).strip()[:1].upper() for direction in dataset.get("PatientOrientation") or ()]
    return (letters[0], letters[1]) if len(letters) == 2 else ("", "")


def _turned(dataset: Any) -> bool:
    """Do rows run along the body, so that the image lies on its side."""
    along_rows, along_columns = _directions(dataset)
    return along_rows in ("H", "F") and along_columns in ("L", "R", "A", "P")


def _upright(grey: np.ndarray, dataset: Any) -> np.ndarray:
    along_rows, along_columns = _directions(dataset)
    if _turned(dataset):
        grey, along_rows, along_columns = grey.T, along_columns, along_rows
    if along_columns == "H":
        grey = grey[::-1]
    if along_rows == "R":
        grey = grey[:, ::-1]
    return np.ascontiguousarray(grey)
