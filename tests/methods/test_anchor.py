"""The pull to the start: by hand, the same for every layout and dtype; and the Fisher information by enumeration."""

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from rung.batch import Example, Loss, collate
from rung.data.examples import load_examples
from rung.errors import UserError
from rung.methods.anchor import Anchor, anchored
from rung.methods.nll import nll
from rung.models import fisher
from rung.models.fisher import fisher_diagonal
from rung.models.hub import load_tokenizer
from rung.models.load import load_model
from rung.models.policy import score
from rung.models.small import write_small_model
from rung.settings import Anchor as AnchorSettings
from rung.settings import Optimizer, Sft
from rung.sources.demonstrations import DemonstrationSource
from rung.train import State, train


def test_penalty_and_pull_by_hand():
    weight = torch.tensor([1.0, -2.0], requires_grad=True)
    start = {"w": torch.tensor([0.0, 1.0])}  # gaps 1 and -3
    both = Anchor(
        {"w": weight}, {"w": weight}, start, l2=2.0, ewc=0.5, fisher={"w": torch.tensor([4.0, 1.0])}
    )
    # Stiffness 2 + 0.5 * 4 = 4 and 2 + 0.5 * 1 = 2.5; (4 * 1 + 2.5 * 9) / 2
    assert float(both.penalty().detach()) == 13.25
    both.penalty().backward()
    assert weight.grad.tolist() == [4.0, -7.5]
    alone = Anchor({"w": weight}, {"w": weight}, start, l2=2.0)
    assert float(alone.penalty().detach()) == 10.0


def test_the_pull_is_the_gradient_of_the_penalty():
    start, stiff = torch.randn(5, dtype=torch.float64), torch.rand(5, dtype=torch.float64)

    def penalty(w):
        return Anchor({"w": w}, {"w": w}, {"w": start}, 0.7, 0.3, {"w": stiff}).penalty()

    assert torch.autograd.gradcheck(penalty, torch.randn(5, dtype=torch.float64, requires_grad=True))


def test_in_bf16_the_distance_is_that_of_the_masters():
    compute = torch.tensor([1.0], dtype=torch.bfloat16, requires_grad=True)
    master, start = torch.tensor([1.001]), torch.tensor([1.0])  # the same number in bf16
    anchor = Anchor({"w": compute}, {"w": master}, {"w": start}, l2=100.0)
    assert float(anchor.penalty().detach()) == pytest.approx(50 * 1e-6, rel=1e-3)
    anchor.penalty().backward()
    assert compute.grad.item() == pytest.approx(0.1, rel=0.01)


def test_the_penalty_of_a_step_is_added_once_whatever_its_parts():
    """sum (s_j + penalty c_j) / sum c_j = sum s_j / sum c_j + penalty."""
    weight = torch.tensor([3.0], requires_grad=True)
    anchor = Anchor({"w": weight}, {"w": weight}, {"w": torch.zeros(1)}, l2=2.0)
    method = anchored(
        lambda scores, batch: Loss(weight.sum() * scores, scores, "tokens", {"m": (1.0, 2.0)}), anchor
    )
    for counts in ([12.0], [5.0, 7.0], [1.0] * 11 + [0.0, 1.0]):
        weight.grad = None
        losses = [method(count, None) for count in counts]
        for loss in losses:
            loss.sum.backward()
        assert sum(float(loss.sum.detach()) for loss in losses) / 12 == 3 + 9
        assert weight.grad.item() / 12 == 1 + 6
        assert sum(loss.metrics["anchor"][0] for loss in losses) / 12 == 9 and losses[0].metrics["m"] == (
            1.0,
            2.0,
        )


SETTINGS = Optimizer(learning_rate=3e-3, warmup=1, schedule="constant", clip=0)


def curve(folder, rows_file, l2, **layout):
    data = load_examples([str(rows_file)], load_tokenizer(str(folder)), max_length=256)
    source = DemonstrationSource(data.examples, data.sizes, None, epochs=None, step_documents=8, **layout)
    model = load_model(folder)
    state = State(model, SETTINGS)
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    anchor = Anchor(state.masters.compute, state.masters.weights, start, l2=l2)
    seen = []
    train(
        state, source, partial(score, model), anchored(nll, anchor), SETTINGS, steps=4,
        observe=lambda step, m: seen.append((m["loss"], m["grad_norm"], m["anchor"])), save=lambda state: None,
    )  # fmt: skip
    return seen


def test_micro_batches_do_not_change_the_curve(tiny_folder, rows_file):
    whole = curve(tiny_folder, rows_file, 5.0, micro_tokens=10_000)
    for layout in (dict(packing=False, micro_tokens=256), dict(micro_tokens=160)):
        np.testing.assert_allclose(curve(tiny_folder, rows_file, 5.0, **layout), whole, rtol=2e-4, atol=1e-7)
    assert whole[0][2] == 0 and whole[-1][2] > 0
    free = curve(tiny_folder, rows_file, 0.0, micro_tokens=10_000)
    assert free[0][:2] == pytest.approx(whole[0][:2], rel=1e-6)  # at the start nothing pulls


# ---- Fisher information ----


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = write_small_model(
        tmp_path_factory.mktemp("small") / "m", "ab", layers=1, width=8, heads=2, context=8, seed=3
    )
    model = load_model(folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0)
    ids = np.array([4, 3, 4], np.int32)
    return model, Example(ids, np.array([False, True, True]), "row")


def distributions(model, example):
    """log p over the vocabulary at both trained positions, [2, V], differentiable."""
    words = model.config.vocabulary
    rows = [
        collate([replace(example, token_ids=np.array([4, a, b], np.int32))])
        for a, b in product([3], range(words))
    ]
    second = torch.stack([score(model, row).logprob_M[1] for row in rows])
    first = torch.stack(
        [
            score(model, collate([replace(example, token_ids=np.array([4, a, 0], np.int32))])).logprob_M[0]
            for a in range(words)
        ]
    )
    return torch.stack([first, second])


def flat_gradient(model, value):
    gradients = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
    return torch.cat([g.reshape(-1) for g in gradients]).double()


def exact_fisher(model, example):
    logp = distributions(model, example)
    return (
        sum(
            float(logp[t, y].exp().detach()) * flat_gradient(model, logp[t, y]).square()
            for t in range(2)
            for y in range(logp.shape[1])
        )
        / 2
    )  # per token


def flat(found, model):
    return torch.cat([found[name].reshape(-1) for name, _ in model.named_parameters()]).double()


def test_over_all_labels_the_estimate_is_the_fisher_information(small, monkeypatch):
    """Every pair of labels, weighed by its probability: the mixed terms cancel."""
    model, example = small
    logp = distributions(model, example).detach()
    total = 0
    for labels in product(range(logp.shape[1]), repeat=2):
        monkeypatch.setattr(fisher, "draw", lambda *_, labels=labels: torch.tensor(labels))
        chance = float(logp[0, labels[0]].exp() * logp[1, labels[1]].exp())
        total = total + chance * flat(fisher_diagonal(model, [example]), model)
    torch.testing.assert_close(total, exact_fisher(model, example), rtol=1e-4, atol=1e-9)


def test_labels_are_drawn_from_the_model(small):
    model, example = small
    exact = exact_fisher(model, example)
    found = flat(fisher_diagonal(model, [example] * 200, seed=1), model)
    assert float(found.sum()) == pytest.approx(float(exact.sum()), rel=0.2)
    again = flat(fisher_diagonal(model, [example] * 200, seed=1), model)
    assert torch.equal(found, again)
    assert not torch.equal(found, flat(fisher_diagonal(model, [example] * 200, seed=2), model))
    assert all(weight.grad is None for weight in model.parameters())
    # The data's own labels (3 and 4) are not what it is about.
    other = replace(example, token_ids=np.array([4, 3, 2], np.int32))
    assert torch.equal(found, flat(fisher_diagonal(model, [other] * 200, seed=1), model))


def test_half_the_fisher_times_the_square_is_the_divergence_per_token(small):
    model, example = small
    exact = exact_fisher(model, example)
    before = distributions(model, example).detach().double()
    place = int(exact.argmax())
    for weight in model.parameters():
        if place < weight.numel():
            break
        place -= weight.numel()
    step = 0.02
    kl = 0.0
    for sign in (1, -1):  # odd orders cancel
        with torch.no_grad():
            weight.view(-1)[place] += sign * step
        after = distributions(model, example).detach().double()
        kl += float((before.exp() * (before - after)).sum() / 2) / 2
        with torch.no_grad():
            weight.view(-1)[place] -= sign * step
    assert kl == pytest.approx(0.5 * float(exact.max()) * step**2, rel=0.05)


# ---- as settings ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AnchorSettings(l2=-1.0), "anchor.l2 is -1.0"),
        (lambda: AnchorSettings(ewc=float("nan"), data=("x",)), "anchor.ewc is nan"),
        (lambda: AnchorSettings(ewc=1.0), "needs --anchor.data"),
        (lambda: AnchorSettings(data=("x",)), "needs --anchor.data"),
        (lambda: AnchorSettings(ewc=1.0, data=("x",), documents=0), "anchor.documents is 0"),
        (lambda: Sft(lora=replace(Sft().lora, rank=4), anchor=AnchorSettings(l2=1.0)), "Write one of them"),
    ],
)
def test_settings_that_cannot_be_meant(make, message):
    with pytest.raises(UserError, match=message):
        make()
