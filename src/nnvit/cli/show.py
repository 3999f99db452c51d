"""`nnvit show`: a recipe and its network, or the record of a training."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from nnvit.errors import ConfigError

from .options import OverridesArgument, new_app

app = new_app()


@app.command(
    "show",
    epilog="Examples: nnvit show vit_default | nnvit show my.yaml lora.r=16 --channels 1 --classes 4 --patch 320 256 | "
    "nnvit show $nnUNet_results/Dataset101_X/nnUNetTrainer_nnvit__nnUNetPlans_mine__2d",
)
def _show(
    recipe: Annotated[
        str,
        Argument(
            metavar="RECIPE|FOLDER",
            help="A shipped recipe or a YAML file; or the folder of a training, a model or one of its folds.",
        ),
    ],
    overrides: OverridesArgument = None,
    channels: Annotated[int, Option(help="Input channels of the data set.", min=1)] = 3,
    classes: Annotated[int, Option(help="Output channels: labels with background, or regions.", min=1)] = 2,
    patch: Annotated[tuple[int, int], Option(min=1, metavar="HEIGHT WIDTH", help="Pixels.")] = (512, 512),
    batch: Annotated[int, Option(help="Patches in a training step.", min=1)] = 2,
) -> None:
    """Show a recipe with every key resolved, and its network: parts, shapes, parameters, FLOPs and memory.

    Nothing is allocated or downloaded: the largest backbones are shown on any machine. Of a folder, show the record of
    the training instead: how it ended, where an iteration's seconds went, peak memory, FLOPs, weights and versions.
    """
    from nnvit import describe

    if Path(recipe).is_dir():
        if overrides:
            raise ConfigError(
                f"{recipe} is a folder of a training, whose recipe cannot be changed: leave out {overrides[0]}."
            )
        print("\n".join(describe.account(Path(recipe))))
        return
    lines = describe.show(recipe, overrides or [], channels=channels, classes=classes, patch=patch, batch=batch)
    print("\n".join(lines))
