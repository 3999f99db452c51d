"""Finds which masks belong to which image."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nnvit.errors import DataError
from nnvit.records.hashes import sha256_of

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"})
"""Suffixes of pictures; an import takes `VOLUME_SUFFIXES` too."""
VOLUME_SUFFIXES = (".nii.gz", ".nii")
_LOSSY_SUFFIXES = frozenset({".jpg", ".jpeg"})
"""No mask may have one; they are listed so that the refusal can name the file."""
_MASK_SUFFIXES = frozenset({".png", ".gif", ".tif", ".tiff", ".bmp", *VOLUME_SUFFIXES, *_LOSSY_SUFFIXES})
_MOST_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One case: its image and its masks."""

    image: Path
    masks: dict[str, Path | None] = field(hash=False)
    """Label -> its mask, None if it has none; one empty label if a mask shows all labels."""

    @property
    def case(self) -> str:
        """The case's identifier in nnU-Net: the stem with `_` for every character that nnU-Net or a shell could misread."""
        return re.sub(r"[^A-Za-z0-9_.-]", "_", self.stem)

    @property
    def stem(self) -> str:
        """The image's name without its suffix."""
        return _stem(self.image)

    @property
    def mask_names(self) -> str:
        """The names of the masks; if there are several, with their folders, because they may share a name."""
        parts = 2 if len(self.masks) > 1 else 1
        return ", ".join("/".join(mask.parts[-parts:]) for mask in self.masks.values() if mask)

    def digest(self) -> str:
        """Returns the SHA-256 of each of the pair's files."""
        return " ".join(sha256_of(path) for path in (self.image, *self.masks.values()) if path)


def find_pairs(
    images: Path, masks: Mapping[str, Path], mask_suffix: str, allow_missing: bool
) -> tuple[list[Pair], list[str]]:
    """Pairs each image `stem` with the mask `stem + suffix` of each folder of masks.

    Args:
        masks: label -> folder of its masks; one empty label if the masks show all. A label's path that ends in
            `*SUFFIX` (`masks/*_MA`) is a folder that is shared with other files, and the suffix.
        allow_missing: an image may lack some of its masks, but not all.

    Returns the pairs, and warnings on files that are neither image nor mask. Raises DataError for absent folders, folders
    without a file of that kind, patterns that are not of this form, files that would become one case, and files without a
    partner (in either direction).
    """
    folders = [_MaskFolder.of(images, label, place, mask_suffix) for label, place in masks.items()]
    found, others = _list_files(images, IMAGE_SUFFIXES.union(VOLUME_SUFFIXES), "image")
    # images and masks of one folder are told apart by the masks' suffixes
    endings = tuple(f.suffix for f in folders if f.suffix and f.path.resolve() == images.resolve())
    found = [image for image in found if not _stem(image).endswith(endings)]
    ignored = [(images, others), *((folder.path, folder.list_masks(found)) for folder in folders)]
    return _paired(found, folders, allow_missing), [
        f"{len(others)} other files in '{folder}' were ignored, e.g. {others[0].name}"
        for folder, others in ignored
        if others
    ]


def refuse(heading: str, problems: list[str], advice: str = "") -> None:
    """Raises one DataError that lists the first ten problems and counts the rest; does nothing if there are none."""
    if not problems:
        return
    lines = [f"{heading}:", *(f"  - {problem}" for problem in problems[:_MOST_SHOWN])]
    if len(problems) > _MOST_SHOWN:
        lines.append(f"  ... and {len(problems) - _MOST_SHOWN} more")
    raise DataError("\n".join([*lines, advice] if advice else lines))


@dataclass(kw_only=True)
class _MaskFolder:
    """A folder of masks, and how their names differ from other files' names.

    label: the one that the masks show, or empty if they show all; suffix: comes after the image's name in a mask's name;
    shared: True if other files lie there as well, so that only names with the suffix count.
    """

    path: Path
    label: str
    suffix: str
    shared: bool
    files: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, images: Path, label: str, place: Path, suffix: str) -> "_MaskFolder":
        """Takes a folder or, for a label, `FOLDER/*SUFFIX`. Raises DataError for other patterns."""
        if not label or "*" not in str(place):
            return cls(path=place, label=label, suffix=suffix, shared=place.resolve() == images.resolve())
        if str(place).count("*") > 1 or not place.name.startswith("*") or place.name == "*":
            raise DataError(
                f"--mask {label}={place}: expected a folder, or a folder and *SUFFIX such as masks/*_{label}"
            )
        name = _stem(place) if _suffix(place) in _MASK_SUFFIXES else place.name
        return cls(path=place.parent, label=label, suffix=name[1:], shared=True)

    def list_masks(self, images: list[Path]) -> list[Path]:
        """Fills `files`; takes a JPEG only if an image has no other mask. Returns other files to warn about."""
        chosen, others = _list_files(self.path, _MASK_SUFFIXES, "mask")
        if self.shared:
            pictures = set(images)
            chosen = [path for path in chosen if _stem(path).endswith(self.suffix) and path not in pictures]
        lossless = {_stem(path) for path in chosen if _suffix(path) not in _LOSSY_SUFFIXES}
        wanted = {self.name_of(image) for image in images} - lossless
        self.files = [path for path in chosen if _suffix(path) not in _LOSSY_SUFFIXES or _stem(path) in wanted]
        return [] if self.shared else sorted({*others, *chosen} - set(self.files))

    def name_of(self, image: Path) -> str:
        """Returns the name, without suffix, that the image's mask must have."""
        return _stem(image) + self.suffix

    def lack_of(self, image: Path) -> str:
        return f"no mask '{self.name_of(image)}'" + (f" for {self.label} in '{self.path}'" if self.label else "")


def _suffix(path: Path) -> str:
    """Returns the file's suffix in lower case; `.nii.gz` is one suffix."""
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(_suffix(path))]


def _list_files(folder: Path, suffixes: frozenset[str], kind: str) -> tuple[list[Path], list[Path]]:
    """Returns the folder's files of these suffixes (in any case), sorted, and the other visible files; raises if none."""
    if not folder.is_dir():
        raise DataError(f"the folder of {kind}s '{folder}' does not exist; give an existing folder")
    visible = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    chosen = [p for p in visible if _suffix(p) in suffixes]
    if not chosen:
        endings = ", ".join(sorted(suffixes))
        raise DataError(f"'{folder}' holds no {kind}; expected files that end in {endings}")
    return chosen, [p for p in visible if _suffix(p) not in suffixes]


def _paired(images: list[Path], folders: list[_MaskFolder], allow_missing: bool) -> list[Pair]:
    """Returns a pair per image. Raises DataError for twins, and for images and masks without a partner."""
    mask_of = {folder.label: {_stem(mask): mask for mask in folder.files} for folder in folders}
    pairs = [Pair(image=i, masks={f.label: mask_of[f.label].get(f.name_of(i)) for f in folders}) for i in images]
    _refuse_twins([(pair.case, pair.image) for pair in pairs], "images", "case")
    for folder in folders:
        _refuse_twins([(_stem(mask), mask) for mask in folder.files], "masks", "name")
    bare, strays = [], []
    for pair in pairs:
        lacking = [folder.lack_of(pair.image) for folder in folders if not pair.masks[folder.label]]
        if lacking and not (allow_missing and any(pair.masks.values())):
            bare.append(f"image {pair.image.name}: {' and '.join(lacking)}")
    for folder in folders:
        wanted = {folder.name_of(image) for image in images}
        strays += [f"mask {mask.name}: no image for it" for mask in folder.files if _stem(mask) not in wanted]
    number = sum(len(folder.files) for folder in folders)
    heading = f"{len(bare)} of {len(images)} images and {len(strays)} of {number} masks have no partner"
    refuse(heading, [*bare, *strays], _partner_advice(images, folders))
    return pairs


def _refuse_twins(named: list[tuple[str, Path]], kind: str, what: str) -> None:
    by_key = defaultdict(list)
    for key, path in named:
        by_key[key].append(path.name)
    twins = [f"{' and '.join(names)}: {what} '{k}'" for k, names in by_key.items() if len(names) > 1]
    refuse(f"several {kind} would share one {what}", twins, "Rename or remove all but one of each.")


def _partner_advice(images: list[Path], folders: list[_MaskFolder]) -> str:
    """Names the endings by which masks differ from the images they begin with."""
    if [folder.label for folder in folders] != [""]:
        return (
            "A mask must be called like its image plus the suffix (--mask NAME='FOLDER/*SUFFIX'). "
            "If a missing mask means that there is nothing of its label, give --allow-missing-masks."
        )
    image_stems, endings = {_stem(image) for image in images}, Counter[str]()
    for stem in map(_stem, folders[0].files):  # what is left after the longest image stem that it begins with
        cut = next((n for n in range(len(stem), 0, -1) if stem[:n] in image_stems), None)
        if cut is not None:
            endings[stem[cut:]] += 1
    if not endings or set(endings) == {folders[0].suffix}:
        return "A mask must be called like its image plus the mask suffix; rename or remove these files."
    if len(endings) == 1:
        (ending,) = endings
        return f"These masks share the ending '{ending}'; give --mask-suffix '{ending}'."
    counted = ", ".join(f"'{ending}' ({count} masks)" for ending, count in endings.most_common(5))
    return f"The masks end in {counted}; --mask-suffix takes one ending, and other masks belong elsewhere."
