"""`nnvit plan`, `nnvit train`, and the train commands of the original fork, which are `nnvit train` under other names."""

import sys
from collections.abc import Sequence
from signal import SIGINT
from typing import Annotated, Any

import typer
from typer import Argument, Option

from nnvit.errors import ConfigError

from . import options as o

app = o.new_app()


@app.command("plan", epilog="Example: nnvit plan 101 2d --recipe segformer_packaged training.num_epochs=100")
def _plan(
    dataset: o.DatasetArgument,
    configuration: o.ConfigurationArgument,
    overrides: o.OverridesArgument = None,
    recipe: Annotated[list[str] | None, o.RECIPE] = None,
    p: o.PlansOption = "nnUNetPlans",
    gpu_memory: Annotated[
        str | None,
        Option(
            metavar="24G",
            help="Take the largest batch size whose training is estimated to fit a GPU of that memory (`nnvit estimate`).",
        ),
    ] = None,
    accept_license: o.LicenseOption = None,
) -> None:
    """Write plans that carry a recipe, beside the base plans and sharing their preprocessed cases."""
    from nnvit.estimate.devices import GIB, parse_memory
    from nnvit.nnunet.plan import plans_file
    from nnvit.nnunet.plan.batch_size import batch_for
    from nnvit.recipe.loading import load_recipe

    o.accept(accept_license)
    sources, keys = recipe or [], list(overrides or [])
    if gpu_memory is not None:
        memory = parse_memory(gpu_memory)
        batch, needed, warning = batch_for(
            memory, lambda more: load_recipe(sources, [*keys, *more]), dataset, configuration, p
        )
        print(f"--gpu-memory {gpu_memory}: training.batch_size={batch}, estimated to take {needed / GIB:.1f} GiB")
        if warning:
            print(warning)
        keys.append(f"training.batch_size={batch}")
    made = plans_file.plan(dataset, configuration, load_recipe(sources, keys), p)
    print(f"{'wrote' if made.created else 'unchanged'}: {made.path}")
    print(f"train it: nnvit train {dataset} {configuration} 0 -p {made.identifier}")


def _train_app(recipe_option: Any, *, trainer: str, summary: str, epilog: str, base: Sequence[str] = ()) -> typer.Typer:
    """Makes a command with nnUNetv2_train's flags that trains a recipe.

    recipe_option: Typer's option that takes recipes; trainer: the default of `-tr`; summary: the help's first
    paragraph; base: shipped recipes that are merged before those of the user.
    """
    made = o.new_app()

    @made.command("train", cls=o.ManyFolds, help=summary, epilog=epilog)
    def command(
        dataset: o.DatasetArgument,
        configuration: o.ConfigurationArgument,
        fold: Annotated[
            str | None,
            Argument(
                metavar="FOLD",
                help="Fold of the cross-validation, from 0; or 'all', nnU-Net's name for one model trained on all cases, "
                "which leaves none to validate on. For several folds: --folds.",
            ),
        ] = None,
        overrides: o.OverridesArgument = None,
        folds: Annotated[
            list[str] | None,
            Option(
                "--folds",
                metavar="FOLD...",
                help="Instead of FOLD: several folds one after the other, such as --folds 0 2 4, or --folds all for each "
                "fold of the cross-validation. What is finished is left as it is, what was interrupted continues.",
            ),
        ] = None,
        recipe: Annotated[list[str] | None, recipe_option] = None,
        tr: Annotated[str, Option("-tr", help="Trainer class.")] = trainer,
        p: o.PlansOption = "nnUNetPlans",
        pretrained_weights: Annotated[
            str | None, Option("-pretrained_weights", help="nnU-Net checkpoint to start from, all but its last layer.")
        ] = None,
        num_gpus: Annotated[int, Option("-num_gpus", help="Number of GPUs to train on.", min=1)] = 1,
        npz: Annotated[bool, Option("--npz", help="Save softmax predictions of the final validation.")] = False,
        c: Annotated[bool, Option("--c", help="Continue from the latest checkpoint.")] = False,
        val: Annotated[bool, Option("--val", help="Only run the final validation of a finished training.")] = False,
        val_best: Annotated[
            bool, Option("--val_best", help="Validate checkpoint_best instead of checkpoint_final.")
        ] = False,
        disable_checkpointing: Annotated[bool, Option("--disable_checkpointing", help="Write no checkpoints.")] = False,
        fast_validation: Annotated[
            bool,
            Option(
                "--fast-validation",
                help="Final validation by the predictor of `nnvit predict`: tiles in batches, in bf16 where the device has "
                "it. By default nnU-Net's own, in the precision of nnUNetv2_predict.",
            ),
        ] = False,
        device: o.DeviceOption = None,
        accept_license: o.LicenseOption = None,
    ) -> None:
        o.accept(accept_license)
        fold, overrides = _fold_and_overrides(fold, overrides or [], folds)
        flags = {
            "pretrained_weights": pretrained_weights,
            "num_gpus": num_gpus,
            "export_validation_probabilities": npz,
            "continue_training": c,
            "only_run_validation": val,
            "disable_checkpointing": disable_checkpointing,
            "val_with_best": val_best,
            "fast_validation": fast_validation,
            "device": o.torch_device(device),
        }
        _train(dataset, configuration, folds or fold, tr, p, base, recipe or [], overrides, flags)

    return made


def _train(
    dataset: str,
    configuration: str,
    fold: str | list[str],
    trainer: str,
    plans: str,
    base: Sequence[str],
    recipes: Sequence[str],
    overrides: Sequence[str],
    flags: dict[str, Any],
) -> None:
    """Trains plans that carry a recipe as they are, unless the user gave one; adds the recipe to others first.

    fold: one fold, or the list that `--folds` took.
    """
    from nnvit.nnunet import paths
    from nnvit.nnunet.crossval.folds import choose, run_folds
    from nnvit.nnunet.plan import plans_file
    from nnvit.nnunet.train import run_training
    from nnvit.recipe.loading import load_recipe
    from nnvit.records.plans_block import PlansBlock

    for variable in ("nnUNet_preprocessed", "nnUNet_results"):
        paths.folder(variable)
    data = paths.PreprocessedDataset.find(dataset)
    dataset, carries = data.name, PlansBlock.of(data.plans(plans), configuration) is not None
    recipe = None if carries and not (recipes or overrides) else load_recipe([*base, *recipes], overrides)
    chosen = choose(dataset, fold) if isinstance(fold, list) else []
    requested: Sequence[int | str] = chosen or [str(fold)]
    for one in requested:
        run_training.check_request(
            dataset,
            configuration,
            one,
            trainer,
            plans_file.identifier_of(recipe, plans) if recipe else plans,
            c=flags["continue_training"] and not chosen,
            val=flags["only_run_validation"],
            pretrained_weights=flags["pretrained_weights"],
            recipe=recipe,
        )
    if recipe is not None:
        plans = plans_file.plan(dataset, configuration, recipe, plans).identifier
    try:
        if chosen:
            model = run_folds(dataset, configuration, chosen, trainer, plans, **flags)
            print(f"\nto evaluate all folds together: nnvit evaluate {model}")
        else:
            run_training.run_training(dataset, configuration, str(fold), trainer, plans, **flags)
    except KeyboardInterrupt as interruption:
        again = "the same command" if chosen else "the same command with --c"
        print(f"\ninterrupted; {again} continues from the last checkpoint", file=sys.stderr)
        raise typer.Exit(128 + getattr(interruption, "signal", SIGINT)) from None


def _fold_and_overrides(fold: str | None, overrides: Sequence[str], folds: list[str] | None) -> tuple[str, list[str]]:
    """Returns FOLD and the overrides: with --folds, the word in FOLD's place is the first KEY=VALUE.

    Raises ConfigError for both FOLD and --folds, or neither.
    """
    if folds and fold and "=" in fold:
        return "", [fold, *overrides]
    if folds and fold:
        raise ConfigError(f"give FOLD ({fold}) or --folds ({' '.join(folds)}), not both.")
    if not folds and fold is None:
        raise ConfigError("which fold? Give its number, such as 0, or --folds all for the whole cross-validation.")
    return fold or "", list(overrides)


def _fork_app(name: str, head: str, base: Sequence[str] = ()) -> typer.Typer:
    """Makes `nnUNetv2_train_<name>` with `--<name>_config`, as in the original fork."""
    command, flag = f"nnUNetv2_train_{name}", f"--{name}_config"
    return _train_app(
        Option(flag, help=f"YAML file with recipe keys, on top of {name}_default."),
        trainer=f"nnUNetTrainerNoDeepSupervision_{name}",
        summary=f"Train {head} on a pretrained ViT: nnUNetv2_train's flags, and a recipe on top of {name}_default.",
        epilog=f"Examples: {command} 101 2d 0 | {command} 101 2d 0 {flag} my.yaml model.backbone_size=base",
        base=base,
    )


app.add_typer(
    _train_app(
        o.RECIPE,
        trainer="nnUNetTrainer_nnvit",
        summary="Plan a recipe, train it on one fold and validate it, with nnUNetv2_train's flags.",
        epilog="Examples: nnvit train 101 2d 0 --recipe segformer_default lora.r=16 | nnvit train 101 2d 0 --recipe unet | "
        "nnvit train 101 2d 0 --recipe my.yaml --c | nnvit train 101 2d --folds all --recipe unet",
    )
)

FORK_APPS = {
    "segformer": _fork_app("segformer", "SegFormer's head"),
    "vit": _fork_app("vit", "progressive upsampling", base=["vit_default"]),
    "m2f": _fork_app("m2f", "Mask2Former's head", base=["m2f_default"]),
}
"""The train commands of the original fork."""
