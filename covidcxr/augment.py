"""Augmentation: random changes of an image together with its masks, one recipe per paper, made of albumentations' transforms.

A recipe has two parts: a frozen dataclass with every value of the recipe, which notebooks read and change, and a
function of the same name in small letters that makes the transforms from it. `draw` runs any of them, and `apply` does so for
objects with labels:

    image, masks = augment.draw(augment.tang2020(320), image, masks, seed=1)
    image, masks, labels = augment.apply(augment.ramesh2021(), image, masks, labels, seed=1)

Marks: [paper] is printed in the paper, [ours] is not, and says where it comes from; `Tang2020` has two more.
"""

import copy
import os
import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from covidcxr.errors import InputError

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import below asks the network for a newer version
import albumentations as A  # noqa: E402
import cv2  # noqa: E402

MIDDLE = 128 / 255  # the grey about which contrast is changed
SMALLEST = 4  # pixels
_PLANE = 8  # masks in one array of bytes


@dataclass(frozen=True)
class Ramesh2021:
    """Values of ramesh2021, section 2.3.1. Ranges are drawn from uniformly, anew for each image."""

    flip_probability: float = 0.5  # [paper]
    crop_range: tuple[float, float] = (0, 10)  # [paper] % of height or width, for each side on its own [ours]
    crop_probability: float = 1.0  # [paper]
    blur_sigma_range: tuple[float, float] = (0, 0.5)  # [paper] pixels
    blur_probability: float = 0.5  # [paper]
    contrast_range: tuple[float, float] = (0.75, 1.5)  # [ours] the paper says "contrast normalization" alone
    channel_range: tuple[float, float] = (0.8, 1.2)  # [paper]
    channel_probability: float = 0.2  # [paper]
    affine_probability: float = 1.0  # [paper]
    scale_range: tuple[float, float] = (0.8, 1.2)  # [paper] for each axis on its own
    rotation_degrees: tuple[float, float] = (-10, 10)  # [paper]
    shear_degrees: tuple[float, float] = (-2, 2)  # [paper] for each axis on its own


def ramesh2021(values: Ramesh2021 = Ramesh2021()) -> A.Compose:
    """The recipe of ramesh2021, section 2.3.1, in the order in which it is printed.

    The list is that of imgaug's documentation, "A simple and common augmentation sequence", with other numbers. From there come
    [ours]: a crop is `iaa.Crop(percent=...)`, whose four sides are drawn apart and which resizes back, and contrast is
    `iaa.ContrastNormalization((0.75, 1.5))`, always: (pixel - 128) · alpha + 128, cut to 0 ... 255. Additive noise, translation
    and random order are not taken from there, as the paper prints none of them.

    Multiplication per channel happens with probability 0.2, the words of the paper; `iaa.Multiply((0.8, 1.2), per_channel=0.2)`,
    which they may describe, would always multiply, and with one factor per channel in 20 % of all cases. A grey image has one
    channel, so that one factor remains of it; the paper's network saw grey images as three equal channels, which this tinted.

    Bilinear for images, nearest for masks. What comes in from outside is 0 (imgaug's default).
    """
    v = values
    return A.Compose([
        A.HorizontalFlip(p=v.flip_probability),
        A.CropAndPad(
            percent=(-v.crop_range[1] / 100, -v.crop_range[0] / 100),  # negative: cut
            sample_independently=True,
            keep_size=True,
            mask_interpolation=cv2.INTER_NEAREST_EXACT,  # INTER_NEAREST is off by up to half a pixel
            p=v.crop_probability,
        ),
        A.GaussianBlur(blur_limit=0, sigma_limit=v.blur_sigma_range, p=v.blur_probability),
        LinearContrast(v.contrast_range),
        A.MultiplicativeNoise(v.channel_range, per_channel=True, elementwise=False, p=v.channel_probability),
        A.Affine(
            scale={"x": v.scale_range, "y": v.scale_range},
            rotate=v.rotation_degrees,
            shear={"x": v.shear_degrees, "y": v.shear_degrees},
            border_mode=cv2.BORDER_CONSTANT,
            fill=0,
            fill_mask=0,
            p=v.affine_probability,
        ),
    ])


@dataclass(frozen=True)
class Tang2020:
    """Values of tang2020, section 2.4, which prints none: it lists transforms in the words of an example of segmentation_models.

    So the values are those of that example, "binary segmentation (camvid)" of release 1.0 [example]; where it leaves one to the
    library, the default that albumentations had when the paper was written, in 2020 [library]. Ranges are drawn from uniformly.
    """

    flip_probability: float = 0.5  # [example]
    affine_probability: float = 1.0  # [example]
    scale_range: tuple[float, float] = (0.5, 1.5)  # [example] both axes alike
    shift_range: tuple[float, float] = (-0.1, 0.1)  # [example] share of each side; it does not rotate
    enlarged: float = 1.1  # [ours] side before the random crop over side after it; see `tang2020`
    noise_probability: float = 0.2  # [example]
    noise_deviation_range: tuple[float, float] = (0.01, 0.05)  # [library] share of the range of grey
    perspective_probability: float = 0.5  # [example]
    perspective_range: tuple[float, float] = (0.05, 0.1)  # [library] deviation of a corner, share of the sides
    light_probability: float = 0.9  # [example] of one of these three, each as often as the others
    equalisation_clip: float = 4.0  # [library] limit of CLAHE, drawn from 1 on, in 8 x 8 tiles
    brightness_range: tuple[float, float] = (-0.2, 0.2)  # [library] share of the range of grey, added
    gamma_range: tuple[float, float] = (0.8, 1.2)  # [library]
    sharpness_probability: float = 0.9  # [example] of one of these three
    sharpening_range: tuple[float, float] = (0.2, 0.5)  # [library] share of the sharpened image in the result
    sharpening_lightness: tuple[float, float] = (0.5, 1.0)  # [library] 1 keeps the brightness of what is sharpened
    blur_size: int = 3  # [example] pixels, of the mean over a square
    motion_size: int = 3  # [example] pixels, of the mean along a line
    colour_probability: float = 0.9  # [example] of one of these two
    contrast_range: tuple[float, float] = (-0.2, 0.2)  # [library] share of the grey value, added
    hue_range: tuple[float, float] = (-20, 20)  # [library] of 180; an image of one channel has no hue and no saturation
    saturation_range: tuple[float, float] = (-30, 30)  # [library] of 255
    value_range: tuple[float, float] = (-20, 20)  # [library] of 255


def tang2020(size: int = 320, values: Tang2020 = Tang2020()) -> A.Compose:
    """The recipe of tang2020, section 2.4, for images of any size: `size` x `size` comes out, 320 in the paper.

    Order and choices are the example's. It takes its "random crops" of 320 x 320 from images of 320 x 480; on images that were
    "resized to 320 by 320 pixels", as the paper has it, they would do nothing. So here images are first resized to `enlarged`
    times `size` [ours]. Its brightness, noise, perspective, sharpening, shift and contrast have other names in albumentations
    today, and the same formulas; a motion blur may now lie in any direction.

    Bilinear for images, means where they shrink; nearest for masks. What comes in from outside is 0 [example].
    """
    v, before = values, round(size * values.enlarged)
    return A.Compose([
        A.HorizontalFlip(p=v.flip_probability),
        A.Resize(before, before, mask_interpolation=cv2.INTER_NEAREST_EXACT, area_for_downscale="image"),
        A.Affine(
            scale=v.scale_range,
            keep_ratio=True,
            translate_percent={"x": v.shift_range, "y": v.shift_range},
            border_mode=cv2.BORDER_CONSTANT,
            fill=0,
            fill_mask=0,
            p=v.affine_probability,
        ),
        A.RandomCrop(size, size),
        A.GaussNoise(v.noise_deviation_range, per_channel=False, p=v.noise_probability),
        A.Perspective(v.perspective_range, p=v.perspective_probability),
        A.OneOf([
            A.CLAHE((1, v.equalisation_clip), p=1),
            A.RandomBrightnessContrast(v.brightness_range, (0, 0), p=1),
            A.RandomGamma(_percent(v.gamma_range), p=1),
        ], p=v.light_probability),
        A.OneOf([
            A.Sharpen(v.sharpening_range, v.sharpening_lightness, p=1),
            A.Blur((v.blur_size, v.blur_size), p=1),
            A.MotionBlur((v.motion_size, v.motion_size), p=1),
        ], p=v.sharpness_probability),
        A.OneOf([
            A.RandomBrightnessContrast((0, 0), v.contrast_range, p=1),
            Colour(v.hue_range, v.saturation_range, v.value_range, p=1),
        ], p=v.colour_probability),
    ])


def _percent(shares: tuple[float, float]) -> tuple[float, float]:
    return 100 * shares[0], 100 * shares[1]


class Colour(A.HueSaturationValue):
    """Hue, saturation and value, in 8 bits; of a grey image of one channel the value alone, without albumentations' warning."""

    def apply(self, img: np.ndarray, hue_shift: float, sat_shift: float, val_shift: float, **params: Any) -> np.ndarray:
        """The image with its hue, saturation and value shifted, in albumentations' units."""
        if img.ndim == 2 or img.shape[-1] == 1:
            hue_shift = sat_shift = 0
        return super().apply(img, hue_shift, sat_shift, val_shift, **params)


class LinearContrast(A.ImageOnlyTransform):
    """Contrast about the middle grey: (image - MIDDLE) · alpha + MIDDLE, cut to [0, 1]; imgaug's `ContrastNormalization`.

    Args:
        alpha: range; 1 changes nothing.
        p: probability.
    """

    def __init__(self, alpha: tuple[float, float], p: float = 1.0):
        super().__init__(p=p)
        self.alpha = alpha

    def get_params(self) -> dict[str, Any]:
        """A factor drawn from the range."""
        return {"alpha": self.py_random.uniform(*self.alpha)}

    def apply(self, img: np.ndarray, alpha: float, **params: Any) -> np.ndarray:
        """The image, float32 in [0, 1], with its contrast changed by the factor `alpha`."""
        return np.clip((img - np.float32(MIDDLE)) * np.float32(alpha) + np.float32(MIDDLE), 0, 1)


def draw(recipe: A.Compose, image: np.ndarray, masks: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its masks after one draw of a recipe.

    The same seed gives the same result, in whatever thread and order; the recipe itself is not changed, and no other random
    state is read or set.

    Args:
        recipe: of this module, or any `albumentations.Compose`.
        image: float32 (H, W) or (H, W, C) in [0, 1].
        masks: bool (n, H, W), n may be 0; they may overlap.
        seed: not negative.

    Returns:
        image (in [0, 1]) and all masks, in their order, both of the size that the recipe gives.

    Raises:
        InputError: for arrays that are not as above.
    """
    image, masks = np.asarray(image), np.asarray(masks)
    _check(image, masks)
    recipe = copy.deepcopy(recipe)  # transforms keep their random state and last draw in themselves, which threads must not share
    # Not set_random_seed(seed): that gives each transform a generator of its own from one seed, so that all draw the same
    # numbers, and an image would be blurred exactly if it was flipped.
    recipe.set_random_state(np.random.default_rng(seed), random.Random(seed))
    if not len(masks):
        changed = recipe(image=image)["image"]
        return changed, np.zeros((0, *changed.shape[:2]), bool)
    both = recipe(image=image, masks=_pack(masks))
    return both["image"], _unpack(both["masks"], len(masks))


def apply(
    recipe: A.Compose, image: np.ndarray, masks: np.ndarray, labels: np.ndarray, seed: int, smallest: int = SMALLEST
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`draw` for objects with labels: what is left of some may be too small to be one.

    Args:
        recipe, image, masks, seed: as for `draw`.
        labels: (n,).
        smallest: masks that keep fewer pixels are dropped with their labels; [ours], matterport's program drops empty ones.
            0 keeps all.

    Returns:
        image (in [0, 1]), masks and labels as they came, but n may be smaller. Boxes: `maskrcnn.batches.boxes_of_masks`.

    Raises:
        InputError: for arrays that are not as above.
    """
    labels = np.asarray(labels)
    if labels.shape != np.shape(masks)[:1]:
        raise InputError(f"Each mask has a label; here are masks {np.shape(masks)} and labels {labels.shape}.")
    changed, moved = draw(recipe, image, masks, seed)
    kept = np.count_nonzero(moved, axis=(1, 2)) >= smallest
    return changed, moved if kept.all() else moved[kept], labels[kept]


def _check(image: np.ndarray, masks: np.ndarray) -> None:
    if image.dtype != np.float32 or image.ndim not in (2, 3) or 0 in image.shape:
        raise InputError(f"An image is float32 (H, W) or (H, W, C); this one is {image.dtype} {image.shape}.")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):  # also NaN
        raise InputError(f"An image is in [0, 1]; this one goes from {low:g} to {high:g}.")
    if masks.dtype != bool or masks.ndim != 3 or masks.shape[1:] != image.shape[:2]:
        raise InputError(
            f"Masks are bool (n, {image.shape[0]}, {image.shape[1]}), as the image; these are {masks.dtype} {masks.shape}."
        )


def _pack(masks: np.ndarray) -> np.ndarray:
    """Eight masks in the bits of a byte, uint8 (planes, H, W): nearest interpolation copies bytes, so it moves eight at once."""
    planes = np.zeros((-(-len(masks) // _PLANE), *masks.shape[1:]), np.uint8)
    for i, mask in enumerate(masks.view(np.uint8)):
        planes[i // _PLANE] |= mask << np.uint8(i % _PLANE)
    return planes


def _unpack(planes: np.ndarray, count: int) -> np.ndarray:
    """The inverse of `_pack`."""
    masks = np.empty((count, *planes.shape[1:]), bool)
    for i in range(count):
        np.not_equal(planes[i // _PLANE] & np.uint8(1 << i % _PLANE), 0, out=masks[i])
    return masks
