"""The model as a whole: prediction, files, precision, weights of other class counts."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import give_back_memory
from keras import ops
from peer_fixtures import peer_weights as peer

from covidcxr.errors import InputError
from covidcxr.maskrcnn.batches import batch, boxes_of_masks
from covidcxr.maskrcnn.model import LOSSES, MaskRCNN
from covidcxr.maskrcnn.presets import gaikwad2020, ramesh2021, ramesh2021_optimizer
from covidcxr.maskrcnn.settings import (
    Anchors,
    Detections,
    Proposals,
    ProposalTraining,
    Regions,
    RegionTraining,
    Settings,
    WeightDecay,
)
from covidcxr.maskrcnn.weights import load_state_dict, our_name, variables_of
from covidcxr.models.resnet import ResNet

JIT = keras.backend.backend() == "jax"  # elsewhere compiling takes longer than these few steps
SMALL = Settings(
    backbone=ResNet(18, norm="batch"),
    anchors=Anchors(((8,), (16,), (32,), (64,), (128,))),
    proposals=Proposals(64, 32),
    proposal_training=ProposalTraining(samples=64),
    regions=Regions(mask_size=7),  # masks of 14 x 14, a quarter of the work
    region_training=RegionTraining(samples=16, positive_fraction=0.5),
    detections=Detections(most=10, candidates=32),
    largest_instances=2,
)


def number(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def ellipses(count, side=64, seed=0):
    """Pictures of one bright ellipse each, and what `batch` wants."""
    rng, row, column = np.random.default_rng(seed), *np.mgrid[:side, :side]
    images, objects = [], []
    for _ in range(count):
        half, (r, c) = rng.uniform(7, 14, 2), rng.uniform(16, side - 16, 2)
        mask = ((row - r) / half[0]) ** 2 + ((column - c) / half[1]) ** 2 < 1
        images.append(np.clip(0.3 + 0.4 * mask + 0.05 * rng.standard_normal(mask.shape), 0, 1).astype("float32"))
        objects.append({"boxes": boxes_of_masks(mask[None]), "labels": np.ones(1, int), "masks": mask[None]})
    return images, objects


@pytest.fixture(scope="module")
def model():
    """A small model that has seen 12 ellipses eight times: it finds something, well or not (see test_maskrcnn_learning.py)."""
    keras.utils.set_random_seed(0)
    model = MaskRCNN(SMALL)
    model.compile(optimizer=keras.optimizers.Adam(2e-4), jit_compile=JIT)
    model.fit(batch(*ellipses(12), SMALL), batch_size=2, epochs=8, verbose=0)
    return model


def test_outputs_have_one_shape_whatever_is_found(model):
    shapes = {"boxes": (10, 4), "scores": (10,), "labels": (10,), "valid": (10,), "masks": (10, 14, 14)}
    empty = np.full((3, 64, 64, 1), 0.3, "float32")  # batches of 2 and 1
    found = model.predict(empty, batch_size=2, verbose=0)
    assert {key: value.shape for key, value in found.items()} == {key: (3, *shape) for key, shape in shapes.items()}
    for key in ("boxes", "scores", "labels", "masks"):
        assert not found[key][~found["valid"]].any()


def test_grey_equals_rgb_and_padding_equals_nothing(model):
    image = np.stack(ellipses(1, seed=2)[0])[..., None]
    found = model(image)
    plain = number(found["boxes"])
    assert number(found["valid"]).any()
    np.testing.assert_allclose(number(model(np.repeat(image, 3, -1))["boxes"]), plain, atol=1e-3)
    # Beyond its size an image does not count, whatever is there.
    sizes = np.array([[50, 60]], "float32")
    noisy = image.copy()
    noisy[:, 50:], noisy[:, :, 60:] = 1.0, 0.5
    ours, other = (number(model({"images": x, "sizes": sizes})["boxes"]) for x in (image, noisy))
    np.testing.assert_array_equal(ours, other)
    assert ours[..., 2].max() <= 60 and ours[..., 3].max() <= 50


def test_evaluate_gives_the_five_losses_and_changes_nothing(model):
    before = [number(v) for v in model.weights if "seed" not in v.path]
    logs = model.evaluate(batch(*ellipses(4, seed=3), SMALL), batch_size=4, verbose=0, return_dict=True)
    assert set(logs) == {"loss", *LOSSES} and np.isfinite(list(logs.values())).all()
    for old, new in zip(before, [v for v in model.weights if "seed" not in v.path], strict=True):
        np.testing.assert_array_equal(old, number(new))


def test_images_without_objects_are_legal():
    """All losses of a batch without any object are finite, those of objects 0, and a step leaves finite weights."""
    keras.utils.set_random_seed(1)
    model = MaskRCNN(SMALL)
    images, _ = ellipses(2)
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int), "masks": np.zeros((0, 64, 64), bool)}
    x = batch(images, [nothing, nothing], SMALL)
    model.compile(optimizer=keras.optimizers.SGD(0.01), jit_compile=JIT)
    logs = model.fit(x, batch_size=2, verbose=0).history
    assert logs["rpn_box_loss"] == logs["box_loss"] == logs["mask_loss"] == [0.0]
    assert logs["rpn_class_loss"][0] > 0 and logs["class_loss"][0] > 0
    assert all(np.isfinite(number(v)).all() for v in model.weights)


def test_a_saved_model_predicts_the_same(model, tmp_path):
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.settings == model.settings
    image = np.stack(ellipses(2, seed=4)[0])[..., None]
    for key, value in model(image).items():
        np.testing.assert_array_equal(number(again(image)[key]), number(value))


@pytest.fixture
def policy():
    """Sets Keras' policy for a test."""
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize(("own", "elsewhere"), [("bfloat16", "float32"), ("float32", "mixed_bfloat16")])
def test_networks_compute_as_the_model_says_wherever_it_is_loaded(own, elsewhere, policy, tmp_path):
    name = own if own == "float32" else f"mixed_{own}"
    policy(elsewhere)
    model = MaskRCNN(SMALL, dtype=name)
    model.save(tmp_path / "model.keras")
    for one in (model, keras.models.load_model(tmp_path / "model.keras")):
        networks = [part for part in one.layers if isinstance(part, keras.Model)]
        computed = {layer.name: layer.compute_dtype for part in networks for layer in part.layers if layer.weights}
        outputs = {key: computed.pop(key) for key in ("rpn_logits", "rpn_deltas", "class_logits", "box_deltas", "mask_logits")}
        assert one.dtype_policy.name == name and set(computed.values()) == {own} and len(computed) > 50
        assert set(outputs.values()) == {"float32"}
    assert keras.config.dtype_policy().name == elsewhere


def test_mixed_precision_keeps_boxes_in_float32(policy):
    policy("mixed_bfloat16")
    model = MaskRCNN(SMALL)
    policy("float32")
    assert model.backbone.get_layer("stem_conv").compute_dtype == "bfloat16"
    x = batch(*ellipses(2), SMALL)
    found = model(x["images"])
    assert {keras.backend.standardize_dtype(found[key].dtype) for key in ("boxes", "scores", "masks")} == {"float32"}
    losses = model(x, training=True)
    assert all(keras.backend.standardize_dtype(v.dtype) == "float32" and np.isfinite(float(v)) for v in losses.values())


class Batches(keras.utils.PyDataset):
    """One batch of two ellipses in pictures of `side`."""

    def __init__(self, side):
        super().__init__()
        self.x = batch(*ellipses(2, side), SMALL)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return (self.x,)


def test_one_model_takes_images_of_many_shapes(model, tmp_path):
    """One after the other: in prediction, in training, whole arrays, single batches and data sets of batches."""
    model.save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    for shape, predict in (((64, 64, 1), model.predict_on_batch), ((96, 64, 3), model.predict), ((64, 64, 1), model.predict)):
        images = np.random.default_rng(0).random((2, *shape), "float32")
        found = predict(images)
        for key, value in model(images).items():
            np.testing.assert_allclose(number(found[key]), number(value), atol=1e-3)
    small, large = Batches(64), Batches(96)
    logs = model.fit(small, verbose=0, validation_data=large).history
    logs |= {f"one {key}": value for key, value in model.train_on_batch(large.x, return_dict=True).items()}
    logs |= {f"test {key}": value for key, value in model.test_on_batch(small.x, return_dict=True).items()}
    assert {"loss", "val_loss", "one loss", "test loss"} < set(logs)
    assert all(np.isfinite(value).all() for value in logs.values())


def test_one_model_takes_truth_of_many_rows():
    """One number of them after the other."""
    keras.utils.set_random_seed(3)
    model = MaskRCNN(SMALL)
    model.compile(keras.optimizers.SGD(1e-4), jit_compile=JIT)
    for rows in (3, 5):
        x = batch(*ellipses(2), replace(SMALL, largest_instances=rows))
        assert x["masks"].shape[1] == rows and np.isfinite(model.fit(x, batch_size=2, verbose=0).history["loss"]).all()


def test_batches_of_several_shapes_in_one_call_are_refused(model):
    sides = (Batches(side).x for side in (64, 96))
    rows = (batch(*ellipses(2), replace(SMALL, largest_instances=rows)) for rows in (3, 5))
    for batches, message in ((sides, "the same in all batches"), (rows, "the same number T of rows of truth")):
        several = ((x,) for x in batches)
        if keras.backend.backend() == "tensorflow":  # elsewhere shapes stay known
            with pytest.raises(InputError, match=message):
                model.fit(several, verbose=0)
        else:
            model.fit(several, verbose=0)


# Nothing is drawn at random: XLA has another generator.
EVERYTHING = replace(
    SMALL,
    proposal_training=ProposalTraining(samples=2048),
    region_training=RegionTraining(samples=34, positive_fraction=1.0),
)


def steps_of(policy, jit_compile, count):
    """The losses of some steps on two pictures, from one start. Keras scales the loss of mixed_float16."""
    keras.utils.set_random_seed(2)
    model = MaskRCNN(EVERYTHING, dtype=policy)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=jit_compile)
    x = batch(*ellipses(2), SMALL)
    logs = [model.train_on_batch(x, return_dict=True) for _ in range(count)]
    return [{name: float(number(value)) for name, value in one.items()} for one in logs]


@pytest.mark.large
def test_compiled_steps_are_the_plain_ones():
    for ours, plain in zip(steps_of("float32", True, 2), steps_of("float32", False, 2), strict=True):
        for name in ("loss", *LOSSES):
            np.testing.assert_allclose(ours[name], plain[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("name", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.large)])
def test_half_precision_learns(name):
    """The losses of all anchors agree with those in float32; the others belong to other proposals. And they fall."""
    plain, logs = steps_of("float32", JIT, 1)[0], steps_of(name, JIT, 6)
    for loss in ("rpn_class_loss", "rpn_box_loss"):
        np.testing.assert_allclose(logs[0][loss], plain[loss], rtol=0.05, atol=0.01, err_msg=loss)
    assert np.isfinite([list(one.values()) for one in logs]).all() and logs[-1]["rpn_class_loss"] < logs[0]["rpn_class_loss"] / 2


def test_weight_decay_is_what_it_says():
    model = MaskRCNN(SMALL)
    weights = [number(v) for v in model.trainable_variables if v.name in ("kernel", "bias")]
    x = batch(*ellipses(2), SMALL)
    parts = dict.fromkeys(LOSSES, 1.0)
    for form, expected in (("sum", sum((w**2).sum() for w in weights) / 2), ("mean", sum((w**2).mean() for w in weights))):
        model.settings = Settings(backbone=SMALL.backbone, weight_decay=WeightDecay(1e-2, form))
        np.testing.assert_allclose(float(model.compute_loss(x, y_pred=parts)), 5 + 1e-2 * expected, rtol=1e-4)
        assert float(model.compute_loss(x, y_pred=parts, training=False)) == 5


def test_wrong_input_is_refused_before_it_is_used(model):
    with pytest.raises(InputError, match="multiples of 32"):
        model(np.zeros((1, 60, 64, 1), "float32"))
    with pytest.raises(InputError, match="masks missing"):
        model({key: value for key, value in batch(*ellipses(1), SMALL).items() if key != "masks"})
    with pytest.raises(InputError, match="image 1: all pixels are 0"):
        model.predict(np.stack([np.full((64, 64, 1), 0.5), np.zeros((64, 64, 1))]).astype("float32"))
    x = batch(*ellipses(2), SMALL)
    x["boxes"][1, 0] = 5, 5, 5, 5
    with pytest.raises(InputError, match=r"image 1, box 0 \(5, 5, 5, 5\): it is empty"):
        model.fit(x)
    with pytest.raises(InputError, match="the truth in x"):
        model.fit(x["images"])
    for nothing in (model, model.predict):
        with pytest.raises(InputError, match="must hold `images`; this one holds sizes"):
            nothing({"sizes": x["sizes"]})


@pytest.mark.large
@pytest.mark.parametrize(("backbone", "neck"), [("r50", "fpn"), ("r101", "c4"), ("r101", "dc5")])
def test_rows_of_table_3_can_be_built(backbone, neck):
    """With heads of detectron2's sizes; the other rows are built in test_maskrcnn_peers.py."""
    keras.backend.clear_session()
    settings = gaikwad2020(backbone, neck)
    model = MaskRCNN(settings)
    names = [layer.name for part in model.layers if isinstance(part, keras.Model) for layer in part.layers]
    assert not any("." in name for name in names)
    c4, channels = neck == "c4", {"fpn": 256, "c4": 1024, "dc5": 2048}[neck]
    shapes = {key: tuple(variable.shape) for key, variable in variables_of(model).items()}
    assert shapes["rpn_conv/kernel"] == (3, 3, channels, channels)
    assert shapes["rpn_logits/bias"] == (3 if neck == "fpn" else 15,)
    assert shapes["class_logits/kernel"] == (2048 if c4 else 1024, 4) and shapes["mask_logits/kernel"] == (1, 1, 256, 3)
    assert ("box_fc1/kernel" in shapes) != c4
    assert c4 or shapes["box_fc1/kernel"] == (49 * channels, 1024)
    assert not any(v.path.split("/")[-2].startswith(("stem", "res2")) for v in model.trainable_variables)


@pytest.mark.large
def test_ramesh2021_trains_with_its_optimizer(alone):
    """A first step is the rate times gradients whose norm, that of all weights together, is cut to 5."""
    preset = ramesh2021()
    settings = replace(
        preset, proposals=replace(preset.proposals, before_nms=64, after_nms=32),
        region_training=replace(preset.region_training, samples=16),
    )  # fmt: skip
    keras.utils.set_random_seed(0)
    model = MaskRCNN(settings)
    before = [number(v) for v in model.trainable_variables]
    model.compile(ramesh2021_optimizer(), jit_compile=JIT, run_eagerly=not JIT)
    logs = model.fit(batch(*ellipses(1), settings), verbose=0).history
    assert np.isfinite([logs[name] for name in LOSSES]).all()
    moved = [number(v).astype("float64") - old for v, old in zip(model.trainable_variables, before, strict=True)]
    assert np.sqrt(sum((move**2).sum() for move in moved)) == pytest.approx(0.001 * 5, rel=0.02)


# weights


@pytest.fixture(scope="module")
def state():
    spec, _ = peer.fixture("B_r18_fpn")
    return peer.weights_for(spec)


def test_weights_for_other_classes_are_skipped_and_told(state):
    model = MaskRCNN(Settings(foreground_classes=3, backbone=ResNet(18)))
    start = number(variables_of(model)["class_logits/kernel"])
    extra = {"backbone.body.bn1.num_batches_tracked": np.zeros(()), "roi_heads.keypoint.weight": np.zeros(3)}
    report = load_state_dict(model, state | extra, "torchvision")
    heads = {f"{layer}/{kind}" for layer in ("class_logits", "box_deltas", "mask_logits") for kind in ("kernel", "bias")}
    assert set(report.missing) == heads and report.unused == ["roi_heads.keypoint.weight"]
    assert len(report.skipped) == len(heads) + 1 and len(report.loaded) + len(heads) == len(state)
    text = str(report)
    assert "roi_heads.box_predictor.cls_score.weight: it is for another number of classes: (512, 2), here (1024, 4)" not in text
    assert "cls_score.weight: it is for another number of classes: (1024, 2), here (1024, 4)" in text
    np.testing.assert_array_equal(number(variables_of(model)["class_logits/kernel"]), start)
    kernel = state["backbone.body.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(number(variables_of(model)["stem_conv/kernel"]), kernel)


def test_another_architecture_is_refused_and_changes_nothing(state):
    model = MaskRCNN(Settings(backbone=ResNet(50, norm="frozen")))
    before = number(variables_of(model)["rpn_conv/kernel"])
    with pytest.raises(InputError, match="another architecture"):
        load_state_dict(model, state, "torchvision")
    with pytest.raises(InputError, match="missing are .* Is it of the architecture fpn"):
        load_state_dict(model, {k: v for k, v in state.items() if k.startswith("rpn")}, "torchvision")
    with pytest.raises(InputError, match="torchvision, detectron2"):
        load_state_dict(model, state, "caffe")
    doubled = {"rpn.head.conv.weight": state["rpn.head.conv.0.0.weight"], **state}
    with pytest.raises(InputError, match="Two tensors"):
        load_state_dict(MaskRCNN(Settings(backbone=ResNet(18))), doubled, "torchvision")
    np.testing.assert_array_equal(number(variables_of(model)["rpn_conv/kernel"]), before)
    report = load_state_dict(model, {k: v for k, v in state.items() if k.startswith("rpn")}, "torchvision", allow_missing=True)
    assert len(report.loaded) == 6 and "backbone" not in str(report.loaded) and "stem_conv/kernel" in report.missing


def test_names_of_older_files_are_known():
    """torchvision's published Mask R-CNN has the names of before its convolutions were put into sequences."""
    assert our_name("rpn.head.conv.weight", "torchvision") == our_name("rpn.head.conv.0.0.weight", "torchvision")
    for old, new in (
        ("roi_heads.mask_head.mask_fcn2", "roi_heads.mask_head.1.0"),
        ("fpn.inner_blocks.3", "fpn.inner_blocks.3.0"),
    ):
        old, new = (f"backbone.{n}" if n.startswith("fpn") else n for n in (old, new))
        assert our_name(f"{old}.bias", "torchvision") == our_name(f"{new}.bias", "torchvision") is not None
    assert our_name("backbone.body.fc.weight", "torchvision") is None


ROWS = [("r50", "c4"), ("r50", "dc5"), ("r50", "fpn"), ("r101", "c4"), ("r101", "dc5"), ("r101", "fpn"), ("x101", "fpn")]


def row(backbone, neck, depth):
    """A network of gaikwad2020's Table 3 for pictures of 64 x 64, with few proposals; `depth` 0 is its own."""
    preset = gaikwad2020(backbone, neck)
    design = preset.backbone if not depth else ResNet(depth, norm="batch", dilated_res5=neck == "dc5")
    anchors = SMALL.anchors if neck == "fpn" else Anchors(((8, 16, 32, 64, 128),))
    return replace(
        preset, foreground_classes=1, backbone=design, anchors=anchors,
        proposals=Proposals(32, 16), proposal_training=ProposalTraining(samples=32), region_training=RegionTraining(samples=8),
        regions=preset.regions if neck == "c4" else SMALL.regions, detections=SMALL.detections,
        largest_instances=1,
    )  # fmt: skip


def steps(settings):
    """Steps once on two ellipses, and looks at another: the losses, and what is found."""
    keras.utils.set_random_seed(0)
    model = MaskRCNN(settings)
    model.compile(optimizer=keras.optimizers.SGD(1e-4), jit_compile=JIT, run_eagerly=not JIT)  # a graph pays after many steps
    logs = model.fit(batch(*ellipses(2), settings), batch_size=2, verbose=0).history
    return logs, model.predict_on_batch(np.stack(ellipses(1, seed=1)[0])[..., None])


@pytest.fixture
def alone():
    """Networks of full size: one in memory at a time."""
    yield
    give_back_memory()


@pytest.mark.large
@pytest.mark.parametrize(("backbone", "neck"), ROWS)
def test_every_row_of_table_3_is_built_and_steps(backbone, neck, alone):
    logs, found = steps(row(backbone, neck, 0))
    assert set(logs) == {"loss", *LOSSES} and np.isfinite(list(logs.values())).all()
    assert found["masks"].shape[0] == 1 and np.isfinite(found["boxes"]).all()


@pytest.mark.parametrize("neck", ["c4", "dc5"])
def test_every_neck_takes_basic_blocks(neck):
    """Neither torchvision nor detectron2 has them there; small machines do."""
    logs, found = steps(row("r50", neck, 18))
    assert np.isfinite(list(logs.values())).all() and np.isfinite(found["boxes"]).all()


def test_heads_that_share_res5_share_it_in_a_file(tmp_path):
    model = MaskRCNN(row("r50", "c4", 18))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.box_head.get_layer("res5") is again.mask_head.get_layer("res5")
    for ours, theirs in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(number(theirs), number(ours), err_msg=ours.path)
    regions = np.random.default_rng(0).random((2, *model.box_head.input_shape[1:]), dtype="float32")
    for ours, theirs in ((model.box_head, again.box_head), (model.mask_head, again.mask_head)):
        for own, other in zip(*(keras.tree.flatten(head(regions)) for head in (ours, theirs)), strict=True):
            np.testing.assert_array_equal(number(other), number(own))
