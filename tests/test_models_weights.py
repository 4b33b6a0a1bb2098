"""Weights of residual networks: files of every program compute what they computed there; downloads are checked by hash."""

import hashlib
import pickle
import re
import socket
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops
from keras_files import write_keras_h5
from peer_fixtures import peer_weights as peer
from test_datasets_download import NOISE, Server

from covidcxr.errors import DataMissing, InputError
from covidcxr.maskrcnn.pixels import normalise
from covidcxr.maskrcnn.settings import Pixels
from covidcxr.models import published, weights
from covidcxr.models.resnet import ResNet


def number(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def same(ours, theirs, relative=1e-5):
    ours, theirs = number(ours), number(theirs)
    assert ours.shape == theirs.shape
    scale = np.abs(theirs).max()
    assert scale > 0.01 and np.abs(ours - theirs).max() <= relative * scale, np.abs(ours - theirs).max() / scale


def save(path, state):
    """A file as detectron2's zoo has them: a pickle of arrays."""
    path.write_bytes(pickle.dumps(state))
    return path


# keras.applications


@pytest.fixture(scope="module")
def keras_resnet50():
    """The network of keras.applications with random weights, biases and statistics."""
    keras.backend.clear_session()
    model = keras.applications.ResNet50(weights=None, include_top=False, input_shape=(64, 96, 3))
    for layer in model.layers:
        for variable in layer.weights:
            rng = peer.stream(1, f"{layer.name}/{variable.name}")
            low, high = {
                "gamma": (0.1, 0.4) if layer.name.endswith("_3_bn") else (0.7, 1.3),
                "moving_variance": (0.5, 1.5),
            }.get(variable.name, (-0.3, 0.3))
            if variable.name != "kernel":
                variable.assign(rng.uniform(low, high, variable.shape))
    return model


def arrays_of(model):
    return {layer.name: {v.name: number(v) for v in layer.weights} for layer in model.layers}


KERAS = ResNet(50, stride_in_1x1=True, epsilon=1.001e-5, norm="frozen")


def test_maps_of_keras_applications(keras_resnet50, tmp_path):
    paths = write_keras_h5(tmp_path / "notop.h5", arrays_of(keras_resnet50))
    network = KERAS.network()
    report = weights.load(network, tmp_path / "notop.h5")
    assert set(report.loaded) == paths and not report.skipped and not report.unused and not report.missing
    assert report.convention == "keras.applications"
    image = np.random.default_rng(0).normal(size=(2, 64, 96, 3)).astype("float32")
    outputs = [keras_resnet50.get_layer(f"conv{s}_block{b}_out").output for s, b in ((2, 3), (3, 4), (4, 6), (5, 3))]
    for own, theirs in zip(network(image), keras.Model(keras_resnet50.input, outputs)(image), strict=True):
        same(own, theirs)


def test_files_of_keras_applications_in_other_forms(keras_resnet50, tmp_path):
    """A whole model's file has another root; a classifier's, its last layer; names may end without ":0"."""
    import h5py

    arrays = {**arrays_of(keras_resnet50), "predictions": {"kernel": np.zeros((2048, 1000)), "bias": np.zeros(1000)}}
    with h5py.File(tmp_path / "whole.h5", "w") as file:
        for layer, own in arrays.items():
            for kind, array in own.items():
                file[f"model_weights/{layer}/{layer}/{kind}"] = array
    network = KERAS.network()
    report = weights.load(network, tmp_path / "whole.h5")
    assert sorted(report.skipped) == [f"model_weights/predictions/predictions/{kind}" for kind in ("bias", "kernel")]
    assert not report.missing and not report.unused
    same(weights.variables_of(network)["res4_5_conv2/kernel"], arrays["conv4_block6_2_conv"]["kernel"])
    assert weights.our_name("conv4_block23_1_bn/conv4_block23_1_bn/gamma:0", weights.KERAS_APPLICATIONS) == "res4_22_norm1/gamma"


def test_pixels_of_keras_applications():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype("float32")
    theirs = keras.applications.resnet.preprocess_input(pixels.copy())
    sizes = ops.convert_to_tensor([[8.0, 8.0]])
    ours = normalise(ops.convert_to_tensor(pixels / 255), sizes, Pixels(**published.table()["keras_resnet50"].pixels))
    np.testing.assert_allclose(number(ours), theirs, atol=1e-4)


# torchvision, detectron2, Caffe2: their own outputs are stored


@pytest.fixture(scope="module")
def torchvision_resnet18():
    """Weights, as of `resnet18().state_dict()`, and maps of torchvision."""
    spec, arrays = peer.fixture("B_r18_fpn")
    state = {n.removeprefix("backbone.body."): a for n, a in peer.weights_for(spec).items() if n.startswith("backbone.body.")}
    state |= {"fc.weight": np.zeros((1000, 512), "float32"), "fc.bias": np.zeros(1000, "float32")}
    state |= {n.replace("running_mean", "num_batches_tracked"): np.array(0) for n in list(state) if n.endswith("running_mean")}
    return spec, arrays, state


def check_maps(network, spec, arrays, names, order):
    s = spec["settings"]
    pixels = Pixels(order, 1.0 if order == "rgb" else 255.0, tuple(s["pixel_mean"]), tuple(s["pixel_std"]))
    sizes = np.array([spec["image_size"]] * spec["batch"], "float32")
    pictures = peer.images_for(spec).astype("float32") / 255
    maps = network(normalise(ops.convert_to_tensor(pictures), ops.convert_to_tensor(sizes), pixels))
    for name, own in zip(names, maps, strict=True):
        key = f"features/{name}/subset"
        gap = np.abs(peer.subset(number(own)) - arrays[key]).max()
        assert gap <= peer.tolerance(spec, key), f"{name}: gap {gap}"


def test_maps_of_torchvisions_classifier(torchvision_resnet18, tmp_path):
    spec, arrays, state = torchvision_resnet18
    network = ResNet(18, norm="frozen").network()
    report = weights.load(network, save(tmp_path / "resnet18.pkl", state))
    assert report.convention == "torchvision" and not report.unused and not report.missing
    assert len(report.loaded) == 100 and len(report.skipped) == 22
    text = str(report)
    assert text.startswith("resnet18.pkl: 100 of 122 tensors loaded; names of torchvision.\n")
    assert "Skipped: fc.weight, fc.bias: the classifier of ImageNet, which the model does not have" in text
    assert re.search(r"Skipped: (\S+, ){3}\S+ and 16 more: a counter that batch normalisation", text)
    check_maps(network, spec, arrays, ["c2", "c3", "c4", "c5"], "rgb")


def test_a_detectors_file_sets_a_residual_network(tmp_path):
    """For an encoder that starts from COCO: what the file has besides is told."""
    spec, arrays = peer.fixture("B_r18_fpn")
    state = peer.weights_for(spec)
    network = ResNet(18, norm="frozen").network()
    report = weights.load(network, save(tmp_path / "maskrcnn.pkl", state))
    assert not report.missing and set(report.unused) == {name for name in state if not name.startswith("backbone.body.")}
    check_maps(network, spec, arrays, ["c2", "c3", "c4", "c5"], "rgb")


@pytest.fixture(scope="module")
def detectron2_resnet50():
    """Weights of a backbone with the names that detectron2 gives to it alone, and maps of detectron2."""
    spec, arrays = peer.fixture("D_r50_c4")
    state = {
        re.sub(r"^(backbone|roi_heads)\.", "", name): array
        for name, array in peer.weights_for(spec).items()
        if re.match(r"backbone\.|roi_heads\.res5", name)
    }
    return spec, arrays, state


DETECTRON2 = ResNet(50, stride_in_1x1=True, norm="frozen")


def test_maps_of_detectron2s_backbone(detectron2_resnet50, tmp_path):
    spec, arrays, state = detectron2_resnet50
    assert {"stem.conv1.weight", "stem.conv1.norm.running_var", "res5.2.conv3.weight"} <= set(state)
    network = DETECTRON2.network(last_stage=4)
    fc = {"stem.fc.weight": np.zeros((1000, 2048), "float32")}
    report = weights.load(network, save(tmp_path / "r50.pkl", {"model": state | fc, "__author__": "torchvision"}))
    assert report.convention == "detectron2" and set(report.skipped) == set(fc) and not report.missing
    assert set(report.unused) == {name for name in state if name.startswith("res5")}  # the network ends with res4
    assert "In the file, not in the model: res5.0.conv1" in str(report)
    check_maps(network, spec, arrays, ["res2", "res3", "res4"], "bgr")


def caffe2_name(name, old):
    """The name in detectron2's "MSRA/R-50.pkl" or, `old`, in its "FAIR/X-101-32x8d.pkl", for that of detectron2."""
    layer, kind = name.replace(".norm.", ".bn_").rsplit(".", 1)
    kind = {"weight": "w", "bn_weight": "bn_gamma", "bn_bias": "bn_beta"}.get(kind, kind)
    if old:
        olds = {"bn_gamma": "bn_s", "bn_beta": "bn_b", "bn_running_mean": "bn_rm", "bn_running_var": "bn_riv"}
        kind = olds.get(kind, kind)
    if layer == "stem.conv1":
        return "conv1_w" if kind == "w" else f"res_conv1_{kind}"
    stage, block, part = layer.split(".")
    part = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}[part]
    return f"{stage}_{block}_{part}_{kind}"


@pytest.mark.parametrize("old", [False, True], ids=["MSRA", "FAIR"])
def test_maps_of_caffe2s_file(detectron2_resnet50, tmp_path, old):
    spec, arrays, state = detectron2_resnet50
    state = {caffe2_name(name, old): array for name, array in state.items()}
    known = {"res2_0_branch1_bn_s", "res_conv1_bn_riv"} if old else {"res2_0_branch1_bn_gamma", "res_conv1_bn_running_var"}
    assert known | {"conv1_w", "res4_5_branch2b_w"} <= set(state)
    # MSRA's first convolution has a bias. Its mean is made so that the sum is what the stored maps were computed with.
    bias = np.random.default_rng(0).normal(size=64).astype("float32")
    mean = "res_conv1_bn_rm" if old else "res_conv1_bn_running_mean"
    extra = {"conv1_b": bias, mean: state[mean] + bias, "fc1000_w": np.zeros((1000, 2048)), "fc1000_b": np.zeros(1000)}
    network = DETECTRON2.network(last_stage=4)
    report = weights.load(network, save(tmp_path / "R-50.pkl", state | extra))
    assert report.convention == "Caffe2" and set(report.skipped) == {"fc1000_w", "fc1000_b"} and not report.missing
    assert report.loaded["conv1_b"] == report.loaded[mean] == "stem_norm/moving_mean"
    check_maps(network, spec, arrays, ["res2", "res3", "res4"], "bgr")


# what does not fit


def test_another_depth_is_refused_and_changes_nothing(torchvision_resnet18, detectron2_resnet50, tmp_path):
    network = ResNet(18).network()
    before = number(weights.variables_of(network)["stem_conv/kernel"])
    deeper = dict(torchvision_resnet18[2])
    deeper["layer2.2.conv1.weight"] = deeper["layer2.1.conv1.weight"]
    with pytest.raises(InputError, match="layer2.2.conv1.weight is for res3_2_conv1; the model does not have it"):
        weights.load(network, save(tmp_path / "deeper.pkl", deeper))
    with pytest.raises(InputError, match=r"r50.pkl: res2.0.conv1.weight has the shape .*: another architecture|is for res2_"):
        weights.load(network, save(tmp_path / "r50.pkl", detectron2_resnet50[2]))
    less = {name: array for name, array in torchvision_resnet18[2].items() if not name.startswith("layer4")}
    with pytest.raises(InputError, match=r"sets 75 of 100 variables; missing are res5_0.* Is it of the architecture of resnet\?"):
        weights.load(network, save(tmp_path / "less.pkl", less))
    np.testing.assert_array_equal(number(weights.variables_of(network)["stem_conv/kernel"]), before)


def test_names_of_no_program_and_of_two_are_told(torchvision_resnet18, tmp_path):
    network = ResNet(18).network()
    with pytest.raises(InputError, match=r"of none of the programs known \(torchvision, .*Caffe2\): encoder.0.weight\."):
        weights.load(network, save(tmp_path / "own.pkl", {"encoder.0.weight": np.zeros(3)}))
    both = torchvision_resnet18[2] | {"conv1_w": np.zeros(3)}
    with pytest.raises(InputError, match=r"those of several programs \(torchvision, Caffe2\)"):
        weights.load(network, save(tmp_path / "both.pkl", both))
    with pytest.raises(InputError, match=r"torchvision_resnet5 is neither .* Did you mean 'torchvision_resnet50'\?"):
        weights.load(network, "torchvision_resnet5")


# published files


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COVIDCXR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "cache" / "weights"


SHA256, MD5 = hashlib.sha256(NOISE).hexdigest(), hashlib.md5(NOISE).hexdigest()


@pytest.fixture
def tables(monkeypatch):
    """Puts entries for a test beside those of params/weights.yaml."""

    def put(name, **facts):
        entries = {**published.table(), name: replace(published.table()["torchvision_resnet18"], name=name, **facts)}
        monkeypatch.setattr(published, "table", lambda: entries)

    return put


@pytest.mark.parametrize("expected", [f"sha256:{SHA256[:8]}", f"md5:{MD5}", f"md5:{MD5[:6]}", f"sha256:{SHA256}"])
def test_a_good_file_is_fetched_once_and_checked_each_time(server, cache, tables, expected):
    server.files["/a.pth"], lines = NOISE, []
    tables("a", url=f"{server.address}/a.pth", hash=expected)
    for _ in range(2):
        path = published.fetch("a", report=lines.append)
        assert path == cache / "a.pth" and path.read_bytes() == NOISE
    assert len(server.requests) == 1 and [file.name for file in cache.iterdir()] == ["a.pth"]
    assert lines[0].startswith("a: ResNet-18, ImageNet-1K, 44.661 MiB. Licence: not stated for the file; torchvision's")
    path.write_bytes(NOISE[:-1])
    with pytest.raises(InputError, match=r"a.pth: the file is not the published one: .* Remove it, and it is downloaded anew"):
        published.fetch("a", report=str)
    assert path.is_file() and len(server.requests) == 1


@pytest.mark.parametrize("expected", ["sha256:00000000", f"md5:{'0' * 32}"])
def test_a_wrong_file_leaves_nothing_behind(server, cache, tables, expected):
    server.files["/a.pth"] = NOISE
    tables("a", url=f"{server.address}/a.pth", hash=expected)
    algorithm, digits = expected.split(":")
    found = SHA256 if algorithm == "sha256" else MD5
    with pytest.raises(InputError, match=f"not the published one: {algorithm} is {found}, expected {digits}. It was removed"):
        published.fetch("a", report=str)
    assert list(cache.iterdir()) == []


def test_a_cut_off_file_is_told_and_fetched_on(server, cache, tables):
    server.files["/a.pth"], server.cut_after = NOISE, 1_300_000
    tables("a", url=f"{server.address}/a.pth", hash=f"sha256:{SHA256[:8]}")
    with pytest.raises(DataMissing, match=r"stopped after 1.2 MiB of 3.0 MiB.*goes on from there") as caught:
        published.fetch("a", report=str)
    assert caught.value.how == f"download {server.address}/a.pth to {cache / 'a.pth'}"
    assert [file.name for file in cache.iterdir()] == ["a.pth.part"]
    server.cut_after = None
    assert published.fetch("a", report=str).read_bytes() == NOISE
    assert server.requests[1][1].startswith("bytes=") and [file.name for file in cache.iterdir()] == ["a.pth"]


def test_without_a_connection_it_is_said_what_to_put_where(cache):
    with socket.socket() as free:  # a port on which nobody listens
        free.bind(("127.0.0.1", 0))
        silent = f"http://127.0.0.1:{free.getsockname()[1]}"
    path = cache / "resnet50-0676ba61.pth"
    with pytest.raises(DataMissing) as caught:
        published.fetch("torchvision_resnet50", mirror=silent, report=str)
    assert f"{silent}/resnet50-0676ba61.pth cannot be reached" in str(caught.value)
    assert f"download it elsewhere (sha256 0676ba61), save it as {path}, and run the same command again." in str(caught.value)
    assert caught.value.how == f"download https://download.pytorch.org/models/resnet50-0676ba61.pth to {path}"
    assert list(cache.iterdir()) == []


def test_a_file_without_a_published_hash_needs_the_users(server, cache):
    server.files["/R-50.pkl"] = NOISE
    with pytest.raises(InputError, match=r"no hash of R-50.pkl is published.*https://dl.fbai.*give the path.*or give the sha256"):
        published.fetch("detectron2_r50", mirror=server.address)
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        published.fetch("detectron2_r50", SHA256[:8], server.address)
    assert server.requests == []
    assert published.fetch("detectron2_r50", SHA256, server.address, report=str) == cache / "R-50.pkl"
    with pytest.raises(InputError, match=f"sha256 is {SHA256}, expected {'0' * 64}"):
        published.fetch("detectron2_r50", "0" * 64, server.address, report=str)


def test_the_users_hash_does_not_replace_the_published_one(server, cache, tables):
    server.files["/a.pth"] = NOISE
    tables("a", url=f"{server.address}/a.pth", hash="sha256:00000000")
    with pytest.raises(InputError, match="expected 00000000"):
        published.fetch("a", SHA256, report=str)


def test_files_of_keras_lie_where_keras_keeps_them(cache):
    paths = {name: entry.path for name, entry in published.table().items()}
    keras_home = cache.parent.parent / "keras" / "models"
    assert paths["keras_resnet50"] == keras_home / "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert {path.parent for name, path in paths.items() if not name.startswith("keras_")} == {cache}
    assert len(set(paths.values())) == len(paths)


def test_the_table_says_what_the_sources_say():
    from keras.src.applications.resnet import BASE_WEIGHTS_PATH, WEIGHTS_HASHES

    for name, entry in published.table().items():
        algorithm, _, digits = (entry.hash or "none:").partition(":")
        if name.startswith("keras_"):
            model = name.removeprefix("keras_")
            assert entry.url == f"{BASE_WEIGHTS_PATH}{model}_weights_tf_dim_ordering_tf_kernels_notop.h5"
            assert entry.hash == f"md5:{WEIGHTS_HASHES[model][1]}"
        elif name.startswith("torchvision_"):
            assert algorithm == "sha256" and entry.file.endswith(f"-{digits}.pth") and len(digits) == 8
        elif "_mask_rcnn_" in name and name.startswith("detectron2"):
            assert algorithm == "md5" and entry.file.endswith(f"_{digits}.pkl") and len(digits) == 6
        assert entry.licence and entry.title and set(entry.pixels) == {"order", "scale", "mean", "std"}
        assert set(entry.design) <= {"epsilon", "stride_in_1x1", "pool_padding"} and "epsilon" in entry.design


def test_what_the_network_has_otherwise_is_remarked(torchvision_resnet18, server, cache, tables):
    content = pickle.dumps(torchvision_resnet18[2])
    server.files["/resnet18.pth"] = content
    tables("r18", url=f"{server.address}/resnet18.pth", hash=f"sha256:{hashlib.sha256(content).hexdigest()[:8]}")
    fed = "feed it images in RGB, 0 to 1, minus (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225)."
    assert weights.load(ResNet(18).network(), "r18").remarks == [fed]
    odd = ResNet(18, epsilon=1e-3, pool_padding="end").network()
    report = weights.load(odd, "r18")
    assert report.remarks == [
        "the file needs epsilon 1e-05; the model has 0.001.",
        "the file needs pool_padding 'both'; the model has 'end'.",
        fed,
    ]
    assert "Mind: the file needs epsilon 1e-05; the model has 0.001." in str(report)
