"""Grows and draws the two vessel trees of a synthetic retina.

Lengths are in units of half the picture's side, the origin is its centre, y points down, and the optic disc lies to the
left of the fovea (a left eye).
"""

from dataclasses import dataclass, field
from math import cos, exp, hypot, pi, sin

import numpy as np
from PIL import Image, ImageDraw

_Point = tuple[float, float]

_STEP = 0.012
_MURRAY = 2.7
"""The sum of width ** _MURRAY is kept at a branching (Murray 1926: 3 for laminar flow; retinas measure a little less)."""
_OVERSAMPLING = 4
_FAINTEST = 0.55
"""Contrast of the faintest branch, relative to the trunk's."""


@dataclass(frozen=True, kw_only=True)
class _Course:
    """A branch before it is grown: it leaves `start` at `heading` and turns towards `final` over the length `bend`."""

    start: _Point
    heading: float
    final: float
    bend: float
    width: float
    generation: int = 0


@dataclass(frozen=True, kw_only=True)
class _Branch:
    """A grown branch."""

    points: list[_Point]
    widths: list[float]
    contrast: float


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """The optic disc, from which vessels grow, the fovea, which they avoid, and their limits."""

    disc: _Point
    fovea: _Point
    field_radius: float
    trunk_width: float
    least_width: float


@dataclass
class _Tree:
    """A tree that is growing. Its branches do not cross each other, but may cross those of the other tree."""

    anatomy: Anatomy
    branches: list[_Branch] = field(default_factory=list)
    taken: dict[tuple[int, int], int] = field(default_factory=dict)

    def blocked(self, point: _Point, branch: int) -> bool:
        x, y = point
        if hypot(x, y) > self.anatomy.field_radius or hypot(x - self.anatomy.fovea[0], y - self.anatomy.fovea[1]) < 0.1:
            return True
        return self.taken.get(_cell(point), branch) != branch


def vessel_tree(
    rng: np.random.Generator, anatomy: Anatomy, thickness: float, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Grows and draws a tree of four arcades and the small vessels of the macula.

    Args:
        thickness: scales the trunk's width.
        size: pixels along each side of the picture.

    Returns:
        the share of each pixel that is vessel, and the same weighted by contrast: (size, size) floats in 0..1.
    """
    tree = _Tree(anatomy)
    queue = _trunks(rng, anatomy, thickness)
    while queue:
        queue += _grow(rng, tree, queue.pop(0), len(tree.branches) + 1)
    return _drawn(tree.branches, size)


def _drawn(branches: list[_Branch], size: int) -> tuple[np.ndarray, np.ndarray]:
    side = size * _OVERSAMPLING
    cover, weighted = Image.new("L", (side, side)), Image.new("L", (side, side))
    brushes = ImageDraw.Draw(cover), ImageDraw.Draw(weighted)
    # thick ones last: they lie over the branches that leave them
    for branch in sorted(branches, key=lambda b: b.widths[0]):
        for brush, ink in zip(brushes, (255, round(255 * branch.contrast)), strict=True):
            _draw(brush, branch, side / 2, ink)
    shrunk = (np.asarray(layer.reduce(_OVERSAMPLING), np.float32) / 255 for layer in (cover, weighted))
    return next(shrunk), next(shrunk)


def _trunks(rng: np.random.Generator, anatomy: Anatomy, thickness: float) -> list[_Course]:
    courses = []
    # Degrees from the temporal direction: at the disc's rim, far out, and how soon the vessel turns.
    arcades = [(76, -14, 0.56, 1.0), (118, 150, 0.40, 0.72)]
    for start, final, bend, width in arcades:
        for side in (-1, 1):
            courses.append(_trunk(rng, anatomy, side * start, side * final, bend, width * thickness))
    for side in (-1, 1):
        courses.append(_trunk(rng, anatomy, side * rng.uniform(15, 40), side * 2.0, 0.5, 0.42 * thickness))
    return courses


def _trunk(
    rng: np.random.Generator, anatomy: Anatomy, start: float, final: float, bend: float, width: float
) -> _Course:
    heading = (start + rng.normal(0, 9)) * pi / 180
    x, y = anatomy.disc
    return _Course(
        start=(x + 0.02 * cos(heading), y + 0.035 * sin(heading)),
        heading=heading,
        final=(final + rng.normal(0, 8)) * pi / 180,
        bend=bend * rng.uniform(0.88, 1.14),
        width=anatomy.trunk_width * width * rng.uniform(0.9, 1.1),
    )


def _grow(rng: np.random.Generator, tree: _Tree, course: _Course, index: int) -> list[_Course]:
    """Grows one branch until it is too thin or meets something; returns the branches that leave it."""
    points, widths, children = [course.start], [course.width], []
    width, drift, wander, length, since = course.width, 0.0, 0.0, 0.0, 0.0
    spacing = _spacing(rng, width, tree.anatomy)
    while width > tree.anatomy.least_width:
        length, since = length + _STEP, since + _STEP
        drift = 0.9 * drift + rng.normal(0, 0.02)
        wander = 0.94 * wander + drift
        heading = course.final + (course.heading - course.final) * exp(-length / course.bend) + wander
        point = points[-1][0] + _STEP * cos(heading), points[-1][1] + _STEP * sin(heading)
        if length > 0.06 and tree.blocked(point, index):
            break
        tree.taken.setdefault(_cell(point), index)
        width *= exp(-_STEP * (0.1 + 0.2 * course.generation))
        points.append(point)
        widths.append(width)
        if since > spacing and course.generation < 5 and length > 0.12:
            child, width = _fork(rng, point, heading, width, course.generation)
            children.append(child)
            since, spacing = 0.0, _spacing(rng, width, tree.anatomy)
    contrast = rng.uniform(_FAINTEST, 1) if course.generation else 1.0
    tree.branches.append(_Branch(points=points, widths=widths, contrast=contrast))
    return children


def _fork(
    rng: np.random.Generator, point: _Point, heading: float, width: float, generation: int
) -> tuple[_Course, float]:
    """Returns a side branch, and the width that is left to the branch it leaves."""
    angle = rng.choice((-1, 1)) * rng.uniform(0.45, 1.05)
    thin = width * rng.uniform(0.45, 0.8)
    child = _Course(
        start=point,
        heading=heading + angle,
        final=heading + 0.3 * angle + rng.normal(0, 0.3),
        bend=0.2,
        width=thin,
        generation=generation + 1,
    )
    return child, (width**_MURRAY - thin**_MURRAY) ** (1 / _MURRAY)


def _spacing(rng: np.random.Generator, width: float, anatomy: Anatomy) -> float:
    return rng.uniform(0.05, 0.17) * (0.5 + width / anatomy.trunk_width)


def _cell(point: _Point) -> tuple[int, int]:
    return round(point[0] / 0.025), round(point[1] / 0.025)


def _draw(brush: ImageDraw.ImageDraw, branch: _Branch, scale: float, ink: int) -> None:
    pixels = [((x + 1) * scale, (y + 1) * scale) for x, y in branch.points]
    for (x0, y0), (x1, y1), width in zip(pixels, pixels[1:], branch.widths, strict=False):
        radius = width * scale / 2
        brush.line((x0, y0, x1, y1), fill=ink, width=max(round(2 * radius), 1))
        brush.ellipse((x1 - radius, y1 - radius, x1 + radius, y1 + radius), fill=ink)
