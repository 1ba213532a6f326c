"""Batch normalisation with the statistics of the batches of all processes.

Ioffe, Szegedy 2015 (arXiv 1502.03167), over the joint batch of all processes, so that training on N
processes is the same as training the whole batch on one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from repzoo_training.distributed.gather import total, world_size

__all__ = ["SyncBatchNorm", "synchronize"]


def synchronize(module: nn.Module, device: torch.device) -> None:
    """Replace all batch normalisation layers of ``module`` by synchronised ones.

    On a GPU, these are torch's own. On a CPU, where torch's own do not work, they are
    :class:`SyncBatchNorm`. They keep the same parameter and buffer objects, under the same names.
    With one process nothing changes.
    """
    if world_size() == 1:
        return
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, SyncBatchNorm):
                setattr(parent, name, SyncBatchNorm(child))


class SyncBatchNorm(_BatchNorm):
    """``norm`` over the batches of all processes: ``[N, C, ...]`` -> ``[N, C, ...]``.

    The variance is the mean squared deviation from the global mean. This takes two messages per
    layer and avoids the cancellation in E[x²] − E[x]².
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
        # The same tensor objects: optimizers and momentum copies may already refer to them.
        self._parameters.update(norm._parameters)
        self._buffers.update(norm._buffers)
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        dtype = torch.promote_types(x.dtype, torch.float32)  # like torch under autocast
        dims = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = world_size() * x.numel() // x.shape[1]
        mean = total(x.to(dtype).sum(dims)) / count  # [C]
        deviation = x.to(dtype) - mean.view(shape)
        variance = total(deviation.square().sum(dims)) / count  # [C]
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        y = deviation * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics; ``variance`` is divided by count − 1, as in torch."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # Without a momentum, running statistics are plain means over all batches.
        share = self.momentum
        if share is None:
            share = 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept any number of dimensions."""
