"""Licences of pretrained weights: which ones are free, and the acceptance that the others ask for, once."""

import contextlib
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from nnvit.errors import WeightsError

from .cache import cache_folder, read_json, write_json

VARIABLE = "NNVIT_ACCEPT_LICENSE"
FLAG = "--accept-license"
UNKNOWN = "unknown"

FREE = frozenset(
    (
        "apache-2.0",
        "mit",
        "isc",
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "unlicense",
    )
)

# Where the others can be read; one that is not listed is asked for all the same.
TEXTS = {
    "dinov3": "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
    "cc-by-nc-4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
    "cc-by-nc-sa-4.0": "https://creativecommons.org/licenses/by-nc-sa/4.0/",
    "cc-by-nc-nd-4.0": "https://creativecommons.org/licenses/by-nc-nd/4.0/",
    "nvidia-segformer-noncommercial": "https://github.com/NVlabs/SegFormer/blob/master/LICENSE",
    "gemma": "https://ai.google.dev/gemma/terms",
}
# as timm's model cards spell them
ALIASES = {"dinov3-license": "dinov3"}


def licence_id(name: str) -> str:
    """The one spelling of a licence's short name that nnvit uses; "unknown" for an empty one."""
    name = name.strip().lower()
    return ALIASES.get(name, name) or UNKNOWN


def is_restricted(name: str) -> bool:
    """Whether the licence has to be accepted. One that nobody named cannot be asked for.

    name: one licence, or several with what each is for: "MIT (one part), Apache-2.0 (another)".
    """
    parts = re.sub(r"\(.*?\)", "", name).split(",")
    return any(licence_id(part.strip()) not in FREE | {UNKNOWN} for part in parts)


def accept(licences: Iterable[str]) -> None:
    """Accepts licences by their IDs, for this process and its children, and remembers them for later ones.

    Where the cache folder cannot be written to, the acceptance lasts as long as the process.
    """
    accepted = [licence_id(part) for item in licences for part in item.split(",") if part.strip()]
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*_from_environment(), *accepted]))
    today = datetime.now(UTC).date().isoformat()
    with contextlib.suppress(OSError):
        _record().parent.mkdir(parents=True, exist_ok=True)
    write_json(_record(), dict.fromkeys(accepted, today) | read_json(_record()))


def acceptance(name: str) -> str:
    """How the licence was accepted, or "" where it was not."""
    licence = licence_id(name)
    if date := read_json(_record()).get(licence):
        return f"{FLAG}, {date}"
    return VARIABLE if licence in _from_environment() else ""


def require(name: str, what: str) -> bool | str:
    """False for a licence that needs no acceptance, else how it was accepted.

    what: the weights, in words. Raises WeightsError that names the licence, where to read it and how to accept it.
    """
    if not is_restricted(name):
        return False
    if how := acceptance(name):
        return how
    licence = licence_id(name)
    given = sorted({*read_json(_record()), *_from_environment()})
    raise WeightsError(
        f"{what}: the licence '{licence}' asks to be accepted before the weights are used."
        f" Read it ({TEXTS.get(licence, 'on its publisher’s page')}), then give {FLAG} {licence} once,"
        f" or set {VARIABLE}={licence}." + (f" Accepted so far: {', '.join(given)}." if given else "")
    )


def _from_environment() -> list[str]:
    return [licence_id(part) for part in os.environ.get(VARIABLE, "").split(",") if part.strip()]


def _record() -> Path:
    return cache_folder() / ".licences.json"
