"""Reads the headers of the shipped recipes, and makes the page of recipes from them."""

from dataclasses import dataclass
from importlib.resources import files
from itertools import takewhile

from nnvit.recipe import loading
from nnvit.recipe.schema import ModelConfig, Recipe


@dataclass(frozen=True, kw_only=True)
class _Header:
    """The comment before the first key of a shipped YAML: a summary, and the notes `Source`, `Use` and `Cost`."""

    summary: str
    notes: dict[str, str]


def header(name: str) -> _Header:
    """Reads a shipped recipe's header: the first paragraph, then `Word: text`, which may run over several lines."""
    paragraphs: list[str] = []
    text = (files("nnvit.recipe") / "shipped" / f"{name}.yaml").read_text(encoding="utf-8")
    for line in takewhile(lambda line: line.startswith("#"), text.splitlines()):
        words = line.removeprefix("#").strip()
        begins = not paragraphs or words.partition(":")[0] in ("Source", "Use", "Cost")
        paragraphs = [*paragraphs, words] if begins else [*paragraphs[:-1], f"{paragraphs[-1]} {words}"]
    notes = (paragraph.partition(": ") for paragraph in paragraphs[1:])
    return _Header(summary=paragraphs[0], notes={word: text for word, _, text in notes})


def recipes_markdown() -> str:
    """Returns the page `src/nnvit/recipe/shipped/README.md`, from the recipes' headers."""
    lines = [
        "# Shipped recipes",
        "",
        "Made by `nnvit list recipes --markdown` from the headers of the YAML files beside it; edit those.",
        "`nnvit show NAME` prints a recipe with every key resolved, its network and its cost; `--recipe NAME` trains it.",
        "Cost is that of one patch of 3 x 512 x 512 pixels and 2 classes, as `nnvit show` counts it.",
    ]
    for name in loading.shipped_recipes():
        head = header(name)
        lines += ["", f"## `{name}`", "", head.summary, ""]
        lines += [f"- **{word}**: {text}" for word, text in head.notes.items()]
        lines += [f"- **Network**: {_parts(loading.load_recipe([name]))}"]
    return "\n".join(lines) + "\n"


def _parts(recipe: Recipe) -> str:
    model, training = recipe.model, recipe.training
    if not isinstance(model, ModelConfig):
        return "the base plans' own"
    tuning = {"lora": f"LoRA of rank {recipe.lora.r}", "frozen": "frozen", "full": "trained in full"}[recipe.tuning]
    return (
        f"`{model.backbone}` `{model.backbone_size}`, {tuning}; neck `{model.neck}`; head `{model.head}`; "
        f"loss `{training.loss}`; results under `{recipe.name}`"
    )
