"""The questions of the audit, each declared once in `QUESTIONS`: what must be equal between arms, and what differs by design.

The answer of a fold is a short text to show and to compare; None where no record states it, which the audit calls unknown.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnvit.compare.inputs.mask_files import case_of
from nnvit.compare.inputs.training_records import Records, tuning_of
from nnvit.records.hashes import digest

UNKNOWN = "unknown"
WRONG = "no:"
"""An answer that begins so is a difference in itself, even where all arms give it."""
PREPROCESSING = (
    "preprocessor_name",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_seg",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg_kwargs",
)
"""Keys of a configuration that decide what the network sees of an image."""
Answer = Callable[[Records], str | None]


def _differ(title: str, values: Mapping[str, str]) -> list[str]:
    """The reason why a difference stops the comparison."""
    return [f"the arms differ in their {title}: " + "; ".join(f"{name} has {value}" for name, value in values.items())]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question of the audit: everything that it and the report need to know about it.

    key: its key in stats.json, and for --allow. title: in the report. answer: reads the records of one fold; None means the
    answers are found by comparing whole arms (in fairness.py). equal: the answers must be equal; otherwise they differ by
    design. core: a comparison cannot be called fair while the answer is unknown. stops: a difference makes the scores wrong,
    not merely unfair, so the comparison stops unless --allow declares it; reasons tells why, from the title and the arms'
    answers. details: notes on a difference, from the records of each arm.
    """

    key: str
    title: str
    answer: Answer | None = None
    equal: bool = True
    core: bool = False
    stops: bool = False
    reasons: Callable[[str, Mapping[str, str]], list[str]] = _differ
    details: Callable[[Mapping[str, Records]], list[str]] | None = None


# --- what must be equal ------------------------------------------------------------------------------------------------


def _fingerprint(record: Records) -> str | None:
    return _short_hash(record.fingerprint) if record.fingerprint else None


def _short_hash(content: Any) -> str:
    return digest(content)[:8]


def _split(record: Records) -> str | None:
    held = record.manifest.get("split_hash")
    if held:
        return held[:8]
    return "fold all" if record.fold.name == "all" else None


def _training_cases(record: Records) -> str | None:
    count = record.manifest.get("cases", {}).get("train") or record.log.train_cases
    return str(count) if count else None


def _held_out(record: Records) -> str | None:
    if record.fold.name == "all" and record.fold.predictions:
        return f"{WRONG} trained on all cases"
    if record.log.overlap:
        return f"{WRONG} validation cases were trained on"
    if _predicts_its_own_cases(record):
        return None
    return "yes" if record.log.train_cases or "split_hash" in record.manifest else None


def _predicts_its_own_cases(record: Records) -> bool:
    """True if a folder of masks holds cases of its model's cross-validation, which some of the folds were trained on."""
    held = {case for fold in record.run.folds if not fold.name for case in fold.predictions}
    own = {case_of(Path(entry["prediction_file"])) for entry in record.summary.get("metric_per_case", ())}
    return bool(held & own)


def _not_held_out(title: str, values: Mapping[str, str]) -> list[str]:
    return [
        f"{name} is validated on cases that it was trained on ({value.removeprefix(f'{WRONG} ')}): its Dice says nothing"
        for name, value in values.items()
        if WRONG in value
    ]


def _labels(record: Records) -> str | None:
    labels = record.dataset.get("labels", {})
    order = record.dataset.get("regions_class_order")
    shown = ", ".join(f"{name} {value}" for name, value in labels.items())
    return f"{shown}; regions in the order {order}" if order else shown or None


def _preprocessing(record: Records) -> str | None:
    held, plans = record.configuration, record.plans
    if "normalization_schemes" not in held:
        return None
    content = {key: held.get(key) for key in PREPROCESSING} | {
        key: plans.get(key)
        for key in ("image_reader_writer", "transpose_forward", "foreground_intensity_properties_per_channel")
    }
    schemes = ", ".join(dict.fromkeys(name.removesuffix("Normalization") for name in held["normalization_schemes"]))
    return f"{schemes}, {_short_hash(content)}"


def _preprocessed(record: Records) -> str | None:
    held = record.manifest.get("preprocessed_hash")
    return held[:8] if held else None


def _of_configuration(key: str) -> Answer:
    def of(record: Records) -> str | None:
        value = record.manifest.get(key) or record.configuration.get(key)
        return _shown(value) if value is not None else None

    return of


def _epochs(record: Records) -> str | None:
    planned = record.debug.get("num_epochs") or record.training.get("num_epochs")
    done = record.log.epochs or record.manifest.get("epochs_done")
    if done is None:
        return None
    return f"{done} of {planned}" if planned and str(planned) != str(done) else str(done)


def _debug_or_recipe(key: str) -> Answer:
    def of(record: Records) -> str | None:
        value = record.debug.get(key, record.training.get(key))
        return None if value is None else str(value)

    return of


def _augmentation(record: Records) -> str | None:
    parts = record.transforms
    return None if parts is None else f"{len(parts)} transforms, {_short_hash(parts)}"


def _differing_transforms(records: Mapping[str, Records]) -> list[str]:
    parts = {name: record.transforms or [] for name, record in records.items()}
    shared = set.intersection(*map(set, parts.values()))
    return [
        f"augmentation that only {name} has: {'; '.join(part for part in own if part not in shared)}"
        for name, own in parts.items()
        if set(own) - shared
    ]


def _oversampling(record: Records) -> str | None:
    share = record.debug.get("oversample_foreground_percent", record.manifest.get("oversample_foreground_percent"))
    if share is None:
        return None
    return f"{share}{', drawn at random' if record.debug.get('probabilistic_oversampling') == 'True' else ''}"


def _mirroring(record: Records) -> str | None:
    return None if record.mirror_axes is None else _axes(record.mirror_axes)


def _mirroring_at_prediction(record: Records) -> str | None:
    validation = record.manifest.get("validation", {})
    if "mirroring_axes" in validation:
        return _axes(validation["mirroring_axes"] or [])
    held = record.debug.get("inference_allowed_mirroring_axes")
    if record.log.mirrored is False:
        return "none"
    return None if held is None else "none" if held == "None" else _axes(re.findall(r"\d+", held))


def _predictor(record: Records) -> str | None:
    if not record.manifest and not record.debug:
        return None
    fast = record.manifest.get("validation", {}).get("fast")
    return f"nnvit's fast one, {fast}" if fast else "nnU-Net's"


def _checkpoint(record: Records) -> str | None:
    held = record.manifest.get("validation", {}).get("checkpoint")
    return held.removeprefix("checkpoint_").removesuffix(".pth") if held else record.log.checkpoint


def _version(name: str) -> Answer:
    return lambda record: record.manifest.get("versions", {}).get(name)


# --- what differs by design --------------------------------------------------------------------------------------------


def _model_part(place: int) -> Answer:
    def of(record: Records) -> str | None:
        name = record.run.model.resolve().name if record.run.model else ""
        return name.split("__")[place] if name.count("__") == 2 else None

    return of


def _network(record: Records) -> str | None:
    model = record.run.recipe.get("model", {})
    if model.get("head", "plans") == "plans":
        return record.network_class
    return f"{model['head']} on {model['backbone']} {model['backbone_size']}, neck {model['neck']}"


def _parameters(record: Records) -> str | None:
    held = record.manifest.get("parameters", {})
    return f"{held['total']:,}, {held['trainable']:,} trained" if held else None


def _weights(record: Records) -> str | None:
    held = record.manifest.get("weights", {}).get("source") or record.run.recipe.get("model", {}).get("weights")
    return "random" if not held and record.run.recipe else held


def _optimizer(record: Records) -> str | None:
    text = record.debug.get("optimizer", "")
    name = text.split(" ")[0].strip() or record.training.get("optimizer")
    settings = [f"{key} {found[1]}" for key in ("momentum", "betas", "nesterov")
                if (found := re.search(rf"^\s*{key}: (.+)$", text, re.MULTILINE))]  # fmt: skip
    return f"{name}{', ' if settings else ''}{', '.join(settings)}" if name else None


def _rate(record: Records) -> str | None:
    training = record.training
    if training:
        backbone = record.run.recipe["model"].get("backbone") and tuning_of(record.run.recipe) != "frozen"
        return f"{training['lr']:g}" + (f", backbone {training['backbone_lr']:g}" if backbone else "")
    held = record.log.first_rate if record.debug.get("initial_lr") in (None, "None") else record.debug["initial_lr"]
    return None if held is None else f"{held:g}" if isinstance(held, float) else f"{held}"


def _schedule(record: Records) -> str | None:
    held = re.search(r"\.(\w+) object", record.debug.get("lr_scheduler", ""))
    name = record.training.get("schedule") or (held[1] if held else None)
    warmup = record.training.get("warmup_epochs")
    return f"{name}, {warmup} epochs of warm-up" if warmup else ("poly" if name == "PolyLRScheduler" else name)


def _precision(record: Records) -> str | None:
    held = record.manifest.get("precision", {}).get("name")
    if held or "grad_scaler" not in record.debug or record.run.recipe:
        return held
    return "fp16" if "GradScaler" in record.debug["grad_scaler"] else "fp32"


def _seed(record: Records) -> str | None:
    return ("none" if record.run.seed is None else str(record.run.seed)) if record.run.recipe else None


def _recipe_key(key: str) -> Answer:
    return lambda record: str(record.training[key]) if key in record.training else None


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " x ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)
    return str(value)


def _axes(axes: Any) -> str:
    return "axes " + ", ".join(str(axis) for axis in axes) if axes else "none"


QUESTIONS: tuple[Question, ...] = (
    Question(key="cases", title="cases", stops=True),
    Question(key="recorded", title="training is on record"),
    Question(key="fingerprint", title="data-set fingerprint", answer=_fingerprint),
    Question(key="splits", title="split (training and validation cases)", answer=_split, stops=True),
    Question(key="training_cases", title="training cases", answer=_training_cases),
    Question(
        key="held_out",
        title="validated on cases that were held out",
        answer=_held_out,
        stops=True,
        reasons=_not_held_out,
    ),
    Question(key="labels", title="labels", answer=_labels, core=True, stops=True),
    Question(key="preprocessing", title="preprocessing", answer=_preprocessing, core=True),
    Question(key="preprocessed_data", title="preprocessed files", answer=_preprocessed),
    Question(key="spacing", title="spacing", answer=_of_configuration("spacing"), core=True),
    Question(key="patch_size", title="patch size", answer=_of_configuration("patch_size"), core=True),
    Question(key="batch_size", title="batch size", answer=_of_configuration("batch_size"), core=True),
    Question(key="epochs", title="epochs", answer=_epochs, core=True),
    Question(
        key="iterations", title="iterations per epoch", answer=_debug_or_recipe("num_iterations_per_epoch"), core=True
    ),
    Question(key="augmentation", title="augmentation", answer=_augmentation, core=True, details=_differing_transforms),
    Question(key="oversampling", title="oversampling of foreground", answer=_oversampling),
    Question(key="mirroring", title="mirroring in training", answer=_mirroring, core=True),
    Question(
        key="mirroring_at_prediction", title="mirroring at prediction", answer=_mirroring_at_prediction, core=True
    ),
    Question(key="predictor", title="predictor of the masks", answer=_predictor),
    Question(key="loss", title="loss", answer=lambda record: record.loss, core=True),
    Question(key="batch_dice", title="Dice loss over the batch", answer=_of_configuration("batch_dice")),
    Question(key="checkpoint", title="checkpoint that was validated", answer=_checkpoint),
    Question(key="nnunet_version", title="nnU-Net version", answer=_version("nnunetv2")),
    Question(key="trainer", title="trainer", answer=_model_part(0), equal=False),
    Question(key="plans", title="plans", answer=_model_part(1), equal=False),
    Question(key="network", title="network", answer=_network, equal=False),
    Question(key="parameters", title="parameters", answer=_parameters, equal=False),
    Question(key="weights", title="weights at the start", answer=_weights, equal=False),
    Question(key="tuning", title="tuning", answer=lambda record: tuning_of(record.run.recipe), equal=False),
    Question(key="optimizer", title="optimiser", answer=_optimizer, equal=False),
    Question(key="learning_rate", title="learning rate", answer=_rate, equal=False),
    Question(key="schedule", title="schedule", answer=_schedule, equal=False),
    Question(key="weight_decay", title="weight decay", answer=_debug_or_recipe("weight_decay"), equal=False),
    Question(
        key="deep_supervision",
        title="deep supervision",
        answer=_debug_or_recipe("enable_deep_supervision"),
        equal=False,
    ),
    Question(key="ema", title="mean of the weights", answer=_recipe_key("ema"), equal=False),
    Question(key="seeds", title="seeds", answer=_seed, equal=False),
    Question(key="precision", title="precision", answer=_precision, equal=False),
    Question(
        key="torch_version", title="torch version", answer=lambda record: record.debug.get("torch_version"), equal=False
    ),
    Question(key="device", title="device", answer=lambda record: record.device, equal=False),
    Question(key="predictions", title="masks are those that were evaluated", stops=True),
)
"""All questions, in the order of stats.json."""


def question_of(key: str) -> Question:
    """Returns the question of that key."""
    return next(question for question in QUESTIONS if question.key == key)
