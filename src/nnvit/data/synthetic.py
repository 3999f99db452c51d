"""Makes seeded fundus photographs with vessel masks, for a first run without any data.

Colour alone does not identify the vessels: haemorrhages are as dark, and choroidal streaks are as long. Networks trained
on these photographs are of no use on patients.
"""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from nnvit.errors import DataError
from nnvit.records.json_files import read_json, write_json

from .raw_folder import replacing
from .synthetic_vessels import Anatomy, vessel_tree

_RECIPE = 1
"""Raised whenever the same seed gives other pictures."""
_EYES = "LR"
_LEAST_SIZE = 64

# Reflectance in red, green and blue.
_PALE, _DARK = np.array([0.88, 0.42, 0.20]), np.array([0.64, 0.25, 0.10])
_DISC, _EXUDATE = np.array([0.98, 0.72, 0.42]), np.array([0.95, 0.83, 0.48])
# Transmission of blood and pigment.
_VEIN, _ARTERY = np.array([0.66, 0.40, 0.52]), np.array([0.84, 0.56, 0.62])
_BLOOD, _FOVEA = np.array([0.66, 0.42, 0.50]), np.array([0.80, 0.64, 0.60])
_CHOROID = np.array([0.88, 0.80, 0.86])

_Tree = tuple[np.ndarray, np.ndarray]
"""A tree as `vessel_tree` draws it."""


def generate(out: Path, num: int = 24, size: int = 384, seed: int = 0) -> None:
    """Writes `out/images/p01_L.png`, `p01_R.png`, ... and 0/255 vessel masks of the same names in `out/masks`.

    Two eyes make a patient and share a complexion, so group by `^(p[0-9]+)`. Picture i depends on `seed`, `size` and i
    alone. A folder that holds this very set is left as it is.

    Args:
        num: pictures.
        size: pixels along each side.

    Raises:
        DataError: numbers out of range, or a folder that holds something else.
    """
    if num < 1 or size < _LEAST_SIZE or seed < 0:
        raise DataError(f"num={num}, size={size}, seed={seed}; expected at least 1, {_LEAST_SIZE} and 0")
    parameters = {"recipe": _RECIPE, "num": num, "size": size, "seed": seed}
    if _holds(out, parameters):
        return
    with replacing(out.resolve(), []) as folder:
        (folder / "images").mkdir()
        (folder / "masks").mkdir()
        for i in range(num):
            patient, eye = i // 2 + 1, _EYES[i % 2]
            complexion = np.random.default_rng((seed, patient)).random()
            image, mask = fundus(np.random.default_rng((seed, patient, i % 2)), size, eye, complexion)
            name = f"p{patient:02d}_{eye}.png"
            Image.fromarray(image).save(folder / "images" / name, compress_level=1)
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / name)
        write_json(folder / "synthetic.json", parameters, indent=1)


def fundus(
    rng: np.random.Generator, size: int, eye: str = "L", complexion: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Makes one photograph of `size` pixels a side, centred between disc and macula.

    Args:
        eye: "L" has the optic disc on the left, "R" on the right.
        complexion: 0 (fair) to 1 (dark) fundus.

    Returns:
        image, (size, size, 3) uint8, and vessel mask, (size, size) bool.
    """
    anatomy = _anatomy(rng, size)
    axis = (np.arange(size) + 0.5) * 2 / size - 1
    x, y = np.meshgrid(axis, axis)
    inside = _soft_disc(x, y, (0, 0), anatomy.field_radius, 3 / size)
    veins = vessel_tree(rng, anatomy, 1.0, size)
    arteries = vessel_tree(rng, anatomy, 0.76, size)

    scene = _background(rng, size, complexion)
    scene = _paint_macula_and_disc(rng, scene, x, y, anatomy)
    scene = _paint_lesions(rng, scene, x, y, anatomy)
    scene, cover = _paint_vessels(scene, veins, arteries, size)
    image = _photograph(rng, scene * _light(rng, x, y)[..., None] * inside[..., None])
    mask = (cover > 0.45) & (inside > 0.5)
    return (image, mask) if eye == "L" else (image[:, ::-1].copy(), mask[:, ::-1].copy())


def _anatomy(rng: np.random.Generator, size: int) -> Anatomy:
    disc = float(rng.uniform(-0.56, -0.42)), float(rng.uniform(-0.1, 0.06))
    # The fovea lies two and a half disc diameters away, a little lower than the disc.
    fovea = disc[0] + float(rng.uniform(0.66, 0.76)), disc[1] + float(rng.uniform(0.02, 0.1))
    pixel = 2 / size
    return Anatomy(
        disc=disc,
        fovea=fovea,
        field_radius=float(rng.uniform(0.93, 0.97)),
        trunk_width=max(size / 80, 3.5) * pixel,
        least_width=1.2 * pixel,
    )


def _background(rng: np.random.Generator, size: int, complexion: float) -> np.ndarray:
    """Returns (size, size, 3): pigment in patches, grain, and the choroid's vessels as faint streaks."""
    colour = _PALE + (_DARK - _PALE) * complexion
    patches = 1 + 0.07 * _noise(rng, size, 5) + 0.035 * _noise(rng, size, 24)
    grain = 1 + 0.02 * _noise(rng, size, size // 3) + 0.015 * rng.standard_normal((size, size))
    # The zero lines of a smooth random field are long and curved, as choroidal vessels are.
    streaks = np.exp(-((_noise(rng, size, 9) / 0.22) ** 2)) * np.clip(0.5 + 0.6 * _noise(rng, size, 4), 0, 1)
    return _stain(colour * (patches * grain)[..., None], _CHOROID, streaks * rng.uniform(0.4, 1))


def _paint_macula_and_disc(
    rng: np.random.Generator, scene: np.ndarray, x: np.ndarray, y: np.ndarray, anatomy: Anatomy
) -> np.ndarray:
    distance = np.hypot(x - anatomy.fovea[0], y - anatomy.fovea[1])
    macula = 0.55 * np.exp(-((distance / 0.22) ** 2)) + 0.45 * np.exp(-((distance / 0.07) ** 2))
    scene = _stain(scene, _FOVEA, macula)
    radius = rng.uniform(0.125, 0.155)
    upright = rng.uniform(1.02, 1.15)
    tall = (y - anatomy.disc[1]) / upright + anatomy.disc[1]
    rim = _soft_disc(x, tall, anatomy.disc, radius, 0.035)
    cup = _soft_disc(x, tall, (anatomy.disc[0] + 0.02, anatomy.disc[1]), radius * rng.uniform(0.35, 0.55), 0.03)
    glow = np.exp(-((np.hypot(x - anatomy.disc[0], y - anatomy.disc[1]) / 0.3) ** 2))
    scene = scene * (1 + 0.12 * glow[..., None])
    rim_colour = _DISC * rng.uniform(0.84, 0.95)
    scene = _cover(scene, rim_colour * (1 + 0.04 * _noise(rng, len(x), 30))[..., None], 0.9 * rim)
    return _cover(scene, np.array([1.0, 0.93, 0.75]), 0.6 * cup)


def _paint_lesions(
    rng: np.random.Generator, scene: np.ndarray, x: np.ndarray, y: np.ndarray, anatomy: Anatomy
) -> np.ndarray:
    """Paints haemorrhages, round and flame-shaped, and exudates; half of the eyes have hardly any."""
    burden = rng.choice([0.2, 1.0])
    blood, fat = np.zeros_like(x), np.zeros_like(x)
    rough = 0.45 * _noise(rng, len(x), len(x) // 8)
    for _ in range(rng.poisson(9 * burden)):
        blood = np.maximum(blood, _blob(rng, x, y, rough, _somewhere(rng), 0.008, 0.035))
    for centre in [_somewhere(rng) for _ in range(rng.poisson(2.5 * burden))]:
        for _ in range(rng.integers(4, 12)):
            near = centre[0] + rng.normal(0, 0.06), centre[1] + rng.normal(0, 0.06)
            fat = np.maximum(fat, _blob(rng, x, y, rough, near, 0.006, 0.014))
    scene = _stain(scene, _BLOOD, blood * rng.uniform(0.7, 1))
    return _cover(scene, _EXUDATE, fat * rng.uniform(0.55, 0.9))


def _paint_vessels(scene: np.ndarray, veins: _Tree, arteries: _Tree, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scene with both trees, and the share of each pixel that is vessel."""
    for (cover, weighted), colour, reflex in ((veins, _VEIN, 0.05), (arteries, _ARTERY, 0.16)):
        # the middle of a thick vessel reflects light straight back
        middle = gaussian_filter(cover, size / 300) ** 8
        scene = _stain(scene, colour, gaussian_filter(weighted, 0.35)) * (1 + reflex * middle[..., None])
    return scene, np.maximum(veins[0], arteries[0])


def _light(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns uneven lighting, (H, W): a beam off centre that falls off to the rim."""
    beam_x, beam_y = rng.normal(0, 0.18, 2)
    fall_off = rng.uniform(0.28, 0.48)
    return (1.06 - fall_off * np.hypot(x - beam_x, y - beam_y) ** 2) * (1 + 0.06 * _noise(rng, len(x), 3))


def _photograph(rng: np.random.Generator, scene: np.ndarray) -> np.ndarray:
    """Applies optics and sensor: blur, exposure, noise that grows with the light; (H, W, 3) uint8."""
    blurred = gaussian_filter(scene, (*[rng.uniform(0.4, 0.75)] * 2, 0))
    exposed = 0.015 + blurred * rng.uniform(0.86, 1.05)
    noise = rng.standard_normal(scene.shape) * (0.006 + 0.016 * np.sqrt(np.clip(exposed, 0, 1)))
    return (np.clip(exposed + noise, 0, 1) * 255).round().astype(np.uint8)


def _noise(rng: np.random.Generator, size: int, knots: int) -> np.ndarray:
    """Returns a smooth random field of unit deviation, (size, size), with about `knots` hills along a side."""
    grid = Image.fromarray(rng.standard_normal((knots + 2, knots + 2)).astype(np.float32))
    field = np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC, box=(0.5, 0.5, knots + 1.5, knots + 1.5)))
    return field / field.std()


def _soft_disc(x: np.ndarray, y: np.ndarray, centre: tuple[float, float], radius: float, edge: float) -> np.ndarray:
    return np.clip((radius - np.hypot(x - centre[0], y - centre[1])) / edge + 0.5, 0, 1)


def _blob(
    rng: np.random.Generator,
    x: np.ndarray,
    y: np.ndarray,
    rough: np.ndarray,
    centre: tuple[float, float],
    least: float,
    most: float,
) -> np.ndarray:
    """Returns a ragged spot, (H, W) in 0..1, up to three times as long as wide."""
    radius, stretch, turn = rng.uniform(least, most), rng.choice([1.0, 1.3, 3.0]), rng.uniform(0, np.pi)
    dx, dy = x - centre[0], y - centre[1]
    along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    return np.clip((1 - np.hypot(along / stretch, across) / radius + rough) * radius * len(x) / 4, 0, 1)


def _somewhere(rng: np.random.Generator) -> tuple[float, float]:
    distance, angle = 0.85 * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
    return float(distance * np.cos(angle)), float(distance * np.sin(angle))


def _stain(scene: np.ndarray, transmission: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """Multiplies by a pigment's transmission; `amount`, (H, W), is 1 for a full layer of it."""
    return scene * transmission ** amount[..., None]


def _cover(scene: np.ndarray, colour: np.ndarray, amount: np.ndarray) -> np.ndarray:
    return scene + (colour - scene) * amount[..., None]


def _holds(out: Path, parameters: dict[str, int]) -> bool:
    """Returns True if the folder holds this very set.

    Raises:
        DataError: it holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    record = out / "synthetic.json"
    held = read_json(record) if record.is_file() else "something else"
    if held != parameters:
        raise DataError(f"'{out}' holds {held}; expected {parameters} or no such folder; give another one or remove it")
    return True
