"""The command line: parse, call one function, print. What is heavy is imported inside the commands."""

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import __version__
from .errors import ConfigError, NnvitError

if TYPE_CHECKING:
    import torch

HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help never cuts a flag's name short
    context_settings=HELP,
    help="Pretrained vision transformers and swappable decode heads in stock nnU-Net, compared fairly.",
    epilog="Any command takes --debug, which shows the traceback of an error.",
)
dataset_app = typer.Typer(
    no_args_is_help=True, context_settings=HELP, help="Photographs and masks into nnU-Net's raw format."
)
app.add_typer(dataset_app, name="dataset")
segformer_app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, context_settings=HELP
)

DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help="Dataset name or ID.")]
ConfigurationArgument = Annotated[
    str, typer.Argument(metavar="CONFIGURATION", help="Configuration of the plans, such as 2d.")
]
FoldArgument = Annotated[str, typer.Argument(metavar="FOLD", help="Fold of the cross-validation, from 0; or 'all'.")]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Recipe keys, such as lora.r=16 or training.num_epochs=100.",
        show_default=False,
    ),
]
RecipeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        "-r",
        help="A shipped recipe (segformer_default, segformer_packaged, unet) or a YAML file; repeat it to merge several in "
        "order. Without it: segformer_default, DINOv3 ViT-L with LoRA.",
        show_default=False,
    ),
]
TrainerOption = Annotated[str, typer.Option("-tr", help="Trainer class.")]
PlansOption = Annotated[str, typer.Option("-p", help="Plans identifier: base plans, or plans made by `nnvit plan`.")]
PretrainedOption = Annotated[
    str | None,
    typer.Option("-pretrained_weights", help="nnU-Net checkpoint to start from, all but its last layer."),
]
GpusOption = Annotated[int, typer.Option("-num_gpus", help="Number of GPUs to train on.", min=1)]
NpzOption = Annotated[bool, typer.Option("--npz", help="Save softmax predictions of the final validation.")]
ContinueOption = Annotated[bool, typer.Option("--c", help="Continue from the latest checkpoint.")]
ValOption = Annotated[bool, typer.Option("--val", help="Only run the final validation of a finished training.")]
ValBestOption = Annotated[
    bool, typer.Option("--val_best", help="Validate checkpoint_best instead of checkpoint_final.")
]
NoCheckpointOption = Annotated[bool, typer.Option("--disable_checkpointing", help="Write no checkpoints.")]
DeviceOption = Annotated[
    str | None,
    typer.Option("-device", help="cuda, cpu or mps; by default cuda where there is one, else cpu.", show_default=False),
]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"nnvit {__version__}")
        raise typer.Exit


@app.command(epilog="Example: nnvit plan 101 2d --recipe segformer_packaged training.num_epochs=100")
def plan(
    dataset: DatasetArgument,
    configuration: ConfigurationArgument,
    overrides: OverridesArgument = None,
    recipe: RecipeOption = None,
    p: PlansOption = "nnUNetPlans",
) -> None:
    """Write plans that carry a recipe, beside the base plans and sharing their preprocessed cases."""
    from .config import load_recipe
    from .nnunet import planning

    made = planning.plan(dataset, configuration, load_recipe(recipe or [], overrides or []), p)
    print(f"{'wrote' if made.created else 'unchanged'}: {made.path}")
    print(f"train it: nnvit train {dataset} {configuration} 0 -p {made.identifier}")


@app.command(
    epilog="Examples: nnvit train 101 2d 0 --recipe segformer_default lora.r=16 | "
    "nnvit train 101 2d 0 --recipe unet | nnvit train 101 2d 0 --recipe my.yaml --c"
)
def train(
    dataset: DatasetArgument,
    configuration: ConfigurationArgument,
    fold: FoldArgument,
    overrides: OverridesArgument = None,
    recipe: RecipeOption = None,
    tr: TrainerOption = "nnUNetTrainer_nnvit",
    p: PlansOption = "nnUNetPlans",
    pretrained_weights: PretrainedOption = None,
    num_gpus: GpusOption = 1,
    npz: NpzOption = False,
    c: ContinueOption = False,
    val: ValOption = False,
    val_best: ValBestOption = False,
    disable_checkpointing: NoCheckpointOption = False,
    device: DeviceOption = None,
) -> None:
    """Plan a recipe, train it on one fold and validate it, with nnUNetv2_train's flags."""
    _train(dataset, configuration, fold, recipe or [], overrides or [], p, device, **_flags(locals()))


@segformer_app.command(
    epilog="Examples: nnUNetv2_train_segformer 101 2d 0 | "
    "nnUNetv2_train_segformer 101 2d 0 --segformer_config my.yaml model.backbone_size=base"
)
def train_segformer(
    dataset: DatasetArgument,
    configuration: ConfigurationArgument,
    fold: FoldArgument,
    overrides: OverridesArgument = None,
    segformer_config: Annotated[
        str | None, typer.Option("--segformer_config", help="YAML file with recipe keys.")
    ] = None,
    tr: TrainerOption = "nnUNetTrainerNoDeepSupervision_segformer",
    p: PlansOption = "nnUNetPlans",
    pretrained_weights: PretrainedOption = None,
    num_gpus: GpusOption = 1,
    npz: NpzOption = False,
    c: ContinueOption = False,
    val: ValOption = False,
    val_best: ValBestOption = False,
    disable_checkpointing: NoCheckpointOption = False,
    device: DeviceOption = None,
) -> None:
    """Train SegFormer's head on a pretrained ViT: nnUNetv2_train's flags, and a recipe on top of segformer_default."""
    recipes = [segformer_config] if segformer_config else []
    _train(dataset, configuration, fold, recipes, overrides or [], p, device, **_flags(locals()))


FLAGS = ("tr", "pretrained_weights", "num_gpus", "npz", "c", "val", "val_best", "disable_checkpointing")


def _flags(given: dict[str, Any]) -> dict[str, Any]:
    """nnUNetv2_train's flags among a command's arguments."""
    return {name: given[name] for name in FLAGS}


def _train(
    dataset: str,
    configuration: str,
    fold: str,
    recipes: list[str],
    overrides: list[str],
    p: str,
    device: str | None,
    *,
    tr: str,
    pretrained_weights: str | None,
    num_gpus: int,
    npz: bool,
    c: bool,
    val: bool,
    val_best: bool,
    disable_checkpointing: bool,
) -> None:
    """Trains plans that carry a recipe as they are; others get the recipe first (the defaults, where none is given)."""
    from .config import load_recipe
    from .nnunet import folders, planning, training

    for variable in ("nnUNet_preprocessed", "nnUNet_results"):
        folders.folder(variable)
    torch_device = _device(device)
    dataset = folders.dataset_name(dataset)
    carries = planning.block_of(folders.read_plans(dataset, p), configuration) is not None
    recipe = load_recipe(recipes, overrides) if recipes or overrides or not carries else None
    training.check_request(
        dataset,
        configuration,
        fold,
        tr,
        planning.identifier_of(recipe, p) if recipe else p,
        c=c,
        val=val,
        pretrained_weights=pretrained_weights,
    )
    if recipe is not None:
        p = planning.plan(dataset, configuration, recipe, p).identifier
    try:
        training.run_training(
            dataset,
            configuration,
            fold,
            tr,
            p,
            pretrained_weights,
            num_gpus,
            export_validation_probabilities=npz,
            continue_training=c,
            only_run_validation=val,
            disable_checkpointing=disable_checkpointing,
            val_with_best=val_best,
            device=torch_device,
        )
    except KeyboardInterrupt:
        print("\ninterrupted; the same command with --c continues from the last checkpoint", file=sys.stderr)
        raise typer.Exit(130) from None


def _device(name: str | None) -> "torch.device":
    """The device, with as many threads as nnU-Net gives it."""
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cuda", "cpu", "mps"):
        raise ConfigError(f"-device {name} must be cuda, cpu or mps; which GPU it is says CUDA_VISIBLE_DEVICES.")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("-device cuda: torch sees no CUDA device here; use -device cpu, or check `nvidia-smi`.")
    torch.set_num_threads(os.cpu_count() or 1 if name == "cpu" else 1)
    return torch.device(name)


@app.command(epilog="Example: nnvit demo --images photos --masks masks --mask-suffix _manual1")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo"),
    images: Annotated[Path | None, typer.Option(help="Own photographs instead of synthetic ones.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Their masks.")] = None,
    mask_suffix: Annotated[str, typer.Option(help="What a mask's name has after its image's.")] = "",
    device: DeviceOption = None,
) -> None:
    """Run the whole path, from photographs to a table of Dice and overlays; about ten minutes on two cores."""
    from .demo import Photographs, run

    if (images is None) != (masks is None):
        raise ConfigError("--images and --masks go together; without both the demo makes synthetic photographs.")
    own = Photographs(images=images, masks=masks, mask_suffix=mask_suffix) if images and masks else None
    run(out, own, device)


@app.command("shim-path", epilog="Example: export nnUNet_extTrainer=$(nnvit shim-path)")
def shim_path() -> None:
    """Print the folder that nnUNet_extTrainer needs, for `nnUNetv2_train … -tr nnUNetTrainer_segformer`."""
    print(Path(__file__).parent / "nnunet" / "shim")


@dataset_app.command(
    "import",
    epilog="Example: nnvit dataset import photos masks -d 101 -n CHASE --mask-suffix _1stHO --label vessel=1 "
    "--group-by 'Image_(\\d+)'",
)
def dataset_import(
    images: Annotated[Path, typer.Argument(help="Folder of jpg, png or tif images.")],
    masks: Annotated[Path, typer.Argument(help="Folder of png, gif or tif masks, of 0/255 or 0..n.")],
    d: Annotated[int, typer.Option("-d", "--dataset-id", help="Dataset number, 1 to 999.", min=1, max=999)],
    name: Annotated[str, typer.Option("-n", "--name", help="Dataset name.")],
    mask_suffix: Annotated[str, typer.Option(help="What a mask's name has after its image's.")] = "",
    label: Annotated[
        list[str] | None,
        typer.Option(help="name=value for each value as the mask files store it; 0 is background.", show_default=False),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="What of a name tells the patient; patients never straddle folds."),
    ] = None,
    num_folds: Annotated[int, typer.Option(help="Folds of the cross-validation, with --group-by.", min=2)] = 5,
    validate_on: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="One fold only, which validates on the groups that it matches whole."),
    ] = None,
    hold_out: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Groups (without --group-by: names) that become the test set, imagesTs. It must match them whole.",
        ),
    ] = None,
    normalization: Annotated[
        str, typer.Option(help="rgb01: values in 0..1, the backbone's statistics apply; zscore: per image.")
    ] = "rgb01",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the data set of that number.")] = False,
) -> None:
    """Turn a folder of images and a folder of masks into nnUNet_raw/DatasetXXX_Name."""
    from .data.importer import import_dataset

    report = import_dataset(
        images,
        masks,
        d,
        name,
        raw=_nnunet_folder("nnUNet_raw"),
        preprocessed=_nnunet_folder("nnUNet_preprocessed"),
        mask_suffix=mask_suffix,
        labels=_labels(label),
        group_by=group_by,
        num_folds=num_folds,
        validate_on=validate_on,
        hold_out=hold_out,
        normalization=normalization,
        overwrite=overwrite,
    )
    print("\n".join(report.lines()))


@dataset_app.command(epilog="Example: nnvit dataset synthesize photographs --num 24 --size 384 --seed 0")
def synthesize(
    out: Annotated[Path, typer.Argument(help="Folder to make; it gets images/ and masks/.")],
    num: Annotated[int, typer.Option(help="Number of photographs, two per patient.", min=1)] = 24,
    size: Annotated[int, typer.Option(help="Height and width in pixels.", min=64)] = 384,
    seed: Annotated[int, typer.Option(help="The same seed gives the same photographs.")] = 0,
) -> None:
    """Make synthetic fundus photographs with vessel masks, for demos and dry runs."""
    from .data.synthetic import generate

    generate(out, num=num, size=size, seed=seed)
    print(f"{num} photographs in {out}/images, their vessels in {out}/masks")


def _labels(pairs: list[str] | None) -> dict[str, int] | None:
    if not pairs:
        return None
    labels = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not name or not value.isdigit():
            raise ConfigError(f"--label {pair} must be name=value with a whole number, such as vessel=255.")
        if name in labels or name == "background":
            raise ConfigError(f"--label {pair}: each name is given once, and value 0 is the background by itself.")
        labels[name] = int(value)
    return labels


def _nnunet_folder(variable: str) -> Path:
    from .nnunet.folders import folder

    return folder(variable)


def main() -> None:
    """`nnvit`."""
    _run(app)


def train_segformer_main() -> None:
    """`nnUNetv2_train_segformer`."""
    _run(segformer_app)


def _run(typer_app: typer.Typer) -> None:
    """Runs the app; what a user can mend is one paragraph and exit code 2."""
    debug = "--debug" in sys.argv
    # torchvision's own, on import with torch 2.15; nothing that a user could mend
    warnings.filterwarnings("ignore", message=".torch.jit.interface. is deprecated", category=FutureWarning)
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        typer_app()
    except NnvitError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
