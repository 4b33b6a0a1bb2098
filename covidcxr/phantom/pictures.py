"""Grey values as picture files, the same bytes on every machine."""

from pathlib import Path

import numpy as np


def save_image(path: Path, grey: np.ndarray, mode: str, suffix: str) -> None:
    """Write uint8 (H, W) as a picture of a Pillow mode; suffix "jpeg" or "png"."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(grey, "L").convert(mode)
    if suffix == "jpeg":
        image.save(path, "JPEG", quality=92, subsampling=0)
    else:
        image.save(path, "PNG", compress_level=4)
