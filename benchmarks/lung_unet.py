"""An epoch of the lung U-Net, fed as the notebook feeds it, beside a bare Keras loop over arrays in memory.

    python benchmarks/lung_unet.py [--size 256] [--filters 16] [--images 64] [--batch 8] [--rounds 3]

Both train the same network on the same pictures. `bare` is `fit` with two float32 arrays; `fed` is `fit` with `feeding.Pictures`
over pictures that are held as bytes (`squares`), as notebook 05 does. Epochs of the two take turns, and the best of some rounds
counts, in wall time and in processor time: other work on the machine disturbs both alike. Images per second are of the whole
epoch. The input share is the time of making a batch on one thread over the time of a step.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import keras  # noqa: E402
import numpy as np  # noqa: E402
from contest import note, sizes  # noqa: E402

from covidcxr import feeding, training  # noqa: E402
from covidcxr.models.lung_unet import lung_unet  # noqa: E402
from covidcxr.squares import Greys  # noqa: E402


def pictures(count: int, size: int) -> tuple[Greys, np.ndarray]:
    """Noise with two ellipses each, and these as masks."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    masks = np.zeros((count, size, size), bool)
    for mask in masks:
        for column in rng.uniform((0.25, 0.65), (0.35, 0.75)):
            mask |= ((y - 0.5) / 0.35) ** 2 + ((x - column) / 0.14) ** 2 < 1
    grey = np.clip(0.7 - 0.4 * masks + 0.1 * rng.standard_normal(masks.shape), 0, 1)
    return Greys(np.round(grey * 255).astype(np.uint8)), masks


def network(size: int, filters: int) -> keras.Model:
    training.set_seed(0)
    model = lung_unet(size, base_filters=filters, batch_norm=True, last_filters=0, dropout=0.0, momentum=0.9)
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", jit_compile=training.jit_compile())
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes(parser, size=(256, 64), filters=(16, 4), images=(64, 16), batch=(8, 4), rounds=(3, 2))
    chosen = parser.parse_args()
    images, masks = pictures(chosen.images, chosen.size)
    feed = feeding.Pictures(images, masks, chosen.batch)
    arrays = np.stack([np.repeat(image[..., None], 3, axis=-1) for image in images]), masks[..., None].astype(np.float32)
    model = network(chosen.size, chosen.filters)
    ways = {
        "bare": lambda: model.fit(*arrays, batch_size=chosen.batch, epochs=1, verbose=0),
        "fed": lambda: model.fit(feed, epochs=1, verbose=0, shuffle=False),
    }
    for epoch in ways.values():  # compile
        epoch()
    wall, processor = {way: [] for way in ways}, {way: [] for way in ways}
    for _ in range(chosen.rounds):
        for way, epoch in ways.items():
            start = time.perf_counter(), time.process_time()
            epoch()
            wall[way].append(time.perf_counter() - start[0])
            processor[way].append(time.process_time() - start[1])
    making = []
    for index in range(len(feed)):
        start = time.perf_counter()
        feed[index]
        making.append(time.perf_counter() - start)
    print(
        f"{model.count_params():,} parameters; {chosen.images} images of {chosen.size} x {chosen.size} "
        f"in batches of {chosen.batch}; {keras.backend.backend()}; best of {chosen.rounds} rounds"
    )
    for way in ways:
        best = min(wall[way])
        speed = len(feed) * chosen.batch / best
        print(f"  {way:6}{best:8.2f} s an epoch   {speed:6.2f} images/s   processor {min(processor[way]):.2f} s")
    for title, seconds in (("wall", wall), ("processor", processor)):
        note(f"lung U-Net, an epoch as fed, {title}", min(seconds["fed"]), "s", "bare fit over arrays", min(seconds["bare"]))
    step = min(wall["fed"]) / len(feed)
    note("lung U-Net, a batch made on one thread", float(np.median(making)), "s", "a step of the epoch", step)


if __name__ == "__main__":
    main()
