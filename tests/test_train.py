"""Golden curves in equivalence classes: how documents lie in micro-batches, and what is recomputed, changes nothing.

The reference of each class is computed in the test by the most literal layout, one document at a time.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch

from rung.data.examples import load_examples
from rung.errors import RunStopped
from rung.methods.nll import nll
from rung.models.hub import load_tokenizer
from rung.models.load import load_model
from rung.models.lora import add_adapter
from rung.models.policy import score
from rung.settings import Lora, Optimizer
from rung.sources.demonstrations import DemonstrationSource
from rung.train import State, train

SETTINGS = Optimizer(learning_rate=3e-3, warmup=1, schedule="constant")


def curve(
    folder,
    rows_file,
    *,
    steps=5,
    settings=SETTINGS,
    dtype=torch.float32,
    recompute=False,
    normalize="token",
    model=None,
    **layout,
):
    """(loss, gradient norm) of each step, and the weights after the last."""
    data = load_examples([str(rows_file)], load_tokenizer(str(folder)), max_length=256)
    source = DemonstrationSource(data.examples, data.sizes, None, epochs=None, step_documents=8, **layout)
    model = model or load_model(folder, dtype)
    model.checkpointing = recompute
    seen = []
    train(
        State(model, settings),
        source,
        partial(score, model, mean_over=normalize),
        partial(nll, normalize=normalize),
        settings,
        steps=steps,
        observe=lambda step, metrics: seen.append((metrics["loss"], metrics["grad_norm"])),
        save=lambda state: None,
    )
    return seen, {name: p.detach().clone() for name, p in model.named_parameters()}


LAYOUTS = {
    "8x1": dict(micro_tokens=10_000),
    "1x8": dict(packing=False, micro_tokens=256),
    "packed": dict(micro_tokens=160),
    "checkpointed": dict(micro_tokens=160, recompute=True),
}


@pytest.mark.parametrize("normalize", ["token", "sequence"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_does_not_change_the_curve(tiny_folder, rows_file, layout, normalize):
    reference, weights = curve(tiny_folder, rows_file, packing=False, micro_tokens=256, normalize=normalize)
    found, other = curve(tiny_folder, rows_file, normalize=normalize, **LAYOUTS[layout])
    assert torch.allclose(torch.tensor(found), torch.tensor(reference), rtol=1e-5, atol=0)
    for name, weight in weights.items():  # Adam divides by tiny second moments, so weights get more room
        assert torch.allclose(other[name], weight, rtol=1e-3, atol=1e-5), name


def test_the_layouts_are_really_different(tiny_folder, rows_file):
    data = load_examples([str(rows_file)], load_tokenizer(str(tiny_folder)), max_length=256)
    counts = {}
    for name, layout in LAYOUTS.items():
        layout = {k: v for k, v in layout.items() if k != "recompute"}
        source = DemonstrationSource(data.examples, data.sizes, None, epochs=None, step_documents=8, **layout)
        counts[name] = len(source.step(0))
    assert counts["8x1"] == 1 and counts["1x8"] == 8 and 1 < counts["packed"] < 8


def test_the_curve_by_hand(tiny_folder, rows_file):
    """Loss, gradient norm and AdamW's first steps against plain autograd and torch.optim on the same rows."""
    found, weights = curve(tiny_folder, rows_file, steps=2, micro_tokens=160)
    data = load_examples([str(rows_file)], load_tokenizer(str(tiny_folder)), max_length=256)
    source = DemonstrationSource(
        data.examples, data.sizes, None, epochs=None, step_documents=8, micro_tokens=160
    )
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    for step in range(2):
        total, count = torch.zeros(()), 0
        for example in source.documents(step):
            ids = torch.tensor(example.token_ids)
            logprobs = model(ids[None].long()).logits[0, :-1].log_softmax(-1)
            trained = torch.tensor(example.trained)[1:]
            total = total - logprobs[torch.arange(len(trained)), ids[1:].long()][trained].sum()
            count += int(trained.sum())
        loss = total / count
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert found[step] == pytest.approx((loss.item(), norm.item()), rel=1e-5)
    theirs = dict(model.named_parameters())
    for name, weight in weights.items():
        assert torch.allclose(weight, theirs[name], rtol=1e-3, atol=1e-5), name


def test_bf16_follows_fp32_through_float32_masters(tiny_folder, rows_file):
    """At this rate a pure bf16 update would mostly round away: half an ulp of bf16 is 0.2 % of a weight."""
    slow = replace(SETTINGS, learning_rate=2e-5)
    exact, weights = curve(tiny_folder, rows_file, steps=20, settings=slow, micro_tokens=10_000)
    model = load_model(tiny_folder, torch.bfloat16)
    found, _ = curve(tiny_folder, rows_file, steps=20, settings=slow, model=model, micro_tokens=10_000)
    assert found[-1][0] == pytest.approx(exact[-1][0], rel=3e-3)
    start = dict(load_model(tiny_folder).named_parameters())
    name = "model.layers.0.mlp.up_proj.weight"
    moved = dict(model.named_parameters())[name].float() - start[name].bfloat16().float()
    wanted = weights[name] - start[name]
    assert torch.corrcoef(torch.stack([moved.flatten(), wanted.flatten()]))[0, 1] > 0.5


def test_masters_start_from_the_stored_float32_weights(tiny_folder):
    """Rounded masters would sit on bf16's grid, where small updates do nothing to the compute weights."""
    from rung.models.folder import read_tensors
    from rung.pipelines.setup import start_masters

    state = State(load_model(tiny_folder, torch.bfloat16), SETTINGS)
    start_masters(state, str(tiny_folder))
    stored = read_tensors(tiny_folder)
    for name, weight in state.masters.weights.items():
        assert weight.equal(stored[name]), name
        assert state.masters.compute[name].equal(stored[name].bfloat16()), name
    assert any(not w.equal(w.bfloat16().float()) for w in state.masters.weights.values())


def test_lora_trains_only_the_adapter(tiny_folder, rows_file):
    model = load_model(tiny_folder)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    add_adapter(model, Lora(rank=4, dropout=0.5), seed=0)
    found, after = curve(tiny_folder, rows_file, steps=4, model=model, micro_tokens=10_000)
    assert found[-1][0] < found[0][0]
    changed = [
        n
        for n, p in after.items()
        if n.replace(".base.", ".") in before and not p.equal(before[n.replace(".base.", ".")])
    ]
    assert changed == []


def test_a_clipped_step_has_the_norm_asked_for(tiny_folder, rows_file):
    """With clip c below the norm, the gradient handed to the optimizer has norm c: seen through plain SGD."""
    from rung.train import _finish_gradients

    model = load_model(tiny_folder)
    state = State(model, SETTINGS)
    for weight in state.masters.weights.values():
        weight.grad = torch.full_like(weight, 3.0)
    size = sum(w.numel() for w in state.masters.weights.values())
    norm = _finish_gradients(state, count=4.0, clip=0.5)
    assert norm == pytest.approx(0.75 * size**0.5, rel=1e-5)
    after = torch.cat([w.grad.flatten() for w in state.masters.weights.values()]).norm()
    assert after.item() == pytest.approx(0.5, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_and_names_the_row(tiny_folder, rows_file):
    data = load_examples([str(rows_file)], load_tokenizer(str(tiny_folder)), max_length=256)
    source = DemonstrationSource(
        data.examples, data.sizes, None, epochs=None, step_documents=4, micro_tokens=10_000
    )
    model = load_model(tiny_folder)
    poisoned = source.documents(2)[1].origin
    saved = []

    def scorer(batch):
        scores = score(model, batch)
        bad = torch.tensor([batch.origins[d] == poisoned for d in scores.document_M.tolist()])
        return replace(scores, logprob_M=scores.logprob_M.masked_fill(bad, torch.nan))

    with pytest.raises(RunStopped) as stopped:
        train(
            State(model, SETTINGS), source, scorer, nll, SETTINGS, steps=9,
            observe=lambda *a: None, save=lambda state: saved.append(state.step), save_every=1,
        )  # fmt: skip
    assert stopped.value.code == 1 and saved == [1, 2]
    assert poisoned in str(stopped.value) and "step 3" in str(stopped.value)
    assert str(stopped.value).count(".jsonl") == 1  # only the row that is at fault


def test_fp16_overflow_is_skipped_and_the_scale_halved(tiny_folder, rows_file):
    from rung.optimizer import LossScale

    scale = LossScale(True)
    start = scale.value
    assert not scale.accept(False) and scale.value == start / 2
    assert all(scale.accept(True) for _ in range(2000)) and scale.value == start
    assert LossScale(False).accept(False)  # without scaling an infinite norm is not skipped in silence


@pytest.mark.parametrize("schedule, expected", [
    ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ("linear", [0.5, 1.0, 1.0, 0.7, 0.4, 0.1]),
    ("cosine", [0.5, 1.0, 1.0, 0.775, 0.325, 0.1]),
    ("wsd", [0.5, 1.0, 1.0, 1.0, 0.55, 0.1]),
])  # fmt: skip
def test_schedules_by_hand(schedule, expected):
    """Six steps, two of warm-up: the rest spans steps 2 to 5; wsd falls over its last two."""
    from rung.optimizer import learning_rate

    settings = Optimizer(learning_rate=1.0, schedule=schedule, warmup=2, decay=2, final_share=0.1)
    found = [learning_rate(settings, step, 6) for step in range(6)]
    assert found == pytest.approx(expected)


def test_average_follows_its_recursion(tiny_folder):
    from rung.optimizer import Average, Masters

    masters = Masters(load_model(tiny_folder))
    average = Average(masters, 0.75)
    name = "model.norm.weight"
    start = masters.weights[name].detach().clone()
    with torch.no_grad():
        masters.weights[name].add_(8.0)
    average.update()
    assert torch.allclose(average.weights[name], start + 2.0)
    average.update()
    assert torch.allclose(average.weights[name], start + 3.5)
