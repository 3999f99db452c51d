"""The runs of an arm with the records of their trainings: nnvit_run.json, debug.json, plans.json, dataset.json and the log.

Checkpoints are not opened. What no record states is None; nothing is inferred from a default.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Self

from nnvit.errors import CompareError
from nnvit.records.json_files import read_json
from nnvit.records.model_name import ModelName

from .mask_files import ENDINGS, case_of, masks_in

TRAINING = ("debug.json", "training_log_*", "nnvit_run.json", "checkpoint_*.pth", "progress.png")
"""Files that a training writes into its fold: pictures beside them are nnU-Net's, not masks."""
TIME = r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?): "
WRAPPERS = {"DeepSupervisionWrapper", "OptimizedModule"}
"""Classes that wrap a loss without changing it; deep supervision has a row of its own in the audit."""
WITHOUT_EFFECT = {"MirrorTransform", "DownsampleSegForDSTransform"}
"""Transforms that have rows of their own in the audit: mirroring, deep supervision."""
NOISE = (
    r"patch_size = \[[^\]]*\], ", r"patch_size = \([^)]*\), ", r", _grid_cache = \{[^}]*\}",
    r", benchmark_use_fft = \{[^}]*\}", r"benchmark = \w+, ", r" at 0x[0-9a-f]+",
)  # fmt: skip
"""Parts of a transform's text that have a row of their own or differ from run to run."""


@dataclass(kw_only=True, eq=False)
class Run:
    """One training of an arm on one data set: all its folds. Its files are read at most once.

    name: "" where the arm has one run. model: the folder with plans.json and dataset.json, None where there is none.
    plans: the content of plans.json. recipe, recipe_hash (which leaves out the seed): in nnvit's plans, empty for other
    trainers. folds: those whose masks are compared. unfinished: folds that were begun and hold no masks.
    """

    dataset: str
    name: str = ""
    path: Path
    model: Path | None
    configuration: str
    plans: dict[str, Any] = field(repr=False)
    recipe: dict[str, Any] = field(repr=False)
    recipe_hash: str
    folds: tuple["Fold", ...] = ()
    unfinished: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path, dataset: str, configuration: str, wanted: Sequence[str] | None = None) -> Self:
        """Reads a results folder, one of its folds, or a folder of masks.

        dataset, configuration: where no record names them. wanted: the folds, None for all. Raises CompareError where it holds
        nothing to compare, or not all folds that are wanted.
        """
        if path.name == "validation" and path.resolve().parent.name.startswith("fold_"):
            path = path.resolve().parent
        folders = {each.name.removeprefix("fold_"): each for each in sorted(path.glob("fold_*")) if each.is_dir()}
        if not folders and path.name.startswith("fold_") and (path / "validation").is_dir():
            folders, wanted = {path.name.removeprefix("fold_"): path}, None
        if folders:
            run = cls._described(path, (path, path.parent), dataset, configuration)
            run._add_folds(folders, wanted)
            return run
        # the plans around the masks come first: nnUNetv2_predict copies plans to its masks
        above = [folder for folder in list(path.resolve().parents)[:2] if any(folder.glob("fold_*"))]
        run = cls._described(path, (*above, path), dataset, configuration)
        run.folds = (Fold(run=run, name="", folder=path, predictions=_loose_masks(path)),)
        if not run.predictions:
            raise CompareError(
                f"{path} holds neither fold_0, fold_1, … nor masks ({', '.join(ENDINGS)}). An arm is a results folder "
                "(Trainer__Plans__configuration) with its validation masks, or a folder of predicted masks."
            )
        return run

    @classmethod
    def _described(cls, path: Path, models: Sequence[Path], dataset: str, configuration: str) -> Self:
        """The run in `path`, still without folds, with the plans of the first of `models` that has any."""
        model = next((folder for folder in models if (folder / "plans.json").is_file()), None)
        plans = read_json(model / "plans.json", CompareError) if model else {}
        configurations = plans.get("configurations", {})
        named = ModelName.parse(model.resolve().name) if model else None
        only = configurations if len(configurations) == 1 else ()
        choices = (named.configuration if named else "", configuration, *only)
        configuration = next((choice for choice in choices if choice in configurations), configuration)
        block = configurations.get(configuration, {}).get("nnvit", {})  # nnvit adds it to the configuration
        in_path = [part for part in path.resolve().parts if re.match(r"Dataset\d{3}_", part)]
        return cls(
            dataset=plans.get("dataset_name") or (in_path[-1] if in_path else dataset),
            path=path,
            model=model,
            configuration=configuration,
            plans=plans,
            recipe=block.get("recipe", {}),
            recipe_hash=block.get("hash", ""),
        )

    def _add_folds(self, folders: dict[str, Path], wanted: Sequence[str] | None) -> None:
        missing = [name for name in wanted or () if name not in folders]
        if missing:
            raise CompareError(
                f"{self.path} has no fold {', '.join(missing)}; it has {', '.join(folders)}. "
                "Train the missing folds, or choose others with --folds."
            )
        for name in wanted if wanted is not None else folders:
            masks = masks_in(folders[name] / "validation") or _loose_masks(folders[name])
            if masks:
                self.folds += (Fold(run=self, name=name, folder=folders[name], predictions=masks),)
            else:
                self.unfinished += (name,)
        if not self.folds or (wanted and self.unfinished):
            raise CompareError(
                f"{self.path}: fold {', '.join(self.unfinished)} holds no masks in validation/, so there is nothing to compare. "
                "Finish the training, or run its validation with `nnUNetv2_train … --val` (`nnvit train … --val`)."
            )

    @property
    def training(self) -> dict[str, Any]:
        """The section `training` of the recipe; empty for other trainers."""
        return self.recipe.get("training", {})

    @property
    def seed(self) -> int | None:
        """The seed in the recipe."""
        return self.training.get("seed")

    @property
    def tuning(self) -> str | None:
        """The kind of tuning, "lora", "frozen" or "full", by the rule of `nnvit.recipe.schema`; None without a recipe."""
        if not self.recipe:
            return None
        if self.recipe.get("lora", {}).get("enabled"):
            return "lora"
        model = self.recipe.get("model", {})
        return "frozen" if model.get("head") != "plans" and model.get("freeze_backbone") else "full"

    @property
    def folder_name(self) -> str:
        """The name of the results folder, or of the folder of masks where there is none."""
        return (self.model or self.path).resolve().name

    @property
    def predictions(self) -> dict[str, Path]:
        """Case -> mask, over all folds."""
        return {case: path for fold in self.folds for case, path in fold.predictions.items()}

    @cached_property
    def dataset_json(self) -> dict[str, Any]:
        """dataset.json of the results folder."""
        return _content(self.model / "dataset.json") if self.model else {}

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """dataset_fingerprint.json of the results folder."""
        return _content(self.model / "dataset_fingerprint.json") if self.model else {}

    @cached_property
    def trained(self) -> tuple["Fold", ...]:
        """The folds that were trained: `folds`, except for masks that a results folder's model predicted later."""
        plain = len(self.folds) == 1 and self.folds[0].name == ""
        folders = sorted(self.model.glob("fold_*")) if plain and self.model else []
        names = [(each.name.removeprefix("fold_"), each) for each in folders]
        return tuple(Fold(run=self, name=name, folder=each, predictions={}) for name, each in names) or self.folds


@dataclass(kw_only=True, eq=False)
class Fold:
    """One fold of a run: its masks, and the records of its training. Every file is read at most once, when it is asked for.

    name: "0", "all", or "" for a plain folder of masks. folder: holds its records. predictions: case -> mask.
    """

    run: Run = field(repr=False)
    name: str
    folder: Path
    predictions: dict[str, Path]

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """nnvit_run.json."""
        return _content(self.folder / "nnvit_run.json")

    def recorded(self, *keys: str) -> Any:
        """Returns an entry of nnvit_run.json, by the keys that lead to it; None where it is absent."""
        held: Any = self.manifest
        for key in keys:
            held = held.get(key) if isinstance(held, dict) else None
        return held

    @cached_property
    def debug(self) -> dict[str, Any]:
        """debug.json: the trainer's attributes as text."""
        return _content(self.folder / "debug.json")

    @cached_property
    def log(self) -> "_Log":
        """The content of the log files."""
        return _Log(self.folder)

    @cached_property
    def evaluated(self) -> dict[str, dict[str, Any]]:
        """Case -> its entry in validation/summary.json, nnU-Net's own scores."""
        inner = self.folder / "validation" / "summary.json"
        content = _content(inner if inner.is_file() else self.folder / "summary.json")
        found = {}
        for entry in content.get("metric_per_case", ()):
            path = Path(str(entry["prediction_file"]).replace("\\", "/"))
            found[case_of(path) or path.name] = entry
        return found

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """The configuration that the trainer used, else the one in the plans with what it inherits."""
        try:
            held = ast.literal_eval(self.debug.get("configuration_manager") or "{}")
        except (ValueError, SyntaxError):
            held = {}
        configurations = self.run.plans.get("configurations", {})
        return held if held and isinstance(held, dict) else _inherited(configurations, self.run.configuration)

    @property
    def is_empty(self) -> bool:
        """True if nothing at all is recorded about the training."""
        return not (self.configuration or self.manifest or self.debug)

    @property
    def network_class(self) -> str | None:
        """The last part of the class that the plans name, such as PlainConvUNet."""
        name = self.configuration.get("architecture", {}).get("network_class_name") or self.debug.get("network")
        return name.split(".")[-1] if name else None

    @property
    def loss(self) -> str | None:
        """`DC_and_CE_loss(RobustCrossEntropyLoss, MemoryEfficientSoftDiceLoss)`, without its wrappers."""
        names = [name for name in re.findall(r"(\w+)\(", self.debug.get("loss") or "") if name not in WRAPPERS]
        if not names:
            return None
        return f"{names[0]}({', '.join(names[1:])})" if len(names) > 1 else names[0]

    @property
    def _augmentation(self) -> str:
        """The text of the training's transforms; empty where no record states them."""
        text = self.manifest.get("augmentation") or self.debug.get("dataloader_train.generator.transforms")
        return text if isinstance(text, str) and "ComposeTransforms" in text else ""

    @cached_property
    def transforms(self) -> list[str] | None:
        """The transforms of the training in their order, without patch size and mirroring; None where not on record."""
        text = self._augmentation
        if not text:
            return None
        parts = [re.sub(r"\s+", " ", part).strip() for part in _top_level(text[text.index("[") + 1 : text.rindex("]")])]
        parts = [part for part in parts if part and not any(f"{name}(" in part for name in WITHOUT_EFFECT)]
        for pattern in NOISE:
            parts = [re.sub(pattern, "", part) for part in parts]
        return parts

    @property
    def mirror_axes(self) -> list[int] | None:
        """The axes that training mirrors; empty where it does not mirror, None where no record states it."""
        if not self._augmentation:
            return list(self.manifest["mirroring_axes"] or ()) if "mirroring_axes" in self.manifest else None
        found = re.search(r"MirrorTransform\(\s*allowed_axes = (\([^)]*\)|\[[^\]]*\])", self._augmentation)
        return list(ast.literal_eval(found[1])) if found else []

    @property
    def device(self) -> str | None:
        """`NVIDIA A100`, `cpu (x86_64, AVX512)`; None where no record states it."""
        return self.manifest.get("device") or self.debug.get("gpu_name") or self.debug.get("device")


def _loose_masks(folder: Path) -> dict[str, Path]:
    """The masks of a folder that holds only masks; empty for a folder that a training writes to."""
    return {} if any(any(folder.glob(name)) for name in TRAINING) else masks_in(folder)


def _content(path: Path) -> dict[str, Any]:
    """The content of a JSON file, empty where there is none."""
    content = read_json(path, CompareError) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _inherited(configurations: dict[str, Any], name: str) -> dict[str, Any]:
    own = dict(configurations.get(name, {}))
    parent = own.pop("inherits_from", None)
    return (_inherited(configurations, parent) if parent in configurations else {}) | own


class _Log:
    """The content of one fold's training_log_*.txt, all of them in order; a continued fold has several.

    epochs: done. first_rate: the first learning rate. epoch_seconds: of each epoch. case_seconds: from case to case in the
    last final validation. checkpoint: "final" or "best", the one that was validated. mirrored: in that validation.
    """

    def __init__(self, folder: Path) -> None:
        paths = sorted(folder.glob("training_log_*.txt"))
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
        text = "\n".join(texts)
        marks = re.findall(TIME + r"(?:Epoch (\d+)\s*$|Epoch time: ([\d.]+) s)", text, re.MULTILINE)
        begun = [int(number) for _, number, _ in marks if number]
        # by the epoch's number: an epoch that was repeated counts once
        seconds = {int(number): float(time) for (_, number, _), (_, _, time) in pairwise(marks) if number and time}
        split = re.findall(r"split has (\d+) training and (\d+) validation cases", text)
        rate = re.search(r"Current learning rate: ([\d.e+-]+)", text)
        first = re.search(TIME, text, re.MULTILINE)
        mirrored = re.findall(r"validating \d+ cases .*(with|without) mirroring", text)
        predicted = [re.findall(TIME + r"predicting ", each, re.MULTILINE) for each in texts]
        last: list[str] = next((times for times in reversed(predicted) if len(times) > 1), [])
        self.epochs = max(seconds or begun) + 1 if begun else None
        self.finished = "Training done." in text
        self.train_cases = int(split[-1][0]) if split else None
        self.val_cases = int(split[-1][1]) if split else None
        self.overlap = "Some validation cases are also in the training set" in text
        self.first_rate = float(rate[1]) if rate else None
        self.epoch_seconds = tuple(seconds.values())
        self.case_seconds = tuple((b - a).total_seconds() for a, b in pairwise(map(datetime.fromisoformat, last)))
        self.checkpoint = _validated(text)
        self.mirrored = mirrored[-1] == "with" if mirrored else None
        self.start = datetime.fromisoformat(first[1]) if first else None


def _validated(text: str) -> str | None:
    """The checkpoint that was validated last, by nnvit's log; stock nnU-Net writes the same text for both."""
    place = text.rfind("validating ")
    if place < 0:
        return None
    before = text[:place]
    loaded = list(re.finditer(r"continuing after (?:epoch )?(\d+) of (\d+)", before))
    if loaded and loaded[-1].start() > before.rfind("Training done."):
        return "final" if loaded[-1][1] == loaded[-1][2] else "best"
    return "final" if "Training done." in before else None


def _top_level(text: str) -> list[str]:
    """Splits at the commas that no bracket encloses."""
    depths = list(accumulate((letter in "([{") - (letter in ")]}") for letter in text))
    commas = [place for place, letter in enumerate(text) if letter == "," and depths[place] == 0]
    return [text[start + 1 : end] for start, end in pairwise([-1, *commas, len(text)])]
