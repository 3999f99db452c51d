"""`nnvit list`, `nnvit show`, `nnvit weights check` and `fetch`: what there is, what it costs, how it comes here."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nnvit.errors import ConfigError, NnvitError, WeightsError

from .options import LicenseOption, OverridesArgument, accept, new_app

weights_app = new_app(no_args_is_help=True, help="Files with pretrained weights.")


class Kind(StrEnum):
    """What `nnvit list` lists."""

    BACKBONES = "backbones"
    SIZES = "sizes"
    HEADS = "heads"
    NECKS = "necks"
    RECIPES = "recipes"


def list_(
    kind: Annotated[
        Kind | None, typer.Argument(metavar="[" + "|".join(Kind) + "]", help="All of them where none is named.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Recipes as the page src/nnvit/recipe/shipped/README.md.")
    ] = False,
) -> None:
    """List backbones and their sizes, heads and necks with their keys, and shipped recipes."""
    from nnvit import describe

    if markdown and kind not in (None, Kind.RECIPES):
        raise ConfigError(f"--markdown prints the page of recipes; `nnvit list {kind} --markdown` has none.")
    if markdown:
        print(describe.recipes_markdown(), end="")
        return
    for i, listed in enumerate([kind] if kind else Kind):
        print(("\n" if i else "") + "\n".join(describe.listing(listed)))


def show(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|FOLDER",
            help="A shipped recipe or a YAML file; or the folder of a training, a model or one of its folds.",
        ),
    ],
    overrides: OverridesArgument = None,
    channels: Annotated[int, typer.Option(help="Input channels of the data set.", min=1)] = 3,
    classes: Annotated[int, typer.Option(help="Output channels: labels with background, or regions.", min=1)] = 2,
    patch: Annotated[tuple[int, int], typer.Option(min=1, metavar="HEIGHT WIDTH", help="Pixels.")] = (512, 512),
    batch: Annotated[int, typer.Option(help="Patches in a training step.", min=1)] = 2,
) -> None:
    """Show a recipe with every key resolved, and its network: parts, shapes, parameters, FLOPs and memory.

    Nothing is allocated or downloaded: the largest backbones are shown on any machine. Of a folder, show the training's own
    account instead: how it ended, where an iteration's seconds went, peak memory, FLOPs, weights and versions.
    """
    from nnvit import describe

    if Path(recipe).is_dir():
        if overrides:
            raise ConfigError(
                f"{recipe} is a folder, whose recipe is what it was trained with: leave out {overrides[0]}."
            )
        print("\n".join(describe.account(Path(recipe))))
        return
    lines = describe.show(recipe, overrides or [], channels=channels, classes=classes, patch=patch, batch=batch)
    print("\n".join(lines))


@weights_app.callback()
def _weights() -> None:
    """Files with pretrained weights."""


@weights_app.command(epilog="Example: nnvit weights check ~/.cache/nnvit/weights/RETFound_cfp_weights.pth")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint; nothing in it is executed.")],
) -> None:
    """Describe a weight file: layout, fitting family and size, tensors that would load, licence, statistics."""
    from nnvit.weights.check import check as check_file

    print("\n".join(check_file(file).lines()))


@weights_app.command(
    epilog="Examples: nnvit weights fetch segformer_default --accept-license dinov3 | nnvit weights fetch mit/b2 dinov2/base "
    "--cache /shared/weights | nnvit weights fetch visionfm/base model.backbone_args.modality=oct"
)
def fetch(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME... [KEY=VALUE...]",
            help="A recipe, a backbone and its size such as dinov3/large (`nnvit list sizes`), or hf:REPO@REVISION; then keys "
            "of a recipe that hold for all of them.",
        ),
    ],
    cache: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Store the files there instead of in the user's own caches.")
    ] = None,
    accept_license: LicenseOption = None,
) -> None:
    """Download pretrained weights to this machine, for trainings without internet."""
    if cache is not None:
        _keep_in(cache)
    from nnvit.weights import fetch as fetching

    accept(accept_license)
    overrides = [name for name in names if "=" in name]
    wanted = [name for name in names if name not in overrides]
    failed = []
    for name in wanted:
        try:
            print("\n".join(fetching.fetch(name, overrides).lines()), flush=True)
        except NnvitError as error:
            failed.append(f"{name}: {error}")
    if len(failed) < len(wanted):
        print("\n".join(fetching.offline_lines()))
    if failed:
        raise WeightsError("\n".join(failed))


def _keep_in(folder: Path) -> None:
    """Puts both caches into `folder`; huggingface_hub reads its variable once, when it is imported.

    The user's own HF_HOME is kept, because it holds the login.
    """
    folder = folder.expanduser().resolve()
    os.environ |= {"HF_HUB_CACHE": str(folder / "hub"), "NNVIT_CACHE": str(folder)}


def register(app: typer.Typer) -> None:
    """Adds `list`, `show` and `weights`."""
    app.command("list", epilog="Examples: nnvit list | nnvit list sizes | nnvit list recipes --markdown")(list_)
    app.command(
        epilog="Examples: nnvit show vit_default | nnvit show my.yaml lora.r=16 --channels 1 --classes 4 --patch 320 256 | "
        "nnvit show $nnUNet_results/Dataset101_X/nnUNetTrainer_nnvit__nnUNetPlans_mine__2d"
    )(show)
    app.add_typer(weights_app, name="weights")
