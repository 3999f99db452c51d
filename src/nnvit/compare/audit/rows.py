"""The questions of the audit, each declared once in `QUESTIONS`: what must be equal between arms, and what differs by design.

The answer of a fold is a short text to show and to compare; None where no record states it, which the audit calls unknown.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from nnvit.compare.inputs.training_records import Fold
from nnvit.records.hashes import digest
from nnvit.records.model_name import ModelName

UNKNOWN = "unknown"
WRONG = "no:"
"""An answer that begins so is a difference in itself, even where all arms give it."""
PREPROCESSING = (
    "preprocessor_name", "normalization_schemes", "use_mask_for_norm", "resampling_fn_data", "resampling_fn_seg",
    "resampling_fn_data_kwargs", "resampling_fn_seg_kwargs",
)  # fmt: skip
"""Keys of a configuration that decide what the network sees of an image."""
OF_PLANS = ("image_reader_writer", "transpose_forward", "foreground_intensity_properties_per_channel")
"""Keys of the plans that do."""
Answer = Callable[[Fold], str | None]


@dataclass(frozen=True)
class Question:
    """One question of the audit: everything that it and the report need to know about it.

    key: its key in stats.json, and for --allow. title: in the report. answer: reads the records of one fold; None means the
    answers are found by comparing whole arms (in fairness.py). equal: the answers must be equal; otherwise they differ by
    design. core: a comparison cannot be called fair while the answer is unknown. stops: a difference makes the scores wrong,
    not merely unfair, so the comparison stops unless --allow declares it. wrong: what to say of an arm whose answer begins
    with "no:"; {} stands for the rest. details: notes on a difference, from the first fold of each arm.
    """

    key: str
    title: str
    answer: Answer | None = None
    _: KW_ONLY
    equal: bool = True
    core: bool = False
    stops: bool = False
    wrong: str = ""
    details: Callable[[Mapping[str, Fold]], list[str]] | None = None

    def reasons(self, values: Mapping[str, str]) -> list[str]:
        """Returns why a difference stops the comparison; values: the answers of the arms."""
        if self.wrong:
            wrong = {name: value.removeprefix(f"{WRONG} ") for name, value in values.items() if WRONG in value}
            return [f"{name} {self.wrong.format(value)}" for name, value in wrong.items()]
        shown = "; ".join(f"{name} has {value}" for name, value in values.items())
        return [f"the arms differ in their {self.title}: {shown}"]


# --- what must be equal ------------------------------------------------------------------------------------------------


def _short(text: str | None) -> str | None:
    return text[:8] if text else None


def _short_hash(content: Any) -> str | None:
    return _short(digest(content)) if content else None


def _split(fold: Fold) -> str | None:
    return _short(fold.recorded("split_hash")) or ("fold all" if fold.name == "all" else None)


def _held_out(fold: Fold) -> str | None:
    if fold.name == "all" and fold.predictions:
        return f"{WRONG} trained on all cases"
    if fold.log.overlap:
        return f"{WRONG} validation cases were trained on"
    predicted = {case for of_run in fold.run.folds if not of_run.name for case in of_run.predictions}
    if predicted & fold.evaluated.keys():  # cases of the model's cross-validation, which some folds were trained on
        return None
    return "yes" if fold.log.train_cases or "split_hash" in fold.manifest else None


def _labels(fold: Fold) -> str | None:
    labels = fold.run.dataset_json.get("labels", {})
    order = fold.run.dataset_json.get("regions_class_order")
    shown = ", ".join(f"{name} {value}" for name, value in labels.items())
    return f"{shown}; regions in the order {order}" if order else shown or None


def _preprocessing(fold: Fold) -> str | None:
    held, plans = fold.configuration, fold.run.plans
    if "normalization_schemes" not in held:
        return None
    content = {key: held.get(key) for key in PREPROCESSING} | {key: plans.get(key) for key in OF_PLANS}
    schemes = ", ".join(dict.fromkeys(name.removesuffix("Normalization") for name in held["normalization_schemes"]))
    return f"{schemes}, {_short_hash(content)}"


def _of_configuration(key: str) -> Answer:
    return lambda fold: _text(fold.recorded(key) or fold.configuration.get(key))


def _epochs(fold: Fold) -> str | None:
    planned = fold.debug.get("num_epochs") or fold.run.training.get("num_epochs")
    done = fold.log.epochs or fold.recorded("epochs_done")
    if done is None:
        return None
    return f"{done} of {planned}" if planned and str(planned) != str(done) else str(done)


def _debug_or_recipe(key: str) -> Answer:
    return lambda fold: _text(fold.debug.get(key, fold.run.training.get(key)))


def _augmentation(fold: Fold) -> str | None:
    parts = fold.transforms
    return None if parts is None else f"{len(parts)} transforms, {digest(parts)[:8]}"


def _differing_transforms(folds: Mapping[str, Fold]) -> list[str]:
    parts = {name: fold.transforms or [] for name, fold in folds.items()}
    shared = set.intersection(*map(set, parts.values()))
    return [
        f"augmentation that only {name} has: {'; '.join(part for part in own if part not in shared)}"
        for name, own in parts.items()
        if set(own) - shared
    ]


def _oversampling(fold: Fold) -> str | None:
    share = fold.debug.get("oversample_foreground_percent", fold.recorded("oversample_foreground_percent"))
    at_random = fold.debug.get("probabilistic_oversampling") == "True"
    return None if share is None else f"{share}{', drawn at random' if at_random else ''}"


def _mirroring_at_prediction(fold: Fold) -> str | None:
    validation = fold.recorded("validation") or {}
    if "mirroring_axes" in validation:
        return _axes(validation["mirroring_axes"] or [])
    if fold.log.mirrored is False:
        return _axes([])
    held = fold.debug.get("inference_allowed_mirroring_axes")
    return _axes(None if held is None else re.findall(r"\d+", held))


def _predictor(fold: Fold) -> str | None:
    if not fold.manifest and not fold.debug:
        return None
    fast = fold.recorded("validation", "fast")
    return f"nnvit's fast one, {fast}" if fast else "nnU-Net's"


def _checkpoint(fold: Fold) -> str | None:
    held = fold.recorded("validation", "checkpoint")
    return held.removeprefix("checkpoint_").removesuffix(".pth") if held else fold.log.checkpoint


# --- what differs by design --------------------------------------------------------------------------------------------


def _part_of_name(part: str) -> Answer:
    return lambda fold: getattr(ModelName.parse(fold.run.model.resolve().name), part, None) if fold.run.model else None


def _network(fold: Fold) -> str | None:
    model = fold.run.recipe.get("model", {})
    if model.get("head", "plans") == "plans":
        return fold.network_class
    return f"{model['head']} on {model['backbone']} {model['backbone_size']}, neck {model['neck']}"


def _parameters(fold: Fold) -> str | None:
    held = fold.recorded("parameters")
    return f"{held['total']:,}, {held['trainable']:,} trained" if held else None


def _weights(fold: Fold) -> str | None:
    held = fold.recorded("weights", "source") or fold.run.recipe.get("model", {}).get("weights")
    return "random" if not held and fold.run.recipe else held


def _optimizer(fold: Fold) -> str | None:
    text = fold.debug.get("optimizer", "")
    name = text.split(" ")[0].strip() or fold.run.training.get("optimizer")
    settings = [f"{key} {found[1]}" for key in ("momentum", "betas", "nesterov")
                if (found := re.search(rf"^\s*{key}: (.+)$", text, re.MULTILINE))]  # fmt: skip
    return ", ".join([name, *settings]) if name else None


def _rate(fold: Fold) -> str | None:
    training = fold.run.training
    if training:
        backbone = fold.run.recipe["model"].get("backbone") and fold.run.tuning != "frozen"
        return f"{training['lr']:g}" + (f", backbone {training['backbone_lr']:g}" if backbone else "")
    held = fold.debug.get("initial_lr")
    if held in (None, "None"):
        held = fold.log.first_rate
    return f"{held:g}" if isinstance(held, float) else held


def _schedule(fold: Fold) -> str | None:
    held = re.search(r"\.(\w+) object", fold.debug.get("lr_scheduler", ""))
    name = fold.run.training.get("schedule") or (held[1] if held else None)
    warmup = fold.run.training.get("warmup_epochs")
    return f"{name}, {warmup} epochs of warm-up" if warmup else ("poly" if name == "PolyLRScheduler" else name)


def _precision(fold: Fold) -> str | None:
    held = fold.recorded("precision", "name")
    if held or "grad_scaler" not in fold.debug or fold.run.recipe:
        return held
    return "fp16" if "GradScaler" in fold.debug["grad_scaler"] else "fp32"


def _seed(fold: Fold) -> str | None:
    return ("none" if fold.run.seed is None else str(fold.run.seed)) if fold.run.recipe else None


# --- texts -------------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        return " x ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)
    return None if value is None else str(value)


def _axes(axes: Any) -> str | None:
    if axes is None:
        return None
    return "axes " + ", ".join(str(axis) for axis in axes) if axes else "none"


QUESTIONS: tuple[Question, ...] = (
    Question("cases", "cases", stops=True),
    Question("recorded", "training is on record"),
    Question("fingerprint", "data-set fingerprint", lambda fold: _short_hash(fold.run.fingerprint)),
    Question("splits", "split (training and validation cases)", _split, stops=True),
    Question(
        "training_cases", "training cases", lambda fold: _text(fold.recorded("cases", "train") or fold.log.train_cases)
    ),
    Question(
        "held_out", "validated on cases that were held out", _held_out, stops=True,
        wrong="is validated on cases that it was trained on ({}): its Dice says nothing",
    ),
    Question("labels", "labels", _labels, core=True, stops=True),
    Question("preprocessing", "preprocessing", _preprocessing, core=True),
    Question("preprocessed_data", "preprocessed files", lambda fold: _short(fold.recorded("preprocessed_hash"))),
    Question("spacing", "spacing", _of_configuration("spacing"), core=True),
    Question("patch_size", "patch size", _of_configuration("patch_size"), core=True),
    Question("batch_size", "batch size", _of_configuration("batch_size"), core=True),
    Question("epochs", "epochs", _epochs, core=True),
    Question("iterations", "iterations per epoch", _debug_or_recipe("num_iterations_per_epoch"), core=True),
    Question("augmentation", "augmentation", _augmentation, core=True, details=_differing_transforms),
    Question("oversampling", "oversampling of foreground", _oversampling),
    Question("mirroring", "mirroring in training", lambda fold: _axes(fold.mirror_axes), core=True),
    Question("mirroring_at_prediction", "mirroring at prediction", _mirroring_at_prediction, core=True),
    Question("predictor", "predictor of the masks", _predictor),
    Question("loss", "loss", lambda fold: fold.loss, core=True),
    Question("batch_dice", "Dice loss over the batch", _of_configuration("batch_dice")),
    Question("checkpoint", "checkpoint that was validated", _checkpoint),
    Question("nnunet_version", "nnU-Net version", lambda fold: fold.recorded("versions", "nnunetv2")),
    Question("trainer", "trainer", _part_of_name("trainer"), equal=False),
    Question("plans", "plans", _part_of_name("plans"), equal=False),
    Question("network", "network", _network, equal=False),
    Question("parameters", "parameters", _parameters, equal=False),
    Question("weights", "weights at the start", _weights, equal=False),
    Question("tuning", "tuning", lambda fold: fold.run.tuning, equal=False),
    Question("optimizer", "optimiser", _optimizer, equal=False),
    Question("learning_rate", "learning rate", _rate, equal=False),
    Question("schedule", "schedule", _schedule, equal=False),
    Question("weight_decay", "weight decay", _debug_or_recipe("weight_decay"), equal=False),
    Question("deep_supervision", "deep supervision", _debug_or_recipe("enable_deep_supervision"), equal=False),
    Question("ema", "mean of the weights", lambda fold: _text(fold.run.training.get("ema")), equal=False),
    Question("seeds", "seeds", _seed, equal=False),
    Question("precision", "precision", _precision, equal=False),
    Question("torch_version", "torch version", lambda fold: fold.debug.get("torch_version"), equal=False),
    Question("device", "device", lambda fold: fold.device, equal=False),
    Question("predictions", "masks are those that were evaluated", stops=True),
)  # fmt: skip
"""All questions, in the order of stats.json."""
