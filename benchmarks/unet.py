"""U-Net: a training step of ours beside segmentation_models itself, and whether the network waits for its batches.

    python benchmarks/unet.py [--size 320] [--batch 8] [--rounds 3]

Both have the ResNet-18 encoder, a random start, segmentation_models' Dice and focal loss, Adam and the same batch, on TensorFlow,
which the package needs. Ours is compiled as notebooks compile it (`training.jit_compile`). The package is compiled in both ways
that Keras knows, with XLA, which is Keras' choice, and without; its best counts. Ours shall take at most 1.1 times as long.

Each run is a process of its own. Who runs first changes from round to round. Seconds are medians of all steps of all rounds, and
the least: on a machine that others use too, that is what tells most. The first step of a process, which traces or compiles, is
left out. Processor seconds, the least of a step, hardly depend on others. Memory is the peak of a process with its imports.

Batches are made by `feeding.Pictures` with the augmentation of tang2020: in line without a network, then by two threads while
`fit` trains. On a machine without an accelerator threads and network share the cores: what the threads take, the network lacks.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise

BAR = 1.1
STEPS = 6
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
    (first,) = timed(partial(model.train_on_batch, images, masks), 1)
    processor: list[float] = []
    seconds = timed(lambda: processor.extend(timed(partial(model.train_on_batch, images, masks), 1, time.process_time)), STEPS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"first": first, "seconds": seconds, "processor": processor, "peak": peak}


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


def timed(work, calls: int, clock=time.perf_counter) -> list[float]:
    seconds = []
    for _ in range(calls):
        start = clock()
        work()
        seconds.append(clock() - start)
    return seconds


def run(who: str, size: int, batch: int) -> dict:
    words = [sys.executable, __file__, "--child", who, "--size", str(size), "--batch", str(batch)]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{who} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(size: int, batch: int, rounds: int) -> None:
    names = ["covidcxr", *PACKAGE]
    runs: dict[str, list[dict]] = {name: [] for name in names}
    for k in range(rounds):
        for name in names[k % len(names) :] + names[: k % len(names)]:
            runs[name].append(run(name, size, batch))
    print(f"a training step, {size} x {size}, {batch} images; TensorFlow, {os.cpu_count()} cores, {rounds} rounds of {STEPS}")
    print(f"{'':28} {'median s':>9} {'least':>7} {'most':>7} {'first':>7} {'processor':>10} {'peak GiB':>9}")
    found = {name: summary(own) for name, own in runs.items()}
    for name, own in found.items():
        walls = f"{own['median']:9.2f} {own['least']:7.2f} {own['most']:7.2f} {own['first']:7.1f}"
        print(f"{name:28} {walls} {own['processor']:10.2f} {own['peak']:9.2f}")
    for key in ("median", "least", "processor", "peak"):
        ratio = found["covidcxr"][key] / min(found[name][key] for name in PACKAGE)
        print(f"  covidcxr over the package's best, {key:10} {ratio:.2f} {'' if ratio <= BAR else f'above the bar of {BAR}'}")


def summary(runs: list[dict]) -> dict[str, float]:
    seconds, processor = ([second for one in runs for second in one[key]] for key in ("seconds", "processor"))
    return {
        "median": statistics.median(seconds), "least": min(seconds), "most": max(seconds), "processor": min(processor),
        "first": statistics.median(one["first"] for one in runs), "peak": max(one["peak"] for one in runs),
    }


def print_inputs(size: int, batch: int) -> None:
    own = run("inputs", size, batch)
    share, slower = own["made"] / own["there"], own["fit"] / own["there"]
    print(f"\na step on a batch that is there {own['there']:.2f} s; a batch made in line {own['made']:.3f} s, {share:.0%} of it")
    print(f"a step of fit while two threads make batches {own['fit']:.2f} s, {slower:.2f} times as long")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=320, help="of images, pixels")
    parser.add_argument("--batch", type=int, default=8, help="images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size, batch = arguments.size, arguments.batch
    if arguments.child:
        print(json.dumps(inputs(size, batch) if arguments.child == "inputs" else step(arguments.child, size, batch)))
        return
    compare(size, batch, arguments.rounds)
    print_inputs(size, batch)


if __name__ == "__main__":
    main()
