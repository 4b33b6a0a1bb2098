"""ResNet: shapes, sizes, what is trained. That it computes the right thing is shown by test_maskrcnn_peers.py."""

import numpy as np
import pytest
from keras import ops

from covidcxr.errors import ParameterError
from covidcxr.models.resnet import ResNet


# Parameters of torchvision's resnet18, resnet50, resnet101, resnext101_32x8d, less those of the last layer (fc).
@pytest.mark.parametrize(
    ("design", "parameters"),
    [
        (ResNet(18), 11_689_512 - 513_000),
        (ResNet(50), 25_557_032 - 2_049_000),
        (ResNet(101), 44_549_160 - 2_049_000),
        (ResNet(101, groups=32, width_per_group=8), 88_791_336 - 2_049_000),
    ],
)
def test_parameters_are_as_many_as_published(design, parameters):
    network = design.network()
    statistics = sum(v.path.endswith(("moving_mean", "moving_variance")) * int(np.prod(v.shape)) for v in network.weights)
    assert network.count_params() - statistics == parameters
    names = [layer.name for layer in network.layers]
    assert len(set(names)) == len(names) and not any("." in name for name in names)


def test_maps_have_the_strides_and_channels_said():
    shapes = [tuple(m.shape) for m in ResNet(18).network()(np.zeros((1, 64, 96, 3), "float32"))]
    assert shapes == [(1, 16, 24, 64), (1, 8, 12, 128), (1, 4, 6, 256), (1, 2, 3, 512)]
    dilated = ResNet(50, dilated_res5=True)
    shapes = [tuple(m.shape) for m in dilated.network()(np.zeros((1, 64, 64, 3), "float32"))]
    assert shapes[2:] == [(1, 4, 4, dilated.channels(4)), (1, 4, 4, dilated.channels(5))]
    assert ResNet(50).stage5()(np.zeros((2, 14, 14, 1024), "float32")).shape == (2, 7, 7, 2048)


def test_frozen_statistics_do_not_move_and_frozen_stages_are_not_trained():
    image = np.random.default_rng(0).random((2, 64, 64, 3), dtype="float32")
    for norm, moves in (("frozen", False), ("scale", False), ("batch", True)):
        network = ResNet(18, norm=norm, frozen_stages=2).network()
        assert not any(v.path.split("/")[-2].startswith(("stem", "res2")) for v in network.trainable_weights)
        assert any("res3" in v.path for v in network.trainable_weights)
        assert any("norm" in v.path for v in network.trainable_weights) == (norm != "frozen")
        statistics = [v for v in network.weights if "moving" in v.path]
        before = [ops.convert_to_numpy(v) for v in statistics]
        network(image, training=True)
        moved = {v.path.split("/")[-2] for v, b in zip(statistics, before, strict=True) if (ops.convert_to_numpy(v) != b).any()}
        assert bool(moved) == moves
        assert not any(name.startswith(("stem", "res2")) for name in moved)


def test_wrong_designs_are_refused():
    for wrong in ({"depth": 20}, {"norm": "group"}, {"depth": 18, "groups": 32}, {"frozen_stages": 6}):
        with pytest.raises(ParameterError):
            ResNet(**wrong)
