"""Weights of torchvision and detectron2, brought into a `MaskRCNN`.

Files of both are read by `checkpoints.read`; here are names and layouts. Every tensor of the file is accounted for in the
`LoadReport`: nothing is left out silently.

Layouts: convolutions (out, in / groups, height, width) and transposed convolutions (in, out, height, width) both become Keras'
by the same transposition (2, 3, 1, 0); dense kernels are transposed; the first dense layer after pooling counts its inputs
(channel, row, column) there and (row, column, channel) here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import keras
import numpy as np

from covidcxr.errors import InputError

# (pattern of the peer's name, our layer). Torchvision's older files lack the ".0" of a convolution within a sequence.
TORCHVISION = [
    (r"backbone\.body\.conv1", "stem_conv"),
    (r"backbone\.body\.bn1", "stem_norm"),
    (r"backbone\.body\.layer(\d)\.(\d+)\.conv(\d)", "res{stage}_{1}_conv{2}"),
    (r"backbone\.body\.layer(\d)\.(\d+)\.bn(\d)", "res{stage}_{1}_norm{2}"),
    (r"backbone\.body\.layer(\d)\.(\d+)\.downsample\.0", "res{stage}_{1}_shortcut"),
    (r"backbone\.body\.layer(\d)\.(\d+)\.downsample\.1", "res{stage}_{1}_shortcut_norm"),
    (r"backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?", "fpn_lateral{level}"),
    (r"backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?", "fpn_output{level}"),
    (r"rpn\.head\.conv(?:\.0\.0)?", "rpn_conv"),
    (r"rpn\.head\.cls_logits", "rpn_logits"),
    (r"rpn\.head\.bbox_pred", "rpn_deltas"),
    (r"roi_heads\.box_head\.fc6", "box_fc1"),
    (r"roi_heads\.box_head\.fc7", "box_fc2"),
    (r"roi_heads\.box_predictor\.cls_score", "class_logits"),
    (r"roi_heads\.box_predictor\.bbox_pred", "box_deltas"),
    (r"roi_heads\.mask_head\.([0-3])\.0", "mask_conv{next}"),
    (r"roi_heads\.mask_head\.mask_fcn([1-4])", "mask_conv{0}"),
    (r"roi_heads\.mask_predictor\.conv5_mask", "mask_enlarge"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits", "mask_logits"),
]
# C4 has no bottom_up: its backbone is the ResNet itself, and res5 is in roi_heads.
DETECTRON2 = [
    (r"backbone\.(?:bottom_up\.)?stem\.conv1", "stem_conv"),
    (r"backbone\.(?:bottom_up\.)?stem\.conv1\.norm", "stem_norm"),
    (r"backbone\.(?:bottom_up\.)?res(\d)\.(\d+)\.conv(\d)", "res{0}_{1}_conv{2}"),
    (r"backbone\.(?:bottom_up\.)?res(\d)\.(\d+)\.conv(\d)\.norm", "res{0}_{1}_norm{2}"),
    (r"backbone\.(?:bottom_up\.)?res(\d)\.(\d+)\.shortcut", "res{0}_{1}_shortcut"),
    (r"backbone\.(?:bottom_up\.)?res(\d)\.(\d+)\.shortcut\.norm", "res{0}_{1}_shortcut_norm"),
    (r"roi_heads\.res(5)\.(\d+)\.conv(\d)", "res{0}_{1}_conv{2}"),
    (r"roi_heads\.res(5)\.(\d+)\.conv(\d)\.norm", "res{0}_{1}_norm{2}"),
    (r"roi_heads\.res(5)\.(\d+)\.shortcut", "res{0}_{1}_shortcut"),
    (r"roi_heads\.res(5)\.(\d+)\.shortcut\.norm", "res{0}_{1}_shortcut_norm"),
    (r"backbone\.fpn_lateral(\d)", "fpn_lateral{0}"),
    (r"backbone\.fpn_output(\d)", "fpn_output{0}"),
    (r"proposal_generator\.rpn_head\.conv", "rpn_conv"),
    (r"proposal_generator\.rpn_head\.objectness_logits", "rpn_logits"),
    (r"proposal_generator\.rpn_head\.anchor_deltas", "rpn_deltas"),
    (r"roi_heads\.box_head\.fc([12])", "box_fc{0}"),
    (r"roi_heads\.box_predictor\.cls_score", "class_logits"),
    (r"roi_heads\.box_predictor\.bbox_pred", "box_deltas"),
    (r"roi_heads\.mask_head\.mask_fcn([1-4])", "mask_conv{0}"),
    (r"roi_heads\.mask_head\.deconv", "mask_enlarge"),
    (r"roi_heads\.mask_head\.predictor", "mask_logits"),
]
NAMES = {"torchvision": TORCHVISION, "detectron2": DETECTRON2}
HEADS = ("class_logits", "box_deltas", "mask_logits")  # layers whose size follows the number of classes
VARIABLES = {"running_mean": "moving_mean", "running_var": "moving_variance", "bias": "bias", "weight": "kernel"}
NORM_VARIABLES = {**VARIABLES, "weight": "gamma", "bias": "beta"}


@dataclass
class LoadReport:
    """What became of every tensor of a file and of every variable of the model.

    Attributes:
        loaded: {name in the file: variable of the model, "layer/variable"}.
        skipped: {name in the file: why its values were not taken}.
        unused: names in the file that the model has no place for.
        missing: variables of the model that the file did not set; they keep their values.
    """

    loaded: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors loaded."]
        lines += [f"Skipped: {name}: {why}" for name, why in self.skipped.items()]
        lines += [f"In the file, not in the model: {name}" for name in self.unused]
        lines += [f"In the model, not in the file: {name}" for name in self.missing]
        return "\n".join(lines)


def load_state_dict(model, state: Mapping[str, np.ndarray], convention: str, allow_missing: bool = False) -> LoadReport:
    """Sets the weights of a `MaskRCNN` from a peer's `state_dict`.

    Output layers for another number of classes are skipped and keep their start; so does whatever else does not fit, each with a
    line in the report. Background's box deltas and masks, which torchvision has and nobody uses, are cut off.

    Args:
        model: `MaskRCNN` of the same architecture.
        state: {name: array} in the peer's names and layouts.
        convention: "torchvision" or "detectron2".
        allow_missing: whether variables outside of the output layers may be missing, such as heads where a file holds a
            backbone only.

    Raises:
        InputError: the convention is unknown, an array's shape does not fit, two tensors have the same place, or variables are
            missing; the message names them. The model is unchanged then.
    """
    if convention not in NAMES:
        raise InputError(f"The convention {convention!r} is not known; there are {', '.join(NAMES)}.")
    variables = variables_of(model)
    report, values = LoadReport(), {}
    for name, array in state.items():
        target = our_name(name, convention)
        if name.endswith("num_batches_tracked"):
            report.skipped[name] = "a counter that batch normalisation with running statistics does not use"
        elif target is None or target not in variables:
            report.unused.append(name)
        else:
            if target in values:
                raise InputError(f"Two tensors of the file are for {target}: {name} is the second.")
            value = our_layout(np.asarray(array), target, convention, variables, model)
            wanted = tuple(variables[target].shape)
            if value.shape == wanted:
                values[target] = value
                report.loaded[name] = target
            elif target.split("/")[0] in HEADS:
                report.skipped[name] = f"it is for another number of classes: {value.shape}, here {wanted}"
            else:
                raise InputError(
                    f"{name} has the shape {np.shape(array)}, which does not fit {target} {wanted}: another architecture."
                )
    report.missing = [name for name in variables if name not in values]
    lost = [name for name in report.missing if name.split("/")[0] not in HEADS]
    if lost and not allow_missing:
        raise InputError(
            f"The file sets {len(values)} of {len(variables)} variables; missing are {', '.join(lost[:5])}"
            f"{' and others' if len(lost) > 5 else ''}. Is it of the architecture {model.settings.neck}, "
            f"{model.settings.backbone}?"
        )
    for target, value in values.items():
        variables[target].assign(value)
    return report


def variables_of(model) -> dict[str, keras.Variable]:
    """{"layer/variable": variable} of the networks inside a model; layers shared by two heads count once."""
    found: dict[str, keras.Variable] = {}
    for part in model.layers:
        if isinstance(part, keras.Model):
            found |= variables_of(part)
        else:
            found |= {f"{part.name}/{variable.name}": variable for variable in part.weights}
    return found


def our_name(name: str, convention: str) -> str | None:
    """ "layer/variable" for the peer's `name`; None where it has none."""
    stem, _, kind = name.rpartition(".")
    for pattern, layer in NAMES[convention]:
        match = re.fullmatch(pattern, stem)
        if match and kind in VARIABLES:
            found = [int(group) for group in match.groups()]
            number = found[0] if found else 0
            layer = layer.format(*found, stage=number + 1, level=number + 2, next=number + 1)
            return f"{layer}/{(NORM_VARIABLES if 'norm' in layer else VARIABLES)[kind]}"
    return None


def our_layout(array, target, convention, variables, model):
    """The peer's array as Keras lays it out, background first, and without background where it has no meaning."""
    layer, variable = target.split("/")
    if convention == "detectron2" and layer == "class_logits":
        array = np.roll(array, 1, axis=0)  # background is last there
    if convention == "torchvision" and layer in ("box_deltas", "mask_logits"):
        array = array[4 if layer == "box_deltas" else 1 :]
    if variable != "kernel":
        return array
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if layer == "box_fc1":
        side = model.settings.regions.box_size
        channels = array.shape[1] // side**2
        array = array.reshape(-1, channels, side, side).transpose(0, 2, 3, 1).reshape(len(array), -1)
    return array.T
