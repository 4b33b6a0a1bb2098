"""Whether the network waits for its batches: augmentation and targets at 1024 x 1024, 15 instances each, two images per batch.

    python benchmarks/input_pipeline.py [--size 1024] [--instances 15] [--steps 8] [--rounds 3]

Batches are made as for ramesh2021 and consumed by two kinds of steps. `network` is a small Mask R-CNN, trained where Keras
trains. `wait` sleeps as long as a step takes on an accelerator, and needs no processor meanwhile. `in turn` makes a batch, then
trains on it; the last columns are `fit` with so many workers of the feed. Best of some rounds, in each of which all are measured.

On a machine without an accelerator network and threads share the cores: whatever the threads take, the network is without. There
overlap can only fill the gaps in which the network does not use all cores; in `wait`, it hides the making of batches altogether
as long as making one takes less than a step, times the threads.
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

BATCH = 2
QUEUE = 2


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes(parser, size=(1024, 128), instances=(15, 3), steps=(8, 6), rounds=(3, 1))
    parser.add_argument("--wait", type=float, default=0.35, help="seconds of a step on an accelerator")
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
        steps=max(6, arguments.steps), change=partial(augment.apply, augment.ramesh2021()), max_queue_size=QUEUE,
    )
    feed = make()
    print(f"{arguments.size} x {arguments.size}, {arguments.instances} instances, {BATCH} images per batch; "
          f"{os.cpu_count()} cores, {keras.backend.backend()}; seconds per batch")
    print(f"{'making batches alone':24}{'in line':>10}{'1 thread':>10}{'2 threads':>10}")
    rounds = [(making(feed, 0), making(feed, 1), making(feed, 2), changing(feed)) for _ in range(arguments.rounds)]
    *makings, change = map(min, zip(*rounds, strict=True))
    print(f"{'':24}" + "".join(f"{seconds:10.2f}" for seconds in makings) + f"   (augmentation in line: {change:.2f})")
    note("batches, made by 2 threads", makings[2], "s", "made in line", makings[0])

    jit = "auto" if keras.backend.backend() != "tensorflow" else False
    models = {"network": (MaskRCNN(settings), 0.0), f"wait of {arguments.wait:g} s": (Waiting(), arguments.wait)}
    print(f"{'training':24}{'step alone':>10}{'in turn':>10}{'1 worker':>10}{'2 workers':>10}")
    for name, (model, wait) in models.items():
        model.compile(optimizer=keras.optimizers.SGD(1e-6), jit_compile=jit)
        model.fit(make(), verbose=0)  # compiles
        rounds = [
            (
                alone(model, feed, wait, feed.steps // 2), in_turn(model, feed, wait),
                *(together(model, make, workers, wait) for workers in (1, 2)),
            )
            for _ in range(arguments.rounds)
        ]
        best = [min(times) for times in zip(*rounds, strict=True)]
        print(f"{name:24}" + "".join(f"{seconds:10.2f}" for seconds in best))
        note(f"batches, fit with 2 workers, {name}", best[3], "s", "a step alone (floor)", best[0])
        note(f"batches, fit with 2 workers, {name}", best[3], "s", "made and trained in turn", best[1])


if __name__ == "__main__":
    main()
