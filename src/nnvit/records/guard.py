"""The one check that plans, a folder or a checkpoint do not belong to another recipe."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from nnvit.errors import PlansError


def refuse_other_recipe(
    where: Path | str, held: Iterable[str | None], own: str, advice: str, *, differences: Sequence[str] = ()
) -> None:
    """Raises PlansError if plans, a folder or a checkpoint belong to another recipe.

    held: recipe hashes found there, None for plans without a recipe. own: the hash of the wanted recipe. differences: how the two
    differ, one line each; any line is a reason to refuse. advice: what the user can do.
    """
    others = sorted({found for found in held if found is not None} - {own})
    if not others and not differences:
        return
    found = ", ".join(other[:8] for other in others) or own[:8]
    differ = f" They differ in {'; '.join(differences)}." if differences else ""
    raise PlansError(
        f"{where} holds another recipe ({found}; this one is {own[:8]}) and is left as it is.{differ} {advice}"
    )
