"""Licences of pretrained weights: which ones are free, and the acceptance that the others require once."""

import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime

from nnvit.errors import WeightsError

from .cache import Record, cache_folder

VARIABLE = "NNVIT_ACCEPT_LICENSE"
FLAG = "--accept-license"
UNKNOWN = "unknown"

_FREE = {
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
}

# Texts of the others. A licence that is not listed must be accepted too.
TEXTS = {
    "dinov3": "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
    "cc-by-nc-4.0": "https://creativecommons.org/licenses/by-nc/4.0/",
    "cc-by-nc-sa-4.0": "https://creativecommons.org/licenses/by-nc-sa/4.0/",
    "cc-by-nc-nd-4.0": "https://creativecommons.org/licenses/by-nc-nd/4.0/",
    "nvidia-segformer-noncommercial": "https://github.com/NVlabs/SegFormer/blob/master/LICENSE",
    "gemma": "https://ai.google.dev/gemma/terms",
}
# spellings of timm's model cards
_ALIASES = {"dinov3-license": "dinov3"}


def licence_id(name: str) -> str:
    """Returns nnvit's spelling of a licence's short name; "unknown" for an empty one."""
    name = name.strip().lower()
    return _ALIASES.get(name, name) or UNKNOWN


def is_restricted(name: str) -> bool:
    """Returns True if the licence has to be accepted. An unknown one cannot be asked for.

    name: one licence, or several with the part that each covers: "MIT (one part), Apache-2.0 (another)".
    """
    parts = re.sub(r"\(.*?\)", "", name).split(",")
    return any(licence_id(part.strip()) not in _FREE | {UNKNOWN} for part in parts)


def accept(licences: Iterable[str]) -> None:
    """Accepts licences by their IDs, for this process and its children, and remembers them for later ones.

    If the cache folder cannot be written to, the acceptance lasts as long as the process.
    """
    accepted = [licence_id(part) for item in licences for part in item.split(",") if part.strip()]
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*_from_environment(), *accepted]))
    _record().add(dict.fromkeys(accepted, datetime.now(UTC).date().isoformat()))


def _acceptance(licence: str) -> str:
    """Returns how the licence with this ID was accepted, or "" if it was not."""
    if date := _record().read().get(licence):
        return f"{FLAG}, {date}"
    return VARIABLE if licence in _from_environment() else ""


def require(name: str, what: str) -> bool | str:
    """Returns False for a licence that needs no acceptance, else how it was accepted.

    what: the weights, in words. Raises WeightsError that names the licence, where to read it and how to accept it.
    """
    if not is_restricted(name):
        return False
    licence = licence_id(name)
    if how := _acceptance(licence):
        return how
    given = sorted({*_record().read(), *_from_environment()})
    raise WeightsError(
        f"{what}: the licence '{licence}' must be accepted before the weights are used."
        f" Read it ({TEXTS.get(licence, 'on its publisher’s page')}), then give {FLAG} {licence} once,"
        f" or set {VARIABLE}={licence}." + (f" Accepted so far: {', '.join(given)}." if given else "")
    )


def _from_environment() -> list[str]:
    return [licence_id(part) for part in os.environ.get(VARIABLE, "").split(",") if part.strip()]


def _record() -> Record:
    return Record(cache_folder() / ".licences.json")
