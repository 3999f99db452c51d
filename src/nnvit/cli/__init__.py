"""The command line: parse, call one function, print. What is heavy is imported inside the commands."""

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from nnvit import __version__
from nnvit.errors import ConfigError, NnvitError

from . import catalogue, comparison, convert, dataset, estimate, export, prediction, training
from .options import DeviceOption, new_app

app = new_app(
    no_args_is_help=True,
    help="Pretrained vision transformers and swappable decode heads in stock nnU-Net, compared fairly.",
    epilog="Any command takes --debug, which shows the traceback of an error.",
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"nnvit {__version__}")
        raise typer.Exit


training.register(app)
prediction.register(app)
catalogue.register(app)
estimate.register(app)
convert.register(app)
export.register(app)
comparison.register(app)
app.add_typer(dataset.app, name="dataset")


@app.command(epilog="Example: nnvit demo --images photos --masks masks --mask-suffix _manual1")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo"),
    images: Annotated[Path | None, typer.Option(help="Own photographs instead of synthetic ones.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Their masks.")] = None,
    mask_suffix: Annotated[str, typer.Option(help="What a mask's name has after its image's.")] = "",
    device: DeviceOption = None,
) -> None:
    """Run the whole path, from photographs to a table of Dice and overlays; about ten minutes on two cores."""
    from .demonstration import Photographs, run

    if (images is None) != (masks is None):
        raise ConfigError("--images and --masks go together; without both the demo makes synthetic photographs.")
    own = Photographs(images=images, masks=masks, mask_suffix=mask_suffix) if images and masks else None
    run(out, own, device)


@app.command("shim-path", epilog="Example: export nnUNet_extTrainer=$(nnvit shim-path)")
def shim_path() -> None:
    """Print the folder that nnUNet_extTrainer needs, for `nnUNetv2_train … -tr nnUNetTrainer_segformer`."""
    print(Path(__file__).parents[1] / "nnunet" / "train" / "shim")


segformer_app = training.fork_app("segformer", "SegFormer's head")
vit_app = training.fork_app("vit", "progressive upsampling", base=["vit_default"])
m2f_app = training.fork_app("m2f", "Mask2Former's head", base=["m2f_default"])


def main() -> None:
    """`nnvit`."""
    _run(app)


def train_segformer_main() -> None:
    """`nnUNetv2_train_segformer`."""
    _run(segformer_app)


def train_vit_main() -> None:
    """`nnUNetv2_train_vit`."""
    _run(vit_app)


def train_m2f_main() -> None:
    """`nnUNetv2_train_m2f`."""
    _run(m2f_app)


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
