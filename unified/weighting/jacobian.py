"""Scalarizers and aggregators of torchjd, an optional package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unified.errors import ConfigError, JobError
from unified.weighting.boundary import BoundaryWeighting, Sent
from unified.weighting.fixed import FixedWeighting

LEFT_OUT = ("FAMO", "DWA", "Krum")
"""The first two want to be told more than a step's losses; the third drops tasks as liars.
Aggregators that remember steps are left out, too: a run could not go on where it was."""


def build_torchjd(
    tasks: Mapping[str, float], scale: float, method: str | None, options: Mapping[str, Any]
) -> FixedWeighting:
    """The weighting that torchjd's class of a name does.

    Args:
        tasks: task name → factor on its loss.
        scale: factor on everything.
        method: name of the class: `UPGrad`, `GeometricMean`, ….
        options: its arguments; a scalarizer's lists have a number per task, in this order.

    Raises:
        ConfigError: torchjd is not installed, it has no such class, or that needs other arguments.
    """
    try:
        from torchjd import Stateful, aggregation, scalarization
    except ImportError as error:
        raise ConfigError(
            f"weighting.kind=torchjd needs a package that is missing: {error}",
            "pip install 'unified[torchjd]'",
        ) from error
    scalarizers = _named(scalarization, scalarization.Scalarizer)
    aggregators = {
        name: cls
        for name, cls in _named(aggregation, aggregation.GramianWeightedAggregator).items()
        if not issubclass(cls, Stateful)
    }
    able = {n: cls for n, cls in (scalarizers | aggregators).items() if n not in LEFT_OUT}
    if method not in able:
        raise ConfigError(
            f"weighting.method={method} is none of torchjd's scalarizers, nor one of its "
            "aggregators that go by the gradients' inner products",
            f"use one of {', '.join(sorted(able))}",
        )
    made = _made(able[method], len(tasks), method, options)
    lists = [name for name, value in options.items() if isinstance(value, list)]
    silent = [name for name, factor in tasks.items() if factor == 0]
    if method in scalarizers and silent:
        raise ConfigError(
            f"weighting.tasks.{silent[0]}=0, and {method} has to see every loss",
            f"leave {silent[0]} out: task=[…], or use another weighting",
        )
    if method in aggregators and lists:  # which tasks send something is not the same in each step
        raise ConfigError(
            f"weighting.options.{lists[0]} is a number per task, which {method} has elsewhere",
            "say it by weighting.tasks",
        )
    if method in scalarizers:
        return ScalarizerWeighting(tasks, scale, made)
    return AggregatorWeighting(tasks, scale, made.gramian_weighting)


def _named(module: Any, base: type) -> dict[str, Any]:
    """Its public classes that are a `base`, and not that itself."""
    found = {name: getattr(module, name) for name in module.__all__}
    return {
        name: cls
        for name, cls in found.items()
        if isinstance(cls, type) and issubclass(cls, base) and cls is not base
    }


def _made(cls: Callable[..., Any], tasks: int, method: str, options: Mapping[str, Any]) -> Any:
    """One of a class, which is told the number of tasks where it asks for it."""
    try:
        given = {k: torch.tensor(v) if isinstance(v, list) else v for k, v in options.items()}
        if "shape" in signature(cls).parameters:
            given.setdefault("shape", tasks)
        made = cls(**given)
        trial = torch.linspace(0.5, 1.0, tasks)
        made(torch.diag(trial) if hasattr(made, "gramian_weighting") else trial)
    except (TypeError, ValueError, RuntimeError, ImportError, AttributeError) as error:
        raise ConfigError(
            f"weighting.method={method} with weighting.options={dict(options)}: {error}",
            f"install what it names, or give what torchjd's {method} asks for: "
            "'+weighting.options.NAME=…'",
        ) from error
    return made


class ScalarizerWeighting(FixedWeighting):
    """What a scalarizer makes of w_T L_T.

    A loss of 0 is that of a task whose labels no image of the step has: it counts as it was last.

    Args:
        tasks: task name → w_T.
        scale: factor on everything.
        scalarizer: (N,) losses → a scalar.
    """

    def __init__(self, tasks: Mapping[str, float], scale: float, scalarizer: nn.Module) -> None:
        super().__init__(tasks, scale)
        self.scalarizer = scalarizer
        self.last: Tensor
        self.register_buffer("last", torch.ones(len(tasks)))
        self.slopes: Tensor
        self.register_buffer("slopes", scale * torch.tensor(list(tasks.values())))

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        values = torch.stack(list(losses.values()))
        several = dist.is_available() and dist.is_initialized()
        # The slopes are of the losses over all processes, whose mean these are.
        shared = values.detach().clone()
        if several:
            dist.all_reduce(shared.div_(dist.get_world_size()))
        self.last.copy_(torch.where(shared == 0, self.last, shared))
        shared = self.last.clone().requires_grad_()
        try:
            joint = self._joined(shared)
        except ValueError as error:  # of losses that are below zero, for example
            name = type(self.scalarizer).__name__
            raise JobError(f"weighting.method={name}: {error}", "use another one") from error
        (slopes,) = torch.autograd.grad(joint, shared, retain_graph=True)
        if several:
            dist.broadcast(slopes, 0)  # some of them draw
        self.slopes.copy_(slopes)
        return joint + (slopes * (values - values.detach())).sum()

    def _joined(self, values: Tensor) -> Tensor:
        weights = values.new_tensor(list(self.tasks.values()))
        joined: Tensor = self.scale * self.scalarizer(weights * values)
        return joined

    def factors(self) -> dict[str, float]:
        """By the losses of the last step."""
        return dict(zip(self.tasks, self.slopes.tolist(), strict=True))


class AggregatorWeighting(BoundaryWeighting):
    """What an aggregator of Jacobians makes of what the tasks send to the shared pyramid.

    Its weights go by the inner products of the tasks' gradients, here on the pyramid instead of on
    the trunk's parameters: an upper bound of these (Sener and Koltun 2018, section 3.3) that costs
    no further backward pass, and sums up over processes.

    Args:
        tasks: task name → w_T, by which its gradient is multiplied before.
        scale: factor on everything.
        weights: (N, N) inner products → (N,) weights.
    """

    def __init__(self, tasks: Mapping[str, float], scale: float, weights: nn.Module) -> None:
        super().__init__(tasks, scale)
        self.weights = weights

    def weigh(self, sent: Sent) -> None:
        gramian = self.share.new_zeros(len(sent), len(sent))
        for gradients in zip(*sent, strict=True):
            there = [i for i, gradient in enumerate(gradients) if gradient is not None]
            if there:
                rows = torch.stack([_flat(gradients[i]) for i in there])
                gramian[torch.tensor(there)[:, None], torch.tensor(there)] += rows @ rows.T
        if dist.is_available() and dist.is_initialized():
            # What a process sends is for its own mean over its images, as `values_of` says.
            dist.all_reduce(gramian.div_(dist.get_world_size() ** 2))
        self.factor.copy_(self.share * self._weights(self.share[:, None] * gramian * self.share))

    def _weights(self, gramian: Tensor) -> Tensor:
        """1 of tasks that send nothing, and of all in a step that overflows."""
        heard = gramian.diagonal() > 0
        weights = torch.ones_like(self.share)
        if heard.any() and gramian.isfinite().all():
            # torchjd takes what is small for nothing; how loud all are together says nothing here.
            own = gramian[heard][:, heard]
            weights[heard] = self.weights(own / own.diagonal().mean())
            if dist.is_available() and dist.is_initialized():
                dist.broadcast(weights, 0)  # some of them draw
        return torch.where(weights.isfinite().all(), weights, 1.0)


def _flat(gradient: Tensor | None) -> Tensor:
    """(B, C, H, W) → (B · H · W · C,) float32, without a copy where channels come last."""
    assert gradient is not None
    return gradient.permute(0, 2, 3, 1).reshape(-1).float()
