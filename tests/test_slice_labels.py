"""Slices for learning from image labels: what training sees of them, and what it cannot see."""

import numpy as np
import pytest

from covidcxr import datasets, slice_labels, training
from covidcxr.ct_slices import axial, windowed
from covidcxr.decomposition import networks, trainer
from covidcxr.decomposition.games import Decomposition
from covidcxr.errors import InputError, ParameterError
from covidcxr.phantom.write_cc_ccii import write_set
from covidcxr.slice_labels import LabelledSlices, Scale
from covidcxr.squares import Greys

PHANTOM = "phantom:smoke"
SIZE = 32


@pytest.fixture(scope="module")
def ct(phantom_smoke):
    return datasets.open("covid19_ct_seg", PHANTOM)


def labelled(images: np.ndarray) -> LabelledSlices:
    count = len(images)
    names = [str(i) for i in range(count)]
    return LabelledSlices(names, names, ["here"] * count, np.zeros(count, bool), Greys(images))


def test_slices_of_volumes_are_cut_to_the_lungs_and_labelled_by_their_masks(ct):
    case = ct.cases().case[0]
    slices, truth = slice_labels.of_volumes(ct, [case], 64)
    assert len(slices) == len(truth.lesions) == len(truth.lungs) and 0 < slices.has_lesion.sum() < len(slices)
    assert set(slices.patients) == {case} and set(slices.sources) == {"covid19_ct_seg"}
    for name, label, grey, lung in zip(slices.names, slices.has_lesion, slices.images.bytes, truth.lungs, strict=True):
        index = int(name.partition("/")[2])
        assert label == axial(ct.volume_mask(case, "lesion"), index).any()
        assert lung.any() and grey[~lung].max() == 0, "nothing is left outside of the lungs"
    brightest = truth.lesions[slices.has_lesion].sum(axis=(1, 2)).argmax()
    shown, lesion = slices.lesioned[int(brightest)], truth.lesions[slices.has_lesion][brightest]
    lung = truth.lungs[slices.has_lesion][brightest]
    assert shown[lesion].mean() > shown[lung & ~lesion].mean() + 0.1, "lesions are brighter than lung"


def test_volumes_of_grey_values_become_like_those_in_hu(ct):
    table = ct.cases()
    case = table.case[table.expected_units == "windowed"].iloc[0]
    slices, truth = slice_labels.of_volumes(ct, [case], 32)
    assert 0.1 < np.mean([slices.images[i][truth.lungs[i]].mean() for i in range(len(slices))]) < 0.6


class Masked:
    """A data set of two volumes whose masks of lesions are given; all else is the phantom's."""

    name = "masked"

    def __init__(self, ct, lesions):
        self.ct, self.lesions = ct, lesions

    def row(self, case):
        return self.ct.row(case)

    def volume(self, case, window=None):
        return self.ct.volume(case, window)

    def volume_mask(self, case, kind):
        return self.lesions[case] if kind == "lesion" else self.ct.volume_mask(case, kind)


def test_training_cannot_read_the_masks_of_lesions(ct, tmp_path):
    """Put every lesion elsewhere, keep what is known of each slice as a whole: training gets and makes the same, bit by bit."""
    cases = ct.cases().case[:2].tolist()
    real = {case: ct.volume_mask(case, "lesion") for case in cases}
    moved = {case: np.zeros_like(mask) for case, mask in real.items()}
    for case, mask in moved.items():
        mask[4:9, 4:9] = real[case].any(axis=(0, 1))  # in a corner, outside of the body
    found = []
    for number, lesions in enumerate((real, moved)):
        slices, truth = slice_labels.of_volumes(Masked(ct, lesions), cases, SIZE)
        found.append((slices, truth))
        training.set_seed(0)
        game = Decomposition(networks.decomposer(SIZE, 2, 2), networks.critic(SIZE, 2))
        scale = Scale.of(slices.images)
        trainer.train(game, scale.all(slices.normal), scale.all(slices.lesioned), steps=2, folder=tmp_path / str(number),
                      name="n", made_from=slices.digest(), report_every=2, save_every=2)
        found[-1] += (game.generator.get_weights(),)
    (slices, truth, weights), (other, elsewhere, again) = found
    assert not (truth.lesions & elsewhere.lesions).any() and elsewhere.lesions.any()
    assert slices.digest() == other.digest()
    assert all(np.array_equal(a, b) for a, b in zip(weights, again, strict=True))
    held = [value for value in vars(slices).values() if isinstance(value, np.ndarray)]
    assert [value.shape for value in held] == [(len(slices),)], "one bit per slice is all that is known of lesions"


def test_slices_that_are_pictures_have_the_label_of_their_set(tmp_path):
    write_set(tmp_path / "cc_ccii", seed=3, patients=(1, 0, 1), segmented=1, spacing_mm=(6.0, 24.0), tips=20)
    dataset = datasets.open("cc_ccii", tmp_path)
    table = dataset.cases()
    found = lambda image: (np.add.outer(np.arange(image.shape[0]), np.arange(image.shape[1])) > 0) & (image < 0.6)  # noqa: E731
    known = table[table.has_lesion.notna()]
    slices, truth = slice_labels.of_pictures(dataset, known.case, SIZE, find_lungs=found)
    assert slices.has_lesion.tolist() == known.has_lesion.astype(bool).tolist() and not truth.lesions.any()
    segmented = table.case[table.label == "ct_lesion_seg"]
    with pytest.raises(InputError, match="not known whether it shows a lesion"):
        slice_labels.of_pictures(dataset, segmented, SIZE)
    with pytest.raises(InputError, match="no mask of the lungs"):
        slice_labels.of_pictures(dataset, known.case, SIZE)
    with pytest.raises(InputError, match="shows no lung: 0.0%"):
        slice_labels.of_pictures(dataset, known.case, SIZE, find_lungs=lambda image: np.zeros(image.shape, bool))


def test_real_pictures(real_data):
    dataset = datasets.open("covid19ct20_slices256", real_data)
    slices, truth = slice_labels.of_pictures(dataset, dataset.cases().case[:6], 64)
    assert slices.has_lesion.all() and truth.lesions.any(axis=(1, 2)).mean() > 0.5
    cvt = datasets.open("cvt_ct_labels", real_data)
    table = cvt.cases()
    cut = table.case[table.lungs_only][:4]
    slices, _ = slice_labels.of_pictures(cvt, cut, 64)
    assert not slices.has_lesion.any() and len(slices) == 4


def test_slices_without_lung_and_nothing_at_all_are_refused():
    with pytest.raises(InputError, match="1 slices show no lung"):
        labelled(np.stack([np.ones((4, 4), np.uint8), np.zeros((4, 4), np.uint8)]))
    with pytest.raises(InputError, match="No slice is left"):
        labelled(np.zeros((0, 4, 4), np.uint8))


def test_the_scale_is_mean_and_standard_deviation_of_all_pixels():
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8), dtype=np.uint8)
    scale = Scale.of(Greys(images), reach=1.0)
    np.testing.assert_allclose([scale.mean, scale.sd], [(images / 255).mean(), (images / 255).std()])
    printed = (images / 255 - scale.mean) / scale.sd
    np.testing.assert_allclose(scale.all(Greys(images))[2], printed[2].clip(-1, 1), atol=1e-6)
    np.testing.assert_allclose(scale.beyond(Greys(images)), (abs(printed) > 1).mean())
    whole = Scale.of(Greys(images))
    assert scale.beyond(Greys(images)) > 0.3 and whole.beyond(Greys(images)) == 0 and whole.reach < 2
    np.testing.assert_allclose(abs(np.stack(list(whole.all(Greys(images))))).max(), 1, atol=1e-6)
    assert len(scale.all(Greys(images))[1:4]) == 3


def test_what_cannot_be_scaled_is_refused():
    with pytest.raises(InputError, match="one value"):
        Scale.of(Greys(np.full((2, 4, 4), 7, np.uint8)))
    with pytest.raises(ParameterError, match="above 0"):
        Scale(0.5, 0.1, 0)


def test_taking_some_keeps_them_together(ct):
    slices, truth = slice_labels.of_volumes(ct, ct.cases().case[:1], SIZE)
    some = slices.take(slices.has_lesion)
    assert len(some) == slices.has_lesion.sum() == len(truth.take(slices.has_lesion).lesions) and some.has_lesion.all()
    assert some.digest() != slices.digest()
    assert windowed(np.array([-1250.0, 250.0])).tolist() == [0, 1]


def test_sets_are_put_together_slice_by_slice(ct, phantom_smoke):
    first = slice_labels.of_volumes(ct, ct.cases().case[:1], SIZE)
    medseg = datasets.open("medseg_nr2_volumes", PHANTOM)
    second = slice_labels.of_volumes(medseg, medseg.cases().case[:1], SIZE)
    slices, truth = slice_labels.together([first, second])
    count = len(first[0])
    assert len(slices) == count + len(second[0]) == len(truth.lungs)
    assert set(slices.sources[:count]) == {"covid19_ct_seg"} and set(slices.sources[count:]) == {"medseg_nr2_volumes"}
    np.testing.assert_array_equal(slices.images[count], second[0].images[0])
    np.testing.assert_array_equal(truth.lesions[count:], second[1].lesions)
    for parts, message in (([], "no slices"), ([first, first], "given twice"),
                           ([first, slice_labels.of_volumes(ct, ct.cases().case[:1], 16)], "one size")):
        with pytest.raises(InputError, match=message):
            slice_labels.together(parts)


def test_pictures_that_are_cut_to_the_lungs_are_taken_as_they_are(tmp_path):
    """The third of these patients is; nothing in the set says so."""
    write_set(tmp_path / "cc_ccii", seed=3, patients=(1, 1, 1), segmented=0, spacing_mm=(6.0, 24.0), tips=20)
    dataset = datasets.open("cc_ccii", tmp_path)
    table = dataset.cases()
    normal = table.case[table.label == "Normal"]
    slices, truth = slice_labels.of_cases(dataset, normal, SIZE)
    assert len(slices) and np.array_equal(truth.lungs, slices.images.bytes > 0)
    ill = table.case[(table.label == "NCP") & table.has_lesion.notna()]
    with pytest.raises(InputError, match="no mask of the lungs"):
        slice_labels.of_cases(dataset, ill, SIZE)


def test_known_cases_are_those_with_a_label_or_a_mask(tmp_path, ct):
    table = slice_labels.known(ct)
    assert len(table) == len(ct.cases()) and table[["lungs_known", "drawn", "scorable"]].all(axis=None)
    write_set(tmp_path / "cc_ccii", seed=3, patients=(1, 0, 1), segmented=1, spacing_mm=(6.0, 24.0), tips=20)
    dataset = datasets.open("cc_ccii", tmp_path)
    table = slice_labels.known(dataset)
    segmented = table.label == "ct_lesion_seg"
    assert segmented.any() and table.drawn.equals(segmented) and table.lungs_known.equals(segmented)
    assert table.scorable.equals(segmented | table.has_lesion.eq(False)), "of listed slices it is not known where the lesion is"
    few = slice_labels.known(dataset, most=2, seed=1)
    assert few.has_lesion.eq(True).sum() == few.has_lesion.eq(False).sum() == 2
    assert set(few.case) <= set(table.case) and few.equals(slice_labels.known(dataset, most=2, seed=1))
    slices, truth = slice_labels.of_cases(dataset, table.case[segmented], SIZE)
    assert slices.has_lesion.tolist() == [dataset.mask(case, "lesion").any() for case in slices.names] and truth.lesions.any()


def test_volumes_and_pictures_are_read_alike(ct):
    case = ct.cases().case[0]
    first, second = slice_labels.of_cases(ct, [case], SIZE, step=4)[0], slice_labels.of_volumes(ct, [case], SIZE, step=4)[0]
    assert first.digest() == second.digest()
