"""Weights of whole detectors and of residual networks in a `MaskRCNN`.

Those of torchvision and detectron2 are shown to compute the same by test_maskrcnn_peers.py. matterport's program is rebuilt here
from its layers, in its order and with its names (mrcnn/model.py, mrcnn/utils.py), with random weights: it and our model, loaded
from its file, must say the same of the same images and regions.
"""

import hashlib
import pickle
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras_files import write_keras_h5
from peer_fixtures import peer_weights as peer

from covidcxr.errors import InputError
from covidcxr.maskrcnn import weights
from covidcxr.maskrcnn.boxes import REGION_WEIGHTS, decode
from covidcxr.maskrcnn.model import MaskRCNN
from covidcxr.maskrcnn.pixels import normalise
from covidcxr.maskrcnn.presets import gaikwad2020, ramesh2021
from covidcxr.maskrcnn.settings import Settings
from covidcxr.models import published
from covidcxr.models.resnet import ResNet

CLASSES, PYRAMID, HIDDEN, SIDE = 4, 16, 24, 64  # classes with background
SETTINGS = replace(
    ramesh2021(CLASSES - 1),
    backbone=replace(ramesh2021().backbone, depth=50),
    pyramid_channels=PYRAMID,
    rpn_channels=HIDDEN,
)


def number(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


class Matterport:
    """The networks of matterport's Mask R-CNN, with ResNet-50, fewer channels and random weights."""

    def __init__(self):
        image = keras.Input((SIDE, SIDE, 3))
        self.features = keras.Model(image, self.pyramid(self.resnet(image)))
        level = keras.Input((None, None, PYRAMID))
        shared = layers.Conv2D(HIDDEN, 3, padding="same", activation="relu", name="rpn_conv_shared")(level)
        outputs = [layers.Conv2D(6, 1, name="rpn_class_raw")(shared), layers.Conv2D(12, 1, name="rpn_bbox_pred")(shared)]
        self.rpn_model = keras.Model(level, outputs)
        region = keras.Input((7, 7, PYRAMID))
        self.classifier = keras.Model(region, self.box_head(region))
        region = keras.Input((14, 14, PYRAMID))
        self.masks = keras.Model(region, self.mask_head(region))
        for model in (self.features, self.rpn_model, self.classifier, self.masks):
            for variable in model.weights:
                variable.assign(random_value(variable))

    def resnet(self, x):
        x = layers.ZeroPadding2D(3)(x)
        x = layers.Conv2D(64, 7, strides=2, name="conv1")(x)
        x = layers.ReLU()(layers.BatchNormalization(name="bn_conv1")(x))
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        maps = []
        for stage, (blocks, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 2):
            for block in "abcdef"[:blocks]:
                x = self.block(x, f"{stage}{block}_branch", width, 2 if block == "a" and stage > 2 else 1, block == "a")
            maps.append(x)
        return maps

    def block(self, x, name, width, stride, projected):
        y, shortcut = x, x
        for part, channels, size in (("2a", width, 1), ("2b", width, 3), ("2c", 4 * width, 1)):
            strides = stride if part == "2a" else 1
            y = layers.Conv2D(channels, size, strides, padding="valid" if size == 1 else "same", name=f"res{name}{part}")(y)
            y = layers.BatchNormalization(name=f"bn{name}{part}")(y)
            y = layers.ReLU()(y) if part != "2c" else y
        if projected:
            shortcut = layers.Conv2D(4 * width, 1, stride, name=f"res{name}1")(x)
            shortcut = layers.BatchNormalization(name=f"bn{name}1")(shortcut)
        return layers.ReLU()(layers.Add()([y, shortcut]))

    def pyramid(self, maps):
        c2, c3, c4, c5 = maps
        p5 = layers.Conv2D(PYRAMID, 1, name="fpn_c5p5")(c5)
        p4 = layers.Add()([layers.UpSampling2D(2)(p5), layers.Conv2D(PYRAMID, 1, name="fpn_c4p4")(c4)])
        p3 = layers.Add()([layers.UpSampling2D(2)(p4), layers.Conv2D(PYRAMID, 1, name="fpn_c3p3")(c3)])
        p2 = layers.Add()([layers.UpSampling2D(2)(p3), layers.Conv2D(PYRAMID, 1, name="fpn_c2p2")(c2)])
        levels = [layers.Conv2D(PYRAMID, 3, padding="same", name=f"fpn_p{k}")(p) for k, p in enumerate((p2, p3, p4, p5), 2)]
        return [*levels, layers.MaxPooling2D(1, strides=2)(levels[-1])]

    def box_head(self, x):
        x = layers.Conv2D(1024, 7, name="mrcnn_class_conv1")(x)
        x = layers.ReLU()(layers.BatchNormalization(name="mrcnn_class_bn1")(x))
        x = layers.Conv2D(1024, 1, name="mrcnn_class_conv2")(x)
        x = layers.ReLU()(layers.BatchNormalization(name="mrcnn_class_bn2")(x))
        shared = layers.Reshape((1024,))(x)
        logits = layers.Dense(CLASSES, name="mrcnn_class_logits")(shared)
        boxes = layers.Dense(4 * CLASSES, name="mrcnn_bbox_fc")(shared)
        return [layers.Softmax()(logits), layers.Reshape((CLASSES, 4))(boxes)]

    def mask_head(self, x):
        for i in range(1, 5):
            x = layers.Conv2D(PYRAMID, 3, padding="same", name=f"mrcnn_mask_conv{i}")(x)
            x = layers.ReLU()(layers.BatchNormalization(name=f"mrcnn_mask_bn{i}")(x))
        x = layers.Conv2DTranspose(PYRAMID, 2, strides=2, activation="relu", name="mrcnn_mask_deconv")(x)
        return layers.Conv2D(CLASSES, 1, activation="sigmoid", name="mrcnn_mask")(x)

    def write(self, path):
        """Saves all weights as the program does; returns the paths of the arrays in the file."""
        outer = {}
        for model in (self.features, self.classifier, self.masks):
            outer |= arrays_of(model)
        return write_keras_h5(path, {"input_image": {}, **outer}, {"rpn_model": arrays_of(self.rpn_model)})


def arrays_of(model):
    return {layer.name: {v.name: number(v) for v in layer.weights} for layer in model.layers if layer.weights}


def random_value(variable):
    """Random, so that no scale, shift or statistic is what it would be by default, and maps stay of the order of 1."""
    rng, kind = peer.stream(0, variable.path), variable.name
    if kind == "kernel":
        # Pixels are of the order of 100; no delta may come to the limit that ours has and theirs has not.
        gain = {"conv1": 0.01, "rpn_bbox_pred": 0.2, "mrcnn_bbox_fc": 0.2}.get(variable.path.split("/")[0], 1.0)
        return rng.normal(0, gain * np.sqrt(2 / np.prod(variable.shape[:-1])), variable.shape)
    closing = "branch2c" in variable.path
    low, high = {"gamma": (0.1, 0.4) if closing else (0.7, 1.3), "moving_variance": (0.5, 1.5)}.get(kind, (-0.3, 0.3))
    return rng.uniform(low, high, variable.shape)


@pytest.fixture(scope="module")
def theirs():
    keras.backend.clear_session()
    return Matterport()


@pytest.fixture(scope="module")
def file(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mask_rcnn_coco.h5"
    return path, theirs.write(path)


@pytest.fixture(scope="module")
def ours(file):
    model = MaskRCNN(SETTINGS)
    return model, weights.load(model, file[0])


@pytest.fixture(scope="module")
def image():
    return (peer.image(0, 0, SIDE, SIDE)[None] / 255).astype("float32")


@pytest.fixture(scope="module")
def maps(ours, image):
    model, _ = ours
    sizes = np.full((1, 2), SIDE, "float32")
    return model.feature_maps(normalise(ops.convert_to_tensor(image), ops.convert_to_tensor(sizes), SETTINGS.pixels))


def same(ours, theirs, relative=1e-5):
    ours, theirs = number(ours), number(theirs)
    assert ours.shape == theirs.shape
    scale = np.abs(theirs).max()
    assert scale > 0.01 and np.abs(ours - theirs).max() <= relative * scale, np.abs(ours - theirs).max() / scale


def test_every_tensor_of_matterports_file_is_used(ours, file):
    model, report = ours
    assert set(report.loaded) == file[1] and not report.skipped and not report.unused and not report.missing
    assert {v for targets in report.loaded.values() for v in targets.split(", ")} == set(weights.variables_of(model))
    assert report.loaded["bn_conv1/bn_conv1/moving_mean:0"] == report.loaded["conv1/conv1/bias:0"] == "stem_norm/moving_mean"
    assert report.loaded["mrcnn_mask_bn2/mrcnn_mask_bn2/gamma:0"] == "mask_conv2/kernel, mask_conv2/bias"
    assert f"{len(file[1])} of {len(file[1])} tensors loaded; names of matterport." in str(report)


def test_matterports_pyramid(theirs, maps, image):
    expected = theirs.features(image * 255 - np.array([123.7, 116.8, 103.9], "float32"))
    assert len(maps) == len(expected) == 5
    for own, other in zip(maps, expected, strict=True):
        same(own, other)


def matterport_decode(boxes, deltas):
    """utils.apply_box_deltas, with RPN_BBOX_STD_DEV and BBOX_STD_DEV: (..., 4) of y1, x1, y2, x2."""
    dy, dx, dh, dw = np.moveaxis(deltas * np.array([0.1, 0.1, 0.2, 0.2]), -1, 0)
    y1, x1, y2, x2 = np.moveaxis(boxes, -1, 0)
    height, width = y2 - y1, x2 - x1
    middle_y, middle_x = y1 + 0.5 * height + dy * height, x1 + 0.5 * width + dx * width
    height, width = height * np.exp(dh), width * np.exp(dw)
    return np.stack([middle_y - height / 2, middle_x - width / 2, middle_y + height / 2, middle_x + width / 2], -1)


def matterport_anchors(scale, rows, columns, stride):
    """utils.generate_anchors: (cells · 3, 4), y1, x1, y2, x2."""
    ratios = np.array([0.5, 1, 2])
    heights, widths = scale / np.sqrt(ratios), scale * np.sqrt(ratios)
    y, x = np.meshgrid(np.arange(rows) * stride, np.arange(columns) * stride, indexing="ij")
    middles = np.stack([y.ravel(), x.ravel()], -1)[:, None]
    half = np.stack([heights, widths], -1)[None] / 2
    return np.concatenate([middles - half, middles + half], -1).reshape(-1, 4)


def test_matterports_proposals(ours, theirs, maps):
    """Scores and refined boxes of all anchors, matched by the anchor they start from."""
    model, _ = ours
    logits, deltas = model.rpn_outputs(maps)
    for k, anchors in enumerate(model.anchors_of(maps)):
        rows, columns = maps[k].shape[1:3]
        raw, boxes = (number(output) for output in theirs.rpn_model(maps[k]))
        raw, boxes = raw.reshape(-1, 2), boxes.reshape(-1, 4)
        scores = np.exp(raw[:, 1]) / np.exp(raw).sum(-1)
        starts = matterport_anchors(32 * 2**k, rows, columns, 4 * 2**k)
        mine = anchors[:, [1, 0, 3, 2]].reshape(-1, 3, 4)
        # Within a cell, the row of theirs with the same anchor.
        gap = np.abs(mine[:, :, None] - starts.reshape(-1, 1, 3, 4)).max(-1)
        assert gap.min(-1).max() < 1e-3
        match = (gap.argmin(-1) + 3 * np.arange(len(mine))[:, None]).ravel()
        assert len(set(match.tolist())) == len(match)
        same(ops.sigmoid(logits[k][0]), scores[match])
        refined = decode(deltas[k][0], ops.convert_to_tensor(anchors), SETTINGS.anchors.delta_weights)
        same(number(refined)[:, [1, 0, 3, 2]], matterport_decode(starts, boxes)[match])


REGIONS = np.array([[[3, 5, 40, 30], [10, 8, 22, 60], [0, 0, 64, 64], [20, 20, 27, 26]]], "float32")


def test_matterports_heads(ours, theirs, maps):
    """Of the same pooled features: what is in a region, where exactly, and its mask."""
    model, _ = ours
    boxes = ops.convert_to_tensor(REGIONS)
    logits, deltas = model.box_outputs(maps, boxes)
    probability, their_deltas = (number(output) for output in theirs.classifier(model.pool(maps, boxes, 7)))
    same(ops.softmax(logits, axis=-1)[0], probability)
    refined = number(decode(deltas[0], boxes[0][:, None], REGION_WEIGHTS))
    same(refined[..., [1, 0, 3, 2]], matterport_decode(REGIONS[0][:, None, [1, 0, 3, 2]], their_deltas)[:, 1:])
    masks = number(theirs.masks(model.pool(maps, boxes, 14)))
    same(ops.sigmoid(model.mask_outputs(maps, boxes))[0], masks[..., 1:])


def test_a_preset_has_what_its_file_needs():
    """Design and pixels of the presets are those that params/weights.yaml asks for."""
    table = published.table()
    presets = {"matterport_mask_rcnn_r101_fpn": ramesh2021()}
    for name in table:
        if name.startswith("detectron2_mask_rcnn_"):
            backbone, neck = name.split("_")[3:5]
            presets[name] = gaikwad2020(backbone, neck)
    assert len(presets) == 11
    for name, settings in presets.items():
        assert settings.to_dict()["pixels"] == table[name].pixels, name
        assert {key: getattr(settings.backbone, key) for key in table[name].design} == table[name].design, name
        assert table[name].file.removesuffix(".pkl").endswith(table[name].hash.removeprefix("md5:")) or "matterport" in name


def test_a_file_by_its_name_is_compared_with_the_models_settings(theirs, file, monkeypatch, tmp_path):
    monkeypatch.setenv("COVIDCXR_CACHE", str(tmp_path))
    sha256 = hashlib.sha256(file[0].read_bytes()).hexdigest()
    name = "matterport_mask_rcnn_r101_fpn"
    table = {**published.table(), name: replace(published.table()[name], hash=f"sha256:{sha256}")}
    monkeypatch.setattr(published, "table", lambda: table)
    table[name].path.parent.mkdir()
    table[name].path.write_bytes(file[0].read_bytes())  # put there by hand
    assert weights.load(MaskRCNN(SETTINGS), name).remarks == []
    odd = replace(SETTINGS, backbone=replace(SETTINGS.backbone, stride_in_1x1=False), pixels=Settings().pixels)
    assert weights.load(MaskRCNN(weights.settings_for(name, odd)), name).remarks == []
    assert weights.load(MaskRCNN(odd), name).remarks == [
        "the file needs stride_in_1x1 True; the model has False.",
        "the file needs images in RGB, 0 to 255, minus (123.7, 116.8, 103.9); the model is fed images in RGB, 0 to 1, "
        "minus (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225).",
    ]


def test_settings_for_a_file_that_nobody_has_published_are_refused():
    with pytest.raises(InputError, match="has no 'torchvision_mask_rcnn_r50'. Did you mean 'torchvision_mask_rcnn_r50_fpn'"):
        weights.settings_for("torchvision_mask_rcnn_r50", Settings())


def test_a_file_for_other_anchors_is_refused(file):
    model = MaskRCNN(replace(SETTINGS, anchors=replace(SETTINGS.anchors, ratios=(0.5, 1.0, 3.0))))
    with pytest.raises(InputError, match=r"mask_rcnn_coco.h5: matterport's anchors have the ratios \(0.5, 1.0, 2.0\)"):
        weights.load(model, file[0])


def test_an_incomplete_normalisation_is_refused(file, ours):
    from covidcxr.models.checkpoints import read

    state = {name: array for name, array in read(file[0]).items() if name != "mrcnn_class_bn1/mrcnn_class_bn1/gamma:0"}
    with pytest.raises(InputError, match=r"lacks what belongs to \['box_fc1_norm/gamma'\]"):
        weights.load_state_dict(ours[0], state, "matterport")


# residual networks within


def test_a_residual_networks_file_sets_the_backbone_and_tells_what_keeps_its_start(tmp_path):
    spec, _ = peer.fixture("B_r18_fpn")
    state = {
        name.removeprefix("backbone.body."): array for name, array in peer.weights_for(spec).items() if "backbone.body" in name
    }
    backbone = len(state)
    state |= {"fc.weight": np.zeros((1000, 512), "float32"), "fc.bias": np.zeros(1000, "float32")}
    path = tmp_path / "resnet18.pkl"
    path.write_bytes(pickle.dumps(state))
    model = MaskRCNN(Settings(backbone=ResNet(18)))
    before = number(weights.variables_of(model)["rpn_conv/kernel"])
    report = weights.load(model, path)
    assert len(report.loaded) == backbone and set(report.skipped) == {"fc.weight", "fc.bias"} and not report.unused
    assert {name.split("/")[0] for name in report.missing} == {
        *(f"fpn_{kind}{k}" for kind in ("lateral", "output") for k in range(2, 6)),
        *("rpn_conv", "rpn_logits", "rpn_deltas", "box_fc1", "box_fc2", "class_logits", "box_deltas"),
        *(f"mask_conv{i}" for i in range(1, 5)),
        *("mask_enlarge", "mask_logits"),
    }
    np.testing.assert_array_equal(number(weights.variables_of(model)["rpn_conv/kernel"]), before)
    np.testing.assert_array_equal(
        number(weights.variables_of(model)["res5_1_conv2/kernel"]), state["layer4.1.conv2.weight"].transpose(2, 3, 1, 0)
    )
    text = str(report)
    assert "Skipped: fc.weight, fc.bias: the classifier of ImageNet, which the model does not have" in text
    assert f"Keep the values they had: {len(report.missing)} variables of fpn_lateral5, " in text
    assert "Mind: by its path alone nobody knows whether epsilon, strides and pixels are those of the file." in text
