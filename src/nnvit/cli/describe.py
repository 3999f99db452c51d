"""`nnvit list`, `nnvit show` and `nnvit estimate`: what there is, what a recipe builds, and what training it costs."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from nnvit.errors import ConfigError

from . import options as o

app = o.new_app()

_Listed = StrEnum("_Listed", "BACKBONES SIZES HEADS NECKS RECIPES")


@app.command("list", epilog="Examples: nnvit list | nnvit list sizes | nnvit list recipes --markdown")
def _list(
    kind: Annotated[
        _Listed | None, Argument(metavar="[" + "|".join(_Listed) + "]", help="By default all of them.")
    ] = None,
    markdown: Annotated[
        bool, Option("--markdown", help="Recipes as the page src/nnvit/recipe/shipped/README.md.")
    ] = False,
) -> None:
    """List backbones and their sizes, heads and necks with their keys, and shipped recipes."""
    from nnvit import describe

    if markdown and kind not in (None, _Listed.RECIPES):
        raise ConfigError(f"--markdown prints the page of recipes; `nnvit list {kind} --markdown` has none.")
    if markdown:
        print("\n".join(describe.listing("recipes_page")))
        return
    print("\n\n".join("\n".join(describe.listing(listed)) for listed in ([kind] if kind else _Listed)))


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
    overrides: o.OverridesArgument = None,
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
        lines = describe.account(Path(recipe))
    else:
        lines = describe.show(recipe, overrides or [], channels=channels, classes=classes, patch=patch, batch=batch)
    print("\n".join(lines))


@app.command(
    "estimate",
    epilog="Examples: nnvit estimate segformer_default -d 101 | nnvit estimate vit_default lora.r=16 --patch 320 256 "
    "--batch 8 --device this --device A100",
)
def _estimate(
    recipe: Annotated[str, Argument(metavar="RECIPE", help="A shipped recipe or a YAML file.")],
    overrides: o.OverridesArgument = None,
    d: Annotated[str | None, Option("-d", help="Dataset name or ID: its channels, labels, patch and batch.")] = None,
    c: Annotated[str, Option("-c", help="Configuration of the plans.")] = "2d",
    p: Annotated[str, Option("-p", help="Base plans.")] = "nnUNetPlans",
    device: Annotated[
        list[str] | None,
        Option(
            "--device",
            help="this (measured for a second) or a GPU of the table, such as A100; repeatable. Default: all, and this machine "
            "if it supports the recipe's precision.",
        ),
    ] = None,
    patch: Annotated[
        tuple[int, int] | None,
        Option(min=1, metavar="HEIGHT WIDTH", help="Without -d: pixels.", show_default="512 512"),
    ] = None,
    batch: Annotated[int | None, Option(help="Without -d: patches in a step.", min=1, show_default="2")] = None,
    channels: Annotated[int | None, Option(help="Without -d: channels of the images.", min=1, show_default="3")] = None,
    classes: Annotated[
        int | None, Option(help="Without -d: labels including background, or regions.", min=1, show_default="2")
    ] = None,
) -> None:
    """Predict peak memory and time of a training, on this machine and on GPUs by their published figures.

    A step is run on tensors that hold no numbers: no GPU is needed and nothing is allocated. On this machine a matrix
    product is timed for one second.
    """
    from nnvit import describe
    from nnvit.estimate import Job, devices
    from nnvit.model.precision import Precision
    from nnvit.nnunet.plan.batch_size import job_on_dataset
    from nnvit.recipe import loading
    from nnvit.recipe.schema import ModelConfig

    loaded = loading.load_recipe([recipe], overrides or [])
    by_hand = {"--patch": patch, "--batch": batch, "--channels": channels, "--classes": classes}
    if d is not None:
        if given := [flag for flag, value in by_hand.items() if value is not None]:
            raise ConfigError(
                f"-d {d} defines channels, classes, patch and batch: leave {given[0]} out, or set training.patch_size and "
                "training.batch_size."
            )
        job = job_on_dataset(d, c, loaded, p)
    elif isinstance(loaded.model, ModelConfig):
        training = loaded.training
        height, width = patch or training.patch_size or (512, 512)
        sizes = {"channels": channels or 3, "classes": classes or 2, "batch": batch or training.batch_size or 2}
        job = Job.of(loaded, patch=(height, width), **sizes)
    else:
        raise ConfigError(
            f"model.head={loaded.model.head} is the base plans' own network: name a data set with -d DATASET."
        )
    names = device or ["this", *(known.name for known in devices.DEVICES)]
    here = o.torch_device(None) if "this" in names else None  # with the threads of a training
    chosen = [found for name in names if name != "this" for found in devices.Device.named(name)]
    print(f"{loaded.name}, tuning {loaded.tuning}")
    precision = None
    try:
        precision = Precision.choose(loaded.training.precision, here) if here else None
    except ConfigError as refusal:
        if device:
            raise
        print(f"this machine is left out: {refusal}")
        here = None
    print("\n".join(describe.needs(job, precision, list(dict.fromkeys(chosen)), here)))
