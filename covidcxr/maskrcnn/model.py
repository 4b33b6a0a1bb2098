"""Mask R-CNN: the whole pipeline.

images ─ backbone ─ neck ─ maps ─┬─ rpn ─ proposals ─┐
                                 └─ ROIAlign ────────┴─ box head ─ detections ─ ROIAlign ─ mask head ─ masks
"""

from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops

from covidcxr.errors import InputError
from covidcxr.maskrcnn import heads, losses
from covidcxr.maskrcnn.anchors import cell_anchors, grid_anchors
from covidcxr.maskrcnn.batches import STEP, TRUTH, check_batch, has_truth
from covidcxr.maskrcnn.detections import detect
from covidcxr.maskrcnn.masks import mask_targets
from covidcxr.maskrcnn.necks import fpn
from covidcxr.maskrcnn.pixels import normalise
from covidcxr.maskrcnn.proposals import propose
from covidcxr.maskrcnn.roi_align import roi_align
from covidcxr.maskrcnn.sampler import most_positives
from covidcxr.maskrcnn.settings import Settings
from covidcxr.maskrcnn.targets import anchor_targets, region_targets

LOSSES = ("rpn_class_loss", "rpn_box_loss", "class_loss", "box_loss", "mask_loss")


@keras.saving.register_keras_serializable("covidcxr")
class MaskRCNN(keras.Model):
    """Mask R-CNN. What it returns depends on what it is given:

    images, an array (N, H, W, 1 or 3) in [0, 1], height and width multiples of 32, or a dictionary with `images` and
    `sizes` (N, 2), heights and widths where images are padded at the bottom and right:
        detections, a dictionary of `boxes` (N, D, 4), `scores` (N, D), `labels` int32 (N, D), from 1, `valid` bool (N, D) and
        `masks` (N, D, m, m), probabilities within the box; see `masks.paste_masks`.

    a dictionary that also holds the truth, `boxes` (N, T, 4), `labels` (N, T), from 1, `valid` bool (N, T) and `masks`
    (N, T, H, W), bool or 0 and 1 (`batches.batch` makes it):
        the five losses, a dictionary of numbers named as in `LOSSES`.

    So `fit` and `evaluate` take such dictionaries as x, without y, and `predict` takes images:

        model = MaskRCNN(Settings(foreground_classes=2))
        model.compile(optimizer=keras.optimizers.SGD(0.005, momentum=0.9))
        model.fit(batches)
        detections = model.predict(images)

    On TensorFlow without a GPU pass `jit_compile=False` to `compile`: compiling takes longer there than it saves. Arrays of
    another shape than before are compiled for anew: pad images of one collection to one shape, and their truth to one T.

    Args:
        settings: `settings.Settings`.
        seed: of the sampling of anchors and regions in training.
        kwargs: of `keras.Model`. `dtype`, by default Keras' global policy, is that of the networks inside, also after the model
            is read from a file; boxes and losses are float32.
    """

    def __init__(self, settings: Settings, seed: int = 0, **kwargs):
        # Boxes must stay float32 under mixed precision; the networks inside cast for themselves.
        super().__init__(autocast=False, **kwargs)
        s, foreground = settings, settings.foreground_classes
        self.settings, self.seed = settings, seed
        self.seed_generator = keras.random.SeedGenerator(seed)

        self.strides = (4, 8, 16, 32, 64) if s.neck == "fpn" else (16,)
        stages = [s.backbone.channels(stage) for stage in (2, 3, 4, 5)]
        channels = {"fpn": s.pyramid_channels, "c4": s.backbone.channels(4), "dc5": s.backbone.channels(5)}[s.neck]
        with policy_of_layers(self.dtype_policy):
            self.backbone = s.backbone.network(last_stage=4 if s.neck == "c4" else 5, name="backbone")
            self.neck = fpn(stages, s.pyramid_channels) if s.neck == "fpn" else None
            self.rpn = heads.rpn_head(channels, len(s.anchors.sizes[0]) * len(s.anchors.ratios), s.rpn_channels)
            if s.neck == "c4":
                self.box_head, self.mask_head = heads.res5_heads(s.backbone.stage5(), s.regions.box_size, channels, foreground)
            else:
                self.box_head = heads.box_head(s.regions.box_size, channels, foreground, s.box_units)
                self.mask_head = heads.mask_head(s.regions.mask_size, channels, foreground, s.pyramid_channels)
        self.trackers = [keras.metrics.Mean(name=name) for name in LOSSES]
        self.compiled_shapes: dict[str, dict[str, tuple[int, ...]] | None] = {}
        self.built = True

    def call(self, inputs, training=False):
        images, sizes, truth = self.read(inputs)
        maps = self.feature_maps(normalise(images, sizes, self.settings.pixels), training)
        anchors = self.anchors_of(maps)
        logits, deltas = self.rpn_outputs(maps)
        proposals = self.proposals(anchors, logits, deltas, sizes)
        if truth is None:
            return self.detections(maps, proposals, sizes)
        return self.losses_of(maps, anchors, logits, deltas, proposals, truth)

    def proposals(self, anchors, logits, deltas, sizes):
        """The boxes that the heads will look into, as `proposals.propose` returns them."""
        return propose(anchors, logits, deltas, sizes, self.settings.anchors.delta_weights, self.settings.proposals)

    def detections(self, maps, proposals, sizes):
        """What is found among the proposals, with masks."""
        class_logits, deltas = self.box_outputs(maps, proposals["boxes"])
        found = detect(proposals, class_logits, deltas, sizes, self.settings.detections)
        mask_logits = self.mask_outputs(maps, found["boxes"])
        masks = ops.sigmoid(losses.of_class(mask_logits, found["labels"], axis=4))
        return {**found, "masks": ops.where(found["valid"][..., None, None], masks, 0.0)}

    def losses_of(self, maps, anchors, logits, deltas, proposals, truth):
        """The five losses."""
        s = self.settings
        targets = anchor_targets(
            np.concatenate(anchors), truth, s.anchors.delta_weights, s.proposal_training, self.seed_generator
        )
        logits, deltas = ops.concatenate(logits, axis=1), ops.concatenate(deltas, axis=1)
        rpn_class, rpn_box = losses.rpn_losses(logits, deltas, targets, s.proposal_training)

        targets = region_targets(proposals, truth, s.region_training, self.seed_generator)
        class_logits, deltas = self.box_outputs(maps, targets["boxes"])
        class_loss, box_loss = losses.region_losses(class_logits, deltas, targets, s.region_training)

        # Positives come first, so that only their slots need masks.
        slots = max(1, most_positives(targets["boxes"].shape[1], s.region_training.positive_fraction))
        boxes, index, labels, positive = (targets[key][:, :slots] for key in ("boxes", "index", "labels", "positive"))
        mask_logits = self.mask_outputs(maps, boxes)
        goal = mask_targets(truth["masks"], index, boxes, mask_logits.shape[2], s.region_training.mask_samples, s.regions.aligned)
        if s.region_training.mask_threshold is not None:
            goal = ops.cast(goal >= s.region_training.mask_threshold, "float32")
        mask_loss = losses.mask_loss(mask_logits, labels, positive, goal)
        return dict(zip(LOSSES, (rpn_class, rpn_box, class_loss, box_loss, mask_loss), strict=True))

    def feature_maps(self, images, training=False):
        """From normalised images to the levels, finest first, each (N, H, W, C)."""
        maps = self.backbone(images, training=training)
        return self.neck(maps) if self.neck else maps[-1:]

    def anchors_of(self, maps):
        """Anchors of each level: numpy (A, 4)."""
        a = self.settings.anchors
        cells = [cell_anchors(sizes, a.ratios, a.rounded) for sizes in a.sizes]
        grids = zip(cells, maps, self.strides, strict=True)
        return [grid_anchors(cell, level.shape[1], level.shape[2], stride) for cell, level, stride in grids]

    def rpn_outputs(self, maps):
        """Logits (N, A) and deltas (N, A, 4) of each level."""
        outputs = [self.rpn(level) for level in maps]
        per_cell = outputs[0][0].shape[-1]
        counts = [level.shape[1] * level.shape[2] * per_cell for level in maps]
        logits = [ops.reshape(o[0], (-1, n)) for o, n in zip(outputs, counts, strict=True)]
        return logits, [ops.reshape(o[1], (-1, n, 4)) for o, n in zip(outputs, counts, strict=True)]

    def box_outputs(self, maps, boxes):
        """Class logits (N, R, 1 + F) and deltas (N, R, F, 4) of regions `boxes` (N, R, 4)."""
        logits, deltas = self.box_head(self.pool(maps, boxes, self.settings.regions.box_size))
        regions, foreground = boxes.shape[1], self.settings.foreground_classes
        return ops.reshape(logits, (-1, regions, 1 + foreground)), ops.reshape(deltas, (-1, regions, foreground, 4))

    def mask_outputs(self, maps, boxes):
        """Mask logits (N, R, m, m, F) of regions `boxes` (N, R, 4)."""
        logits = self.mask_head(self.pool(maps, boxes, self.settings.regions.mask_size))
        return ops.reshape(logits, (-1, boxes.shape[1], *logits.shape[1:]))

    def pool(self, maps, boxes, size):
        """Features of regions, the images' one after the other: (N · R, size, size, C)."""
        r = self.settings.regions
        maps = maps[:4]  # p6 proposes only
        pooled = roi_align(maps, self.strides[: len(maps)], boxes, size, r.samples, r.aligned)
        return ops.reshape(pooled, (-1, size, size, maps[0].shape[-1]))

    def read(self, inputs):
        """Images, their sizes float32 (N, 2), and the truth or None."""
        inputs = inputs if isinstance(inputs, dict) else {"images": inputs}
        truth = {key: inputs[key] for key in TRUTH} if has_truth(inputs) else None
        images = inputs["images"]
        height, width, _ = check_image_shape(images.shape[1:])
        if truth is not None and truth["masks"].shape[1] is None:
            raise InputError(
                "All batches of a call must have the same number T of rows of truth, boxes (N, T, 4); these have several. Make "
                "them with `batches.batch`, which gives each `largest_instances` of the settings."
            )
        sizes = inputs.get("sizes")
        if sizes is None:
            sizes = ops.ones_like(images[:, :2, 0, 0]) * ops.convert_to_tensor([height, width], "float32")
        return images, ops.cast(sizes, "float32"), truth

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The sum of the five losses, and of the weight decay in training."""
        if y is not None or sample_weight is not None or not all(name in y_pred for name in LOSSES):
            raise InputError("fit and evaluate take the truth in x, as `batches.batch` makes it, and no sample weights.")
        for tracker, name in zip(self.trackers, LOSSES, strict=True):
            tracker.update_state(y_pred[name])
        total = sum(y_pred[name] for name in LOSSES)
        return total + self.decay() if training and self.settings.weight_decay.factor else total

    def decay(self):
        """The L2 loss of `settings.weight_decay`."""
        reduce, factor = {"sum": (ops.sum, 0.5), "mean": (ops.mean, 1.0)}[self.settings.weight_decay.form]
        weights = [v for v in self.trainable_variables if v.name not in ("gamma", "beta")]
        return self.settings.weight_decay.factor * factor * sum(reduce(ops.square(w)) for w in weights)

    def fit(self, x=None, *args, **kwargs):
        """As `keras.Model.fit`; arrays are checked first (`batches.check_batch`)."""
        self.prepare("train", x)
        if isinstance(x, keras.utils.PyDataset):
            kwargs.setdefault("shuffle", False)  # it brings an order; Keras would shuffle by Python's global random state
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """As `keras.Model.evaluate`; arrays are checked first."""
        self.prepare("test", x)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        """As `keras.Model.predict`; arrays are checked first."""
        self.prepare("predict", x)
        return super().predict(x, *args, **kwargs)

    def train_on_batch(self, x, *args, **kwargs):
        """As `keras.Model.train_on_batch`; arrays are checked first."""
        self.prepare("train", x)
        return super().train_on_batch(x, *args, **kwargs)

    def test_on_batch(self, x, *args, **kwargs):
        """As `keras.Model.test_on_batch`; arrays are checked first."""
        self.prepare("test", x)
        return super().test_on_batch(x, *args, **kwargs)

    def predict_on_batch(self, x):
        """As `keras.Model.predict_on_batch`; arrays are checked first."""
        self.prepare("predict", x)
        return super().predict_on_batch(x)

    def prepare(self, work, x):
        """Checks arrays, and has Keras compile `work`, "train", "test" or "predict", anew for arrays of other shapes.

        A function that Keras has compiled for one shape it would widen, on TensorFlow, to any; anchors and the targets of masks
        need theirs known.
        """
        arrays = {"images": x} if isinstance(x, np.ndarray) else x
        if isinstance(arrays, dict) and all(isinstance(value, np.ndarray) for value in arrays.values()):
            check_batch(arrays, self.settings)
        shapes = shapes_of(x)
        if shapes is not None:
            check_image_shape(shapes["images"])
        if shapes is None or shapes != self.compiled_shapes.get(work):
            setattr(self, f"{work}_function", None)
            self.compiled_shapes[work] = shapes

    def get_config(self):
        return {**super().get_config(), "settings": self.settings.to_dict(), "seed": self.seed}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "settings": Settings.from_dict(config["settings"])})


@contextmanager
def policy_of_layers(policy):
    """Within it Keras makes layers under the dtype policy `policy`, unless they ask for another."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def check_image_shape(shape: tuple[Any, ...]) -> tuple[Any, ...]:
    """`shape`, height, width and channels of the images of a batch; raises InputError where the network can't take them."""
    if len(shape) != 3 or None in shape or shape[0] % STEP or shape[1] % STEP or shape[2] not in (1, 3):
        raise InputError(
            f"Mask R-CNN takes images (N, H, W, 1 or 3) whose height and width are multiples of {STEP}, the same in all batches "
            f"of a call; these are (N, {', '.join(map(str, shape))}). Pad them with zeros at the bottom and right to one shape "
            "and give their true sizes as `sizes`."
        )
    return shape


def shapes_of(x) -> dict[str, tuple[int, ...]] | None:
    """Shapes of the arrays that `fit` or `predict` are given, without the axis of images; None where only reading would tell."""
    x = getattr(x, "element_spec", x)  # of a tf.data.Dataset
    x = x[0] if isinstance(x, keras.utils.PyDataset) else x
    x = x[0] if isinstance(x, (tuple, list)) else x
    arrays = x if isinstance(x, dict) else {"images": x}
    has_truth(arrays)
    shapes = {name: tuple(getattr(array, "shape", None) or (None, None))[1:] for name, array in arrays.items()}
    return shapes if all(None not in shape for shape in shapes.values()) else None
