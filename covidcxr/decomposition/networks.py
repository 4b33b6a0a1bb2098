"""The networks of yang2021 and its GAN peers: a U-Net with two decoders, one with one decoder, a critic.

Section 3.1 of the paper: encoder and generator form "the well-known U-Net", encoder and lesion decoder another; the only change
is tanh after the last layer of each. The critic is "a seven-layer CNN […] with the outputs of three down-samplings pooled
globally and then concatenated to form the input to the final fully connected layer". What it does not say is chosen here:
filters, He's weights, no batch normalisation, leaky ReLU in the critic, average pooling, and which six layers are convolutions.
"""

from typing import TYPE_CHECKING

from covidcxr.errors import ParameterError

if TYPE_CHECKING:
    import keras


def decomposer(image_size: int, base_filters: int = 64, depth: int = 4, two_parts: bool = True) -> "keras.Model":
    """E, G1 and G2: from images (N, H, W, 1) to their normal part and their lesion, each (N, H, W, 1) in (-1, 1).

    Without batch normalisation, as Ronneberger's U-Net. Half of a batch in training is normal, so that a lesioned image would be
    normalised by what it is never seen with later: on a toy whose lesions are 0.7 bright, maps outside of them were 0.33 off with
    it, and 0.03 without.

    Args:
        image_size: side of the images, a multiple of 2 ** depth.
        base_filters: of the first layer, doubled by each halving; 64 in Ronneberger's U-Net.
        depth: halvings; 4 in Ronneberger's.
        two_parts: False leaves the lesion decoder out: one output, the normal part.

    Raises:
        ParameterError: a number is out of its range.
    """
    import keras
    from keras import layers

    _check(image_size, base_filters, depth)

    def double(x, name: str, filters: int):
        for number in (1, 2):
            x = layers.Conv2D(filters, 3, padding="same", kernel_initializer="he_normal", name=f"{name}_conv{number}")(x)
            x = layers.ReLU(name=f"{name}_relu{number}")(x)
        return x

    def decoder(x, skips: list, name: str):
        for level in range(depth, 0, -1):
            x = layers.UpSampling2D(2, name=f"{name}{level}_enlarged")(x)
            x = layers.Concatenate(name=f"{name}{level}_both")([skips[level - 1], x])
            x = double(x, f"{name}{level}", base_filters * 2 ** (level - 1))
        # Small weights: both parts begin near 0, far from where tanh is flat.
        start = keras.initializers.RandomNormal(stddev=0.01)
        x = layers.Conv2D(1, 1, kernel_initializer=start, name=f"{name}_last")(x)
        return layers.Activation("tanh", dtype="float32", name=name)(x)

    image = x = keras.Input((image_size, image_size, 1), name="image")
    skips = []
    for level in range(1, depth + 1):
        x = double(x, f"down{level}", base_filters * 2 ** (level - 1))
        skips.append(x)
        x = layers.MaxPooling2D(2, name=f"down{level}_pool")(x)
    x = double(x, "bottom", base_filters * 2**depth)
    parts = [decoder(x, skips, name) for name in ("normal", "lesion")[: 2 if two_parts else 1]]
    return keras.Model(image, parts if two_parts else parts[0], name="decomposer" if two_parts else "generator")


def critic(image_size: int, base_filters: int = 32) -> "keras.Model":
    """D: from images (N, H, W, 1) to how real they look, (N, 1), without bounds.

    Three times a convolution and one with stride 2, each 3 x 3 with leaky ReLU; the means of the three strided ones' maps enter
    one dense layer: seven layers with weights. None of them mixes images, as the gradient penalty needs it.

    Args:
        image_size: side of the images, at least 8.
        base_filters: of the first two convolutions; the next two have twice, the last two four times as many.
    """
    import keras
    from keras import layers

    _check(image_size, base_filters, 3)
    image = x = keras.Input((image_size, image_size, 1), name="image")
    pooled = []
    for level in (1, 2, 3):
        for stride in (1, 2):
            x = layers.Conv2D(base_filters * 2 ** (level - 1), 3, stride, padding="same", kernel_initializer="he_normal",
                              name=f"level{level}_conv{stride}")(x)
            x = layers.LeakyReLU(0.2, name=f"level{level}_relu{stride}")(x)
        pooled.append(layers.GlobalAveragePooling2D(name=f"level{level}_mean")(x))
    x = layers.Concatenate(name="means")(pooled)
    return keras.Model(image, layers.Dense(1, dtype="float32", name="realness")(x), name="critic")


def _check(image_size: int, base_filters: int, depth: int) -> None:
    if base_filters < 1 or depth < 1:
        raise ParameterError(f"base_filters and depth must be at least 1; they are {base_filters} and {depth}.")
    if image_size < 2**depth or image_size % 2**depth:
        raise ParameterError(f"With {depth} halvings, image_size must be a multiple of {2**depth}; it is {image_size}.")
