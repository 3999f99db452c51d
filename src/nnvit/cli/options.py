"""Makes the commands' apps, and declares the arguments that several commands take."""

import os
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperCommand

from nnvit.errors import ConfigError

if TYPE_CHECKING:
    import torch


def new_app(**settings: Any) -> typer.Typer:
    """Makes a Typer app whose help is plain text, in which no flag's name is cut short."""
    return typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        **settings,
    )


class ManyFolds(TyperCommand):
    """A command whose -f, or --folds, takes several values in a row, as nnU-Net's own do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads `-f 0 1 2` as `-f 0 -f 1 -f 2`."""
        spread: list[str] = []
        flag = None
        for word in args:
            flag = word if word in ("-f", "--folds") else flag if flag and re.fullmatch(r"\d+|all", word) else None
            spread += [flag, word] if flag and word != flag and spread[-1] != flag else [word]
        return super().parse_args(ctx, spread)


def torch_device(name: str | None) -> "torch.device":
    """Returns the device of `-device` and sets torch's threads as nnU-Net does. Raises ConfigError if it does not exist."""
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cuda", "cpu", "mps"):
        raise ConfigError(f"-device {name} must be cuda, cpu or mps; choose the GPU with CUDA_VISIBLE_DEVICES.")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("-device cuda: torch sees no CUDA device here; use -device cpu, or check `nvidia-smi`.")
    torch.set_num_threads(os.cpu_count() or 1 if name == "cpu" else 1)
    return torch.device(name)


DatasetArgument = Annotated[str, Argument(metavar="DATASET", help="Dataset name or ID.")]
ConfigurationArgument = Annotated[
    str, Argument(metavar="CONFIGURATION", help="Configuration of the plans, such as 2d.")
]
OverridesArgument = Annotated[
    list[str] | None, Argument(metavar="KEY=VALUE", help="Recipe keys, such as lora.r=16 or training.num_epochs=100.")
]
RECIPE = Option(
    "--recipe",
    "-r",
    help="A shipped recipe (`nnvit list recipes`) or a YAML file; repeat it to merge several in order. Without it: "
    "segformer_default, DINOv3 ViT-L with LoRA.",
)
PlansOption = Annotated[str, Option("-p", help="Plans identifier: base plans, or plans made by `nnvit plan`.")]
DeviceOption = Annotated[
    str | None, Option("-device", help="cuda, cpu or mps; by default cuda where there is one, else cpu.")
]
SuffixOption = Annotated[
    str, Option(help="Suffix of the masks' names: _manual1 if the mask of a.jpg is a_manual1.png.")
]
LicenseOption = Annotated[
    list[str] | None,
    Option(
        "--accept-license",
        metavar="ID",
        help="Licence of pretrained weights that you accept, such as dinov3; remembered. Repeat it for several.",
    ),
]


def accept(licences: list[str] | None) -> None:
    """Accepts the licences that `--accept-license` names, for this process and later ones."""
    if licences:
        from nnvit.weights.licences import accept as remember

        remember(licences)


def parse_fold(name: str) -> int | str:
    """Returns a number, or "all". Raises ConfigError for anything else."""
    if name == "all" or name.isdigit():
        return name if name == "all" else int(name)
    raise ConfigError(f"fold {name} must be a number from 0, or 'all'.")
