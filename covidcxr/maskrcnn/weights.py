"""Published weights, brought into a `MaskRCNN`.

    model = MaskRCNN(settings_for("torchvision_mask_rcnn_r50_fpn", Settings(foreground_classes=2)))
    print(load(model, "torchvision_mask_rcnn_r50_fpn"))

Files of whole detectors by torchvision, detectron2 and matterport, and for the backbone alone all those of `models.weights`,
where the way of loading is. Here are the names and layouts of what a detector has besides its residual network.

Layouts: transposed convolutions (in, out, height, width) become Keras' by the transposition of all convolutions; dense kernels
are transposed; the first dense layer after pooling counts its inputs (channel, row, column) in PyTorch and (row, column, channel)
here.

matterport's file is of Keras, whose layouts are ours, but its network has another form:
- Its heads have batch normalisation, whose statistics are never updated (TRAIN_BN is False). That is a scale and a shift of each
  channel, taken up into the layer before it.
- It has two logits per anchor, background and foreground, for a softmax: the sigmoid of their difference.
- Its first dense layers are convolutions of the size of their input.
- Deltas are (dy, dx, dh, dw), and it has box deltas and masks for background, which nobody uses.
- Ratios of anchors are width / height, ours height / width, so that the anchors of a cell come in another order.
Source: https://github.com/matterport/Mask_RCNN, mrcnn/model.py, mrcnn/config.py and mrcnn/utils.py.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from covidcxr.errors import InputError
from covidcxr.maskrcnn.settings import Pixels, Settings
from covidcxr.models import published
from covidcxr.models import weights as resnets
from covidcxr.models.weights import Convention, LoadReport, Slot, variables_of

__all__ = ["LoadReport", "load", "load_state_dict", "our_name", "settings_for", "variables_of"]

MATTERPORT_EPSILON = 1e-3  # of its BatchNorm, which is Keras' default
MATTERPORT_RATIOS = (0.5, 1.0, 2.0)  # RPN_ANCHOR_RATIOS, width / height
SWAPPED = [1, 0, 3, 2]  # from (dy, dx, dh, dw) to (dx, dy, dw, dh)

# Torchvision's older files lack the ".0" of a convolution within a sequence.
TORCHVISION_LAYERS = (
    (r"backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?", lambda k: f"fpn_lateral{k + 2}"),
    (r"backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?", lambda k: f"fpn_output{k + 2}"),
    (r"rpn\.head\.conv(?:\.0\.0)?", lambda: "rpn_conv"),
    (r"rpn\.head\.cls_logits", lambda: "rpn_logits"),
    (r"rpn\.head\.bbox_pred", lambda: "rpn_deltas"),
    (r"roi_heads\.box_head\.fc([67])", lambda i: f"box_fc{i - 5}"),
    (r"roi_heads\.box_predictor\.cls_score", lambda: "class_logits"),
    (r"roi_heads\.box_predictor\.bbox_pred", lambda: "box_deltas"),
    (r"roi_heads\.mask_head\.([0-3])\.0", lambda i: f"mask_conv{i + 1}"),
    (r"roi_heads\.mask_head\.mask_fcn([1-4])", lambda i: f"mask_conv{i}"),
    (r"roi_heads\.mask_predictor\.conv5_mask", lambda: "mask_enlarge"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits", lambda: "mask_logits"),
)
DETECTRON2_LAYERS = (
    (r"backbone\.fpn_lateral(\d)", lambda k: f"fpn_lateral{k}"),
    (r"backbone\.fpn_output(\d)", lambda k: f"fpn_output{k}"),
    (r"proposal_generator\.rpn_head\.conv", lambda: "rpn_conv"),
    (r"proposal_generator\.rpn_head\.objectness_logits", lambda: "rpn_logits"),
    (r"proposal_generator\.rpn_head\.anchor_deltas", lambda: "rpn_deltas"),
    (r"roi_heads\.box_head\.fc([12])", lambda i: f"box_fc{i}"),
    (r"roi_heads\.box_predictor\.cls_score", lambda: "class_logits"),
    (r"roi_heads\.box_predictor\.bbox_pred", lambda: "box_deltas"),
    (r"roi_heads\.mask_head\.mask_fcn([1-4])", lambda i: f"mask_conv{i}"),
    (r"roi_heads\.mask_head\.deconv", lambda: "mask_enlarge"),
    (r"roi_heads\.mask_head\.predictor", lambda: "mask_logits"),
)
MATTERPORT_LAYERS = (
    *resnets.resnet_layers(
        "",
        "conv1",
        "bn_conv1",
        r"res(\d)([a-z])_branch2([abc])",
        r"bn(\d)([a-z])_branch2([abc])",
        r"res(\d)([a-z])_branch1",
        r"bn(\d)([a-z])_branch1",
        block_of=lambda b: b - 1,
    ),
    (r"fpn_c([2-5])p[2-5]", lambda k: f"fpn_lateral{k}"),
    (r"fpn_p([2-5])", lambda k: f"fpn_output{k}"),
    (r"rpn_conv_shared", lambda: "rpn_conv"),
    (r"rpn_class_raw", lambda: "rpn_logits"),
    (r"rpn_bbox_pred", lambda: "rpn_deltas"),
    (r"mrcnn_class_conv([12])", lambda i: f"box_fc{i}"),
    (r"mrcnn_class_bn([12])", lambda i: f"box_fc{i}_norm"),
    (r"mrcnn_class_logits", lambda: "class_logits"),
    (r"mrcnn_bbox_fc", lambda: "box_deltas"),
    (r"mrcnn_mask_conv([1-4])", lambda i: f"mask_conv{i}"),
    (r"mrcnn_mask_bn([1-4])", lambda i: f"mask_conv{i}_norm"),
    (r"mrcnn_mask_deconv", lambda: "mask_enlarge"),
    (r"mrcnn_mask", lambda: "mask_logits"),
)


def lay_out_torchvision(array, target, model):
    """Without background where it has no meaning."""
    layer = target.split("/")[0]
    if layer in ("box_deltas", "mask_logits"):
        array = array[4 if layer == "box_deltas" else 1 :]
    return _lay_out_torch(array, target, model)


def lay_out_detectron2(array, target, model):
    """Background first, which is last there."""
    return _lay_out_torch(np.roll(array, 1, axis=0) if target.startswith("class_logits/") else array, target, model)


def _lay_out_torch(array, target, model):
    if target == "box_fc1/kernel":
        side = model.settings.regions.box_size
        channels = array.shape[1] // side**2
        array = array.reshape(-1, channels, side, side).transpose(0, 2, 3, 1).reshape(len(array), -1)
    return array.T if array.ndim == 2 else resnets.lay_out_torch(array, target, model)


def lay_out_matterport(array, target, model):
    """One logit per anchor, our order of anchors and deltas, no background where it has no meaning, dense layers."""
    layer, variable = target.split("/")
    if layer in ("rpn_logits", "rpn_deltas"):
        per_anchor = array.reshape(*array.shape[:-1], -1, 2 if layer == "rpn_logits" else 4)
        per_anchor = per_anchor[..., _anchor_order(model.settings.anchors.ratios, per_anchor.shape[-2]), :]
        per_anchor = np.diff(per_anchor) if layer == "rpn_logits" else per_anchor[..., SWAPPED]
        return per_anchor.reshape(*array.shape[:-1], -1)
    if layer == "box_deltas":
        return array.reshape(*array.shape[:-1], -1, 4)[..., 1:, SWAPPED].reshape(*array.shape[:-1], -1)
    if layer == "mask_logits":
        return array[..., 1:]
    return array.reshape(-1, array.shape[-1]) if layer.startswith("box_fc") and variable == "kernel" else array


def _anchor_order(ratios, count):
    """Which of matterport's anchors each of ours is."""
    theirs = [1 / ratio for ratio in MATTERPORT_RATIOS]
    if count != len(theirs) or sorted(ratios) != sorted(theirs):
        raise InputError(
            f"matterport's anchors have the ratios {MATTERPORT_RATIOS}, the model's are {tuple(ratios)} and the file has {count} "
            "per cell: another architecture."
        )
    return [theirs.index(ratio) for ratio in ratios]


def merge_matterport(slots: dict[str, Slot]) -> None:
    """Takes up the backbone's biases into the normalisations after them, and the heads' normalisations into the layers before."""
    resnets.merge_biases(slots)
    for layer in sorted({target.split("_norm/")[0] for target in slots if re.match(r"(?:box_fc|mask_conv)\d_norm/", target)}):
        parts = [f"{layer}/kernel", f"{layer}/bias", *(f"{layer}_norm/{kind}" for kind in resnets.NORM_KINDS.values())]
        if missing := [part for part in parts if part not in slots]:
            raise InputError(f"The file lacks what belongs to {missing}, so that the normalisation of {layer} is incomplete.")
        kernel, bias, gamma, beta, mean, variance = (slots.pop(part) for part in parts)
        scale = gamma.value / np.sqrt(variance.value.astype("float64") + MATTERPORT_EPSILON)
        shift = (bias.value - mean.value) * scale + beta.value
        of_scale = gamma.names + variance.names
        slots[f"{layer}/kernel"] = Slot((kernel.value * scale).astype("float32"), kernel.names + of_scale)
        slots[f"{layer}/bias"] = Slot(shift.astype("float32"), bias.names + of_scale + beta.names + mean.names)


MATTERPORT = Convention(
    "matterport",
    resnets.parse_keras,
    resnets.KERAS_APPLICATIONS.kinds,
    resnets.KERAS_APPLICATIONS.norm_kinds,
    MATTERPORT_LAYERS,
    (),
    lay_out_matterport,
    merge_matterport,
)
TORCHVISION = replace(
    resnets.TORCHVISION, layers=resnets.TORCHVISION.layers + TORCHVISION_LAYERS, lay_out=lay_out_torchvision
)
DETECTRON2 = replace(resnets.DETECTRON2, layers=resnets.DETECTRON2.layers + DETECTRON2_LAYERS, lay_out=lay_out_detectron2)
CONVENTIONS = (TORCHVISION, DETECTRON2, MATTERPORT, resnets.KERAS_APPLICATIONS, resnets.CAFFE2)
BY_TITLE = {convention.title: convention for convention in CONVENTIONS}


def settings_for(name: str, settings: Settings) -> Settings:
    """`settings` with all that a published file needs besides shapes: how its backbone was made, and how images are fed to it.

    Depth, neck and channels stay as they are: where they are not the file's, `load` refuses it.

    Args:
        name: in params/weights.yaml.

    Raises:
        InputError: the name is not there.
    """
    entry = published.entry_of(name)
    return replace(settings, backbone=replace(settings.backbone, **entry.design), pixels=Pixels(**entry.pixels))


def load(model, what: str | Path, sha256: str | None = None, mirror: str | None = None) -> LoadReport:
    """Sets the weights of a `MaskRCNN` from a published file, of a whole detector or of a residual network.

    Output layers for another number of classes keep their start; from a residual network's file only the backbone is set.

    Args:
        model: `MaskRCNN`.
        what: a name in params/weights.yaml, or the path of a file.
        sha256, mirror: as for `models.published.fetch`.

    Returns:
        the report; print it. Its remarks say where the model differs from what the file needs.

    Raises:
        DataMissing: there is no connection; the message says which file to get from where, and where to put it.
        InputError: the file is damaged or is not the published one, or does not fit the model, which is unchanged then.
    """
    pixels = model.settings.to_dict()["pixels"]
    return resnets.load_file(model, what, CONVENTIONS, sha256, mirror, _architecture(model), pixels)


def load_state_dict(model, state: Mapping[str, np.ndarray], convention: str, allow_missing: bool = False) -> LoadReport:
    """Sets the weights of a `MaskRCNN` from tensors in a program's names and layouts; see `models.weights.load_state_dict`.

    Args:
        model: `MaskRCNN` of the same architecture.
        state: {name: array}.
        convention: "torchvision", "detectron2", "matterport", "keras.applications" or "Caffe2".
        allow_missing: whether any variables may be missing.
    """
    if convention not in BY_TITLE:
        raise InputError(f"The convention {convention!r} is not known; there are {', '.join(BY_TITLE)}.")
    return resnets.load_state_dict(model, state, BY_TITLE[convention], _architecture(model), allow_missing)


def our_name(name: str, convention: str) -> str | None:
    """ "layer/variable" for a program's name of a tensor; None where it has none."""
    return resnets.our_name(name, BY_TITLE[convention])


def _architecture(model):
    return f"{model.settings.neck}, {model.settings.backbone}"
