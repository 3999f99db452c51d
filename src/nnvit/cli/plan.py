"""`nnvit plan`: plans that carry a recipe."""

from typing import Annotated

from typer import Option

from . import options as o

app = o.new_app()


@app.command("plan", epilog="Example: nnvit plan 101 2d --recipe segformer_packaged training.num_epochs=100")
def _plan(
    dataset: o.DatasetArgument,
    configuration: o.ConfigurationArgument,
    overrides: o.OverridesArgument = None,
    recipe: Annotated[list[str] | None, o.RECIPE] = None,
    p: o.PlansOption = "nnUNetPlans",
    gpu_memory: Annotated[
        str | None,
        Option(
            metavar="24G",
            help="Take the largest batch size whose training is estimated to fit a GPU of that memory (`nnvit estimate`).",
        ),
    ] = None,
    accept_license: o.LicenseOption = None,
) -> None:
    """Write plans that carry a recipe, beside the base plans and sharing their preprocessed cases."""
    from nnvit.estimate.devices import GIB, parse_memory
    from nnvit.nnunet.plan import plans_file
    from nnvit.nnunet.plan.batch_size import batch_for
    from nnvit.recipe.loading import load_recipe

    o.accept(accept_license)
    sources, keys = recipe or [], list(overrides or [])
    if gpu_memory is not None:
        memory = parse_memory(gpu_memory)
        batch, needed, warning = batch_for(
            memory, lambda more: load_recipe(sources, [*keys, *more]), dataset, configuration, p
        )
        print(f"--gpu-memory {gpu_memory}: training.batch_size={batch}, estimated to take {needed / GIB:.1f} GiB")
        if warning:
            print(warning)
        keys.append(f"training.batch_size={batch}")
    made = plans_file.plan(dataset, configuration, load_recipe(sources, keys), p)
    print(f"{'wrote' if made.created else 'unchanged'}: {made.path}")
    print(f"train it: nnvit train {dataset} {configuration} 0 -p {made.identifier}")
