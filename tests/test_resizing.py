"""Images in other sizes."""

import numpy as np

from covidcxr.resizing import resize


def test_resize_takes_area_means_down_and_keeps_constants_up():
    image = np.random.default_rng(3).random((12, 20)).astype(np.float32)
    assert np.allclose(resize(image, (4, 5)), image.reshape(4, 3, 5, 4).mean(axis=(1, 3)), atol=1e-6)
    assert np.allclose(resize(np.full((3, 9), 7, np.float32), (10, 4)), 7)
    checks = np.indices((60, 60)).sum(axis=0) % 2
    assert np.allclose(resize(checks.astype(np.float32), (20, 20)), 0.5, atol=0.06)  # no moire
