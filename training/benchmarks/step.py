"""How fast a training step is, beside what the processor can do: ``make bench``.

Prints, for the MNIST MLP of the SimVAE paper at several numbers of rows, views a second, the share
of the step spent on making views, and the ratio of the step's floating-point rate to the best rate
of a matrix product of the network's own shapes in the same process and dtype. A ratio of 1 would
be a step that is nothing but its matrix products, each at the best speed seen.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import torch
from repzoo_training.budget import measure_precision
from repzoo_training.objectives.objective import Objective
from repzoo_training.randomness import generator
from repzoo_training.recipe import Recipe, find_recipe, override
from repzoo_training.step import build_objective, take_step
from repzoo_training.views import Views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[320, 640, 1280])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    precision = measure_precision(device)
    where = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    print(f"simvae-mnist, {precision}, {where}, torch {torch.__version__}")
    print(
        f"{'rows':>6} {'views/s':>9} {'views %':>8} {'GFLOP/s':>8} {'best GEMM':>10} {'ratio':>6}"
    )
    for rows in arguments.rows:
        settings = [f"images_per_step={rows // 10}", f"precision={precision}"]
        recipe = override(find_recipe("simvae-mnist"), settings)
        row(recipe, device, arguments.steps)


def row(recipe: Recipe, device: torch.device, steps: int) -> None:
    """Measure and print one line. Step, views and products take turns, so that noise hits all."""
    objective = build_objective(recipe).to(device).train()
    optimizer = torch.optim.AdamW(objective.parameters(), 1e-5, fused=True)
    pixels = torch.randint(0, 256, (4096, 1, 28, 28), dtype=torch.uint8, device=device)
    make_views = Views(recipe.augmentation, (28, 28), device)
    draws = generator(0, "measurement", device=device)
    chosen = pixels[: recipe.images_per_step]

    def step() -> None:
        take_step(objective, optimizer, pixels, make_views, recipe, 0)["loss"].item()

    def views() -> None:
        make_views(chosen, recipe.views_per_image, draws).sum().item()

    gemms = [_gemm(recipe, shape, device) for shape in _layer_shapes(objective)]
    step()
    step_times, view_times, rates = [], [], []
    for _ in range(steps):
        step_times.append(_seconds(step))
        view_times.append(_seconds(views))
        rates += [flop / _seconds(product) for flop, product in gemms]
    seconds, making = (sorted(t)[len(t) // 2] for t in (step_times, view_times))
    rows = recipe.views_per_step
    rate = rows * _flop_per_view(objective) / seconds
    print(
        f"{rows:>6} {rows / seconds:>9,.0f} {100 * making / seconds:>7.1f}% {rate / 1e9:>8.1f} "
        f"{max(rates) / 1e9:>10.1f} {rate / max(rates):>6.2f}"
    )


def _layer_shapes(objective: Objective) -> list[tuple[int, int]]:
    """``(out, in)`` of every linear layer, from the image to the image."""
    return [
        (m.out_features, m.in_features)
        for m in objective.modules()
        if isinstance(m, torch.nn.Linear)
    ]


def _flop_per_view(objective: Objective) -> int:
    """2 a weight forward, 2 for its gradient, 2 for its input's, which the first layer skips."""
    weights = [out * fan_in for out, fan_in in _layer_shapes(objective)]
    return 6 * sum(weights) - 2 * weights[0]


def _gemm(
    recipe: Recipe, shape: tuple[int, int], device: torch.device
) -> tuple[int, Callable[[], object]]:
    """The product of a layer, ``[rows, in] @ [in, out]``, and its floating-point operations."""
    rows, (out, fan_in) = recipe.views_per_step, shape
    dtype = getattr(torch, recipe.precision)
    a = torch.randn(rows, fan_in, device=device).to(dtype)
    b = torch.randn(fan_in, out, device=device).to(dtype)
    return 2 * rows * out * fan_in, lambda: (a @ b)[0, 0].item()


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
