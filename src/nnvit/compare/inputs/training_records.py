"""What a training wrote down about itself: nnvit_run.json, debug.json, plans.json, dataset.json and its log.

Checkpoints are not opened. What no record tells is not in the answer; nobody guesses it from a default.
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .arms import Fold, Run, read_json

TIME = r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?): "
WRAPPERS = {"DeepSupervisionWrapper", "OptimizedModule"}
"""What wraps a loss without changing which loss it is; deep supervision is a row of its own."""
WITHOUT_EFFECT = {"MirrorTransform", "DownsampleSegForDSTransform"}
"""Transforms that have rows of their own: mirroring, deep supervision."""


@dataclass(frozen=True, kw_only=True)
class Log:
    """Of one fold's training_log_*.txt, all of them in order; a fold that was continued has several."""

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
    """The records of one fold."""

    def __init__(self, run: Run, fold: Fold) -> None:
        self.run, self.fold = run, fold

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """nnvit_run.json."""
        return _json(self.fold.folder / "nnvit_run.json")

    @cached_property
    def debug(self) -> dict[str, Any]:
        """debug.json: the trainer's attributes as text."""
        return _json(self.fold.folder / "debug.json")

    @cached_property
    def plans(self) -> dict[str, Any]:
        """plans.json of the results folder."""
        return _json(self.run.model / "plans.json") if self.run.model else {}

    @cached_property
    def dataset(self) -> dict[str, Any]:
        """dataset.json of the results folder."""
        return _json(self.run.model / "dataset.json") if self.run.model else {}

    @cached_property
    def summary(self) -> dict[str, Any]:
        """validation/summary.json, nnU-Net's own scores."""
        for folder in (self.fold.folder / "validation", self.fold.folder):
            if (folder / "summary.json").is_file():
                return _json(folder / "summary.json")
        return {}

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """As the trainer had it, else as the plans have it, with what it inherits."""
        held = _literal(self.debug.get("configuration_manager"))
        if held:
            return held
        return _inherited(self.plans.get("configurations", {}), self.run.configuration)

    @cached_property
    def log(self) -> Log:
        """What the log files tell."""
        return read_log(self.fold.folder)


def records_of(run: Run) -> Iterator[Records]:
    """Of each fold; for masks that a results folder's model predicted, of each fold that the model has."""
    plain = len(run.folds) == 1 and run.folds[0].name == ""
    trained = sorted(run.model.glob("fold_*")) if plain and run.model else []
    if not trained:
        yield from (Records(run, fold) for fold in run.folds)
        return
    for folder in trained:
        yield Records(run, Fold(name=folder.name.removeprefix("fold_"), folder=folder, predictions={}))


def read_log(folder: Path) -> Log:
    """Everything that the log files of a fold tell."""
    paths = sorted(folder.glob("training_log_*.txt"))
    text = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)
    begun, seconds = _epochs(text)
    split = re.findall(r"split has (\d+) training and (\d+) validation cases", text)
    rates = re.findall(r"Current learning rate: ([\d.e+-]+)", text)
    first = re.search(TIME, text, re.MULTILINE)
    mirrored = re.findall(r"validating \d+ cases .*(with|without) mirroring", text)
    return Log(
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


def loss_name(text: str | None) -> str | None:
    """`DC_and_CE_loss(RobustCrossEntropyLoss, MemoryEfficientSoftDiceLoss)`, without what wraps it."""
    names = [name for name in re.findall(r"(\w+)\(", text or "") if name not in WRAPPERS]
    if not names:
        return None
    return f"{names[0]}({', '.join(names[1:])})" if len(names) > 1 else names[0]


def transforms(text: str | None) -> list[str] | None:
    """The augmentation's parts in order, without patch size and mirroring, which have rows of their own."""
    if not text or "ComposeTransforms" not in text:
        return None
    inner = text[text.index("[") + 1 : text.rindex("]")]
    parts = [re.sub(r"\s+", " ", part).strip() for part in _top_level(inner)]
    parts = [part for part in parts if part and not any(f"{name}(" in part for name in WITHOUT_EFFECT)]
    noise = (r"patch_size = \[[^\]]*\], ", r"patch_size = \([^)]*\), ", r", _grid_cache = \{[^}]*\}",
             r", benchmark_use_fft = \{[^}]*\}", r"benchmark = \w+, ", r" at 0x[0-9a-f]+")  # fmt: skip
    for pattern in noise:
        parts = [re.sub(pattern, "", part) for part in parts]
    return parts


def mirror_axes(text: str | None) -> list[int] | None:
    """Of the augmentation; an empty list where nothing is mirrored, None where no record tells."""
    if not text or "ComposeTransforms" not in text:
        return None
    found = re.search(r"MirrorTransform\(\s*allowed_axes = (\([^)]*\)|\[[^\]]*\])", text)
    return list(ast.literal_eval(found[1])) if found else []


def digest(content: Any) -> str:
    """Eight hex digits of the canonical JSON of plain data."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _json(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


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
    """The epochs that were begun, and the seconds of those that were ended; one that was done twice counts once."""
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
    """Which checkpoint was validated last, as nnvit's log shows it; stock nnU-Net writes the same for both."""
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


def median(values: tuple[float, ...]) -> float | None:
    """None of nothing."""
    return float(np.median(values)) if values else None
