"""Scores of a batch: the log-probs transformers gives each document alone, packed or not, hinted or not."""

import math

import numpy as np
import pytest
import torch
from decoder_case import VOCABULARY, opened, reference, tokens

from rung.batch import Example, collate
from rung.methods.nll import nll
from rung.models.policy import neftune, score

# Lengths and, in each document, where training begins: one has a single trained token, one none at all.
DOCUMENTS = [(12, 4), (1, 0), (30, 0), (9, 8), (7, 7), (65, 20)]


def examples():
    return [
        Example(tokens(n, seed).numpy().astype(np.int32), np.arange(n) >= start, f"row {seed}")
        for seed, (n, start) in enumerate(DOCUMENTS)
    ]


@pytest.fixture(scope="module", params=["llama", "gemma2 hard caps", "qwen3_moe"])
def case(request, tmp_path_factory):
    theirs = reference(request.param)
    return theirs, opened(theirs, tmp_path_factory.mktemp("model"))


@pytest.fixture
def decoder(case):
    case[1].zero_grad()
    return case[1]


@torch.no_grad()
def test_log_probs_entropy_and_top_k_are_those_of_transformers_one_document_at_a_time(case):
    theirs, decoder = case
    out = score(decoder, collate(examples()), entropy=True, top_k=3)
    logprobs, entropies, tops, owners = [], [], [], []
    for index, (row, (n, start)) in enumerate(zip(examples(), DOCUMENTS, strict=True)):
        ids = torch.from_numpy(row.token_ids).long()
        all_logprobs = theirs(ids[None]).logits[0].float().log_softmax(-1)
        for t in range(max(start, 1), n):
            logprobs.append(all_logprobs[t - 1, ids[t]])
            entropies.append(-(all_logprobs[t - 1].exp() * all_logprobs[t - 1]).sum())
            tops.append(all_logprobs[t - 1].topk(3).indices)
            owners.append(index)
    assert out.document_M.tolist() == owners
    torch.testing.assert_close(out.logprob_M, torch.stack(logprobs), rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(out.entropy_M, torch.stack(entropies), rtol=1e-5, atol=2e-5)
    assert torch.equal(out.top_ids_Mk, torch.stack(tops))
    assert out.logprob_M.dtype == torch.float32


@torch.no_grad()
def test_temperature_divides_the_logits_after_their_cap(case):
    theirs, decoder = case
    ids = tokens(9)
    row = Example(ids.numpy().astype(np.int32), np.ones(9, bool), "row")
    out = score(decoder, collate([row]), temperature=0.5)
    expected = (theirs(ids[None]).logits[0] / 0.5).log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0]
    torch.testing.assert_close(out.logprob_M, expected, rtol=1e-5, atol=2e-5)


def loss_and_gradients(decoder, batches, normalize, **options):
    decoder.zero_grad()
    total = 0.0
    for batch in batches:
        loss = nll(score(decoder, batch, **options), batch, normalize=normalize)
        loss.sum.backward()
        total += loss.sum.item()
    return total, {n: p.grad.clone() for n, p in decoder.named_parameters() if p.grad is not None}


def assert_same(one, other, tolerance):
    assert one[0] == pytest.approx(other[0], rel=tolerance)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        assert (gradient - other[1][name]).norm() <= tolerance * other[1][name].norm() + 1e-9, name


@pytest.mark.parametrize("normalize", ["token", "sequence"])
def test_packed_loss_and_gradients_are_the_unpacked(decoder, normalize):
    rows = examples()
    packed = loss_and_gradients(decoder, [collate(rows)], normalize)
    in_twos = loss_and_gradients(decoder, [collate(rows[i : i + 2]) for i in range(0, 6, 2)], normalize)
    alone = loss_and_gradients(decoder, [collate([row]) for row in rows], normalize)
    turned = loss_and_gradients(decoder, [collate(rows[::-1])], normalize)
    for other in (in_twos, alone, turned):
        assert_same(packed, other, 1e-5)


@pytest.mark.parametrize("normalize", ["token", "sequence"])
@pytest.mark.parametrize("mean_over", ["token", "sequence"])
def test_the_hint_of_a_mean_changes_nothing_right_or_wrong(decoder, normalize, mean_over):
    batches = [collate(examples())]
    plain = loss_and_gradients(decoder, batches, normalize)
    hinted = loss_and_gradients(decoder, batches, normalize, mean_over=mean_over)
    assert_same(hinted, plain, 1e-5)


def test_the_hint_is_the_weight_of_each_token_in_the_mean_it_names(decoder, monkeypatch):
    """Trained tokens of the documents: 8, 0, 30 less the first, 1, 0 and 45."""
    from rung.models import policy

    guesses, real = [], policy.linear_logprob
    monkeypatch.setattr(
        policy, "linear_logprob", lambda *a, guess_N, **k: (guesses.append(guess_N), real(*a, **k))[1]
    )
    for hint in ("", "token", "sequence"):
        score(decoder, collate(examples()), mean_over=hint)
    assert guesses[0] is None
    assert guesses[1].tolist() == [1.0] * 83
    counts = (8, 29, 1, 45)
    assert guesses[2].tolist() == pytest.approx([1 / n for n in counts for _ in range(n)])


def test_a_batch_without_trained_tokens_scores_nothing(decoder):
    row = Example(np.arange(5, dtype=np.int32), np.zeros(5, bool), "row")
    for hint in ("", "token", "sequence"):
        out = score(decoder, collate([row]), mean_over=hint)
        assert out.logprob_M.shape == (0,)
        nll(out, collate([row])).sum.backward()


def test_router_losses_come_with_a_mixture_and_only_then(case):
    theirs, decoder = case
    batch = collate(examples()[:1])
    auxiliary = score(decoder, batch).auxiliary
    if decoder.config.family != "qwen3_moe":
        assert auxiliary == {}
        return
    out = theirs(batch.token_ids_N[None], output_router_logits=True)
    assert auxiliary["balance"].item() == pytest.approx(out.aux_loss.item(), rel=1e-5)
    squares = [logits.logsumexp(-1).square() for logits in out.router_logits]
    assert auxiliary["z"].item() == pytest.approx(torch.cat(squares).mean().item(), rel=1e-5)


def test_neftune_noise_is_uniform_and_as_large_as_its_document_says():
    """alpha / sqrt(T D): 6 / sqrt(4 * 9) = 1 for the first document, 6 / sqrt(1 * 9) = 2 for the second."""
    torch.manual_seed(0)
    noise = torch.stack([neftune(6.0, (4, 1))(torch.zeros(5, 9)) for _ in range(400)])
    for part, bound in ((noise[:, :4], 1.0), (noise[:, 4:], 2.0)):
        assert 0.99 * bound < part.abs().max() <= bound
        assert part.mean().abs() < 0.05 * bound
        assert part.square().mean() == pytest.approx(bound**2 / 3, rel=0.05)
    x = torch.randn(5, 9)
    assert torch.equal(neftune(0.0, (4, 1))(x), x)


def test_noise_reaches_the_scores(decoder):
    batch = collate(examples())
    quiet = score(decoder, batch).logprob_M
    assert torch.equal(score(decoder, batch, perturb=neftune(0.0, batch.lengths)).logprob_M, quiet)
    assert not torch.equal(score(decoder, batch, perturb=neftune(5.0, batch.lengths)).logprob_M, quiet)


def test_probabilities_of_all_tokens_add_up_to_one(decoder):
    prompt = tokens(6, 3).tolist()
    rows = [Example(np.array([*prompt, v], np.int32), np.arange(7) == 6, "row") for v in range(VOCABULARY)]
    total = score(decoder, collate(rows)).logprob_M.exp().sum().item()
    assert math.isclose(total, 1.0, rel_tol=1e-5)


def branching(columns=None):
    """Two groups that begin alike and one document alone; one trunk is longer than a block of queries."""

    def row(start, length, prefix, seed):
        ids = torch.cat([tokens(prefix, 50 + prefix), tokens(length - prefix, seed)])
        return Example(ids.numpy().astype(np.int32), np.arange(length) >= start, f"row {seed}")

    first = [row(12, n, 12, seed) for seed, n in enumerate((40, 13, 90))]
    second = [row(70, n, 70, seed + 10) for seed, n in enumerate((75, 140))]
    return [*first, *second, row(3, 20, 3, 30)], [3, 2, 1]


@pytest.mark.parametrize("family", ["llama", "gemma2 hard caps"])
def test_branches_from_a_shared_trunk_score_and_learn_as_documents_of_their_own(family, tmp_path):
    """One prompt forward for a group: same log-probs and same gradients, for less work."""
    decoder = opened(reference(family), tmp_path).double()
    rows, groups = branching()
    outcomes = []
    for batch in (collate(rows), collate(rows, groups)):
        decoder.zero_grad()
        scores = score(decoder, batch)
        (
            scores.logprob_M * torch.linspace(-1, 1, len(scores.logprob_M), dtype=torch.float64)
        ).sum().backward()
        outcomes.append(
            (scores.logprob_M.detach(), {n: p.grad.clone() for n, p in decoder.named_parameters()})
        )
    apart, shared = outcomes
    assert len(collate(rows, groups).token_ids_N) == len(collate(rows).token_ids_N) - 2 * 12 - 70
    torch.testing.assert_close(shared[0], apart[0], rtol=1e-5, atol=1e-6)
    for name, gradient in apart[1].items():
        torch.testing.assert_close(
            shared[1][name], gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()) + 1e-9, msg=name
        )
