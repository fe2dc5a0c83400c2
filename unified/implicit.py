"""Implicit knowledge: codes z_T, decoders g_φ and the operators that let them act on features.

YOLOR (arXiv 2105.04206), equations 3 to 6: y = f_θ(x) ⋆ g_φ(z), ⋆ one of addition,
multiplication and concatenation. A *site* is a named place where a code meets a feature:
`align.<stem>` before a head's last layer, `refine.<output>` after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unified.errors import ConfigError

DECODERS = ("none", "vector", "network", "factorization")
ALIGN_OPERATORS = ("none", "add", "mul", "concat")
REFINE_OPERATORS = ("none", "add", "mul")
NEUTRAL = {"add": 0.0, "mul": 1.0, "concat": 0.0}


@dataclass
class ImplicitConfig:
    """Which codes exist and how they act.

    Attributes:
        decoder: `none` (no bank), `vector` (z is the representation), `network` (W z) or
            `factorization` (Zᵀ c).
        align: operator before a head's last layer: add, mul, concat or none.
        refine: operator on a head's outputs: mul, add or none.
        sites: glob patterns of the sites to use, as `align.p3` or `refine.*`.
        shared: one z_T per task that all of its sites decode from.
        sigma: standard deviation of the decoded codes at initialisation.
        latent: length of z for `network`; None is twice the site's width (twice the widest site
            of the task when shared).
        rank: K of `factorization`, Z ∈ R^{K×C}; 2 makes the prior twice the explicit width.
        per_task: task name → overrides of align, refine and sites.
    """

    decoder: str = "none"
    align: str = "add"
    refine: str = "mul"
    sites: list[str] = field(default_factory=lambda: ["*"])
    shared: bool = False
    sigma: float = 0.02
    latent: int | None = None
    rank: int = 2
    per_task: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_choice("implicit.decoder", self.decoder, DECODERS)
        _check_operators("implicit", self.align, self.refine)
        if self.shared and self.decoder == "vector":
            raise ConfigError(
                "implicit.shared=true with implicit=vector: a vector code has the width of one "
                "site, so sites of different widths cannot decode from the same one",
                "use implicit=network or implicit=factorization, or implicit.shared=false",
            )
        for task, overrides in self.per_task.items():
            unknown = set(overrides) - {"align", "refine", "sites"}
            if unknown:
                raise ConfigError(
                    f"implicit.per_task.{task}: unknown key {sorted(unknown)[0]!r}",
                    "use align, refine or sites",
                )
            align, refine = (overrides.get(k, getattr(self, k)) for k in ("align", "refine"))
            _check_operators(f"implicit.per_task.{task}", align, refine)

    def of_task(self, task: str) -> ImplicitConfig:
        """The configuration as one task sees it."""
        overrides = dict(self.per_task.get(task, {}))
        if "sites" in overrides:
            overrides["sites"] = list(overrides["sites"])
        return replace(self, per_task={}, **overrides)


def _check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{key}={value} is unknown", f"use one of: {', '.join(choices)}")


def _check_operators(prefix: str, align: str, refine: str) -> None:
    if refine == "concat":
        raise ConfigError(
            f"{prefix}.refine=concat is not defined: refinement acts on a head's output tensor, "
            "and concatenation would change its width",
            f"use {prefix}.refine=mul or add; concat is available as {prefix}.align=concat",
        )
    _check_choice(f"{prefix}.align", align, ALIGN_OPERATORS)
    _check_choice(f"{prefix}.refine", refine, REFINE_OPERATORS)


# --- Decoders g_φ ---------------------------------------------------------------------------


class VectorDecoder(nn.Module):
    """z itself is the representation, z ∈ R^C drawn from N(neutral, σ)."""

    def __init__(self, width: int, neutral: float, sigma: float) -> None:
        super().__init__()
        self.neutral = neutral
        self.z = nn.Parameter(torch.empty(width).normal_(neutral, sigma))

    def forward(self, shared: Tensor | None = None) -> Tensor:
        """() → (C,)."""
        return self.z

    @torch.no_grad()
    def neutralise(self) -> None:
        """Make the decoded representation exactly neutral."""
        self.z.fill_(self.neutral)


class LinearDecoder(nn.Module):
    """W z, with W ∈ R^{C×D}.

    Serves both of the paper's richer decoders: the one-layer network (z ∈ R^{2C}, W decodes it)
    and the matrix factorisation Zᵀ c (W = Zᵀ, the coefficients c ∈ R^K are the latent). z starts
    at 1 and the rows of W near neutral/D, so the decoded values start as N(neutral, σ).
    """

    def __init__(self, width: int, neutral: float, sigma: float, latent: int, shared: bool) -> None:
        super().__init__()
        self.neutral = neutral
        self.weight = nn.Parameter(
            torch.empty(width, latent).normal_(neutral / latent, sigma / latent**0.5)
        )
        self.z = None if shared else nn.Parameter(torch.ones(latent))

    def forward(self, shared: Tensor | None = None) -> Tensor:
        """(D,) when the task's code is shared → (C,)."""
        z = shared if self.z is None else self.z
        assert z is not None, "a shared code must be passed to its decoders"
        return self.weight @ z

    @torch.no_grad()
    def neutralise(self) -> None:
        """Make the decoded representation exactly neutral (a shared z is set by the bank)."""
        self.weight.zero_()
        self.weight[:, 0] = self.neutral
        if self.z is not None:
            set_first_unit(self.z)


@torch.no_grad()
def set_first_unit(z: Tensor) -> None:
    """z ← e₀, the latent that reads column 0 of a decoder exactly."""
    z.zero_()
    z[0] = 1.0


# --- Operators ⋆ ----------------------------------------------------------------------------


def _over_channels(code: Tensor, feature: Tensor) -> Tensor:
    """(C,) shaped to broadcast along axis 1 of `feature`."""
    return code.view(1, -1, *([1] * (feature.ndim - 2)))


class Add(nn.Module):
    """x + code: translates the feature space."""

    def forward(self, feature: Tensor, code: Tensor) -> Tensor:
        return feature + _over_channels(code, feature)

    def affine(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """(scale, shift) with x ⋆ code = scale·x + shift; scale is (C,) or a (C, C) matrix."""
        return torch.ones_like(code), code


class Mul(nn.Module):
    """x · code: scales the feature space."""

    def forward(self, feature: Tensor, code: Tensor) -> Tensor:
        return feature * _over_channels(code, feature)

    def affine(self, code: Tensor) -> tuple[Tensor, Tensor]:
        return code, torch.zeros_like(code)


class Concat(nn.Module):
    """[x; code] projected back to the width of x.

    The code is the same at every position, so its part of the 1×1 projection is a bias:
    nothing is ever concatenated in memory.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.feature_weight = nn.Parameter(torch.eye(width))
        self.code_weight = nn.Parameter(torch.empty(width, width).normal_(0.0, width**-0.5))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, feature: Tensor, code: Tensor) -> Tensor:
        weight, shift = self.affine(code)
        if feature.ndim == 2:
            return F.linear(feature, weight, shift)
        return F.conv2d(feature, weight[:, :, None, None], shift)

    def affine(self, code: Tensor) -> tuple[Tensor, Tensor]:
        return self.feature_weight, self.code_weight @ code + self.bias


# --- Sites and the bank ---------------------------------------------------------------------


class Site(nn.Module):
    """One decoder and one operator at a named place."""

    def __init__(self, width: int, operator: str, decoder: VectorDecoder | LinearDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.operator: Add | Mul | Concat
        if operator == "concat":
            self.operator = Concat(width)
        else:
            self.operator = Add() if operator == "add" else Mul()

    def forward(self, feature: Tensor, shared: Tensor | None = None) -> Tensor:
        out: Tensor = self.operator(feature, self.decoder(shared))
        return out

    def affine(self, shared: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The site as x → scale·x + shift, for folding."""
        return self.operator.affine(self.decoder(shared))


class TaskCodes(nn.Module):
    """All codes of one task: sites by place and name, and z_T when its sites share it."""

    def __init__(
        self,
        config: ImplicitConfig,
        stems: Mapping[str, int],
        outputs: Mapping[str, int],
    ) -> None:
        super().__init__()
        widths = {"align": dict(stems), "refine": dict(outputs)}
        operators = {"align": config.align, "refine": config.refine}
        chosen = {
            place: {
                name: width
                for name, width in widths[place].items()
                if operators[place] != "none"
                and any(fnmatch(f"{place}.{name}", pattern) for pattern in config.sites)
            }
            for place in widths
        }
        widest = max((w for names in chosen.values() for w in names.values()), default=0)
        self.align = nn.ModuleDict()
        self.refine = nn.ModuleDict()
        latent = 0
        for place, names in chosen.items():
            for name, width in names.items():
                neutral = NEUTRAL[operators[place]]
                decoder: VectorDecoder | LinearDecoder
                if config.decoder == "vector":
                    decoder = VectorDecoder(width, neutral, config.sigma)
                else:
                    latent = _latent_size(config, widest if config.shared else width)
                    decoder = LinearDecoder(width, neutral, config.sigma, latent, config.shared)
                getattr(self, place)[name] = Site(width, operators[place], decoder)
        self.z = nn.Parameter(torch.ones(latent)) if config.shared and latent else None

    @torch.no_grad()
    def neutralise(self) -> None:
        for place in (self.align, self.refine):
            for site in place.values():
                cast(Site, site).decoder.neutralise()
        if self.z is not None:
            set_first_unit(self.z)


def _latent_size(config: ImplicitConfig, width: int) -> int:
    if config.decoder == "factorization":
        return config.rank
    return config.latent if config.latent is not None else 2 * width


class ImplicitBank(nn.Module):
    """Every task's codes. `align` and `refine` are the only two things a model does with it.

    Args:
        config: which codes, where, how.
        heads: task name → (stem widths, output widths).

    Raises:
        ConfigError: a site pattern or a task in `per_task` matches nothing.
    """

    def __init__(
        self,
        config: ImplicitConfig,
        heads: Mapping[str, tuple[Mapping[str, int], Mapping[str, int]]],
    ) -> None:
        super().__init__()
        _check_patterns(config, heads)
        self.tasks = nn.ModuleDict(
            {
                task: TaskCodes(config.of_task(task), stems, outputs)
                for task, (stems, outputs) in heads.items()
            }
        )

    def align(self, task: str, stems: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Apply the codes at `align.<stem>` of one task."""
        return self._act_on(task, "align", stems)

    def refine(self, task: str, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Apply the codes at `refine.<output>` of one task."""
        return self._act_on(task, "refine", outputs)

    def _act_on(self, task: str, place: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        codes = self.tasks[task]
        sites = getattr(codes, place)
        return {
            name: sites[name](tensor, codes.z) if name in sites else tensor
            for name, tensor in tensors.items()
        }

    def pop(self, task: str, place: str, name: str) -> tuple[Tensor, Tensor] | None:
        """Remove one site and return it as (scale, shift); None when there is no such site."""
        codes = self.tasks[task]
        sites = getattr(codes, place)
        return sites.pop(name).affine(codes.z) if name in sites else None

    def neutralise(self) -> None:
        """Set every code to its operator's neutral element: the network acts as without codes."""
        for codes in self.tasks.values():
            cast(TaskCodes, codes).neutralise()

    def sites(self) -> Iterator[tuple[str, str, str]]:
        """(task, `align` or `refine`, stem or output name) of every site."""
        for task, codes in self.tasks.items():
            for place in ("align", "refine"):
                for name in getattr(codes, place):
                    yield task, place, name


def _check_patterns(
    config: ImplicitConfig,
    heads: Mapping[str, tuple[Mapping[str, int], Mapping[str, int]]],
) -> None:
    for task in config.per_task:
        if task not in heads:
            raise ConfigError(
                f"implicit.per_task.{task}: task {task!r} takes no part in this run",
                f"add it to task=[…], or name one of: {', '.join(heads)}",
            )
    available = {
        task: [f"align.{s}" for s in stems] + [f"refine.{o}" for o in outputs]
        for task, (stems, outputs) in heads.items()
    }
    everything = [site for names in available.values() for site in names]
    for key, patterns, names in [
        ("implicit.sites", config.sites, everything),
        *(
            (f"implicit.per_task.{task}.sites", config.of_task(task).sites, available[task])
            for task, overrides in config.per_task.items()
            if "sites" in overrides
        ),
    ]:
        for pattern in patterns:
            if not any(fnmatch(site, pattern) for site in names):
                raise ConfigError(
                    f"{key}: {pattern!r} matches no site",
                    f"this run has: {', '.join(sorted(set(names)))}",
                )
