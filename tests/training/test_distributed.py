"""Several processes train like one: real processes and messages, every registered method.

Two workers are started once, and answer one question after another. They communicate with gloo in
float64, so that only the order of sums can differ from one process with the whole batch.
"""

from __future__ import annotations

import os
import queue
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest
import torch
from repzoo_training.distributed.batch_norm import SyncBatchNorm, synchronize
from repzoo_training.distributed.gather import agree, gather, rank, total, world_size
from repzoo_training.errors import RecipeError, RunError
from repzoo_training.loop.parallel import (
    Pulse,
    data_parallel,
    first_then_all,
    from_first,
    mean_over_processes,
    processes,
)
from repzoo_training.loop.step import check_shares
from repzoo_training.networks import ProjectionHead
from repzoo_training.objectives import METHODS, Batch, LikelihoodSpec, Objective, Parts, find_method
from repzoo_training.randomness import generator
from repzoo_training.recipes.recipe import override
from repzoo_training.recipes.registry import find_recipe
from torch import Tensor, nn
from torch import multiprocessing as mp

ROOT = str(Path(__file__).parents[2])
WORLD = 2
IMAGES, B, J, D, SIDE = 40, 16, 2, 8, 8
STEPS = 3

Question: TypeAlias = Callable[..., Any]


class Trained(NamedTuple):
    """The gradients of the first step, and the state after the last one."""

    losses: list[float]
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]


class TinyEncoder(nn.Module):
    """An encoder with batch normalisation, in float64; the package's own heads return float32."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(36, parts * width),
        )

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        features: Tensor = self.layers(images)
        return features if self.parts == 1 else features.chunk(self.parts, dim=1)


def build_tiny(method: str, options: dict[str, Any]) -> Objective:
    torch.manual_seed(3)
    if find_method(method).generative:
        decoder = nn.Sequential(nn.Linear(D, SIDE * SIDE), nn.Unflatten(1, (1, SIDE, SIDE)))
        parts = Parts(TinyEncoder(D, 2), D, IMAGES, decoder, LikelihoodSpec().build())
    else:
        parts = Parts(TinyEncoder(D, 1), D, IMAGES)
    objective = METHODS[method].build(parts, **options)
    for module in objective.modules():
        # Networks in float64; losses and memories are float32 by contract.
        if isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d):
            module.double()
    return objective.train()


def train_tiny(method: str, options: dict[str, Any]) -> Trained:
    """Train a model for a few SGD steps, on this process's share of each batch."""
    device = torch.device("cpu")
    objective = build_tiny(method, options)
    model = data_parallel(objective, device)
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.01)
    losses: list[float] = []
    gradients: dict[str, Tensor] = {}
    for step in range(STEPS):
        draws = generator(0, "measurement", step)
        views = torch.rand((B, J, 1, SIDE, SIDE), generator=draws, dtype=torch.float64)
        indices = torch.randperm(IMAGES, generator=draws)[:B]
        own = slice(rank() * B // world_size(), (rank() + 1) * B // world_size())
        if find_method(method).generative:
            # The noise of the whole batch is ordered by row: skip the rows of earlier processes.
            torch.randn(own.start * J, D, generator=draws, dtype=torch.float64)
        batch = Batch(
            views=views[own],
            indices=indices[own],
            generator=draws,
            epoch=step * B // IMAGES,
            progress=step / STEPS,
        )
        optimizer.zero_grad()
        terms = model(batch)
        terms["loss"].backward()
        if step == 0:
            for name, parameter in objective.named_parameters():
                assert (parameter.grad is not None) == parameter.requires_grad, name
            gradients = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
            gradients = {name: gradient.clone() for name, gradient in gradients.items()}
        optimizer.step()
        objective.after_step((step + 1) / STEPS)
        losses.append(mean_over_processes(terms)["loss"])
    return Trained(losses, gradients, dict(objective.state_dict()))


class Group:
    """Workers that all answer the same question, called as ``question(*arguments)``."""

    def __init__(self, size: int, port: int) -> None:
        context = mp.get_context("spawn")
        self.questions = [context.Queue() for _ in range(size)]
        self.answers = context.Queue()
        self.workers = [
            context.Process(target=_work, args=(r, size, port, self.questions[r], self.answers))
            for r in range(size)
        ]
        # Workers import this module by its name, which needs the path; pytest does not.
        sys.path.append(ROOT)
        try:
            for worker in self.workers:
                worker.start()
        finally:
            sys.path.remove(ROOT)

    def ask(self, question: Question, *arguments: Any) -> list[Any]:
        """Return the answers, ordered by rank."""
        for each in self.questions:
            each.put((question, arguments))
        answers: dict[int, Any] = {}
        errors: list[str] = []
        while len(answers) < len(self.workers):
            try:
                number, answers[number], error = self.answers.get(timeout=60)
            except queue.Empty:
                pytest.fail(f"only {sorted(answers)} of {len(self.workers)} processes answered")
            if error is not None:
                errors.append(f"process {number}: {error}")
        if errors:
            pytest.fail("\n".join(errors))
        return [answers[number] for number in sorted(answers)]

    def close(self) -> None:
        for each, worker in zip(self.questions, self.workers, strict=True):
            each.put(None)
            worker.join(20)
            if worker.is_alive():
                worker.kill()


def _work(number: int, size: int, port: int, questions: Any, answers: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(number), WORLD_SIZE=str(size), MASTER_ADDR="localhost", MASTER_PORT=str(port)
    )
    with processes(torch.device("cpu")):
        while (asked := questions.get()) is not None:
            question, arguments = asked
            try:
                answers.put((number, question(*arguments), None))
            except Exception:
                answers.put((number, None, traceback.format_exc()))


@pytest.fixture(scope="module")
def group(unused_port: Callable[[], int]) -> Iterator[Group]:
    workers = Group(WORLD, unused_port())
    yield workers
    workers.close()


#: Smaller than the defaults, which are meant for batches of 128 images.
OPTIONS: dict[str, dict[str, Any]] = {
    "moco": {"queue_size": 24},
    # Wide projections have large norms at first, and plain SGD would diverge.
    "spectral": {"projection_hidden": 32, "projection_dim": 16},
    "minc": {"projection_hidden": 32, "projection_dim": 16},
    "w-mse": {"projection_dim": 4, "sub_batch": 8},
}


def assert_as_one(answers: list[Trained], alone: Trained) -> None:
    for answer in answers:
        assert answer.losses == pytest.approx(alone.losses, rel=1e-5)
        assert answer.gradients.keys() == alone.gradients.keys()
        assert answer.state.keys() == alone.state.keys()
        scale = max(g.abs().max() for g in alone.gradients.values())
        for name, expected in alone.gradients.items():
            torch.testing.assert_close(
                answer.gradients[name], expected, rtol=1e-5, atol=1e-6 * scale, msg=name
            )
        for name, expected in alone.state.items():
            torch.testing.assert_close(answer.state[name], expected, rtol=1e-5, atol=1e-7, msg=name)
            assert torch.equal(answer.state[name], answers[0].state[name]), name


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_as_one(group: Group, method: str) -> None:
    arguments = (method, OPTIONS.get(method, {}))
    assert_as_one(group.ask(train_tiny, *arguments), train_tiny(*arguments))


class NormAnswer(NamedTuple):
    y: Tensor
    gradient: Tensor
    parameters: list[Tensor]
    buffers: list[Tensor]


def normalise(dim: int, affine: bool, momentum: float | None) -> NormAnswer:
    """Pass two batches through a layer, with rows far from 0, where E[x²] − E[x]² would cancel."""
    layer: nn.Module = (nn.BatchNorm1d, nn.BatchNorm2d)[dim - 1](
        3, affine=affine, momentum=momentum
    )
    network = nn.Sequential(layer)
    synchronize(network, torch.device("cpu"))
    shape = (8, 3) if dim == 1 else (8, 3, 4, 4)
    for step in range(2):
        draws = torch.Generator().manual_seed(step)
        x = 1000 + torch.randn(shape, generator=draws)
        weight = torch.randn(shape, generator=draws)
        own = slice(rank() * 8 // world_size(), (rank() + 1) * 8 // world_size())
        x = x[own].requires_grad_()
        network.zero_grad()
        y = network(x)
        (y * weight[own]).sum().backward()
    assert x.grad is not None
    # As in data parallelism: gradients of parameters are summed, and rows stay in their process.
    parameters = [total(p.grad) for p in network.parameters() if p.grad is not None]
    buffers = list(network.state_dict().values())
    return NormAnswer(gather(y.detach()), gather(x.grad), parameters, buffers)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize(("affine", "momentum"), [(True, 0.1), (False, 0.1), (True, None)])
def test_batch_normalisation_sees_all_rows(
    group: Group, dim: int, affine: bool, momentum: float | None
) -> None:
    alone = normalise(dim, affine, momentum)
    for answer in group.ask(normalise, dim, affine, momentum):
        torch.testing.assert_close(answer.y, alone.y, rtol=0, atol=1e-3)
        torch.testing.assert_close(answer.gradient, alone.gradient, rtol=0, atol=1e-3)
        torch.testing.assert_close(answer.parameters, alone.parameters, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(answer.buffers, alone.buffers, rtol=1e-6, atol=1e-6)


def norm_names() -> tuple[list[str], bool]:
    head = ProjectionHead((4, 8, 2), last_norm=True)
    names = list(head.state_dict())
    parameters = list(head.parameters())
    synchronize(head, torch.device("cpu"))
    assert all(a is b for a, b in zip(parameters, head.parameters(), strict=True))
    return names, names == list(head.state_dict()) and isinstance(head[1], SyncBatchNorm)


def test_synchronised_layers_keep_names_and_tensors(group: Group) -> None:
    assert all(same for _, same in group.ask(norm_names))
    names, changed = norm_names()
    assert names
    assert not changed  # one process needs none


def evaluate_alone() -> Tensor:
    layer = SyncBatchNorm(nn.BatchNorm1d(2)).eval()
    y: Tensor = layer(torch.ones(1, 2)) if rank() == 0 else torch.ones(1, 2)
    return y.detach()


def test_evaluation_waits_for_nobody(group: Group) -> None:
    torch.testing.assert_close(group.ask(evaluate_alone)[0], torch.ones(1, 2), rtol=0, atol=1e-4)


def exchange() -> dict[str, Any]:
    x = torch.full((2, 1), float(rank()), requires_grad=True)
    rows = gather(x)
    # Every process computes the loss of all rows.
    (rows * torch.arange(4.0)[:, None]).sum().backward()
    return {
        "gathered": rows.flatten().tolist(),
        "gradient": x.grad.flatten().tolist() if x.grad is not None else None,
        "agreed": agree(torch.tensor([rank() + 7])).item(),
        "total": total(torch.tensor(rank() + 1.0)).item(),
        "first": from_first(lambda: f"from {rank()}"),
        "made": first_then_all(lambda: rank()),
        "mean": mean_over_processes({"loss": torch.tensor(float(rank()))}),
    }


def test_what_processes_tell_each_other(group: Group) -> None:
    shared = {
        "gathered": [0.0, 0.0, 1.0, 1.0],
        "agreed": 7,
        "total": 3.0,
        "first": "from 0",
        "mean": {"loss": 0.5},
    }
    # Gradients are multiplied by the number of processes; data parallelism averages them.
    assert group.ask(exchange) == [
        {**shared, "gradient": [0.0, 2.0], "made": 0},
        {**shared, "gradient": [4.0, 6.0], "made": 1},
    ]


def refuse() -> str:
    def decide() -> None:
        raise RunError(f"refused by {rank()}")

    try:
        from_first(decide)
    except RunError as error:
        return str(error)
    return ""


def test_an_error_of_the_first_is_one_of_all(group: Group) -> None:
    assert group.ask(refuse) == ["refused by 0"] * WORLD


def beat() -> list[tuple[int, int, bool]]:
    """The second process gets a signal at step 103; the first wants to save from step 105 on."""
    pulse, seen = Pulse(100), []
    for step in range(101, 700):
        signal, save = pulse(
            step, 15 if rank() == 1 and step >= 103 else 0, rank() == 0 and step > 104
        )
        seen.append((step, signal, save))
        time.sleep(0.001)
    return [each for each in seen if each[1] or each[2]]


def test_all_stop_and_save_at_the_same_step(group: Group) -> None:
    first, second = group.ask(beat)
    assert first == second
    assert first[0][1] == 15
    assert any(save for _, _, save in first)
    assert len(first) < 20  # not at every step


def draw(seed: int) -> float:
    return torch.rand((), generator=generator(seed, "step", 4, rank=rank())).item()


def test_each_process_draws_views_of_its_own(group: Group) -> None:
    first, second = group.ask(draw, 5)
    assert first == draw(5) == torch.rand((), generator=generator(5, "step", 4)).item()
    assert second != first


def share(images: int, accumulate: int) -> str:
    recipe = override(
        find_recipe("vae-mnist"), [f"images_per_step={images}", f"accumulate={accumulate}"]
    )
    try:
        check_shares(recipe)
    except RecipeError as error:
        return str(error)
    return ""


def test_a_batch_that_cannot_be_shared_out_is_refused(group: Group) -> None:
    assert group.ask(share, 12, 3) == ["", ""]
    assert all("multiple of 4" in each for each in group.ask(share, 10, 2))
    assert share(10, 2) == ""
    assert "multiple of 3" in share(10, 3)
