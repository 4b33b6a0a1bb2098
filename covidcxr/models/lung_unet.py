"""The lung network of zhang2020: the U-Net of Ronneberger et al. (2015) in the padded Keras variant of zhixuhao/unet.

Section 4.1 of the paper: two 3 x 3 convolutions and a 2 x 2 maximum in each layer of the contracting path; up-sampling, a 2 x 2
convolution, and two 3 x 3 convolutions in each layer of the expanding path; ReLU throughout; a 1 x 1 convolution and a sigmoid at
the end. What the paper does not say is the variant's: 64 filters at the top, four halvings, dropout of one half in the two
deepest layers, weights after He et al., a convolution with two filters before the last. That makes 31,032,837 parameters.
"""

from typing import TYPE_CHECKING

from covidcxr.errors import ParameterError

if TYPE_CHECKING:
    import keras


def lung_unet(
    image_size: int | None = None,
    channels: int = 3,
    base_filters: int = 64,
    depth: int = 4,
    dropout: float = 0.5,
    batch_norm: bool = False,
    momentum: float = 0.99,
    last_filters: int = 2,
) -> "keras.Model":
    """A U-Net from images (N, H, W, channels) in [0, 1] to probabilities of lung (N, H, W, 1), float32.

    Args:
        image_size: side of the images, a multiple of 2 ** depth; None: heights and widths are free, multiples of the same.
        channels: of the images; a grey radiograph is given three times in the paper.
        base_filters: of the first layer, doubled by each halving. In the variant 64.
        depth: halvings. In the variant 4.
        dropout: share of values that are dropped after the two deepest layers; 0: none. In the variant one half.
        batch_norm: batch normalisation between convolution and ReLU. The variant has none; small networks learn faster with it.
        momentum: of the batch normalisation; see `models.unet.resnet18_unet`.
        last_filters: of the 3 x 3 convolution before the last; 0: none. In the variant 2: where both are silent, as ReLU makes
            them, the probability is the last bias alone, which is learned slowly; if they die, nothing else is ever learned.

    Raises:
        ParameterError: a number is out of its range.
    """
    import keras
    from keras import layers

    _check(image_size, base_filters, depth, dropout, last_filters)

    def convolution(x, name: str, filters: int, kernel: int = 3):
        """Convolution, batch normalisation where wanted, ReLU."""
        x = layers.Conv2D(
            filters, kernel, padding="same", use_bias=not batch_norm, kernel_initializer="he_normal", name=name,
            activation=None if batch_norm else "relu",
        )(x)
        if batch_norm:
            x = layers.BatchNormalization(momentum=momentum, name=f"{name}_norm")(x)
            x = layers.ReLU(name=f"{name}_relu")(x)
        return x

    def double(x, name: str, filters: int):
        return convolution(convolution(x, f"{name}_conv1", filters), f"{name}_conv2", filters)

    def dropped(x, name: str):
        return layers.Dropout(dropout, name=f"{name}_dropout")(x) if dropout else x

    image = x = keras.Input((image_size, image_size, channels), name="image")
    skips = []
    for level in range(1, depth + 1):
        x = double(x, f"down{level}", base_filters * 2 ** (level - 1))
        skips.append(dropped(x, f"down{level}") if level == depth else x)
        x = layers.MaxPooling2D(2, name=f"down{level}_pool")(skips[-1])
    x = dropped(double(x, "bottom", base_filters * 2**depth), "bottom")
    for level in range(depth, 0, -1):
        filters = base_filters * 2 ** (level - 1)
        x = layers.UpSampling2D(2, name=f"up{level}_enlarged")(x)
        x = convolution(x, f"up{level}_conv0", filters, kernel=2)
        x = layers.Concatenate(name=f"up{level}_both")([skips[level - 1], x])
        x = double(x, f"up{level}", filters)
    if last_filters:
        x = convolution(x, "last", last_filters)
    # Probabilities stay float32 where the rest computes in half precision.
    x = layers.Conv2D(1, 1, activation="sigmoid", kernel_initializer="he_normal", dtype="float32", name="lung")(x)
    return keras.Model(image, x, name="lung_unet")


def _check(image_size: int | None, base_filters: int, depth: int, dropout: float, last_filters: int) -> None:
    if base_filters < 1 or depth < 1 or last_filters < 0:
        found = f"{base_filters}, {depth}, {last_filters}"
        raise ParameterError(f"base_filters and depth must be at least 1, last_filters at least 0; they are {found}.")
    if not 0 <= dropout < 1:
        raise ParameterError(f"dropout must be at least 0 and below 1; it is {dropout!r}.")
    if image_size is not None and (image_size < 2**depth or image_size % 2**depth):
        raise ParameterError(f"With {depth} halvings, image_size must be a multiple of {2**depth}; it is {image_size}.")
