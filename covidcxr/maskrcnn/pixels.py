"""From pictures to what the backbone is fed."""

from keras import ops


def normalise(images, sizes, pixels):
    """Images in the peer's convention, 0 where padded: float32 (N, H, W, 3).

    Args:
        images: (N, H, W, 1) grey or (N, H, W, 3) RGB, in [0, 1].
        sizes: (N, 2), height and width of each image; what lies beyond is padding.
        pixels: `settings.Pixels`.
    """
    height, width = images.shape[1:3]
    images = ops.cast(images, "float32")
    if images.shape[-1] == 1:
        images = ops.repeat(images, 3, axis=-1)
    if pixels.order == "bgr":
        images = ops.flip(images, axis=-1)
    images = (images * pixels.scale - ops.convert_to_tensor(pixels.mean, "float32")) / ops.convert_to_tensor(
        pixels.std, "float32"
    )
    row, column = ops.arange(height, dtype="float32"), ops.arange(width, dtype="float32")
    inside = (row[:, None] < sizes[:, 0, None, None]) & (column < sizes[:, 1, None, None])
    return ops.where(inside[..., None], images, 0.0)
