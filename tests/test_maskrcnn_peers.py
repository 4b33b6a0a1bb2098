"""Mask R-CNN against the outputs of torchvision and detectron2, stage by stage, on the same weights and pictures.

See peer_fixtures/README.md. The bar is `peer_weights.tolerance`, ten times the peer's own rounding noise. Rows of proposals and
detections are matched by nearest box, since two scores that differ by less than the noise may change places.
"""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops
from peer_fixtures import peer_weights as peer

from covidcxr.maskrcnn.losses import of_class
from covidcxr.maskrcnn.model import LOSSES, MaskRCNN
from covidcxr.maskrcnn.pixels import normalise
from covidcxr.maskrcnn.proposals import propose
from covidcxr.maskrcnn.settings import Anchors, Detections, Pixels, Proposals, ProposalTraining, Regions, RegionTraining, Settings
from covidcxr.maskrcnn.weights import load_state_dict, our_name, variables_of
from covidcxr.models.resnet import ResNet

TORCHVISION = ["B_r18_fpn", "A_r50_fpn", "C_r101_fpn"]
DETECTRON2 = ["D_r50_c4", "D_r50_dc5", "D_r101_fpn", "D_x101_32x8d_fpn"]


def number(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def settings_of(name, spec):
    """Our settings for a fixture's."""
    s = spec["settings"]
    common = {
        "pixels": Pixels("rgb", 1.0, tuple(s["pixel_mean"]), tuple(s["pixel_std"])),
        "proposals": Proposals(s["rpn_pre_nms_per_level"], s["rpn_post_nms"], s["rpn_nms_threshold"], s["rpn_min_size"]),
    }
    found = Detections(s["score_threshold"], s["detection_nms_threshold"], s["detections_per_image"])
    if name in TORCHVISION:
        return Settings(
            s["classes"] - 1,
            ResNet(int(s["backbone"][6:]), norm="scale" if name == "A_r50_fpn" else "frozen"),
            # sampling is off: everything labelled counts
            proposal_training=ProposalTraining(samples=10**7, positive_fraction=1.0),
            region_training=RegionTraining(samples=10**7, positive_fraction=1.0),
            detections=found,
            **common,
        )
    neck = name.split("_")[-1]
    design = {key: s[key] for key in ("depth", "groups", "width_per_group", "stride_in_1x1")}
    common["pixels"] = replace(common["pixels"], order="bgr", scale=255.0)
    return Settings(
        s["classes"],
        ResNet(**design, dilated_res5=s["res5_dilation"] == 2, norm="frozen"),
        neck,
        anchors=Anchors(tuple(map(tuple, s["anchor_sizes"])), rounded=False),
        regions=Regions(s["roi_box_size"], s["roi_mask_size"], samples=2, aligned=True),
        detections=replace(found, smallest=0.0),
        **common,
    )


class Peer:
    """A fixture, our model with its weights, and what our stages put out."""

    def __init__(self, name):
        self.name = name
        self.spec, self.arrays = peer.fixture(name)
        self.model = MaskRCNN(settings_of(name, self.spec))
        convention = "torchvision" if name in TORCHVISION else "detectron2"
        self.report = load_state_dict(self.model, peer.weights_for(self.spec), convention)
        self.pictures = peer.images_for(self.spec).astype("float32") / 255
        self.run(self.pictures, np.array([self.spec["image_size"]] * self.spec["batch"], "float32"))

    def run(self, pictures, sizes):
        model, s = self.model, self.model.settings
        pictures, sizes = ops.convert_to_tensor(pictures), ops.convert_to_tensor(sizes)
        self.stages = model.backbone(normalise(pictures, sizes, s.pixels))
        self.maps = model.neck(self.stages) if model.neck else self.stages[-1:]
        self.logits, self.deltas = model.rpn_outputs(self.maps)
        anchors = model.anchors_of(self.maps)
        self.proposals = propose(anchors, self.logits, self.deltas, sizes, s.anchors.delta_weights, s.proposals)
        self.found = model.detections(self.maps, self.proposals, sizes)

    def check(self, ours, key, theirs=None):
        theirs = self.arrays[key] if theirs is None else theirs
        ours = number(ours)
        assert ours.shape == theirs.shape, f"{key}: shape {ours.shape}, theirs {theirs.shape}"
        gap, allowed = np.abs(ours - theirs).max(), peer.tolerance(self.spec, key)
        print(f"{self.name} {key}: gap {gap:.1e}, allowed {allowed:.1e}, ratio {gap / allowed:.2f}")
        assert gap <= allowed, f"{self.name} {key}: gap {gap:.2e}, allowed {allowed:.2e}"

    def check_maps(self, prefix, maps, name):
        self.check(peer.subset(number(maps)), f"{prefix}features/{name}/subset")
        self.check(peer.mean_and_std(number(maps)), f"{prefix}features/{name}/mean_std")


def rows_matched(ours, valid, theirs, moved_at_most=0.05):
    """For each of their boxes (R, 4) the row of our nearest one; ours must be as many, and few may have moved."""
    assert valid[: len(theirs)].all() and not valid[len(theirs) :].any(), f"{valid.sum()} rows, theirs {len(theirs)}"
    rows = np.abs(ours[None, : len(theirs)] - theirs[:, None]).max(2).argmin(1)
    assert len(set(rows.tolist())) == len(rows), "two of their boxes have the same nearest box"
    moved = rows != np.arange(len(rows))
    assert moved.mean() <= moved_at_most, f"{moved.sum()} of {len(rows)} rows moved"
    return rows


def parameters(names):
    """A small network of each library is enough where every shape is compiled (make test-jax)."""
    return [name if name in ("B_r18_fpn", "D_r50_dc5") else pytest.param(name, marks=pytest.mark.large) for name in names]


@pytest.fixture(scope="module", params=parameters(TORCHVISION + DETECTRON2))
def case(request):
    keras.backend.clear_session()
    return Peer(request.param)


def test_every_weight_has_its_place(case):
    assert not case.report.unused and not case.report.missing and not case.report.skipped
    assert set(case.report.loaded) == set(case.spec["checksums"])


def test_features(case):
    first = "c" if case.name in TORCHVISION else "res"
    for k, maps in enumerate(case.stages, 2):
        case.check_maps("", maps, f"{first}{k}")
    if case.model.neck:
        for k, maps in enumerate(case.maps, 2):
            case.check_maps("", maps, f"p{k}")


def test_region_proposal_network(case):
    names = [f"p{k}" for k in range(2, 7)] if case.model.neck else [f"res{len(case.stages) + 1}"]
    for name, logits, deltas in zip(names, case.logits, case.deltas, strict=True):
        shape = case.arrays[f"rpn/{name}/logits"].shape
        case.check(number(logits).reshape(shape), f"rpn/{name}/logits")
        case.check(number(deltas).reshape(*shape[:3], -1), f"rpn/{name}/deltas")


def check_proposals(case, prefix=""):
    kind = "scores" if case.name in TORCHVISION else "logits"
    for i in range(case.spec["batch"]):
        boxes, logits, valid = (number(case.proposals[key])[i] for key in ("boxes", "logits", "valid"))
        key = f"{prefix}proposals/{i}"
        rows = rows_matched(boxes, valid, case.arrays[f"{key}/boxes"])
        case.check(boxes[rows], f"{key}/boxes")
        case.check(1 / (1 + np.exp(-logits[rows])) if kind == "scores" else logits[rows], f"{key}/{kind}")


def test_proposals(case):
    check_proposals(case)


def test_roi_align(case):
    model = case.model
    if case.name in TORCHVISION:
        boxes = ops.convert_to_tensor(case.arrays["roi_align/boxes"])
        case.check(number(model.pool(case.maps, boxes, 7))[..., ::16], "roi_align/7")
        case.check(number(model.pool(case.maps, boxes, 14))[..., ::64], "roi_align/14")
    else:
        boxes = ops.convert_to_tensor(case.arrays["roi_align_boxes"][None])
        pooled = number(model.pool(case.maps, boxes, model.settings.regions.box_size))
        case.check(pooled[..., :: pooled.shape[-1] // 8], "samples_2/roi_align")


def test_box_head(case):
    for i in range(case.spec["batch"]):
        boxes = ops.convert_to_tensor(np.stack([case.arrays[f"proposals/{i}/boxes"]] * case.spec["batch"]))
        logits, deltas = (number(x)[i] for x in case.model.box_outputs(case.maps, boxes))
        if case.name in TORCHVISION:
            case.check(logits, f"box_head/{i}/logits")
            foreground = case.arrays[f"box_head/{i}/deltas"][:, 4:]  # ours has no deltas for background
            case.check(deltas.reshape(len(deltas), -1), f"box_head/{i}/deltas", foreground)
        else:
            case.check(np.roll(logits, -1, axis=1), f"samples_2/box_head/{i}/logits")
            case.check(deltas.reshape(len(deltas), -1), f"samples_2/box_head/{i}/deltas")


def check_detections(case, prefix=""):
    """Boxes, scores and labels; returns the rows of ours that are theirs, per image."""
    rows_of = []
    for i in range(case.spec["batch"]):
        key = f"{prefix}detections/{i}"
        boxes, scores, labels, valid = (number(case.found[part])[i] for part in ("boxes", "scores", "labels", "valid"))
        rows = rows_matched(boxes, valid, case.arrays[f"{key}/boxes"])
        case.check(boxes[rows], f"{key}/boxes")
        case.check(scores[rows], f"{key}/scores")
        if case.name in TORCHVISION:
            np.testing.assert_array_equal(labels[rows], case.arrays[f"{key}/labels"])
        else:
            np.testing.assert_array_equal(labels[rows] - 1, case.arrays[f"{key}/classes"])
        rows_of.append(rows)
    return rows_of


def test_detections_and_masks(case):
    torchvision = case.name in TORCHVISION
    rows_of = check_detections(case, "" if torchvision else "samples_2/")
    logits = case.model.mask_outputs(case.maps, case.found["boxes"])
    own = number(of_class(logits, case.found["labels"], axis=4))
    np.testing.assert_allclose(number(case.found["masks"]), 1 / (1 + np.exp(-own)), atol=1e-5)
    for i, rows in enumerate(rows_of):
        if torchvision:
            case.check(own[i][rows], f"detections/{i}/mask_logits")
            key = f"detections/{i}/mask_logits_all"
            case.check(number(logits)[i][rows[:2]], key, case.arrays[key][..., 1:])  # ours has none for background
        else:
            case.check(number(case.found["masks"])[i][rows], f"samples_2/detections/{i}/mask_probabilities")


# training


@pytest.fixture(scope="module", params=parameters(["B_r18_fpn", "A_r50_fpn"]))
def trained(request):
    keras.backend.clear_session()
    return Peer(request.param)


def truth_of(case, images=slice(None)):
    """What `fit` takes, for some images of the batch."""
    width = case.spec["image_size"][1]
    boxes, labels, packed = (case.arrays[f"truth/{key}"][images] for key in ("boxes", "labels", "masks_packed"))
    masks = np.unpackbits(packed, axis=-1, count=width)
    x = {"images": case.pictures[images], "boxes": boxes, "labels": labels, "valid": np.ones(labels.shape, bool), "masks": masks}
    # Padding must change nothing: rows that would match anything, were they valid.
    whole = np.broadcast_to(np.array([0, 0, width, case.spec["image_size"][0]], "float32"), (*labels.shape[:1], 2, 4))
    padding = {"boxes": whole, "labels": labels[:, :2], "valid": np.zeros_like(x["valid"][:, :2]), "masks": masks[:, :2]}
    return {key: np.concatenate([value, padding[key]], axis=1) if key in padding else value for key, value in x.items()}


def test_five_losses_without_sampling(trained):
    batch, settings = trained.spec["batch"], trained.model.settings
    groups = {"batch": slice(None), **({f"image{i}": slice(i, i + 1) for i in range(batch)} if batch > 1 else {})}
    try:
        for group, images in groups.items():
            for samples in (1, 2, 4):
                training = replace(settings.region_training, mask_samples=samples)
                trained.model.settings = replace(settings, region_training=training)
                ours = trained.model(truth_of(trained, images), training=True)
                trained.check(ours["mask_loss"], f"losses/{group}/mask_samples_{samples}")
            # torchvision's own number of samples follows the size of each region, which has no static shape.
            adaptive = trained.arrays[f"losses/{group}/mask_samples_adaptive"]
            np.testing.assert_allclose(number(ours["mask_loss"]), adaptive, rtol=1e-3)
            for name in LOSSES[:4]:
                trained.check(ours[name], f"losses/{group}/{name.removesuffix('_loss')}")
    finally:
        trained.model.settings = settings


def test_one_step_of_fit_follows_the_peers_gradients(trained):
    """With plain gradient descent and rate 1 the step is the gradient, up to rounding of the weights."""
    model = trained.model
    variables = {key: variable for key, variable in variables_of(model).items() if variable.trainable}
    before = {key: number(variable).astype("float64") for key, variable in variables.items()}
    jit = keras.backend.backend() == "jax"
    model.compile(optimizer=keras.optimizers.SGD(1.0), jit_compile=jit)
    history = model.fit(truth_of(trained), batch_size=trained.spec["batch"], epochs=1, verbose=0).history
    assert set(history) == {"loss", *LOSSES}
    np.testing.assert_allclose(sum(history[name][0] for name in LOSSES), history["loss"][0], rtol=1e-5)
    ours = {key: np.linalg.norm(before[key] - number(variable)) for key, variable in variables.items()}
    theirs = dict(zip(trained.spec["gradient_names"], trained.arrays["losses/gradient_norms"], strict=True))
    named = {our_name(name, "torchvision"): norm for name, norm in theirs.items()}
    assert set(named) == set(ours)
    gaps = {key: abs(ours[key] - norm) / norm for key, norm in named.items()}
    worst = max(gaps, key=gaps.get)
    print(f"{trained.name}: {len(gaps)} gradients, largest relative gap {gaps[worst]:.1e} at {worst}")
    assert gaps[worst] < 1e-3, worst


@pytest.mark.large
def test_padded_batch():
    keras.backend.clear_session()
    case = Peer("A_r50_fpn")
    sizes = np.array(case.spec["settings"]["padded_image_sizes"], "float32")
    case.run(case.pictures, sizes)  # the pictures go on beyond these sizes, which must not matter
    case.check_maps("padded/", case.maps[0], "p2")
    check_proposals(case, "padded/")
    check_detections(case, "padded/")
