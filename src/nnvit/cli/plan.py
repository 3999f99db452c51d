"""`nnvit plan`: plans that carry a recipe."""

from collections.abc import Sequence
from typing import Annotated

import typer

from . import options as o

app = o.new_app()


@app.command("plan", epilog="Example: nnvit plan 101 2d --recipe segformer_packaged training.num_epochs=100")
def _plan(
    dataset: o.DatasetArgument,
    configuration: o.ConfigurationArgument,
    overrides: o.OverridesArgument = None,
    recipe: Annotated[list[str] | None, typer.Option("--recipe", "-r", help=o.RECIPE_HELP)] = None,
    p: o.PlansOption = "nnUNetPlans",
    gpu_memory: Annotated[
        str | None,
        typer.Option(
            metavar="24G",
            help="Take the largest batch size whose training is estimated to fit a GPU of that memory (`nnvit estimate`).",
        ),
    ] = None,
    accept_license: o.LicenseOption = None,
) -> None:
    """Write plans that carry a recipe, beside the base plans and sharing their preprocessed cases."""
    from nnvit.nnunet.plan import plans_file
    from nnvit.recipe.loading import load_recipe

    o.accept(accept_license)
    keys = list(overrides or [])
    if gpu_memory is not None:
        keys.append(f"training.batch_size={_batch_for(gpu_memory, dataset, configuration, recipe or [], keys, p)}")
    made = plans_file.plan(dataset, configuration, load_recipe(recipe or [], keys), p)
    print(f"{'wrote' if made.created else 'unchanged'}: {made.path}")
    print(f"train it: nnvit train {dataset} {configuration} 0 -p {made.identifier}")


def _batch_for(
    memory: str, dataset: str, configuration: str, recipe: Sequence[str], keys: Sequence[str], plans: str
) -> int:
    """Picks the batch size for a GPU of this memory, and prints it."""
    from nnvit.estimate.devices import GIB, parse_memory
    from nnvit.nnunet.plan.batch_size import batch_for
    from nnvit.recipe.loading import load_recipe

    size = parse_memory(memory)
    batch, needed, warning = batch_for(
        size, lambda more: load_recipe(recipe, [*keys, *more]), dataset, configuration, plans
    )
    print(f"--gpu-memory {memory}: training.batch_size={batch}, estimated to take {needed / GIB:.1f} GiB")
    if warning:
        print(warning)
    return batch
