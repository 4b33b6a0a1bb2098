"""What else than disease may tell two classes of radiographs apart: parts of the picture, letters, plain statistics, neighbours.

    pictures = squares.read(v7, cases.case, 256)
    letters = np.stack([marks(one, mask) for one, mask in zip(pictures.images.bytes, pictures.masks)])
    without = painted_over(pictures.images, letters)             # what a network is to learn from instead
    lungs_alone = kept(pictures.images, pictures.masks)
    fold = folds(cases, 5, seed=0).fold                          # patients stay together
    score = ranks_within(out_of_fold(statistics(pictures.images, sizes), covid, fold), fold)
    print(roc.bootstrap_auc(covid, score, patients, seed=0))

Everything works on squares as `squares.read` gives them: bytes, all of one size, and masks of that size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from covidcxr.errors import InputError, ParameterError
from covidcxr.squares import Greys

if TYPE_CHECKING:
    from pandas import DataFrame

FILL = 64
"""Grey value, of 255, of what is taken away: dark, but an image of which nothing is left is still one that can be fed."""

MARK_CONTRAST = 60
"""Least grey values, of 255, by which a mark is brighter than what surrounds it, and its edge steeper than that."""

_HULL_MARGIN = 0.02  # of the side
_STROKE = 1 / 16  # widest stroke of a letter, as a share of the side
_LARGEST = 1 / 4  # longest side of a mark, as a share of the side: words, not borders
_SMALLEST = 6 / 256**2  # least area of a mark, as a share of the image
_LONGEST = (12.0, 4.0)  # width to height, and height to width: what is longer is the edge of a body or of a border
_BINS = 16


# ---- parts of a picture ---------------------------------------------------------------------------------------------------


def hull(mask: np.ndarray, margin: float = _HULL_MARGIN) -> np.ndarray:
    """Convex hull of a mask and a rim around it, bool (H, W): the chest, if the mask is of lungs. Empty for an empty mask.

    Args:
        mask: bool (H, W).
        margin: width of the rim, as a share of the height.
    """
    import cv2

    _check_mask(mask)
    rows, columns = np.nonzero(mask)
    inside = np.zeros(mask.shape, np.uint8)
    if not rows.size:
        return inside.astype(bool)
    cv2.fillConvexPoly(inside, cv2.convexHull(np.stack([columns, rows], axis=1).astype(np.int32)), 1)
    radius = round(margin * mask.shape[0])
    return cv2.dilate(inside, _disk(radius)).astype(bool)


def ring(size: int, share: float) -> np.ndarray:
    """The border of a square, bool (S, S): pixels nearer to its edge than `share` of the side."""
    if not 0 < share < 0.5:
        raise ParameterError(f"share lies between 0 and one half of the side; found {share!r}.")
    width = round(share * size)
    border = np.ones((size, size), bool)
    border[width : size - width, width : size - width] = False
    return border


def kept(images: Greys, where: np.ndarray) -> Greys:
    """Images of which only a part is left; the rest becomes `FILL`.

    Args:
        images: N squares.
        where: bool (N, S, S), or (S, S) for all alike.
    """
    if where.dtype != bool or where.shape not in (images.bytes.shape, images.bytes.shape[1:]):
        raise InputError(
            f"The part that is kept must be bool, of the images' {images.bytes.shape}; it is {where.dtype} {where.shape}."
        )
    return Greys(np.where(where, images.bytes, np.uint8(FILL)))


def drawn(masks: np.ndarray) -> Greys:
    """Masks (N, S, S) as images of two grey values: all that shape and place can tell, and no pixel of the radiograph."""
    return kept(Greys(np.full(masks.shape, 255, np.uint8)), masks)


# ---- letters --------------------------------------------------------------------------------------------------------------


def marks(image: np.ndarray, lungs: np.ndarray) -> np.ndarray:
    """Letters, words, side markers: small things, brighter than what surrounds them, with sharp edges, outside of the chest.

    Nothing is read and nothing needs annotations. A white top-hat finds what is narrower than a stroke of a letter; what has no
    sharp edge is left out, and so are parts that lie mostly within the hull of the lungs or are long and thin. Dark letters, and
    bright ones on a bright ground, are missed; ends of collarbones, tubes and electrodes outside of the chest are found as well.

    Args:
        image: uint8 (S, S). Letters must be readable: a side of 256 or so.
        lungs: bool (S, S); where it is empty the whole image is searched.

    Returns:
        bool (S, S).
    """
    import cv2

    _check_mask(lungs)
    if image.dtype != np.uint8 or image.shape != lungs.shape:
        raise InputError(f"An image is uint8, of its mask's {lungs.shape}; this one is {image.dtype} {image.shape}.")
    side = image.shape[0]
    image = np.ascontiguousarray(image)
    bright = cv2.morphologyEx(image, cv2.MORPH_TOPHAT, _disk(round(side * _STROKE / 2))) > MARK_CONTRAST
    sharp = cv2.morphologyEx(image, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > MARK_CONTRAST
    joined = cv2.morphologyEx((bright & sharp).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    count, numbered, boxes, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    width, height, area = (boxes[:, column].astype(float) for column in (cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_AREA))
    in_chest = np.bincount(numbered[hull(lungs)], minlength=count) > area / 2
    chosen = (
        (area >= _SMALLEST * side**2) & (np.maximum(width, height) <= _LARGEST * side) & ~in_chest
        & (width <= _LONGEST[0] * height) & (height <= _LONGEST[1] * width)
    )  # fmt: skip
    chosen[0] = False  # the ground
    # The inside of a broad stroke is bright, but not sharp.
    grown = cv2.dilate(chosen[numbered].astype(np.uint8), _disk(round(side * _STROKE / 2)))
    return chosen[numbered] | (grown.astype(bool) & bright)


def painted_over(images: Greys, where: np.ndarray) -> Greys:
    """Images in which a part is replaced by what surrounds it, smoothly: no hole is left, only a patch without grain.

    Args:
        images: N squares. where: bool (N, S, S), such as `marks`; a rim of a hundredth of the side is painted over with it.
    """
    import cv2

    if where.dtype != bool or where.shape != images.bytes.shape:
        raise InputError(f"What is painted over must be bool {images.bytes.shape}; it is {where.dtype} {where.shape}.")
    rim = _disk(max(1, round(0.01 * where.shape[1])))
    done = images.bytes.copy()
    for i in np.flatnonzero(where.any(axis=(1, 2))):
        hole = cv2.dilate(where[i].astype(np.uint8), rim)
        done[i] = cv2.inpaint(done[i], hole, 3, cv2.INPAINT_TELEA)
    return Greys(done)


def resized(images: Greys, size: int) -> Greys:
    """Squares at another size, by area means where they shrink, as `squares.read` does."""
    from covidcxr.resizing import resize

    made = [np.round(resize(image, (size, size)).clip(0, 1) * 255).astype(np.uint8) for image in images]
    return Greys(np.stack(made))


def shrunk(masks: np.ndarray, size: int, share: float = 0.5) -> np.ndarray:
    """Masks (N, S, S) at another size, bool (N, size, size): a pixel belongs where more than `share` of its area does. A tenth
    keeps thin letters."""
    from covidcxr.resizing import resize

    return np.stack([resize(mask.astype(np.float32), (size, size)) > share for mask in masks])


# ---- predictors that see no picture ---------------------------------------------------------------------------------------


def statistics(images: Greys, sizes: np.ndarray) -> DataFrame:
    """Plain numbers of each image.

    Args:
        images: N squares.
        sizes: (N, 2) height and width in pixels as stored.

    Returns:
        `log_height`, `log_width`, `aspect` (log of width over height), `mean`, `spread` (standard deviation) of the grey values,
        in [0, 1], and `grey_0` … `grey_15`, the share of pixels in each sixteenth of the range.
    """
    import pandas as pd

    sizes = np.asarray(sizes, float)
    if sizes.shape != (len(images), 2) or not (sizes > 0).all():
        raise InputError(f"Sizes are height and width of each of {len(images)} images; they are an array of {sizes.shape}.")
    log = np.log(sizes)
    flat = images.bytes.reshape(len(images), -1)
    histogram = np.stack([np.bincount(one >> 4, minlength=_BINS) for one in flat]) / flat.shape[1]
    table = pd.DataFrame(
        {
            "log_height": log[:, 0],
            "log_width": log[:, 1],
            "aspect": log[:, 1] - log[:, 0],
            "mean": flat.mean(axis=1) / 255,
            "spread": flat.std(axis=1) / 255,
        }
    )
    return table.join(pd.DataFrame(histogram, columns=[f"grey_{number}" for number in range(_BINS)]))


def out_of_fold(features: DataFrame | np.ndarray, positive: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Probability of the class for each case by a logistic regression of standardised features (scikit-learn's, C = 1) that has
    learned from the other folds: (N,).

    Raises:
        InputError: the cases outside of a fold are of one class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    values, positive, fold = np.asarray(features, float), np.asarray(positive, bool), np.asarray(fold)
    found = np.empty(len(positive))
    for number in np.unique(fold):
        tested = fold == number
        if positive[~tested].all() or not positive[~tested].any():
            raise InputError(
                f"Outside of fold {number} all {np.count_nonzero(~tested)} cases are of one class: nothing is learned."
            )
        line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(values[~tested], positive[~tested])
        found[tested] = line.predict_proba(values[tested])[:, 1]
    return found


# ---- folds ----------------------------------------------------------------------------------------------------------------


def folds(cases: DataFrame, count: int, *, seed: int, grouped: bool = True) -> DataFrame:
    """Cases dealt into folds, each of which is once tested by what was learned from the others.

    Args:
        cases: the data set's table: case, patient, covid.
        count: of folds, at least 2.
        grouped: all cases of a patient in one fold; False: dealt one by one. The share of COVID-19 is nearly the same in all.

    Returns:
        case, patient, fold (from 0), in the order of `cases`.

    Raises:
        InputError: one class only, or a class has fewer patients (cases, if not grouped) than there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if count < 2:
        raise ParameterError(f"There are at least 2 folds; found {count!r}.")
    if cases.covid.isna().any():
        raise InputError(f"Of {cases.covid.isna().sum()} cases it is not known whether they show COVID-19. Leave them out.")
    covid, unit = cases.covid.to_numpy(bool), (cases.patient if grouped else cases.case).to_numpy(str)
    fewest = min(np.unique(unit[covid == kind]).size for kind in (True, False))
    if fewest < count:
        what = "patients" if grouped else "cases"
        raise InputError(f"{count} folds need {count} {what} of each class; the rarer class has {fewest}.")
    if grouped:
        dealt = StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(covid, covid, unit)
    else:
        dealt = StratifiedKFold(count, shuffle=True, random_state=seed).split(covid, covid)
    table = cases[["case", "patient"]].reset_index(drop=True).assign(fold=-1)
    for number, (_, tested) in enumerate(dealt):
        table.loc[tested, "fold"] = number
    return table


def ranks_within(scores: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Scores as their ranks within each fold, in (0, 1); ties share one: (N,).

    What was learned in one fold may score all cases higher than what was learned in another; by ranks, cases are compared within
    their fold, and an AUC over all folds is nearly the mean of the folds' own.
    """
    from scipy.stats import rankdata

    scores, fold = np.asarray(scores, float), np.asarray(fold)
    found = np.empty(len(scores))
    for number in np.unique(fold):
        inside = fold == number
        found[inside] = (rankdata(scores[inside]) - 0.5) / np.count_nonzero(inside)
    return found


# ---- neighbours -----------------------------------------------------------------------------------------------------------


def most_alike(thumbnails: np.ndarray, known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """For each asked case the known one that looks most like it, by correlation: int (len(asked),), positions among all cases.

    Args:
        thumbnails: (N, P) of zero mean and unit length, as of `near_duplicates.fingerprint`.
        known, asked: int arrays of positions.
    """
    if not len(known):
        raise InputError("No case is known that others could be compared with.")
    return np.asarray(known)[(thumbnails[asked] @ thumbnails[known].T).argmax(axis=1)]


def _disk(radius: int) -> np.ndarray:
    import cv2

    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def _check_mask(mask: np.ndarray) -> None:
    if mask.dtype != bool or mask.ndim != 2:
        raise InputError(f"A mask is bool (H, W); this one is {mask.dtype} {mask.shape}.")
