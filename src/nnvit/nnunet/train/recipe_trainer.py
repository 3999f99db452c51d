"""Gives nnU-Net's trainer the recipe's network, weights, optimiser, loss, augmentation and batches.

What the training itself does differently is in trainer.py (loop, signals, checkpoints) and validation.py.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainer_noDummy2DDA import (
    nnUNetTrainer_noDummy2DDA,
)
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import (
    nnUNetTrainerDA5,
    nnUNetTrainerDA5ord0,
    nnUNetTrainerDA5Segord0,
)
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDAOrd0 import nnUNetTrainer_DASegOrd0
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA
from torch import nn
from torch._dynamo import OptimizedModule

from nnvit.errors import ConfigError, PlansError, WeightsError
from nnvit.model.precision import Precision
from nnvit.model.training import EpochSchedule, WeightAverage, build_optimizer, prepare_for_training
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.plan import plans_file
from nnvit.recipe import loading
from nnvit.recipe.schema import Recipe
from nnvit.records.plans_block import PlansBlock
from nnvit.weights import load_backbone
from nnvit.weights.external import filled

from .iterations import Signals
from .randomness import RandomStreams

Outputs = list[dict[str, Any]]
AUGMENTATIONS: dict[str, type[nnUNetTrainer]] = {
    "nnunet": nnUNetTrainer,
    "da5": nnUNetTrainerDA5,
    "da5_ord0": nnUNetTrainerDA5ord0,
    "da5_seg_ord0": nnUNetTrainerDA5Segord0,
    "da_seg_ord0": nnUNetTrainer_DASegOrd0,
    "no_dummy_2d": nnUNetTrainer_noDummy2DDA,
    "none": nnUNetTrainerNoDA,
}
"""Maps `training.augmentation` to the class of nnU-Net that it equals."""


class RecipeTrainer(nnUNetTrainer):
    """Builds what the `nnvit` block of its plans says. Recipe `unet` runs through the same lines as every ViT.

    default_recipe: a shipped recipe for plans without a block (None: such plans are refused); deep_supervision: whether
    the recipe may ask for auxiliary outputs (the `NoDeepSupervision` names say no).
    """

    default_recipe: str | None = None
    deep_supervision = True
    dataloader_train: Any
    dataloader_val: Any

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - the signature is nnU-Net's
    ) -> None:
        with_recipe = self._with_recipe(plans, configuration, dataset_json)
        self.block = cast(PlansBlock, PlansBlock.of(with_recipe, configuration))
        self.recipe = loading.from_dict(self.block.recipe)
        training = self.recipe.training
        # Refused here, before nnU-Net's constructor makes the results folder.
        self.check_recipe(self.recipe)
        self.precision = Precision.choose(training.precision, device)
        super().__init__(with_recipe, configuration, fold, dataset_json, device)
        self.initial_lr, self.weight_decay = training.lr, training.weight_decay
        self.num_epochs = training.num_epochs
        self.num_iterations_per_epoch = training.num_iterations_per_epoch
        self.num_val_iterations_per_epoch = training.num_val_iterations_per_epoch
        # What a head's own loss reads comes the same way as auxiliary outputs do.
        self.enable_deep_supervision = training.deep_supervision or training.loss == "native"
        self.save_every = self.num_epochs + 1  # nnU-Net would save before it knows whether the epoch was the best
        self.probabilistic_oversampling = training.probabilistic_oversampling
        self.oversample_foreground_percent = self._oversampling()
        if self.precision.dtype != torch.float16:
            self.grad_scaler = None
        self.resumed = False
        self.outputs: Outputs = []  # of the iterations that are done in this epoch
        self.pretrained: Path | None = None  # -pretrained_weights
        self.weights_report: dict[str, Any] = {}
        self.frozen = checkpoint_file.FrozenWeights(
            wanted=self.recipe.checkpoint.frozen_weights == "reference",
            spec=str(getattr(self.recipe.model, "weights", "")),
            say=self.say,
        )
        self.average: WeightAverage | None = None
        self.random_streams = RandomStreams(training.seed, self.device)
        self.augmentation = ""  # the transforms of the training, as text
        self._prepare()

    def _prepare(self) -> None:
        """Makes a subclass's own state: nnU-Net reads the constructor's signature again in each class that overrides it."""

    @classmethod
    def check_recipe(cls, recipe: Recipe) -> None:
        """Raises ConfigError for a recipe that this trainer's name excludes."""
        if recipe.training.deep_supervision and not cls.deep_supervision:
            other = cls.__name__.replace("NoDeepSupervision", "")
            raise ConfigError(
                f"-tr {cls.__name__} trains without deep supervision, but the recipe says training.deep_supervision=true; "
                f"take -tr {other}, or set it to false."
            )

    def _with_recipe(self, plans: dict, configuration: str, dataset_json: dict) -> dict:
        """Returns plans that carry a recipe as they are, and plain ones with this trainer's own recipe, in memory."""
        continued = {"continue_training": plans.get("continue_training", False)}
        if PlansBlock.of(plans, configuration) is not None:
            return plans | continued
        if self.default_recipe is None:
            raise PlansError(
                f"the plans '{plans['plans_name']}' carry no recipe for '{configuration}', and {type(self).__name__} "
                "brings none; train with `nnvit train … --recipe NAME`, or make plans with `nnvit plan`."
            )
        overrides = () if self.deep_supervision else ("training.deep_supervision=false",)
        recipe = loading.load_recipe([self.default_recipe], overrides)
        return plans_file.make_plans(plans, configuration, recipe, plans["plans_name"], dataset_json) | continued

    # --- network and weights ---------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Builds the network as nnU-Net does, then loads the pretrained weights.

        A training that goes on takes its weights from its checkpoint instead.
        """
        self.random_streams.start()
        super().initialize()
        if not self.resumed:
            self.weights_report = self._load_weights()
        if self.recipe.training.ema:
            self.average = WeightAverage(self.bare_network, self.recipe.training.ema)

    @property
    def bare_network(self) -> nn.Module:
        """The network without the wrappers of DDP and torch.compile."""
        network = self.network.module if self.is_ddp and hasattr(self.network, "module") else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, EpochSchedule]:
        """Builds the recipe's optimiser, and a schedule in which each parameter group keeps its own base rate."""
        training = self.recipe.training
        prepare_for_training(self.bare_network, training, self.precision.dtype)  # before DDP wraps the network
        optimizer = build_optimizer(self.bare_network, training)
        return optimizer, EpochSchedule(optimizer, training)

    def averaged(self) -> AbstractContextManager[None]:
        """Gives the network the running mean of its weights within the context, if the recipe keeps one."""
        return self.average.applied() if self.average is not None else nullcontext()

    def _load_weights(self) -> dict[str, Any]:
        """Loads another checkpoint's weights or the pretrained backbone's; returns the report."""
        if self.pretrained is not None:
            taken = _transfer(self.bare_network, self.pretrained)
            self.say(f"weights: {taken} tensors from {self.pretrained}")
            origin = self.frozen.origin(self.pretrained)
            return {"source": "-pretrained_weights", "path": self.pretrained.name, "loaded": taken} | origin
        spec = getattr(self.recipe.model, "weights", None)
        if spec is None:
            return {"source": "random"}
        self.say(f"weights: looking for model.weights={spec}")
        network, revision = cast(Any, self.bare_network), self.block.weights_revision
        report = load_backbone(network.backbone, spec, revision, network.head)
        for line in report.lines():
            self.say(line)
        if report.source.startswith("hub ") and revision is None:
            self.say("weights: the plans name no commit of this repository; another day may bring other weights")
        return report.to_dict()

    # --- loss ------------------------------------------------------------------------------------------------------

    def _build_loss(self) -> nn.Module:
        """Builds nnU-Net's loss, or the head's own."""
        if self.recipe.training.loss == "native":
            return cast(Any, self.bare_network).head.native_loss(self.label_manager.ignore_label)
        return super()._build_loss()

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        """Returns the scales in the plans: nnU-Net would read them from strides, which our networks do not have.

        A head's own loss takes the full size only.
        """
        if not self.enable_deep_supervision:
            return None
        scales = self.block.deep_supervision_scales or super()._get_deep_supervision_scales()
        return scales[:1] if self.recipe.training.loss == "native" else scales

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Switches auxiliary outputs: nnU-Net's networks keep the switch in their decoder, ours in the network."""
        network = self.bare_network
        getattr(network, "decoder", network).deep_supervision = enabled

    # --- augmentation and batches ----------------------------------------------------------------------------------

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:  # noqa: N802 - nnU-Net's name
        """Takes the settings of nnU-Net's class for `training.augmentation`; mirrors along the recipe's axes alone.

        [0] in 2D and [0, 1] in 3D are nnU-Net's nnUNetTrainer_onlyMirror01, no mirroring its nnUNetTrainerNoMirroring.
        """
        training, log = self.recipe.training, self.print_to_log_file
        # nnU-Net's classes differ in methods alone, and call each other by `super()`, which refuses a trainer of another class:
        # an object of the class reads and writes this trainer's own attributes.
        methods = {"print_to_log_file": lambda _, *words, **settings: log(*words, **settings)}
        stock: nnUNetTrainer = object.__new__(
            type(training.augmentation, (AUGMENTATIONS[training.augmentation],), methods)
        )
        stock.__dict__ = self.__dict__
        *others, _ = stock.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        allowed = cast(Any, self).inference_allowed_mirroring_axes or ()
        wanted = allowed if training.mirror_axes is None else training.mirror_axes
        axes = tuple(axis for axis in allowed if axis in wanted) if training.mirroring else ()
        self.inference_allowed_mirroring_axes = axes or None
        return *others, axes or None

    def get_training_transforms(self, *args: Any, **settings: Any) -> BasicTransform:
        """Returns the transforms of nnU-Net's class for `training.augmentation`."""
        variant = AUGMENTATIONS[self.recipe.training.augmentation]
        transforms = variant.get_training_transforms(*args, **settings)
        self.augmentation = str(transforms)  # before they are used: some remember what they met
        return transforms

    def _oversampling(self) -> float:
        """Returns the share of a batch that holds foreground; drawn at random, it equals the counted share, as in nnU-Net."""
        training = self.recipe.training
        share, batch = self.oversample_foreground_percent, self.configuration_manager.batch_size
        if training.oversample_foreground_percent is not None:
            return training.oversample_foreground_percent
        return 1 - round(batch * (1 - share)) / batch if training.probabilistic_oversampling else share

    def _set_batch_size_and_oversample(self) -> None:
        """Keeps the share that is drawn at random: it need not be divided among ranks, as in nnU-Net's class."""
        share = self.oversample_foreground_percent
        super()._set_batch_size_and_oversample()
        if self.probabilistic_oversampling:
            self.oversample_foreground_percent = share

    def get_dataloaders(self) -> tuple[Iterator[dict], Iterator[dict]]:
        """Returns nnU-Net's data loaders; with a seed, behind a queue that keeps the order."""
        if self.recipe.training.seed is None:
            with Signals.withheld():  # from the workers, who would leave their parent without batches
                return super().get_dataloaders()
        counts = self.num_iterations_per_epoch, self.num_val_iterations_per_epoch
        return self.random_streams.batches(
            super().get_dataloaders,
            rank=self.local_rank,
            per_epoch=counts,
            start=(self.current_epoch * counts[0] + len(self.outputs), self.current_epoch * counts[1]),
        )

    def close_batches(self) -> None:
        """Ends the workers of `get_dataloaders`; nnU-Net's own queue has a thread that would raise when its workers exit."""
        for batches in (self.dataloader_train, self.dataloader_val):
            for end in ("_shutdown_workers", "_finish"):
                getattr(batches, end, lambda: None)()

    # --- talking ---------------------------------------------------------------------------------------------------

    @property
    def classes(self) -> list[str]:
        """Names of labels or regions, in the order of nnU-Net's pseudo Dice."""
        labels = {
            name: label for name, label in self.dataset_json["labels"].items() if name not in ("background", "ignore")
        }
        return list(labels) if self.label_manager.has_regions else sorted(labels, key=lambda name: labels[name])

    def say(self, line: str) -> None:
        """Prints one line to the console and to the log file."""
        self.print_to_log_file(line)
        if self.local_rank == 0:
            print(line, flush=True)


def _transfer(network: nn.Module, path: Path) -> int:
    """Copies all weights except the last layer's from another nnU-Net checkpoint (`-pretrained_weights`).

    The last layer (`classifier`; `seg_layers` in nnU-Net's own networks) is left unchanged. Returns the number of tensors
    copied. Raises WeightsError, and copies nothing, if any other tensor is missing, unexpected or of another shape, or if the
    checkpoint refers to a weights file that is missing on this machine.
    """
    given = filled(checkpoint_file.read(path)["network_weights"])
    own = network.state_dict()
    wanted = {name for name in own if not _is_last_layer(name)}
    missing = sorted(wanted - given.keys())
    unexpected = sorted(name for name in given.keys() - own.keys() if not _is_last_layer(name))
    misshapen = sorted(name for name in wanted & given.keys() if given[name].shape != own[name].shape)
    if missing or unexpected or misshapen:
        raise WeightsError(
            f"{path} was trained with another network: of {len(wanted)} tensors, {len(missing)} are missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}, {len(misshapen)} of another shape {misshapen[:3]}. "
            "-pretrained_weights needs a checkpoint of the same plans' network; give a bare backbone as model.weights=PATH."
        )
    network.load_state_dict(own | {name: given[name] for name in wanted})
    return len(wanted)


def _is_last_layer(name: str) -> bool:
    return ".seg_layers." in name or name.startswith(("head.classifier.", "refine.classifier.", "auxiliary."))
