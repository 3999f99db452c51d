"""Finds which masks belong to which image."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nnvit.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"})
"""Of pictures; `VOLUME_SUFFIXES` are imported, too."""
VOLUME_SUFFIXES = frozenset({".nii.gz", ".nii"})
MASK_SUFFIXES = frozenset({".png", ".gif", ".tif", ".tiff", ".bmp", *VOLUME_SUFFIXES})
LOSSY_SUFFIXES = frozenset({".jpg", ".jpeg"})
"""No mask may have one, but a file that should be one is named when it is refused."""
MOST_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One case: its identifier in nnU-Net, its image and its masks."""

    case: str
    image: Path
    masks: tuple[Path | None, ...]
    """One, or one for each label in the order that the labels were named; None where there is none."""

    @property
    def mask_names(self) -> str:
        return ", ".join(called(mask) if len(self.masks) > 1 else mask.name for mask in self.masks if mask)


@dataclass(frozen=True, kw_only=True)
class MaskFolder:
    """Where masks lie, and what tells them from others."""

    folder: Path
    suffix: str
    """What a mask's name has after its image's."""
    shared: bool = False
    """Whether other files lie there as well, so that only names with the suffix count."""
    label: str = ""
    """What the masks show, if each label has masks of its own."""
    files: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()
    """Files that were passed over."""


def refuse(heading: str, problems: list[str], advice: str = "") -> None:
    """Raise one `DataError` that lists the first ten problems and counts the rest; none, no error."""
    if not problems:
        return
    lines = [f"{heading}:", *(f"  - {problem}" for problem in problems[:MOST_SHOWN])]
    if len(problems) > MOST_SHOWN:
        lines.append(f"  ... and {len(problems) - MOST_SHOWN} more")
    raise DataError("\n".join([*lines, advice] if advice else lines))


def suffix_of(path: Path) -> str:
    """The file's ending in small letters; `.nii.gz` is one ending."""
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def stem_of(path: Path) -> str:
    """The file's name without its ending."""
    return path.name[: len(path.name) - len(suffix_of(path))]


def called(path: Path) -> str:
    """The file's name with its folder's, for masks that may share a name."""
    return f"{path.parent.name}/{path.name}"


def list_files(folder: Path, suffixes: frozenset[str], kind: str) -> tuple[list[Path], list[Path]]:
    """The folder's files of these suffixes (in any case), sorted, and the other visible files in it.

    Raises:
        DataError: no such folder, or nothing of that kind in it.
    """
    if not folder.is_dir():
        raise DataError(f"the folder of {kind}s '{folder}' does not exist; give an existing folder")
    visible = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    chosen = [p for p in visible if suffix_of(p) in suffixes]
    others = [p for p in visible if suffix_of(p) not in suffixes]
    if not chosen:
        endings = ", ".join(sorted(suffixes))
        raise DataError(f"'{folder}' holds no {kind}; expected files that end in {endings}")
    return chosen, others


def mask_folders(
    images: Path, masks: Path | None, by_label: Mapping[str, Path] | None, mask_suffix: str
) -> list[MaskFolder]:
    """Where to look for masks: one folder for all labels, or one for each label.

    A folder for a label may end in `*SUFFIX` (`masks/*_MA`): then it is shared with other files.

    Raises:
        DataError: both or neither given, or a pattern that is not of this form.
    """
    if (masks is None) == (by_label is None):
        raise DataError("masks come in one folder, or with --mask NAME=FOLDER for each label; give one of the two")
    if masks is not None:
        return [MaskFolder(folder=masks, suffix=mask_suffix, shared=_same(masks, images))]
    return [_label_folder(images, label, place, mask_suffix) for label, place in (by_label or {}).items()]


def list_masks(where: MaskFolder, images: list[Path]) -> MaskFolder:
    """With the folder's files filled in; a JPEG only where an image has no other mask.

    Raises:
        DataError: no such folder, or no mask in it.
    """
    chosen, others = list_files(where.folder, MASK_SUFFIXES | LOSSY_SUFFIXES, "mask")
    if where.shared:
        pictures = set(images)
        chosen = [path for path in chosen if stem_of(path).endswith(where.suffix) and path not in pictures]
    sound = {stem_of(path) for path in chosen if suffix_of(path) not in LOSSY_SUFFIXES}
    wanted = {stem_of(image) + where.suffix for image in images} - sound
    masks = [path for path in chosen if suffix_of(path) not in LOSSY_SUFFIXES or stem_of(path) in wanted]
    passed = sorted({*others, *chosen} - set(masks))
    return replace(where, files=tuple(masks), others=() if where.shared else tuple(passed))


def without_masks(images: list[Path], folder: Path, where: list[MaskFolder]) -> list[Path]:
    """The images, less the files that are masks in the same folder."""
    endings = tuple(w.suffix for w in where if w.suffix and _same(w.folder, folder))
    return [image for image in images if not (endings and stem_of(image).endswith(endings))]


def case_name(image: Path) -> str:
    """The image's stem with every character that nnU-Net or a shell could trip over made an underscore."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", stem_of(image))


def find_pairs(images: list[Path], where: list[MaskFolder], allow_missing: bool = False) -> list[Pair]:
    """Pair each image `stem` with the mask `stem + suffix` of each folder.

    Raises:
        DataError: files that would become one case, or files without a partner (in either direction). With
            `allow_missing` an image may lack some of its masks, but not all.
    """
    _refuse_twins(images, case_name, "images", "case")
    for folder in where:
        _refuse_twins(list(folder.files), stem_of, "masks", "name")
    mask_of = [{stem_of(mask): mask for mask in folder.files} for folder in where]
    pairs = [
        Pair(
            case=case_name(image),
            image=image,
            masks=tuple(found.get(stem_of(image) + w.suffix) for w, found in zip(where, mask_of, strict=True)),
        )
        for image in images
    ]
    bare = {pair: _lacking(pair, where) for pair in pairs}
    bare = {pair: k for pair, k in bare.items() if k and not (allow_missing and len(k) < len(where))}
    strays = [_strays(images, folder) for folder in where]
    _refuse_lonely(images, where, bare, strays)
    return pairs


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _label_folder(images: Path, label: str, place: Path, mask_suffix: str) -> MaskFolder:
    if "*" not in str(place):
        return MaskFolder(folder=place, suffix=mask_suffix, shared=_same(place, images), label=label)
    if str(place).count("*") > 1 or not place.name.startswith("*") or place.name == "*":
        raise DataError(f"--mask {label}={place}: expected a folder, or a folder and *SUFFIX such as masks/*_{label}")
    ending = suffix_of(place) if suffix_of(place) in MASK_SUFFIXES | LOSSY_SUFFIXES else ""
    suffix = place.name[1 : len(place.name) - len(ending)]
    return MaskFolder(folder=place.parent, suffix=suffix, shared=True, label=label)


def _lacking(pair: Pair, where: list[MaskFolder]) -> list[str]:
    missing = [w for w, mask in zip(where, pair.masks, strict=True) if mask is None]
    return [
        f"no mask '{stem_of(pair.image)}{w.suffix}'" + (f" for {w.label} in '{w.folder}'" if w.label else "")
        for w in missing
    ]


def _strays(images: list[Path], where: MaskFolder) -> list[Path]:
    wanted = {stem_of(image) + where.suffix for image in images}
    return [mask for mask in where.files if stem_of(mask) not in wanted]


def _refuse_lonely(
    images: list[Path], where: list[MaskFolder], bare: Mapping[Pair, list[str]], strays: list[list[Path]]
) -> None:
    lonely = [f"image {pair.image.name}: {' and '.join(lacks)}" for pair, lacks in bare.items()]
    lonely += [f"mask {mask.name}: no image for it" for stray in strays for mask in stray]
    number, stray_number = sum(len(w.files) for w in where), sum(map(len, strays))
    heading = f"{len(bare)} of {len(images)} images and {stray_number} of {number} masks have no partner"
    if not lonely:
        return
    if len(where) == 1 and not where[0].label:
        advice = _suffix_advice(images, list(where[0].files), where[0].suffix)
    else:
        advice = (
            "A mask must be called like its image plus the suffix (--mask NAME='FOLDER/*SUFFIX'). "
            "If a missing mask means that there is nothing of its label, give --allow-missing-masks."
        )
    refuse(heading, lonely, advice)


def _refuse_twins(paths: list[Path], key: Callable[[Path], str], kind: str, what: str) -> None:
    by_key = defaultdict(list)
    for path in paths:
        by_key[key(path)].append(path.name)
    twins = [f"{' and '.join(names)}: {what} '{k}'" for k, names in by_key.items() if len(names) > 1]
    refuse(f"several {kind} would share one {what}", twins, "Rename or remove all but one of each.")


def _suffix_advice(images: list[Path], masks: list[Path], mask_suffix: str) -> str:
    """Name the endings by which masks differ from the images they begin with."""
    endings = _endings({stem_of(image) for image in images}, (stem_of(mask) for mask in masks))
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
