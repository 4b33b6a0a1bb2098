"""Mask R-CNN: inference and a training step, beside torchvision's, and where the time goes.

    python benchmarks/maskrcnn.py [--torch PYTHON] [--size 512] [--rounds 3]

PYTHON is an interpreter with torch and torchvision, which the study does not need; without it our numbers stand alone. Both have
ResNet-50 and FPN, random weights and the same work: inference of one image with 1000 proposals and 100 detections, whose masks
are pasted into the whole image (torchvision can't do without; at random weights it finds 100 objects and ours fewer, of which
some are pasted again); a step of gradient descent on two images of six objects, 1000 proposals, 200 regions, normalisation
frozen, all stages trained.

torchvision runs with one thread and with as many as there are cores, of which its best counts. Ours shall take at most as long at
inference and 1.5 times as long at training, and hold at most twice the memory. How all are measured is said in `contest`.

Where Keras sees a GPU, ours is also measured there with ResNet-101, 1024 x 1024, two images, in float32 and mixed bfloat16,
beside torchvision's on the same card where PYTHON's torch sees it too. A step in mixed bfloat16 shall take 60 ms at most on an
H200. The memory said there is the process's own, not the card's.
"""

import argparse
import importlib
import json
import os
import sys
from functools import partial

import contest

TASKS = ("inference", "training")
BARS = {"inference": 1.0, "training": 1.5}
GPU_BARS = {("training", "mixed_bfloat16"): 0.060}  # seconds
MEMORY_BAR = 2.0
OBJECTS = 6
PARTS = ("backbone and pyramid", "proposal head", "best of each level", "suppression", "regions, box head", "detections", "masks",
         "pasting")
CALLS = 4


def objects(size: int) -> list[list[list[int]]]:
    """Boxes of each of two images."""
    import numpy as np

    rng = np.random.default_rng(0)
    corners = rng.integers(0, size * 3 // 5, (2, OBJECTS, 2))
    sides = rng.integers(size // 8, size * 2 // 5, (2, OBJECTS, 2))
    return np.concatenate([corners, corners + sides], axis=2).tolist()


def settings(depth: int):
    from covidcxr.maskrcnn.settings import RegionTraining, Settings
    from covidcxr.models.resnet import ResNet

    backbone = ResNet(depth, norm="frozen")
    return Settings(2, backbone, region_training=RegionTraining(samples=200), largest_instances=OBJECTS)


def paste(found: dict, size: int) -> list:
    """The masks of each image's objects in the whole image, float32 (D, size, size): what torchvision's network ends with.

    All D rows are pasted, those that hold no object with the masks and boxes of others.
    """
    import numpy as np

    from covidcxr.maskrcnn.masks import paste_masks

    whole = []
    for masks, boxes, valid in zip(found["masks"], found["boxes"], found["valid"], strict=True):
        rows = np.resize(np.flatnonzero(valid), len(valid))
        whole.append(paste_masks(masks[rows], boxes[rows], size, size))
    return whole


def ours(task: str, size: int, depth: int, images: int):
    """A function that does the work once."""
    import keras
    import numpy as np

    from covidcxr import training
    from covidcxr.maskrcnn.model import MaskRCNN

    model = MaskRCNN(settings(depth))
    model.compile(keras.optimizers.SGD(1e-4, momentum=0.9), jit_compile=training.jit_compile())
    pixels = np.random.default_rng(1).random((2, size, size, 3), dtype="float32")
    if task == "inference":
        return lambda: paste(model.predict_on_batch(pixels[:images]), size)
    boxes = np.array(objects(size), "float32")
    row, column = np.arange(size)[:, None], np.arange(size)
    masks = np.stack([[(row >= y1) & (row < y2) & (column >= x1) & (column < x2) for x1, y1, x2, y2 in own] for own in boxes])
    batch = {"images": pixels, "sizes": np.full((2, 2), size, "float32"), "boxes": boxes, "masks": masks,
             "labels": np.ones((2, OBJECTS), "int32"), "valid": np.ones((2, OBJECTS), bool)}
    return lambda: model.train_on_batch(batch)


def torchvision(task: str, size: int, depth: int, images: int, threads: int, policy: str, device: str):
    """A function that does the work once, on the processor or, `device` "cuda", on the first GPU."""
    # Asked of the interpreter that was given: they are no requirement of the study.
    torch = importlib.import_module("torch")
    detection = importlib.import_module("torchvision.models.detection")
    backbones = importlib.import_module("torchvision.models.detection.backbone_utils")

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    mixed = torch.autocast(device, torch.bfloat16, enabled=policy == "mixed_bfloat16")
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    net = detection.MaskRCNN(
        backbones.resnet_fpn_backbone(backbone_name=f"resnet{depth}", weights=None, trainable_layers=5), num_classes=3,
        min_size=size, max_size=size, rpn_pre_nms_top_n_train=1000, rpn_post_nms_top_n_train=1000, box_batch_size_per_image=200,
    ).to(device)
    pixels = list(torch.rand(2, 3, size, size, device=device))
    if task == "inference":
        net.eval()

        def infer():
            with torch.no_grad(), mixed:
                net(pixels[:images])
            wait()

        return infer
    optimizer = torch.optim.SGD(net.parameters(), 1e-4, momentum=0.9)
    targets = []
    for boxes in objects(size):
        masks = torch.zeros(OBJECTS, size, size, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
            mask[y1:y2, x1:x2] = 1
        target = {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.ones(OBJECTS, dtype=torch.int64)}
        targets.append({key: value.to(device) for key, value in {**target, "masks": masks}.items()})

    def step():
        with mixed:
            loss = sum(net(pixels, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wait()

    return step


def parts(size: int, depth: int, images: int) -> dict:
    """Seconds of our inference by part: differences between networks that stop later and later, and last the pasting."""
    import keras
    import numpy as np

    from covidcxr import training
    from covidcxr.maskrcnn.detections import detect
    from covidcxr.maskrcnn.model import MaskRCNN
    from covidcxr.maskrcnn.pixels import normalise
    from covidcxr.maskrcnn.proposals import best_of_levels, propose

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
            outputs = self.anchors_of(maps), logits, deltas, sizes, s.anchors.delta_weights, s.proposals
            if self.last == "best of each level":
                return best_of_levels(*outputs)
            proposals = propose(*outputs)
            if self.last == "suppression":
                return proposals
            if self.last == "masks":
                return self.detections(maps, proposals, sizes)
            class_logits, deltas = self.box_outputs(maps, proposals["boxes"])
            if self.last == "regions, box head":
                return class_logits, deltas
            return detect(proposals, class_logits, deltas, sizes, s.detections)

    pixels = np.random.default_rng(1).random((images, size, size, 3), dtype="float32")
    works = {}
    for last in PARTS[:-1]:
        keras.utils.set_random_seed(0)
        model = UpTo(settings(depth))
        model.last = last
        model.compile(jit_compile=training.jit_compile())
        works[last] = lambda model=model: model.predict_on_batch(pixels)
        works[last]()
    works[PARTS[-1]] = lambda: paste(works[PARTS[-2]](), size)
    least = dict.fromkeys(PARTS, float("inf"))
    for _ in range(CALLS):  # in turns, so that what else runs here touches all alike
        for last, work in works.items():
            least[last] = min(least[last], *contest.timed(work, 1))
    return {last: least[last] - least.get(before, 0.0) for before, last in zip((None, *PARTS), PARTS, strict=False)}


def child(arguments: argparse.Namespace) -> None:
    """One measurement, in this process; printed as JSON."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    who, *task = arguments.child.split()
    if who == "torchvision":
        a = arguments
        work = torchvision(*task, a.size, a.depth, a.images, a.threads, a.policy, a.device)
    else:
        import keras

        keras.config.set_dtype_policy(arguments.policy)
        if who == "gpu":
            print(json.dumps(keras.distribution.list_devices("gpu")))
            return
        if who == "parts":
            print(json.dumps(parts(arguments.size, arguments.depth, arguments.images)))
            return
        work = ours(*task, arguments.size, arguments.depth, arguments.images)
    print(json.dumps(contest.measure(work, CALLS)))


def run(interpreter: str, name: str, **options) -> dict:
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return contest.child([interpreter, __file__, "--child", name, *words])


def compare(python: str | None, size: int, rounds: int) -> None:
    threads = sorted({1, os.cpu_count() or 1}) if python else []
    print(f"ResNet-50, FPN, {size} x {size}; {os.cpu_count()} cores, {rounds} rounds")
    for task in TASKS:
        contestants = {"covidcxr": partial(run, sys.executable, f"ours {task}", size=size)}
        for count in threads:
            name = f"torchvision, {count} thread{'s' * (count > 1)}"
            contestants[name] = partial(run, python, f"torchvision {task}", size=size, threads=count)
        found = contest.in_turns(contestants, rounds)
        print(f"{task}:")
        contest.print_table(found)
        bars = {"median": BARS[task], "least": BARS[task], "peak": MEMORY_BAR}
        contest.note_over_best(f"Mask R-CNN {task}", found, "covidcxr", "torchvision", bars)


def print_parts(title: str, **options) -> None:
    seconds = run(sys.executable, "parts", **options)
    whole = sum(seconds.values())
    print(f"\ninference by part, {title}: least seconds, share of {whole:.3f}")
    for part, own in seconds.items():
        print(f"  {part:22} {own:7.3f} {own / whole:6.0%}")


def measure_gpu(python: str | None, size: int, rounds: int) -> None:
    """ResNet-101, two images, both precisions."""
    cuda = python and contest.child([python, "-c", "import json, torch; print(json.dumps(torch.cuda.is_available()))"])
    for policy in ("float32", "mixed_bfloat16"):
        options = {"size": size, "depth": 101, "images": 2, "policy": policy}
        print(f"\nGPU, ResNet-101, FPN, {size} x {size}, two images, {policy}")
        for task in TASKS:
            contestants = {"covidcxr": partial(run, sys.executable, f"ours {task}", **options)}
            if cuda:
                contestants["torchvision"] = partial(run, python, f"torchvision {task}", device="cuda", **options)
            found = contest.in_turns(contestants, rounds)
            print(f"{task}:")
            contest.print_table(found)
            name = f"Mask R-CNN {task} on the GPU, {policy}"
            if (task, policy) in GPU_BARS:
                contest.note(f"{name}, alone", found["covidcxr"]["median"], "s", bar=GPU_BARS[task, policy])
            contest.note_over_best(name, found, "covidcxr", "torchvision", {})
        print_parts(policy, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", metavar="PYTHON", help="interpreter that has torch and torchvision")
    contest.sizes(parser, size=(512, 64), rounds=(3, 1))
    hidden = {"child": None, "threads": 1, "depth": 50, "images": 1, "policy": "float32", "device": "cpu"}
    for name, default in hidden.items():
        parser.add_argument(f"--{name}", type=type(default or ""), default=default, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(arguments)
    compare(arguments.torch, arguments.size, arguments.rounds)
    print_parts(f"ResNet-50, {arguments.size} x {arguments.size}, one image", size=arguments.size)
    if run(sys.executable, "gpu"):
        measure_gpu(arguments.torch, 128 if arguments.quick else 1024, arguments.rounds)


if __name__ == "__main__":
    main()
