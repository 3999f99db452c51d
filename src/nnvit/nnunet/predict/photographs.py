"""Predicts photographs of any name and size; each mask has its photograph's name and size, and is upright."""

import os
import time
import traceback
import unicodedata
from collections import defaultdict
from contextlib import suppress
from itertools import cycle
from pathlib import Path

from nnvit.data import mask_drawing
from nnvit.data.pairing import IMAGE_SUFFIXES, refuse
from nnvit.errors import ConfigError, DataError, NnvitError
from nnvit.nnunet import progress
from nnvit.nnunet.model_folder import TrainedModel

from .photograph_pipeline import PhotographFile, PhotographOptions, PhotographPipeline
from .prediction_record import PredictionOutcome, PredictionRecord, notes_on_existing, prediction_settings
from .stock_predictor import StockPredictor


def predict_photographs(
    model: TrainedModel,
    predictor: StockPredictor,
    source: Path,
    out: Path,
    options: PhotographOptions,
    *,
    verbose: bool = False,
    bar: bool = True,
) -> PredictionOutcome:
    """Predicts each photograph by itself; one that fails is recorded, and the others go on.

    Args:
        source: a folder of photographs, or one photograph.
        out: gets the masks as png, `overlays/`, `probabilities/<label>/` and nnvit_predict.json.
        verbose: print the traceback of a failure.

    Raises:
        ConfigError: the model takes no photographs, or masks to keep were predicted with other settings.
        DataError: nothing to predict, two photographs with one name, or an output folder that holds other files of these names.
    """
    _check_model(model)
    photographs, notes = _find_photographs(source, out, options.recursive)
    pipeline = PhotographPipeline(model, predictor, out, options)
    _refuse_twins(photographs, pipeline)
    mine = photographs[options.part_id :: options.num_parts]
    settings = prediction_settings(model, predictor) | {"values": options.legend.by_name()}
    record = PredictionRecord(out, settings, (options.num_parts, options.part_id))
    todo, more = _claim(record, mine, pipeline)
    for line in [*notes, *more, *options.legend.lines(), *_colours(options)]:
        print(line, flush=True)
    outcome = PredictionOutcome(out=out, kept=sorted({p.name for p in mine} - {p.name for p in todo}))
    start = time.perf_counter()
    with progress.bar("predicting", len(todo), bar) as advance:
        for done, (photograph, result) in enumerate(pipeline.run(todo), start=1):
            error = result.exception()
            if error is None:
                outcome.predicted.append(photograph.name)
                said = f"-> {photograph.mask}{''.join(f' ({note})' for note in result.result())}"
            else:
                with suppress(OSError):
                    _delete(out, pipeline.outputs(photograph))
                reason = str(error) if isinstance(error, NnvitError) else f"{type(error).__name__}: {error}"
                outcome.failed[photograph.name] = reason
                said = f"FAILED: {reason}"
                if verbose:
                    print("".join(traceback.format_exception(error)))
            left = (time.perf_counter() - start) / done * (len(todo) - done)
            print(f"{done}/{len(todo)} {photograph.name} {said}  ETA {progress.duration(left)}", flush=True)
            advance("")
    record.end(outcome.failed)
    return outcome


def _check_model(model: TrainedModel) -> None:
    if not model.takes_photographs:
        reader, patch = model.plans.image_reader_writer_class.__name__, list(model.configuration.patch_size)
        raise ConfigError(
            f"{model.folder} was trained on {model.ending} files (reader {reader}, patch {patch}), not on photographs; -i must "
            f"be a folder of case_0000{model.ending} files."
        )


def _find_photographs(source: Path, out: Path, recursive: bool) -> tuple[list[PhotographFile], list[str]]:
    """Returns the photographs, sorted, and notes for the user about other files. Raises DataError if there is none."""
    if source.is_file():
        return [_photograph(source, Path(source.name))], []
    if not source.is_dir():
        raise DataError(f"-i {source} does not exist; give a folder of photographs, or one photograph.")
    if source.resolve() == out.resolve():
        raise DataError(f"-i and -o are both {source}; the masks need a folder of their own.")
    below = _folders_below(source, out)
    files = [
        path
        for folder in [source, *(below if recursive else [])]
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".")
    ]
    chosen = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    others = [path.name for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
    notes = [f"other files are left out: {_few(others)}"] if others else []
    if below and not recursive:
        names = _few([folder.relative_to(source).as_posix() for folder in below])
        notes.append(f"folders inside are left out, --recursive takes them in: {names}")
    if not chosen:
        endings = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError("; ".join([f"{source} holds no photograph ({endings})", *notes]) + ".")
    return [_photograph(path, path.relative_to(source)) for path in chosen], notes


def _photograph(path: Path, name: Path) -> PhotographFile:
    return PhotographFile(path=path, name=name.as_posix(), mask=name.with_name(f"{name.stem}.png").as_posix())


def _folders_below(source: Path, out: Path) -> list[Path]:
    """Returns all visible folders inside `source` except the output folder."""
    found = []
    for place, names, _ in os.walk(source):
        names[:] = sorted(n for n in names if not n.startswith(".") and (Path(place) / n).resolve() != out.resolve())
        found += [Path(place) / name for name in names]
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _refuse_twins(photographs: list[PhotographFile], pipeline: PhotographPipeline) -> None:
    """Raises DataError if photographs would share an output file.

    Names that differ only in case or in the encoding of accents count as equal: most file systems cannot hold both.
    """
    by_output = defaultdict(list)
    for photograph in photographs:
        for output in reversed(pipeline.outputs(photograph)):
            by_output[unicodedata.normalize("NFC", output).casefold()].append(photograph.name)
    twins = [
        f"{' and '.join(names)}: both would become {output}" for output, names in by_output.items() if len(names) > 1
    ]
    refuse("several photographs would share one file", twins, "Rename or remove all but one of each.")


def _claim(
    record: PredictionRecord, photographs: list[PhotographFile], pipeline: PhotographPipeline
) -> tuple[list[PhotographFile], list[str]]:
    """Returns the photographs to predict, and notes on the others. Refuses foreign files and masks of other settings."""
    out, keep = record.out, pipeline.options.keep
    existing = [p for p in photographs if any((out / output).exists() for output in pipeline.outputs(p))]
    record.refuse_foreign([p.mask for p in existing])
    finished = [p for p in existing if all((out / output).is_file() for output in pipeline.outputs(p))]
    kept = set(finished) if keep else set()
    record.refuse_made_otherwise([p.mask for p in finished if keep])
    todo = [p for p in photographs if p not in kept]
    for photograph in todo:  # before the record names them, so that no old mask passes for a new one
        _delete(out, pipeline.outputs(photograph))
    record.begin({p.mask: p.name for p in todo})
    return todo, notes_on_existing(len(kept) if keep else len(existing), str(len(photographs)), keep=keep)


def _delete(out: Path, outputs: list[str]) -> None:
    for output in outputs:
        (out / output).unlink(missing_ok=True)


def _colours(options: PhotographOptions) -> list[str]:
    if not options.overlay:
        return []
    named = zip(options.legend.names.values(), cycle(mask_drawing.COLOURS), strict=False)
    return [f"colours in the overlays: {', '.join(f'{name} {colour}' for name, colour in named)}"]
