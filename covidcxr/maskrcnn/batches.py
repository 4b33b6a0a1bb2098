"""Batches for Mask R-CNN: images and objects of any size and number, checked and padded to arrays of fixed shape (numpy)."""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from covidcxr.errors import InputError
from covidcxr.feeding import check_image
from covidcxr.maskrcnn.settings import Settings

STEP = 32  # the coarsest stride of a backbone
TRUTH = ("boxes", "labels", "valid", "masks")


def batch(
    images: Sequence[np.ndarray],
    objects: Sequence[Mapping[str, np.ndarray]],
    settings: Settings,
    shape: tuple[int, int] | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """What `MaskRCNN.fit` takes, from images with their objects.

    Args:
        images: each float32 (H, W), (H, W, 1) or (H, W, 3) in [0, 1].
        objects: of each image a dictionary of `boxes` (n, 4), xyxy pixels, `labels` (n,), 1 ... foreground_classes, and `masks`
            (n, H, W), bool; n may be 0.
        settings: of the model.
        shape: height and width to pad to at the bottom and right; None: the smallest multiples of 32 that hold all images.
            Batches of one shape are compiled once.
        names: of the images, for messages; None: their positions.

    Returns:
        `images` (N, H, W, C), `sizes` (N, 2), `boxes` (N, T, 4), `labels` int32 (N, T), `valid` bool (N, T) and `masks` bool
        (N, T, H, W), where T is `settings.largest_instances`.

    Raises:
        InputError: for an image or an object that is not as above; the message names both.
    """
    if not len(images) or len(objects) != len(images):
        raise InputError(f"A batch is of at least one image, each with its objects; here are {len(images)} and {len(objects)}.")
    names = [f"image {i}" for i in range(len(images))] if names is None else names
    pictures = []
    for image, name in zip(images, names, strict=True):
        picture = np.asarray(image)
        pictures.append(picture[..., None] if picture.ndim == 2 else picture)
        check_image(pictures[-1], name)
    channels = {picture.shape[-1] for picture in pictures}
    if len(channels) != 1:
        raise InputError(f"The images of a batch must all be grey or all be RGB; here are images of {sorted(channels)} channels.")
    tallest, widest = np.max([picture.shape[:2] for picture in pictures], axis=0)
    height, width = shape or (-(-tallest // STEP) * STEP, -(-widest // STEP) * STEP)
    check_shape((height, width), (tallest, widest))

    count, most = len(pictures), settings.largest_instances
    padded = {
        "images": np.zeros((count, height, width, *channels), "float32"),
        "sizes": np.array([picture.shape[:2] for picture in pictures], "float32"),
        "boxes": np.zeros((count, most, 4), "float32"),
        "labels": np.zeros((count, most), "int32"),
        "valid": np.zeros((count, most), bool),
        "masks": np.zeros((count, most, height, width), bool),
    }
    for i, (picture, own, name) in enumerate(zip(pictures, objects, names, strict=True)):
        h, w = picture.shape[:2]
        boxes, labels, masks = (np.asarray(own[key]) for key in ("boxes", "labels", "masks"))
        check_objects(boxes, labels, masks, (h, w), settings, name)
        padded["images"][i, :h, :w] = picture
        padded["boxes"][i, : len(boxes)], padded["labels"][i, : len(boxes)] = boxes.reshape(-1, 4), labels
        padded["valid"][i, : len(boxes)] = True
        padded["masks"][i, : len(boxes), :h, :w] = masks.reshape(-1, h, w)
    return padded


def check_shape(shape: tuple[int, int], largest: tuple[int, int]) -> None:
    """Raises InputError unless `shape`, of a batch, is of multiples of 32 and holds images up to `largest`, height and width."""
    (height, width), (tallest, widest) = shape, largest
    if height % STEP or width % STEP or height < tallest or width < widest:
        raise InputError(
            f"The shape {height} x {width} must be of multiples of {STEP} and hold all images, up to {tallest} x {widest}."
        )


def check_batch(arrays: Mapping[str, np.ndarray], settings: Settings) -> None:
    """Raises InputError unless `arrays` are as `batch` makes them; of the truth, none may be there."""
    truth, count = has_truth(arrays), len(arrays["images"])
    for key, array in arrays.items():
        if len(array) != count:
            raise InputError(f"All arrays of a batch must be of the same images; there are {count}, and {len(array)} in `{key}`.")
    for i, image in enumerate(arrays["images"]):
        check_image(image, f"image {i}")
        height, width = image.shape[:2]
        if "sizes" in arrays:
            height, width = checked_size(arrays["sizes"][i], (height, width), f"image {i}")
        if truth:
            valid = np.asarray(arrays["valid"][i], bool)
            boxes, labels, masks = (np.asarray(arrays[key][i])[valid] for key in ("boxes", "labels", "masks"))
            check_objects(boxes, labels, masks[:, :height, :width], (height, width), settings, f"image {i}")


def checked_size(size: np.ndarray, padded: tuple[int, int], name: str) -> tuple[int, int]:
    """Height and width of an image that is padded to `padded`; raises InputError unless `size` are such."""
    whole = np.isfinite(size).all() and not np.mod(size, 1).any()
    if size.shape != (2,) or not whole or (size < 1).any() or (size > padded).any():
        raise InputError(
            f"{name}: `sizes` must hold its height and width in whole pixels, from 1 x 1 to {padded[0]} x {padded[1]}; they are "
            f"{size.tolist()}."
        )
    return int(size[0]), int(size[1])


def has_truth(keys: Collection[str]) -> bool:
    """Whether a batch with these keys holds the truth; raises InputError where it holds a part of it, or no images."""
    if "images" not in keys:
        raise InputError(f"A batch must hold `images`; this one holds {', '.join(keys) or 'nothing'}. `batches.batch` makes one.")
    missing = [key for key in TRUTH if key not in keys]
    if 0 < len(missing) < len(TRUTH):
        raise InputError(
            f"The truth is incomplete: {', '.join(missing)} missing. Give {', '.join(TRUTH)}, or none of them to predict."
        )
    return not missing


def check_objects(
    boxes: np.ndarray, labels: np.ndarray, masks: np.ndarray, size: tuple[int, int], settings: Settings, name: str
) -> None:
    """Raises InputError unless the objects of one image are as `batch` wants them."""
    height, width = size
    count, most = len(boxes), settings.largest_instances
    if boxes.size != 4 * count or len(labels) != count or len(masks) != count:
        raise InputError(
            f"{name}: boxes must be (n, 4), labels (n,) and masks (n, H, W); here {boxes.shape}, {labels.shape}, {masks.shape}."
        )
    if count == 0:
        return
    if count > most:
        raise InputError(f"{name}: {count} objects, but room for {most}. Raise largest_instances of the settings.")
    if masks.shape[1:] != size:
        raise InputError(f"{name}: the masks are {masks.shape[1]} x {masks.shape[2]}, the image is {height} x {width}.")
    if masks.dtype != bool and not np.isin(masks, (0, 1)).all():
        raise InputError(f"{name}: masks must be bool, or 0 and 1; these go up to {masks.max()}.")
    for i, (box, label, mask) in enumerate(zip(boxes, labels, masks, strict=True)):
        where = f"{name}, box {i} ({', '.join(f'{x:g}' for x in box)})"
        x1, y1, x2, y2 = box
        if not np.isfinite(box).all():
            raise InputError(f"{where}: coordinates must be finite.")
        if x2 <= x1 or y2 <= y1:
            raise InputError(f"{where}: it is empty. Boxes are x1, y1, x2, y2 with x1 < x2 and y1 < y2.")
        if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
            raise InputError(f"{where}: it leaves the image, which is {height} high and {width} wide.")
        if label % 1 != 0 or not 1 <= label <= settings.foreground_classes:
            raise InputError(f"{where}: its label is {label}; labels go from 1 to {settings.foreground_classes}.")
        if not mask.any():
            raise InputError(f"{where}: its mask is empty.")
        if not mask[int(y1) : math.ceil(y2), int(x1) : math.ceil(x2)].any():
            raise InputError(f"{where}: its mask has no pixel in it. Boxes are x1, y1, x2, y2, x to the right and y down.")


def boxes_of_masks(masks: np.ndarray) -> np.ndarray:
    """The smallest boxes around masks, bool (n, H, W): float32 (n, 4), x2 and y2 the far edges of the last pixels."""
    boxes = np.zeros((len(masks), 4), "float32")
    for i, mask in enumerate(masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            raise InputError(f"Mask {i} of {len(masks)} is empty: it has no box.")
        boxes[i] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes
