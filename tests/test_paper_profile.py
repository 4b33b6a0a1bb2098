"""The profile `paper` has the settings that the papers print, all stages, three seeds, and an expected time for each."""

import pytest

from covidcxr import claims, outcomes
from covidcxr.study import Plan

# Of which stage and parameters each printed setting is made.
PARAMETERS = {
    "ramesh2021.setting.epochs": ("mask_rcnn_xrays", lambda p: p["epochs"]),
    "ramesh2021.setting.train_steps": ("mask_rcnn_xrays", lambda p: p["steps"]),
    "ramesh2021.setting.batch_size": ("mask_rcnn_xrays", lambda p: p["batch_size"]),
    "ramesh2021.setting.pyramid_channels": ("mask_rcnn_xrays", lambda p: p["pyramid_channels"]),
    "ramesh2021.setting.image_shape": ("mask_rcnn_xrays", lambda p: (p["image_size"], p["image_size"], 3)),
    "ramesh2021.setting.anchor_scales": ("mask_rcnn_xrays", lambda p: tuple(p["anchor_scales"])),
    "ramesh2021.setting.rois_per_image": ("mask_rcnn_xrays", lambda p: p["regions"]),
    "tang2020.setting.epochs": ("unet_opacity", lambda p: p["epochs"]),
    "tang2020.setting.image_size": ("unet_opacity", lambda p: (p["image_size"], p["image_size"])),
    "zhang2020.setting.lung.epochs": ("lung_segmentation", lambda p: p["epochs"]),
    "zhang2020.setting.lung.threshold": ("lung_segmentation", lambda p: p["threshold"]),
    "zhang2020.setting.image_shape": ("lung_segmentation", lambda p: (p["image_size"], p["image_size"], 3)),
    "zhang2020.setting.diagnosis.patience": ("diagnosis", lambda p: p["patience"]),
    "zhang2020.setting.diagnosis.dense_units": ("diagnosis", lambda p: (p["dense"], 1)),
    "zhang2020.setting.diagnosis.convolutions": ("diagnosis", lambda p: len(p["filters"])),
    "gaikwad2020.setting.batch_size": ("ct_instances_r50_fpn_3x", lambda p: p["batch_size"]),
    "gaikwad2020.setting.iterations": ("ct_instances_r50_fpn_3x", lambda p: p["epochs"] * p["steps"]),
    "yang2021.setting.image_size": ("decomposition_gan", lambda p: (p["image_size"], p["image_size"])),
    "yang2021.setting.learning_rate": ("decomposition_gan", lambda p: p["learning_rate"]),
    "yang2021.setting.batch_size": ("decomposition_gan", lambda p: p["batch_size"]),
    "yang2021.setting.alpha1": ("decomposition_gan", lambda p: p["weights"][0]),
    "yang2021.setting.alpha2": ("decomposition_gan", lambda p: p["weights"][1]),
    "yang2021.setting.alpha3": ("decomposition_gan", lambda p: p["weights"][2]),
    "yang2021.setting.gradient_penalty": ("decomposition_gan", lambda p: p["weights"][3]),
}
# Not left to parameters: the presets and recipes have them (and their tests hold them), or training decides.
ELSEWHERE = (
    "ramesh2021.setting.augmentation.", "ramesh2021.setting.validation_steps", "ramesh2021.setting.backbone_strides",
    "ramesh2021.setting.gradient_clip_norm", "ramesh2021.setting.momentum", "ramesh2021.setting.learning_rate",
    "ramesh2021.setting.weight_decay", "ramesh2021.setting.mask_shape", "ramesh2021.setting.anchor_ratios",
    "ramesh2021.setting.anchor_stride", "ramesh2021.setting.roi_positive_ratio", "ramesh2021.setting.box_standard_deviations",
    "ramesh2021.setting.max_instances", "zhang2020.setting.lung.mask_threshold", "zhang2020.setting.diagnosis.epochs",
    "zhang2020.setting.diagnosis.crop_shape", "zhang2020.setting.crop20.pixels", "gaikwad2020.setting.learning_rate",
    "gaikwad2020.setting.classes", "yang2021.setting.threshold",
)  # fmt: skip


@pytest.fixture(scope="module")
def plan():
    return Plan.load("paper")


@pytest.mark.parametrize("name", PARAMETERS)
def test_it_has_the_setting_that_the_paper_prints(plan, name):
    stage, of = PARAMETERS[name]
    assert of(plan.stage(stage).parameters) == claims.load().claim(name).value


def test_every_printed_setting_is_looked_at():
    printed = {name for name, claim in claims.load().claims.items() if claim.kind == "setting" and ".setting." in name}
    assert printed == {*PARAMETERS, *(name for name in printed if name.startswith(ELSEWHERE))}


def test_all_stages_run_train_three_times_and_have_an_expected_time(plan):
    assert [stage.name for stage in plan.stages] == list(outcomes.read_study()["stages"])
    assert set(plan.minutes) == {stage.name for stage in plan.stages}
    for stage in plan.stages:
        if "repeats" in stage.parameters:
            assert stage.parameters["repeats"] == 3, stage.name
        if "start" in stage.parameters:
            assert stage.parameters["start"] not in ("random", "lungs"), stage.name
