"""Images in other sizes."""

from __future__ import annotations

import numpy as np


def resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize float32 (H, W) over the same extent, each axis by itself: area means where it shrinks, linear where it grows."""
    import cv2

    image = np.ascontiguousarray(image, np.float32)
    for axis in (0, 1):
        target = list(image.shape)
        if target[axis] == shape[axis]:
            continue
        method = cv2.INTER_AREA if shape[axis] < target[axis] else cv2.INTER_LINEAR
        target[axis] = shape[axis]
        image = cv2.resize(image, (target[1], target[0]), interpolation=method)
    return image
