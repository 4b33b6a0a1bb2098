"""Whether the network waits for its batches: augmentation and targets at 1024 x 1024, 15 instances each, two images per batch.

    python benchmarks/input_pipeline.py [--size 1024] [--instances 15] [--steps 6] [--rounds 3] [--wait 0.06]

Batches are made as for ramesh2021 and consumed by two kinds of steps. `network` is a small Mask R-CNN, trained where Keras
trains. `wait` sleeps as long as a step shall take on an accelerator, and needs no processor meanwhile. `in turn` makes a batch,
then trains on it; the last columns are `fit` with so many workers of the feed. Best of some rounds, in each of which all are
measured.

On a machine without an accelerator network and threads share the cores: whatever the threads take, the network is without. There
overlap can only fill the gaps in which the network does not use all cores; in `wait`, it hides the making of batches altogether
as long as making one takes less than a step, times the threads that have a core each. A step of `fit` shall then take at most
1.1 times as long as one on a batch that is there. The bar is for 2 workers, which notebooks have; what is fed does not depend on
their number, so that a machine with more cores may have more. The fewest that hold it are said at the end.
"""

import argparse
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import keras  # noqa: E402
import numpy as np  # noqa: E402
from contest import note, sizes  # noqa: E402
from keras import ops  # noqa: E402

from covidcxr import augment  # noqa: E402
from covidcxr.maskrcnn.feeding import Feed  # noqa: E402
from covidcxr.maskrcnn.model import MaskRCNN  # noqa: E402
from covidcxr.maskrcnn.settings import Proposals, RegionTraining, Settings  # noqa: E402
from covidcxr.models.resnet import ResNet  # noqa: E402

BAR = 1.1
BATCH = 2
QUEUE = 4  # the feed's own default, as its workers
WORKERS = (1, 2, 4)
OWN = 2


def examples(size: int, instances: int) -> list:
    """Pictures of noise with discs as instances."""
    rng, (row, column) = np.random.default_rng(0), np.ogrid[:size, :size]
    made = []
    for number in range(6):
        centres, radii = rng.uniform(0.1, 0.9, (instances, 2)) * size, rng.uniform(0.02, 0.1, instances) * size
        masks = np.stack([np.hypot(row - y, column - x) < r for (y, x), r in zip(centres, radii, strict=True)])
        image = rng.random((size, size), dtype="float32")
        made.append(SimpleNamespace(name=str(number), image=image, masks=masks, labels=np.ones(instances, "int32")))
    return made


class Waiting(keras.Model):
    """As good as no network; the step is the sleep after it."""

    def __init__(self):
        super().__init__()
        self.scale = self.add_weight(shape=(), initializer="ones")
        self.built = True

    def call(self, x, training=False):
        return ops.mean(x["images"][:, :1]) * self.scale

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return y_pred


class Clock(keras.callbacks.Callback):
    """When each step ended; `wait` seconds are slept first."""

    def __init__(self, wait: float):
        super().__init__()
        self.wait, self.times = wait, []

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(self.wait)
        self.times.append(time.perf_counter())

    @property
    def pace(self) -> float:
        """Seconds per step, without the first ones: they compile, and find batches made meanwhile."""
        kept = self.times[QUEUE + 1 :]
        return (kept[-1] - kept[0]) / (len(kept) - 1)


def making(feed: Feed, threads: int) -> float:
    """Seconds per batch without a network; 0 threads: in line."""
    count = 8
    start = time.perf_counter()
    if threads:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda index: len(feed[index]), range(count)))  # each is dropped once made, as in line
    else:
        for index in range(count):
            feed[index]
    return (time.perf_counter() - start) / count


def changing(feed: Feed) -> float:
    """Seconds per batch of augmentation alone."""
    start = time.perf_counter()
    for seed, example in enumerate(feed.examples):
        feed.change(example.image, example.masks, example.labels, seed)
    return (time.perf_counter() - start) / len(feed.examples) * BATCH


def alone(model: keras.Model, feed: Feed, wait: float, steps: int) -> float:
    """Seconds per step on one batch that is there."""
    (batch,), times = feed[0], []
    for _ in range(steps):
        start = time.perf_counter()
        model.train_on_batch(batch)
        time.sleep(wait)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def in_turn(model: keras.Model, feed: Feed, wait: float) -> float:
    times = []
    for index in range(len(feed)):
        start = time.perf_counter()
        model.train_on_batch(feed[index][0])
        time.sleep(wait)
        times.append(time.perf_counter() - start)
    return statistics.mean(times[1:])


def together(model: keras.Model, make, workers: int, wait: float) -> float:
    clock = Clock(wait)
    model.fit(make(workers=workers), verbose=0, callbacks=[clock])
    return clock.pace


def print_row(name: str, *cells: float | str) -> None:
    print(f"{name:24}" + "".join(f"{cell:>11}" if isinstance(cell, str) else f"{cell:11.3f}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes(parser, size=(1024, 128), instances=(15, 3), steps=(6, 4), rounds=(3, 1))
    parser.add_argument("--wait", type=float, default=0.06, help="seconds of a step on an accelerator")
    arguments = parser.parse_args()
    settings = Settings(
        backbone=ResNet(18, norm="frozen", frozen_stages=4),
        pyramid_channels=32,
        proposals=Proposals(200, 100),
        region_training=RegionTraining(samples=32),
        largest_instances=arguments.instances,
    )
    make = partial(
        Feed, examples(arguments.size, arguments.instances), settings, (arguments.size, arguments.size), BATCH,
        change=partial(augment.apply, augment.ramesh2021()), max_queue_size=QUEUE,
    )
    feed = make()
    print(f"{arguments.size} x {arguments.size}, {arguments.instances} instances, {BATCH} images per batch; "
          f"{os.cpu_count()} cores, {keras.backend.backend()}; seconds per batch")
    print_row("making batches alone", "in line", *(f"{count} thread{'s' * (count > 1)}" for count in WORKERS))
    rounds = [(*(making(feed, count) for count in (0, *WORKERS)), changing(feed)) for _ in range(arguments.rounds)]
    in_line, *by_threads, change = map(min, zip(*rounds, strict=True))
    print_row("", in_line, *by_threads)
    print_row("augmentation of it", change)
    note(f"batches, made by {OWN} threads", by_threads[WORKERS.index(OWN)], "s", "made in line", in_line)

    jit = "auto" if keras.backend.backend() != "tensorflow" else False
    # A wait needs more steps: where workers are too few, batches come in bursts, as many as there are workers.
    models = {
        "network": (MaskRCNN(settings), 0.0, QUEUE + arguments.steps),
        f"wait of {arguments.wait:g} s": (Waiting(), arguments.wait, QUEUE + 4 * arguments.steps),
    }
    print_row("training", "step alone", "in turn", *(f"{count} worker{'s' * (count > 1)}" for count in WORKERS))
    for name, (model, wait, steps) in models.items():
        model.compile(optimizer=keras.optimizers.SGD(1e-6), jit_compile=jit)
        fed = partial(make, steps=steps)
        model.fit(fed(), verbose=0)  # compiles
        rounds = [
            (
                alone(model, feed, wait, steps // 2), in_turn(model, fed(), wait),
                *(together(model, fed, workers, wait) for workers in WORKERS),
            )
            for _ in range(arguments.rounds)
        ]
        step, turn, *fits = map(min, zip(*rounds, strict=True))
        print_row(name, step, turn, *fits)
        what, own = f"batches, fit with {OWN} workers, {name}", fits[WORKERS.index(OWN)]
        note(what, own, "s", "a step alone (floor)", step, bar=BAR if wait else None)
        note(what, own, "s", "made and trained in turn", turn)
        if wait:
            enough = [str(count) for count, seconds in zip(WORKERS, fits, strict=True) if seconds <= BAR * step]
            fewest = enough[0] if enough else f"more than {WORKERS[-1]}"
            print(f"  workers that the bar needs: {fewest}; making a batch in line takes as long as {in_line / step:.1f} steps, "
                  f"and so many of the {os.cpu_count()} cores must be free for it")


if __name__ == "__main__":
    main()
