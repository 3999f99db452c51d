"""Photographs as they are -> masks under their own names, in their own size, turned as a viewer shows them."""

import os
import time
import traceback
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ... import __version__
from ...data import overlay
from ...data.pairing import IMAGE_SUFFIXES, refuse
from ...data.pixels import read_image
from ...errors import ConfigError, DataError, NnvitError
from .. import display, folders
from .model import Model, Predictor
from .values import Meaning, channel_names

ACCOUNT = "nnvit_predict.json"
"""Beside the masks: what made them. Only what such a file names is ever overwritten."""
PNG_EFFORT = 1
SPACING = (999, 1, 1)
"""What nnU-Net's reader says of every flat picture."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is written for each photograph beside its mask, and how."""

    meaning: Meaning
    overlay: bool = False
    probabilities: bool = False
    keep: bool = False
    """Keep what is there (`--continue_prediction`) rather than predict it again."""
    recursive: bool = False
    num_parts: int = 1
    part_id: int = 0


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """path: of the file; name: relative to the folder of photographs; mask: the mask's, relative to the output folder."""

    path: Path
    name: str
    mask: str


@dataclass(kw_only=True)
class Outcome:
    """Names of the photographs by what became of them; of the failed, with the reason."""

    predicted: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    out: Path

    def lines(self) -> list[str]:
        """The last words."""
        kept = f", {len(self.kept)} kept" if self.kept else ""
        failed = f", {len(self.failed)} FAILED" if self.failed else ""
        return [f"{len(self.predicted)} predicted{kept}{failed}: {self.out}"]


def predict_photographs(
    model: Model,
    predictor: Predictor,
    source: Path,
    out: Path,
    wanted: Wanted,
    *,
    verbose: bool = False,
    bar: bool = True,
) -> Outcome:
    """Predicts each photograph by itself: one that fails is noted, and the others go on.

    Args:
        source: a folder of photographs, or one photograph.
        out: gets the masks as png, `overlays/` and `probabilities/<label>/`, and nnvit_predict.json.
        verbose: print the traceback of a failure.

    Raises:
        DataError: nothing to predict, two photographs with one name, or an output folder that holds other files of these names.
    """
    _check_model(model)
    photographs, notes = find_photographs(source, out, wanted.recursive)
    _refuse_twins(photographs)
    mine = photographs[wanted.part_id :: wanted.num_parts]
    account = _Account(model, predictor, wanted, out)
    todo = account.claim(mine, outputs_of(model, wanted))
    for line in [*notes, *account.notes, *wanted.meaning.lines(), *_legend(wanted)]:
        print(line, flush=True)
    outcome = Outcome(out=out, kept=[p.name for p in mine if p not in todo])
    start = time.perf_counter()
    with display.bar("predicting", len(todo), bar) as advance:
        for done, photograph in enumerate(todo, start=1):
            try:
                notes = _predict(model, predictor, photograph, out, wanted)
                outcome.predicted.append(photograph.name)
                what = f"-> {photograph.mask}{''.join(f' ({note})' for note in notes)}"
            except Exception as error:  # whatever one file brings about, the others are still wanted
                what = str(error) if isinstance(error, NnvitError) else f"{type(error).__name__}: {error}"
                outcome.failed[photograph.name] = what
                what = f"FAILED: {what}"
                if verbose:
                    print(traceback.format_exc())
            left = (time.perf_counter() - start) / done * (len(todo) - done)
            print(f"{done}/{len(todo)} {photograph.name} {what}  ETA {display.duration(left)}", flush=True)
            advance("")
    account.close(outcome)
    return outcome


def find_photographs(source: Path, out: Path, recursive: bool) -> tuple[list[Photograph], list[str]]:
    """The photographs, sorted, and what the user should know of the rest. Raises DataError where there is none."""
    if source.is_file():
        return [_photograph(source, Path(source.name))], []
    if not source.is_dir():
        raise DataError(f"-i {source} does not exist; give a folder of photographs, or one photograph.")
    if source.resolve() == out.resolve():
        raise DataError(f"-i and -o are both {source}; the masks need a folder of their own.")
    below = _folders_below(source, out)
    files = [p for folder in [source, *(below if recursive else [])] for p in sorted(folder.iterdir()) if _visible(p)]
    chosen = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    others = [path.name for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
    notes = [f"other files are left out: {_few(others)}"] if others else []
    if below and not recursive:
        names = ", ".join(folder.name for folder in below[:3])
        notes.append(
            f"{len(below)} folders within are left out ({names}{', …' * (len(below) > 3)}); --recursive takes them in"
        )
    if not chosen:
        endings = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError("; ".join([f"{source} holds no photograph ({endings})", *notes]) + ".")
    return [_photograph(path, path.relative_to(source)) for path in chosen], notes


def network_input(model: Model, pixels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(H, W) or (H, W, C) -> (C, 1, H, W) float32, as nnU-Net's reader gives the imported picture; and what was done to fit.

    Raises DataError where the channels or the bits are not the model's.
    """
    channels, notes = 1 if pixels.ndim == 2 else pixels.shape[2], []
    if channels == 1 and model.channels == 3:
        pixels, notes = (
            np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2),
            ["grey, taken as three equal channels"],
        )
    elif channels == 3 and model.channels == 1:
        pixels, notes = _one_of_three(pixels), ["three equal channels, taken as grey"]
    elif channels != model.channels:
        raise DataError(f"it has {channels} channels, the model takes {model.channels}")
    schemes = model.configuration.normalization_schemes
    if pixels.max() > 255 and "RGBTo01Normalization" in schemes:
        raise DataError(f"it has 16 bits (up to {pixels.max()}), the model was trained on 8; save it with 8 bits")
    stacked = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return stacked[:, None].astype(np.float32), notes


def outputs_of(model: Model, wanted: Wanted) -> Callable[[Photograph], list[str]]:
    """All files of a photograph, relative to the output folder, the mask last: where it lies, the others do."""
    parts = ["overlays"] if wanted.overlay else []
    parts += [f"probabilities/{_safe(name)}" for name in channel_names(model).values()] if wanted.probabilities else []
    return lambda photograph: [*(f"{part}/{photograph.mask}" for part in parts), photograph.mask]


def _predict(model: Model, predictor: Predictor, photograph: Photograph, out: Path, wanted: Wanted) -> list[str]:
    photo = read_image(photograph.path)
    array, notes = network_input(model, photo.pixels)
    result = predictor.predict_single_npy_array(
        array, {"spacing": SPACING}, save_or_return_probabilities=wanted.probabilities
    )
    labels, probabilities = result if wanted.probabilities else (result, None)
    if probabilities is not None:
        for channel, name in channel_names(model).items():
            scaled = (probabilities[channel, 0] * 65535).round().astype(np.uint16)
            write_image(out / "probabilities" / _safe(name) / photograph.mask, Image.fromarray(scaled))
    if wanted.overlay:
        drawn = overlay.draw(photo.pixels, labels[0], list(wanted.meaning.names))
        write_image(out / "overlays" / photograph.mask, drawn)
    write_image(out / photograph.mask, Image.fromarray(wanted.meaning.translate(labels[0])))
    return [*notes, *(["turned upright, as its EXIF entry says"] if photo.turned else [])]


def write_image(path: Path, image: Image.Image) -> None:
    """Writes beside and renames, so that a file that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    image.save(partial, format="PNG", compress_level=PNG_EFFORT)
    partial.replace(path)


class _Account:
    """`nnvit_predict.json`: the model, how it predicted, and which masks it made of what."""

    def __init__(self, model: Model, predictor: Predictor, wanted: Wanted, out: Path) -> None:
        self.out, self.wanted = out, wanted
        part = f"_part{wanted.part_id}of{wanted.num_parts}" if wanted.num_parts > 1 else ""
        self.path = out / ACCOUNT.replace(".json", f"{part}.json")
        self.settings = {
            "model": str(model.folder.resolve()),
            "folds": list(model.folds),
            "checkpoint": model.checkpoint,
            "step_size": predictor.tile_step_size,
            "mirroring": predictor.use_mirroring,
            "values": {"background": 0} | {name: wanted.meaning.values[k] for k, name in wanted.meaning.names.items()},
        }
        self.notes: list[str] = []
        self.masks: dict[str, str] = {}
        """Mask -> photograph, of this run and of earlier ones in this folder."""

    def claim(self, photographs: list[Photograph], outputs: Callable[[Photograph], list[str]]) -> list[Photograph]:
        """Those to predict. Refuses files of others, and masks that were made otherwise and shall be kept."""
        earlier = [folders.read_json(path) for path in sorted(self.out.glob(ACCOUNT.replace(".json", "*.json")))]
        ours = {mask for account in earlier for mask in account["masks"]}
        existing = [p for p in photographs if any((self.out / output).exists() for output in outputs(p))]
        self._refuse_foreign([p.mask for p in existing if p.mask not in ours])
        if self.wanted.keep:
            self._refuse_other_settings(earlier)
        finished = [p for p in existing if all((self.out / output).is_file() for output in outputs(p))]
        if self.wanted.keep and finished:
            self.notes.append(
                f"{len(finished)} of {len(photographs)} are predicted already and kept (--continue_prediction)"
            )
        elif existing:
            self.notes.append(
                f"{len(existing)} masks in {self.out} are predicted again and overwritten; --continue_prediction keeps them"
            )
        held = folders.read_json(self.path)["masks"] if self.path.is_file() else {}
        self.masks = held | {p.mask: p.name for p in photographs}
        self._write({})
        return [p for p in photographs if not (self.wanted.keep and p in finished)]

    def close(self, outcome: Outcome) -> None:
        """Failed photographs have no mask."""
        lost = {name for mask, name in self.masks.items() if name in outcome.failed and not (self.out / mask).exists()}
        self.masks = {mask: name for mask, name in self.masks.items() if name not in lost}
        self._write(outcome.failed)

    def _write(self, failed: dict[str, str]) -> None:
        content: dict[str, Any] = {"nnvit": __version__} | self.settings
        folders.write_json(self.path, content | {"masks": self.masks, "failed": failed})

    def _refuse_foreign(self, masks: list[str]) -> None:
        if masks:
            raise DataError(
                f"{self.out} holds {len(masks)} files under names that the masks would get and that nnvit predict did not "
                f"write, e.g. {masks[0]}; give another -o, or move them away."
            )

    def _refuse_other_settings(self, earlier: list[dict[str, Any]]) -> None:
        for account in earlier:
            differ = [
                f"{key} {account.get(key)}, now {value}"
                for key, value in self.settings.items()
                if account.get(key) != value
            ]
            if differ:
                raise ConfigError(
                    f"--continue_prediction: {self.out} was predicted with {'; '.join(differ)}; going on would mix the two. "
                    "Give what it was predicted with, or another -o."
                )


def _check_model(model: Model) -> None:
    if not model.takes_photographs:
        reader, patch = model.plans.image_reader_writer_class.__name__, list(model.configuration.patch_size)
        raise ConfigError(
            f"{model.folder} was trained on {model.ending} files (reader {reader}, patch {patch}), not on photographs; -i must "
            f"be a folder of case_0000{model.ending} files."
        )


def _refuse_twins(photographs: list[Photograph]) -> None:
    """Also names that differ only in case or in how an accent is spelled: most file systems cannot hold both."""
    by_mask = defaultdict(list)
    for photograph in photographs:
        by_mask[unicodedata.normalize("NFC", photograph.mask).casefold()].append(photograph.name)
    twins = [f"{' and '.join(names)}: both would become {mask}" for mask, names in by_mask.items() if len(names) > 1]
    refuse("several photographs would share one mask", twins, "Rename or remove all but one of each.")


def _photograph(path: Path, name: Path) -> Photograph:
    return Photograph(path=path, name=name.as_posix(), mask=name.with_name(f"{name.stem}.png").as_posix())


def _folders_below(source: Path, out: Path) -> list[Path]:
    """All visible folders within, but for the output folder."""
    found = []
    for place, names, _ in os.walk(source):
        names[:] = sorted(n for n in names if not n.startswith(".") and (Path(place) / n).resolve() != out.resolve())
        found += [Path(place) / name for name in names]
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _visible(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def _one_of_three(pixels: np.ndarray) -> np.ndarray:
    differ = int((pixels != pixels[..., :1]).any(axis=-1).sum())
    if differ:
        raise DataError(
            f"it is in colour (its channels differ in {differ} pixels), the model was trained on grey; save it as grey"
        )
    return pixels[..., 0]


def _legend(wanted: Wanted) -> list[str]:
    if not wanted.overlay:
        return []
    colours = ", ".join(f"{name} {overlay.colour_of(i)}" for i, name in enumerate(wanted.meaning.names.values()))
    return [f"colours in the overlays: {colours}"]


def _safe(name: str) -> str:
    """A label's name as a folder's."""
    return "".join(c if c.isalnum() or c in " -_.()" else "_" for c in name).strip(". ") or "_"
