"""The records that a training left: nnvit_run.json, debug.json, plans.json, dataset.json and its log.

Checkpoints are not opened. What no record states is None; nothing is inferred from a default.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from nnvit.errors import CompareError
from nnvit.records.json_files import read_json

from .arms import Arm, Fold, Run

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


@dataclass(frozen=True, kw_only=True)
class _Log:
    """The content of one fold's training_log_*.txt, all of them in order; a continued fold has several.

    epochs: done. first_rate: the first learning rate. epoch_seconds: of each epoch. case_seconds: from case to case in the
    last final validation. checkpoint: "final" or "best", the one that was validated. mirrored: in that validation.
    """

    epochs: int | None
    finished: bool
    train_cases: int | None
    val_cases: int | None
    overlap: bool
    first_rate: float | None
    epoch_seconds: tuple[float, ...]
    case_seconds: tuple[float, ...]
    checkpoint: str | None
    mirrored: bool | None
    start: datetime | None


class Records:
    """The records of one fold. Every file is read at most once, when it is first asked for."""

    def __init__(self, run: Run, fold: Fold, files: dict[Path, dict[str, Any]]) -> None:
        self.run, self.fold, self._files = run, fold, files

    def _json(self, path: Path | None) -> dict[str, Any]:
        """The content of a JSON file, empty where there is none; Records of one comparison share what was read."""
        if path is None or not path.is_file():
            return {}
        if path not in self._files:
            content = read_json(path, CompareError)
            self._files[path] = content if isinstance(content, dict) else {}
        return self._files[path]

    def _model_json(self, name: str) -> dict[str, Any]:
        return self._json(self.run.model / name if self.run.model else None)

    @property
    def manifest(self) -> dict[str, Any]:
        """nnvit_run.json."""
        return self._json(self.fold.folder / "nnvit_run.json")

    @property
    def debug(self) -> dict[str, Any]:
        """debug.json: the trainer's attributes as text."""
        return self._json(self.fold.folder / "debug.json")

    @property
    def plans(self) -> dict[str, Any]:
        """plans.json of the results folder."""
        return self.run.plans

    @property
    def dataset(self) -> dict[str, Any]:
        """dataset.json of the results folder."""
        return self._model_json("dataset.json")

    @property
    def fingerprint(self) -> dict[str, Any]:
        """dataset_fingerprint.json of the results folder."""
        return self._model_json("dataset_fingerprint.json")

    @property
    def summary(self) -> dict[str, Any]:
        """validation/summary.json, nnU-Net's own scores."""
        inner = self.fold.folder / "validation" / "summary.json"
        return self._json(inner if inner.is_file() else self.fold.folder / "summary.json")

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """The configuration that the trainer used, else the one in the plans with what it inherits."""
        held = _literal(self.debug.get("configuration_manager"))
        return held or _inherited(self.plans.get("configurations", {}), self.run.configuration)

    @property
    def training(self) -> dict[str, Any]:
        """The section `training` of the recipe; empty for other trainers."""
        return self.run.recipe.get("training", {})

    @cached_property
    def log(self) -> _Log:
        """The content of the log files."""
        return _read_log(self.fold.folder)

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
        return _loss_name(self.debug.get("loss"))

    @property
    def transforms(self) -> list[str] | None:
        """The transforms of the training in their order, None where no record states them."""
        return _transforms(self._augmentation)

    @property
    def mirror_axes(self) -> list[int] | None:
        """The axes that training mirrors; empty where it does not mirror, None where no record states it."""
        axes = _mirror_axes(self._augmentation)
        if axes is None and "mirroring_axes" in self.manifest:
            axes = self.manifest["mirroring_axes"] or []
        return axes

    @property
    def _augmentation(self) -> str | None:
        text = self.manifest.get("augmentation") or self.debug.get("dataloader_train.generator.transforms")
        return text if isinstance(text, str) else None

    @property
    def device(self) -> str | None:
        """`NVIDIA A100`, `cpu (x86_64, AVX512)`; None where no record states it."""
        return self.manifest.get("device") or self.debug.get("gpu_name") or self.debug.get("device")


@dataclass(frozen=True, kw_only=True)
class ArmRecords:
    """The records of one arm: trained: one per fold that was trained. masks: one per fold whose masks are compared.

    They are the same, except for masks that a results folder's model predicted later: those have the model's folds.
    """

    trained: tuple[Records, ...]
    masks: tuple[Records, ...]


def read_records(arms: Sequence[Arm]) -> dict[str, ArmRecords]:
    """Returns the records of each arm, by its name."""
    files: dict[Path, dict[str, Any]] = {}
    found = {}
    for arm in arms:
        trained: list[Records] = []
        masks: list[Records] = []
        for run in arm.runs:
            own = [Records(run, fold, files) for fold in run.folds]
            plain = len(run.folds) == 1 and run.folds[0].name == ""
            folders = sorted(run.model.glob("fold_*")) if plain and run.model else []
            masks += own
            trained += [
                Records(run, Fold(name=folder.name.removeprefix("fold_"), folder=folder, predictions={}), files)
                for folder in folders
            ] or own
        found[arm.name] = ArmRecords(trained=tuple(trained), masks=tuple(masks))
    return found


def tuning_of(recipe: dict[str, Any]) -> str | None:
    """Returns "lora", "frozen" or "full", by the recipe's own rule; None without a recipe."""
    if not recipe:
        return None
    if recipe.get("lora", {}).get("enabled"):
        return "lora"
    model = recipe.get("model", {})
    return "frozen" if model.get("head") != "plans" and model.get("freeze_backbone") else "full"


def _read_log(folder: Path) -> _Log:
    """Reads all log files of a fold."""
    paths = sorted(folder.glob("training_log_*.txt"))
    text = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)
    begun, seconds = _epochs(text)
    split = re.findall(r"split has (\d+) training and (\d+) validation cases", text)
    rates = re.findall(r"Current learning rate: ([\d.e+-]+)", text)
    first = re.search(TIME, text, re.MULTILINE)
    mirrored = re.findall(r"validating \d+ cases .*(with|without) mirroring", text)
    return _Log(
        epochs=max(seconds or begun) + 1 if begun else None,
        finished="Training done." in text,
        train_cases=int(split[-1][0]) if split else None,
        val_cases=int(split[-1][1]) if split else None,
        overlap="Some validation cases are also in the training set" in text,
        first_rate=float(rates[0]) if rates else None,
        epoch_seconds=tuple(seconds.values()),
        case_seconds=_between_cases(paths),
        checkpoint=_validated(text),
        mirrored=(mirrored[-1] == "with") if mirrored else None,
        start=datetime.fromisoformat(first[1]) if first else None,
    )


def _loss_name(text: str | None) -> str | None:
    names = [name for name in re.findall(r"(\w+)\(", text or "") if name not in WRAPPERS]
    if not names:
        return None
    return f"{names[0]}({', '.join(names[1:])})" if len(names) > 1 else names[0]


def _transforms(text: str | None) -> list[str] | None:
    """The transforms in order, without patch size and mirroring, which have rows of their own."""
    if not text or "ComposeTransforms" not in text:
        return None
    inner = text[text.index("[") + 1 : text.rindex("]")]
    parts = [re.sub(r"\s+", " ", part).strip() for part in _top_level(inner)]
    parts = [part for part in parts if part and not any(f"{name}(" in part for name in WITHOUT_EFFECT)]
    for pattern in NOISE:
        parts = [re.sub(pattern, "", part) for part in parts]
    return parts


def _mirror_axes(text: str | None) -> list[int] | None:
    """The axes in the augmentation's text; empty without mirroring, None for text that is no augmentation."""
    if not text or "ComposeTransforms" not in text:
        return None
    found = re.search(r"MirrorTransform\(\s*allowed_axes = (\([^)]*\)|\[[^\]]*\])", text)
    return list(ast.literal_eval(found[1])) if found else []


def _literal(text: str | None) -> dict[str, Any]:
    try:
        value = ast.literal_eval(text) if text else {}
    except (ValueError, SyntaxError):
        return {}
    return value if isinstance(value, dict) else {}


def _inherited(configurations: dict[str, Any], name: str) -> dict[str, Any]:
    own = dict(configurations.get(name, {}))
    parent = own.pop("inherits_from", None)
    return (_inherited(configurations, parent) if parent in configurations else {}) | own


def _epochs(text: str) -> tuple[set[int], dict[int, float]]:
    """The epochs that were begun, and the seconds of those that ended; an epoch that was repeated counts once."""
    begun: set[int] = set()
    seconds: dict[int, float] = {}
    current = 0
    for _, number, time in re.findall(TIME + r"(?:Epoch (\d+)\s*$|Epoch time: ([\d.]+) s)", text, re.MULTILINE):
        if number:
            current = int(number)
            begun.add(current)
        else:
            seconds[current] = float(time)
    return begun, seconds


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


def _between_cases(paths: list[Path]) -> tuple[float, ...]:
    """Seconds from one case of the last final validation to the next."""
    for path in reversed(paths):
        found = re.findall(TIME + r"predicting ", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        times = [datetime.fromisoformat(at) for at in found]
        if len(times) > 1:
            return tuple((later - earlier).total_seconds() for earlier, later in pairwise(times))
    return ()


def _top_level(text: str) -> list[str]:
    """Splits at the commas that no bracket encloses."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]
