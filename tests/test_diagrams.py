"""Diagrams: nothing overlaps or leaves the page, and what they say is true of the model."""

import itertools
import re

import matplotlib
import numpy as np
import pytest
from matplotlib.text import Text
from matplotlib.transforms import Bbox

matplotlib.use("Agg")

from covidcxr import diagrams  # noqa: E402
from covidcxr.diagrams.drawing import Diagram  # noqa: E402
from covidcxr.errors import InputError, ParameterError  # noqa: E402
from covidcxr.maskrcnn.model import MaskRCNN  # noqa: E402
from covidcxr.maskrcnn.presets import gaikwad2020, ramesh2021  # noqa: E402
from covidcxr.maskrcnn.settings import Anchors, Detections, Proposals, Regions, Settings  # noqa: E402
from covidcxr.models.resnet import ResNet  # noqa: E402

TINY = Settings(
    foreground_classes=2,
    backbone=ResNet(18),
    pyramid_channels=32,
    rpn_channels=24,
    anchors=Anchors(((8,), (16,), (32,), (64,), (128,)), ratios=(0.5, 2.0)),
    proposals=Proposals(before_nms=50, after_nms=40, nms_threshold=0.6),
    regions=Regions(box_size=5, mask_size=6),
    detections=Detections(most=9, candidates=40),
)
SETTINGS = {
    "tiny": (TINY, (64, 96)), "ramesh2021": (ramesh2021(), 1024), "r50 fpn": (gaikwad2020(), 512),
    "x101": (gaikwad2020("x101"), (800, 1344)), "c4": (gaikwad2020("r50", "c4"), 512), "dc5": (gaikwad2020("r50", "dc5"), 1024),
}


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Every diagram that a test draws; their figures are closed after it."""
    import matplotlib.pyplot as plt

    made, first = [], Diagram.__init__

    def remember(self, *args, **kwargs):
        first(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(Diagram, "__init__", remember)
    yield made
    plt.close("all")


def test_a_diagram_saved_twice_in_the_house_style_keeps_its_page(tmp_path, recwarn):
    import matplotlib.pyplot as plt

    from covidcxr.figures import use_style

    with plt.rc_context():
        use_style()
        draw = Diagram(2.0)
        draw.block(1, 0.5, 3, 1, "A block", ["a line"])
        for name in ("one.png", "two.png"):  # as a notebook does, which also shows it
            draw.figure.savefig(tmp_path / name, bbox_inches="tight", metadata={"Software": None})
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert not [warning for warning in recwarn if "layout" in str(warning.message)]


@pytest.fixture(scope="module")
def model_of():
    """Models by name, made once."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = MaskRCNN(SETTINGS[name][0])
        return made[name]

    return make


def texts_of(figure):
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def words_of(figure):
    return [text.get_text() for text in texts_of(figure)]


def extents(draw):
    """Boxes around all texts, in inches."""
    to_inches = draw.figure.dpi_scale_trans.inverted()
    return {text: text.get_window_extent().transformed(to_inches) for text in texts_of(draw.figure)}


def crosses(points, box):
    """Does a polyline of upright and level stretches run through a box."""
    stretches = [Bbox([np.minimum(a, b), np.maximum(a, b)]) for a, b in itertools.pairwise(points)]
    return any(
        s.x0 < box.x1 and s.x1 > box.x0 and s.y0 < box.y1 and s.y1 > box.y0 for s in stretches
    )


def assert_reads_well(draw):
    width, height = draw.figure.get_size_inches()
    boxes = extents(draw)
    for text, box in boxes.items():
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, f"{text.get_text()} leaves the figure"
        assert text.get_fontsize() >= 6.5, f"{text.get_text()} is too small"
    for (one, a), (other, b) in itertools.combinations(boxes.items(), 2):
        assert not a.overlaps(b), f"{one.get_text()!r} overlaps {other.get_text()!r}"
    for block in draw.blocks:
        frame = Bbox.from_bounds(block.x, block.y, block.width, block.height)
        for text, box in boxes.items():
            inside = frame.x0 <= box.x0 and frame.x1 >= box.x1 and frame.y0 <= box.y0 and frame.y1 >= box.y1
            assert inside or not frame.overlaps(box), f"{text.get_text()!r} crosses the edge of a block"
    for path in draw.paths:
        for text, box in boxes.items():
            assert not crosses(path, box), f"an arrow runs through {text.get_text()!r}"
        for block in draw.blocks:
            inner = Bbox.from_bounds(block.x + 0.01, block.y + 0.01, block.width - 0.02, block.height - 0.02)
            assert not crosses(path, inner), "an arrow runs through a block"
    for one, other in itertools.combinations(draw.blocks, 2):
        a, b = (Bbox.from_bounds(block.x, block.y, block.width, block.height) for block in (one, other))
        assert not a.overlaps(b), "two blocks overlap"


# ---- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_mask_rcnn_reads_well(model_of, drawn, name):
    figure = diagrams.mask_rcnn(model_of(name), SETTINGS[name][1])
    assert figure.get_size_inches()[0] == 11
    assert_reads_well(drawn[-1])


@pytest.mark.parametrize("name", ["tiny", "ramesh2021", "r50 fpn", "x101"])
def test_backbone_and_pyramid_reads_well(model_of, drawn, name):
    figure = diagrams.backbone_and_pyramid(model_of(name), SETTINGS[name][1])
    assert figure.get_size_inches()[0] == 11
    assert_reads_well(drawn[-1])


@pytest.mark.parametrize("dpi", [96, 130, 300])  # text is wider or narrower by some percent
def test_at_any_resolution_and_in_the_house_style(model_of, drawn, dpi):
    from covidcxr.figures import use_style

    with matplotlib.rc_context():
        use_style()
        for draw in (diagrams.mask_rcnn, diagrams.backbone_and_pyramid):
            draw(model_of("tiny"), (960, 1024)).set_dpi(dpi)
            assert_reads_well(drawn[-1])


def test_crowded_pages_are_told(drawn):
    """The check of these tests sees what it has to see."""
    draw = Diagram(2)
    draw.block(1, 0.5, 2, 1, "Block", ["line"])
    assert_reads_well(draw)
    draw.arrow((0.5, 1), (3.5, 1))
    with pytest.raises(AssertionError, match="runs through"):
        assert_reads_well(draw)
    for place, message in (((1, 1), "crosses the edge"), ((5, 2), "leaves the figure"), ((2, 1.1), "overlaps")):
        draw = Diagram(2)
        draw.block(1, 0.5, 2, 1, "Block", ["line"])
        draw.text(place, "words")
        with pytest.raises(AssertionError, match=message):
            assert_reads_well(draw)


# ---- vocabulary ------------------------------------------------------------------------------------------------------


def test_long_lines_are_made_to_fit_and_levels_alike():
    draw = Diagram(3)
    levels = draw.stack(3, 0.2, [2, 1.5], 0.8, 0.2, [("short", ["a"]), ("long", ["a line longer than its block"])], "sky")
    assert [level.width for level in levels] == [2, 1.5] and levels[1].y == pytest.approx(1.2)
    sizes = {text.get_text(): text.get_fontsize() for text in texts_of(draw.figure)}
    assert sizes["a"] == sizes["a line longer than its block"] < 8.5 and sizes["short"] == sizes["long"]
    assert_reads_well(draw)


def test_groups_surround_their_blocks_and_points_lie_on_edges():
    draw = Diagram(3)
    blocks = [draw.block(1, 1, 1, 0.5, "a"), draw.block(3, 1.5, 1, 0.5, "b")]
    frame = draw.group(blocks, "Both", "green")
    assert frame.x < 1 and frame.y < 1 and frame.x + frame.width > 4 and frame.y + frame.height > 2
    assert blocks[0].right() == (2, 1.25) and blocks[0].top(0.25) == (1.25, 1.5)
    assert blocks[0].left(0) == (1, 1) and blocks[0].bottom(1) == (2, 1)
    assert_reads_well(draw)


# ---- what they say ---------------------------------------------------------------------------------------------------


def test_numbers_of_the_papers_network(model_of):
    words = words_of(diagrams.mask_rcnn(model_of("ramesh2021"), 1024))
    for number in (196_608, 49_152, 12_288, 3_072, 768):  # (1024 / stride)² · 3
        assert f"{number:,}" in words
    for expected in ("1024 × 1024 × 3", "256 × 256 × 256", "16 × 16 × 256", "7 × 7 × 256", "14 × 14 × 256", "100 × 28 × 28",
                     "2 logits, 4 deltas", "4 × [3×3, 256]", "2 × [dense 1024]", "(training: 200)", "(training: 66)"):
        assert expected in words, expected
    assert any("261,888 anchors" in line for line in words)


def test_numbers_of_a_small_network_are_its_own(model_of):
    model = model_of("tiny")
    words = words_of(diagrams.mask_rcnn(model, (64, 96)))
    for expected in ("64 × 96 × 3", "16 × 24 × 32", "1 × 2 × 32", "768", "5 × 5 × 32", "9 × 12 × 12", "6 × 6 × 32", "40 regions",
                     "9 detections", "3 logits, 8 deltas", "no two of a level with IoU above 0.6"):
        assert expected in words, expected
    assert any(line.startswith("3×3, 24; then for every cell 2 logits, object or not, and 8 deltas") for line in words)
    found = model.predict(np.full((1, 64, 96, 3), 0.5, "float32"), verbose=0)
    assert f"{' × '.join(map(str, found['masks'].shape[1:]))}" in words
    assert f"the best: {' × '.join(map(str, found['boxes'].shape[1:]))}" in words


@pytest.mark.parametrize("name", ["tiny", "c4"])
def test_parameters_are_those_of_the_parts(model_of, name):
    model = model_of(name)
    words = " ".join(words_of(diagrams.mask_rcnn(model, 64)))
    parts = [part for part in (model, model.backbone, model.neck, model.rpn, model.box_head, model.mask_head) if part is not None]
    for part in parts:
        count = sum(int(np.prod(weight.shape)) for weight in part.weights)
        assert f"{count / 1e6:.{1 if count > 1e5 else 3}f} M parameters" in words
    if name == "c4":
        assert "res5, which both heads share: 3 blocks" in words


def test_backbone_says_its_blocks_strides_and_what_is_frozen(model_of):
    words = words_of(diagrams.backbone_and_pyramid(model_of("ramesh2021"), 1024))
    assert "23 × [1×1, 256 · 3×3, 256 · 1×1, 1024]" in words and "res4, stride 16" in words and "p6, stride 64" in words
    assert words.count("1×1, 256") == words.count("3×3, 256") == 4 and words.count("enlarged × 2") == 3
    assert "7×7, 64, stride 2 · 3×3 maximum, stride 2" in words
    words = words_of(diagrams.backbone_and_pyramid(model_of("x101"), 512))
    assert "3 × [1×1, 256 · 3×3, 256 in 32 groups · 1×1, 256]" in words
    frozen = [line for line in words if line.endswith("frozen")]
    assert len(frozen) == 2 and "128 × 128 × 64, frozen" in frozen  # the stem and res2
    sizes = [float(m[1]) for line in words if (m := re.search(r"([\d.]+) M parameters", line))]
    assert sizes[-1] > 3 and sum(sizes[:4]) == pytest.approx(next(s for s in sizes if s > 80), abs=0.3)


def test_dilated_stages_keep_their_stride(model_of):
    words = words_of(diagrams.mask_rcnn(model_of("dc5"), 1024))
    assert "stem, res2 – res5 (dilated)" in words and "res5, stride 16" in words and "64 × 64 × 2048" in words


# ---- faults ----------------------------------------------------------------------------------------------------------


def test_what_is_no_pyramid_is_refused(model_of):
    with pytest.raises(ParameterError, match='"fpn" is a pyramid'):
        diagrams.backbone_and_pyramid(model_of("c4"), 512)


@pytest.mark.parametrize("size", [100, (64, 65), 0])
def test_sizes_that_the_model_does_not_take_are_refused(model_of, size):
    for draw in (diagrams.mask_rcnn, diagrams.backbone_and_pyramid):
        with pytest.raises(InputError, match="multiples of 32"):
            draw(model_of("tiny"), size)


# ---- layers in a row -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(246, 236, 3), (29, 28, 3)])
def test_a_row_of_layers_reads_well_and_says_what_the_network_is(drawn, shape):
    from covidcxr.models.diagnosis_cnn import diagnosis_cnn

    net = diagnosis_cnn(shape)
    words = words_of(diagrams.layer_row(net))
    assert_reads_well(drawn[-1])
    blocks = drawn[-1].blocks
    assert len(blocks) == len(net.layers)
    assert blocks[0].height > blocks[2].height > blocks[4].height > blocks[-1].height == blocks[-2].height
    assert words.count("Convolution") == words.count("Maximum") == words.count("Dense") == 2
    said = {"3×3, 32 filters", "3×3, 64 filters", "64 units", "1 unit", "sigmoid", f"{net.count_params():,} parameters"}
    said |= {f"{layer.count_params():,}" for layer in net.layers if layer.count_params()}
    said |= {" × ".join(map(str, net.get_layer(name).output.shape[1:])) for name in ("conv1", "pool1", "conv2", "pool2")}
    assert said <= set(words)


def test_a_flow_reads_well(drawn):
    steps = [(f"Step {k}", [f"{k} of 512 x 512", "a longer line of words"]) for k in range(6)]
    words = words_of(diagrams.flow(steps, "From volumes to objects"))
    assert_reads_well(drawn[-1])
    assert len(drawn[-1].blocks) == 6 and {"From volumes to objects", "Step 0", "5 of 512 x 512"} <= set(words)


def test_layers_that_a_row_can_not_draw_are_named():
    import keras

    net = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.UpSampling2D(name="larger")])
    with pytest.raises(InputError, match="larger is a UpSampling2D"):
        diagrams.layer_row(keras.Model(net.inputs, net.outputs))


# ---- U-Net -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("design, size", [
    ({}, 256), ({"base_filters": 8, "batch_norm": True, "dropout": 0.0, "last_filters": 0}, 128),
    ({"depth": 1, "base_filters": 3, "channels": 1}, (30, 44)), ({"depth": 6, "base_filters": 2}, 1024),
])
def test_a_u_net_reads_well_and_says_what_the_network_is(drawn, design, size):
    from covidcxr.models.lung_unet import lung_unet

    model = lung_unet(**design)
    words = words_of(diagrams.unet(model, size, "A name"))
    assert_reads_well(drawn[-1])
    depth, base = design.get("depth", 4), design.get("base_filters", 64)
    height, width = (size, size) if isinstance(size, int) else size
    assert len(drawn[-1].blocks) == 2 * depth + 3 and words.count("2×2 maximum") == depth
    for level in range(depth + 1):
        shape = f"{height // 2**level} × {width // 2**level} × {base * 2**level}"
        assert words.count(shape) == (2 if level < depth else 1)
        assert f"3×3, {base * 2**level} · 3×3, {base * 2**level}" in words
    assert sum(word.startswith("× 2, then 2×2") for word in words) == depth
    assert any(word.startswith("A name, ") for word in words)
    assert ("batch normalisation" in words[-1]) == design.get("batch_norm", False)
    assert ("50% of the values dropped" in words[-1]) == (design.get("dropout", 0.5) > 0)
    assert {"3×3, 2 · 1×1, 1, sigmoid", "1×1, 1, sigmoid"} & set(words)


def test_a_u_net_is_not_drawn_for_sizes_that_it_does_not_take():
    from covidcxr.models.lung_unet import lung_unet

    with pytest.raises(InputError, match="multiples of 16; these are 250 × 256"):
        diagrams.unet(lung_unet(base_filters=2), (250, 256))


@pytest.mark.parametrize(("size", "filters", "depth"), [(256, 64, 4), (32, 2, 2)])
def test_the_decomposition_reads_well_and_says_what_its_networks_are(drawn, size, filters, depth):
    from covidcxr.decomposition import networks

    generator, critic = networks.decomposer(size, filters, depth), networks.critic(size, filters)
    words = words_of(diagrams.decomposition(generator, critic))
    assert_reads_well(drawn[-1])
    assert f"{2 * depth + 2} convolutions" in words and words.count(f"{2 * depth} convolutions") == 2
    assert {f"{depth} halvings", "7 layers", "3 means joined"} <= set(words)
    assert words.count(f"{size} × {size} × 1") == 3, "what comes in, and what either part is"
    assert words.count(f"leaves {size} × {size} × {filters}") == 2
    assert f"leaves {size // 2**depth} × {size // 2**depth} × {filters * 2**depth}" in words


def test_a_decomposition_of_one_part_is_not_drawn():
    from covidcxr.decomposition import networks

    with pytest.raises(InputError, match="two parts"):
        diagrams.decomposition(networks.decomposer(16, 2, 2, two_parts=False), networks.critic(16, 2))
