"""Time and memory from a compressed CT file to its frontal projection, against peers and against merely reading the file.

    python benchmarks/projection.py [--volume ct.nii.gz] [--rounds 5]

Each contestant runs in a process of its own, all of them once per round in changing order. Time starts after the imports and
ends with the picture in memory (plastimatch: with the program, which writes it). A ratio is the median over rounds of the
contestant's time over the floor's time of the same round; the floor is nibabel reading the stored integers. Memory is the
peak of the process above what it held after its imports, over the volume as int16.
"""

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from contest import note, peak, sizes

FLOOR = "read with nibabel (floor)"


def read_with_nibabel(path: str) -> None:
    import nibabel as nib

    yield
    np.asanyarray(nib.load(path).dataobj)


def decompress_only(path: str) -> None:
    yield
    with gzip.open(path, "rb") as file:
        while file.read(1 << 20):
            pass


def ours(mode: str, body_only: bool = False):
    def contestant(path: str) -> None:
        from covidcxr import projection, volumes

        projection.project(_warm(volumes), mode)
        yield
        projection.project(volumes.read_volume(path), mode, body_only=body_only)

    return contestant


def _warm(volumes):
    """A small projection loads what is imported on first use; the others' imports are not timed either."""
    import scipy.ndimage  # noqa: F401

    return volumes.volume_from_array(np.arange(27, dtype=np.int16).reshape(3, 3, 3), np.diag([1.0, 1, 2, 1]), units="HU")


def simpleitk(kind: str):
    def contestant(path: str) -> None:
        import SimpleITK as sitk

        yield
        sitk.GetArrayFromImage(getattr(sitk, kind)(sitk.ReadImage(path), 1))

    return contestant


CONTESTANTS = {
    FLOOR: read_with_nibabel,
    "decompress with gzip, keep nothing": decompress_only,
    "covidcxr sum": ours("sum"),
    "covidcxr mean": ours("mean"),
    "covidcxr beer_lambert": ours("beer_lambert"),
    "covidcxr beer_lambert, body_only": ours("beer_lambert", True),
    "SimpleITK SumProjection": simpleitk("SumProjection"),
    "SimpleITK MeanProjection": simpleitk("MeanProjection"),
}
PLASTIMATCH = "plastimatch drr"
PEERS = {
    "covidcxr sum": "SimpleITK SumProjection", "covidcxr mean": "SimpleITK MeanProjection", "covidcxr beer_lambert": PLASTIMATCH,
}  # fmt: skip


def run_one(name: str, path: str) -> None:
    """In a process of its own: time and memory of one contestant, as JSON on standard output."""
    steps = CONTESTANTS[name](path)
    next(steps)
    before = peak()
    start = time.perf_counter()
    for _ in steps:
        pass
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "gib": peak() - before}))


def measure(name: str, path: Path, folder: Path) -> tuple[float, float]:
    """(seconds, bytes) of one run."""
    if name == PLASTIMATCH:
        return measure_plastimatch(path, folder)
    done = subprocess.run([sys.executable, __file__, "--one", name, "--volume", path], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["seconds"], found["gib"] * 2**30


def measure_plastimatch(path: Path, folder: Path) -> tuple[float, float]:
    """A source far behind the patient makes its rays nearly parallel; the detector has the pixels of our picture."""
    import nibabel as nib

    header = nib.load(path)
    size, spacing = header.shape, header.header.get_zooms()
    centre = header.affine @ [*(n / 2 for n in size), 1]
    command = [
        "plastimatch", "drr", "-t", "pfm", "-a", "1", "-n", "0 -1 0", "--vup", "0 0 1", "--sad", "10000", "--sid", "10001",
        "-r", f"{size[2]} {size[0]}", "-z", f"{size[2] * spacing[2]} {size[0] * spacing[0]}",
        "-o", f"{-centre[0]} {-centre[1]} {centre[2]}", "-O", folder / "drr_", "-I", path,
    ]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"plastimatch ended with {status}: {' '.join(map(str, command))}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def write_volume(path: Path, slices: int) -> None:
    """A chest-like CT of 512 x 512 pixels and so many slices with the noise of a thin-slice scan, stored as scanners do."""
    import nibabel as nib

    rng = np.random.default_rng(0)
    x, y, z = np.ogrid[:512, :512, :slices]
    voxels = np.full((512, 512, slices), -1000, np.int16, order="F")
    voxels[np.broadcast_to(((x - 256) / 230.0) ** 2 + ((y - 256) / 150.0) ** 2 < 1, voxels.shape)] = 40
    lungs = ((np.abs(x - 256) - 110) / 80.0) ** 2 + ((y - 256) / 100.0) ** 2 + ((z - slices / 2) / (slices * 13 / 30)) ** 2 < 1
    voxels[lungs] = -850
    voxels[:, 430:434] = -200  # a table
    for k in range(slices):
        voxels[:, :, k] += rng.normal(0, 20, (512, 512)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([-0.7, -0.7, 1, 1])), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volume", type=Path, help="a .nii or .nii.gz of int16; default: one of 512 x 512 is made")
    sizes(parser, rounds=(5, 1), slices=(300, 20))
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", choices=CONTESTANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        return write_volume(arguments.volume, arguments.slices)
    if arguments.one:
        return run_one(arguments.one, str(arguments.volume))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        path = arguments.volume or folder / "ct.nii.gz"
        if arguments.volume is None:
            # in a process of its own, so that this one stays small: plastimatch's peak starts at its parent's
            words = ["--make", "--volume", path, "--slices", str(arguments.slices)]
            subprocess.run([sys.executable, __file__, *words], check=True)
        names = list(CONTESTANTS)
        if shutil.which("plastimatch"):
            names.append(PLASTIMATCH)
        else:
            print("plastimatch is not installed (Debian package plastimatch): left out")
        try:
            import SimpleITK  # noqa: F401
        except ImportError:
            print("SimpleITK is not installed (pip install SimpleITK): left out")
            names = [name for name in names if not name.startswith("SimpleITK")]
        report(path, names, [
            {name: measure(name, path, folder) for name in names[k % len(names) :] + names[: k % len(names)]}
            for k in range(arguments.rounds)
        ])


def report(path: Path, names: list[str], rounds: list[dict[str, tuple[float, float]]]) -> None:
    import nibabel as nib

    shape = nib.load(path).shape
    volume = int(np.prod(shape)) * 2
    size = f"{volume / 2**20:.0f} MiB as int16, {path.stat().st_size / 2**20:.0f} MiB on disk"
    print(f"{' x '.join(map(str, shape))} voxels, {size}; {os.cpu_count()} cores, {len(rounds)} rounds")
    print(f"{'':36}{'seconds':>9}{'x floor':>9}{'(range)':>16}{'peak / int16':>14}")
    for name in names:
        ratios = sorted(r[name][0] / r[FLOOR][0] for r in rounds)
        seconds, memory = (statistics.median(r[name][i] for r in rounds) for i in (0, 1))
        spread = f"({ratios[0]:.2f}-{ratios[-1]:.2f})"
        print(f"{name:36}{seconds:9.2f}{statistics.median(ratios):9.2f}{spread:>16}{memory / volume:14.2f}")
    for name in (name for name in names if name.startswith("covidcxr")):
        seconds, memory = (statistics.median(r[name][i] for r in rounds) for i in (0, 1))
        title = name.replace("covidcxr", "projection,")
        for peer in [FLOOR, *([PEERS[name]] if name in PEERS else [])]:
            theirs = ratio = None
            if peer in names:
                theirs = statistics.median(r[peer][0] for r in rounds)
                ratio = statistics.median(r[name][0] / r[peer][0] for r in rounds)
            note(title, seconds, "s", peer, theirs, ratio=ratio)
        note(f"{title}, peak", memory / 2**30, "GiB", "the volume as int16", volume / 2**30)


if __name__ == "__main__":
    main()
