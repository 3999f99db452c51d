"""The best, the worst and the most disputed cases as small pictures, for the page's slider.

Every case is a stack of layers of one size, so that the page can show any two arms against each other without storing a
picture twice: the image (JPEG), the outline of the reference, and for each arm its outline and its errors (PNG with a
palette, transparent elsewhere). False positives are gold, false negatives blue, one label taken for another magenta, which
the common colour-vision deficiencies can tell apart.

Shapes: H, W are the displayed slice's voxels; h, w the picture's pixels.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from nnvit.compare.inputs.mask_files import ENDINGS, NATURAL, read_mask
from nnvit.errors import CompareError

from .wording import number

SIDES = (640, 480, 360, 240)
"""Longest side of a picture, in pixels: the first at which all of them together stay within `BUDGET`."""
BUDGET = 3_500_000
"""Bytes of all pictures of a report."""
COLOURS = {"fp": "#ffb000", "fn": "#648fff", "confused": "#dc267f", "prediction": "#35e0b0", "reference": "#ffffff"}
"""Colours of errors (false positive, false negative, one label taken for another) and of outlines."""
EDGE, INSIDE = 3, 110
"""Pixels along an error's edge that are opaque, and the opacity (of 255) inside."""
PHOTOGRAPHS = {".jpg", ".jpeg", ".ppm", *NATURAL}


@dataclass(frozen=True, kw_only=True)
class _Overlay:
    """One case, ready for the page.

    reasons: why it is shown (best, worst, most disputed). image, reference: data URIs of the picture's background and of the
    reference's outline. arms: arm -> "errors" and "outline", data URIs as well. scores: arm -> Dice, mean over labels and runs.
    notes: on the crop, the slice and the image.
    """

    dataset: str
    case: str
    reasons: tuple[str, ...]
    width: int
    height: int
    image: str
    reference: str
    arms: dict[str, dict[str, str]]
    scores: dict[str, float]
    notes: tuple[str, ...]

    def on_page(self, baseline: str | None) -> dict[str, Any]:
        """The fields, the scores as text, and the arms that the slider opens with.

        These are the baseline, or the worst arm of the case, and its best.
        """
        order = sorted(self.scores, key=lambda arm: self.scores[arm])
        left = baseline if baseline in self.scores else order[0]
        right = next((arm for arm in reversed(order) if arm != left), left)
        names = list(self.arms)
        return vars(self) | {
            "dice": {arm: number(dice, 3) for arm, dice in self.scores.items()},
            "first": names.index(left),
            "second": names.index(right),
        }

    def size(self) -> int:
        """The bytes of all layers."""
        arms = sum(len(uri) for layers in self.arms.values() for uri in layers.values())
        return len(self.image) + len(self.reference) + arms


@dataclass(frozen=True, kw_only=True)
class _ShownSlice:
    """The slice of a case that is shown: image (H, W, channels), masks (1 + arms, H, W) with the reference first."""

    image: np.ndarray | None
    masks: np.ndarray
    spacing: tuple[float, ...]
    notes: tuple[str, ...]


def _choose(
    cases: pd.DataFrame, *, extremes: int = 2, disputed: int = 3
) -> dict[tuple[str, str], tuple[list[str], dict[str, float]]]:
    """(data set, case) -> why it is shown, and its Dice per arm; best first, then worst, then most disputed.

    A case's score is the mean over labels and runs, on non-empty references; the most disputed case has the largest spread
    between arms.
    """
    scored = cases.dropna(subset=["dice"])
    table = scored.groupby(["dataset", "case", "arm"], sort=False)["dice"].mean().unstack("arm")
    mean, spread = table.mean(axis=1), table.max(axis=1) - table.min(axis=1)
    orders = [("best", mean, extremes, False), ("worst", mean, extremes, True)]
    if table.shape[1] > 1:
        orders.append(("most disputed", spread, disputed, False))
    chosen: dict[tuple[str, str], tuple[list[str], dict[str, float]]] = {}
    for reason, score, count, ascending in orders:
        for key in score.sort_values(ascending=ascending, kind="stable").index[:count]:
            scores = {str(arm): float(dice) for arm, dice in table.loc[key].items()}
            chosen.setdefault(key, ([], scores))[0].append(reason)
    return chosen


def overlays(
    cases: pd.DataFrame,
    references: Mapping[str, Path],
    predictions: Mapping[str, Mapping[str, Path]],
    images: Path | None = None,
    ignore_label: int | None = None,
) -> list[_Overlay]:
    """Draws the chosen cases; those without masks are left out.

    references: case -> mask; predictions: arm -> case -> mask; cases are named `DATASET/CASE` where there are several data
    sets. images: a folder of photographs `case.*`, or nnU-Net's `case_0000.*`; without it, or without the case in it, the
    reference itself is the background of the picture.

    Raises CompareError for an image that can't be read.
    """
    several = cases["dataset"].nunique() > 1
    chosen, views = {}, {}
    for key, why in _choose(cases).items():
        name = "/".join(key) if several else key[1]
        masks = [predictions[arm][name] for arm in why[1] if name in predictions.get(arm, {})]
        if name in references and len(masks) == len(why[1]):
            chosen[key] = why
            views[key] = _view(key[1], references[name], masks, images, ignore_label)
    drawn: list[_Overlay] = []
    for side in SIDES:
        drawn = [_draw(key, *chosen[key], view, side) for key, view in views.items()]
        if sum(overlay.size() for overlay in drawn) <= BUDGET:
            break
    return drawn


def _view(
    case: str, reference: Path, predictions: Sequence[Path], images: Path | None, ignore: int | None
) -> _ShownSlice:
    """Reads a case, takes the slice with most disagreement and crops it to what is marked and its surroundings."""
    truth = read_mask(reference)
    masks, spacing = np.stack([truth.labels, *(read_mask(path).labels for path in predictions)]), truth.spacing
    if ignore is not None:
        masks[:, truth.labels == ignore] = 0
    picture, notes = _image(case, images, truth.labels.shape)
    if truth.labels.ndim == 3:
        axis = int(np.argmax(spacing))
        index, count = _slice(masks, axis), truth.labels.shape[axis]
        if count > 1:
            notes.append(f"slice {index + 1} of {count}, the one with most disagreement")
        masks = masks.take(index, axis + 1)
        picture = None if picture is None else picture.take(index, axis)
        spacing = tuple(size for i, size in enumerate(spacing) if i != axis)
    rows, columns = _window((masks != 0).any(axis=0))
    cropped = masks[:, rows, columns]
    if cropped.shape != masks.shape:
        notes.append("cut to the surroundings of what is marked")
    picture = None if picture is None else picture[rows, columns]
    return _ShownSlice(image=picture, masks=cropped, spacing=tuple(spacing), notes=tuple(notes))


def _slice(masks: np.ndarray, axis: int) -> int:
    """The slice where the arms differ most from each other; where they don't, from the reference; else the fullest one."""
    others = tuple(i for i in range(masks.ndim - 1) if i != axis)
    reference, arms = masks[0], masks[1:]
    for marked in ((arms != arms[0]).any(axis=0), (arms != reference).any(axis=0), reference != 0):
        if marked.any():
            return int(marked.sum(others).argmax())
    return reference.shape[axis] // 2


def _window(marked_HW: np.ndarray) -> tuple[slice, slice]:
    """The marked region with a margin of a third; the whole slice where the crop would be more than half of it."""
    whole = (slice(0, marked_HW.shape[0]), slice(0, marked_HW.shape[1]))
    if not marked_HW.any():
        return whole
    (found,) = ndimage.find_objects(marked_HW.astype(np.uint8))
    margin = max(12, max(part.stop - part.start - 1 for part in found) // 3)
    rows, columns = (
        slice(max(0, part.start - margin), min(n, part.stop + margin))
        for part, n in zip(found, marked_HW.shape, strict=True)
    )
    return whole if marked_HW[rows, columns].size > 0.5 * marked_HW.size else (rows, columns)


def _image(case: str, folder: Path | None, shape: tuple[int, ...]) -> tuple[np.ndarray | None, list[str]]:
    """The case's image as uint8, (*shape, 1 or 3), `case_0000.*` before `case.*`; None where no image fits. And notes."""
    if folder is None:
        return None, ["no image given: the grey ground is the reference"]
    kinds = sorted(PHOTOGRAPHS.union(ENDINGS))
    names = [f"{case}{channel}{kind}" for channel in ("_0000", "") for kind in (*kinds, *map(str.upper, kinds))]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        return None, ["no image found for this case"]
    array = _read_image(path)
    if [n for n in array.shape[:-1] if n > 1] != [n for n in shape if n > 1]:
        return None, [f"the image is {array.shape[:-1]}, the mask {shape}: shown without the image"]
    return array.reshape(*shape, array.shape[-1]), []


def _read_image(path: Path) -> np.ndarray:
    """(…, 1 or 3) uint8; other ranges are stretched between their 0.5th and 99.5th percentiles."""
    try:
        if path.suffix.lower() in PHOTOGRAPHS:
            with Image.open(path) as image:
                wide = image.mode in ("I", "F", "1") or image.mode.startswith("I;16")
                array = np.asarray(image if wide else image.convert("L" if image.mode in ("L", "LA") else "RGB"))
            array = array if array.ndim == 3 else array[..., None]
        else:
            import SimpleITK

            itk = SimpleITK.ReadImage(str(path))
            array = SimpleITK.GetArrayFromImage(itk)
            if itk.GetNumberOfComponentsPerPixel() != 3:
                array = array.reshape(*itk.GetSize()[::-1], -1)[..., :1]
    except (OSError, RuntimeError, ValueError) as error:
        raise CompareError(
            f"{path} can't be read as an image ({error}); repair the file, or leave out --images."
        ) from error
    if array.dtype == np.uint8:
        return array
    finite = np.nan_to_num(array.astype(np.float32))
    low, high = np.percentile(finite, [0.5, 99.5])
    return (np.clip((finite - low) / max(float(high - low), 1e-9), 0, 1) * 255).astype(np.uint8)


def _draw(key: tuple[str, str], reasons: list[str], scores: dict[str, float], view: _ShownSlice, side: int) -> _Overlay:
    """The pictures of a case; square millimetres stay square, the longer side is `side`."""
    extent = [n * size for n, size in zip(view.masks.shape[1:], view.spacing, strict=True)]
    scale = side / max(extent)
    height, width = (max(1, round(length * scale)) for length in extent)
    reference_hw, *masks_hw = _enlarged(view.masks, height, width)
    colours = [COLOURS[kind] for kind in ("fp", "fn", "confused")] * 2
    return _Overlay(
        dataset=key[0],
        case=key[1],
        reasons=tuple(reasons),
        width=width,
        height=height,
        image=_ground(view, height, width),
        reference=_png(_outline(reference_hw), [COLOURS["reference"]]),
        arms={
            arm: {
                "errors": _png(_see_through(_errors(reference_hw, mask_hw)), colours),
                "outline": _png(_outline(mask_hw), [COLOURS["prediction"]]),
            }
            for arm, mask_hw in zip(scores, masks_hw, strict=True)
        },
        scores=scores,
        notes=view.notes,
    )


def _enlarged(masks: np.ndarray, height: int, width: int) -> np.ndarray:
    """Masks (…, H, W) at the picture's size (…, h, w): every pixel takes the voxel at its centre."""
    rows = ((np.arange(height) + 0.5) * masks.shape[-2] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * masks.shape[-1] / width).astype(int)
    return masks[..., rows[:, None], columns]


def _errors(reference: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """1 where only the mask marks something, 2 where only the reference does, 3 where both do and differ, 0 elsewhere."""
    wrong = np.select([reference == 0, mask == 0], [1, 2], default=3)
    return np.where(reference == mask, 0, wrong).astype(np.uint8)


def _see_through(errors_hw: np.ndarray) -> np.ndarray:
    """Errors as 1 to 3 along their edges and as 4 to 6 further inside, where the image shows through."""
    inside = np.any([ndimage.binary_erosion(errors_hw == kind, iterations=EDGE) for kind in (1, 2, 3)], axis=0)
    return np.where(inside, errors_hw + 3, errors_hw).astype(np.uint8)


def _outline(mask_hw: np.ndarray) -> np.ndarray:
    """1 on the pixels of a label that touch another label or the background from inside, also along the picture's edge."""
    cross = ndimage.generate_binary_structure(2, 1)
    borders = ndimage.morphological_gradient(mask_hw, footprint=cross, mode="constant") != 0
    return ((mask_hw != 0) & borders).astype(np.uint8)


def _ground(view: _ShownSlice, height: int, width: int) -> str:
    if view.image is None:
        grey = np.where(_enlarged(view.masks[0], height, width) != 0, 2, 1).astype(np.uint8)
        return _png(grey, ("#16191d", "#4a525c"))
    array = view.image[..., 0] if view.image.shape[-1] == 1 else view.image
    image = Image.fromarray(np.ascontiguousarray(array)).resize((width, height), Image.Resampling.LANCZOS)
    return _uri(image, "jpeg", quality=78)


def _png(index_hw: np.ndarray, colours: Sequence[str]) -> str:
    """Index 0 is transparent, index k is colours[k − 1]; those beyond the third are half transparent."""
    image = Image.fromarray(index_hw)
    image.putpalette(bytes(3) + b"".join(bytes.fromhex(colour[1:]) for colour in colours))
    alpha = bytes([0, *(255 if i < 3 else INSIDE for i in range(len(colours)))])
    return _uri(image, "png", transparency=alpha, bits=1 if len(colours) == 1 else 4)


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
