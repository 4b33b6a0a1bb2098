"""Published weights, brought into the networks of this package.

    report = load(ResNet(50).network(), "torchvision_resnet50")
    print(report)

fetches a file of params/weights.yaml (`published`), finds by its names which program wrote it, brings every tensor to our name
and layout, and tells what became of each: nothing is left out silently. Mask R-CNN's own entry is `maskrcnn.weights.load`,
which also takes all that is here, for its backbone.

Here are the names of residual networks in files of torchvision, keras.applications, detectron2 and Caffe2 (detectron2's
"MSRA/R-50.pkl"), and what those of whole detectors share with them.

Layouts: convolutions are (out, in / groups, height, width) in PyTorch and Caffe2 and become Keras' by the transposition
(2, 3, 1, 0). Convolutions of keras.applications, and the first of MSRA's ResNet-50, have biases. Batch normalisation follows,
whose mean takes them up exactly: (x + bias) - mean = x - (mean - bias).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from covidcxr.errors import InputError, did_you_mean
from covidcxr.models import checkpoints, published

KINDS = {"weight": "kernel", "bias": "bias"}
NORM_KINDS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
HEADS = ("class_logits", "box_deltas", "mask_logits")  # layers whose size follows the number of classes
CLASSIFIER = "the classifier of ImageNet, which the model does not have"


@dataclass(frozen=True)
class Slot:
    """A value for one variable, in our layout, and the names in the file that it was made of."""

    value: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True)
class Convention:
    """Names and layouts of one program's files.

    Attributes:
        title: of the program.
        parse: from a name in the file to the program's name of a layer and of its variable; None where it is of another kind.
        kinds, norm_kinds: from the program's variables of a layer, or of a normalisation, to ours.
        layers: pattern of the program's layer, and what makes ours of its groups, which are integers: letters count from a = 1.
        left_out: pattern of a name, and why it is left out.
        lay_out: (array, our "layer/variable", model) -> array in our layout.
        merge: takes up slots that we have no variable for, such as biases before a normalisation, into others, in place.
    """

    title: str
    parse: Callable[[str], tuple[str, str] | None]
    kinds: Mapping[str, str]
    norm_kinds: Mapping[str, str]
    layers: tuple[tuple[str, Callable[..., str]], ...]
    left_out: tuple[tuple[str, str], ...]
    lay_out: Callable[[np.ndarray, str, Any], np.ndarray]
    merge: Callable[[dict[str, Slot]], None] = lambda slots: None


@dataclass
class LoadReport:
    """What became of every tensor of a file and of every variable of the model.

    Attributes:
        loaded: {name in the file: variable of the model, "layer/variable"}; several variables are separated by commas.
        skipped: {name in the file: why its values were not taken}.
        unused: names in the file that the model has no place for.
        missing: variables of the model that the file did not set; they keep their values.
        convention: the program whose names the file has.
        file: its name.
        remarks: what the file needs and the model has otherwise.
    """

    loaded: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    convention: str = ""
    file: str = ""
    remarks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.skipped) + len(self.unused)
        lines = [f"{self.file or 'Weights'}: {len(self.loaded)} of {total} tensors loaded; names of {self.convention}."]
        reasons: dict[str, list[str]] = {}
        for name, why in self.skipped.items():
            reasons.setdefault(why, []).append(name)
        lines += [f"Skipped: {_few(names)}: {why}" for why, names in reasons.items()]
        if self.unused:
            lines.append(f"In the file, not in the model: {_few(self.unused)}")
        if self.missing:
            layers = list(dict.fromkeys(name.split("/")[0] for name in self.missing))
            lines.append(f"Keep the values they had: {len(self.missing)} variables of {_few(layers, 16)}")
        return "\n".join([*lines, *(f"Mind: {remark}" for remark in self.remarks)])


def _few(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# names and layouts


def _parse_torch(name):
    layer, _, kind = name.rpartition(".")
    return layer, kind


def _parse_caffe2(name):
    match = re.fullmatch(r"(.+?(?:_bn)?)_(w|b|s|rm|riv|gamma|beta|running_mean|running_var)", name)
    return match.groups() if match else None


def parse_keras(name):
    """Layer and variable of a path in an .h5, such as "bn_conv1/bn_conv1/gamma:0".

    Its first folder is the layer of the outer model; only a model within has layers of its own.
    """
    *folders, variable = name.removeprefix("model_weights/").split("/")
    if not folders:
        return None
    return folders[-1] if folders[0] == "rpn_model" else folders[0], variable.removesuffix(":0")


def lay_out_torch(array, target, model):
    """PyTorch's convolutions as Keras'."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array


def lay_out_keras(array, target, model):
    """Keras' own."""
    return array


def merge_biases(slots: dict[str, Slot]) -> None:
    """Takes up the biases of a residual network's convolutions into the means of the normalisations that follow."""
    for target in [target for target in slots if target.endswith("/bias")]:
        norm = re.sub(r"_conv(\d?)/bias$|_shortcut/bias$", _norm_after, target)
        if norm != target and f"{norm}/moving_mean" in slots:
            bias, mean = slots.pop(target), slots[f"{norm}/moving_mean"]
            value = mean.value.astype("float64") - bias.value
            slots[f"{norm}/moving_mean"] = Slot(value.astype(mean.value.dtype), mean.names + bias.names)


def _norm_after(match):
    return "_shortcut_norm" if match.group().startswith("_shortcut") else f"_norm{match.group(1)}"


def _fixed(layer):
    return lambda *_: layer


def resnet_layers(prefix, stem, stem_norm, conv, norm, shortcut, shortcut_norm, stage_of=lambda s: s, block_of=lambda b: b):
    """The table of a residual network. Patterns of blocks have the groups stage, block and, but for shortcuts, convolution."""
    return (
        (prefix + stem, _fixed("stem_conv")),
        (prefix + stem_norm, _fixed("stem_norm")),
        (prefix + conv, lambda s, b, i: f"res{stage_of(s)}_{block_of(b)}_conv{i}"),
        (prefix + norm, lambda s, b, i: f"res{stage_of(s)}_{block_of(b)}_norm{i}"),
        (prefix + shortcut, lambda s, b: f"res{stage_of(s)}_{block_of(b)}_shortcut"),
        (prefix + shortcut_norm, lambda s, b: f"res{stage_of(s)}_{block_of(b)}_shortcut_norm"),
    )


TORCHVISION = Convention(
    "torchvision",
    _parse_torch,
    KINDS,
    NORM_KINDS,
    resnet_layers(
        r"(?:backbone\.body\.)?",
        "conv1",
        "bn1",
        r"layer(\d)\.(\d+)\.conv(\d)",
        r"layer(\d)\.(\d+)\.bn(\d)",
        r"layer(\d)\.(\d+)\.downsample\.0",
        r"layer(\d)\.(\d+)\.downsample\.1",
        stage_of=lambda s: s + 1,
    ),
    (
        (r".*num_batches_tracked", "a counter that batch normalisation with running statistics does not use"),
        (r"fc\.(?:weight|bias)", CLASSIFIER),
    ),
    lay_out_torch,
)
# C4 has no bottom_up: its backbone is the ResNet itself, and res5 is in roi_heads.
DETECTRON2 = Convention(
    "detectron2",
    _parse_torch,
    KINDS,
    NORM_KINDS,
    resnet_layers(
        r"(?:backbone\.(?:bottom_up\.)?|roi_heads\.)?",
        r"stem\.conv1",
        r"stem\.conv1\.norm",
        r"res(\d)\.(\d+)\.conv(\d)",
        r"res(\d)\.(\d+)\.conv(\d)\.norm",
        r"res(\d)\.(\d+)\.shortcut",
        r"res(\d)\.(\d+)\.shortcut\.norm",
    ),
    (
        (r".*num_batches_tracked", "a counter that batch normalisation with running statistics does not use"),
        (r"(?:stem\.fc|linear)\.(?:weight|bias)", CLASSIFIER),
        (r"pixel_(?:mean|std)|.*\.cell_anchors\.\d+", "a constant, which is among the settings here"),
    ),
    lay_out_torch,
)
CAFFE2 = Convention(
    "Caffe2",
    _parse_caffe2,
    {"w": "kernel", "b": "bias"},
    {
        **{"s": "gamma", "b": "beta", "rm": "moving_mean", "riv": "moving_variance"},  # ResNeXt-101 32x8d
        **{"gamma": "gamma", "beta": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"},  # MSRA
    },
    resnet_layers(
        "",
        "conv1",
        "res_conv1_bn",
        r"res(\d)_(\d+)_branch2([abc])",
        r"res(\d)_(\d+)_branch2([abc])_bn",
        r"res(\d)_(\d+)_branch1",
        r"res(\d)_(\d+)_branch1_bn",
    ),
    ((r"(?:fc1000|pred)_[wb]", CLASSIFIER), (r".*_momentum", "the optimiser's")),
    lay_out_torch,
    merge_biases,
)
# ResNet of keras.applications counts blocks from 1; its second versions and ResNeXt are other networks.
KERAS_APPLICATIONS = Convention(
    "keras.applications",
    parse_keras,
    {"kernel": "kernel", "bias": "bias"},
    {name: name for name in NORM_KINDS.values()},
    resnet_layers(
        "",
        "conv1_conv",
        "conv1_bn",
        r"conv(\d)_block(\d+)_([123])_conv",
        r"conv(\d)_block(\d+)_([123])_bn",
        r"conv(\d)_block(\d+)_0_conv",
        r"conv(\d)_block(\d+)_0_bn",
        block_of=lambda b: b - 1,
    ),
    ((r"(?:model_weights/)?predictions/.*", CLASSIFIER),),
    lay_out_keras,
    merge_biases,
)
CONVENTIONS = (TORCHVISION, KERAS_APPLICATIONS, DETECTRON2, CAFFE2)


def our_name(name: str, convention: Convention) -> str | None:
    """ "layer/variable" for the name of a tensor in a file; None where it has none."""
    layer, kind = convention.parse(name) or ("", "")
    for pattern, layer_of in convention.layers:
        match = re.fullmatch(pattern, layer)
        if match:
            ours = layer_of(*(int(g) if g.isdigit() else ord(g) - ord("a") + 1 for g in match.groups()))
            kinds = convention.norm_kinds if "norm" in ours else convention.kinds
            return f"{ours}/{kinds[kind]}" if kind in kinds else None
    return None


def convention_of(names: Iterable[str], conventions: tuple[Convention, ...] = CONVENTIONS) -> Convention:
    """The program whose names these are.

    Raises:
        InputError: no program's, or those of several; the message shows some.
    """
    names = list(names)
    known = [convention for convention in conventions if any(our_name(name, convention) for name in names)]
    if len(known) != 1:
        raise InputError(
            f"The names of the tensors are {'those of several programs' if known else 'of none of the programs known'} "
            f"({', '.join(c.title for c in known or conventions)}): {_few(names)}."
        )
    return known[0]


# loading


def load(network: keras.Model, what: str | Path, sha256: str | None = None, mirror: str | None = None) -> LoadReport:
    """Sets the weights of a residual network, or of whatever holds one with its layers' names, from a published file.

    Args:
        network: of `ResNet.network`, or a model that contains one, such as an encoder with a decoder.
        what: a name in params/weights.yaml, or the path of a file.
        sha256, mirror: as for `published.fetch`.

    Returns:
        the report; print it. Its remarks say where the network differs from what the file needs, and how images are to be fed.

    Raises:
        DataMissing: there is no connection; the message says which file to get from where, and where to put it.
        InputError: the file is damaged or is not the published one, or does not fit the network, which is unchanged then.
    """
    return load_file(network, what, CONVENTIONS, sha256, mirror, f"of {network.name}")


def load_file(
    model: keras.Model,
    what: str | Path,
    conventions: tuple[Convention, ...],
    sha256: str | None,
    mirror: str | None,
    architecture: str,
    pixels: Mapping[str, Any] | None = None,
) -> LoadReport:
    """As `load`.

    Args:
        conventions: of the programs whose files are taken.
        architecture: the model's, in words, for errors.
        pixels: how the model feeds images to its network, as `published.Published.pixels`; None: it does not do so itself.
    """
    entry = published.table().get(str(what))
    if entry is None and not Path(what).is_file():
        raise InputError(
            f"{what} is neither a file nor a name in params/weights.yaml.{did_you_mean(what, published.table())} "
            f"Names there: {', '.join(published.table())}."
        )
    path = published.fetch(entry.name, sha256, mirror) if entry else Path(what)
    if path.name.endswith((".weights.h5", ".keras")):
        raise InputError(f"{path} is Keras' own file, not a published one: load it with model.load_weights, or as a model.")
    state = checkpoints.read(path)
    try:
        report = load_state_dict(model, state, convention_of(state, conventions), architecture)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    report.file = path.name
    if entry is None:
        report.remarks.append("by its path alone nobody knows whether epsilon, strides and pixels are those of the file.")
    else:
        report.remarks += [*_differences(model, entry), *_pixels(entry, pixels)]
    return report


def _differences(model, entry):
    """Where the model's residual network differs from the one that the file was made for, other than in shapes."""
    layers = layers_of(model)
    found = {
        "epsilon": layers["stem_norm"].epsilon,
        "stride_in_1x1": tuple(layers["res3_0_conv1"].strides) != (1, 1),
        "pool_padding": "both" if tuple(layers["stem_pool_pad"].padding[0]) == (1, 1) else "end",
    }
    return [
        f"the file needs {key} {value!r}; the model has {found[key]!r}."
        for key, value in entry.design.items()
        if found[key] != value
    ]


def _pixels(entry, pixels):
    if pixels is None:
        return [f"feed it {_in_words(entry.pixels)}."]
    if pixels != entry.pixels:
        return [f"the file needs {_in_words(entry.pixels)}; the model is fed {_in_words(pixels)}."]
    return []


def _in_words(pixels):
    text = f"images in {pixels['order'].upper()}, 0 to {pixels['scale']:g}, minus {pixels['mean']}"
    return text if set(pixels["std"]) == {1.0} else f"{text}, over {pixels['std']}"


def load_state_dict(
    model: keras.Model,
    state: Mapping[str, np.ndarray],
    convention: Convention,
    architecture: str,
    allow_missing: bool = False,
) -> LoadReport:
    """Sets the weights of a model from tensors with the names and layouts of a program.

    Output layers for another number of classes are skipped and keep their start. So do all other parts of the model where the
    file holds a residual network only, each with a line in the report.

    Args:
        architecture: the model's, in words, for errors.
        allow_missing: whether any variables may be missing.

    Raises:
        InputError: an array's shape does not fit, two tensors have the same place, the file's network is deeper, or variables
            are missing; the message names them. The model is unchanged then.
    """
    variables, layers = variables_of(model), set(layers_of(model))
    report = LoadReport(convention=convention.title)
    slots = _slots(model, state, convention, layers, report)
    whole = not all(_of_backbone(target) for target in slots)  # the file holds more than a residual network
    convention.merge(slots)
    values = {}
    for target, slot in slots.items():
        wanted = tuple(variables[target].shape) if target in variables else None
        if wanted is None:
            report.unused += slot.names
        elif slot.value.shape == wanted:
            values[target] = slot.value
            for name in slot.names:
                report.loaded[name] = ", ".join(filter(None, [report.loaded.get(name), target]))
        elif target.split("/")[0] in HEADS:
            report.skipped |= dict.fromkeys(slot.names, f"it is for another number of classes: {slot.value.shape}, here {wanted}")
        else:
            raise InputError(
                f"{slot.names[0]} has the shape {np.shape(state[slot.names[0]])}, which does not fit {target} {wanted}: "
                "another architecture."
            )
    report.missing = [name for name in variables if name not in values]
    lost = [name for name in report.missing if name.split("/")[0] not in HEADS and (whole or _of_backbone(name))]
    if lost and not allow_missing:
        raise InputError(
            f"The file sets {len(values)} of {len(variables)} variables; missing are {_few(lost, 5)}. Is it of the architecture "
            f"{architecture}?"
        )
    for target, value in values.items():
        variables[target].assign(value)
    return report


def _slots(model, state, convention, layers, report):
    """Tensors that the model has a place for, or that others take up; the rest goes to the report."""
    slots: dict[str, Slot] = {}
    for name, array in state.items():
        why = next((why for pattern, why in convention.left_out if re.fullmatch(pattern, name)), None)
        target = our_name(name, convention)
        layer = target.split("/")[0] if target else ""
        if why:
            report.skipped[name] = why
        elif layer in layers or layer.removesuffix("_norm") in layers:
            assert target
            if target in slots:
                raise InputError(f"Two tensors of the file are for {target}: {name} is the second.")
            slots[target] = Slot(convention.lay_out(np.asarray(array), target, model), (name,))
        else:
            stage = re.match(r"res\d_", layer)
            if stage and any(own.startswith(stage.group()) for own in layers):
                raise InputError(
                    f"{name} is for {layer}; the model does not have it, but others of that stage: another architecture."
                )
            report.unused.append(name)
    return slots


def _of_backbone(target):
    return re.match(r"stem_|res\d_", target) is not None


def layers_of(model: keras.Model) -> dict[str, keras.Layer]:
    """{name: layer} of a model and of the models inside; layers shared by two of them count once."""
    found: dict[str, keras.Layer] = {}
    for part in model.layers:
        found |= layers_of(part) if isinstance(part, keras.Model) else {part.name: part}
    return found


def variables_of(model: keras.Model) -> dict[str, keras.Variable]:
    """{"layer/variable": variable} of all layers of `layers_of`."""
    return {f"{name}/{variable.name}": variable for name, layer in layers_of(model).items() for variable in layer.weights}
