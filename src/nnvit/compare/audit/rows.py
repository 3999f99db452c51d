"""What the audit asks of every fold: the things that must be equal, and those that differ by design.

Each answer is a short text to show and to compare; None where no record tells, which the audit calls unknown.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnvit.compare.inputs import training_records as recorded
from nnvit.compare.inputs.costs import device_of
from nnvit.compare.inputs.mask_files import case_of
from nnvit.compare.inputs.training_records import Records, digest

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


@dataclass(frozen=True, kw_only=True)
class Fact:
    """key: for --allow. title: for people. of: the answer. core: a comparison cannot be called fair while it is unknown."""

    key: str
    title: str
    of: Callable[[Records], str | None]
    equal: bool = True
    core: bool = False


def tuning_of(recipe: dict[str, Any]) -> str | None:
    """ "lora", "frozen" or "full", as the recipe's own rule has it; None without a recipe."""
    if not recipe:
        return None
    if recipe.get("lora", {}).get("enabled"):
        return "lora"
    model = recipe.get("model", {})
    return "frozen" if model.get("head") != "plans" and model.get("freeze_backbone") else "full"


def network_class(record: Records) -> str | None:
    """The last part of the class that the plans name, such as PlainConvUNet."""
    name = record.configuration.get("architecture", {}).get("network_class_name") or record.debug.get("network")
    return name.split(".")[-1] if name else None


def labels_of(record: Records) -> dict[str, Any]:
    """Of dataset.json: name -> value, or the values of a region."""
    return record.dataset.get("labels", {})


# --- what must be equal ------------------------------------------------------------------------------------------------


def _fingerprint(record: Records) -> str | None:
    path = record.run.model / "dataset_fingerprint.json" if record.run.model else None
    return digest(recorded.read_json(path)) if path and path.is_file() else None


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
        return "no: trained on all cases"
    if record.log.overlap:
        return "no: validation cases were trained on"
    if _predicts_its_own_cases(record):
        return None
    return "yes" if record.log.train_cases or "split_hash" in record.manifest else None


def _predicts_its_own_cases(record: Records) -> bool:
    """Whether a folder of masks holds cases of its model's cross-validation, which some of the folds were trained on."""
    held = {case for fold in record.run.folds if not fold.name for case in fold.predictions}
    own = {case_of(Path(entry["prediction_file"])) for entry in record.summary.get("metric_per_case", ())}
    return bool(held & own)


def _labels(record: Records) -> str | None:
    labels = labels_of(record)
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
    return f"{schemes}, {digest(content)}"


def _preprocessed(record: Records) -> str | None:
    held = record.manifest.get("preprocessed_hash")
    return held[:8] if held else None


def _of_configuration(key: str) -> Callable[[Records], str | None]:
    def of(record: Records) -> str | None:
        value = record.manifest.get(key) or record.configuration.get(key)
        return _shown(value) if value is not None else None

    return of


def _epochs(record: Records) -> str | None:
    planned = record.debug.get("num_epochs") or _training(record).get("num_epochs")
    done = record.log.epochs or record.manifest.get("epochs_done")
    if done is None:
        return None
    return f"{done} of {planned}" if planned and str(planned) != str(done) else str(done)


def _debug_or_recipe(key: str) -> Callable[[Records], str | None]:
    def of(record: Records) -> str | None:
        value = record.debug.get(key, _training(record).get(key))
        return None if value is None else str(value)

    return of


def _transforms_text(record: Records) -> str | None:
    return record.manifest.get("augmentation") or record.debug.get("dataloader_train.generator.transforms")


def augmentation_parts(record: Records) -> list[str] | None:
    """The transforms of the training in their order, None where no record tells."""
    text = _transforms_text(record)
    return recorded.transforms(text if isinstance(text, str) else None)


def _augmentation(record: Records) -> str | None:
    parts = augmentation_parts(record)
    return None if parts is None else f"{len(parts)} transforms, {digest(parts)}"


def _oversampling(record: Records) -> str | None:
    share = record.debug.get("oversample_foreground_percent", record.manifest.get("oversample_foreground_percent"))
    if share is None:
        return None
    return f"{share}{', drawn at random' if record.debug.get('probabilistic_oversampling') == 'True' else ''}"


def _mirroring(record: Records) -> str | None:
    text = _transforms_text(record)
    axes = recorded.mirror_axes(text if isinstance(text, str) else None)
    if axes is None and "mirroring_axes" in record.manifest:
        axes = record.manifest["mirroring_axes"] or []
    return None if axes is None else _axes(axes)


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


def _loss(record: Records) -> str | None:
    return recorded.loss_name(record.debug.get("loss"))


def _checkpoint(record: Records) -> str | None:
    held = record.manifest.get("validation", {}).get("checkpoint")
    return held.removeprefix("checkpoint_").removesuffix(".pth") if held else record.log.checkpoint


def _version(name: str) -> Callable[[Records], str | None]:
    return lambda record: record.manifest.get("versions", {}).get(name)


# --- what differs by design --------------------------------------------------------------------------------------------


def _model_part(place: int) -> Callable[[Records], str | None]:
    def of(record: Records) -> str | None:
        name = record.run.model.resolve().name if record.run.model else ""
        return name.split("__")[place] if name.count("__") == 2 else None

    return of


def _network(record: Records) -> str | None:
    model = record.run.recipe.get("model", {})
    if model.get("head", "plans") == "plans":
        return network_class(record)
    return f"{model['head']} on {model['backbone']} {model['backbone_size']}, neck {model['neck']}"


def _parameters(record: Records) -> str | None:
    held = record.manifest.get("parameters", {})
    return f"{held['total']:,}, {held['trainable']:,} trained" if held else None


def _weights(record: Records) -> str | None:
    held = record.manifest.get("weights", {}).get("source") or record.run.recipe.get("model", {}).get("weights")
    return "random" if not held and record.run.recipe else held


def _optimizer(record: Records) -> str | None:
    text = record.debug.get("optimizer", "")
    name = text.split(" ")[0].strip() or _training(record).get("optimizer")
    settings = [f"{key} {found[1]}" for key in ("momentum", "betas", "nesterov")
                if (found := re.search(rf"^\s*{key}: (.+)$", text, re.MULTILINE))]  # fmt: skip
    return f"{name}{', ' if settings else ''}{', '.join(settings)}" if name else None


def _rate(record: Records) -> str | None:
    training = _training(record)
    if training:
        backbone = record.run.recipe["model"].get("backbone") and tuning_of(record.run.recipe) != "frozen"
        return f"{training['lr']:g}" + (f", backbone {training['backbone_lr']:g}" if backbone else "")
    held = record.log.first_rate if record.debug.get("initial_lr") in (None, "None") else record.debug["initial_lr"]
    return None if held is None else f"{held:g}" if isinstance(held, float) else f"{held}"


def _schedule(record: Records) -> str | None:
    held = re.search(r"\.(\w+) object", record.debug.get("lr_scheduler", ""))
    name = _training(record).get("schedule") or (held[1] if held else None)
    warmup = _training(record).get("warmup_epochs")
    return f"{name}, {warmup} epochs of warm-up" if warmup else ("poly" if name == "PolyLRScheduler" else name)


def _precision(record: Records) -> str | None:
    held = record.manifest.get("precision", {}).get("name")
    if held or "grad_scaler" not in record.debug or record.run.recipe:
        return held
    return "fp16" if "GradScaler" in record.debug["grad_scaler"] else "fp32"


def _seed(record: Records) -> str | None:
    return ("none" if record.run.seed is None else str(record.run.seed)) if record.run.recipe else None


def _training(record: Records) -> dict[str, Any]:
    return record.run.recipe.get("training", {})


def _recipe_key(key: str) -> Callable[[Records], str | None]:
    return lambda record: str(_training(record)[key]) if key in _training(record) else None


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " x ".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)
    return str(value)


def _axes(axes: Any) -> str:
    return "axes " + ", ".join(str(axis) for axis in axes) if axes else "none"


FACTS = (
    Fact(key="fingerprint", title="data-set fingerprint", of=_fingerprint),
    Fact(key="splits", title="split (training and validation cases)", of=_split),
    Fact(key="training_cases", title="training cases", of=_training_cases),
    Fact(key="held_out", title="validated on cases that were held out", of=_held_out),
    Fact(key="labels", title="labels", of=_labels, core=True),
    Fact(key="preprocessing", title="preprocessing", of=_preprocessing, core=True),
    Fact(key="preprocessed_data", title="preprocessed files", of=_preprocessed),
    Fact(key="spacing", title="spacing", of=_of_configuration("spacing"), core=True),
    Fact(key="patch_size", title="patch size", of=_of_configuration("patch_size"), core=True),
    Fact(key="batch_size", title="batch size", of=_of_configuration("batch_size"), core=True),
    Fact(key="epochs", title="epochs", of=_epochs, core=True),
    Fact(key="iterations", title="iterations per epoch", of=_debug_or_recipe("num_iterations_per_epoch"), core=True),
    Fact(key="augmentation", title="augmentation", of=_augmentation, core=True),
    Fact(key="oversampling", title="oversampling of foreground", of=_oversampling),
    Fact(key="mirroring", title="mirroring in training", of=_mirroring, core=True),
    Fact(key="mirroring_at_prediction", title="mirroring at prediction", of=_mirroring_at_prediction, core=True),
    Fact(key="predictor", title="predictor of the masks", of=_predictor),
    Fact(key="loss", title="loss", of=_loss, core=True),
    Fact(key="batch_dice", title="Dice loss over the batch", of=_of_configuration("batch_dice")),
    Fact(key="checkpoint", title="checkpoint that was validated", of=_checkpoint),
    Fact(key="nnunet_version", title="nnU-Net version", of=_version("nnunetv2")),
    Fact(key="trainer", title="trainer", of=_model_part(0), equal=False),
    Fact(key="plans", title="plans", of=_model_part(1), equal=False),
    Fact(key="network", title="network", of=_network, equal=False),
    Fact(key="parameters", title="parameters", of=_parameters, equal=False),
    Fact(key="weights", title="weights at the start", of=_weights, equal=False),
    Fact(key="tuning", title="tuning", of=lambda record: tuning_of(record.run.recipe), equal=False),
    Fact(key="optimizer", title="optimiser", of=_optimizer, equal=False),
    Fact(key="learning_rate", title="learning rate", of=_rate, equal=False),
    Fact(key="schedule", title="schedule", of=_schedule, equal=False),
    Fact(key="weight_decay", title="weight decay", of=_debug_or_recipe("weight_decay"), equal=False),
    Fact(key="deep_supervision", title="deep supervision", of=_debug_or_recipe("enable_deep_supervision"), equal=False),
    Fact(key="ema", title="mean of the weights", of=_recipe_key("ema"), equal=False),
    Fact(key="seeds", title="seeds", of=_seed, equal=False),
    Fact(key="precision", title="precision", of=_precision, equal=False),
    Fact(key="torch_version", title="torch version", of=lambda record: record.debug.get("torch_version"), equal=False),
    Fact(key="device", title="device", of=device_of, equal=False),
)
"""All rows of the audit but those of the cases and the masks, in the order in which they are shown."""
