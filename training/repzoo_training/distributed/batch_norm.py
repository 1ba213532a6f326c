"""Batch normalisation by the statistics of all processes' batches.

Ioffe, Szegedy 2015 (arXiv 1502.03167), with the batch that the processes have together, so that
training on N of them is training on one with the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from repzoo_training.distributed.gather import total, world_size

__all__ = ["SyncBatchNorm", "synchronize"]


def synchronize(module: nn.Module, device: torch.device) -> None:
    """Put synchronised layers in the place of all of ``module``'s batch normalisation.

    They are torch's on a GPU, and :class:`SyncBatchNorm` on a CPU, for which torch has none. They
    take over the parameters and buffers themselves, under the same names. With one process nothing
    changes.
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
    """``norm`` over all processes: ``[N, C, ...]`` -> ``[N, C, ...]``.

    The variance is the mean squared deviation from the mean of all: two messages a layer, and none
    of the cancellation of E[x²] − E[x]².
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
        # The very same tensors: optimisers and momentum copies may hold them already.
        self._parameters.update(norm._parameters)
        self._buffers.update(norm._buffers)
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        dtype = torch.promote_types(x.dtype, torch.float32)  # as torch's under autocast
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
        """Running statistics of what was seen; ``variance`` over count − 1, as torch's."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # Without a momentum they are plain means of all batches.
        share = self.momentum
        if share is None:
            share = 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of dimensions."""
