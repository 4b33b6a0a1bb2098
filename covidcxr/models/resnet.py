"""ResNet and ResNeXt (He et al., 2016; Xie et al., 2017): the encoder of classifiers and of Mask R-CNN.

    stem    7 x 7 convolution, stride 2, 64 channels, then 3 x 3 maximum, stride 2
    res2    stride  4
    res3    stride  8
    res4    stride 16
    res5    stride 32 (16 where dilated)

Every strided layer pads by hand, evenly on both sides: Keras' padding "same" pads the bottom and right more, which shifts maps by
half a pixel against every other implementation. The one exception is the maximum of the stem in matterport's Mask R-CNN.
"""

from dataclasses import dataclass
from typing import Literal

import keras
from keras import layers

from covidcxr.errors import ParameterError

# Blocks per stage; whether a block is a bottleneck (1 x 1, 3 x 3, 1 x 1) or basic (3 x 3, 3 x 3).
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


@keras.saving.register_keras_serializable("covidcxr")
class FixedBatchNormalization(layers.BatchNormalization):
    """Batch normalisation that always uses its running statistics, also in training, and never changes them."""

    def call(self, inputs, training=None, mask=None):
        """The inputs, normalised by running statistics whatever `training` says."""
        return super().call(inputs, training=False, mask=mask)


@dataclass(frozen=True)
class ResNet:
    """The design of a residual network. `network()` builds it.

    Attributes:
        depth: 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        groups, width_per_group: of the 3 x 3 convolution of a bottleneck; 32 and 8 with depth 101 are ResNeXt-101 32x8d.
        stride_in_1x1: whether a bottleneck's stride is on its first 1 x 1 convolution (the paper, keras.applications,
            detectron2's R50 and R101) or on its 3 x 3 (torchvision, ResNeXt).
        dilated_res5: whether res5 keeps stride 16 and dilates its 3 x 3 convolutions by 2 (DC5).
        norm: "frozen": batch normalisation is a constant; "scale": running statistics, scale and shift are trained;
            "batch": as invented, statistics of the batch.
        epsilon: added to variances. 1e-5 in torch, 1.001e-5 in keras.applications, 1e-3 in matterport's Mask R-CNN.
        pool_padding: where the stem's maximum is padded: on "both" sides, or at the "end" only, bottom and right, as matterport's
            Mask R-CNN does, whose maps lie half a cell of res2 further up and left.
        frozen_stages: stages not trained, counted from the stem: 0 none, 1 the stem, 2 stem and res2, and so on.
    """

    depth: int = 50
    groups: int = 1
    width_per_group: int = 64
    stride_in_1x1: bool = False
    dilated_res5: bool = False
    norm: Literal["frozen", "scale", "batch"] = "batch"
    epsilon: float = 1e-5
    pool_padding: Literal["both", "end"] = "both"
    frozen_stages: int = 0

    def __post_init__(self):
        if self.depth not in DEPTHS:
            raise ParameterError(f"A ResNet has a depth of {', '.join(map(str, DEPTHS))}; {self.depth} is not one of them.")
        if self.norm not in ("frozen", "scale", "batch"):
            raise ParameterError(f'norm must be "frozen", "scale" or "batch"; it is {self.norm!r}.')
        if self.pool_padding not in ("both", "end"):
            raise ParameterError(f'pool_padding must be "both" or "end"; it is {self.pool_padding!r}.')
        if not self.bottleneck and (self.groups, self.width_per_group) != (1, 64):
            raise ParameterError(f"Groups and widths are of bottlenecks; a ResNet-{self.depth} has none.")
        if not 0 <= self.frozen_stages <= 5:
            raise ParameterError(f"frozen_stages must be between 0 and 5; it is {self.frozen_stages}.")

    @property
    def bottleneck(self) -> bool:
        """Whether its blocks are bottlenecks."""
        return DEPTHS[self.depth][1]

    def channels(self, stage: int) -> int:
        """Channels that stage 2, 3, 4 or 5 puts out."""
        return (256 if self.bottleneck else 64) * 2 ** (stage - 2)

    def network(self, last_stage: int = 5, input_channels: int = 3, name: str = "resnet") -> keras.Model:
        """The network from normalised images (N, H, W, input_channels) to the maps of res2 ... `last_stage`, finest first."""
        image = keras.Input((None, None, input_channels), name="image")
        trainable = self.frozen_stages < 1
        x = self._convolve(image, 64, 7, "stem_conv", stride=2, trainable=trainable)
        x = layers.ReLU(name="stem_relu")(self._normalise(x, "stem_norm", trainable))
        before = 1 if self.pool_padding == "both" else 0
        x = layers.ZeroPadding2D(((before, 1), (before, 1)), name="stem_pool_pad")(x)
        x = layers.MaxPooling2D(3, 2, name="stem_pool")(x)
        maps = []
        for stage in range(2, last_stage + 1):
            x = self._stage(x, stage)
            maps.append(x)
        return keras.Model(image, maps, name=name)

    def stage5(self, name: str = "res5") -> keras.Model:
        """res5 alone, from maps (N, H, W, channels(4)): what Mask R-CNN C4 applies to each region."""
        x = keras.Input((None, None, self.channels(4)), name="map")
        return keras.Model(x, self._stage(x, 5), name=name)

    def _stage(self, x, stage):
        trainable = self.frozen_stages < stage
        dilation = 2 if stage == 5 and self.dilated_res5 else 1
        first_stride = 1 if stage == 2 or dilation > 1 else 2
        for block in range(DEPTHS[self.depth][0][stage - 2]):
            stride = first_stride if block == 0 else 1
            x = self._block(x, stage, f"res{stage}_{block}", stride, dilation, trainable)
        return x

    def _block(self, x, stage, name, stride, dilation, trainable):
        """Adds to x what a block makes of it."""
        channels = self.channels(stage)
        shortcut = x
        if stride > 1 or x.shape[-1] != channels:
            shortcut = self._convolve(x, channels, 1, f"{name}_shortcut", stride, trainable=trainable)
            shortcut = self._normalise(shortcut, f"{name}_shortcut_norm", trainable)
        if self.bottleneck:
            inner = self.groups * self.width_per_group * 2 ** (stage - 2)
            strides = (stride, 1) if self.stride_in_1x1 else (1, stride)
            convolutions = [
                {"channels": inner, "size": 1, "stride": strides[0]},
                {"channels": inner, "size": 3, "stride": strides[1], "dilation": dilation, "groups": self.groups},
                {"channels": channels, "size": 1},
            ]
        else:
            convolutions = [
                {"channels": channels, "size": 3, "stride": stride, "dilation": dilation},
                {"channels": channels, "size": 3, "dilation": dilation},
            ]
        for i, convolution in enumerate(convolutions, 1):
            x = self._convolve(x, name=f"{name}_conv{i}", trainable=trainable, **convolution)
            x = self._normalise(x, f"{name}_norm{i}", trainable)
            if i < len(convolutions):
                x = layers.ReLU(name=f"{name}_relu{i}")(x)
        return layers.ReLU(name=f"{name}_out")(layers.Add(name=f"{name}_add")([x, shortcut]))

    def _convolve(self, x, channels, size, name, stride=1, dilation=1, groups=1, trainable=True):
        pad = dilation * (size // 2)
        if stride > 1 and pad:
            x = layers.ZeroPadding2D(pad, name=f"{name}_pad")(x)
        convolution = layers.Conv2D(
            channels,
            size,
            stride,
            padding="valid" if stride > 1 else "same",
            dilation_rate=dilation,
            groups=groups,
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out"),
            trainable=trainable,
            name=name,
        )
        return convolution(x)

    def _normalise(self, x, name, trainable):
        kind = layers.BatchNormalization if self.norm == "batch" and trainable else FixedBatchNormalization
        # Momentum 0.9 is torch's 0.1.
        return kind(momentum=0.9, epsilon=self.epsilon, trainable=trainable and self.norm != "frozen", name=name)(x)
