"""Makes seeded fundus photographs with vessel masks, for a first run without any data.

Colour alone does not identify the vessels: haemorrhages are as dark, and choroidal streaks are as long. Networks trained
on these photographs are of no use on patients.

Lengths are in units of half the picture's side, the origin is its centre, y points down, and the optic disc lies to the
left of the fovea: a left eye, which is mirrored for a right one.
"""

from dataclasses import dataclass
from math import cos, dist, exp, hypot, pi, sin
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from nnvit.errors import DataError
from nnvit.records.json_files import read_json, write_json

from .raw_folder import replacing

_RECIPE = 1
"""Raised whenever the same seed gives other pictures."""
_LEAST_SIZE = 64

# Reflectance in red, green and blue.
_PALE, _DARK = np.array([0.88, 0.42, 0.20]), np.array([0.64, 0.25, 0.10])
_DISC, _CUP, _EXUDATE = np.array([0.98, 0.72, 0.42]), np.array([1.0, 0.93, 0.75]), np.array([0.95, 0.83, 0.48])
# Transmission of blood and pigment.
_VEIN, _ARTERY = np.array([0.66, 0.40, 0.52]), np.array([0.84, 0.56, 0.62])
_BLOOD, _FOVEA = np.array([0.66, 0.42, 0.50]), np.array([0.80, 0.64, 0.60])
_CHOROID = np.array([0.88, 0.80, 0.86])

_STEP = 0.012
_MURRAY = 2.7
"""The sum of width ** _MURRAY is kept at a branching (Murray 1926: 3 for laminar flow; retinas measure a little less)."""
_OVERSAMPLING = 4
_FAINTEST = 0.55
"""Contrast of the faintest branch, relative to the trunk's."""

_Point = tuple[float, float]


def generate(out: Path, num: int = 24, size: int = 384, seed: int = 0) -> None:
    """Writes `out/images/p01_L.png`, `p01_R.png`, ... and 0/255 vessel masks of the same names in `out/masks`.

    Two eyes make a patient and share a complexion, so group by `^(p[0-9]+)`. Picture i depends on `seed`, `size` and i
    alone. A folder that holds this very set is left as it is.

    Args:
        num: pictures.
        size: pixels along each side.

    Raises DataError for numbers out of range, and for a folder that holds something else.
    """
    if num < 1 or size < _LEAST_SIZE or seed < 0:
        raise DataError(f"num={num}, size={size}, seed={seed}; expected at least 1, {_LEAST_SIZE} and 0")
    parameters = {"recipe": _RECIPE, "num": num, "size": size, "seed": seed}
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        record = out / "synthetic.json"
        held = read_json(record) if record.is_file() else "something else"
        if held == parameters:
            return
        raise DataError(f"'{out}' holds {held}; expected {parameters} or no such folder; give another one or remove it")
    with replacing(out.resolve(), []) as folder:
        (folder / "images").mkdir()
        (folder / "masks").mkdir()
        for i in range(num):
            patient, eye = i // 2 + 1, "LR"[i % 2]
            complexion = np.random.default_rng((seed, patient)).random()
            image, mask = _fundus(np.random.default_rng((seed, patient, i % 2)), size, eye, complexion)
            name = f"p{patient:02d}_{eye}.png"
            Image.fromarray(image).save(folder / "images" / name, compress_level=1)
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / name)
        write_json(folder / "synthetic.json", parameters, indent=1)


def _fundus(
    rng: np.random.Generator, size: int, eye: str = "L", complexion: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Makes one photograph, (size, size, 3) uint8, and its vessel mask, (size, size) bool.

    eye: "L" has the optic disc on the left, "R" on the right; complexion: 0 (fair) to 1 (dark) fundus.
    """
    anatomy = _Anatomy(rng, size)
    veins = _Tree(rng, anatomy, 1.0).draw(size)
    arteries = _Tree(rng, anatomy, 0.76).draw(size)
    retina = _Retina(rng, size, anatomy)
    retina.paint_background(complexion)
    retina.paint_macula_and_disc()
    retina.paint_lesions()
    retina.paint_vessels(*veins, _VEIN, reflex=0.05)
    retina.paint_vessels(*arteries, _ARTERY, reflex=0.16)
    inside = retina.soft_disc((0, 0), anatomy.field_radius, 3 / size)
    image = retina.photograph(inside)
    mask = (np.maximum(veins[0], arteries[0]) > 0.45) & (inside > 0.5)
    return (image, mask) if eye == "L" else (image[:, ::-1].copy(), mask[:, ::-1].copy())


class _Anatomy:
    """The optic disc, from which vessels grow, the fovea, which they avoid, and their limits."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.disc = float(rng.uniform(-0.56, -0.42)), float(rng.uniform(-0.1, 0.06))
        # The fovea lies two and a half disc diameters away, a little lower than the disc.
        self.fovea = self.disc[0] + float(rng.uniform(0.66, 0.76)), self.disc[1] + float(rng.uniform(0.02, 0.1))
        self.field_radius = float(rng.uniform(0.93, 0.97))
        pixel = 2 / size
        self.trunk_width, self.least_width = max(size / 80, 3.5) * pixel, 1.2 * pixel


@dataclass(frozen=True, kw_only=True)
class _Course:
    """A branch before it is grown: it leaves `start` at `heading` and turns towards `final` over the length `bend`."""

    start: _Point
    heading: float
    final: float
    bend: float
    width: float
    generation: int = 0


class _Tree:
    """Four arcades and the small vessels of the macula.

    The branches of a tree do not cross each other, but may cross those of the other tree.
    """

    def __init__(self, rng: np.random.Generator, anatomy: _Anatomy, thickness: float) -> None:
        """thickness: scales the trunk's width."""
        self.rng, self.anatomy = rng, anatomy
        self.branches: list[tuple[list[_Point], list[float], float]] = []  # points, the width at each, and contrast
        self.taken: dict[tuple[int, int], int] = {}  # cell of the plane -> number of the branch that holds it
        queue = self._trunks(thickness)
        while queue:
            queue += self._grow(queue.pop(0))

    def draw(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the share of each pixel that is vessel, and the same weighted by contrast: (size, size), 0..1."""
        side = size * _OVERSAMPLING
        cover, weighted = Image.new("L", (side, side)), Image.new("L", (side, side))
        brushes = ImageDraw.Draw(cover), ImageDraw.Draw(weighted)
        # thick ones last: they lie over the branches that leave them
        for points, widths, contrast in sorted(self.branches, key=lambda branch: branch[1][0]):
            pixels = [((x + 1) * side / 2, (y + 1) * side / 2) for x, y in points]
            for start, (x, y), width in zip(pixels, pixels[1:], widths, strict=False):
                radius = width * side / 4
                for brush, ink in zip(brushes, (255, round(255 * contrast)), strict=True):
                    brush.line((*start, x, y), fill=ink, width=max(round(2 * radius), 1))
                    brush.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
        shrunk = (np.asarray(layer.reduce(_OVERSAMPLING), np.float32) / 255 for layer in (cover, weighted))
        return next(shrunk), next(shrunk)

    def _trunks(self, thickness: float) -> list[_Course]:
        courses, rng, (x, y) = [], self.rng, self.anatomy.disc
        # Degrees from the temporal direction at the disc's rim (None: random) and far out; how soon the vessel turns; width.
        for start, final, bend, width in ((76, -14, 0.56, 1.0), (118, 150, 0.40, 0.72), (None, 2, 0.5, 0.42)):
            for side in (-1, 1):
                heading = (side * (start or rng.uniform(15, 40)) + rng.normal(0, 9)) * pi / 180
                course = _Course(
                    start=(x + 0.02 * cos(heading), y + 0.035 * sin(heading)),
                    heading=heading,
                    final=(side * final + rng.normal(0, 8)) * pi / 180,
                    bend=bend * rng.uniform(0.88, 1.14),
                    width=self.anatomy.trunk_width * (width * thickness) * rng.uniform(0.9, 1.1),
                )
                courses.append(course)
        return courses

    def _grow(self, course: _Course) -> list[_Course]:
        """Grows one branch until it is too thin or meets something; returns the branches that leave it."""
        rng, index, generation = self.rng, len(self.branches) + 1, course.generation
        points, widths, children = [course.start], [course.width], []
        width, drift, wander, length, since = course.width, 0.0, 0.0, 0.0, 0.0
        spacing = self._spacing(width)
        while width > self.anatomy.least_width:
            length, since = length + _STEP, since + _STEP
            drift = 0.9 * drift + rng.normal(0, 0.02)
            wander = 0.94 * wander + drift
            heading = course.final + (course.heading - course.final) * exp(-length / course.bend) + wander
            point = points[-1][0] + _STEP * cos(heading), points[-1][1] + _STEP * sin(heading)
            cell = round(point[0] / 0.025), round(point[1] / 0.025)
            away = hypot(*point) > self.anatomy.field_radius or dist(point, self.anatomy.fovea) < 0.1
            if length > 0.06 and (away or self.taken.get(cell, index) != index):
                break
            self.taken.setdefault(cell, index)
            width *= exp(-_STEP * (0.1 + 0.2 * generation))
            points.append(point)
            widths.append(width)
            if since > spacing and generation < 5 and length > 0.12:
                child, width = self._fork(point, heading, width, generation)
                children.append(child)
                since, spacing = 0.0, self._spacing(width)
        self.branches.append((points, widths, rng.uniform(_FAINTEST, 1) if generation else 1.0))
        return children

    def _fork(self, point: _Point, heading: float, width: float, generation: int) -> tuple[_Course, float]:
        """Returns a side branch, and the width that is left to the branch it leaves."""
        angle = self.rng.choice((-1, 1)) * self.rng.uniform(0.45, 1.05)
        thin = width * self.rng.uniform(0.45, 0.8)
        final = heading + 0.3 * angle + self.rng.normal(0, 0.3)
        child = _Course(
            start=point, heading=heading + angle, final=final, bend=0.2, width=thin, generation=generation + 1
        )
        return child, (width**_MURRAY - thin**_MURRAY) ** (1 / _MURRAY)

    def _spacing(self, width: float) -> float:
        return self.rng.uniform(0.05, 0.17) * (0.5 + width / self.anatomy.trunk_width)


class _Retina:
    """A retina that is being painted. `scene`: the light that it reflects, (size, size, 3)."""

    def __init__(self, rng: np.random.Generator, size: int, anatomy: _Anatomy) -> None:
        self.rng, self.size, self.anatomy = rng, size, anatomy
        axis = (np.arange(size) + 0.5) * 2 / size - 1
        self.x, self.y = np.meshgrid(axis, axis)
        self.scene = np.zeros((size, size, 3))

    def paint_background(self, complexion: float) -> None:
        """Paints pigment in patches, grain, and the choroid's vessels as faint streaks."""
        patches = 1 + 0.07 * self._noise(5) + 0.035 * self._noise(24)
        grain = 1 + 0.02 * self._noise(self.size // 3) + 0.015 * self.rng.standard_normal((self.size, self.size))
        # The zero lines of a smooth random field are long and curved, as choroidal vessels are.
        streaks = np.exp(-((self._noise(9) / 0.22) ** 2)) * np.clip(0.5 + 0.6 * self._noise(4), 0, 1)
        self.scene = (_PALE + (_DARK - _PALE) * complexion) * (patches * grain)[..., None]
        self._stain(_CHOROID, streaks * self.rng.uniform(0.4, 1))

    def paint_macula_and_disc(self) -> None:
        rng, disc = self.rng, self.anatomy.disc
        distance = self._distance(self.anatomy.fovea)
        self._stain(_FOVEA, 0.55 * np.exp(-((distance / 0.22) ** 2)) + 0.45 * np.exp(-((distance / 0.07) ** 2)))
        radius, upright = rng.uniform(0.125, 0.155), rng.uniform(1.02, 1.15)
        rim = self.soft_disc(disc, radius, 0.035, upright)
        cup = self.soft_disc((disc[0] + 0.02, disc[1]), radius * rng.uniform(0.35, 0.55), 0.03, upright)
        self.scene = self.scene * (1 + 0.12 * np.exp(-((self._distance(disc) / 0.3) ** 2))[..., None])
        rim_colour = _DISC * rng.uniform(0.84, 0.95)
        self._cover(rim_colour * (1 + 0.04 * self._noise(30))[..., None], 0.9 * rim)
        self._cover(_CUP, 0.6 * cup)

    def paint_lesions(self) -> None:
        """Paints haemorrhages, round and flame-shaped, and exudates; half of the eyes have hardly any."""
        rng, burden = self.rng, self.rng.choice([0.2, 1.0])
        blood, fat = np.zeros_like(self.x), np.zeros_like(self.x)
        rough = 0.45 * self._noise(self.size // 8)
        for _ in range(rng.poisson(9 * burden)):
            blood = np.maximum(blood, self._blob(rough, self._somewhere(), 0.008, 0.035))
        for centre in [self._somewhere() for _ in range(rng.poisson(2.5 * burden))]:
            for _ in range(rng.integers(4, 12)):
                near = centre[0] + rng.normal(0, 0.06), centre[1] + rng.normal(0, 0.06)
                fat = np.maximum(fat, self._blob(rough, near, 0.006, 0.014))
        self._stain(_BLOOD, blood * rng.uniform(0.7, 1))
        self._cover(_EXUDATE, fat * rng.uniform(0.55, 0.9))

    def paint_vessels(self, cover: np.ndarray, weighted: np.ndarray, colour: np.ndarray, reflex: float) -> None:
        """Paints a tree as `_Tree.draw` returns it; the middle of a thick vessel reflects light straight back."""
        middle = gaussian_filter(cover, self.size / 300) ** 8
        self._stain(colour, gaussian_filter(weighted, 0.35))
        self.scene = self.scene * (1 + reflex * middle[..., None])

    def photograph(self, inside: np.ndarray) -> np.ndarray:
        """Applies uneven lighting, blur, exposure, and noise that grows with the light; returns (H, W, 3) uint8."""
        rng, (beam_x, beam_y) = self.rng, self.rng.normal(0, 0.18, 2)
        fall_off = rng.uniform(0.28, 0.48)
        light = (1.06 - fall_off * self._distance((beam_x, beam_y)) ** 2) * (1 + 0.06 * self._noise(3))
        lit = self.scene * light[..., None] * inside[..., None]
        blurred = gaussian_filter(lit, (*[rng.uniform(0.4, 0.75)] * 2, 0))
        exposed = 0.015 + blurred * rng.uniform(0.86, 1.05)
        noise = rng.standard_normal(lit.shape) * (0.006 + 0.016 * np.sqrt(np.clip(exposed, 0, 1)))
        return (np.clip(exposed + noise, 0, 1) * 255).round().astype(np.uint8)

    def soft_disc(self, centre: _Point, radius: float, edge: float, upright: float = 1.0) -> np.ndarray:
        """Returns a disc, (H, W) in 0..1, whose edge is blurred; `upright` is its height over its width."""
        distance = np.hypot(self.x - centre[0], (self.y - centre[1]) / upright)
        return np.clip((radius - distance) / edge + 0.5, 0, 1)

    def _distance(self, centre: _Point) -> np.ndarray:
        return np.hypot(self.x - centre[0], self.y - centre[1])

    def _noise(self, knots: int) -> np.ndarray:
        """Returns a smooth random field of unit deviation, (size, size), with about `knots` hills along a side."""
        grid = Image.fromarray(self.rng.standard_normal((knots + 2, knots + 2)).astype(np.float32))
        box = (0.5, 0.5, knots + 1.5, knots + 1.5)
        field = np.asarray(grid.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box))
        return field / field.std()

    def _blob(self, rough: np.ndarray, centre: _Point, least: float, most: float) -> np.ndarray:
        """Returns a ragged spot, (H, W) in 0..1, up to three times as long as wide."""
        rng = self.rng
        radius, stretch, turn = rng.uniform(least, most), rng.choice([1.0, 1.3, 3.0]), rng.uniform(0, np.pi)
        dx, dy = self.x - centre[0], self.y - centre[1]
        along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        return np.clip((1 - np.hypot(along / stretch, across) / radius + rough) * radius * self.size / 4, 0, 1)

    def _somewhere(self) -> _Point:
        distance, angle = 0.85 * np.sqrt(self.rng.random()), self.rng.uniform(0, 2 * np.pi)
        return float(distance * np.cos(angle)), float(distance * np.sin(angle))

    def _stain(self, transmission: np.ndarray, amount: np.ndarray) -> None:
        """Multiplies by a pigment's transmission; `amount`, (H, W), is 1 for a full layer of it."""
        self.scene = self.scene * transmission ** amount[..., None]

    def _cover(self, colour: np.ndarray, amount: np.ndarray) -> None:
        self.scene = self.scene + (colour - self.scene) * amount[..., None]
