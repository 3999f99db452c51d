"""`nnvit weights fetch`: downloads pretrained weights into the caches that training reads, for machines without internet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nnvit import registry
from nnvit.errors import ConfigError, WeightsError
from nnvit.recipe import loading
from nnvit.recipe.schema import ModelConfig
from nnvit.types import Backbone

from . import hub
from .cache import cache_folder
from .safe_reading import weights_sha256
from .sources import WeightsFile, find_weights, from_repository


@dataclass(frozen=True, kw_only=True)
class _Fetched:
    """The outcome for one name. file: None for weights that need no file; new: it was downloaded now."""

    name: str
    spec: str
    file: WeightsFile | None
    new: bool = False

    def lines(self) -> list[str]:
        """Returns the outcome for a terminal."""
        file = self.file
        if file is None:
            return [f"{self.name}: model.weights={self.spec} needs no file"]
        size = sum(path.stat().st_size for path in (file.path.iterdir() if file.path.is_dir() else [file.path]))
        accepted = f" (accepted: {file.licence_accepted})" if file.licence_accepted else ""
        return [
            f"{self.name}: {'fetched' if self.new else 'already here, content verified; nothing was downloaded'}",
            f"  from {file.source}",
            f"  file {file.path}",
            f"  {size:,} bytes, sha256 {file.sha256}",
            f"  licence {file.licence}{accepted}",
        ]


def fetch(name: str, overrides: Sequence[str] = ()) -> _Fetched:
    """Downloads the weights that one name means, by the same steps as a training.

    name: a recipe (shipped name or YAML file), `backbone/size`, or `hf:REPO@REVISION`; overrides: keys of a recipe. Raises
    WeightsError that says which licence to accept, which page to visit, or where to put a file that no hub holds.
    """
    spec, backbone = _wanted(name, overrides)
    before = hub.cached_files()
    try:
        file = from_repository(spec, None) if backbone is None else find_weights(spec, backbone)
    except WeightsError as error:
        offline = " HF_HUB_OFFLINE is set here; unset it to fetch." if _offline() else ""
        raise WeightsError(f"{error}{offline}") from error
    if file is None:
        return _Fetched(name=name, spec=spec, file=None)
    _verify(file)
    new = file.source.startswith("hub ") and file.path.resolve() not in before
    return _Fetched(name=name, spec=spec, file=file, new=new)


def offline_lines() -> list[str]:
    """Returns the settings with which a machine without internet reads the fetched files."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).absolute()
    home = f"HF_HOME={cache.parent}" if cache.name == "hub" else f"HF_HUB_CACHE={cache}"
    return [
        "On a machine without internet, with these folders mounted or copied (symbolic links kept: rsync -a):",
        f"  export {home}",
        f"  export NNVIT_CACHE={cache_folder().parent.absolute()}",
        "  export HF_HUB_OFFLINE=1",
    ]


def _wanted(name: str, overrides: Sequence[str]) -> tuple[str, Backbone | None]:
    """Returns the value of `model.weights` and its backbone, None for a repository without recipe."""
    if name.startswith("hf:") and not overrides:
        return name, None
    family, slash, size = name.partition("/")
    if name.startswith("hf:"):
        recipe = loading.load_recipe([], [*overrides, f"model.weights={name}"])
    elif slash and family in registry.names("backbone"):
        recipe = loading.load_recipe([], [f"model.backbone={family}", f"model.backbone_size={size}", *overrides])
    else:
        recipe = loading.load_recipe([name], overrides)
    model = recipe.model
    if not isinstance(model, ModelConfig):
        raise ConfigError(f"{name} trains the base plans' own network, which has no pretrained weights to fetch.")
    with torch.device("meta"):
        backbone = registry.build_backbone(
            model.backbone, model.backbone_size, model.feature_layers or [], model.backbone_args
        )
    return model.weights, backbone


def _verify(file: WeightsFile) -> None:
    """Hashes the file again. Raises WeightsError if it differs from the hub's or the remembered hash."""
    if file.source.startswith("hub "):
        hub.check_content(file.path, file.sha256)
    elif weights_sha256(file.path) != file.sha256:
        raise WeightsError(
            f"{file.path} is damaged: it no longer has the sha256 {file.sha256}. Put the file there again."
        )


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
