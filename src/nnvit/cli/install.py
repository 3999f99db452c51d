"""`nnvit install`: an exported model into nnUNet_results."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from .options import new_app

app = new_app()


@app.command("install", epilog="Examples: nnvit install mine.zip | nnvit install theirs.zip --name Dataset900_Theirs")
def _install(
    source: Annotated[Path, Argument(metavar="ZIP", help="Made by `nnvit export` or nnUNetv2_export_model_to_zip.")],
    name: Annotated[
        str | None, Option("--name", "-d", help="Call its data set this instead, such as Dataset900_Theirs.")
    ] = None,
) -> None:
    """Put a model from a zip into nnUNet_results, after checking that nothing in it can do harm.

    Paths that leave the folder, links, and checkpoints that would run code are refused; a model that is there already is
    never overwritten; all of it arrives, or nothing.
    """
    from nnvit.nnunet.share.install import install

    print("\n".join(install(source, name).lines()))
