"""The heads of Mask R-CNN, as functional models. Output layers compute in float32 also under mixed precision."""

import keras
from keras import layers
from keras.initializers import RandomNormal


def rpn_head(channels, anchors_per_cell, hidden=None):
    """Region proposal head, the same for every level: from a map (N, H, W, channels) to

    logits (N, H, W, A), whether an object is at each anchor of the cell, and deltas (N, H, W, 4 A), those of an anchor side by
    side, over a layer of `hidden` channels (None: `channels`).
    """
    features = keras.Input((None, None, channels), name="map")
    normal = RandomNormal(stddev=0.01)
    hidden = hidden or channels
    x = layers.Conv2D(hidden, 3, padding="same", activation="relu", kernel_initializer=normal, name="rpn_conv")(features)
    logits = layers.Conv2D(anchors_per_cell, 1, kernel_initializer=normal, dtype="float32", name="rpn_logits")(x)
    deltas = layers.Conv2D(4 * anchors_per_cell, 1, kernel_initializer=normal, dtype="float32", name="rpn_deltas")(x)
    return keras.Model(features, [logits, deltas], name="rpn")


def box_head(size, channels, foreground, units=1024):
    """Box head of FPN and DC5, two dense layers of `units`: from regions (R, size, size, channels) to

    class logits (R, 1 + foreground), background first, and deltas (R, 4 · foreground), those of a class side by side.
    """
    region = keras.Input((size, size, channels), name="region")
    x = layers.Flatten(name="box_flatten")(region)
    for i in (1, 2):
        x = layers.Dense(units, activation="relu", kernel_initializer="he_uniform", name=f"box_fc{i}")(x)
    return keras.Model(region, _box_outputs(x, foreground), name="box_head")


def mask_head(size, channels, foreground, width=256):
    """Mask head of FPN and DC5: from regions (R, size, size, channels) to mask logits (R, 2 size, 2 size, foreground).

    Its layers have `width` channels.
    """
    region = keras.Input((size, size, channels), name="region")
    x = region
    for i in range(1, 5):
        x = layers.Conv2D(width, 3, padding="same", activation="relu", kernel_initializer="he_normal", name=f"mask_conv{i}")(x)
    return keras.Model(region, _mask_outputs(x, foreground, width), name="mask_head")


def res5_heads(res5, size, channels, foreground):
    """Box head and mask head of C4: both put a region (R, size, size, channels) through `res5`, which they share.

    Class logits (R, 1 + foreground) and deltas (R, 4 · foreground) come from the average of its map, mask logits
    (R, size, size, foreground) from the map itself, enlarged once.
    """
    region = keras.Input((size, size, channels), name="region")
    average = layers.GlobalAveragePooling2D(name="box_average")(res5(region))
    box = keras.Model(region, _box_outputs(average, foreground), name="box_head")
    region = keras.Input((size, size, channels), name="region")
    mask = keras.Model(region, _mask_outputs(res5(region), foreground), name="mask_head")
    return box, mask


def _box_outputs(x, foreground):
    few, fewer = RandomNormal(stddev=0.01), RandomNormal(stddev=0.001)
    logits = layers.Dense(1 + foreground, kernel_initializer=few, dtype="float32", name="class_logits")(x)
    deltas = layers.Dense(4 * foreground, kernel_initializer=fewer, dtype="float32", name="box_deltas")(x)
    return [logits, deltas]


def _mask_outputs(x, foreground, width=256):
    enlarge = layers.Conv2DTranspose(width, 2, 2, activation="relu", kernel_initializer="he_normal", name="mask_enlarge")
    normal = RandomNormal(stddev=0.001)
    return layers.Conv2D(foreground, 1, kernel_initializer=normal, dtype="float32", name="mask_logits")(enlarge(x))
