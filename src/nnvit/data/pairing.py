"""Finds which masks belong to which image."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nnvit.errors import DataError
from nnvit.records.hashes import sha256_of

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"})
"""Suffixes of pictures; an import takes `VOLUME_SUFFIXES` too."""
VOLUME_SUFFIXES = frozenset({".nii.gz", ".nii"})
_MASK_SUFFIXES = frozenset({".png", ".gif", ".tif", ".tiff", ".bmp", *VOLUME_SUFFIXES})
_LOSSY_SUFFIXES = frozenset({".jpg", ".jpeg"})
"""No mask may have one; they are listed so that the refusal can name the file."""
_MOST_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One case: its identifier in nnU-Net, its image and its masks."""

    case: str
    image: Path
    masks: tuple[Path | None, ...]
    """One, or one per label in the order of the labels; None for a label without a mask."""

    @property
    def mask_names(self) -> str:
        return ", ".join(called(mask) if len(self.masks) > 1 else mask.name for mask in self.masks if mask)

    def digest(self) -> str:
        """Returns the SHA-256 of each of the pair's files."""
        return " ".join(sha256_of(path) for path in (self.image, *self.masks) if path)


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """The cases of a data set, as its files tell."""

    pairs: list[Pair]
    labels: tuple[str, ...]
    """The label of each of a pair's masks; one empty name if a mask shows all labels."""
    ignored: list[tuple[Path, list[Path]]]
    """Folder -> other files in it."""


@dataclass(frozen=True, kw_only=True)
class _MaskFolder:
    """A folder of masks, and how their names differ from other files' names."""

    folder: Path
    suffix: str
    """Comes after the image's name in a mask's name."""
    shared: bool = False
    """True if other files lie there as well, so that only names with the suffix count."""
    label: str = ""
    """The label that the masks show, if each label has masks of its own."""
    files: tuple[Path, ...] = ()
    ignored: tuple[Path, ...] = ()


def find_pairs(
    images: Path,
    masks: Path | None,
    masks_by_label: Mapping[str, Path] | None = None,
    mask_suffix: str = "",
    allow_missing: bool = False,
) -> Pairing:
    """Pairs each image `stem` with the mask `stem + suffix` of each folder of masks.

    Args:
        masks: one folder of masks for all labels; or else
        masks_by_label: one folder for each label. A path that ends in `*SUFFIX` (`masks/*_MA`) is a folder that is
            shared with other files, and the suffix.
        allow_missing: an image may lack some of its masks, but not all.

    Raises:
        DataError: no such folder, no file of that kind in it, a pattern that is not of this form, files that would
            become one case, or files without a partner (in either direction).
    """
    if masks is not None:
        where = [_MaskFolder(folder=masks, suffix=mask_suffix, shared=_same(masks, images))]
    else:
        where = [_label_folder(images, *item, mask_suffix) for item in (masks_by_label or {}).items()]
    image_files, others = _list_files(images, IMAGE_SUFFIXES | VOLUME_SUFFIXES, "image")
    image_files = _without_masks(image_files, images, where)
    where = [_with_files(folder, image_files) for folder in where]
    return Pairing(
        pairs=_paired(image_files, where, allow_missing),
        labels=tuple(folder.label for folder in where),
        ignored=[(images, others), *((folder.folder, list(folder.ignored)) for folder in where)],
    )


def refuse(heading: str, problems: list[str], advice: str = "") -> None:
    """Raises one DataError that lists the first ten problems and counts the rest; does nothing if there are none."""
    if not problems:
        return
    lines = [f"{heading}:", *(f"  - {problem}" for problem in problems[:_MOST_SHOWN])]
    if len(problems) > _MOST_SHOWN:
        lines.append(f"  ... and {len(problems) - _MOST_SHOWN} more")
    raise DataError("\n".join([*lines, advice] if advice else lines))


def suffix_of(path: Path) -> str:
    """Returns the file's suffix in lower case; `.nii.gz` is one suffix."""
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def stem_of(path: Path) -> str:
    """Returns the file's name without its suffix."""
    return path.name[: len(path.name) - len(suffix_of(path))]


def called(path: Path) -> str:
    """Returns the names of the file's folder and of the file, for masks that may share a name."""
    return f"{path.parent.name}/{path.name}"


def _list_files(folder: Path, suffixes: frozenset[str], kind: str) -> tuple[list[Path], list[Path]]:
    """Returns the folder's files of these suffixes (in any case), sorted, and the other visible files in it.

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


def _with_files(where: _MaskFolder, images: list[Path]) -> _MaskFolder:
    """Fills in the folder's files; takes a JPEG only if an image has no other mask."""
    chosen, others = _list_files(where.folder, _MASK_SUFFIXES | _LOSSY_SUFFIXES, "mask")
    if where.shared:
        pictures = set(images)
        chosen = [path for path in chosen if stem_of(path).endswith(where.suffix) and path not in pictures]
    lossless = {stem_of(path) for path in chosen if suffix_of(path) not in _LOSSY_SUFFIXES}
    wanted = {stem_of(image) + where.suffix for image in images} - lossless
    masks = [path for path in chosen if suffix_of(path) not in _LOSSY_SUFFIXES or stem_of(path) in wanted]
    ignored = sorted({*others, *chosen} - set(masks))
    return replace(where, files=tuple(masks), ignored=() if where.shared else tuple(ignored))


def _without_masks(images: list[Path], folder: Path, where: list[_MaskFolder]) -> list[Path]:
    """Returns the images without the files that are masks in the same folder."""
    endings = tuple(w.suffix for w in where if w.suffix and _same(w.folder, folder))
    return [image for image in images if not (endings and stem_of(image).endswith(endings))]


def _case_name(image: Path) -> str:
    """Returns the image's stem with `_` for every character that nnU-Net or a shell could misread."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", stem_of(image))


def _paired(images: list[Path], where: list[_MaskFolder], allow_missing: bool) -> list[Pair]:
    _refuse_twins(images, _case_name, "images", "case")
    for folder in where:
        _refuse_twins(list(folder.files), stem_of, "masks", "name")
    mask_of = [{stem_of(mask): mask for mask in folder.files} for folder in where]
    pairs = [
        Pair(
            case=_case_name(image),
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


def _label_folder(images: Path, label: str, place: Path, mask_suffix: str) -> _MaskFolder:
    if "*" not in str(place):
        return _MaskFolder(folder=place, suffix=mask_suffix, shared=_same(place, images), label=label)
    if str(place).count("*") > 1 or not place.name.startswith("*") or place.name == "*":
        raise DataError(f"--mask {label}={place}: expected a folder, or a folder and *SUFFIX such as masks/*_{label}")
    ending = suffix_of(place) if suffix_of(place) in _MASK_SUFFIXES | _LOSSY_SUFFIXES else ""
    suffix = place.name[1 : len(place.name) - len(ending)]
    return _MaskFolder(folder=place.parent, suffix=suffix, shared=True, label=label)


def _lacking(pair: Pair, where: list[_MaskFolder]) -> list[str]:
    missing = [w for w, mask in zip(where, pair.masks, strict=True) if mask is None]
    return [
        f"no mask '{stem_of(pair.image)}{w.suffix}'" + (f" for {w.label} in '{w.folder}'" if w.label else "")
        for w in missing
    ]


def _strays(images: list[Path], where: _MaskFolder) -> list[Path]:
    wanted = {stem_of(image) + where.suffix for image in images}
    return [mask for mask in where.files if stem_of(mask) not in wanted]


def _refuse_lonely(
    images: list[Path], where: list[_MaskFolder], bare: Mapping[Pair, list[str]], strays: list[list[Path]]
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
    """Names the endings by which masks differ from the images they begin with."""
    endings = _endings({stem_of(image) for image in images}, (stem_of(mask) for mask in masks))
    if not endings or set(endings) == {mask_suffix}:
        return "A mask must be called like its image plus the mask suffix; rename or remove these files."
    if len(endings) == 1:
        (ending,) = endings
        return f"These masks share the ending '{ending}'; give --mask-suffix '{ending}'."
    counted = ", ".join(f"'{ending}' ({count} masks)" for ending, count in endings.most_common(5))
    return f"The masks end in {counted}; --mask-suffix takes one ending, and other masks belong elsewhere."


def _endings(image_stems: set[str], mask_stems: Iterable[str]) -> Counter[str]:
    """Counts what is left of each mask's stem after the longest image stem that it begins with."""
    found: Counter[str] = Counter()
    for stem in mask_stems:
        cut = next((n for n in range(len(stem), 0, -1) if stem[:n] in image_stems), None)
        if cut is not None:
            found[stem[cut:]] += 1
    return found
