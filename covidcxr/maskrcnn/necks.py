"""The feature pyramid between backbone and heads. The necks C4 and DC5 take the backbone's last map as it is."""

import keras
from keras import layers


def fpn(channels, width=256):
    """Feature pyramid network (Lin et al., 2017): from [res2, res3, res4, res5] to [p2, p3, p4, p5, p6].

    Each map is brought to `width` channels by a 1 x 1 convolution, the coarser level is added, enlarged twofold by repetition,
    and a 3 x 3 convolution smooths the sum. p6 is every second cell of p5.

    Args:
        channels: of the four maps, finest first.
    """
    maps = [keras.Input((None, None, c), name=f"res{k}") for k, c in enumerate(channels, 2)]
    laterals = [_convolve(width, 1, f"fpn_lateral{k}")(m) for k, m in enumerate(maps, 2)]
    sums = laterals[-1:]
    for k, lateral in zip((4, 3, 2), reversed(laterals[:-1]), strict=True):
        enlarged = layers.UpSampling2D(2, name=f"fpn_enlarged{k + 1}")(sums[0])
        sums.insert(0, layers.Add(name=f"fpn_sum{k}")([lateral, enlarged]))
    outputs = [_convolve(width, 3, f"fpn_output{k}")(s) for k, s in enumerate(sums, 2)]
    outputs.append(layers.MaxPooling2D(1, 2, name="fpn_p6")(outputs[-1]))
    return keras.Model(maps, outputs, name="fpn")


def _convolve(channels, size, name):
    return layers.Conv2D(channels, size, padding="same", kernel_initializer="he_uniform", name=name)
