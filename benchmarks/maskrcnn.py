"""Mask R-CNN R50-FPN: inference and a training step, beside torchvision's, and where the time of inference goes.

    python benchmarks/maskrcnn.py [--torchvision PYTHON] [--size 512] [--rounds 2]

PYTHON is an interpreter with torch and torchvision, which the study itself does not need; without it our numbers stand alone.
Both take random weights and the same work: inference of one image with 1000 proposals and 100 detections, masks not pasted
PYTHON is an interpreter with torch and torchvision, which the study does not need; without it our numbers stand alone.
1000 proposals, 200 regions, all stages trained. Each run is a process of its own; both take turns, torchvision with every number
of threads up to the cores, of which its best counts. Seconds are medians with minimum and maximum over all rounds, the first call
of a process left out, as it traces or compiles.
"""

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time

TASKS = ("inference", "training")
OBJECTS = 6


def objects(size: int) -> list[list[list[int]]]:
    """Boxes of each of two images."""
    import numpy as np

    rng = np.random.default_rng(0)
    corners = rng.integers(0, size * 3 // 5, (2, OBJECTS, 2))
    sides = rng.integers(size // 8, size * 2 // 5, (2, OBJECTS, 2))
    return np.concatenate([corners, corners + sides], axis=2).tolist()


def ours(task: str, size: int):
    """A function that does the work once."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np

    from covidcxr import training
    from covidcxr.maskrcnn.model import MaskRCNN
    from covidcxr.maskrcnn.settings import RegionTraining, Settings

    model = MaskRCNN(Settings(2, region_training=RegionTraining(samples=200), largest_instances=OBJECTS))
    model.compile(keras.optimizers.SGD(1e-4, momentum=0.9), jit_compile=training.jit_compile())
    images = np.random.default_rng(1).random((2, size, size, 3), dtype="float32")
    if task == "inference":
        return lambda: model.predict_on_batch(images[:1])
    boxes = np.array(objects(size), "float32")
    row, column = np.arange(size)[:, None], np.arange(size)
    masks = np.stack([[(row >= y1) & (row < y2) & (column >= x1) & (column < x2) for x1, y1, x2, y2 in own] for own in boxes])
    batch = {"images": images, "sizes": np.full((2, 2), size, "float32"), "boxes": boxes, "masks": masks,
             "labels": np.ones((2, OBJECTS), "int32"), "valid": np.ones((2, OBJECTS), bool)}
    return lambda: model.train_on_batch(batch)


def torchvision(task: str, size: int, threads: int):
    """A function that does the work once."""
    import torch

    detection = importlib.import_module("torchvision.models.detection")  # only the interpreter that was given has it
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=size, max_size=size, rpn_pre_nms_top_n_train=1000,
        rpn_post_nms_top_n_train=1000, box_batch_size_per_image=200,
    )
    images = list(torch.rand(2, 3, size, size))
    if task == "inference":
        net.eval()

        def infer():
            with torch.no_grad():
                net(images[:1])

        return infer
    net.requires_grad_(True)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 1e-4, momentum=0.9)
    targets = []
    for boxes in objects(size):
        masks = torch.zeros(OBJECTS, size, size, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes):  # noqa: B905 - runs on older Pythons too
            mask[y1:y2, x1:x2] = 1
        targets.append({"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.ones(OBJECTS, dtype=torch.int64),
                        "masks": masks})

    def step():
        loss = sum(net(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def parts(size: int) -> dict:
    """Seconds of our inference by part: differences between networks that stop later and later."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np

    from covidcxr import training
    from covidcxr.maskrcnn.detections import detect
    from covidcxr.maskrcnn.model import MaskRCNN
    from covidcxr.maskrcnn.pixels import normalise
    from covidcxr.maskrcnn.proposals import propose
    from covidcxr.maskrcnn.settings import Settings

    class UpTo(MaskRCNN):
        """Inference that ends after a part."""

        last = ""

        def call(self, inputs, training=False):
            images, sizes, _ = self.read(inputs)
            s = self.settings
            maps = self.feature_maps(normalise(images, sizes, s.pixels))
            if self.last == "backbone and pyramid":
                return maps
            logits, deltas = self.rpn_outputs(maps)
            if self.last == "proposal head":
                return logits, deltas
            proposals = propose(self.anchors_of(maps), logits, deltas, sizes, s.anchors.delta_weights, s.proposals)
            if self.last == "proposals":
                return proposals
            class_logits, deltas = self.box_outputs(maps, proposals["boxes"])
            if self.last == "regions and box head":
                return class_logits, deltas
            found = detect(proposals, class_logits, deltas, sizes, s.detections)
            return found if self.last == "detections" else self.mask_outputs(maps, found["boxes"])

    images = np.random.default_rng(1).random((1, size, size, 3), dtype="float32")
    seconds, before = {}, 0.0
    for last in ("backbone and pyramid", "proposal head", "proposals", "regions and box head", "detections", "mask head"):
        keras.utils.set_random_seed(0)
        model = UpTo(Settings(2))
        model.last = last
        model.compile(jit_compile=training.jit_compile())
        until = min(timed(lambda model=model: model.predict_on_batch(images), 5))
        seconds[last], before = max(0.0, until - before), until
    return seconds


def timed(work, calls: int) -> list[float]:
    """Seconds of each call after the first."""
    work()
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


def child(arguments: argparse.Namespace) -> None:
    """One measurement, in this process; printed as JSON."""
    if arguments.child == "parts":
        print(json.dumps(parts(arguments.size)))
        return
    which, task = arguments.child.split()
    work = ours(task, arguments.size) if which == "ours" else torchvision(task, arguments.size, arguments.threads)
    seconds = timed(work, 4 if task == "inference" else 3)
    print(json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))


def run(interpreter: str, words: list[str]) -> dict:
    done = subprocess.run([interpreter, __file__, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{interpreter} {' '.join(words)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torchvision", metavar="PYTHON", help="interpreter that has torchvision")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    size, found = ["--size", str(arguments.size)], {}
    threads = range(1, (os.cpu_count() or 1) + 1) if arguments.torchvision else ()
    for _ in range(arguments.rounds):
        for task in TASKS:
            found.setdefault((task, "ours"), []).append(run(sys.executable, [*size, "--child", f"ours {task}"]))
            for count in threads:
                words = [*size, "--child", f"torchvision {task}", "--threads", str(count)]
                found.setdefault((task, f"torchvision, {count} threads"), []).append(run(arguments.torchvision, words))
    print(f"{'':10} {'':24} {'median s':>9} {'min':>7} {'max':>7} {'peak GiB':>9}")
    for (task, who), runs in found.items():
        seconds = [second for one in runs for second in one["seconds"]]
        peak = max(one["peak"] for one in runs)
        print(f"{task:10} {who:24} {statistics.median(seconds):9.2f} {min(seconds):7.2f} {max(seconds):7.2f} {peak:9.2f}")
    for task in TASKS if threads else ():
        own = {who: runs for (of, who), runs in found.items() if of == task}
        medians = {who: statistics.median([second for one in runs for second in one["seconds"]]) for who, runs in own.items()}
        peaks = {who: max(one["peak"] for one in runs) for who, runs in own.items()}
        best = min((who for who in medians if who != "ours"), key=medians.__getitem__)
        time_ratio, memory_ratio = medians["ours"] / medians[best], peaks["ours"] / peaks[best]
        print(f"{task}: {time_ratio:.2f} x the time and {memory_ratio:.2f} x the memory of {best}")
    print("\nour inference by part, seconds (best of 5):")
    for part, seconds in run(sys.executable, [*size, "--child", "parts"]).items():
        print(f"  {part:24} {seconds:6.3f}")


if __name__ == "__main__":
    main()
