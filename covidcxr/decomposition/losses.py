"""The losses of yang2021, equations 1 to 5, as functions of images (N, H, W, C) and of what the critic says of them, (N, 1)."""

from collections.abc import Callable
from typing import Literal

from keras import ops

from covidcxr.decomposition.input_gradient import input_gradient

Norm = Literal["l1", "l2", "mean_l1", "mean_l2"]
"""How the difference of two images becomes a number; the paper writes ‖·‖, "the L_p norm with p = 1 or 2".

l1, l2: the norm as it is printed: the sum of absolute values, or the root of the sum of squares. mean_l1: their mean over pixels.
mean_l2: the mean of their squares, as programs often have it."""
NORMS: tuple[Norm, ...] = ("l1", "l2", "mean_l1", "mean_l2")


def distance(first, second, norm: Norm):
    """Norm of the difference, one number per image, (N,)."""
    difference = ops.reshape(first - second, (ops.shape(first)[0], -1))
    if norm == "l1":
        return ops.sum(ops.abs(difference), axis=1)
    if norm == "mean_l1":
        return ops.mean(ops.abs(difference), axis=1)
    if norm == "mean_l2":
        return ops.mean(ops.square(difference), axis=1)
    # The root has no slope at 0, where images that are equal lie.
    return ops.sqrt(ops.sum(ops.square(difference), axis=1) + 1e-12)


def reconstruction(images, normal, lesion, norm: Norm):
    """L_r, equation 1: what the two parts together lack of the image, mean over images."""
    return ops.mean(distance(images, normal + lesion, norm))


def normal_fidelity(normal_images, normal, norm: Norm):
    """L_n, equation 2: how far the normal part of normal images is from them, mean over images."""
    return ops.mean(distance(normal_images, normal, norm))


def between(real, made, share):
    """Images on the lines between real ones and made ones: of N made ones each with its own share (N, 1, 1, 1) of a real one.

    Where there are fewer real ones they are taken again, in turn.
    """
    count, known = made.shape[0], real.shape[0]
    partners = ops.concatenate([real] * -(-count // known), axis=0)[:count]
    return share * partners + (1 - share) * made


def gradient_penalty(critic: Callable, images):
    """GP, Gulrajani et al. 2017, equation 3: mean over images of (‖gradient of the critic at the image‖ - 1) squared."""
    gradient = input_gradient(critic, images)
    squares = ops.sum(ops.square(ops.reshape(gradient, (ops.shape(gradient)[0], -1))), axis=1)
    return ops.mean(ops.square(ops.sqrt(squares + 1e-12) - 1.0))


def wasserstein(of_made, of_real):
    """The first two terms of L_c, equation 3: the critic wants made images low and real ones high."""
    return ops.mean(of_made) - ops.mean(of_real)


def adversarial(of_made):
    """L_a, equation 4: the generator wants its images high."""
    return -ops.mean(of_made)
