"""`nnvit install`: models from an untrusted zip of `nnvit export` or nnUNetv2_export_model_to_zip.

The zip is checked to hold only files of models, inside their folders, that run no code.
"""

import os
import pickle
import pydoc
import re
import shlex
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import dynamic_network_architectures  # type: ignore[import-untyped]
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from torch import nn

from nnvit.errors import ConfigError, DataError, NnvitError, PlansError, WeightsError
from nnvit.nnunet import checkpoint_file, paths
from nnvit.records.json_files import read_json
from nnvit.records.model_name import ModelName
from nnvit.weights import external

from . import ShareResult

_DATASET = re.compile(r"Dataset\d{3}_[\w.-]+")
_BESIDE_MODELS = ("ensembles", "inference_information.json", "inference_information.txt")
"""Files that nnU-Net's own export puts into a data set's folder beside the models."""

_MODEL = re.compile(r"((?!__).)+__((?!__).)+__((?!__).)+")
_CHECKPOINT, _PICKLE = ".pth", ".pkl"
_KINDS = (
    _CHECKPOINT, _PICKLE, ".json", ".txt", ".md", ".csv", ".png", ".pdf", ".svg", ".safetensors", ".onnx", ".onnx.data",
    ".nii", ".nii.gz", ".nrrd", ".mha", ".gipl", ".tif", ".tiff", ".bmp",
)  # fmt: skip
"""Endings of files in exports: weights, records, pictures, and nnU-Net's predictions of its validation.

nnU-Net unpickles any file that `-chk` names, so other endings are refused. Checkpoints and pickles are read before they are let
in; the others are not, because no command of nnU-Net or nnvit takes them for weights unless told to.
"""

_POSTPROCESSING = (
    "nnunetv2.postprocessing.remove_connected_components",
    "remove_all_but_largest_component_from_segmentation",
)
_NETWORKS = ("nnvit.model.", "dynamic_network_architectures.")
_LAYERS = ("torch.nn.", "dynamic_network_architectures.")
"""Prefixes of the names in plans that nnU-Net imports with pydoc.locate and calls.

nnU-Net looks up all other names (trainer_name in checkpoints; preprocessor_name, resampling_fn_*, normalization_schemes,
label_manager, image_reader_writer and experiment_planner_used in plans; overwrite_image_reader_writer in dataset.json) as one
attribute, without dots, of modules in one of its own packages, and calls it with arguments of its own. What these modules
import from elsewhere (batchgenerators' file functions, scipy's, typing's) cannot be called so, or runs no command. Names in
arch_kwargs of nnvit's networks are keys of its registry and of timm's list of models.
"""


def install(source: Path, name: str | None = None) -> ShareResult:
    """Unpacks a zip inside nnUNet_results, checks it there, and moves all its models into place, or none.

    name: of the data set, instead of the one in the zip. Raises DataError if it is no zip of nnU-Net models or does not fit on
    the disk, WeightsError for checkpoints that would run code, PlansError for a model that exists already.
    """
    source, results = source.expanduser(), paths.folder("nnUNet_results")
    with _ModelZip.open(source) as given:
        targets = {model: _renamed(model, given.models, name) for model in given.models}
        _refuse_taken(results, list(targets.values()))
        _check_space(sum(info.file_size for info in given.members.values()), results)
        partial = Path(tempfile.mkdtemp(prefix=".nnvit_install_", dir=results))
        try:
            notes = given.unpack(partial)
            notes += _move(partial, results, targets)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    installed = [results / target for target in targets.values()]
    then = [line for model in installed for line in _commands(model)]
    return ShareResult(paths=installed, notes=notes, then=then, done="installed")


def _renamed(model: PurePosixPath, models: Sequence[PurePosixPath], name: str | None) -> PurePosixPath:
    """Returns the place of a model below nnUNet_results."""
    if name is None:
        return model
    if not _DATASET.fullmatch(name):
        raise ConfigError(f"--name {name} must be of nnU-Net's form, such as Dataset900_Theirs.")
    if len(own := {model.parts[0] for model in models}) > 1:
        raise ConfigError(f"--name {name} is one name, but the zip holds {', '.join(sorted(own))}; leave it out.")
    return PurePosixPath(name, *model.parts[1:])


def _refuse_taken(results: Path, targets: Sequence[PurePosixPath]) -> None:
    """Raises PlansError if a model exists, and DataError if another data set has the number."""
    for target in targets:
        if (results / target).exists():
            raise PlansError(
                f"{results / target} exists and is left as it is. Install under another data set's name, such as"
                " --name Dataset900_Theirs, or move that folder away."
            )
    homes = [Path(os.environ[name]) for name in paths.VARIABLES if os.environ.get(name)]
    for dataset in (target.parts[0] for target in targets):
        others = {path.name for home in homes for path in home.glob(f"{dataset[:10]}_*")} - {dataset}
        if others:
            taken = {path.name[7:10] for home in homes for path in home.glob("Dataset*")}
            free = next(number for number in range(900, 10000) if str(number) not in taken)
            raise DataError(
                f"the number of {dataset} belongs to {', '.join(sorted(others))} here, and nnU-Net refuses a number with two"
                f" names. Install under a free one, such as --name Dataset{free}{dataset[10:]}."
            )


def _check_space(needed: int, results: Path) -> None:
    free = shutil.disk_usage(results).free
    if needed > free:
        raise DataError(
            f"the models take {needed / 2**20:,.0f} MiB, and {results} has {free / 2**20:,.0f} MiB left. Make room, or point"
            " nnUNet_results to another disk."
        )


def _move(partial: Path, results: Path, targets: dict[PurePosixPath, PurePosixPath]) -> list[str]:
    """Moves all models, or none, then what lay beside them, unless it exists; returns notes on what does."""
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
    notes = []
    datasets = {model.parts[0]: target.parts[0] for model, target in targets.items()}
    for path in sorted(partial.glob("*/*")):
        beside = results / datasets[path.parent.name] / path.name
        if beside.exists():
            notes.append(f"left {beside} as it is")
        else:
            path.rename(beside)
    return notes


def _commands(folder: Path) -> list[str]:
    """Returns the commands that predict with a model, quoted for a shell, since the names come from the zip."""
    model = ModelName.parse(folder.name)
    assert model is not None
    files = list(folder.glob("fold_*/*.pth"))
    folds = sorted({path.parent.name.removeprefix("fold_") for path in files})
    names = {path.name for path in files}
    checkpoint = None if checkpoint_file.FINAL in names else min(names)
    ours = ["-m", str(folder), *([] if checkpoint is None else ["-chk", checkpoint])]
    return [
        f"predict: {model.predict_command(folder.parent.name, folds, checkpoint=checkpoint)}",
        f"     or: nnvit predict -i IMAGES -o OUT {shlex.join(ours)}",
    ]


# --- what is in a zip ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _ModelZip:
    """An open zip whose list of contents was checked.

    members: the files in it, path -> entry; models: Dataset/Trainer__Plans__Configuration of each model.
    """

    source: Path
    zipped: zipfile.ZipFile
    members: dict[PurePosixPath, zipfile.ZipInfo]
    models: list[PurePosixPath]

    @classmethod
    @contextmanager
    def open(cls, source: Path) -> "Iterator[_ModelZip]":
        """Opens a zip. Raises DataError if it is none, turns out to be damaged while it is read, or holds anything else.

        Anything else: a path that leaves the folder, a link, an unknown ending, a name that comes twice, a file of no model.
        """
        reason: object = "it is a folder, and can be used as it is" if source.is_dir() else "there is no such file"
        if source.is_file():
            try:
                with zipfile.ZipFile(source) as zipped:
                    members = _members(zipped, source)
                    yield cls(source=source, zipped=zipped, members=members, models=_models_in(members, source))
                return
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
                reason = error
        raise DataError(
            f"{source} cannot be read as a zip ({reason}). Give one that `nnvit export` or nnUNetv2_export_model_to_zip wrote,"
            " and compare its size with the original's."
        )

    def unpack(self, target: Path) -> list[str]:
        """Unpacks and checks all files. Returns notes on weights files that the models need and this machine lacks.

        Raises NnvitError for a file that would run code when nnU-Net opens it.
        """
        self.zipped.extractall(target, self.members.values())
        try:
            for model in self.models:
                read_json(target / model / "dataset.json")
            files = sorted(path for path in target.rglob("*") if path.is_file())
            return list(dict.fromkeys(note for path in files for note in _checked(path)))
        except NnvitError as error:
            text = str(error).replace(f"{target}/", f"{self.source}:")
            raise type(error)(f"{text} Nothing was installed.") from error


def _checked(path: Path) -> list[str]:
    """Checks a file; returns a note if it is a checkpoint that refers to a weights file which is not on this machine."""
    name = path.name.lower()
    if name.endswith(_CHECKPOINT) or name.startswith("checkpoint"):
        held = external.ExternalWeights.named_in(checkpoint_file.read(path)["network_weights"])
        try:
            if held is not None:
                held.find()
        except WeightsError as error:
            return [f"it cannot predict yet: {error}"]
    elif name.endswith(_PICKLE):
        _check_pickle(path)
    elif name == "plans.json":  # of a model, or of a folder inside that would pass for one
        _check_names(read_json(path))
    return []


def _members(zipped: zipfile.ZipFile, source: Path) -> dict[PurePosixPath, zipfile.ZipInfo]:
    members = {}
    for info in zipped.infolist():
        if why := _why_not(info):
            raise DataError(f"{source} holds {info.filename!r}, which is {why}: nothing was installed.")
        if not info.is_dir():
            members[PurePosixPath(info.filename)] = info
    names = Counter(info.filename.lower() for info in zipped.infolist())
    if twice := [name for name, count in names.items() if count > 1]:
        raise DataError(f"{source} holds '{twice[0]}' twice: nothing was installed.")
    return members


def _why_not(info: zipfile.ZipInfo) -> str:
    name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
    if name.startswith("/") or "\\" in name or ":" in name or "\0" in info.orig_filename:
        return "not a path inside a folder"
    if any(part in ("..", ".", "") for part in name.removesuffix("/").split("/")):
        return "a path that leaves its folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or device, not a file"
    if info.flag_bits & 1:
        return "encrypted"
    if not name.isprintable():
        return "a name with control characters"
    if not info.is_dir() and not name.lower().endswith(_KINDS):
        return f"of a kind that no export holds (known: {', '.join(_KINDS)})"
    return ""


def _models_in(members: dict[PurePosixPath, Any], source: Path) -> list[PurePosixPath]:
    """Returns the path of each model. Raises DataError for files that belong to none."""
    found = sorted({path.parent for path in members if path.name == "plans.json" and len(path.parts) == 3})
    models = [path for path in found if _DATASET.fullmatch(path.parts[0]) and _MODEL.fullmatch(path.parts[1])]
    folds = {path.parents[1] for path in members if path.suffix == ".pth" and path.parent.name.startswith("fold_")}
    for model in models:
        if model not in folds or model / "dataset.json" not in members:
            raise DataError(f"{source}: the model {model} lacks its dataset.json or fold_*/checkpoint_final.pth.")
    beside = {PurePosixPath(model.parts[0], name) for model in models for name in _BESIDE_MODELS}
    foreign = [
        path
        for path in members
        if PurePosixPath(*path.parts[:2]) not in beside and not any(model in path.parents for model in models)
    ]
    if foreign or not models:
        why = (
            f"'{foreign[0]}' belongs to none" if models else "it holds no DatasetXXX_Name/Trainer__Plans__2d/plans.json"
        )
        raise DataError(
            f"{source} is no zip of nnU-Net models: {why}. Give one that `nnvit export … -o OUT.zip` or "
            "nnUNetv2_export_model_to_zip wrote."
        )
    return models


def _check_names(plans: Any) -> None:
    """Raises PlansError if plans name anything but classes of nnU-Net's or nnvit's networks and torch's layers."""
    try:
        foreign = [name for name, begins in _named(plans) if name is not None and not _known(name, begins)]
    except (AttributeError, KeyError, TypeError) as error:
        raise PlansError(f"its plans.json is not of nnU-Net's form ({error}).") from error
    if foreign:
        raise PlansError(
            f"its plans name {foreign[0]!r}, which nnU-Net would import and call; allowed are networks and layers whose"
            f" names begin with {', '.join(sorted({*_NETWORKS, *_LAYERS}))}. If you trust the zip, install it with"
            " nnUNetv2_install_pretrained_model_from_zip."
        )


def _known(name: Any, begins: tuple[str, ...]) -> bool:
    """Returns True if nnU-Net would find a network or layer by this name, defined in an allowed package.

    The prefix alone proves little: every module of torch can reach `torch.os`, and pydoc.locate would go there.
    """
    if not isinstance(name, str) or not name.startswith(begins):  # before anything is imported
        return False
    try:
        found = pydoc.locate(name)
        if found is None and begins == _NETWORKS:  # of older plans: its module has another name today
            package = f"{dynamic_network_architectures.__name__}.architectures"
            folder = Path(dynamic_network_architectures.__path__[0]) / "architectures"
            found = recursive_find_python_class(str(folder), name.rpartition(".")[2], package)  # as nnU-Net does
    except (ImportError, pydoc.ErrorDuringImport):
        return False
    return isinstance(found, type) and issubclass(found, nn.Module) and f"{found.__module__}.".startswith(begins)


def _named(plans: Any) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yields each name that nnU-Net imports to build a network, with its allowed prefixes."""
    for configuration in plans["configurations"].values():
        described = configuration.get("architecture", {})
        yield described.get("network_class_name"), _NETWORKS
        for key in [*described.get("_kw_requires_import", []), "conv_op"]:  # nnUNetTrainerBN always imports conv_op
            yield described.get("arch_kwargs", {}).get(key), _LAYERS


class _PostprocessingUnpickler(pickle.Unpickler):
    """Reads nnU-Net's postprocessing.pkl: one function of nnU-Net's own and its arguments."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == _POSTPROCESSING:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks to run '{module}.{name}'")


def _check_pickle(path: Path) -> None:
    """Raises WeightsError for a pickle that is not nnU-Net's postprocessing.pkl."""
    try:
        if path.name != "postprocessing.pkl":
            raise pickle.UnpicklingError("only nnU-Net's postprocessing.pkl is known")
        with open(path, "rb") as file:
            _PostprocessingUnpickler(file).load()
    except Exception as error:  # a damaged pickle raises anything
        raise WeightsError(f"{path} is a pickle, which may run code, and is refused: {error}.") from error
