"""The one trainer: stock nnU-Net's, with the recipe's network, weights, optimiser, schedule and precision.

Recipe `unet` runs through the same lines as every ViT; nothing here asks what the network is.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch._dynamo import OptimizedModule

from nnvit.errors import ConfigError, PlansError
from nnvit.model import Segmenter, precision
from nnvit.model.optimizer import EpochSchedule, WeightAverage, build_optimizer
from nnvit.model.preparation import keep_frozen_in
from nnvit.nnunet import checkpoint_file
from nnvit.nnunet.plan import plans_file
from nnvit.recipe import loading
from nnvit.recipe.schema import Recipe
from nnvit.weights import load_backbone

from . import augmentation, batches, loop, randomness, screen, validation
from . import guard as taken
from . import signals as interruption
from .external_weights import FrozenWeights
from .run_record import Manifest
from .stopwatch import Stopwatch
from .tensorboard import TensorBoardLogger


class nnUNetTrainer_nnvit(nnUNetTrainer):
    """Trains what the `nnvit` block of its plans says.

    default_recipe: a shipped recipe for plans without a block (None: such plans are refused); deep_supervision: whether
    the recipe may ask for auxiliary outputs (the `NoDeepSupervision` names say no).
    """

    default_recipe: str | None = None
    deep_supervision = True
    dataloader_train: Any
    dataloader_val: Any
    on_case: Callable[[], None] | None = None  # called for each case of the final validation

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - the signature is nnU-Net's
    ) -> None:
        with_recipe = self._with_recipe(plans, configuration, dataset_json)
        self.block = with_recipe["configurations"][configuration]["nnvit"]
        self.recipe = plans_file.recipe_of(self.block)
        training = self.recipe.training
        # Refused here, before nnU-Net's constructor makes the results folder.
        self.check_recipe(self.recipe)
        self.precision = precision.choose(training.precision, device)
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
        self.pretrained: Path | None = None
        self.manifest = Manifest(self)
        self.frozen = FrozenWeights(self)
        self.average: WeightAverage | None = None
        self.augmentation = ""
        self.validated = "checkpoint_final.pth"
        self.fast_validation = False
        self.outputs: list[dict[str, Any]] = []  # of the iterations that are done in this epoch
        self.random_states: dict[str, Any] | None = None  # of the checkpoint that is continued
        self.watch = Stopwatch(self.device)
        self.screen = screen.Screen(f"{self.recipe.name}  fold {fold}", self.classes, visible=self.local_rank == 0)
        self.signal: Callable[[], int | None] = lambda: None

    @classmethod
    def check_recipe(cls, recipe: Recipe) -> None:
        """Raises ConfigError for a recipe that this trainer's name excludes."""
        if recipe.training.deep_supervision and not cls.deep_supervision:
            other = cls.__name__.replace("NoDeepSupervision", "")
            raise ConfigError(
                f"-tr {cls.__name__} trains without deep supervision, but the recipe says training.deep_supervision=true; "
                f"take -tr {other}, or set it to false."
            )

    # --- before training -------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """As nnU-Net's, then the pretrained weights, unless a checkpoint of this training is about to be loaded."""
        self._seed()
        super().initialize()
        if not self.resumed:
            self.manifest.weights = self._load_weights()
        if self.recipe.training.ema:
            self.average = WeightAverage(self.bare_network, self.recipe.training.ema)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, EpochSchedule]:
        """The recipe's optimiser, and a schedule in which each parameter group keeps its own base rate."""
        training = self.recipe.training
        self._prepare_network()
        optimizer = build_optimizer(self.bare_network, training)
        return optimizer, EpochSchedule(optimizer, training)

    def _prepare_network(self) -> None:
        """What concerns training alone and is no part of the architecture; before DDP wraps the network."""
        training, backbone = self.recipe.training, getattr(self.bare_network, "backbone", None)
        if backbone is not None and training.drop_path:
            backbone.set_drop_path(training.drop_path)
        if backbone is not None and training.grad_checkpointing:
            backbone.set_grad_checkpointing(True)
        if backbone is not None and self.precision.dtype is not None:
            keep_frozen_in(cast(Any, self.bare_network), self.precision.dtype)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:  # noqa: N802 - nnU-Net's name
        """As that of nnU-Net's class for `training.augmentation`, mirroring along the recipe's axes alone."""
        training = self.recipe.training
        stock = augmentation.standing_in(self, training.augmentation)
        *others, _ = stock.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        axes = augmentation.mirror_axes(self, training.mirroring, training.mirror_axes)
        self.inference_allowed_mirroring_axes = axes
        return *others, axes

    def get_training_transforms(self, *args: Any, **settings: Any) -> BasicTransform:
        """Those of nnU-Net's class for `training.augmentation`."""
        variant = augmentation.VARIANTS[self.recipe.training.augmentation]
        transforms = variant.get_training_transforms(*args, **settings)
        self.augmentation = str(transforms)  # before they are used: some remember what they met
        return transforms

    def _oversampling(self) -> float:
        """The share of a batch that holds foreground; drawn at random, it is what counting comes to, as in nnU-Net's class."""
        training = self.recipe.training
        share, batch = self.oversample_foreground_percent, self.configuration_manager.batch_size
        if training.oversample_foreground_percent is not None:
            return training.oversample_foreground_percent
        return 1 - round(batch * (1 - share)) / batch if training.probabilistic_oversampling else share

    def _set_batch_size_and_oversample(self) -> None:
        """nnU-Net's; what is drawn at random needs no sharing out among ranks, as in its class."""
        share = self.oversample_foreground_percent
        super()._set_batch_size_and_oversample()
        if self.probabilistic_oversampling:
            self.oversample_foreground_percent = share

    def get_dataloaders(self) -> tuple[Iterator[dict], Iterator[dict]]:
        """nnU-Net's; with a seed, its loaders behind a queue that keeps the order."""
        if self.recipe.training.seed is None:
            with interruption.withheld():  # from the workers, who would leave their parent without batches
                return super().get_dataloaders()
        with batches.without_workers():
            train, val = super().get_dataloaders()
        return batches.in_order(self, train.data_loader, val.data_loader)

    def _build_loss(self) -> nn.Module:
        """nnU-Net's loss, or the head's own."""
        if self.recipe.training.loss == "native":
            return cast(Any, self.bare_network).head.native_loss(self.label_manager.ignore_label)
        return super()._build_loss()

    def _get_deep_supervision_scales(self) -> list[list[float]] | None:
        """nnU-Net's scales, which our networks have no strides to read from; a head's own loss wants the full size."""
        if not self.enable_deep_supervision:
            return None
        scales = self.block.get("deep_supervision_scales") or super()._get_deep_supervision_scales()
        return scales[:1] if self.recipe.training.loss == "native" else scales

    def on_train_start(self) -> None:
        """Refuses a fold that is taken, then starts as nnU-Net does."""
        taken.refuse(self)
        super().on_train_start()
        self.manifest.start()
        if self.local_rank == 0:
            board = TensorBoardLogger(Path(self.output_folder) / "tensorboard", self.classes, self.current_epoch)
            self.logger.loggers.append(board)
        if self.random_states is not None and self.local_rank == 0:
            randomness.restore(self.random_states, self.device)
        else:
            self._seed(self.current_epoch, self.local_rank)
        for line in self.manifest.lines():
            self.say(line)
        if self.local_rank == 0 and not self.disable_checkpointing:
            self.frozen.decide()

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """nnU-Net's networks keep the switch in their decoder; ours have no decoder, and nothing to switch."""
        network = self.bare_network
        getattr(network, "decoder", network).deep_supervision = enabled

    @property
    def bare_network(self) -> nn.Module:
        """The network without the wrappers of DDP and torch.compile."""
        network = self.network.module if self.is_ddp and hasattr(self.network, "module") else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def _with_recipe(self, plans: dict, configuration: str, dataset_json: dict) -> dict:
        """Plans that carry a recipe as they are; plain ones with this trainer's own, in memory."""
        continued = {"continue_training": plans.get("continue_training", False)}
        if plans_file.block_of(plans, configuration) is not None:
            return plans | continued
        if self.default_recipe is None:
            raise PlansError(
                f"the plans '{plans['plans_name']}' carry no recipe for '{configuration}', and {type(self).__name__} "
                "brings none; train with `nnvit train … --recipe NAME`, or make plans with `nnvit plan`."
            )
        overrides = () if self.deep_supervision else ("training.deep_supervision=false",)
        recipe = loading.load_recipe([self.default_recipe], overrides)
        return plans_file.make_plans(plans, configuration, recipe, plans["plans_name"], dataset_json) | continued

    def _seed(self, *place: int) -> None:
        """With a seed, starts all random streams from it and from the place in the training; else leaves them alone."""
        if self.recipe.training.seed is not None:
            randomness.seed(self.recipe.training.seed, *place)

    def _load_weights(self) -> dict[str, Any]:
        """The report of what was loaded: another checkpoint's weights, or the pretrained backbone's."""
        if self.pretrained is not None:
            taken = checkpoint_file.transfer(self.bare_network, self.pretrained)
            self.say(f"weights: {taken} tensors from {self.pretrained}")
            origin = self.frozen.origin(self.pretrained)
            return {"source": "-pretrained_weights", "path": self.pretrained.name, "loaded": taken} | origin
        spec = getattr(self.recipe.model, "weights", None)
        if spec is None:
            return {"source": "random"}
        self.say(f"weights: looking for model.weights={spec}")
        network, revision = cast(Any, self.bare_network), self.block.get("weights_revision")
        report = load_backbone(network.backbone, spec, revision, network.head)
        for line in report.lines():
            self.say(line)
        if report.source.startswith("hub ") and revision is None:
            self.say(
                "weights: the plans name no commit of this repository, so that another day may bring other weights"
            )
        return report.to_dict()

    # --- training --------------------------------------------------------------------------------------------------

    def run_training(self) -> None:
        """nnU-Net's loop, timed and shown. Whatever ends it is written to `nnvit_run.json`."""
        try:
            self.on_train_start()
            signals = nullcontext(self.signal) if self.is_ddp else interruption.awaited(self.say)
            with signals as self.signal, self.screen:
                for _ in range(self.current_epoch, self.num_epochs):
                    self.on_epoch_start()
                    loop.train(self)
                    loop.validate(self)
                    self.on_epoch_end()
            self.on_train_end()
            if came := self.signal():
                raise interruption.Interrupted(came)
        except BaseException as error:
            self.manifest.end(f"{type(error).__name__}: {error}".strip(": "))
            raise
        finally:
            batches.close(self.dataloader_train, self.dataloader_val)
        self.manifest.end("finished")

    def train_step(self, batch: dict) -> dict:
        """One step of nnU-Net's, in the recipe's precision and with its gradient clipping."""
        data, target = self._to_device(batch["data"]), self._to_device(batch["target"])
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision.autocast(self.device):
            loss = self.loss(self.network(data), target)
        self.watch.mark()
        scaler, clip = self.grad_scaler, self.recipe.training.grad_clip
        (loss if scaler is None else scaler.scale(loss)).backward()
        self.watch.mark()
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), clip)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        if self.average is not None:
            self.average.update()
        return {"loss": loss.detach().cpu().numpy()}

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's, which sets the precision itself where the device is a GPU."""
        with self.precision.autocast(self.device):
            return super().validation_step(batch)

    def on_epoch_end(self) -> None:
        """nnU-Net's end of an epoch (log, best checkpoint, plot), the latest checkpoint, then one line for the reader."""
        super().on_epoch_end()
        self.outputs = []
        self.manifest.update(self.watch.medians())
        loop.show(self)
        if self.current_epoch < self.num_epochs and self.current_epoch % self.recipe.training.save_every == 0:
            self.save_latest()

    def on_train_end(self) -> None:
        """As nnU-Net's; the workers end, and with them what a killed process left half written."""
        super().on_train_end()
        self.dataloader_train = self.dataloader_val = None
        checkpoint_file.sweep(Path(self.output_folder))

    def on_train_epoch_start(self) -> None:
        """As nnU-Net's; a head that changes in the course of the training hears how far it is."""
        super().on_train_epoch_start()
        if isinstance(self.bare_network, Segmenter):
            self.bare_network.set_progress(self.current_epoch / self.num_epochs)

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the network has the running mean of its weights, where the recipe keeps one."""
        return self.average.applied() if self.average is not None else nullcontext()

    def _to_device(self, tensor: Any) -> Any:
        if isinstance(tensor, list):
            return [self._to_device(part) for part in tensor]
        return tensor.to(self.device, non_blocking=True)

    @property
    def classes(self) -> list[str]:
        """Names of labels or regions, in the order of nnU-Net's pseudo Dice."""
        labels = {
            name: label for name, label in self.dataset_json["labels"].items() if name not in ("background", "ignore")
        }
        return list(labels) if self.label_manager.has_regions else sorted(labels, key=lambda name: labels[name])

    # --- checkpoints -----------------------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's content, under the name of the stock trainer, which builds the same network from the plans."""
        if self.local_rank != 0:
            return
        if self.disable_checkpointing:
            self.print_to_log_file("No checkpoint written, checkpointing is disabled")
            return
        checkpoint_file.write(Path(filename), checkpoint_file.content_of(self, self.current_epoch + 1, []))

    def save_latest(self) -> None:
        """checkpoint_latest, of wherever the training stands."""
        if self.local_rank == 0 and not self.disable_checkpointing:
            content = checkpoint_file.content_of(self, self.current_epoch, self.outputs)
            checkpoint_file.write(Path(self.output_folder) / "checkpoint_latest.pth", content)

    def interrupted(self) -> interruption.Interrupted:
        """What ends the training after a signal, once its place is kept."""
        self.save_latest()
        return interruption.Interrupted(cast(int, self.signal()))

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Continues from a checkpoint of the same recipe. Raises PlansError for another one's."""
        content = filename_or_checkpoint
        if not isinstance(content, dict):
            content = checkpoint_file.read(Path(content))
        held = content.get("nnvit", {}).get("hash")
        if held != self.block["hash"]:
            raise PlansError(
                f"the checkpoint in {self.output_folder} belongs to another recipe ({str(held)[:8]}; the plans say "
                f"{self.block['hash'][:8]}). Restore the plans that it was trained with, or start in another folder."
            )
        self.resumed = True
        if not self.was_initialized:
            self.initialize()
        checkpoint_file.restore(self, content)
        inside = f" and {len(self.outputs)} iterations" if self.outputs else ""
        self.say(
            f"continuing after {self.current_epoch} of {self.num_epochs} epochs{inside}, from the checkpoint in "
            f"{self.output_folder}"
        )

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's own final validation or, with `fast_validation`, the fast predictor's."""
        validation.run(self, super().perform_actual_validation, save_probabilities)

    # --- talking ---------------------------------------------------------------------------------------------------

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = False, add_timestamp: bool = True) -> None:
        """nnU-Net's log file keeps everything; the console shows only what was meant for it explicitly."""
        if self.on_case is not None and str(args[0]).startswith("predicting "):
            self.on_case()
        super().print_to_log_file(*args, also_print_to_console=also_print_to_console, add_timestamp=add_timestamp)

    def say(self, line: str) -> None:
        """One line to the console and to the log file."""
        self.print_to_log_file(line)
        if self.local_rank == 0:
            print(line, flush=True)
