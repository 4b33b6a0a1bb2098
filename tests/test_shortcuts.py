"""Parts of pictures in closed form, letters that are planted and found, predictors that find what is there and nothing else."""

import numpy as np
import pandas as pd
import pytest

from covidcxr import roc, shortcuts, squares
from covidcxr.errors import InputError, ParameterError
from covidcxr.squares import Greys


def table(groups: list[tuple[bool, int]]) -> pd.DataFrame:
    """Cases of patients, each (whether COVID-19, number of images)."""
    rows = [(f"p{number}", covid) for number, (covid, images) in enumerate(groups) for _ in range(images)]
    return pd.DataFrame(rows, columns=["patient", "covid"]).assign(case=[f"c{i:03d}" for i in range(len(rows))])


# ---- parts ----------------------------------------------------------------------------------------------------------------


def test_the_hull_of_two_lungs_is_what_lies_between_them_too():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 10:20] = mask[10:30, 40:50] = True
    expected = np.zeros((40, 60), bool)
    expected[10:30, 10:50] = True
    np.testing.assert_array_equal(shortcuts.hull(mask, 0), expected)
    wider = shortcuts.hull(mask, 0.1)  # a disk of 4 pixels around it
    assert wider[6, 30] and wider[30, 6:54].all() and not wider[5].any() and not wider[6, 6]
    assert not shortcuts.hull(np.zeros((5, 5), bool)).any()
    with pytest.raises(InputError, match="bool"):
        shortcuts.hull(mask.astype(float))


def test_a_ring_and_its_inside_are_the_square():
    ring = shortcuts.ring(20, 0.1)
    assert ring.sum() == 20**2 - 16**2
    assert not ring[2:18, 2:18].any()
    for share in (0, 0.5, -1):
        with pytest.raises(ParameterError):
            shortcuts.ring(20, share)


def test_what_is_kept_is_kept_and_the_rest_says_nothing():
    images = Greys(np.random.default_rng(0).integers(0, 256, (3, 8, 8)).astype(np.uint8))
    where = np.random.default_rng(1).random((3, 8, 8)) < 0.5
    part = shortcuts.kept(images, where)
    np.testing.assert_array_equal(part.bytes[where], images.bytes[where])
    assert (part.bytes[~where] == shortcuts.FILL).all()
    assert (shortcuts.kept(images, where[0]).bytes[2][~where[0]] == shortcuts.FILL).all()
    assert shortcuts.kept(images, np.zeros((8, 8), bool))[0].max() > 0  # can be fed to a network
    np.testing.assert_array_equal(shortcuts.drawn(where).bytes == 255, where)
    for wrong in (where.astype(float), where[:2], where[:, :4]):
        with pytest.raises(InputError, match="must be bool"):
            shortcuts.kept(images, wrong)


# ---- letters --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def chest() -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture, uint8, and its lungs: dark ellipses."""
    y, x = np.mgrid[:256, :256] / 256
    lungs = np.zeros((256, 256), bool)
    for centre in (0.33, 0.67):
        lungs |= ((y - 0.5) / 0.3) ** 2 + ((x - centre) / 0.13) ** 2 < 1
    grey = 100 + 40 * np.sin(2 * y) - 60 * lungs + 4 * np.random.default_rng(0).standard_normal((256, 256))
    return grey.clip(0, 255).astype(np.uint8), lungs


def letter(image: np.ndarray, top: int, left: int, stroke: int = 4) -> np.ndarray:
    """An L, four strokes high, burnt into an image; where it is."""
    where = np.zeros(image.shape, bool)
    where[top : top + 4 * stroke, left : left + stroke] = True
    where[top + 3 * stroke : top + 4 * stroke, left : left + 3 * stroke] = True
    image[where] = 250
    return where


@pytest.mark.parametrize("stroke", [3, 6, 10])
def test_a_letter_is_found_and_painted_over(chest, stroke):
    image, lungs = chest
    assert not shortcuts.marks(image, lungs).any()
    marked = image.copy()
    where = letter(marked, 6, 10, stroke)
    found = shortcuts.marks(marked, lungs)
    assert found[where].mean() > 0.9 and not found[55:].any()
    clean = shortcuts.painted_over(Greys(marked[None]), found[None])
    assert np.abs(clean.bytes[0].astype(int) - image).max() < 30
    outside = np.ones((256, 256), bool)
    outside[:60, :60] = False
    np.testing.assert_array_equal(clean.bytes[0][outside], image[outside])


def test_marks_in_the_chest_and_long_edges_are_left_alone(chest):
    image, lungs = chest
    marked = image.copy()
    letter(marked, 120, 80)  # in a lung
    marked[60:200, 4:6] = 250  # a line along the edge
    marked[0:2] = 250  # a border
    assert not shortcuts.marks(marked, lungs).any()
    nowhere = np.zeros_like(lungs)
    assert shortcuts.marks(marked, nowhere)[120:136, 80:84].all()  # without lungs, everywhere is searched


def test_letters_of_the_phantom_are_found_where_they_are_planted_only(phantom_smoke):
    from covidcxr import datasets

    v7 = datasets.open("v7_cxr", phantom_smoke)
    cases = v7.cases()
    cases = cases[cases.excluded.isna()]
    pictures = squares.read(v7, cases.case, 256)
    truth = pd.read_csv(phantom_smoke / "images.csv", dtype=str, keep_default_na=False)
    truth = truth[truth.dataset == "v7_cxr"].set_index("file").letters["v7_cxr/" + cases.image] != ""
    found = [shortcuts.marks(*pair)[:24].any() for pair in zip(pictures.images.bytes, pictures.masks, strict=True)]
    assert truth.any() and not truth.all()
    assert np.mean(np.array(found) == truth.to_numpy()) > 0.9


def test_shrunk_masks_keep_thin_letters():
    masks = np.zeros((2, 64, 64), bool)
    masks[0, :, 10] = True
    small = shortcuts.shrunk(masks, 16, 0.1)
    assert small.shape == (2, 16, 16) and small[0].any(axis=1).all() and not small[1].any()
    assert not shortcuts.shrunk(masks, 16).any()


def test_resized_squares_keep_their_means():
    images = Greys(np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8))
    small = shortcuts.resized(images, 8)
    assert small.bytes.shape == (3, 8, 8)
    np.testing.assert_allclose(small.bytes, images.bytes.reshape(3, 8, 4, 8, 4).mean(axis=(2, 4)), atol=0.51)


@pytest.mark.parametrize(
    "image, lungs", [(np.zeros((8, 8)), np.zeros((8, 8), bool)), (np.zeros((8, 8), np.uint8), np.zeros((9, 9), bool))]
)
def test_an_image_without_its_mask_is_refused(image, lungs):
    with pytest.raises(InputError, match="uint8"):
        shortcuts.marks(image, lungs)


# ---- predictors -----------------------------------------------------------------------------------------------------------


def test_statistics_are_what_they_say():
    images = Greys(
        np.stack([np.zeros((4, 4)), np.full((4, 4), 255), np.repeat([[0, 255]], 8, axis=0).reshape(4, 4)]).astype(np.uint8)
    )
    found = shortcuts.statistics(images, np.array([[100, 100], [50, 100], [80, 40]]))
    np.testing.assert_allclose(found["mean"], [0, 1, 0.5])
    np.testing.assert_allclose(found.spread, [0, 0, 0.5])
    np.testing.assert_allclose(found.aspect, np.log([1, 2, 0.5]))
    np.testing.assert_allclose(found.grey_0, [1, 0, 0.5])
    np.testing.assert_allclose(found.filter(like="grey_").sum(axis=1), 1)
    with pytest.raises(InputError, match="height and width"):
        shortcuts.statistics(images, np.ones((2, 2)))


def test_statistics_find_a_planted_difference_and_nothing_else():
    random = np.random.default_rng(3)
    cases = table([(bool(i % 2), 1 + i % 3) for i in range(80)])
    covid, patients = cases.covid.to_numpy(bool), cases.patient
    fold = shortcuts.folds(cases, 4, seed=0).fold
    grey = random.integers(60, 180, (len(cases), 16, 16))
    sizes = random.integers(300, 500, (len(cases), 2))
    planted = shortcuts.statistics(Greys((grey + 10 * covid[:, None, None]).astype(np.uint8)), sizes)
    bare = shortcuts.statistics(Greys(grey.astype(np.uint8)), sizes)

    def area(features):
        return roc.bootstrap_auc(
            covid, shortcuts.ranks_within(shortcuts.out_of_fold(features, covid, fold), fold), patients, seed=0
        )

    assert area(planted).low > 0.9
    assert area(bare).low < 0.5 < area(bare).high


def test_one_class_is_refused():
    one = table([(True, 1)] * 6)
    with pytest.raises(InputError, match="rarer class has 0"):
        shortcuts.folds(one, 2, seed=0)
    covid = np.array([True, True, False, False])
    with pytest.raises(InputError, match="one class"):
        shortcuts.out_of_fold(np.ones((4, 1)), covid, covid.astype(int))
    unknown = table([(True, 2), (False, 2)]).astype({"covid": object})
    unknown.loc[1, "covid"] = None
    with pytest.raises(InputError, match="not known"):
        shortcuts.folds(unknown, 2, seed=0)


def test_folds_keep_patients_together_and_classes_alike():
    cases = table([(i % 3 == 0, 1 + i % 4) for i in range(60)])
    dealt = shortcuts.folds(cases, 5, seed=1)
    assert dealt.case.tolist() == cases.case.tolist() and set(dealt.fold) == set(range(5))
    assert (dealt.groupby("patient").fold.nunique() == 1).all()
    share = cases.covid.groupby(dealt.fold).mean()
    assert share.max() - share.min() < 0.15
    loose = shortcuts.folds(cases, 5, seed=1, grouped=False)
    assert loose.groupby("patient").fold.nunique().max() > 1
    pd.testing.assert_frame_equal(dealt, shortcuts.folds(cases, 5, seed=1))
    assert not dealt.equals(shortcuts.folds(cases, 5, seed=2))
    with pytest.raises(ParameterError):
        shortcuts.folds(cases, 1, seed=0)
    with pytest.raises(InputError, match="21 folds need 21 patients"):
        shortcuts.folds(cases, 21, seed=0)


def test_ranks_take_away_what_folds_differ_in():
    truth = np.array([True, False] * 50)
    fold = np.arange(100) // 20
    scores = truth + 10.0 * fold  # perfect in each fold, useless over all
    assert roc.auc(truth, scores) == pytest.approx(0.6)
    ranks = shortcuts.ranks_within(scores, fold)
    assert roc.auc(truth, ranks) == 1
    assert 0 < ranks.min() and ranks.max() < 1
    assert len(set(shortcuts.ranks_within(np.zeros(100), fold))) == 1


def test_the_most_alike_is_the_copy():
    random = np.random.default_rng(0)
    thumbnails = random.standard_normal((20, 30))
    thumbnails[15] = 3 * thumbnails[4] + 0.1 * random.standard_normal(30)
    thumbnails /= np.linalg.norm(thumbnails, axis=1, keepdims=True)
    known = np.arange(10)
    assert shortcuts.most_alike(thumbnails, known, np.array([15]))[0] == 4
    with pytest.raises(InputError):
        shortcuts.most_alike(thumbnails, known[:0], known)
