"""The laws of implicit codes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from unified.bounds import checked
from unified.errors import ConfigError
from unified.implicit.bank import codes_of, fill_slots, neutralise
from unified.implicit.config import ImplicitConfig, PerTask
from unified.implicit.coordinates import Coordinates
from unified.implicit.decoder import Decoder
from unified.implicit.equilibrium import Equilibrium
from unified.implicit.factorization import Factorization
from unified.implicit.memory import Memory
from unified.implicit.network import Network
from unified.implicit.operators import OPERATORS
from unified.implicit.sparse import Sparse
from unified.implicit.vector import Vector
from unified.slots import Slot

DECODERS = {
    "vector": Vector.of_task,
    "network": Network.of_task,
    "factorization": Factorization.of_task,
    "sparse": Sparse.of_task,
    "memory": Memory.of_task,
    "equilibrium": Equilibrium.of_task,
    "coordinates": Coordinates.of_task,
}
ARMS = [
    "implicit=vector",
    "implicit=network",
    "implicit=factorization",
    "implicit=network implicit.decoder.shared=true",
    "implicit=factorization implicit.decoder.shared=true",
    "implicit=vector implicit.align=mul implicit.refine=add",
    "implicit=vector implicit.align=concat",
    "implicit=network implicit.align=concat implicit.refine=none",
    "implicit=sparse implicit.align=affine",
    "implicit=vector implicit.align=none implicit.refine=affine",
    "implicit=sparse implicit.decoder.shared=true implicit.decoder.l1=0.001",
    "implicit=memory implicit.align=rotate implicit.refine=rotate",
    "implicit=memory implicit.decoder.shared=true",
    "implicit=equilibrium",
]
VARYING = ["implicit=coordinates", "implicit=coordinates implicit.align=concat"]
"""Of representations that differ from place to place."""


class Places(nn.Module):
    """A head that is nothing but slots."""

    def __init__(self, align: dict[str, int], refine: dict[str, int]) -> None:
        super().__init__()
        self.align = nn.ModuleDict({name: Slot(width) for name, width in align.items()})
        self.refine = nn.ModuleDict({name: Slot(width) for name, width in refine.items()})


def make_heads() -> dict[str, nn.Module]:
    return {
        "a": Places({"p3": 8, "p4": 16}, {"p3": 6, "p4": 6}),
        "b": Places({"pooled": 12}, {"logits": 5}),
    }


def filled(decoder: type[Decoder], config: ImplicitConfig, **options: object) -> dict:
    """Task and slot → decoder, for the heads above."""
    heads = make_heads()
    fill_slots(config, heads, partial(decoder.of_task, **options))
    return {
        (task, name): code.decoder for task, head in heads.items() for name, code in codes_of(head)
    }


def images(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def assert_same(left: dict, right: dict) -> None:
    for task in left:
        for name in left[task]:
            assert torch.equal(left[task][name], right[task][name]), f"{task}.{name}"


def test_no_codes_add_no_key(make: Callable) -> None:
    plain, coded = make("implicit=none"), make("implicit=vector")
    extra = set(coded.model.state_dict()) - set(plain.model.state_dict())
    assert set(plain.model.state_dict()) <= set(coded.model.state_dict())
    assert extra
    assert all(".code." in key for key in extra)


@pytest.mark.parametrize("arm", [*ARMS, *VARYING])
def test_neutral_codes_are_the_network_without_codes(make: Callable, arm: str) -> None:
    plain = make("implicit=none").model.eval()
    coded = make(*arm.split()).model.eval()
    with torch.no_grad():
        neutralise(coded)
        assert_same(plain(images()), coded(images()))


@pytest.mark.parametrize("arm", [*ARMS, *VARYING])
def test_codes_hardly_change_the_output_at_the_start(make: Callable, arm: str) -> None:
    # In training mode on real input, as in step 0: batch norm gives features their working size.
    plain = make("implicit=none")
    coded = make(*arm.split()).model.train()
    batch = plain.batch()
    with torch.no_grad():
        before, after = plain.model.train()(batch.images), coded(batch.images)
    for task, outputs in before.items():
        for name, tensor in outputs.items():
            change = (after[task][name] - tensor).norm() / tensor.norm()
            assert 0 < change < 0.05, f"{task}.{name} changed by {change:.3f}"


@pytest.mark.parametrize("arm", ARMS[:2])
def test_one_seed_starts_both_arms_alike(make: Callable, arm: str) -> None:
    plain, coded = make("implicit=none").model, make(*arm.split()).model
    weights = coded.state_dict()
    for key, value in plain.state_dict().items():
        assert torch.equal(value, weights[key]), key


def test_a_head_starts_alike_whatever_else_takes_part(make: Callable) -> None:
    alone = make("implicit=none", "task=[detection]").model.state_dict()
    joint = make("implicit=none", "task=[classification,detection,embedding]").model.state_dict()
    for key, value in alone.items():
        assert torch.equal(value, joint[key]), key


@pytest.mark.parametrize(
    "arm",
    ["implicit=vector", "implicit=network implicit.decoder.shared=true"]
    + [f"implicit={name}" for name in ("sparse", "memory", "equilibrium", "coordinates")],
)
def test_codes_learn_from_their_own_task_only(make: Callable, arm: str) -> None:
    model = make(*arm.split()).model
    model(images())["detection"]["p3"].square().sum().backward()
    codes = {f"{n}.{k}": p.grad for n, c in codes_of(model) for k, p in c.named_parameters()}
    own = [g for n, g in codes.items() if n.startswith("tasks.detection.") and "p3" in n]
    others = [g for n, g in codes.items() if not n.startswith("tasks.detection.")]
    assert own
    assert all(g is not None and g.abs().sum() > 0 for g in own)
    assert others
    assert all(g is None for g in others)


def test_sites_can_be_chosen(make: Callable) -> None:
    model = make("implicit=vector", "implicit.sites=[align.p3,refine.*]", "task=[detection]").model
    assert [name for name, _ in codes_of(model.tasks["detection"].head)] == [
        "align.p3", "refine.p3", "refine.p4", "refine.p5",
    ]  # fmt: skip


def test_slots_can_differ_per_task() -> None:
    config = ImplicitConfig(
        per_task={"a": PerTask(sites=["align.p3"]), "b": PerTask("mul", "none")}
    )
    decoders = filled(Vector, config)
    assert set(decoders) == {("a", "align.p3"), ("b", "align.pooled")}
    assert decoders["b", "align.pooled"].neutral == 1.0


def test_sizes_of_codes_follow_the_paper() -> None:
    assert filled(Network, ImplicitConfig())["a", "align.p4"].z.shape == (32,)
    assert filled(Network, ImplicitConfig(), latent=5)["a", "align.p4"].z.shape == (5,)
    assert filled(Factorization, ImplicitConfig())["a", "align.p4"].weight.shape == (16, 2)
    shared = filled(Network, ImplicitConfig(), shared=True)
    assert len({id(d.z) for (task, _), d in shared.items() if task == "a"}) == 1
    assert shared["a", "align.p3"].z.shape == (32,)
    assert shared["b", "align.pooled"].z.shape == (24,)


@pytest.mark.parametrize("decoder", DECODERS)
def test_decoded_codes_start_with_the_given_spread(decoder: str) -> None:
    torch.manual_seed(0)
    for mean in (0.0, 1.0):
        (one,) = DECODERS[decoder]([4096], [mean])
        decoded = one(None)
        assert abs(float(decoded.mean()) - mean) < 0.02
        assert 0.012 < float(decoded.std()) < 0.03


@pytest.mark.parametrize("decoder", DECODERS)
def test_decoders_keep_their_contract(decoder: str) -> None:
    like = torch.zeros(2, 6, 4, 5)
    widths, neutrals = (6, 3), (0.0, 1.0)
    decoders = DECODERS[decoder](widths, neutrals)
    for one, width, neutral in zip(decoders, widths, neutrals, strict=True):
        if one.constant:
            assert one(like).shape == one(None).shape == (width,)
        else:
            assert one(like).shape == (1, width, 4, 5)
            assert one(like[..., 0, 0]).shape == (1, width)
        one.neutralise()
        assert (one(like) == neutral).all()
        assert one.flops(like) >= 0
        assert one.penalty() is None


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_keep_their_contract(operator: str) -> None:
    """Neutral to the bit, the same as its matrix and shift, and for codes that vary, too."""
    one = OPERATORS[operator](6)
    feature, neutral = torch.randn(2, 6, 4, 4), torch.full((6 * one.parts,), one.neutral)
    with torch.no_grad():
        assert torch.equal(one(feature, neutral), feature)
        for parameter in one.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        code = neutral + torch.randn(6 * one.parts)
        scale, shift = one.affine(code)
        matrix = torch.diag(scale) if scale.ndim == 1 else scale
        expected = torch.einsum("dc,bchw->bdhw", matrix, feature) + shift[:, None, None]
        torch.testing.assert_close(one(feature, code), expected)
        everywhere = code[None, :, None, None].expand(1, -1, 4, 4)
        torch.testing.assert_close(one(feature, everywhere), expected)
        torch.testing.assert_close(one(feature[..., 0, 0], code), expected[..., 0, 0])
    assert one.flops(feature) > 0


def test_a_rotation_keeps_lengths_whatever_it_learns() -> None:
    one = OPERATORS["rotate"](16)
    optimizer = torch.optim.SGD(one.parameters(), 1.0)
    x, goal = torch.randn(32, 16), torch.randn(32, 16)
    for _ in range(3):
        (one(x, torch.zeros(16)) - goal).square().mean().backward()
        optimizer.step()
    turned = one(x, torch.zeros(16))
    assert (turned - x).abs().max() > 0.1
    torch.testing.assert_close(turned.norm(dim=1), x.norm(dim=1))


def test_a_sparse_code_is_of_few_atoms_and_may_choose_others() -> None:
    one, other = Sparse.of_task([6, 6], [0.0, 0.0], pool={}, atoms=10, keep=2, shared=True)
    assert one.atoms is other.atoms
    with torch.no_grad():
        one.z[:] = torch.tensor([3.0, *[0.5] * 8, -2])
        torch.testing.assert_close(one(None), (3 * one.atoms[0] - 2 * one.atoms[9]) / 2**0.5)
    one(None).sum().backward()
    assert (one.z.grad != 0).all(), "an atom that is not chosen could never be"
    assert ((one.atoms.grad != 0).any(1).nonzero().flatten() == torch.tensor([0, 9])).all()
    (penalised,) = Sparse.of_task([6], [0.0], atoms=10, l1=0.5)
    torch.testing.assert_close(penalised.penalty(), 0.5 * penalised.z.abs().mean())


def test_a_new_task_of_a_shared_memory_moves_no_old_one() -> None:
    pool: dict = {}
    (old,) = Memory.of_task([6], [0.0], shared=True, pool=pool)
    before = old(None).detach()
    (new,) = Memory.of_task([6], [0.0], shared=True, pool=pool)
    assert [id(e) for e in new.entries][:1] == [id(e) for e in old.entries]
    with torch.no_grad():
        for parameter in (new.z, *new.entries[1].parameters()):
            parameter.add_(1.0)
    assert torch.equal(old(None), before)
    new(None).sum().backward()
    assert (old.entries[0].values.grad != 0).any(), "it reads what the old task knows"


@pytest.mark.parametrize("rho", [0.3, 0.95])
def test_an_equilibrium_is_one_and_has_its_gradient(rho: float) -> None:
    torch.manual_seed(0)
    (one,) = Equilibrium.of_task([6], [0.0], latent=5, rho=rho)
    one.double()
    with torch.no_grad():
        one.weight.copy_(torch.outer(torch.ones(5), torch.ones(5)))  # as far as ρ reaches
        one.z.mul_(0.01)
    weight = rho * one.weight / one.weight.norm()
    h = one.fixed_point()
    torch.testing.assert_close(h, torch.tanh(weight @ h + one.z), rtol=0, atol=1e-6)
    unrolled = torch.zeros_like(one.z)
    for _ in range(500):
        unrolled = torch.tanh(weight @ unrolled + one.z)
    goal = torch.randn(5, dtype=torch.float64)
    for parameter in (one.z, one.weight):
        (ours,) = torch.autograd.grad(h @ goal, parameter, retain_graph=True)
        (theirs,) = torch.autograd.grad(unrolled @ goal, parameter, retain_graph=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_coordinates_know_where_they_are() -> None:
    (one,) = Coordinates.of_task([3], [0.0])
    small, large = one(torch.zeros(1, 3, 4, 4)), one(torch.zeros(1, 3, 12, 12))
    assert small[0, 0].std() > 0
    # Centres of cells: those of every third cell of the larger are those of the smaller.
    torch.testing.assert_close(large[..., 1::3, 1::3], small)


@pytest.mark.parametrize("arm", VARYING)
def test_what_varies_is_not_folded(make: Callable, arm: str) -> None:
    model = make(*arm.split()).model.eval()
    with torch.no_grad():
        before, after = model(images()), copy.deepcopy(model).fuse()(images())
    assert list(codes_of(model.fuse()))
    for task, outputs in before.items():
        for name, tensor in outputs.items():
            torch.testing.assert_close(after[task][name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("arm", ["implicit=none", *ARMS])
def test_fusing_changes_nothing_but_the_cost(make: Callable, arm: str) -> None:
    model = make(*arm.split()).model.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    with torch.no_grad():
        before = model(images())
        fused = copy.deepcopy(model).fuse()
        after = fused(images())
    assert not list(codes_of(fused))
    assert not [m for m in fused.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for task, outputs in before.items():
        for name, tensor in outputs.items():
            torch.testing.assert_close(after[task][name], tensor, rtol=1e-3, atol=1e-4)


def test_codes_cost_nothing_where_the_classifier_is_linear(make: Callable) -> None:
    model = make("implicit=vector", "task.classification.classifier=linear").model.eval()
    with torch.no_grad():
        before, after = model(images()), model.fuse()(images())
    assert not list(codes_of(model))
    torch.testing.assert_close(
        after["classification"]["logits"], before["classification"]["logits"]
    )


def test_a_code_that_no_linear_layer_can_hold_stays() -> None:
    head = Places({"x": 4}, {})
    fill_slots(ImplicitConfig(), {"t": head}, Vector.of_task)
    x = torch.rand(2, 4)
    before = head.align["x"](x)
    head.align["x"].fold()
    assert head.align["x"].code is not None
    assert torch.equal(head.align["x"](x), before)


def test_a_code_that_depends_on_its_input_is_not_folded() -> None:
    class Varying(Vector):
        constant = False

    layer = nn.Linear(4, 3)
    slot = Slot(4, before=[layer])
    head = Places({}, {})
    head.align["x"] = slot
    fill_slots(ImplicitConfig(), {"t": head}, Varying.of_task)
    slot.fold()
    assert slot.code is not None


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_layer_without_bias_gets_one(place: str) -> None:
    layer = nn.Linear(4, 3, bias=False)
    slot = Slot(4, before=[layer]) if place == "before" else Slot(3, after=layer)
    head = Places({}, {})
    head.align["x"] = slot
    fill_slots(ImplicitConfig(), {"t": head}, Vector.of_task)
    x = torch.rand(2, 4)
    with torch.no_grad():
        run = (lambda: layer(slot(x))) if place == "before" else (lambda: slot(layer(x)))
        expected = run()
        slot.fold()
        assert slot.code is None
        torch.testing.assert_close(run(), expected)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"refine": "concat"}, "implicit.refine=concat"),
        ({"align": "bend"}, "implicit.align=bend"),
        ({"per_task": {"a": {"refine": "concat"}}}, "implicit.per_task.a.refine=concat"),
        ({"per_task": {"a": {"sigma": 1}}}, "sigma"),
        ({"per_task": {"c": {"align": "mul"}}}, "'c'"),
        ({"sites": ["align.p9"]}, "align.p9"),
    ],
)
def test_impossible_codes_are_refused_with_a_fix(arguments: dict, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        filled(Vector, checked("implicit", arguments, ImplicitConfig))
    assert said in str(caught.value)
    assert "fix:" in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["implicit=vector", "+implicit.decoder.rank=3"], "implicit.decoder.rank"),
        (["implicit=vector", "+implicit.decoder.shared=true"], "implicit.decoder.shared"),
        (["implicit.decoder._target_=unified.implicit.lstm.LSTM"], "unified.implicit.lstm.LSTM"),
    ],
)
def test_unknown_options_of_a_decoder_are_refused(
    make: Callable, overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(*overrides)
    assert said in str(caught.value)
    assert "fix:" in str(caught.value)


def test_a_slot_outside_of_its_containers_is_a_mistake() -> None:
    head = nn.ModuleDict({"elsewhere": Slot(4)})
    with pytest.raises(TypeError, match="elsewhere"):
        fill_slots(ImplicitConfig(), {"t": head}, Vector.of_task)


@pytest.mark.parametrize("shared", [False, True])
def test_a_step_moves_what_a_wide_code_decodes_as_it_moves_a_vector(shared: bool) -> None:
    """Without a scale it moves as far as the code is long, and training diverges."""
    torch.manual_seed(0)
    width, rate = 512, 0.01
    wide = Network.of_task([width, width], [0.0, 1.0], shared=shared)
    narrow = Vector.of_task([width, width], [0.0, 1.0])
    gradient = torch.randn(2, width)
    moved = []
    for decoders in (wide, narrow):
        before = torch.stack([d(None) for d in decoders]).detach()
        # A code that is shared stands in both decoders.
        parameters = {id(p): p for d in decoders for p in d.parameters()}.values()
        optimizer = torch.optim.SGD(parameters, rate)
        (torch.stack([d(None) for d in decoders]) * gradient).sum().backward()
        optimizer.step()
        moved.append((torch.stack([d(None) for d in decoders]) - before).detach().norm())
    assert moved[0] == pytest.approx(moved[1], rel=0.5)
