"""Settings of the two papers that use Mask R-CNN. Every value says where it comes from.

Marks: [paper] is printed in the paper; [matterport], [detectron2] are defaults of the program it ran, as of `mrcnn/config.py` and
of the model zoo's `mask_rcnn_*` configurations; [ours] deviates, and says why.
"""

from typing import Literal

import keras

from covidcxr.errors import ParameterError
from covidcxr.maskrcnn.settings import (
    Anchors,
    Detections,
    Pixels,
    Proposals,
    ProposalTraining,
    Regions,
    RegionTraining,
    Settings,
    WeightDecay,
)
from covidcxr.models.resnet import ResNet

SCALES = (32, 64, 128, 256, 512)


def ramesh2021(foreground_classes: int = 1) -> Settings:
    """ramesh2021, section 2.3.1: matterport's Mask R-CNN with ResNet-101 and FPN, images 1024 x 1024.

    Its weights for COCO are "matterport_mask_rcnn_r101_fpn" of params/weights.yaml. Not the same as in matterport's program,
    besides what is marked [ours]:
    - heads have no batch normalisation of their own, whose statistics are constants there; the proposal network has one logit per
      anchor instead of two. Both are the same function;
    - suppression of proposals is within a level, there over all levels together; sizes change by a factor of 62.5 at most;
    - regions take floor, not round, of their level; pooled samples lie in the middle of bins, not at the corners of a grid;
    - of regions, negatives fill what positives leave; there are about two per positive there, and rows of zeros, which count as
      background, fill the rest;
    - padding of images is at the bottom and right and enters the network as 0, there on all sides and as black (minus the mean).
    """
    return Settings(
        foreground_classes,
        # ResNet-101 [paper]; stride on the first 1 x 1 convolution, epsilon of Keras, the stem's maximum with padding "same";
        # TRAIN_BN = False keeps statistics, while scales and shifts are trained [matterport]
        ResNet(101, stride_in_1x1=True, norm="scale", epsilon=1e-3, pool_padding="end"),
        neck="fpn",  # strides 4 ... 64 [paper]
        pyramid_channels=256,  # [paper]
        rpn_channels=512,  # [matterport]
        pixels=Pixels("rgb", 255.0, (123.7, 116.8, 103.9), (1.0, 1.0, 1.0)),  # [matterport]
        anchors=Anchors(
            sizes=tuple((scale,) for scale in SCALES),  # [paper]
            ratios=(0.5, 1.0, 2.0),  # [paper]; width / height there, the same three boxes
            rounded=False,  # [matterport]
            delta_weights=(10.0, 10.0, 5.0, 5.0),  # standard deviations 0.1 and 0.2 [paper], their reciprocals
        ),
        proposals=Proposals(
            before_nms=1000,  # per level [ours]; matterport: 6000 over all levels, at many times the cost
            after_nms=1000,  # [matterport] at inference; in training 2000, of which 200 are drawn
            nms_threshold=0.7,  # [matterport]
            smallest=0.0,  # [matterport] has no least size; boxes without area are left out [ours]
        ),
        proposal_training=ProposalTraining(
            positive_iou=0.7,  # [matterport], as the next three
            negative_iou=0.3,
            samples=256,
            positive_fraction=0.5,
            smooth_l1_beta=1.0,  # [matterport]
            box_mean_over="positives",  # [matterport]
        ),
        regions=Regions(
            box_size=7,  # [matterport]
            mask_size=14,  # masks are 28 x 28 [paper]
            samples=1,  # [matterport]: crop_and_resize
            aligned=True,  # [ours]: unbiased; crop_and_resize has no such choice
        ),
        region_training=RegionTraining(
            positive_iou=0.5,  # [matterport]
            samples=200,  # [paper]
            positive_fraction=0.33,  # [paper]
            append_truth=False,  # [matterport]
            smooth_l1_beta=1.0,  # [matterport]
            box_mean_over="positives",  # [matterport]
            mask_samples=1,  # [matterport], of the mask itself [ours]; there of a copy of 56 x 56 pixels
            mask_threshold=0.5,  # [matterport]: targets are rounded
        ),
        detections=Detections(
            score_threshold=0.7,  # [matterport], as the next three
            nms_threshold=0.3,
            most=100,
            best_class_only=True,
            smallest=0.0,  # as for proposals
        ),
        weight_decay=WeightDecay(1e-4, "mean"),  # 0.0001 [paper], divided by the size of each tensor [matterport]
        largest_instances=15,  # [paper]
    )


def ramesh2021_optimizer() -> keras.optimizers.Optimizer:
    """Gradient descent with momentum 0.9, rate 0.001 and gradients clipped to a norm of 5 [paper], over all tensors together:

    what the old Keras that matterport's program ran on did for `clipnorm`; today's `clipnorm` goes tensor by tensor.
    """
    return keras.optimizers.SGD(0.001, momentum=0.9, global_clipnorm=5.0)


def gaikwad2020(
    backbone: Literal["r50", "r101", "x101"] = "r50", neck: Literal["fpn", "c4", "dc5"] = "fpn", foreground_classes: int = 3
) -> Settings:
    """gaikwad2020, Table 3: the configuration of detectron2's model zoo for a backbone and a neck.

    Of the network the paper prints only that name and the number of classes: everything is [detectron2] unless marked.

    Args:
        backbone: "r50", "r101" or "x101" (ResNeXt-101 32x8d).
        neck: "fpn", "c4" or "dc5"; the zoo, and the paper, have "x101" with "fpn" only.
        foreground_classes: left lung, right lung, infection [paper].
    """
    designs = {
        "r50": ResNet(50, stride_in_1x1=True, norm="frozen", frozen_stages=2, dilated_res5=neck == "dc5"),
        "r101": ResNet(101, stride_in_1x1=True, norm="frozen", frozen_stages=2, dilated_res5=neck == "dc5"),
        "x101": ResNet(101, groups=32, width_per_group=8, norm="frozen", frozen_stages=2),
    }
    if backbone not in designs or neck not in ("fpn", "c4", "dc5") or (backbone == "x101" and neck != "fpn"):
        raise ParameterError(
            f'backbone must be "r50" or "r101", with the neck "fpn", "c4" or "dc5", or "x101" with "fpn"; '
            f"it is {backbone!r} with {neck!r}."
        )
    pyramid = neck == "fpn"
    return Settings(
        foreground_classes,
        designs[backbone],
        neck,
        pixels=Pixels(
            "bgr", 255.0, (103.53, 116.28, 123.675), (57.375, 57.12, 58.395) if backbone == "x101" else (1.0, 1.0, 1.0)
        ),
        anchors=Anchors(tuple((scale,) for scale in SCALES) if pyramid else (SCALES,), rounded=False),
        proposals=Proposals(
            # Per level 1000 at inference, and here in training too instead of 2000 [ours]. Without a pyramid 2000 instead of 6000
            # and 12000 [ours]: suppression takes time and memory with the square of it.
            before_nms=1000 if pyramid else 2000,
            after_nms=1000,  # [detectron2] at inference, and of FPN; of C4 and DC5 it keeps 2000 in training
            nms_threshold=0.7,
            smallest=0.0,
        ),
        proposal_training=ProposalTraining(smooth_l1_beta=0.0),
        regions=Regions(
            box_size=14 if neck == "c4" else 7,
            mask_size=14,
            samples=2,  # [ours]: adaptive there, which has no static shape
            aligned=True,
        ),
        region_training=RegionTraining(
            samples=512,
            positive_fraction=0.25,
            smooth_l1_beta=0.0,
            mask_samples=2,  # [ours]: adaptive there
            mask_threshold=0.5,
        ),
        detections=Detections(score_threshold=0.05, nms_threshold=0.5, most=100, smallest=0.0),
        weight_decay=WeightDecay(1e-4, "sum"),
        largest_instances=100,  # [ours]: no limit there; of an image with more, `feeding.Feed` takes the largest
    )


def gaikwad2020_optimizer() -> keras.optimizers.Optimizer:
    """Gradient descent with rate 0.00025 [paper] and momentum 0.9 [detectron2], for 5000 steps of 2 images [paper].

    detectron2 also lets the rate grow over the first 1000 steps; that is left to a schedule.
    """
    return keras.optimizers.SGD(0.00025, momentum=0.9)
