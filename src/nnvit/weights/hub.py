"""Files and commits of Hugging Face repositories, from the network or from huggingface_hub's own cache."""

import contextlib
import glob
import re
from pathlib import Path

from nnvit.errors import WeightsError

FILES = ("model.safetensors", "pytorch_model.bin")
_TIMEOUT = 10.0  # seconds that a plan waits for a commit


def download(repo: str, files: tuple[str, ...], revision: str | None) -> tuple[Path, str]:
    """Downloads the first of the files that the repository has; returns its path and commit.

    revision: a commit, a branch or a tag; None is the main branch. Raises WeightsError with the reason of the first failure.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    reason: Exception | None = None
    for file in files:
        try:
            path = Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))
        except EntryNotFoundError as error:
            reason = reason or error
        except Exception as error:  # offline, gated, no such repository: each has a class of its own
            reason = error
            break
        else:
            # The hub's cache keeps a file in a folder named after its commit.
            return path, path.parent.name
    summary = str(reason).strip().splitlines()[0].rstrip(".")
    raise WeightsError(
        f"getting {' or '.join(files)} from {repo} failed: {type(reason).__name__}: {summary}{_advice(repo, reason)}"
    )


def _advice(repo: str, error: BaseException | None) -> str:
    """Says how to get access to a repository, for answers 401 and 403 (gated, private or absent)."""
    answers = [getattr(e, "response", None) for e in (error, getattr(error, "__cause__", None))]
    if not {getattr(answer, "status_code", None) for answer in answers} & {401, 403}:
        return ""
    from huggingface_hub import constants

    return (
        f". Visit {constants.ENDPOINT}/{repo}, ask there for access, then log in here with `hf auth login` or HF_TOKEN"
    )


def licence_on_card(repo: str, revision: str | None) -> str:
    """Returns the licence on the repository's card, or "" if it cannot be read or names none."""
    import huggingface_hub

    try:
        card = huggingface_hub.model_info(repo, revision=revision, timeout=_TIMEOUT).card_data
    except Exception:  # as in commit_of; the download says why
        return ""
    # A licence that the hub has no ID for is "other", with its name in another field.
    return str((card and (card.get("license_name") or card.get("license"))) or "")


def cached_files(name: str = "") -> list[Path]:
    """Returns the files, or those with this name, of all repositories in huggingface_hub's cache on this machine."""
    from huggingface_hub import constants

    return sorted(Path(constants.HF_HUB_CACHE).glob(f"models--*/snapshots/*/{glob.escape(name) or '*'}"))


def commit_of(repo: str, revision: str | None) -> str | None:
    """Returns the commit of a branch or tag (None: the main branch) now, or offline that of the last download.

    None if neither the hub nor its cache on this machine knows it.
    """
    if re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        return revision
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    # offline, gated, no such repository: each is a class of its own
    with contextlib.suppress(Exception):
        return huggingface_hub.model_info(repo, revision=revision, timeout=_TIMEOUT).sha
    # not downloaded; not a possible name of a repository
    with contextlib.suppress(LocalEntryNotFoundError, ValueError):
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=True)).name
    return None
