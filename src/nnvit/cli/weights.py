"""`nnvit weights`: checks and downloads pretrained weight files."""

import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from nnvit.errors import NnvitError, WeightsError

from .options import LicenseOption, accept, new_app

app = new_app(name="weights", no_args_is_help=True, help="Check and download pretrained weight files.")


@app.command("check", epilog="Example: nnvit weights check ~/.cache/nnvit/weights/RETFound_cfp_weights.pth")
def _check(file: Annotated[Path, Argument(metavar="FILE", help="A checkpoint; nothing in it is executed.")]) -> None:
    """Describe a weight file: layout, family and size that it fits, tensors that would load, licence, statistics."""
    from nnvit.weights.check import check

    print("\n".join(check(file).lines()))


@app.command(
    "fetch",
    epilog="Examples: nnvit weights fetch segformer_default --accept-license dinov3 | nnvit weights fetch mit/b2 dinov2/base "
    "--cache /shared/weights | nnvit weights fetch visionfm/base model.backbone_args.modality=oct",
)
def _fetch(
    names: Annotated[
        list[str],
        Argument(
            metavar="NAME... [KEY=VALUE...]",
            help="A recipe, a backbone and its size such as dinov3/large (`nnvit list sizes`), or hf:REPO@REVISION; then recipe "
            "keys for all of them.",
        ),
    ],
    cache: Annotated[
        Path | None, Option(metavar="DIR", help="Keep everything there instead of in the user's own caches.")
    ] = None,
    accept_license: LicenseOption = None,
) -> None:
    """Download pretrained weights; trainings without internet find them afterwards."""
    if cache is not None:
        # huggingface_hub reads its variable once, when it is imported. The user's own HF_HOME stays: it holds the login.
        folder = cache.expanduser().resolve()
        os.environ |= {"HF_HUB_CACHE": str(folder / "hub"), "NNVIT_CACHE": str(folder)}
    from nnvit.weights.sources import fetch

    accept(accept_license)
    overrides = [name for name in names if "=" in name]
    wanted = [name for name in names if name not in overrides]
    failed = []
    for name in wanted:
        try:
            print("\n".join(fetch(name, overrides)), flush=True)
        except NnvitError as error:
            failed.append(f"{name}: {error}")
    if len(failed) < len(wanted):
        print("\n".join(_offline_lines()))
    if failed:
        raise WeightsError("\n".join(failed))


def _offline_lines() -> list[str]:
    """Returns the settings with which a machine without internet reads the fetched files."""
    from huggingface_hub import constants

    from nnvit.weights.cache import cache_folder

    cache = Path(constants.HF_HUB_CACHE).absolute()
    home = f"HF_HOME={cache.parent}" if cache.name == "hub" else f"HF_HUB_CACHE={cache}"
    return [
        "On a machine without internet, with these folders mounted or copied (symbolic links kept: rsync -a):",
        f"  export {home}",
        f"  export NNVIT_CACHE={cache_folder().parent.absolute()}",
        "  export HF_HUB_OFFLINE=1",
    ]
