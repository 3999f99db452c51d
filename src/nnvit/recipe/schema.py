"""The sections of a recipe, each field with its meaning, unit and limits, and the recipe's hash. Imports nothing heavy."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from typing import Any

from nnvit import registry
from nnvit.errors import ConfigError, did_you_mean
from nnvit.records.hashes import digest
from nnvit.records.plans_block import SCHEMA

ARCH_VERSION = 1
"""Version of the meaning of `arch_kwargs`. Networks of older plans are built as their version says."""


def at_least(low: float, default: Any) -> Any:
    """Returns a field whose number, or each number of its list, must be finite and not below `low`; null passes."""

    def check(key: str, value: Any) -> None:
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not (isfinite(number) and number >= low):
                raise ConfigError(f"{key}={number} must be a number of at least {low:g}.")

    return _checked(default, check)


def fraction(default: float) -> Any:
    """Returns a field whose number must lie between 0 (included) and 1 (excluded)."""

    def check(key: str, value: float) -> None:
        if not 0 <= value < 1:
            raise ConfigError(f"{key}={value} must be at least 0 and less than 1.")

    return _checked(default, check)


def _one_of(*choices: str) -> Any:
    """Returns a field that takes one of these words; the first is the default."""

    def check(key: str, value: str) -> None:
        if value not in choices:
            raise ConfigError(
                f"{key}='{value}' is not known; use one of {', '.join(choices)}.{did_you_mean(value, choices)}"
            )

    return _checked(choices[0], check)


def _checked(default: Any, check: Callable[[str, Any], None]) -> Any:
    metadata = {"check": check}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def _check_fields(section: str, values: Any) -> None:
    """Applies each field's own check. Raises ConfigError that names `section.key`."""
    for entry in fields(values):
        if check := entry.metadata.get("check"):
            check(f"{section}.{entry.name}", getattr(values, entry.name))


@dataclass(kw_only=True)
class PlansModelConfig:
    """Keys of `model.head: plans`, the base plans' own network, which is the baseline of every comparison."""

    head: str = "plans"


@dataclass(kw_only=True)
class ModelConfig:
    """Keys that every ViT network has; a head's own `Config` adds its keys.

    head, backbone, neck: file names under heads/, backbones/, necks/.
    backbone_size: a size of the family, or a model name for the family `timm`.
    weights: default | random | a path | packaged:NAME | hf:REPO@REVISION.
    feature_layers: 0-based transformer blocks to tap; null takes the family's published ones.
    freeze_backbone: leaves the pretrained weights untrained (with LoRA only the adapters are trained).
    backbone_args, neck_args: keys that only this backbone or neck has; its file defines their types.
    input_norm: auto applies the backbone's mean and std where the plans bring values in 0..1; none | backbone force it.
    """

    head: str = "segformer"
    backbone: str = "dinov3"
    backbone_size: str = "large"
    weights: str = "default"
    feature_layers: list[int] | None = None
    neck: str = "simple_pyramid"
    freeze_backbone: bool = True
    backbone_args: dict[str, Any] = field(default_factory=dict)
    neck_args: dict[str, Any] = field(default_factory=dict)
    input_norm: str = _one_of("auto", "none", "backbone")

    def __post_init__(self) -> None:
        _check_fields("model", self)


@dataclass(kw_only=True)
class _LoraConfig:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) in the frozen backbone.

    r: rank; lora_alpha / r scales the update; target_modules: names of linear layers, null takes the backbone's own.
    """

    enabled: bool = True
    r: int = at_least(1, 8)
    lora_alpha: int = 16
    lora_dropout: float = fraction(0.0)
    target_modules: list[str] | None = None

    def __post_init__(self) -> None:
        _check_fields("lora", self)
        if self.target_modules == []:
            raise ConfigError("lora.target_modules=[] adapts nothing; name layers, such as [qkv], or set it to null.")


@dataclass(kw_only=True)
class TrainingConfig:
    """Keys of the training; data, splits, augmentation and loss are nnU-Net's unless a key changes them.

    lr: of head and neck (and of the base plans' network); backbone_lr: of adapters, or of a fine-tuned backbone.
    layer_decay: factor on backbone_lr for each block further from the head.
    decay_norms_and_biases: weight decay on one-dimensional parameters (norms and biases) too, as nnU-Net has it.
    schedule: poly ((1 - t)^0.9, nnU-Net's) or cosine, after warmup_epochs of linear warm-up.
    grad_clip: largest norm of the gradient. batch_size, patch_size: null takes the base plans'.
    precision: auto chooses by the device; stock is nnU-Net's own (fp16 on CUDA, fp32 elsewhere); fp32 | bf16 | fp16.
    drop_path: stochastic depth of a fine-tuned backbone, at its last block. ema: decay of the running mean of the weights, which
    is then validated and predicted with; 0 is off. grad_checkpointing: computes the backbone's activations twice instead of
    keeping them. loss: nnunet (Dice and cross-entropy) or native (the head's own). deep_supervision: auxiliary outputs on
    nnU-Net's scales.
    augmentation: nnunet, or that of nnU-Net's trainer class DA5, DA5ord0, DA5Segord0, _DASegOrd0, _noDummy2DDA or NoDA.
    mirroring: in augmentation and at prediction; mirror_axes: only these axes of the patch, null takes nnU-Net's.
    oversample_foreground_percent: share of a batch that is certain to hold foreground, null takes nnU-Net's 0.33; with
    probabilistic_oversampling every patch is drawn with that probability, otherwise the last patches of the batch are chosen.
    save_every: epochs between two checkpoint_latest; save_every_iterations: iterations within an epoch, null for none.
    seed: null leaves nnU-Net's random streams alone. With an int the initial network depends on the seed, and each batch on the
    seed and its place in the training, whatever nnUNet_n_proc_DA is: the training can be repeated.
    """

    optimizer: str = _one_of("adamw", "sgd")
    momentum: float = fraction(0.9)
    nesterov: bool = False
    schedule: str = _one_of("poly", "cosine")
    lr: float = at_least(0, 3e-4)
    backbone_lr: float = at_least(0, 1e-4)
    layer_decay: float = 1.0
    weight_decay: float = at_least(0, 0.05)
    decay_norms_and_biases: bool = False
    warmup_epochs: int = at_least(0, 10)
    grad_clip: float = 12.0
    num_epochs: int = at_least(1, 1000)
    num_iterations_per_epoch: int = at_least(1, 250)
    num_val_iterations_per_epoch: int = at_least(1, 50)
    batch_size: int | None = at_least(1, None)
    patch_size: list[int] | None = None
    precision: str = _one_of("auto", "stock", "fp32", "bf16", "fp16")
    drop_path: float = fraction(0.0)
    ema: float = fraction(0.0)
    grad_checkpointing: bool = False
    augmentation: str = _one_of("nnunet", "da5", "da5_ord0", "da5_seg_ord0", "da_seg_ord0", "no_dummy_2d", "none")
    mirroring: bool = True
    mirror_axes: list[int] | None = None
    oversample_foreground_percent: float | None = None
    probabilistic_oversampling: bool = False
    loss: str = _one_of("nnunet", "native")
    deep_supervision: bool = False
    save_every: int = at_least(1, 50)
    save_every_iterations: int | None = at_least(1, None)
    seed: int | None = at_least(0, None)

    def __post_init__(self) -> None:
        _check_fields("training", self)
        if self.oversample_foreground_percent is not None and not 0 <= self.oversample_foreground_percent <= 1:
            raise ConfigError(
                f"training.oversample_foreground_percent={self.oversample_foreground_percent} must be a share from 0 to 1."
            )
        if self.mirror_axes is not None and not (self.mirroring and self.mirror_axes):
            raise ConfigError(
                f"training.mirror_axes={self.mirror_axes} needs training.mirroring=true and at least one axis, such as [0]; to "
                "mirror along none, set training.mirroring=false."
            )
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(
                f"training.layer_decay={self.layer_decay} must be above 0 and at most 1, which is no decay."
            )
        if not self.grad_clip > 0:
            raise ConfigError(
                f"training.grad_clip={self.grad_clip} must be above 0; inf clips nothing, nnU-Net's is 12."
            )
        if self.patch_size is not None and min(self.patch_size, default=0) < 1:
            raise ConfigError(f"training.patch_size={self.patch_size} must be two positive numbers, such as [512,512].")


@dataclass(kw_only=True)
class _CheckpointConfig:
    """Keys of the checkpoints. They do not change what is trained and are no part of the recipe's hash.

    frozen_weights: embed puts the frozen backbone into every checkpoint; reference leaves it out and names its file by
    sha256, which makes the checkpoint a twentieth of the size. It can be read where that file is; `nnvit export` writes a model
    that needs no other file.
    """

    frozen_weights: str = _one_of("embed", "reference")

    def __post_init__(self) -> None:
        _check_fields("checkpoint", self)


@dataclass(kw_only=True)
class Recipe:
    """One arm of a comparison: a network and how it is trained.

    name: `auto`, or the name that the plans file and the results folder get.
    """

    name: str = "auto"
    model: ModelConfig | PlansModelConfig
    lora: _LoraConfig
    training: TrainingConfig
    checkpoint: _CheckpointConfig = field(default_factory=_CheckpointConfig)

    def __post_init__(self) -> None:
        if "__" in self.name or not self.name.replace("_", "").replace("-", "").replace(".", "").isalnum():
            raise ConfigError(
                f"name='{self.name}' cannot be part of a folder's name: use letters, digits, '.', '-' and single "
                "underscores (nnU-Net splits folder names on a double one)."
            )
        _ = self.tuning

    def plans_name(self, base: str) -> str:
        """Returns the name of the plans that are made from the base plans of a name."""
        return f"{base}_{self.name}"

    @property
    def tuning(self) -> str:
        """The kind of tuning, "lora", "frozen" or "full". Raises ConfigError where keys contradict each other."""
        if isinstance(self.model, PlansModelConfig):
            if self.lora.enabled:
                raise ConfigError(
                    "lora.enabled=true needs a ViT backbone, but model.head=plans trains the base plans' own network; "
                    "set lora.enabled=false."
                )
            return "full"
        if not self.lora.enabled:
            return "frozen" if self.model.freeze_backbone else "full"
        if not self.model.freeze_backbone:
            raise ConfigError(
                "lora.enabled=true with model.freeze_backbone=false says two things: for adapters on a frozen backbone "
                "set model.freeze_backbone=true; to fine-tune the whole backbone set lora.enabled=false."
            )
        return "lora"

    @property
    def hash(self) -> str:
        """The sha256 of what the recipe does.

        The name, the section `checkpoint` (it only says how weights are kept) and the seed are left out, so that the seeds of one
        arm share the hash. A key at its default does not enter: a key that a later release adds leaves the hashes of old recipes
        alone, and a release that changes a default raises SCHEMA.
        """
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "model": _departures(self.model),
            "lora": _departures(self.lora),
            "training": _departures(self.training),
        }
        content["training"].pop("seed", None)
        if isinstance(self.model, ModelConfig):
            parts = {"backbone": registry.family(self.model.backbone)}
            parts["neck"] = registry.module("neck", self.model.neck).Args
            for kind, args in parts.items():
                content["model"][f"{kind}_args"] = _departures(args(**getattr(self.model, f"{kind}_args")))
        return digest(content)


def _departures(section: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass that differ from their defaults, and those that name a component."""
    plain, named = type(section)(), ("head", "backbone", "backbone_size", "neck")
    return {key: value for key, value in asdict(section).items() if key in named or value != getattr(plain, key)}
