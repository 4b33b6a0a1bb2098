"""Pictures cut to the lungs, percentages of the lungs, and predictions in one pass."""

import dataclasses
import itertools
import json
import shutil
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from covidcxr import datasets, instances, metrics, opacity
from covidcxr.errors import InputError, ParameterError


def disc(shape, centre, radius) -> np.ndarray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


SHAPE = (60, 80)
LUNGS = disc(SHAPE, (30, 24), 16) | disc(SHAPE, (30, 58), 16)
OPACITY = disc(SHAPE, (36, 24), 9)
IMAGE = np.random.default_rng(0).uniform(0.1, 1, SHAPE).astype(np.float32)


def cut(crop, size=32, image=IMAGE, lungs=LUNGS):
    return opacity.picture("a", "p", "set", image, OPACITY, lungs, size, crop)


class Thresholding:
    """A model whose probability is the image's own grey: what it predicts is known beforehand."""

    input_shape = (None, 32, 32, 3)

    def __init__(self):
        self.shapes = []

    def predict_on_batch(self, images):
        self.shapes.append(images.shape)
        assert (images[..., 0] == images[..., 2]).all()
        return images[..., :1]


@pytest.mark.parametrize("crop, box, blank", [
    ("none", False, False), ("box", True, False), ("blank", False, True), ("box_and_blank", True, True),
])  # fmt: skip
def test_a_crop_keeps_what_it_says(crop, box, blank):
    one = cut(crop, size=64)
    assert one.box == ((14, 8, 47, 75) if box else (0, 0, *SHAPE)) and one.original == SHAPE
    assert one.image.shape == one.opacity.shape == one.lungs.shape == (64, 64)
    away = ~instances.stretch(disc(SHAPE, (30, 24), 19) | disc(SHAPE, (30, 58), 19), (64, 64)) if not box else ~one.lungs
    assert (one.image[away].min() == 0) == blank
    # What the lungs show is the same, however much around them is kept.
    inside = one.lungs.mean() / (LUNGS[14:47, 8:75] if box else LUNGS).mean()
    assert inside == pytest.approx(1, abs=0.03)


def test_the_rectangle_around_the_lungs_is_the_picture_of_its_pixels():
    """Cut to a size at which nothing is resampled, the pixels are the image's own."""
    lungs = np.zeros(SHAPE, bool)
    lungs[10:42, 20:52] = True
    one = opacity.picture("a", "p", "set", IMAGE, OPACITY, lungs, 32, "box")
    np.testing.assert_array_equal(one.image, IMAGE[10:42, 20:52])
    np.testing.assert_array_equal(one.opacity, OPACITY[10:42, 20:52])


def test_an_image_on_which_no_lungs_are_found_is_kept_whole_and_has_no_percentage():
    one = cut("box_and_blank", lungs=np.zeros(SHAPE, bool))
    assert one.box == (0, 0, *SHAPE) and one.image.max() > 0.5 and not one.lungs.any()
    (row,) = opacity.measure(Thresholding(), [one]).to_dict("records")
    assert np.isnan(row["predicted_percentage"])


@pytest.mark.parametrize("arguments, error, words", [
    ({"crop": "lungs"}, ParameterError, "crop is one of"),
    ({"lungs": None}, InputError, "a: its lungs are not known"),
    ({"lungs": LUNGS[:-1]}, InputError, r"a: the mask of the lungs is \(59, 80\), the image \(60, 80\)"),
])  # fmt: skip
def test_what_can_not_be_cut_is_refused_by_name(arguments, error, words):
    with pytest.raises(error, match=words):
        cut(**{"crop": "box", **arguments})


def test_percentages_of_known_areas():
    lungs = np.zeros((10, 10), bool)
    lungs[:, :5] = True
    found = np.zeros_like(lungs)
    found[:5] = True  # half of it lies outside of the lungs
    assert opacity.percentage(found, lungs) == 50
    assert opacity.percentage(lungs, lungs) == 100
    assert opacity.percentage(np.zeros_like(lungs), lungs) == 0
    assert np.isnan(opacity.percentage(found, np.zeros_like(lungs)))


@pytest.mark.parametrize("crop", ["box_and_blank", "blank", "none"])
def test_a_percentage_hardly_changes_with_the_crop_and_the_size(crop):
    manual = opacity.percentage(OPACITY, LUNGS)
    one = cut(crop, size=256)
    assert opacity.percentage(one.opacity, one.lungs) == pytest.approx(manual, rel=0.02)


@pytest.mark.parametrize("crop", ["box", "none"])
def test_a_true_mask_comes_back_from_its_picture(crop):
    one = cut(crop, size=256)
    back = opacity.pasted(one.opacity.astype(np.float32), one)
    assert back.shape == SHAPE and metrics.iou(back, OPACITY, empty="skip") > 0.97


def test_predictions_are_those_of_one_picture_alone_whatever_the_batch():
    pictures = [cut("box", image=np.roll(IMAGE, shift, axis=1)) for shift in range(5)]
    for size in (1, 2, 8):
        model = Thresholding()
        found = list(opacity.predict(model, iter(pictures), size))
        assert [one for one, _ in found] == pictures
        assert all((probability == one.image).all() for one, probability in found)
        assert set(model.shapes) == {(size, 32, 32, 3)}, "one shape is compiled"


def test_a_table_of_measures_holds_what_is_known_of_each_picture():
    pictures = [cut("box_and_blank"), opacity.picture("b", "q", "set", IMAGE, None, LUNGS, 32)]
    table = opacity.measure(Thresholding(), pictures, threshold=0.6).set_index("case")
    one = pictures[0]
    assert table.predicted_percentage["a"] == opacity.percentage(one.image >= 0.6, one.lungs)
    assert table.both["a"] == np.count_nonzero((one.image >= 0.6) & one.opacity)
    assert np.isnan(table.both["b"]) and np.isnan(table.manual_percentage["b"]) and table.predicted_percentage["b"] > 0


def test_memory_does_not_grow_with_the_number_of_pictures():
    def peak(count: int) -> int:
        endless = (cut("none", size=64) for _ in itertools.count())
        tracemalloc.start()
        opacity.measure(Thresholding(), itertools.islice(endless, count), batch_size=4)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(4)  # imports
    assert peak(60) < 1.5 * peak(12)


def test_a_digest_changes_with_what_is_learned():
    one, other = cut("box"), cut("box", image=np.roll(IMAGE, 1, axis=1))
    assert opacity.digest([one, other]) == opacity.digest([cut("box"), other])
    bare = dataclasses.replace(one, opacity=None)
    assert len({opacity.digest(pictures) for pictures in ([one], [other], [one, other], [other, one], [bare])}) == 5


def test_a_kept_model_says_the_same_without_its_loss(tmp_path):
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(1, 3, padding="same", activation="sigmoid")])
    model.compile("adam", loss=lambda true, found: keras.ops.mean((true - found) ** 2))
    with pytest.raises(InputError, match="unet.keras is not there. Run the stage unet_opacity again"):
        opacity.load(tmp_path)
    assert opacity.save(model, tmp_path, 0.3) == tmp_path / opacity.MODEL
    assert {file.name for file in tmp_path.iterdir()} == {opacity.MODEL, opacity.CARD}
    kept, threshold = opacity.load(tmp_path)
    assert threshold == 0.3
    (_, before), (_, after) = (*opacity.predict(model, [cut("box")]), *opacity.predict(kept, [cut("box")]))
    np.testing.assert_allclose(before, after, rtol=1e-6)
    assert not kept.compiled and model.compiled
    for damaged in ("[0.3]", '{"threshold": "0.3"}', "{}"):
        (tmp_path / opacity.CARD).write_text(damaged)
        with pytest.raises(InputError, match="unet.json: a number `threshold` is expected"):
            opacity.load(tmp_path)


@pytest.fixture(scope="module")
def rural(phantom_smoke):
    return datasets.open("rural_covid_cxr", phantom_smoke)


def test_a_data_set_is_read_in_order_with_its_percentages(rural):
    cases = rural.cases().case[::-1]
    pictures = list(opacity.of_dataset(rural, cases, 48))
    assert [one.name for one in pictures] == list(cases) and {one.data_set for one in pictures} == {"rural_covid_cxr"}
    for one in pictures:
        lungs, drawn = rural.mask(one.name, "lung"), rural.mask(one.name, "lesion")
        assert one.manual_percentage == 100 * (lungs & drawn).sum() / lungs.sum()
        assert opacity.percentage(one.opacity, one.lungs) == pytest.approx(one.manual_percentage, abs=1.5)
        assert one.original == lungs.shape and one.image[~one.lungs].mean() < 0.1


def test_where_no_opacity_is_drawn_there_is_a_predicted_percentage_only(phantom_smoke):
    v7 = datasets.open("v7_cxr", phantom_smoke)
    cases = v7.cases()
    cases = cases.case[cases.excluded.isna()][:3]
    pictures = list(opacity.of_dataset(v7, cases, 48))
    assert len(pictures) == 3 and all(one.opacity is None and one.lungs.any() for one in pictures)
    table = opacity.measure(Thresholding(), pictures, batch_size=2)
    assert table.manual_percentage.isna().all() and table.predicted_percentage.between(0, 100).all()


class LeftHalf:
    """Takes the left half of every image for lungs."""

    def masks(self, images):
        assert all(image.dtype == np.float32 and image.ndim == 2 for image in images)
        return [np.arange(image.shape[1])[None] < np.full((len(image), 1), image.shape[1] // 2) for image in images]


def test_lungs_may_come_from_a_model_while_the_manual_percentage_stays(rural):
    cases = rural.cases().case
    drawn, found = (list(opacity.of_dataset(rural, cases, 48, finder=finder)) for finder in (None, LeftHalf()))
    for manual, automatic in zip(drawn, found, strict=True):
        height, width = automatic.original
        assert automatic.box == (0, 0, height, width // 2) and automatic.lungs.all()
        assert automatic.manual_percentage == manual.manual_percentage


def test_a_users_own_images_need_a_finder_and_no_masks(tmp_path):
    (tmp_path / "images").mkdir()
    for name, brightness in (("bright", 250), ("dark", 20)):
        Image.fromarray(np.full((40, 50), brightness, np.uint8)).save(tmp_path / "images" / f"{name}.png")
    mine = datasets.open("folder", tmp_path)
    with pytest.raises(InputError, match="no lungs are drawn on bright.* give a finder"):
        list(opacity.of_dataset(mine, mine.cases().case, 32))
    pictures = opacity.of_dataset(mine, mine.cases().case, 32, finder=LeftHalf())
    table = opacity.measure(Thresholding(), pictures).set_index("case")
    assert table.predicted_percentage.to_dict() == {"bright": 100, "dark": 0} and table.manual_percentage.isna().all()


def test_the_network_of_notebook_5_is_a_finder(rural):
    pytest.importorskip("keras")
    from covidcxr.lungs import LungModel
    from covidcxr.models.lung_unet import lung_unet

    model = LungModel(lung_unet(channels=1, base_filters=2, depth=2), size=32, threshold=0.5)
    cases = rural.cases().case
    for one, mask in zip(opacity.of_dataset(rural, cases, 48, finder=model), model.stream(map(rural.image, cases)), strict=True):
        assert one.original == mask.shape and one.lungs.any() == mask.any()


def outline_nothing(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"shapes": []}))


def put_far_outside(path):
    content = json.loads(path.read_text())
    content["shapes"][0]["points"] = [[9000, 9000], [9100, 9000], [9100, 9100]]
    path.write_text(json.dumps(content))


def cut_short(path):
    path.write_text(path.read_text()[:200])


@pytest.fixture
def damaged(tmp_path, phantom_smoke):
    """A rural cohort to be damaged, and the outlines of its second image."""
    shutil.copytree(phantom_smoke / "rural_covid_cxr", tmp_path / "rural_covid_cxr")
    return tmp_path, sorted((tmp_path / "rural_covid_cxr").rglob("*.json"))[1]


def test_images_without_lungs_are_told_by_name(damaged):
    folder, path = damaged
    outline_nothing(path)
    rural = datasets.open("rural_covid_cxr", folder)
    usable, without = opacity.with_lungs(rural)
    assert without == [path.stem] and sorted([*usable.case, *without]) == sorted(rural.cases().case)
    with pytest.raises(InputError, match=f"no lungs are drawn on {path.stem}"):
        list(opacity.of_dataset(rural, without, 32))


@pytest.mark.parametrize("damage, words", [(cut_short, "not a readable labelme file"), (put_far_outside, "far outside an image")])
def test_damaged_outlines_are_refused_by_their_file_and_not_left_out(damaged, damage, words):
    folder, path = damaged
    damage(path)
    rural = datasets.open("rural_covid_cxr", folder)
    with pytest.raises(InputError, match=words) as refused:
        usable, _ = opacity.with_lungs(rural)
        list(opacity.of_dataset(rural, usable.case, 32))
    assert path.name in str(refused.value)


def test_an_image_without_drawn_lungs_is_refused_or_read_without_its_opacity(phantom_smoke):
    cohen = datasets.open("cohen_cxr", phantom_smoke)
    table = cohen.cases()
    plain = table.case[~table.annotated & (table.modality == "CXR")].iloc[0]
    with pytest.raises(InputError, match=f"no lungs are drawn on {plain}"):
        list(opacity.of_dataset(cohen, [plain], 32))
    (found,) = opacity.of_dataset(cohen, [plain], 32, finder=LeftHalf())
    assert found.opacity is None and np.isnan(found.manual_percentage) and found.lungs.all()


def test_pictures_of_notebook_3_become_squares(phantom_smoke):
    blockchain = datasets.open("general_blockchain_cxr", phantom_smoke)
    case = blockchain.cases().query("lesion.notna()", engine="python").case.iloc[0]
    (before,) = instances.of_dataset(blockchain, [case], ["lesion"], 96)
    (one,) = opacity.of_instances([before], "general_blockchain_cxr", 96)
    assert one.image.shape == (96, 96) and one.lungs is None and one.original == before.original
    truth = blockchain.mask(case, "lesion")
    assert metrics.iou(opacity.pasted(one.opacity.astype(np.float32), one), truth, empty="skip") > 0.85
