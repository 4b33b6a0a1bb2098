"""Perceptual hashes: copies are found, other images are not, every pair is compared."""

import io

import numpy as np
import pytest
from PIL import Image

from covidcxr.datasets.near_duplicates import block_means, close_pairs, fingerprint, near_duplicates
from covidcxr.errors import InputError


def smooth_image(seed: int, shape=(200, 260)) -> np.ndarray:
    """Random smooth picture in [0, 1], float32."""
    coarse = np.random.default_rng(seed).random((9, 11)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC)).clip(0, 1)


def test_block_means_are_means_of_equal_blocks():
    image = np.arange(6 * 8, dtype=np.float32).reshape(6, 8)
    expected = image.reshape(3, 2, 4, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(block_means(image, 3, 4), expected)


def test_block_means_keep_the_mean_of_an_image_smaller_than_the_grid():
    image = np.array([[0.0, 1.0]], np.float32)
    assert block_means(image, 16, 16).shape == (16, 16)
    assert block_means(image, 16, 16).mean() == pytest.approx(0.5)


def test_close_pairs_agree_with_comparing_bit_strings():
    rng = np.random.default_rng(3)
    hashes = rng.integers(0, 2**63, (40, 4)).astype(np.uint64)
    hashes[7] = hashes[31] ^ np.array([5, 0, 0, 1], np.uint64)  # three bits
    bits = np.unpackbits(hashes.view(np.uint8), axis=1)
    expected = [
        (i, j, int((bits[i] != bits[j]).sum())) for i in range(40) for j in range(i + 1, 40) if (bits[i] != bits[j]).sum() <= 110
    ]
    assert (7, 31, 3) in expected
    for block in (1, 7, 64):  # whatever the block, the same pairs
        assert sorted(map(tuple, close_pairs(hashes, 110, block).tolist())) == expected


def test_a_resized_recompressed_darker_copy_is_found_and_others_are_not():
    images = [smooth_image(seed) for seed in range(30)]
    picture = Image.fromarray((images[4] * 255).astype(np.uint8)).resize((100, 80))
    stored = io.BytesIO()
    picture.save(stored, "JPEG", quality=50)
    copy = np.asarray(Image.open(stored)).astype(np.float32) / 255 * 0.6 + 0.1
    pairs = near_duplicates([fingerprint(image) for image in [*images, copy]])
    assert [(i, j) for i, j, _, _ in pairs] == [(4, 30)]


def test_all_pairs_of_many_copies_are_found():
    """More candidates than are looked at together: each pair of copies, with its own correlation."""
    prints = [fingerprint(smooth_image(0) + noise * smooth_image(1)) for noise in np.linspace(0, 0.02, 110)]
    pairs = near_duplicates(prints)
    assert [(i, j) for i, j, _, _ in pairs] == [(i, j) for i in range(110) for j in range(i + 1, 110)]
    for i, j, _, correlation in pairs[::499]:
        assert correlation == pytest.approx(float(prints[i].thumbnail @ prints[j].thumbnail), abs=1e-5)


def test_constant_images_do_not_become_duplicates_of_everything():
    prints = [fingerprint(np.full((50, 50), value)) for value in (0.0, 0.5)] + [fingerprint(smooth_image(1))]
    assert near_duplicates(prints) == []


def test_a_colour_image_is_refused():
    with pytest.raises(InputError, match=r"\(H, W\)"):
        fingerprint(np.zeros((4, 4, 3)))
