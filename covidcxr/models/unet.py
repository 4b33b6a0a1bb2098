"""U-Net with a ResNet-18 encoder, the network of tang2020 and of ramesh2021's baseline, built by segmentation_models.

segmentation_models 1.0.1 was written for Keras 2. Its builders take Keras' modules as arguments, so the network is made by its
own code on whatever Keras runs on. What comes out consists of Keras' layers alone: a saved model is loaded without it.
"""

import importlib
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType, SimpleNamespace
from typing import Literal

import keras

from covidcxr.errors import ParameterError
from covidcxr.models import published

IMAGENET = "classification_models_resnet18"
"""Weights of the encoder, in params/weights.yaml."""

STRIDE = 32  # of the encoder's last maps: height and width are multiples of it
PRIVATE = "covidcxr.models._segmentation_models"


def resnet18_unet(
    image_size: int | None = None, channels: int = 3, weights: Literal["imagenet"] | None = None, momentum: float = 0.99
) -> keras.Model:
    """The network `segmentation_models.Unet("resnet18")`, from images in [0, 1] to the probability of each pixel.

    The encoder normalises before it convolves, and its input first ("bn_data", whose statistics are among the weights). Those of
    ImageNet are of images from 0 to 255, and the package's examples feed such images whatever the start. So here the layer
    "rescaling", which has no parameters, multiplies by 255, with either start.

    Args:
        image_size: pixels, height and width, a multiple of 32; None: whatever comes, each side a multiple of 32.
        channels: 3, or 1 with a random start.
        weights: "imagenet": the encoder starts from classification_models' weights for ImageNet (`published.fetch`), the decoder
            at random. None: all at random. Nothing falls back to it: who wants a random start where the file is not to be had
            catches DataMissing, and says so.
        momentum: of every batch normalisation. Of the statistics that inference uses, momentum ** n are still those of the start
            after n steps: with 0.99, which is Keras' and segmentation_models', more than a third after 100. In a short run
            inference then looks broken although training goes well: trained from a random start on 60 radiographs with lesions,
            IoU after 80, 160 and 240 steps was 0.03, 0.12 and 0.07, and with 0.8 it was 0.40, 0.44 and 0.47. Choose it by the
            length of the run.

    Returns:
        a model, not compiled, of images (N, H, W, channels) float32 to (N, H, W, 1) float32 in [0, 1]. With three channels it has
        14,340,570 parameters. Its start is drawn from Keras' random state (`training.set_seed`).

    Raises:
        ParameterError: an argument is not as above.
        DataMissing: the weights are not here and there is no connection; the message says which file to put where.
        InputError: the file is not the published one.
    """
    _check(image_size, channels, weights, momentum)
    encoder_weights = str(published.fetch(IMAGENET)) if weights == "imagenet" else None
    shape = (image_size, image_size, channels)
    model = _builder().Unet("resnet18", shape, encoder_weights=encoder_weights, **_keras_modules())
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum
    return model


def _check(image_size, channels, weights, momentum):
    if image_size is not None and (image_size < STRIDE or image_size % STRIDE):
        raise ParameterError(f"image_size must be a multiple of {STRIDE}, or None; it is {image_size}.")
    if weights not in (None, "imagenet"):
        raise ParameterError(f'weights must be "imagenet" or None, a random start; they are {weights!r}.')
    if channels not in (1, 3):
        raise ParameterError(f"channels must be 1 or 3; they are {channels}.")
    if weights == "imagenet" and channels != 3:
        raise ParameterError("ImageNet's weights are for 3 channels: repeat a grey image three times, or start at random.")
    if not 0 <= momentum < 1:
        raise ParameterError(f"momentum must be at least 0 and below 1; it is {momentum}.")


@cache
def _builder() -> ModuleType:
    """The module segmentation_models.models.unet, without the rest of the package.

    Importing segmentation_models itself asks Keras for `keras.utils.generic_utils`, which Keras 3 does not have, or, with
    SM_FRAMEWORK=tf.keras, for TensorFlow. Only its `__init__` does so; the builders, which name each other relatively, do not.
    So they are imported as parts of a package with another, private name, whose `__init__` is not run. Whoever imports
    segmentation_models by its own name gets the whole package as ever, with module variables of its own.
    """
    found = find_spec("segmentation_models")
    if found is None:
        raise ModuleNotFoundError("segmentation_models, a dependency of this package, is not installed.")
    bare = ModuleSpec(PRIVATE, loader=None, is_package=True)
    bare.submodule_search_locations = list(found.submodule_search_locations or ())
    sys.modules[PRIVATE] = module_from_spec(bare)
    return importlib.import_module(f"{PRIVATE}.models.unet")


def _keras_modules() -> dict:
    """Keras as the builders ask for it: of `backend` a ResNet needs `image_data_format` only.

    Two differ from Keras': what the builder takes for its input is the image times 255, and a model begins at the image.
    """

    def scaled_input(shape, name):
        return keras.layers.Rescaling(255.0, name="rescaling")(keras.Input(shape, name=name))

    def model(inputs, outputs):
        (image,) = keras.utils.get_source_inputs(inputs)
        return keras.Model(image, outputs)

    return {
        "backend": keras.backend,
        "layers": SimpleNamespace(**{**vars(keras.layers), "Input": scaled_input}),
        "models": SimpleNamespace(Model=model),
        "utils": keras.utils,
    }
