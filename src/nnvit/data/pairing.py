"""Finds which mask belongs to which image."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff"})
MASK_SUFFIXES = frozenset({".png", ".gif", ".tif", ".tiff"})
MOST_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One case: its identifier in nnU-Net, its image and its mask."""

    case: str
    image: Path
    mask: Path


def refuse(heading: str, problems: list[str], advice: str = "") -> None:
    """Raise one `DataError` that lists the first ten problems and counts the rest; none, no error."""
    if not problems:
        return
    lines = [f"{heading}:", *(f"  - {problem}" for problem in problems[:MOST_SHOWN])]
    if len(problems) > MOST_SHOWN:
        lines.append(f"  ... and {len(problems) - MOST_SHOWN} more")
    raise DataError("\n".join([*lines, advice] if advice else lines))


def list_files(folder: Path, suffixes: frozenset[str], kind: str) -> tuple[list[Path], list[Path]]:
    """The folder's files of these suffixes (in any case), sorted, and the other visible files in it.

    Raises:
        DataError: no such folder, or nothing of that kind in it.
    """
    if not folder.is_dir():
        raise DataError(f"the folder of {kind}s '{folder}' does not exist; give an existing folder")
    visible = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    chosen = [p for p in visible if p.suffix.lower() in suffixes]
    others = [p for p in visible if p.suffix.lower() not in suffixes]
    if not chosen:
        endings = ", ".join(sorted(suffixes))
        raise DataError(f"'{folder}' holds no {kind}; expected files that end in {endings}")
    return chosen, others


def case_name(image: Path) -> str:
    """The image's stem with every character that nnU-Net or a shell could trip over made an underscore."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", image.stem)


def find_pairs(images: list[Path], masks: list[Path], mask_suffix: str) -> list[Pair]:
    """Pair each image `stem` with the mask `stem + mask_suffix`.

    Raises:
        DataError: files that would become one case, or files without a partner (in either direction).
    """
    _refuse_twins(images, case_name, "images", "case")
    _refuse_twins(masks, lambda path: path.stem, "masks", "name")
    mask_of = {mask.stem: mask for mask in masks}
    wanted = {image.stem + mask_suffix for image in images}
    bare = [image for image in images if image.stem + mask_suffix not in mask_of]
    stray = [mask for mask in masks if mask.stem not in wanted]
    lonely = [f"image {image.name}: no mask '{image.stem}{mask_suffix}'" for image in bare]
    lonely += [f"mask {mask.name}: no image for it" for mask in stray]
    advice = _suffix_advice(images, masks, mask_suffix) if lonely else ""
    heading = f"{len(bare)} of {len(images)} images and {len(stray)} of {len(masks)} masks have no partner"
    refuse(heading, lonely, advice)
    return [Pair(case=case_name(image), image=image, mask=mask_of[image.stem + mask_suffix]) for image in images]


def _refuse_twins(paths: list[Path], key: Callable[[Path], str], kind: str, what: str) -> None:
    by_key = defaultdict(list)
    for path in paths:
        by_key[key(path)].append(path.name)
    twins = [f"{' and '.join(names)}: {what} '{k}'" for k, names in by_key.items() if len(names) > 1]
    refuse(f"several {kind} would share one {what}", twins, "Rename or remove all but one of each.")


def _suffix_advice(images: list[Path], masks: list[Path], mask_suffix: str) -> str:
    """Name the endings by which masks differ from the images they begin with."""
    endings = _endings({image.stem for image in images}, (mask.stem for mask in masks))
    if not endings or set(endings) == {mask_suffix}:
        return "A mask must be called like its image plus the mask suffix; rename or remove these files."
    if len(endings) == 1:
        (ending,) = endings
        return f"These masks share the ending '{ending}'; give --mask-suffix '{ending}'."
    counted = ", ".join(f"'{ending}' ({count} masks)" for ending, count in endings.most_common(5))
    return f"The masks end in {counted}; --mask-suffix takes one ending, and other masks belong elsewhere."


def _endings(image_stems: set[str], mask_stems: Iterable[str]) -> Counter[str]:
    """What is left of each mask's stem after the longest image stem that it begins with."""
    found: Counter[str] = Counter()
    for stem in mask_stems:
        cut = next((n for n in range(len(stem), 0, -1) if stem[:n] in image_stems), None)
        if cut is not None:
            found[stem[cut:]] += 1
    return found
