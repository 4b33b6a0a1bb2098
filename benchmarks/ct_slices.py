"""CT slices end to end: reading, finding, pasting and evaluating, the memory of a long volume, and the average precision of many.

    python benchmarks/ct_slices.py [--slices 300] [--pixels 512] [--size 256] [--evaluated 2000]

A volume of noise with two lungs and an infection is written as NIfTI with its masks. It is read slice by slice, once in a process
that does nothing else: the peak of its memory beyond the imports shall stay below 1 GB. Some of the slices then go through a
Mask R-CNN of random weights (R18-FPN), are put back on the volume's grid, and are scored; each step's share is printed.

Average precision with intervals over patients is then computed for many drawn slices, beside faster-coco-eval, which gives
no interval, on the same results; it shall take less than 20 s.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from contest import child, note, peak, sizes

MEMORY_BAR, SECONDS_BAR = 1.0, 20.0  # GiB, s
FOUND = 48  # slices that go through the network
MOST = 10  # objects that it finds in each: untrained it would find the most it may


def discs(pixels: int) -> list[np.ndarray]:
    """Right lung, left lung and infection of every slice, bool (pixels, pixels), x and y."""
    x, y = (axis / pixels for axis in np.ogrid[:pixels, :pixels])
    return [np.hypot((x - at) / 0.7, y - 0.5) < 0.25 for at in (0.3, 0.7)] + [np.hypot(x - 0.35, y - 0.6) < 0.05]


def write_volume(folder: Path, slices: int, pixels: int) -> None:
    """A case of MedSeg's layout, 0.7 mm in plane and 1 mm between slices."""
    import nibabel as nib

    affine = np.diag([0.7, 0.7, 1.0, 1.0])
    right, left, infection = (np.repeat(mask[..., None], slices, axis=2) for mask in discs(pixels))
    hu = np.where(left | right, -850, 40).astype(np.int16)
    hu[infection] = -400
    hu += np.random.default_rng(0).integers(-60, 60, hu.shape, np.int16)
    folder.mkdir(parents=True)
    for name, voxels in (("image", hu), ("lung_lr", left + 2 * right.astype(np.uint8)), ("lesion", infection.astype(np.uint8))):
        nib.Nifti1Image(voxels.astype(voxels.dtype), affine).to_filename(folder / f"case1_{name}.nii.gz")


def read(root: Path, size: int, keep: int) -> list:
    """The first slices of the volume; all are read."""
    from covidcxr import ct_slices, datasets

    kept = []
    for one in ct_slices.of_volumes(datasets.open("medseg_nr2_volumes", root), ["case1"], size):
        if len(kept) < keep:
            kept.append(one)
    return kept


def stream(root: Path, size: int) -> dict:
    """Seconds and memory of reading all slices, of which none is kept, in GiB beyond the imports."""
    import nibabel  # noqa: F401

    from covidcxr import ct_slices, datasets, volumes  # noqa: F401

    imported, began = peak(), time.perf_counter()
    read(root, size, 0)
    return {"seconds": time.perf_counter() - began, "memory": peak() - imported}


def end_to_end(root: Path, size: int, slices: int) -> dict[str, float]:
    """Seconds per slice of each step."""
    from covidcxr import clustered_ap, ct_slices, datasets, training
    from covidcxr.maskrcnn import coco, inference, presets
    from covidcxr.maskrcnn.model import MaskRCNN
    from covidcxr.models.resnet import ResNet

    began = time.perf_counter()
    kept = read(root, size, FOUND)
    seconds = {"read": (time.perf_counter() - began) / slices}
    training.set_seed(0)
    preset = presets.gaikwad2020()
    model = MaskRCNN(replace(preset, backbone=ResNet(18), pyramid_channels=64, rpn_channels=128,
                             detections=replace(preset.detections, most=MOST)))  # fmt: skip
    inference.find(model, kept[:1], (size, size), 4)  # compiles
    began = time.perf_counter()
    found = inference.find(model, kept, (size, size), 4)
    seconds["find"] = (time.perf_counter() - began) / len(kept)
    volume = datasets.open("medseg_nr2_volumes", root).volume("case1")
    began = time.perf_counter()
    pictures = [(one.index, ct_slices.label_picture(f.whole_masks(), f.labels)) for one, f in zip(kept, found, strict=True)]
    ct_slices.assemble(pictures, volume.shape)
    seconds["paste"] = (time.perf_counter() - began) / len(kept)
    fitted = [f.resized(one.grey.shape) for one, f in zip(kept, found, strict=True)]
    began = time.perf_counter()
    patients = [one.index % 8 for one in kept]
    clustered_ap.intervals(coco.truth(kept, ct_slices.CLASSES), coco.results(fitted), "segm", patients, seed=0)
    seconds["evaluate"] = (time.perf_counter() - began) / len(kept)
    return seconds


def evaluate(slices: int, size: int) -> dict[str, float]:
    """Seconds of average precision of slices with two lungs and an infection, where what is found lies a little off."""
    from covidcxr import clustered_ap, ct_slices
    from covidcxr.labels import run_lengths
    from covidcxr.maskrcnn import coco

    rng = np.random.default_rng(0)
    masks = dict(zip(("left_lung", "right_lung", "lesion"), (mask.T for mask in discs(size)), strict=True))
    black = np.zeros((size, size), np.float32)
    made = [ct_slices.make(f"case{k % 20}", f"case{k % 20}", k, black, masks, size) for k in range(slices)]
    truth, results = coco.truth(made, ct_slices.CLASSES), []
    for annotation, mask in zip(truth["annotations"], (mask for one in made for mask in one.masks), strict=True):
        for _ in range(2):
            dx, dy = (int(shift) for shift in rng.integers(-size // 32, size // 32, 2))
            x, y, width, height = annotation["bbox"]
            results.append({
                "image_id": annotation["image_id"], "category_id": annotation["category_id"], "score": float(rng.random()),
                "bbox": [x + dx, y + dy, width, height], "segmentation": run_lengths(np.roll(mask, (dy, dx), (0, 1))),
            })  # fmt: skip
    began = time.perf_counter()
    ours = clustered_ap.intervals(truth, results, "segm", [one.patient for one in made], seed=0)
    seconds = {"with intervals": time.perf_counter() - began}
    began = time.perf_counter()
    peer = coco.average_precision(truth, results, "segm")
    seconds["faster-coco-eval"] = time.perf_counter() - began
    assert np.isclose(ours.query("`class` == 'all' and measure == 'AP'").value.item(), peer["AP"], atol=1e-6)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes(parser, slices=(300, 20), pixels=(512, 128), size=(256, 64), evaluated=(2000, 60))
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        print(json.dumps(stream(chosen.child, chosen.size)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_volume(root / "medseg_nr2_volumes", chosen.slices, chosen.pixels)
        alone = child([sys.executable, __file__, "--child", str(root), "--size", str(chosen.size)])
        print(f"a volume of {chosen.pixels} x {chosen.pixels} x {chosen.slices}, slices of {chosen.size} pixels")
        note("CT slices, reading a volume", alone["seconds"], "s")
        note("CT slices, peak of reading beyond the imports", alone["memory"], "GiB", bar=MEMORY_BAR)
        seconds = end_to_end(root, chosen.size, chosen.slices)
    for name, each in seconds.items():
        print(f"  {name:9} {1000 * each:7.1f} ms a slice, {each / sum(seconds.values()):5.1%}")
    note("CT slices, end to end, a slice", sum(seconds.values()), "s")
    print(f"average precision of {chosen.evaluated} slices")
    ours, peer = evaluate(chosen.evaluated, chosen.size).values()
    note("average precision with intervals", ours, "s", bar=SECONDS_BAR)
    note("average precision with intervals", ours, "s", "faster-coco-eval, which has none", peer)


if __name__ == "__main__":
    main()
