"""Sampler: a random selection of positives and negatives, of static shape."""

import keras
from keras import ops


def sample(label, number, positive_fraction, seed):
    """Draws rows of each image: at most a given share of positives, the rest negatives.

    Args:
        label: int32 (N, M): 1 positive, 0 negative, -1 neither.
        number: rows to draw per image.
        positive_fraction: largest share of positives. Where there are fewer, negatives fill up.
        seed: `keras.random.SeedGenerator`.

    Returns:
        `indices`, int32 (N, number): rows, positives first; arbitrary where not valid.
        `positive`, bool (N, number): the row is a positive. All lie within the first `most_positives(...)` slots.
        `valid`, bool (N, number): the slot holds a row; false when positives and negatives are fewer than `number`.
    """
    rows = label.shape[1]
    most = min(most_positives(number, positive_fraction), rows)
    chance = keras.random.uniform(ops.shape(label), dtype="float32", seed=seed)
    positives = _draw(chance, label == 1, most)
    negatives = _draw(chance, label == 0, min(number, rows))
    positive_count = ops.minimum(_count(label == 1), most)
    negative_count = ops.minimum(_count(label == 0), number - positive_count)

    slot = ops.arange(number, dtype="int32")[None]
    positive = slot < positive_count
    valid = slot < positive_count + negative_count
    drawn = ops.concatenate([positives, negatives], axis=1)
    where = ops.where(positive, slot, most + slot - positive_count)
    return ops.take_along_axis(drawn, ops.where(valid, where, 0), axis=1), positive, valid


def most_positives(number, positive_fraction):
    """Largest number of positives among `number` rows."""
    return int(number * positive_fraction)


def _count(chosen):
    return ops.sum(ops.cast(chosen, "int32"), axis=1, keepdims=True)


def _draw(chance, chosen, number):
    """Indices (N, number): the chosen rows in random order, then others."""
    return ops.cast(ops.top_k(ops.where(chosen, chance, -1.0), number)[1], "int32")
