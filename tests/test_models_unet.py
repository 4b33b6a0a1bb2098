"""The U-Net of segmentation_models: its own network on every backend, its weights, its momentum, its errors."""

import hashlib
import importlib
import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from keras_files import write_keras_h5
from peer_fixtures import peer_weights as peer

from covidcxr import training
from covidcxr.errors import DataMissing, InputError, ParameterError
from covidcxr.models import published
from covidcxr.models.unet import IMAGENET, resnet18_unet

FIXTURE = Path(peer.FOLDER) / "unet_resnet18.npz"
PIXELS = peer.stream(3, "images").integers(0, 256, (2, 64, 96, 3)).astype("float32")


def number(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def normalisations(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def drawn(model):
    """{"layer/variable": array}, each from a random stream of its own, such that no map vanishes or explodes."""
    values = {}
    for layer in model.layers:
        for variable in layer.weights:
            name, shape = f"{layer.name}/{variable.name}", tuple(variable.shape)
            rng, first = peer.stream(3, name), layer.name == "bn_data"
            if variable.name == "kernel":
                value = rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
            elif variable.name == "moving_mean":
                value = 127 + 10 * rng.random(shape) if first else 0.1 * rng.standard_normal(shape)
            elif variable.name == "moving_variance":
                value = (5000 if first else 0.5) * (1 + rng.random(shape))
            else:
                value = (variable.name == "gamma") + 0.3 * rng.standard_normal(shape)
            values[name] = value.astype("float32")
    return values


@pytest.fixture(scope="module")
def unet():
    """Our network with drawn weights, for any size."""
    training.set_seed(0)
    model = resnet18_unet()
    values = drawn(model)
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(values[f"{layer.name}/{variable.name}"])
    return model


# --- the network --------------------------------------------------------------------------------------------------------


def test_parameters_and_shapes(unet):
    assert unet.count_params() == 14_340_570  # as in the log of tang2020's authors
    assert resnet18_unet(32).output.shape == (None, 32, 32, 1) and unet.output.shape[-1] == 1
    assert unet.get_layer("rescaling").scale == 255
    assert resnet18_unet(64, channels=1).input.shape == (None, 64, 64, 1)


def test_probabilities_are_the_packages(unet):
    """Those of segmentation_models as it comes, on TensorFlow, for images 0 to 255; see the next test."""
    probabilities = unet.predict(PIXELS / 255, verbose=0)
    assert probabilities.dtype == np.float32
    expected = np.load(FIXTURE)["probabilities"]
    assert expected.min() < 0.4 and expected.max() > 0.8
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


PEER = """
import sys
import numpy as np
import segmentation_models
from tensorflow import keras
given, made = sys.argv[1:]
model = segmentation_models.Unet("resnet18", encoder_weights=None)
with np.load(given) as arrays:
    for layer in model.layers:
        for variable in layer.weights:
            variable.assign(arrays[f"{layer.name}/{variable.name}"])
    pixels = arrays["pixels"]
maps = keras.Model(model.input, [layer.output for layer in model.layers]).predict(pixels, verbose=0)
np.savez(made, **{f"{i}": values for i, values in enumerate(maps)}, names=[layer.name for layer in model.layers])
"""


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="segmentation_models itself needs TensorFlow")
def test_every_layer_gives_what_the_package_gives(unet, tmp_path):
    given, made = tmp_path / "given.npz", tmp_path / "made.npz"
    np.savez(given, **drawn(unet), pixels=PIXELS)
    environment = {**os.environ, "SM_FRAMEWORK": "tf.keras", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run([sys.executable, "-c", PEER, given, made], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = np.load(made)
    ours = [layer for layer in unet.layers if layer.name != "rescaling"]
    assert len(ours) == len(theirs["names"])
    maps = keras.Model(unet.input, [layer.output for layer in ours]).predict(PIXELS / 255, verbose=0)
    for i, (layer, name) in enumerate(zip(ours, theirs["names"], strict=True)):
        if layer.weights or str(name).endswith("relu"):
            assert layer.name == name
        if layer.name != "data":
            scale = np.abs(theirs[f"{i}"]).max()
            assert scale > 0.1 and np.abs(maps[i] - theirs[f"{i}"]).max() < 1e-5 * scale, layer.name
    np.testing.assert_allclose(np.load(FIXTURE)["probabilities"], theirs[f"{len(ours) - 1}"], atol=1e-6)


def test_the_packages_name_stays_free():
    """Whoever imports segmentation_models itself, before or after, gets the whole of it; nothing here needs it."""
    code = (
        "import sys, keras\n"
        "from covidcxr.models.unet import resnet18_unet\n"
        "for _ in range(2): assert resnet18_unet().count_params() == 14_340_570\n"
        "assert not {'segmentation_models', 'tf_keras'} & set(sys.modules)\n"
        "if keras.backend.backend() == 'tensorflow':\n"
        "    import segmentation_models\n"
        "    assert segmentation_models.framework() == 'tf.keras' and segmentation_models.losses.DiceLoss()\n"
        "    assert segmentation_models.Unet('resnet18', encoder_weights=None).count_params() == 14_340_570\n"
        "    assert resnet18_unet().get_layer('rescaling').scale == 255\n"
        "else:\n"
        "    assert 'tensorflow' not in sys.modules\n"
    )
    environment = {**os.environ, "SM_FRAMEWORK": "tf.keras"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_saved_model_is_loaded_in_a_process_without_the_package(unet, tmp_path):
    unet.save(tmp_path / "unet.keras")
    np.savez(tmp_path / "unet.npz", pixels=PIXELS / 255, expected=unet.predict(PIXELS / 255, verbose=0))
    code = (
        "import sys, keras, numpy as np\n"
        "arrays, model = np.load(sys.argv[1]), keras.models.load_model(sys.argv[2], compile=False)\n"
        "np.testing.assert_allclose(model.predict(arrays['pixels'], verbose=0), arrays['expected'], atol=1e-6)\n"
        "assert not {'covidcxr', 'segmentation_models', 'classification_models', 'efficientnet'} & set(sys.modules)\n"
    )
    files = [tmp_path / "unet.npz", tmp_path / "unet.keras"]
    done = subprocess.run([sys.executable, "-c", code, *files], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_seed_decides_the_start():
    starts = []
    for seed in (0, 1, 0):
        training.set_seed(seed)
        starts.append([number(weight) for weight in resnet18_unet(32).weights])
    assert all(np.array_equal(first, again) for first, again in zip(starts[0], starts[2], strict=True))
    assert not np.array_equal(starts[0][3], starts[1][3])


# --- momentum, training -------------------------------------------------------------------------------------------------


def test_every_normalisation_has_the_momentum():
    assert len(normalisations(resnet18_unet())) == 29
    assert {layer.momentum for layer in normalisations(resnet18_unet())} == {0.99}
    model = resnet18_unet(64, momentum=0.75)
    assert {layer.momentum for layer in normalisations(model)} == {0.75}
    rebuilt = keras.Model.from_config(model.get_config())
    assert {layer.momentum for layer in normalisations(rebuilt)} == {0.75}


def disc(size=64):
    """A disc, brighter than its surroundings, and its mask."""
    row, column = np.mgrid[:size, :size]
    mask = np.hypot(row - 0.4 * size, column - 0.6 * size) < size / 5
    image = 0.4 + 0.2 * mask + 0.05 * np.random.default_rng(0).standard_normal((size, size))
    return image.clip(0, 1).astype("float32")[None, ..., None].repeat(3, axis=3), mask[None, ..., None].astype("float32")


def test_it_learns_one_picture_by_heart_and_the_statistics_follow():
    images, masks = disc()
    training.set_seed(0)
    model = resnet18_unet(64, momentum=0.5)
    model.compile(keras.optimizers.Adam(3e-3), "binary_crossentropy", jit_compile=training.jit_compile())
    model.train_on_batch(images, masks)
    mean, variance = (number(model.get_layer("bn_data").weights[i]) for i in (1, 2))
    np.testing.assert_allclose(mean, 0.5 * 255 * images.mean((0, 1, 2)), rtol=1e-3)
    np.testing.assert_allclose(variance, 0.5 + 0.5 * (255 * images).var((0, 1, 2)), rtol=1e-2)
    for _ in range(16):
        model.train_on_batch(images, masks)
    found = model.predict(images, verbose=0) > 0.5
    assert (found & (masks > 0)).sum() / (found | (masks > 0)).sum() > 0.8


# --- weights ------------------------------------------------------------------------------------------------------------

# The layers with weights of classification_models' ResNet18 in Keras 2, in the order in which it writes them.
UNIT = ("bn1", "conv1", "bn2", "conv2")
ENCODER = ["bn_data", "conv0", "bn0"]
for stage in range(1, 5):
    ENCODER += [f"stage{stage}_unit1_{part}" for part in (*UNIT, "sc")] + [f"stage{stage}_unit2_{part}" for part in UNIT]
ENCODER.append("bn1")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COVIDCXR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


def expect(monkeypatch, **facts):
    """Other facts of the published file."""
    entries = {**published.table(), IMAGENET: replace(published.table()[IMAGENET], **facts)}
    monkeypatch.setattr(published, "table", lambda: entries)


def test_the_table_says_what_classification_models_says():
    # segmentation_models demands this package in one version; nothing else here knows of it.
    collection = importlib.import_module("classification_models.weights").WEIGHTS_COLLECTION
    (theirs,) = [entry for entry in collection if entry["model"] == "resnet18" and not entry["include_top"]]
    ours = published.table()[IMAGENET]
    assert (ours.url, ours.hash, ours.file) == (theirs["url"], f"md5:{theirs['md5']}", theirs["name"])


def test_published_weights_set_the_encoder_and_the_seed_the_decoder(unet, cache, monkeypatch):
    arrays = {name: {v.name: number(v) for v in unet.get_layer(name).weights} for name in ENCODER}
    cache.mkdir(parents=True)
    file = cache / "resnet18_imagenet_1000_no_top.h5"
    write_keras_h5(file, {"data": {}, **arrays})
    expect(monkeypatch, hash=f"md5:{hashlib.md5(file.read_bytes()).hexdigest()}")
    training.set_seed(4)
    started = resnet18_unet(64, weights="imagenet", momentum=0.9)
    decoder = [layer for layer in started.layers if layer.weights and layer.name not in ENCODER]
    assert len(decoder) == 21 and started.count_params() == 14_340_570
    for name in ENCODER:
        for variable in started.get_layer(name).weights:
            np.testing.assert_array_equal(number(variable), arrays[name][variable.name])
    for layer in decoder:
        assert layer.name.startswith(("decoder_", "final_conv"))
        assert not np.array_equal(number(layer.weights[0]), number(unet.get_layer(layer.name).weights[0]))
    assert {layer.momentum for layer in normalisations(started)} == {0.9}


def test_without_a_connection_it_is_said_what_to_put_where(cache, monkeypatch):
    expect(monkeypatch, url="http://127.0.0.1:9/resnet18_imagenet_1000_no_top.h5")  # nobody listens at the port "discard"
    path = cache / "resnet18_imagenet_1000_no_top.h5"
    with pytest.raises(DataMissing, match="cannot be reached.*md5 318e3ac0cd98d51e917526c9f62f0b50") as caught:
        resnet18_unet(64, weights="imagenet")
    assert f"save it as {path}, and run the same command again" in str(caught.value)


def test_another_file_is_refused(cache):
    cache.mkdir(parents=True)
    (cache / "resnet18_imagenet_1000_no_top.h5").write_bytes(b"another")
    with pytest.raises(InputError, match="not the published one"):
        resnet18_unet(64, weights="imagenet")


@pytest.mark.parametrize(("how", "message"), [
    ({"image_size": 100}, "multiple of 32, or None; it is 100"),
    ({"image_size": 0}, "multiple of 32, or None; it is 0"),
    ({"image_size": -32}, "multiple of 32"),
    ({"channels": 2}, "channels must be 1 or 3; they are 2"),
    ({"weights": "coco"}, '"imagenet" or None.*\'coco\''),
    ({"weights": "imagenet", "channels": 1}, "for 3 channels"),
    ({"momentum": 1.0}, "below 1; it is 1.0"),
    ({"momentum": -0.1}, "at least 0"),
])
def test_wrong_arguments_are_named(how, message):
    with pytest.raises(ParameterError, match=message):
        resnet18_unet(**how)
