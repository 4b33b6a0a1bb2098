"""Settings of Mask R-CNN, in the order of its stages. `presets.py` gives the values of two papers.

Defaults are torchvision's for its `maskrcnn_resnet50_fpn`, except where a remark says otherwise.
"""

from dataclasses import asdict, dataclass, field
from operator import attrgetter
from typing import Any, Literal

from covidcxr.errors import ParameterError
from covidcxr.maskrcnn.sampler import most_positives
from covidcxr.models.resnet import ResNet


@dataclass(frozen=True)
class Pixels:
    """How images, RGB in [0, 1], are fed to the backbone: (channels in `order` · scale - mean) / std."""

    order: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Anchors:
    """Reference boxes at every cell of every level, and how the network's deltas change them."""

    sizes: tuple[tuple[float, ...], ...] = ((32,), (64,), (128,), (256,), (512,))  # per level, square roots of areas in pixels
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    rounded: bool = True  # to integers; detectron2 does not
    delta_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Proposals:
    """Which boxes the region proposal network hands on, in training and inference alike."""

    before_nms: int = 1000  # best of each level; torchvision and detectron2 take 2000 in training, at twice the time
    after_nms: int = 1000  # best of all levels
    nms_threshold: float = 0.7
    smallest: float = 1e-3  # pixels; boxes must be wider and higher


@dataclass(frozen=True)
class ProposalTraining:
    """How the region proposal network is trained."""

    positive_iou: float = 0.7
    negative_iou: float = 0.3
    samples: int = 256  # anchors per image
    positive_fraction: float = 0.5
    smooth_l1_beta: float = 1 / 9
    box_mean_over: Literal["samples", "positives"] = "samples"  # matterport: positives, and over the four deltas


@dataclass(frozen=True)
class Regions:
    """How features of a region are pooled."""

    box_size: int = 7
    mask_size: int = 14
    samples: int = 2  # per side of a bin; detectron2's default, adaptive, has no static shape
    aligned: bool = False  # detectron2: True


@dataclass(frozen=True)
class RegionTraining:
    """How the box head and the mask head are trained."""

    positive_iou: float = 0.5
    samples: int = 512  # regions per image; the mask head sees only the slots of positives
    positive_fraction: float = 0.25
    append_truth: bool = True  # true boxes join the proposals; matterport: False
    smooth_l1_beta: float = 1 / 9
    box_mean_over: Literal["samples", "positives"] = "samples"
    mask_samples: int = 2  # per side of a cell of the mask's target; torchvision: adaptive
    mask_threshold: float | None = None  # 0.5: targets are 0 or 1 (matterport, detectron2); None: shares (torchvision)


@dataclass(frozen=True)
class Detections:
    """Which boxes are put out."""

    score_threshold: float = 0.05
    nms_threshold: float = 0.5  # within a class
    most: int = 100  # per image
    smallest: float = 1e-2  # pixels
    candidates: int = 1000  # best boxes that enter suppression; exact unless more pass the score and fewer than `most` are kept
    best_class_only: bool = False  # matterport: a region is at most one object, and only where background is not likelier


@dataclass(frozen=True)
class WeightDecay:
    """An L2 loss on all trained weights but those of normalisation: (factor / 2) · Σ w², or factor · Σ over tensors of mean w².

    "sum" is what SGD of torch with `weight_decay` does (detectron2), "mean" is matterport's form, which is thousands of times
    weaker. Neither is the decoupled `weight_decay` of Keras' optimisers.
    """

    factor: float = 0.0
    form: Literal["sum", "mean"] = "sum"


@dataclass(frozen=True)
class Settings:
    """All of a Mask R-CNN.

    Attributes:
        foreground_classes: kinds of objects; their labels are 1, 2, ..., background is 0.
        neck: "fpn", "c4" or "dc5".
        pyramid_channels: of the maps of the FPN, and of the mask head that reads them.
        rpn_channels: of the hidden layer of the region proposal head; None: as many as its input.
        box_units: of the two dense layers of the box head of FPN and DC5; they hold most of a small network's weights.
        largest_instances: of an image, for the padded arrays that `batches.batch` makes.
    """

    foreground_classes: int = 1
    backbone: ResNet = ResNet(50, norm="frozen")  # torchvision: freezes stem and res2, too; without weights, nothing and "batch"
    neck: Literal["fpn", "c4", "dc5"] = "fpn"
    pyramid_channels: int = 256
    rpn_channels: int | None = None
    box_units: int = 1024
    pixels: Pixels = Pixels()
    anchors: Anchors = Anchors()
    proposals: Proposals = Proposals()
    proposal_training: ProposalTraining = ProposalTraining()
    regions: Regions = Regions()
    region_training: RegionTraining = RegionTraining()
    detections: Detections = Detections()
    weight_decay: WeightDecay = field(default_factory=WeightDecay)
    largest_instances: int = 100

    def __post_init__(self):
        levels = {"fpn": 5, "c4": 1, "dc5": 1}
        if self.neck not in levels:
            raise ParameterError(f'neck must be "fpn", "c4" or "dc5"; it is {self.neck!r}.')
        if len(self.anchors.sizes) != levels[self.neck]:
            raise ParameterError(
                f"The neck {self.neck!r} has {levels[self.neck]} level(s), so anchors.sizes must hold as many tuples; "
                f"it holds {len(self.anchors.sizes)}."
            )
        if self.backbone.dilated_res5 != (self.neck == "dc5"):
            raise ParameterError('backbone.dilated_res5 must be True with the neck "dc5" and False with the others.')
        if self.neck == "c4" and self.regions.box_size != self.regions.mask_size:
            raise ParameterError(
                f'With the neck "c4" boxes and masks share res5, so regions.box_size and mask_size must be equal; they are '
                f"{self.regions.box_size} and {self.regions.mask_size}."
            )
        if not self.anchors.sizes[0] or len({len(sizes) for sizes in self.anchors.sizes}) > 1:
            raise ParameterError(f"Each level must have as many anchor sizes, at least one; they are {self.anchors.sizes}.")
        for name, value, allowed in (
            ("pixels.order", self.pixels.order, ("rgb", "bgr")),
            ("proposal_training.box_mean_over", self.proposal_training.box_mean_over, ("samples", "positives")),
            ("region_training.box_mean_over", self.region_training.box_mean_over, ("samples", "positives")),
            ("weight_decay.form", self.weight_decay.form, ("sum", "mean")),
        ):
            if value not in allowed:
                raise ParameterError(f"{name} must be {' or '.join(map(repr, allowed))}; it is {value!r}.")
        for name in (
            "foreground_classes", "largest_instances", "pyramid_channels", "rpn_channels", "box_units",
            "proposals.before_nms", "proposals.after_nms", "proposal_training.samples",
            "regions.box_size", "regions.mask_size", "regions.samples",
            "region_training.samples", "region_training.mask_samples", "detections.most", "detections.candidates",
        ):  # fmt: skip
            count = attrgetter(name)(self)
            if count is not None and count < 1:
                raise ParameterError(f"{name} must be at least 1; it is {count}.")
        for name in (
            "proposals.nms_threshold",
            "proposal_training.positive_iou", "proposal_training.negative_iou", "proposal_training.positive_fraction",
            "region_training.positive_iou", "region_training.positive_fraction", "region_training.mask_threshold",
            "detections.score_threshold", "detections.nms_threshold",
        ):  # fmt: skip
            share = attrgetter(name)(self)
            if share is not None and not 0 <= share <= 1:
                raise ParameterError(f"{name} must be between 0 and 1; it is {share}.")
        low, high = self.proposal_training.negative_iou, self.proposal_training.positive_iou
        if low > high:
            raise ParameterError(f"proposal_training.negative_iou must not exceed positive_iou; they are {low} and {high}.")
        sizes = tuple(size for level in self.anchors.sizes for size in level)
        for name, values, number in (
            ("pixels.mean", self.pixels.mean, 3),
            ("pixels.std", self.pixels.std, 3),
            ("anchors.delta_weights", self.anchors.delta_weights, 4),
        ):
            if len(values) != number:
                raise ParameterError(f"{name} must be {number} numbers; they are {values}.")
        for name, values in (
            ("pixels.std", self.pixels.std),
            ("anchors.sizes", sizes),
            ("anchors.ratios", self.anchors.ratios),
            ("anchors.delta_weights", self.anchors.delta_weights),
        ):
            if not values or not all(value > 0 for value in values):
                raise ParameterError(f"{name} must be numbers above 0, at least one; they are {values}.")
        for name, training in (("proposal_training", self.proposal_training), ("region_training", self.region_training)):
            if most_positives(training.samples, training.positive_fraction) < 1:
                raise ParameterError(
                    f"{name}: of {training.samples} samples a share of {training.positive_fraction} is not one positive, so that "
                    "no box and no mask would ever be learned. Raise samples or positive_fraction."
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries, for a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Settings":
        """The inverse of `to_dict`."""
        parts: dict[str, Any] = {
            "backbone": ResNet,
            "pixels": Pixels,
            "anchors": Anchors,
            "proposals": Proposals,
            "proposal_training": ProposalTraining,
            "regions": Regions,
            "region_training": RegionTraining,
            "detections": Detections,
            "weight_decay": WeightDecay,
        }
        return cls(**{key: parts[key](**_tuples(value)) if key in parts else value for key, value in values.items()})


def _tuples(value):
    """Lists, which JSON makes of tuples, back to tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
