"""The diagnosis network: built as printed, equal to its formula, able to learn, and clear about what it can't learn from."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from covidcxr import training  # noqa: E402
from covidcxr.errors import InputError, ParameterError  # noqa: E402
from covidcxr.models.diagnosis_cnn import FILTERS, diagnosis_cnn, digest, probabilities, train  # noqa: E402

SHAPE = (18, 22, 3)


def pictures(count: int, seed: int = 0):
    """Noise; where the label is true, with a bright spot somewhere in the lower half."""
    rng = np.random.default_rng(seed)
    images = [0.3 * rng.random(SHAPE[:2], dtype="float32") for _ in range(count)]
    labels = np.arange(count) % 3 == 0
    for image, label in zip(images, labels, strict=True):
        if label:
            row, column = rng.integers(9, 14), rng.integers(1, 17)
            image[row : row + 4, column : column + 4] += np.float32(0.6)
    return images, labels


def tiny(seed: int = 0):
    training.set_seed(seed)
    return diagnosis_cnn(SHAPE, filters=(4, 6), dense=8)


def learned(folder, net=None, images=None, covid=None, **options):
    known = pictures(24)
    images, covid = known[0] if images is None else images, known[1] if covid is None else covid
    options = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "validation": pictures(9, seed=1), **options}
    net = net or tiny()
    return net, train(net, images, covid, folder=folder, name="net", **options)


@pytest.mark.large
def test_the_printed_network_has_the_layers_and_sizes_that_the_paper_names():
    net = diagnosis_cnn((246, 236, 3))
    kinds = [type(layer).__name__ for layer in net.layers[1:]]
    assert kinds == ["Conv2D", "MaxPooling2D", "Conv2D", "MaxPooling2D", "Flatten", "Dense", "Dense"]
    assert net.input_shape == (None, 246, 236, 3) and net.output_shape == (None, 1)
    assert [net.get_layer(name).output.shape[1:3] for name in ("conv1", "pool1", "conv2", "pool2")] == [
        (244, 234), (122, 117), (120, 115), (60, 57),
    ]  # fmt: skip
    first, second = FILTERS
    parts = 9 * 3 * first + first, 9 * first * second + second, 60 * 57 * second * 64 + 64, 64 + 1
    assert net.count_params() == sum(parts) == 14_027_841
    assert "." not in "".join(layer.name for layer in net.layers)


def test_it_computes_what_its_parts_say():
    """Convolution, ReLU, maximum, twice; two dense layers; by hand."""
    net = tiny()
    rng = np.random.default_rng(4)
    net.set_weights([rng.normal(size=weight.shape).astype("float32") for weight in net.get_weights()])
    image = rng.random((1, *SHAPE)).astype("float32")
    kernel1, bias1, kernel2, bias2, dense, dense_bias, last, last_bias = net.get_weights()

    def convolved(x, kernel, bias):
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))  # (h, w, channels, 3, 3)
        out = np.maximum(np.einsum("hwcij,ijcf->hwf", windows, kernel) + bias, 0)
        height, width = out.shape[0] // 2 * 2, out.shape[1] // 2 * 2
        return out[:height, :width].reshape(height // 2, 2, width // 2, 2, -1).max(axis=(1, 3))

    x = convolved(convolved(image[0].astype(float), kernel1, bias1), kernel2, bias2).ravel()
    logit = np.maximum(x @ dense + dense_bias, 0) @ last + last_bias
    np.testing.assert_allclose(np.asarray(net(image)), 1 / (1 + np.exp(-logit))[None], rtol=1e-4)


def test_it_learns_to_tell_bright_spots_from_none(tmp_path):
    net, history = learned(tmp_path, epochs=40, patience=5)
    images, labels = pictures(30, seed=2)
    risk = probabilities(net, images)
    assert np.mean((risk >= 0.5) == labels) == 1
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    assert {"accuracy", "val_loss", "val_accuracy"} < set(history[-1])


def test_training_stops_when_the_validation_loss_rises(tmp_path):
    """With labels turned over, whatever is learned makes it rise."""
    images, labels = pictures(9, seed=1)
    net, history = learned(tmp_path, validation=(images, ~labels), epochs=12, steps=6)
    lowest = int(np.argmin([epoch["val_loss"] for epoch in history]))
    assert len(history) == lowest + 2 < 12
    _, whole = learned(tmp_path / "whole", validation=(images, ~labels), epochs=12, steps=6, patience=None)
    assert len(whole) == 12


def test_the_same_training_is_loaded_and_another_is_not(tmp_path, capsys):
    net, _ = learned(tmp_path)
    again, _ = learned(tmp_path)
    assert "trained before" in capsys.readouterr().out
    assert all(np.array_equal(a, b) for a, b in zip(net.get_weights(), again.get_weights(), strict=True))
    images, labels = pictures(24)
    changed = labels.copy()
    changed[[0, 1]] = changed[[1, 0]]
    for what in ({"covid": changed}, {"images": [1 - image for image in images]}, {"seed": 1}, {"steps": 2}, {"batch_size": 4}):
        learned(tmp_path, **what)
        assert "trained before" not in capsys.readouterr().out, what


def test_probabilities_do_not_depend_on_their_neighbours(tmp_path):
    net, (images, _) = tiny(), pictures(7)
    found = probabilities(net, images, batch_size=3)
    assert found.shape == (7,) and found.dtype == np.float64 and ((found > 0) & (found < 1)).all()
    alone = [probabilities(net, [image], batch_size=3)[0] for image in images]
    np.testing.assert_allclose(found, alone, rtol=1e-5)
    np.testing.assert_allclose(probabilities(net, images[::-1]), found[::-1], rtol=1e-5)


def test_a_hash_of_images_knows_every_pixel_and_label():
    images, labels = pictures(4)
    whole = digest(images, labels)
    assert whole == digest([image.copy() for image in images], labels.tolist())
    other = [image.copy() for image in images]
    other[3][-1, -1] += np.float32(1e-3)
    assert len({whole, digest(other, labels), digest(images, ~labels), digest(images[:3], labels[:3])}) == 4


@pytest.mark.parametrize("covid", [np.ones(24, bool), np.zeros(24, bool)])
def test_one_class_only_is_refused_before_training(tmp_path, covid):
    kind = "of COVID-19" if covid[0] else "without COVID-19"
    with pytest.raises(InputError, match=f"learned from both classes; these 24 training images are all {kind}"):
        learned(tmp_path, covid=covid)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("what", "message"), [
    ({"covid": [True, None, *[False] * 22]}, "Labels must be bool, none missing"),
    ({"covid": [True, False]}, "24 images and 2 labels"),
    ({"images": [255 * image for image in pictures(24)[0]]}, "image 0: .*8-bit"),
    ({"validation": ([], np.zeros(0, bool))}, "at least one example"),
])  # fmt: skip
def test_images_and_labels_that_do_not_fit_are_refused(tmp_path, what, message):
    with pytest.raises(InputError, match=message):
        learned(tmp_path, **what)


@pytest.mark.parametrize(("what", "message"), [
    ({"image_shape": (9, 60, 3)}, "leave nothing of 9 x 60 pixels"),
    ({"image_shape": (60, 60, 0)}, "must be at least 1"),
    ({"filters": ()}, "must be at least 1"),
    ({"filters": (8, 0)}, "must be at least 1"),
    ({"dense": 0}, "must be at least 1"),
])
def test_networks_that_can_not_be_are_refused(what, message):
    with pytest.raises(ParameterError, match=message):
        diagnosis_cnn(**{"image_shape": SHAPE, **what})


def test_the_smallest_image_of_which_something_is_left():
    assert diagnosis_cnn((10, 10, 1), (1, 1), 1).get_layer("pool2").output.shape[1:3] == (1, 1)


def test_lungs_alone_are_learned_from_as_whole_images_are(tmp_path):
    """The paper's own proposal: what lies outside of a mask is black; an image of which nothing is left is named."""
    from covidcxr.diagnosis import cropped
    from covidcxr.squares import Greys

    rng = np.random.default_rng(0)
    whole, masks = rng.integers(1, 256, (12, 64, 64), dtype=np.uint8), rng.random((12, 64, 64)) < 0.5
    covid = np.arange(12) % 2 == 0
    images = cropped(Greys(np.where(masks, whole, 0)))
    np.testing.assert_array_equal(images[3] > 0, masks[3, 2:, 2:62])
    training.set_seed(0)
    net = diagnosis_cnn((*images[0].shape, 3), filters=(2, 2), dense=4)
    history = train(net, images[:8], covid[:8], validation=(images[8:], covid[8:]), epochs=1, folder=tmp_path, name="lungs")
    assert len(history) == 1 and len(probabilities(net, images)) == 12
    nothing = cropped(Greys(np.where(masks & (np.arange(12) != 2)[:, None, None], whole, 0)))
    with pytest.raises(InputError, match="image 2: all pixels are 0"):
        train(net, nothing[:8], covid[:8], validation=(images[8:], covid[8:]), epochs=1, folder=tmp_path, name="nothing")
