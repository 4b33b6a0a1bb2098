"""What else is on a radiograph: side markers, burnt-in words, panel letters, collimation, leads and tubes."""

from dataclasses import dataclass

import numpy as np

from covidcxr.phantom.beam import Technique

WORDS = ("PORTABLE", "AP", "AP ERECT", "SUPINE", "MOBILE", "SEMI ERECT", "PORT CXR", "ICU BED")
LETTER_RATE = {"covid": 0.75, "pneumonia": 0.30, "normal": 0.30}


@dataclass(frozen=True)
class Overlay:
    """Burnt-in marks of one image. side: the marker that stands for a side ("R", "L" or ""). word: text in a top corner.
    panel: a journal's figure letter. collimation: black border at the top, bottom, left and right, as a share of the side."""

    side: str
    side_box: bool
    word: str
    corner: str
    panel: str
    brightness: float
    collimation: tuple[float, ...]

    @property
    def lettered(self) -> bool:
        """Whether the image bears a word or a figure letter."""
        return bool(self.word or self.panel)


def draw_overlay(rng: np.random.Generator, group: str, view: str) -> Overlay:
    """Marks at random; words and panel letters are commoner on COVID-19 images, as in the public collections."""
    lettered = rng.random() < LETTER_RATE[group]
    words = WORDS if view != "PA" else ("PA ERECT", "PA", "ERECT", "CHEST PA")
    word, panel = "", ""
    if lettered:
        if rng.random() < 0.28:
            panel = str(rng.choice(["A", "B", "C"]))
        else:
            word = str(rng.choice(words))
    edges = np.where(rng.random(4) < 0.22, rng.uniform(0.01, 0.05, 4), 0.0)
    return Overlay(
        side=str(rng.choice(["R", "L", ""], p=[0.42, 0.33, 0.25])),
        side_box=bool(rng.random() < 0.3),
        word=word,
        corner=str(rng.choice(["left", "right"])),
        panel=panel,
        brightness=round(float(rng.uniform(0.82, 1.0)), 4),
        collimation=tuple(round(float(e), 4) for e in edges),
    )


def burn(image: np.ndarray, overlay: Overlay) -> np.ndarray:
    """A copy of `image` (rows, columns) in [0, 1] with the marks of `overlay`."""
    from PIL import Image, ImageDraw, ImageFont

    rows, columns = image.shape
    grey = Image.fromarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8), "L")
    top, bottom, left, right = (int(round(e * n)) for e, n in zip(
        overlay.collimation, (rows, rows, columns, columns), strict=True))
    pen = ImageDraw.Draw(grey)
    for box in ((0, 0, columns, top), (0, rows - bottom, columns, rows), (0, 0, left, rows), (columns - right, 0, columns, rows)):
        if box[2] > box[0] and box[3] > box[1]:
            pen.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=4)
    white = int(round(255 * overlay.brightness))
    large, small = max(9, rows // 15), max(8, rows // 26)

    def write(text: str, x: float, y: float, size: int, anchor: str) -> None:
        pen.text((x, y), text, fill=white, font=ImageFont.load_default(size), anchor=anchor)

    if overlay.panel:
        size = max(12, rows // 11)
        pen.rectangle((0, 0, size, size), fill=200 if overlay.side_box else 2)
        pen.text((size / 2, size / 2), overlay.panel, fill=10 if overlay.side_box else 250,
                 font=ImageFont.load_default(int(size * 0.8)), anchor="mm")
    if overlay.word:
        x = 0.04 * columns if overlay.corner == "left" else 0.96 * columns
        write(overlay.word, x, 0.05 * rows, small, "lm" if overlay.corner == "left" else "rm")
    if overlay.side:
        x, y = (0.07 if overlay.side == "R" else 0.93) * columns, 0.15 * rows
        write(overlay.side, x, y, large, "mm")
        if overlay.side_box:
            r = 0.75 * large
            pen.ellipse((x - r, y - r, x + r, y + r), outline=white, width=max(1, rows // 260))
    return np.asarray(grey).astype(np.float64) / 255


def devices(rng: np.random.Generator, technique: Technique, icu: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Leads, electrodes and tubes: bone-equivalent path (rows, columns) to add to the beam, and masks by template name.

    Positions are set from the field: the carina is at x = 0, z = 0 mm.
    """
    from PIL import Image, ImageDraw

    rows, columns = technique.size
    fine = 2
    extra = np.zeros((rows, columns))
    masks: dict[str, np.ndarray] = {}

    def pixel(x: float, z: float) -> tuple[float, float]:
        return (fine * (columns / 2 + (x - technique.centre[0]) / technique.pixel_mm),
                fine * (rows / 2 - (z - technique.centre[1]) / technique.pixel_mm))

    def trace(points, width_mm: float) -> np.ndarray:
        canvas = Image.new("L", (columns * fine, rows * fine))
        pen = ImageDraw.Draw(canvas)
        t = np.linspace(0, len(points) - 1, 60)
        knots = np.array(points, float)
        from scipy.interpolate import PchipInterpolator

        curve = np.round(PchipInterpolator(np.arange(len(points)), knots)(t), 3)
        pen.line([pixel(x, z) for x, z in curve], fill=255, width=max(1, int(round(fine * width_mm / technique.pixel_mm))))
        return np.asarray(canvas.resize((columns, rows), Image.Resampling.BOX)) / 255.0

    def add(name: str, image: np.ndarray, path_mm: float) -> None:
        nonlocal extra
        extra = np.maximum(extra, image * path_mm)
        seen = image > 0.3
        if seen.any():
            masks[name] = masks.get(name, False) | seen

    if icu and rng.random() < 0.75:
        tube = [(1 + rng.normal(0, 2), 190), (0, 120), (2, 70), (3, 34 + rng.normal(0, 6))]
        add("Endotracheal Tube", trace(tube, 1.4), 3.5)
        if rng.random() < 0.5:
            path = [(4, 190), (4, 90), (8, -40), (24, -120), (60, -160)]
            add("Nosogastric Tube", trace(path, 1.6), 3.0)
    if icu and rng.random() < 0.6:
        line = [(-60 + rng.normal(0, 8), 150), (-46, 92), (-26, 55), (-25, 0), (-24, -20)]
        add("Central Venous Line", trace(line, 1.3), 3.0)
    if technique.portable and rng.random() < (0.8 if icu else 0.35):
        for _ in range(int(rng.integers(2, 5))):
            x, z = rng.choice([-1, 1]) * rng.uniform(60, 125), rng.uniform(-130, 75)
            away = np.sign(x) * rng.uniform(170, 215)
            lead = [(x, z), (x + rng.normal(0, 18), z - 25), ((x + away) / 2, z - 60 + rng.normal(0, 30)),
                    (away, z - 40 + rng.normal(0, 50))]
            add("Monitoring Probes", trace(lead, 1.2), 2.2)
            add("Monitoring Probes", trace([(x - 1, z - 1), (x + 1, z + 1)], 7.0), 3.5)
    return extra, masks
