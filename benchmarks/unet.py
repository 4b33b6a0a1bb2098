"""U-Net: a training step of ours beside segmentation_models itself, whether the network waits for its batches, and prediction.

    python benchmarks/unet.py [--size 320] [--batch 8] [--rounds 3]

Both have the ResNet-18 encoder, a random start, segmentation_models' Dice and focal loss, Adam and the same batch, on TensorFlow,
which the package needs. Ours is compiled as notebooks compile it (`training.jit_compile`). The package is compiled in both ways
that Keras knows, with XLA, which is Keras' choice, and without; its best counts. Ours shall take at most 1.1 times as long.

How all are measured is said in `contest`.

Batches are made by `feeding.Pictures` with the augmentation of tang2020: in line without a network, then by two threads while
`fit` trains. On a machine without an accelerator threads and network share the cores: what the threads take, the network lacks.

Last, images are predicted from full size to percentages in one pass, 200 of them and a quarter of that, each in a process of its
own: the peak of memory shall not grow with their number.
"""

import argparse
import json
import os
import statistics
import sys
import time
from functools import partial
from itertools import pairwise

from contest import KEYS, child, in_turns, measure, note, note_over_best, peak, print_table, sizes, timed

BAR = 1.1
STEPS = 6
ROWS, COLUMNS = 2048, 1792  # of a radiograph
PACKAGE = ("segmentation_models, XLA", "segmentation_models, no XLA")


def compiled(who: str, size: int):
    """A model, ready for training, and the scale of its images."""
    os.environ["SM_FRAMEWORK"] = "tf.keras"
    import keras
    import segmentation_models

    from covidcxr import training
    from covidcxr.models.unet import resnet18_unet

    training.set_seed(0)
    if who in PACKAGE:
        model, scale = segmentation_models.Unet("resnet18", (size, size, 3), encoder_weights=None), 255
        jit: bool | str = "auto" if who == PACKAGE[0] else False
    else:
        model, scale, jit = resnet18_unet(size), 1, training.jit_compile()
    loss = segmentation_models.losses.DiceLoss() + segmentation_models.losses.BinaryFocalLoss()
    model.compile(keras.optimizers.Adam(1e-4), loss, jit_compile=jit)
    return model, scale


def make_feed(size: int, batch: int):
    """Images of noise, each with a disc as its mask."""
    import numpy as np

    from covidcxr import augment, feeding

    rng, (row, column) = np.random.default_rng(0), np.ogrid[:size, :size]
    images = [rng.random((size, size), dtype="float32") for _ in range(2 * batch)]
    masks = [np.hypot(row - y, column - x) < size / 5 for y, x in rng.uniform(0.2, 0.8, (2 * batch, 2)) * size]
    return feeding.Pictures(
        images, masks, batch, steps=2 * STEPS, augment=partial(augment.draw, augment.tang2020(size)), max_queue_size=2
    )


def step(who: str, size: int, batch: int) -> dict:
    """Seconds, processor seconds and memory of training steps on one batch."""
    (images, masks), (model, scale) = make_feed(size, batch)[0], compiled(who, size)
    images = scale * images
    return measure(partial(model.train_on_batch, images, masks), STEPS)


def inputs(size: int, batch: int) -> dict:
    """Seconds per batch: made in line, a step on one that is there, a step of `fit`."""
    import keras

    feed, (model, _) = make_feed(size, batch), compiled("covidcxr", size)
    indices = iter(range(STEPS))
    made = timed(lambda: feed[next(indices)], STEPS)
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: ends.append(time.perf_counter()))
    images, masks = feed[0]
    timed(partial(model.train_on_batch, images, masks), 2)
    there = timed(partial(model.train_on_batch, images, masks), STEPS)
    model.fit(feed, callbacks=[clock], shuffle=False, verbose=0)
    kept = ends[feed.max_queue_size + 1 :]  # the first batches were made while fit started
    fitted = [after - before for before, after in pairwise(kept)]
    return {"made": statistics.median(made), "there": statistics.median(there), "fit": statistics.median(fitted)}


def predict(size: int, batch: int, images: int) -> dict:
    """Seconds per image and memory of predicting images of a radiograph's size, percentages included.

    The images are made as they are asked for, as a data set reads its files.
    """
    import numpy as np

    from covidcxr import opacity
    from covidcxr.models.unet import resnet18_unet

    row, column = np.ogrid[:ROWS, :COLUMNS]
    lungs = np.hypot((row - ROWS / 2) / 2, column - COLUMNS / 2) < COLUMNS / 3
    rng = np.random.default_rng(0)

    def picture(number: int):
        image = rng.random((ROWS, COLUMNS), dtype="float32")
        return opacity.picture(str(number), str(number), "noise", image, lungs & (image > 0.9), lungs, size)

    model = resnet18_unet(size)
    opacity.measure(model, map(picture, range(batch)), batch_size=batch)
    start = time.perf_counter()
    table = opacity.measure(model, map(picture, range(images)), batch_size=batch)
    assert len(table) == images and table.predicted_percentage.notna().all()
    return {"seconds": (time.perf_counter() - start) / images, "peak": peak()}


def run(who: str, size: int, batch: int) -> dict:
    words = [sys.executable, __file__, "--child", who, "--size", str(size), "--batch", str(batch)]
    return child(words, {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"})


def compare(size: int, batch: int, rounds: int) -> None:
    found = in_turns({name: partial(run, name, size, batch) for name in ("covidcxr", *PACKAGE)}, rounds)
    print(f"a training step, {size} x {size}, {batch} images; TensorFlow, {os.cpu_count()} cores, {rounds} rounds of {STEPS}")
    print_table(found)
    note_over_best("U-Net, a training step", found, "covidcxr", PACKAGE[0], dict.fromkeys(KEYS, BAR))


def print_predictions(size: int, batch: int, images: int) -> None:
    print(f"\npredicting images of {ROWS} x {COLUMNS} at {size} x {size}, percentages included, {batch} at a time")
    few, many = (run(f"predict {count}", size, batch) for count in (images // 4, images))
    note("U-Net, predicting an image", many["seconds"], "s")
    note(f"U-Net, predicting {images} images, peak", many["peak"], "GiB", f"{images // 4} images", few["peak"])


def print_inputs(size: int, batch: int) -> None:
    own = run("inputs", size, batch)
    print("\nbatches, made in line and by two threads while fit trains")
    note("U-Net, a batch made in line", own["made"], "s", "a step on one that is there", own["there"])
    note("U-Net, a step of fit with 2 threads", own["fit"], "s", "a step on one that is there", own["there"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes(parser, size=(320, 64), batch=(8, 2), rounds=(3, 1), predicted=(200, 8))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size, batch = arguments.size, arguments.batch
    if arguments.child:
        who, _, images = arguments.child.partition("predict ")
        if images:
            found = predict(size, batch, int(images))
        else:
            found = inputs(size, batch) if who == "inputs" else step(who, size, batch)
        print(json.dumps(found))
        return
    compare(size, batch, arguments.rounds)
    print_inputs(size, batch)
    print_predictions(size, batch, arguments.predicted)


if __name__ == "__main__":
    main()
