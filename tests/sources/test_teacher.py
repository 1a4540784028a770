"""Teachers: the cache, another process, a server that may lose its log-probs. Every number against the model itself."""

import math
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rung.batch import Example, collate, prediction_sites
from rung.data.tokens import token_texts
from rung.errors import RunStopped, UserError
from rung.kernels.linear_divergence import Live, Measure, TopK, linear_divergence
from rung.models.hub import load_tokenizer
from rung.models.load import load_model
from rung.models.policy import score, trained_sites
from rung.models.taught import head_of, live_teacher, score_against
from rung.pipelines.evaluate_local import weights_digest
from rung.pipelines.teacher import local_top_k, prepare
from rung.settings_distill import Distill
from rung.sources.teacher import FILE, in_batches, taught
from rung.sources.teacher_endpoint import EndpointTeacher
from rung.sources.teacher_process import in_process

K, SIZE = 5, 260


@pytest.fixture(scope="module")
def model(tiny_folder):
    return load_model(str(tiny_folder), torch.float32, torch.device("cpu")).eval()


@pytest.fixture(scope="module")
def documents():
    dice = np.random.default_rng(0)
    found = []
    for number, length in enumerate([5, 9, 3, 12, 2, 7]):
        trained = dice.random(length) < 0.6
        trained[[0, -1]] = True  # the first token is never a target, whatever its mask says
        found.append(Example(dice.integers(4, SIZE, length).astype(np.int32), trained, f"row {number}"))
    return found


def asked(tiny_folder, k=K, tokens=16):
    return local_top_k(str(tiny_folder), torch.float32, "cpu", SIZE, k, 1.0, False, tokens)


def never():
    raise AssertionError("the cache has the answer")


def test_what_is_kept_is_at_the_temperature_and_of_the_tokens_that_were_asked_for(
    tiny_folder, model, documents
):
    warm = local_top_k(str(tiny_folder), torch.float32, "cpu", 200, 3, 2.5, False, 16)
    for example, kept in zip(documents, warm(documents), strict=True):
        with torch.no_grad():
            whole = score(model, collate([example]), top_k=SIZE)
        table = torch.zeros(len(whole.logprob_M), SIZE).scatter(1, whole.top_ids_Mk, whole.top_logprobs_Mk)
        expected = torch.log_softmax(table[:, :200] / 2.5, 1)
        torch.testing.assert_close(kept.logprobs_Nk, expected.topk(3, 1).values, rtol=1e-4, atol=1e-4)
        assert torch.equal(kept.ids_Nk, expected.topk(3, 1).indices)
        rest = 1 - kept.logprobs_Nk.double().exp().sum(1)
        torch.testing.assert_close(kept.tail_N.double().exp(), rest, rtol=1e-4, atol=1e-5)


def test_answers_come_in_the_order_of_the_documents_however_many_there_are():
    """A teacher that repeats the token it is asked about; document n holds nothing but n."""

    def echo(batch):
        ids = batch.token_ids_N[prediction_sites(batch)[1]].long()[:, None]
        return TopK(ids, torch.zeros(ids.shape), torch.zeros(len(ids)))

    rows = [Example(np.full(2 + n % 5, n, np.int32), np.ones(2 + n % 5, bool), "") for n in range(600)]
    answers = list(in_batches(echo, 64, "cpu")(rows))
    assert [answer.ids_Nk[:, 0].tolist() for answer in answers] == [[n] * (1 + n % 5) for n in range(600)]


def test_the_cache_says_in_any_batch_what_the_model_said(tiny_folder, model, documents, tmp_path):
    numbered, teacher = taught(documents, partial(asked, tiny_folder), ["me"], K, tmp_path)
    for chosen in ([0, 1, 2, 3, 4, 5], [3], [5, 0], [2, 2, 4]):
        batch = collate([numbered[i] for i in chosen])
        said = teacher(batch)
        with torch.no_grad():
            expected = score(model, batch, top_k=K)
        assert torch.equal(said.ids_Nk, expected.top_ids_Mk)
        torch.testing.assert_close(said.logprobs_Nk, expected.top_logprobs_Mk, rtol=1e-5, atol=1e-5)
        rest = 1 - said.logprobs_Nk.double().exp().sum(1)
        torch.testing.assert_close(said.tail_N.double().exp(), rest, rtol=1e-4, atol=1e-5)


def test_what_changes_the_answer_changes_the_key_and_nothing_else_does(tiny_folder, documents, tmp_path):
    first = partial(asked, tiny_folder)
    taught(documents, first, ["me"], K, tmp_path)
    taught(documents, never, ["me"], K, tmp_path)
    renamed = [
        Example(e.token_ids, e.trained, "elsewhere", {"more": np.zeros(len(e), np.float32)})
        for e in documents
    ]
    numbered, _ = taught(renamed, never, ["me"], K, tmp_path)
    assert (
        set(numbered[3].columns) == {"more", "teacher_document"}
        and numbered[3].columns["teacher_document"][0] == 3
    )
    masked = [Example(e.token_ids, e.trained & (np.arange(len(e)) != 1), e.origin) for e in documents]
    other = [Example(e.token_ids + 0, e.trained, e.origin) for e in documents]
    other[2].token_ids[1] = 4 + (other[2].token_ids[1] - 3) % 200
    for rows, identity, k in (
        (masked, "me", K),
        (other, "me", K),
        (documents[::-1], "me", K),
        (documents, "you", K),
    ):
        with pytest.raises(AssertionError, match="the cache has the answer"):
            taught(rows, never, [identity], k, tmp_path)
    with pytest.raises(AssertionError):
        taught(documents, never, ["me"], K + 1, tmp_path)


def test_a_teacher_that_fails_halfway_leaves_nothing(tiny_folder, documents, tmp_path):
    def breaks(examples):
        yield from list(asked(tiny_folder)(examples))[:3]
        raise RunStopped("gone", 1)

    with pytest.raises(RunStopped, match="gone"):
        taught(documents, lambda: breaks, ["me"], K, tmp_path)
    assert list(tmp_path.rglob("*")) == []
    with pytest.raises(ValueError):  # too few answers are no cache either
        taught(
            documents, lambda: lambda examples: list(asked(tiny_folder)(examples))[:3], ["me"], K, tmp_path
        )
    assert list(tmp_path.rglob("*")) == []
    taught(documents, partial(asked, tiny_folder), ["me"], K, tmp_path)
    assert [path.name for path in tmp_path.rglob("*.npy")] == [FILE]


@pytest.mark.slow
def test_a_teacher_in_another_process_says_the_same(tiny_folder, documents):
    start = partial(local_top_k, str(tiny_folder), torch.float32, "cpu", SIZE, K, 1.0, False, 16)
    here, there = list(start()(documents)), list(in_process(start)(documents))
    for one, other in zip(here, there, strict=True):
        assert torch.equal(one.ids_Nk, other.ids_Nk) and torch.equal(one.tail_N, other.tail_N)
    with pytest.raises(UserError, match="no folder here"):
        list(in_process(partial(local_top_k, "no-such-model", *start.args[1:]))(documents))


def test_the_whole_vocabulary_from_the_cache_trains_as_the_live_teacher(
    tiny_folder, model, documents, tmp_path
):
    """From a student's scores to its gradients."""
    torch.manual_seed(1)
    student = load_model(str(tiny_folder), torch.float32, torch.device("cpu"))
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    numbered, cached = taught(documents, partial(asked, tiny_folder, k=SIZE), ["me"], SIZE, tmp_path)
    batch = collate(numbered)
    found = []
    for teacher in (live_teacher(model, SIZE), cached):
        scores = score_against(student, batch, teacher, Measure("jensen_shannon", 0.3), size=SIZE)
        gradients = torch.autograd.grad(scores.divergence_M.mean(), list(student.parameters()))
        found.append((scores.divergence_M.detach(), scores.logprob_M.detach(), gradients))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
    assert found[0][0].min() > 1e-4
    plain = score(student, batch)
    torch.testing.assert_close(found[0][1], plain.logprob_M.detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(scores.document_M, plain.document_M)


def test_a_padded_head_is_cut_to_the_tokens(model, documents):
    """Rows beyond the tokens take no part: neither model's mass on them, nor their gradient."""
    batch = collate(documents)
    small = live_teacher(model, 200)(batch)
    assert len(small.head.weight_VD) == 200
    sites = trained_sites(model, batch)
    head = head_of(model, 200)
    found = linear_divergence(sites.states_MD, head, sites.targets_M % 200, small, Measure())
    assert found.divergence_N.abs().max() < 1e-6
    (gradient,) = torch.autograd.grad(found.logprob_N.sum(), model.head_weight)
    assert gradient[:200].abs().sum() > 0 and isinstance(small, Live)
    # the head is the embedding too, but only what comes through the head reaches rows nobody reads
    unread = sorted(set(range(200, SIZE)) - set(batch.token_ids_N.tolist()))
    assert gradient[unread].abs().max() == 0


@pytest.fixture
def identities(monkeypatch):
    """What each call of `prepare` keeps its answers under; nobody is asked."""
    found: list[tuple] = []
    monkeypatch.setattr(
        "rung.pipelines.teacher.taught",
        lambda examples, asked, identity, k, folder: found.append((*identity, k)) or (examples, None),
    )
    return found


def test_whatever_changes_a_teachers_numbers_is_part_of_who_it_is(tiny_folder, tmp_path, identities):
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    plain = Distill(model=str(tiny_folder), teacher=str(copy), top_k=4)
    fp32 = SimpleNamespace(dtype=torch.float32, device=torch.device("cpu"))
    asked = [
        (plain, fp32),
        (replace(plain, temperature=2.0), fp32),
        (replace(plain, head_float32=True), fp32),
        (replace(plain, top_k=5), fp32),
        (plain, SimpleNamespace(dtype=torch.bfloat16, device=fp32.device)),
    ]
    same = [(replace(plain, micro_tokens=64, seed=3), fp32), (replace(plain, teacher=str(tiny_folder)), fp32)]
    for settings, subject in [*asked, *same]:
        prepare(settings, subject, [], weights_digest(settings.teacher))
    assert len(set(identities)) == len(asked) and identities[-2] == identities[-1] == identities[0]
    tensors = {name: tensor + 1 for name, tensor in load_file(copy / "model.safetensors").items()}
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    prepare(plain, fp32, [], weights_digest(plain.teacher))  # the same name, other weights
    assert identities[-1] not in identities[:-1]


# ---- a server ----


class Server:
    """/v1/completions with echo, by the model itself; `spoil` changes an answer on its way out."""

    def __init__(self, model, tokenizer, names=None, spoil=lambda said: said):
        self.model, self.names, self.spoil = (
            model,
            names or token_texts(tokenizer, range(len(tokenizer))),
            spoil,
        )

    def __call__(self, path, content):
        ids = content["prompt"]
        assert path == "/completions" and content["max_tokens"] == 0 and content["echo"]
        whole = Example(np.array(ids, np.int32), np.ones(len(ids), bool), "")
        with torch.no_grad():
            said = score(self.model, collate([whole]), top_k=content["logprobs"])
        tops = [None]
        for place, (values, best) in enumerate(
            zip(said.top_logprobs_Mk.tolist(), said.top_ids_Mk.tolist(), strict=True)
        ):
            top = {self.names[id]: value for id, value in zip(reversed(best), reversed(values), strict=True)}
            tops.append(top | {self.names[ids[place + 1]]: said.logprob_M[place].item()})
        logprobs = {
            "tokens": [self.names[id] for id in ids],
            "token_logprobs": [None, *said.logprob_M.tolist()],
            "top_logprobs": tops,
        }
        return self.spoil({"choices": [{"text": "", "logprobs": logprobs}]})


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return load_tokenizer(str(tiny_folder))


def test_a_server_says_what_its_model_says(model, tokenizer, documents):
    teacher = EndpointTeacher(Server(model, tokenizer), "m", tokenizer, "http://there")
    teacher.check(documents[1])
    for example, kept in zip(documents, teacher.top_k(4)(documents), strict=True):
        with torch.no_grad():
            exact = score(model, collate([example]), top_k=SIZE)
        assert len(kept.ids_Nk) == len(exact.logprob_M) and kept.ids_Nk.shape[1] == 5
        table = torch.zeros(len(exact.logprob_M), SIZE).scatter(1, exact.top_ids_Mk, exact.top_logprobs_Mk)
        there = kept.ids_Nk >= 0
        torch.testing.assert_close(
            kept.logprobs_Nk[there], table.gather(1, kept.ids_Nk.clamp(min=0))[there], rtol=1e-5, atol=1e-5
        )
        # what was not named, or by a name that several tokens share, is in the tail
        mass = torch.where(there, kept.logprobs_Nk, -math.inf).exp().sum(1) + kept.tail_N.exp()
        torch.testing.assert_close(mass, torch.ones_like(mass), rtol=1e-5, atol=1e-5)
        assert there[:, 0].all()
        own = collate([example]).token_ids_N[1:][torch.from_numpy(example.trained[1:])]
        assert (kept.ids_Nk == own[:, None]).any(1).all()  # the token itself, also where its name is shared
    ids = documents[3].token_ids.tolist()
    whole = Example(documents[3].token_ids, np.ones(12, bool), "")
    with torch.no_grad():
        exact = score(model, collate([whole])).logprob_M
    np.testing.assert_allclose(teacher.logprobs(ids), exact.numpy(), rtol=1e-5, atol=1e-5)


def test_a_server_is_asked_once_and_gives_its_k_and_the_token_itself(
    model, tokenizer, documents, tmp_path, monkeypatch
):
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "rung.pipelines.teacher.endpoint_teacher",
        lambda url, name, known, first: EndpointTeacher(Server(model, known), name or "m", known, url),
    )
    subject = SimpleNamespace(model=model, tokenizer=tokenizer)
    settings = Distill(teacher="http://there/v1", top_k=4)
    said = []
    for changed in ({}, {"teacher": "http://there/v1/"}, {"teacher_name": "n"}, {"teacher": "http://b/v1"}):
        lesson = prepare(replace(settings, **changed), subject, documents, "")
        assert lesson.teacher(collate(lesson.examples)).ids_Nk.shape[1] == 5 and lesson.size == SIZE
        said.append("found in the cache" in lesson.said)
    assert said == [False, True, False, False]


def test_a_name_that_two_tokens_share_is_left_to_the_tail(model, tokenizer, documents, monkeypatch):
    names = [f"name {id // 2}" for id in range(SIZE)]
    monkeypatch.setattr("rung.sources.teacher_endpoint.token_texts", lambda *_: names)
    teacher = EndpointTeacher(Server(model, tokenizer, names), "m", tokenizer, "http://there")
    for example, kept in zip(documents, teacher.top_k(4)(documents), strict=True):
        assert ((kept.ids_Nk >= 0).sum(1) == 1).all()  # the token itself, known by its id
        own = collate([example]).token_ids_N[1:][torch.from_numpy(example.trained[1:])]
        assert torch.equal(kept.ids_Nk[:, 0], own)


def test_names_as_numbers_are_understood(model, tokenizer, documents):
    """vLLM can be asked to name tokens token_id:N; then nothing is ambiguous."""
    names = [f"token_id:{id}" for id in range(SIZE)]
    teacher = EndpointTeacher(Server(model, tokenizer, names), "m", tokenizer, "http://there")
    teacher.check(documents[1])
    kept = next(teacher.top_k(4)(documents))
    with torch.no_grad():
        exact = score(model, collate(documents[:1]), top_k=4)
    assert torch.equal(kept.ids_Nk[:, :4], exact.top_ids_Mk)


def test_a_server_with_a_permuted_vocabulary_is_refused(model, tokenizer, documents):
    names = token_texts(tokenizer, range(len(tokenizer)))
    letters = [id for id, name in enumerate(names) if name.isascii() and name.isalpha() and len(name) == 1]
    swapped = list(names)
    for one, other in zip(letters, letters[1:] + letters[:1], strict=True):
        swapped[one] = names[other]
    teacher = EndpointTeacher(Server(model, tokenizer, swapped), "m", tokenizer, "http://there")
    word = Example(np.array(letters[:6], np.int32), np.ones(6, bool), "")
    with pytest.raises(UserError, match=f"id {letters[0]} is '{names[letters[0]]}' here and"):
        teacher.check(word)


def without(*parts):
    def spoil(answer):
        said = answer["choices"][0]["logprobs"]
        for part in parts:
            said[part] = None
        return answer

    return spoil


def changed(part, place, value):
    def spoil(answer):
        answer["choices"][0]["logprobs"][part][place] = value
        return answer

    return spoil


def shorter(answer):
    said = answer["choices"][0]["logprobs"]
    return {"choices": [{"logprobs": {name: part[:-1] for name, part in said.items()}}]}


LOST = {
    "no logprobs at all": lambda answer: {"choices": [{"text": "x", "logprobs": None}]},
    "no logprobs": lambda answer: {"choices": []},
    "none token_logprobs for 9": without("token_logprobs"),
    "none top_logprobs for 9": without("top_logprobs"),
    "8 tokens for 9 tokens": shorter,
    "token 4 of 9 has log-prob None": changed("token_logprobs", 4, None),
    "token 8 of 9 has log-prob 0.5": changed("token_logprobs", 8, 0.5),
    "token 2 of 9 has log-prob nan": changed("token_logprobs", 2, math.nan),
    "token 3 of 9 .* alternatives {}": changed("top_logprobs", 3, {}),
}


@pytest.mark.parametrize("said", LOST)
def test_a_server_that_loses_log_probs_stops_the_run_and_leaves_nothing(
    model, tokenizer, documents, tmp_path, said
):
    match = said.replace("no logprobs at all", "no logprobs")
    teacher = EndpointTeacher(Server(model, tokenizer, spoil=LOST[said]), "m", tokenizer, "http://there")
    rows = [documents[1]]
    with pytest.raises(RunStopped, match=f"(?s)http://there .*{match}"):
        taught(rows, lambda: teacher.top_k(3), ["me"], 4, tmp_path)
    with pytest.raises(RunStopped, match="Nothing of it was kept"):
        teacher.check(documents[1])
    assert list(tmp_path.rglob("*")) == []


def test_a_server_that_loses_them_later_leaves_nothing_either(model, tokenizer, documents, tmp_path):
    answers = iter(range(100))
    forgetful = Server(model, tokenizer, spoil=lambda a: a if next(answers) < 3 else {"choices": [{}]})
    teacher = EndpointTeacher(forgetful, "m", tokenizer, "http://there")
    with pytest.raises(RunStopped):
        taught(documents, lambda: teacher.top_k(3), ["me"], 4, tmp_path)
    assert list(tmp_path.rglob("*")) == []
