"""Photographs as they are -> masks under their own names, in their own size, turned as a viewer shows them."""

import os
import time
import traceback
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from nnvit.data import mask_drawing
from nnvit.data.pairing import IMAGE_SUFFIXES, refuse
from nnvit.errors import ConfigError, DataError, NnvitError
from nnvit.nnunet.train import screen
from nnvit.records.hashes import sha256_of

from .fast_predictor import FastPredictor
from .mask_values import channel_names
from .model_folder import Model, Predictor
from .photograph_steps import Photograph, Steps, Wanted, safe
from .pipeline import overlapped
from .prediction_record import Account

Outputs = Callable[[Photograph], list[str]]


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
    outputs = outputs_of(model, wanted)
    _refuse_twins(photographs, outputs)
    mine = photographs[wanted.part_id :: wanted.num_parts]
    account = _account(model, predictor, wanted, out)
    todo, more = _claim(account, mine, outputs, wanted.keep)
    for line in [*notes, *more, *wanted.meaning.lines(), *_legend(wanted)]:
        print(line, flush=True)
    outcome = Outcome(out=out, kept=sorted({p.name for p in mine} - {p.name for p in todo}))
    steps = Steps(model, predictor, out, wanted)
    start = time.perf_counter()
    with screen.bar("predicting", len(todo), bar) as advance:
        finished = overlapped(todo, steps.read, steps.predict, steps.write)
        for done, (photograph, result) in enumerate(finished, start=1):
            error = result.exception()
            if error is None:
                outcome.predicted.append(photograph.name)
                what = f"-> {photograph.mask}{''.join(f' ({note})' for note in result.result())}"
            else:
                with suppress(OSError):
                    _delete(out, outputs(photograph))
                what = str(error) if isinstance(error, NnvitError) else f"{type(error).__name__}: {error}"
                outcome.failed[photograph.name] = what
                what = f"FAILED: {what}"
                if verbose:
                    print("".join(traceback.format_exception(error)))
            left = (time.perf_counter() - start) / done * (len(todo) - done)
            print(f"{done}/{len(todo)} {photograph.name} {what}  ETA {screen.duration(left)}", flush=True)
            advance("")
    account.end(outcome.failed)
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
        names = _few([folder.relative_to(source).as_posix() for folder in below])
        notes.append(f"folders within are left out, --recursive takes them in: {names}")
    if not chosen:
        endings = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError("; ".join([f"{source} holds no photograph ({endings})", *notes]) + ".")
    return [_photograph(path, path.relative_to(source)) for path in chosen], notes


def outputs_of(model: Model, wanted: Wanted) -> Outputs:
    """Photograph -> all that is written for it, relative to the output folder."""
    parts = ["overlays"] if wanted.overlay else []
    parts += [f"probabilities/{safe(name)}" for name in channel_names(model).values()] if wanted.probabilities else []
    return lambda photograph: [*(f"{part}/{photograph.mask}" for part in parts), photograph.mask]


def _account(model: Model, predictor: Predictor, wanted: Wanted, out: Path) -> Account:
    meaning = wanted.meaning
    settings = {
        "model": str(model.folder.resolve()),
        "folds": list(model.folds),
        "checkpoint": model.checkpoint,
        "checkpoint_sha256": [sha256_of(path) for path in model.checkpoints],
        "step_size": predictor.tile_step_size,
        "mirroring": predictor.use_mirroring,
        "fast": predictor.precision.name if isinstance(predictor, FastPredictor) else None,
        "values": {"background": 0} | {name: meaning.values[label] for label, name in meaning.names.items()},
    }
    return Account(out, settings, (wanted.num_parts, wanted.part_id))


def _claim(
    account: Account, photographs: list[Photograph], outputs: Outputs, keep: bool
) -> tuple[list[Photograph], list[str]]:
    """Those to predict, and what the user should know of the others. Refuses files of others, and mixing."""
    out = account.out
    existing = [p for p in photographs if any((out / output).exists() for output in outputs(p))]
    account.refuse_foreign([p.mask for p in existing])
    finished = [p for p in existing if all((out / output).is_file() for output in outputs(p))]
    kept = set(finished) if keep else set()
    account.refuse_made_otherwise([p.mask for p in finished if keep])
    todo = [p for p in photographs if p not in kept]
    for photograph in todo:  # before the account says what makes them, or one that is not made would pass for it
        _delete(out, outputs(photograph))
    account.begin({p.mask: p.name for p in todo})
    notes = (
        [f"{len(kept)} of {len(photographs)} are predicted already and kept (--continue_prediction)"] if kept else []
    )
    if existing and not keep:
        notes.append(
            f"{len(existing)} of {len(photographs)} are predicted already and overwritten; --continue_prediction keeps them"
        )
    return todo, notes


def _delete(out: Path, outputs: list[str]) -> None:
    for output in outputs:
        (out / output).unlink(missing_ok=True)


def _check_model(model: Model) -> None:
    if not model.takes_photographs:
        reader, patch = model.plans.image_reader_writer_class.__name__, list(model.configuration.patch_size)
        raise ConfigError(
            f"{model.folder} was trained on {model.ending} files (reader {reader}, patch {patch}), not on photographs; -i must "
            f"be a folder of case_0000{model.ending} files."
        )


def _refuse_twins(photographs: list[Photograph], outputs: Outputs) -> None:
    """Also names that differ only in case or in how an accent is spelled: most file systems cannot hold both."""
    by_output = defaultdict(list)
    for photograph in photographs:
        for output in reversed(outputs(photograph)):
            by_output[unicodedata.normalize("NFC", output).casefold()].append(photograph.name)
    twins = [
        f"{' and '.join(names)}: both would become {output}" for output, names in by_output.items() if len(names) > 1
    ]
    refuse("several photographs would share one file", twins, "Rename or remove all but one of each.")


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


def _legend(wanted: Wanted) -> list[str]:
    if not wanted.overlay:
        return []
    colours = ", ".join(f"{name} {mask_drawing.colour_of(i)}" for i, name in enumerate(wanted.meaning.names.values()))
    return [f"colours in the overlays: {colours}"]
