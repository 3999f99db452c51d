"""The `nnvit` block of a plans file: the recipe that a configuration is trained with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nnvit.errors import PlansError

SCHEMA = 1
"""Version of the block. A key that an older block lacks gets that version's default."""


@dataclass(frozen=True, kw_only=True)
class PlansBlock:
    """The block that `nnvit plan` adds to one configuration of a plans file.

    recipe: all keys resolved, as plain data; hash: its recipe hash. base_plans, base_plans_hash: name and hash of the base
    plans. weights_revision: the hub commit of the pretrained weights, None if there is none to pin. deep_supervision_scales:
    nnU-Net's scale of each output, full size first, None in blocks that are older than the key.
    """

    schema: int = SCHEMA
    recipe: dict[str, Any] = field(default_factory=dict)
    hash: str
    base_plans: str
    base_plans_hash: str
    weights_revision: str | None = None
    deep_supervision_scales: list[list[float]] | None = None

    @classmethod
    def of(cls, plans: dict[str, Any], configuration: str) -> "PlansBlock | None":
        """Returns the block of a configuration, None for nnU-Net's own plans. Raises PlansError for a newer nnvit's block."""
        held = plans["configurations"].get(configuration, {}).get("nnvit")
        if held is None:
            return None
        if held["schema"] > SCHEMA:
            raise PlansError(
                f"these plans were written by a newer nnvit (schema {held['schema']}, this one knows up to {SCHEMA}); run "
                "`pip install -U nnvit`."
            )
        return cls(**{key.name: held[key.name] for key in fields(cls) if key.name in held})

    def refuse_other_recipe(
        self,
        where: Path | str,
        held: Iterable[str],
        advice: str = "Give this recipe plans of its own with `nnvit plan`, or move the folder away.",
        *,
        differences: Sequence[str] = (),
    ) -> None:
        """Raises PlansError if plans, a folder or a checkpoint belong to another recipe than this one.

        held: recipe hashes found there. differences: how the two recipes differ, one line each; any line is a reason to
        refuse. advice: what the user can do.
        """
        others = sorted({*held} - {self.hash})
        if not others and not differences:
            return
        found = ", ".join(other[:8] for other in others) or self.hash[:8]
        differ = f" They differ in {'; '.join(differences)}." if differences else ""
        raise PlansError(
            f"{where} holds another recipe ({found}; this one is {self.hash[:8]}) and is left as it is.{differ} {advice}"
        )
