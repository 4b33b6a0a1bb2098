"""Cohen's severity scores: the published line, and the published network where TorchXRayVision is installed."""

import hashlib
import importlib.util
import sys

import numpy as np
import pytest

from covidcxr import datasets, opacity_score
from covidcxr.errors import DataMissing


def test_both_scores_lie_on_the_published_lines():
    """The scores that TorchXRayVision's README prints for two images: each pair must come from one log odds."""
    for extent, opacity, digits in ((5.978744940174467, 4.169582852893416, 1e-6), (6.293, 4.367, 1e-3)):
        slope, shift, _ = opacity_score.LINES["geographic_mean"]
        found = opacity_score.scores(np.array([(extent - shift) / slope]))
        assert found["geographic_mean"][0] == pytest.approx(extent)
        assert found["opacity_mean"][0] == pytest.approx(opacity, abs=digits)


def test_scores_stay_on_their_scales():
    found = opacity_score.scores(np.array([-50.0, 0.0, 50.0]))
    assert found["geographic_mean"].tolist() == [0.0, 3.4137437, 8.0]
    assert found["opacity_mean"].tolist() == [0.0, 2.5535977, 6.0]


def test_every_image_has_a_row(phantom_smoke):
    rural = datasets.open("rural_covid_cxr", "phantom:smoke")
    cases = rural.cases().case[:3]
    table = opacity_score.of_dataset(rural, cases, log_odds=lambda image: image.mean())
    assert table.case.tolist() == cases.tolist()
    slope, shift, _ = opacity_score.LINES["opacity_mean"]
    assert table.opacity_mean.to_numpy() == pytest.approx([slope * rural.image(case).mean() + shift for case in cases])


def test_where_the_package_is_missing_the_line_that_gets_it_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataMissing, match=r'not installed. To get it: pip install -e "\.\[opacity-score\]"') as caught:
        opacity_score.network()
    assert caught.value.how == opacity_score.HOW and "torchxrayvision" not in sys.modules


def test_the_network_is_run_as_the_published_program_runs_it(tmp_path, monkeypatch):
    """With random weights: the published file is not needed to see that pixels, crop, size and output are the program's."""
    torch = pytest.importorskip("torch")
    xrv = pytest.importorskip("torchxrayvision")
    torch.manual_seed(0)
    made = xrv.models.DenseNet(num_classes=18).eval()
    folder = tmp_path / "weights"
    folder.mkdir()
    file = folder / opacity_score.URL.rpartition("/")[2]
    torch.save(made, file)
    monkeypatch.setenv("COVIDCXR_CACHE", str(tmp_path))
    monkeypatch.setattr(opacity_score, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    image = np.random.default_rng(0).integers(0, 256, (300, 260)).astype(np.uint8)

    pixels = xrv.datasets.normalize(image, 255)[None][:, 20:280]
    pixels = xrv.datasets.XRayResizer(224)(pixels)
    with torch.no_grad():
        expected = made(torch.from_numpy(pixels)[None])[0, xrv.datasets.default_pathologies.index("Lung Opacity")]
    found = opacity_score.network()(image.astype(np.float32) / 255)
    assert float(found) == pytest.approx(float(expected), abs=1e-4)


def test_other_weights_are_not_loaded(tmp_path, monkeypatch):
    pytest.importorskip("torchxrayvision")
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / opacity_score.URL.rpartition("/")[2]).write_bytes(b"something else")
    monkeypatch.setenv("COVIDCXR_CACHE", str(tmp_path))
    monkeypatch.setattr(opacity_score, "URL", opacity_score.URL.replace("github.com", "localhost:9"))
    with pytest.raises(DataMissing, match="localhost:9"):
        opacity_score.network()
