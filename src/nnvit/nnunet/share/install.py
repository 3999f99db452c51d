"""`nnvit install`: models from zips of `nnvit export` or nnUNetv2_export_model_to_zip, with nothing in them trusted."""

import os
import shlex
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nnvit.errors import ConfigError, DataError, NnvitError, PlansError, WeightsError
from nnvit.nnunet import checkpoint_file, paths
from nnvit.nnunet.predict.model_folder import FINAL
from nnvit.records.json_files import read_json
from nnvit.records.model_name import ModelName
from nnvit.weights import external

from . import zip_contents


@dataclass(frozen=True, kw_only=True)
class Installed:
    """models: the new folders; notes: what a user should know; then: how to predict with each."""

    models: Sequence[Path]
    notes: Sequence[str]
    then: Sequence[str]

    def lines(self) -> list[str]:
        """The outcome for a terminal."""
        return [*(f"installed {model}" for model in self.models), *self.notes, *self.then]


def install(source: Path, name: str | None = None) -> Installed:
    """Unpacks a zip beside nnUNet_results' models, checks it there, and moves all its models into place, or none.

    name: of the data set, instead of the one in the zip. Raises DataError for what is no zip of nnU-Net models, or does not
    fit on the disk, WeightsError for checkpoints that would run code, PlansError for a model that is there already.
    """
    source, results = source.expanduser(), paths.folder("nnUNet_results")
    with zip_contents.opened(source) as zipped:
        members = zip_contents.checked(zipped, source)
        models = zip_contents.models_in(members, source)
        targets = {model: _renamed(model, models, name) for model in models}
        _refuse_taken(results, list(targets.values()))
        _check_space(zipped, results)
        partial = Path(tempfile.mkdtemp(prefix=".nnvit_install_", dir=results))
        try:
            _extract(zipped, members, partial)
            notes = _check(partial, models, source)
            _move(partial, results, targets)
            notes += _move_rest(partial, results, members, targets)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    installed = [results / target for target in targets.values()]
    return Installed(models=installed, notes=notes, then=[line for model in installed for line in _commands(model)])


# --- where it may go --------------------------------------------------------------------------------------------------


def _renamed(model: PurePosixPath, models: Sequence[PurePosixPath], name: str | None) -> PurePosixPath:
    """Where a model goes, below nnUNet_results."""
    if name is None:
        return model
    if not zip_contents.DATASET.fullmatch(name):
        raise ConfigError(f"--name {name} must be of nnU-Net's form, such as Dataset900_Theirs.")
    if len(own := {model.parts[0] for model in models}) > 1:
        raise ConfigError(f"--name {name} is one name, but the zip holds {', '.join(sorted(own))}; leave it out.")
    return PurePosixPath(name, *model.parts[1:])


def _refuse_taken(results: Path, targets: Sequence[PurePosixPath]) -> None:
    """Raises PlansError where a model lies, and DataError where a number belongs to another data set."""
    for target in targets:
        if (results / target).exists():
            raise PlansError(
                f"{results / target} exists and is left as it is. Install under another data set's name, such as"
                " --name Dataset900_Theirs, or move that folder away."
            )
    for target in targets:
        dataset = target.parts[0]
        homes = [Path(os.environ[name]) for name in paths.VARIABLES if os.environ.get(name)]
        others = {path.name for home in homes for path in home.glob(f"{dataset[:10]}_*")} - {dataset}
        if others:
            raise DataError(
                f"the number of {dataset} belongs to {', '.join(sorted(others))} here, and nnU-Net refuses a number with two"
                f" names. Install under a free one, such as --name Dataset{_free(homes)}{dataset[10:]}."
            )


def _free(homes: Sequence[Path]) -> int:
    taken = {path.name[7:10] for home in homes for path in home.glob("Dataset*")}
    return next(number for number in range(900, 10000) if str(number) not in taken)


def _check_space(zipped: zipfile.ZipFile, results: Path) -> None:
    needed, free = sum(info.file_size for info in zipped.infolist()), shutil.disk_usage(results).free
    if needed > free:
        raise DataError(
            f"the models take {needed / 2**20:,.0f} MiB, and {results} has {free / 2**20:,.0f} MiB left. Make room, or point"
            " nnUNet_results to another disk."
        )


# --- unpacking and checking ------------------------------------------------------------------------------------------


def _extract(zipped: zipfile.ZipFile, members: dict[PurePosixPath, zipfile.ZipInfo], partial: Path) -> None:
    for path, info in members.items():
        target = partial / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipped.open(info) as packed, open(target, "wb") as file:
            shutil.copyfileobj(packed, file, 2**20)


def _check(partial: Path, models: Sequence[PurePosixPath], source: Path) -> list[str]:
    """Raises NnvitError for what would run code when nnU-Net opens it; what the models need besides."""
    notes = []
    try:
        for model in models:
            read_json(partial / model / "dataset.json")
        for path in sorted(path for path in partial.rglob("*") if path.is_file()):
            name = path.name.lower()
            if name.endswith(zip_contents.CHECKPOINT) or name.startswith("checkpoint"):
                notes += _needs(checkpoint_file.read(path))
            elif name.endswith(zip_contents.PICKLE):
                zip_contents.check_pickle(path)
            elif name == "plans.json":  # of a model, or of a folder within that would pass for one
                zip_contents.check_names(read_json(path))
    except NnvitError as error:
        text = str(error).replace(f"{partial}/", f"{source}:")
        raise type(error)(f"{text} Nothing was installed.") from error
    return list(dict.fromkeys(notes))


def _needs(content: dict[str, Any]) -> list[str]:
    """A note where a checkpoint leaves weights out that are not on this machine."""
    held = external.reference_of(content["network_weights"])
    if held is None:
        return []
    try:
        external.find(held)
    except WeightsError as error:
        return [f"it cannot predict yet: {error}"]
    return []


# --- moving into place -----------------------------------------------------------------------------------------------


def _move(partial: Path, results: Path, targets: dict[PurePosixPath, PurePosixPath]) -> None:
    """All models, or none."""
    moved: list[Path] = []
    try:
        for model, target in targets.items():
            (results / target).parent.mkdir(exist_ok=True)
            (partial / model).rename(results / target)
            moved.append(results / target)
    except OSError:
        for path in moved:
            shutil.rmtree(path)
        raise


def _move_rest(
    partial: Path,
    results: Path,
    members: dict[PurePosixPath, Any],
    targets: dict[PurePosixPath, PurePosixPath],
) -> list[str]:
    """Ensembles and nnU-Net's choice of configuration, where there are none yet."""
    datasets = {model.parts[0]: target.parts[0] for model, target in targets.items()}
    rest = sorted({PurePosixPath(*path.parts[:2]) for path in members if path.parts[1] in zip_contents.BESIDE_MODELS})
    notes = []
    for path in rest:
        target = results / datasets[path.parts[0]] / path.parts[1]
        if target.exists():
            notes.append(f"left {target} as it is")
        else:
            (partial / path).rename(target)
    return notes


def _commands(folder: Path) -> list[str]:
    """Returns the commands that predict with a model, quoted: its names are the zip's, and users paste the lines."""
    model = ModelName.parse(folder.name)
    assert model is not None
    folds = sorted({path.parent.name.removeprefix("fold_") for path in folder.glob("fold_*/*.pth")})
    names = {path.name for path in folder.glob("fold_*/*.pth")}
    checkpoint = None if FINAL in names else min(names)
    ours = ["-m", str(folder), *([] if checkpoint is None else ["-chk", checkpoint])]
    return [
        f"predict: {model.predict_command(folder.parent.name, folds, checkpoint=checkpoint)}",
        f"     or: nnvit predict -i IMAGES -o OUT {shlex.join(ours)}",
    ]
