"""Measure the speed of a training step, relative to the limits of the device: ``make bench``.

    python training/benchmarks/step.py --recipe simvae-mnist simclr-cifar10 --rows 320 1280

Prints one line per recipe and number of rows (views per step):

- ``views/s`` and ``ms`` per step, the median; ``views %`` is the share of it spent on making views.
- ``FLOP ms``: the step's floating-point operations, as counted by torch, at the best rate that any
  matrix product or convolution with the network's own shapes reached, in the step's own dtype.
- ``byte ms``: the memory traffic if nothing stays in a cache, at the best rate of copying 256 MB.
  Everything kept for the backward pass is written and read once, every weight is read twice, its
  gradient is written once, and AdamW reads and writes both and its two moments.
- ``ratio``: the larger of the two, the lower bound, divided by the time of the step. A ratio of 1
  would be a step that consists only of its products, or its memory traffic, at full speed.

Steps, views, products and copies are measured in turn, so that noise affects all of them.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import torch
from repzoo_training.loop.allocator import keep_freed_memory
from repzoo_training.loop.budget import measure_precision
from repzoo_training.loop.step import Learner
from repzoo_training.objectives import Batch
from repzoo_training.randomness import generator
from repzoo_training.recipes.recipe import Recipe, override
from repzoo_training.recipes.registry import find_recipe
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

#: Reads and writes of each weight per step: 3 in forward and backward pass, 7 in AdamW.
WEIGHT_PASSES = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", nargs="+", default=["simvae-mnist"])
    parser.add_argument("--rows", type=int, nargs="+", help="default: the recipe's")
    parser.add_argument("--steps", type=int, default=15, help="measured steps per line")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="default: measured")
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    precision = arguments.precision or measure_precision(device)
    where = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    compiled = ", compiled" if arguments.compile else ""
    print(f"{precision}{compiled}, {where}, torch {torch.__version__}")
    print(
        f"{'recipe':<20} {'rows':>6} {'views/s':>9} {'ms':>8} {'views %':>8} {'GFLOP':>8} "
        f"{'FLOP ms':>8} {'MB':>7} {'byte ms':>8} {'ratio':>6}"
    )
    for name in arguments.recipe:
        recipe = find_recipe(name)
        for rows in arguments.rows or [recipe.views_per_step]:
            images = max(1, rows // recipe.views_per_image)
            settings = [f"images_per_step={images}", f"precision={precision}"]
            line(override(recipe, settings), device, arguments.steps, compiled=arguments.compile)


def line(recipe: Recipe, device: torch.device, steps: int, *, compiled: bool) -> None:
    """Measure one configuration and print its line."""
    draws = generator(0, "measurement", device=device)
    shape = (4096, *recipe.image_shape)
    images = torch.randint(
        0, 256, shape, dtype=torch.uint8, device=device, generator=draws
    )  # [4096, C, H, W]
    learner = Learner(recipe, images, compiled=compiled)
    chosen = torch.arange(recipe.images_per_step, device=device)

    def views() -> Tensor:
        return learner.make_views(images[chosen], recipe.views_per_image, draws)

    batch = Batch(views(), chosen, draws)
    flop, kept, products = _count(recipe, images, batch)
    weights = sum(p.nbytes for p in learner.objective.parameters() if p.requires_grad)
    traffic = 2 * kept + WEIGHT_PASSES * weights
    source = torch.ones(2**25, device=device)  # 128 MiB, read and written
    target = torch.empty_like(source)

    def step() -> None:
        learner.step(0)["loss"].item()

    for _ in range(2):
        step()
    step_times, view_times, rates, speeds = [], [], [], []
    for _ in range(steps):
        step_times.append(_seconds(step))
        view_times.append(_seconds(lambda: views().sum().item()))
        rates += [operations / _seconds(product) for operations, product in products]
        speeds.append(2 * source.nbytes / _seconds(lambda: target.copy_(source)[0].item()))
    seconds, making = (sorted(t)[len(t) // 2] for t in (step_times, view_times))
    floors = flop / max(rates), traffic / max(speeds)
    rows = recipe.views_per_step
    print(
        f"{recipe.name:<20} {rows:>6} {rows / seconds:>9,.0f} {1e3 * seconds:>8.2f} "
        f"{100 * making / seconds:>7.1f}% {flop / 1e9:>8.1f} {1e3 * floors[0]:>8.2f} "
        f"{traffic / 1e6:>7.0f} {1e3 * floors[1]:>8.2f} {max(floors) / seconds:>6.2f}"
        f"   (best product {max(rates) / 1e9:,.0f} GFLOP/s, copy {max(speeds) / 1e9:,.1f} GB/s)",
        flush=True,
    )


def _count(
    recipe: Recipe, images: Tensor, batch: Batch
) -> tuple[int, int, list[tuple[int, Callable[[], object]]]]:
    """Return the step's floating-point operations, the bytes that it keeps, and its products."""
    objective = Learner(recipe, images).objective
    inputs: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda layer, x, _: inputs.append((layer, x[0].detach())))
        for module in objective.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    kept: dict[int, int] = {}  # by address, because a tensor can be kept more than once
    weights = {parameter.data_ptr() for parameter in objective.parameters()}

    def keep(x: Tensor) -> Tensor:
        if x.data_ptr() not in weights:
            kept[x.data_ptr()] = x.nbytes
        return x

    with FlopCounterMode(display=False) as counter:
        with (
            torch.autocast(images.device.type, torch.bfloat16, recipe.precision == "bfloat16"),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        ):
            loss = objective(batch)["loss"]
        loss.backward()
    for hook in hooks:
        hook.remove()
    products = [_product(recipe, layer, x) for layer, x in inputs]
    return counter.get_total_flops(), sum(kept.values()), products


def _product(recipe: Recipe, layer: nn.Module, x: Tensor) -> tuple[int, Callable[[], object]]:
    """Return a layer's floating-point operations and a function that runs its forward pass."""
    dtype = getattr(torch, recipe.precision)
    weight = layer.weight.detach().to(dtype)  # type: ignore[operator]
    x = torch.randn_like(x, dtype=dtype)
    if isinstance(layer, nn.Conv2d):
        stride, padding, dilation, groups = (
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
        )

        def product() -> Tensor:
            return nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups)
    else:

        def product() -> Tensor:
            return nn.functional.linear(x, weight)

    with FlopCounterMode(display=False) as counter:
        product()
    return counter.get_total_flops(), lambda: product().flatten()[0].item()


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
