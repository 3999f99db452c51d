"""What a zip of nnU-Net models may hold: files of models within their folders, and nothing that runs when it is opened."""

import pickle
import pydoc
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import dynamic_network_architectures  # type: ignore[import-untyped]
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from torch import nn

from nnvit.errors import DataError, PlansError, WeightsError

DATASET = re.compile(r"Dataset\d{3}_[\w.-]+")
MODEL = re.compile(r"((?!__).)+__((?!__).)+__((?!__).)+")
BESIDE_MODELS = ("ensembles", "inference_information.json", "inference_information.txt")
"""What nnU-Net's own export keeps in a data set's folder beside the models."""

CHECKPOINT, PICKLE = ".pth", ".pkl"
KINDS = (
    CHECKPOINT, PICKLE, ".json", ".txt", ".md", ".csv", ".png", ".pdf", ".svg", ".safetensors", ".onnx", ".onnx.data",
    ".nii", ".nii.gz", ".nrrd", ".mha", ".gipl", ".tif", ".tiff", ".bmp",
)  # fmt: skip
"""What exports hold: weights, accounts, pictures, and nnU-Net's predictions of its validation.

nnU-Net unpickles whatever file `-chk` names, so that a kind that no export holds is refused. CHECKPOINT and PICKLE are read
before they are let in; the others are not, and no command of nnU-Net's or ours takes them for weights unless it is told to.
"""

POSTPROCESSING = (
    "nnunetv2.postprocessing.remove_connected_components",
    "remove_all_but_largest_component_from_segmentation",
)
NETWORKS = ("nnvit.model.", "dynamic_network_architectures.")
LAYERS = ("torch.nn.", "dynamic_network_architectures.")
"""Where the names in plans may point that nnU-Net imports and calls, which it does for these alone, with pydoc.locate.

It looks up all others (trainer_name in checkpoints; preprocessor_name, resampling_fn_*, normalization_schemes, label_manager,
image_reader_writer and experiment_planner_used in plans; overwrite_image_reader_writer in dataset.json) as one attribute of
the modules in one of its own packages, without following dots, and calls that with arguments of its own; what these modules
import besides (batchgenerators' file functions, scipy's, typing's) cannot be called so, or runs no command. Names within
arch_kwargs of nnvit's networks are keys of its registry and of timm's list of models.
"""


@contextmanager
def opened(source: Path) -> Iterator[zipfile.ZipFile]:
    """The zip. Raises DataError where there is none, or where it turns out to be damaged while it is read."""
    reason: object = "it is a folder, and serves as it is" if source.is_dir() else "there is no such file"
    if source.is_file():
        try:
            with zipfile.ZipFile(source) as zipped:
                yield zipped
            return
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            reason = error
    raise DataError(
        f"{source} cannot be read as a zip ({reason}). Give one that `nnvit export` or nnUNetv2_export_model_to_zip wrote, and"
        " compare its size with the original's."
    )


def checked(zipped: zipfile.ZipFile, source: Path) -> dict[PurePosixPath, zipfile.ZipInfo]:
    """The files in it. Raises DataError for a path that leaves the folder, a link, an unknown kind, a name that comes twice."""
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
        return "no path within a folder"
    if any(part in ("..", ".", "") for part in name.removesuffix("/").split("/")):
        return "a path that leaves its folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or device, no file"
    if info.flag_bits & 1:
        return "encrypted"
    if not name.isprintable():
        return "a name that a terminal may obey"
    if not info.is_dir() and not name.lower().endswith(KINDS):
        return f"of a kind that no export holds (known: {', '.join(KINDS)})"
    return ""


def models_in(members: dict[PurePosixPath, Any], source: Path) -> list[PurePosixPath]:
    """Dataset/Trainer__Plans__Configuration of each model. Raises DataError for files that belong to none."""
    models = sorted({path.parent for path in members if path.name == "plans.json" and len(path.parts) == 3})
    models = [path for path in models if DATASET.fullmatch(path.parts[0]) and MODEL.fullmatch(path.parts[1])]
    folds = {path.parents[1] for path in members if path.suffix == ".pth" and path.parent.name.startswith("fold_")}
    for model in models:
        if model not in folds or model / "dataset.json" not in members:
            raise DataError(f"{source}: the model {model} lacks its dataset.json or fold_*/checkpoint_final.pth.")
    foreign = [path for path in members if not _belongs(path, models)]
    if foreign or not models:
        raise DataError(
            f"{source} is no zip of nnU-Net models: "
            + (
                f"'{foreign[0]}' belongs to none. "
                if models
                else "it holds no DatasetXXX_Name/Trainer__Plans__2d/plans.json. "
            )
            + "Give one that `nnvit export … -o OUT.zip` or nnUNetv2_export_model_to_zip wrote."
        )
    return models


def _belongs(path: PurePosixPath, models: Sequence[PurePosixPath]) -> bool:
    if any(model in path.parents for model in models):
        return True
    known = {model.parts[0] for model in models}
    return len(path.parts) > 1 and path.parts[0] in known and path.parts[1] in BESIDE_MODELS


def check_names(plans: Any) -> None:
    """Raises PlansError for what plans name and is no class of nnU-Net's networks, nnvit's, or torch's layers."""
    try:
        foreign = [name for name, begins in _named(plans) if name is not None and not _known(name, begins)]
    except (AttributeError, KeyError, TypeError) as error:
        raise PlansError(f"its plans.json is not of nnU-Net's form ({error}).") from error
    if foreign:
        raise PlansError(
            f"its plans name {foreign[0]!r}, which nnU-Net would import and call; known are networks and layers whose names"
            f" begin with {', '.join(sorted({*NETWORKS, *LAYERS}))}. If you trust the zip, take"
            " nnUNetv2_install_pretrained_model_from_zip."
        )


def _known(name: Any, begins: tuple[str, ...]) -> bool:
    """Whether nnU-Net would find a network or layer by this name, defined where it may be.

    The beginning alone says little: every module of torch has `torch.os` within reach, and pydoc.locate goes there.
    """
    if not isinstance(name, str) or not name.startswith(begins):  # before anything is imported
        return False
    try:
        found = pydoc.locate(name)
        if found is None and begins == NETWORKS:
            found = _moved(name)
    except (ImportError, pydoc.ErrorDuringImport):
        return False
    return isinstance(found, type) and issubclass(found, nn.Module) and f"{found.__module__}.".startswith(begins)


def _moved(name: str) -> Any:
    """As nnU-Net finds the networks of older plans, whose modules have other names today."""
    package = f"{dynamic_network_architectures.__name__}.architectures"
    folder = Path(dynamic_network_architectures.__path__[0]) / "architectures"
    return recursive_find_python_class(str(folder), name.rpartition(".")[2], package)


def _named(plans: Any) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """What nnU-Net imports by name as it builds a network, and what such a name may begin with."""
    for configuration in plans["configurations"].values():
        described = configuration.get("architecture", {})
        yield described.get("network_class_name"), NETWORKS
        for key in [*described.get("_kw_requires_import", []), "conv_op"]:  # nnUNetTrainerBN asks nobody for this one
            yield described.get("arch_kwargs", {}).get(key), LAYERS


class _Known(pickle.Unpickler):
    """Reads nnU-Net's postprocessing.pkl: one function of nnU-Net's own and its arguments."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == POSTPROCESSING:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks to run '{module}.{name}'")


def check_pickle(path: Path) -> None:
    """Raises WeightsError for a pickle that is not nnU-Net's account of its postprocessing."""
    try:
        if path.name != "postprocessing.pkl":
            raise pickle.UnpicklingError("only nnU-Net's postprocessing.pkl is known")
        with open(path, "rb") as file:
            _Known(file).load()
    except Exception as error:  # a damaged pickle raises anything
        raise WeightsError(f"{path} is a pickle, which may run code, and is refused: {error}.") from error
