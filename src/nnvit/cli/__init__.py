"""The command line: parse, call one function, print. Commands import what is heavy when they run.

One file per command, or per few commands on one subject, whose Typer app `app` holds them.
"""

import sys
from functools import partial
from importlib import import_module
from typing import Annotated

import typer
from typer import Option

from nnvit import __version__
from nnvit.errors import NnvitError

from .options import new_app
from .train import FORK_APPS

COMMANDS = (
    "train",  # plan, train
    "predict",  # predict, evaluate
    "describe",  # list, show, estimate
    "share",  # convert, export, install
    "compare",
    "demo",
    "shim_path",
    "weights",
    "dataset",
)
"""The files of this folder that hold commands, in the order in which `nnvit --help` lists them."""

app = new_app(
    no_args_is_help=True,
    help="Pretrained vision transformers and swappable decode heads in stock nnU-Net, compared fairly.",
    epilog="Any command takes --debug, which shows the traceback of an error.",
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"nnvit {__version__}")
        raise typer.Exit


for _name in COMMANDS:
    app.add_typer(import_module(f"{__name__}.{_name}").app)


def _run(typer_app: typer.Typer) -> None:
    """Runs the app; an error that the user can mend becomes one paragraph and exit code 2."""
    debug = "--debug" in sys.argv
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


main = partial(_run, app)
train_segformer_main = partial(_run, FORK_APPS["segformer"])
train_vit_main = partial(_run, FORK_APPS["vit"])
train_m2f_main = partial(_run, FORK_APPS["m2f"])
"""The entry points of `nnvit`, `nnUNetv2_train_segformer`, `nnUNetv2_train_vit` and `nnUNetv2_train_m2f`."""
