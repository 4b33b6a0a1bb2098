"""Lungs found on images of any size, cleaned and told apart; and square pictures, read once."""

import json

import numpy as np
import pytest
from PIL import Image

from covidcxr import datasets, squares
from covidcxr.errors import CovidcxrError, InputError, ParameterError
from covidcxr.lungs import CARD, LungModel, _in_another_window, clean, learn_on_slices, separate


def ellipse(shape, row, column, height, width, lean=0.0) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return ((y - row) / height) ** 2 + ((x - column - lean * (y - row)) / width) ** 2 <= 1


SHAPE = (120, 150)
RIGHT, LEFT = ellipse(SHAPE, 60, 45, 45, 22), ellipse(SHAPE, 58, 105, 40, 20)


# ---- cleaning --------------------------------------------------------------------------------------------------------


def test_the_two_largest_parts_stay_and_holes_are_filled():
    mask = RIGHT | LEFT
    spoilt = mask.copy()
    spoilt[55:60, 40:50] = False
    spoilt[2:6, 2:6] = spoilt[110:118, 70:80] = True
    np.testing.assert_array_equal(clean(spoilt), mask)
    np.testing.assert_array_equal(clean(spoilt, parts=1), RIGHT)
    assert clean(spoilt, parts=3, smallest_share=0.0).sum() == mask.sum() + 80


def test_a_speck_is_no_second_lung_and_nothing_stays_nothing():
    speck = RIGHT.copy()
    speck[10:14, 130:134] = True
    np.testing.assert_array_equal(clean(speck), RIGHT)
    assert not clean(np.zeros(SHAPE, bool)).any()
    given = RIGHT.copy()
    clean(given)
    np.testing.assert_array_equal(given, RIGHT)


# ---- sides -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lean", [-0.5, 0.0, 0.5])
def test_lungs_apart_are_told_apart_whatever_they_lean(lean):
    right, left = ellipse(SHAPE, 60, 45, 40, 15, lean), ellipse(SHAPE, 60, 100, 40, 15, lean)
    assert not (right & left).any()
    found = separate(right | left)
    np.testing.assert_array_equal(found[0], right)
    np.testing.assert_array_equal(found[1], left)


def test_the_halves_are_a_partition_and_mirror_with_the_image():
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = np.zeros(SHAPE, bool)
        for column in (45, 105):
            mask |= ellipse(SHAPE, *rng.uniform((50, column - 8, 30, 18), (70, column + 8, 50, 30)))
        right, left = separate(mask)
        assert not (right & left).any() and np.array_equal(right | left, mask)
        assert right.any() and left.any() and np.nonzero(right)[1].mean() < np.nonzero(left)[1].mean()
        mirrored_left = separate(mask[:, ::-1])[0][:, ::-1]
        assert np.count_nonzero(mirrored_left & left) > 0.97 * np.count_nonzero(mirrored_left | left)


def test_touching_lungs_are_cut_where_they_touch():
    bridge = np.zeros(SHAPE, bool)
    bridge[50:62, 60:95] = True
    mask = RIGHT | LEFT | bridge
    right, left = separate(mask)
    assert np.array_equal(right & RIGHT, RIGHT) and np.array_equal(left & LEFT, LEFT)
    assert np.array_equal(right | left, mask)


def test_a_lung_in_two_pieces_stays_on_its_side():
    torn = RIGHT.copy()
    torn[58:64] = False
    right, left = separate(torn | LEFT)
    np.testing.assert_array_equal(right, torn)
    np.testing.assert_array_equal(left, LEFT)


@pytest.mark.parametrize("lung, side", [(RIGHT, 0), (LEFT, 1)])
def test_one_lung_alone_is_named_by_the_half_of_the_image_and_not_cut(lung, side):
    found = separate(lung)
    np.testing.assert_array_equal(found[side], lung)
    assert not found[1 - side].any()


@pytest.mark.parametrize("mask", [np.zeros((5, 7), bool), np.eye(1, dtype=bool), np.ones((3, 2), bool), np.eye(600, dtype=bool)])
def test_odd_masks_are_parted_without_loss(mask):
    right, left = separate(mask)
    assert np.array_equal(right | left, mask) and not (right & left).any()


def test_large_masks_are_parted_as_small_ones():
    big = [np.kron(lung, np.ones((9, 9), bool)) for lung in (RIGHT, LEFT)]
    right, left = separate(big[0] | big[1])
    np.testing.assert_array_equal(right, big[0])
    np.testing.assert_array_equal(left, big[1])


@pytest.mark.parametrize("mask", [RIGHT.astype(np.uint8), RIGHT[None], [True]])
def test_what_is_no_mask_is_refused(mask):
    for function in (clean, separate):
        with pytest.raises(InputError, match="A mask is bool"):
            function(mask)


def test_the_sides_of_radiologists_outlines_are_found_again(real_data):
    """The lungs that General Blockchain has outlined apart, put together: every pixel on its side. Alone, hardly one is cut."""
    if "general_blockchain_cxr" not in datasets.present(real_data):
        pytest.skip("general_blockchain_cxr is not at hand")
    dataset, whole = datasets.open("general_blockchain_cxr", real_data), []
    for case in dataset.cases().case[::5]:
        truth = [dataset.mask(case, kind) for kind in ("right_lung", "left_lung")]
        for side, (found, true) in enumerate(zip(separate(truth[0] | truth[1]), truth, strict=True)):
            np.testing.assert_array_equal(found, true)
            if true.any():
                whole.append(np.array_equal(separate(true)[side], true))
    assert np.mean(whole) > 0.95


# ---- the model -------------------------------------------------------------------------------------------------------


class Darkness:
    """Stands for a trained network: the probability of lung is the darkness of the image."""

    def __init__(self, channels: int = 3):
        self.input_shape = (None, 32, 32, channels)
        self.seen: list[tuple[int, ...]] = []

    def predict_on_batch(self, images):
        self.seen.append(images.shape)
        return 1 - images[..., :1]


def test_masks_have_each_images_own_size_and_images_are_taken_as_they_come():
    network = Darkness()
    model = LungModel(network, 32, 0.5)
    sizes = [(40, 60), (64, 33), (200, 150)] * 4
    taken = []

    def images():
        for size in sizes:
            taken.append(size)
            yield (1 - (ellipse(size, size[0] / 2, size[1] * 0.3, size[0] / 4, size[1] / 8)
                        | ellipse(size, size[0] / 2, size[1] * 0.7, size[0] / 4, size[1] / 8))).astype(np.float32)

    stream = model.stream(images())
    first = next(stream)
    assert len(taken) == 8 and first.shape == (40, 60) and first.dtype == bool
    found = [first, *stream]
    assert [mask.shape for mask in found] == sizes and len(taken) == 12
    assert set(network.seen) == {(8, 32, 32, 3)}, "the last batch is filled up: one shape only"
    for mask, image in zip(found, images(), strict=True):
        assert np.count_nonzero(mask & (image == 0)) > 0.85 * np.count_nonzero(mask | (image == 0))
    assert model.masks([]) == []


def test_the_threshold_belongs_to_the_lung_and_cleaning_can_be_left_out():
    image = np.full((32, 32), 0.8, np.float32)
    assert LungModel(Darkness(1), 32, 0.2).masks([image - np.float32(1e-3)])[0].all()
    assert not LungModel(Darkness(1), 32, 0.21).masks([image])[0].any()
    image[4:28, 4:12] = 0.0
    image[20:22, 30:] = 0.0
    model = LungModel(Darkness(1), 32, 0.5)
    assert model.masks([image], clean_up=False)[0].sum() == 24 * 8 + 4
    assert model.masks([image])[0].sum() == 24 * 8


@pytest.mark.parametrize("image", [
    np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.full((8, 8), 2.0), np.full((8, 8), np.nan), np.zeros((0, 8)),
])
def test_images_of_another_kind_are_refused_by_number(image):
    with pytest.raises(InputError, match="image 1: lungs are found on images"):
        LungModel(Darkness(), 32, 0.5).masks([np.zeros((8, 8), np.float32), image])


def test_a_saved_model_finds_the_same_lungs(tmp_path):
    from covidcxr import training
    from covidcxr.models.lung_unet import lung_unet

    training.set_seed(0)
    design = {"base_filters": 2, "depth": 2, "batch_norm": True, "channels": 1}
    network = lung_unet(**design)
    weights = tmp_path / "checkpoints" / "lungs.weights.h5"
    weights.parent.mkdir()
    network.save_weights(weights)
    images = list(np.random.default_rng(1).random((3, 50, 40), np.float32))
    model = LungModel(network, 32, 0.5)
    model.save(tmp_path, weights, design)
    again = LungModel.of_stage(tmp_path)
    assert (again.size, again.threshold) == (32, 0.5)
    for one, other in zip(model.probabilities(images), again.probabilities(images), strict=True):
        np.testing.assert_array_equal(one, other)
    card = json.loads((tmp_path / CARD).read_text())
    (tmp_path / CARD).write_text(json.dumps({**card, "weights": "../outside.h5"}))
    with pytest.raises(CovidcxrError, match="outside of the stage's folder"):
        LungModel.of_stage(tmp_path)
    for spoilt in ("{", "{}", json.dumps({**card, "weights": "gone.h5"}), json.dumps({**card, "network": {"base_filters": 4}})):
        (tmp_path / CARD).write_text(spoilt)
        with pytest.raises(CovidcxrError, match="Run the stage lung_segmentation again"):
            LungModel.of_stage(tmp_path)
    with pytest.raises(InputError, match="no file in"):
        model.save(tmp_path, tmp_path / "gone.h5", design)
    with pytest.raises(ParameterError, match="between 0 and 1"):
        LungModel(network, 32, 1.5)


# ---- squares ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder_set(tmp_path):
    """Two images of different sizes with masks, one without."""
    root = tmp_path / "folder"
    for part in ("images", "masks/lung"):
        (root / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a", (40, 60)), ("b", (30, 20)), ("c", (10, 10))):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(root / "images" / f"{name}.png")
        if name != "c":
            Image.fromarray(np.uint8(255) * (rng.random(size) > 0.5)).save(root / "masks" / "lung" / f"{name}.png")
    (root / "cases.csv").write_text("case,patient\na,one\nb,two\nc,two\n")
    return datasets.open("folder", tmp_path)


def test_squares_are_area_means_and_masks_hold_what_is_covered_by_more_than_half(folder_set):
    pictures = squares.read(folder_set, ["a", "b"], 10)
    assert pictures.cases == ["a", "b"] and pictures.patients == ["one", "two"] and len(pictures) == 2
    for number, (case, blocks) in enumerate((("a", (4, 6)), ("b", (3, 2)))):
        image, mask = folder_set.image(case), folder_set.mask(case, "lung")
        means = [each.reshape(10, blocks[0], 10, blocks[1]).mean(axis=(1, 3)) for each in (image, mask.astype(float))]
        np.testing.assert_allclose(pictures.images[number], means[0], atol=0.5 / 255 + 1e-6)
        assert pictures.images[number].dtype == np.float32
        np.testing.assert_array_equal(pictures.masks[number], means[1] > 0.5)


def test_v7s_ignored_pixels_are_background_as_in_the_paper():
    """127 of 255 is 0.498, below the paper's threshold of 0.5."""
    assert 127 / 255 <= squares.MASK_THRESHOLD < 255 / 255


def test_a_cache_gives_the_same_and_follows_the_data(folder_set, tmp_path, monkeypatch):
    monkeypatch.setenv("COVIDCXR_CACHE", str(tmp_path / "cache"))
    plain = squares.read(folder_set, ["a", "b"], 16)
    kept, again = (squares.read(folder_set, ["a", "b"], 16, cache=True) for _ in range(2))
    assert plain.digest() == kept.digest() == again.digest() and isinstance(again.images.bytes, np.memmap)
    assert len(list((tmp_path / "cache" / "squares").iterdir())) == 1
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(folder_set.folder / "images" / "a.png")
    changed = squares.read(folder_set, ["a", "b"], 16, cache=True)
    assert not changed.images.bytes[0].any() and changed.digest() != kept.digest()
    assert squares.read(folder_set, ["c"], 16, kind=None, cache=True).masks is None


def test_some_of_the_squares_can_be_taken(folder_set):
    pictures = squares.read(folder_set, ["a", "b"], 8)
    for chosen in ([1], np.array([False, True]), np.array([1])):
        one = pictures.take(chosen)
        assert one.cases == ["b"] and one.patients == ["two"] and len(one.images) == len(one.masks) == 1
        np.testing.assert_array_equal(one.images[0], pictures.images[1])
    assert one.digest() != pictures.digest()


def test_an_image_without_mask_and_an_unknown_case_are_named(folder_set):
    with pytest.raises(InputError, match="case c has no mask of kind 'lung'"):
        squares.read(folder_set, ["a", "c"], 8)
    with pytest.raises(InputError, match="no case 'd'"):
        squares.read(folder_set, ["a", "d"], 8)
    with pytest.raises(InputError, match="no case is left"):
        squares.read(folder_set, [], 8)
    with pytest.raises(ParameterError, match="at least 1"):
        squares.read(folder_set, ["a"], 0)




def test_lungs_are_learned_on_slices_and_found_in_another_window(tmp_path):
    """Dark ellipses on a bright ground; the weights are kept, and a second call loads them."""
    rng = np.random.default_rng(0)
    masks = np.stack([ellipse((32, 32), 16, 9, 8 + k % 3, 5) | ellipse((32, 32), 16, 23, 8 + k % 4, 5) for k in range(12)])
    noisy = np.where(masks, 0.25, 0.75) + rng.normal(0, 0.03, masks.shape)
    pictures = squares.Greys(np.uint8(255 * noisy))
    options = {"seed": 0, "epochs": 12, "base_filters": 4, "depth": 2, "batch_size": 4}
    model = learn_on_slices(pictures, masks, tmp_path, **options)
    new = ellipse((32, 32), 15, 10, 9, 4) | ellipse((32, 32), 15, 22, 9, 4)
    (found,) = model.masks([np.where(new, 0.35, 0.7).astype(np.float32)])
    assert 2 * (found & new).sum() / (found.sum() + new.sum()) > 0.9
    kept = (tmp_path / "checkpoints" / "lungs.weights.h5").stat().st_mtime_ns
    again = learn_on_slices(pictures, masks, tmp_path, **options)
    assert (tmp_path / "checkpoints" / "lungs.weights.h5").stat().st_mtime_ns == kept
    np.testing.assert_array_equal(again.masks([pictures[0]]), model.masks([pictures[0]]))


def test_windows_are_changed_and_masks_are_not():
    picture = np.random.default_rng(0).random((8, 8)).astype(np.float32)
    masks = picture[None] > 0.5
    made = [_in_another_window(picture, masks, number) for number in range(20)]
    for image, kept in made:
        assert kept is masks and image.dtype == np.float32 and image.shape == picture.shape
        assert image.min() >= 0 and image.max() <= 1
        order = np.argsort(picture, axis=None)
        assert (np.diff(image.ravel()[order]) >= 0).all(), "a window keeps the order of grey values"
    assert len({float(image.mean()) for image, _ in made}) == 20
    np.testing.assert_array_equal(_in_another_window(picture, masks, 3)[0], made[3][0])
