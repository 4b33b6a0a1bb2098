"""The gradient of a function with respect to its input, for the gradient penalty. Keras has none that runs on all its backends.

This file is the only place of the package where backends part; the steps themselves are Keras' own.
"""

from collections.abc import Callable

import keras
from keras import ops


def input_gradient(function: Callable, x):
    """d sum(function(x)) / dx, of x's shape, which can be differentiated again with respect to the function's weights.

    Where rows of x do not mix, such as images of a batch, row i is the gradient of the function's row i.

    Args:
        function: from a tensor to a tensor, made of Keras' layers and operations.
        x: tensor. Through x itself nothing is differentiated further: it is taken as given.
    """
    x = ops.stop_gradient(x)
    return {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[keras.backend.backend()](function, x)


def _tensorflow(function, x):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(x)
        total = ops.sum(function(x))
    return tape.gradient(total, x)


def _jax(function, x):
    import jax

    return jax.grad(lambda values: ops.sum(function(values)))(x)


def _torch(function, x):
    import torch

    with torch.enable_grad():
        values = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(ops.sum(function(values)), values, create_graph=True)
    return gradient
