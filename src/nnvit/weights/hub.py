"""Files and commits of Hugging Face repositories, from the network or from huggingface_hub's own cache."""

import glob
import re
from pathlib import Path

from nnvit.errors import WeightsError

FILES = ("model.safetensors", "pytorch_model.bin")
TIMEOUT = 10.0  # seconds that a plan waits for a commit


def download(repo: str, files: tuple[str, ...], revision: str | None) -> tuple[Path, str]:
    """The first of the files that the repository has, and the commit that it belongs to.

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
        except Exception as error:  # offline, gated, no such repository: each is a class of its own
            reason = error
            break
        else:
            # The hub's cache keeps a file under the commit that it belongs to.
            return path, path.parent.name
    summary = str(reason).strip().splitlines()[0].rstrip(".")
    raise WeightsError(
        f"getting {' or '.join(files)} from {repo} failed: {type(reason).__name__}: {summary}{_advice(repo, reason)}"
    )


def _advice(repo: str, error: BaseException | None) -> str:
    """What opens a repository that refused: the hub answers 401 or 403 for gated, private and absent ones."""
    answers = [getattr(e, "response", None) for e in (error, getattr(error, "__cause__", None))]
    if not {getattr(answer, "status_code", None) for answer in answers} & {401, 403}:
        return ""
    return f". Visit {page(repo)}, ask there for access, then log in here with `hf auth login` or HF_TOKEN"


def page(repo: str) -> str:
    """The repository's page, for a browser."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo}"


def licence_on_card(repo: str, revision: str | None) -> str:
    """The licence that the repository's own card names, or "" where it cannot be asked or names none."""
    import huggingface_hub

    try:
        card = huggingface_hub.model_info(repo, revision=revision, timeout=TIMEOUT).card_data
    except Exception:  # as for a commit; the download says why
        return ""
    # A licence that the hub has no word for is "other", with its name beside it.
    return str((card and (card.get("license_name") or card.get("license"))) or "")


def held() -> frozenset[Path]:
    """The files of all repositories in huggingface_hub's cache on this machine."""
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/*")
    return frozenset(path.resolve() for path in snapshots)


def named(file: str) -> list[Path]:
    """The files of this name in huggingface_hub's cache on this machine."""
    from huggingface_hub import constants

    return sorted(Path(constants.HF_HUB_CACHE).glob(f"models--*/snapshots/*/{glob.escape(file)}"))


def check_content(path: Path, sha256: str) -> None:
    """Raises WeightsError where a file in the hub's cache is not what the hub sent: it is kept there under its hash."""
    kept_as = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", kept_as) and kept_as != sha256:
        raise WeightsError(
            f"{path} is damaged: its sha256 is {sha256}, the hub's {kept_as}. Delete it and fetch it again."
        )


def commit_of(repo: str, revision: str | None) -> str | None:
    """The commit that a branch or tag (None: the main branch) means now; offline, what it meant at the last download.

    None where neither the hub nor its cache on this machine tells.
    """
    if re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        return revision
    import huggingface_hub

    try:
        return huggingface_hub.model_info(repo, revision=revision, timeout=TIMEOUT).sha
    except Exception:  # offline, gated, no such repository: each is a class of its own
        return _cached_commit(repo, revision)


def _cached_commit(repo: str, revision: str | None) -> str | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True)).name
    except (LocalEntryNotFoundError, ValueError):  # not downloaded; no name that a repository can have
        return None
