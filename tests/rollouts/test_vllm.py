"""vLLM's sampler and the worker's protocol, over a backend that needs no vLLM."""

import copy
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import rung.rollouts.vllm as vllm
from rung.errors import UserError
from rung.models.fingerprint import fingerprint
from rung.models.load import load_model
from rung.models.lora import adapted_layers, add_adapter, merge_adapter
from rung.rollouts.request import Sampling
from rung.rollouts.vllm import VllmSampler, memory_file, weights_of, write_tensors
from rung.rollouts.vllm_process import WorkerFailed
from rung.settings import Lora

# A model whose next token is the last one plus its first weight. A prompt with token 90 breaks it.
FAKE = """
import sys, time
sys.path.insert(0, {folder!r})
import serve
serve.TURN_SECONDS = 0.05

class Fake:
    tied = False
    facts = dict(vllm="none", torch="none", context=64, vocabulary=97, eos=2, tokenizer=False)
    def __init__(self, settings):
        self.tensors = serve.cast(serve.read(settings["model"] + "/model.safetensors"), settings["dtype"])
        self.rows = {{}}
    busy = property(lambda self: bool(self.rows))
    def submit(self, request):
        if 90 in request["prompt"]:
            raise ValueError("token 90")
        self.rows[request["id"]] = request
    def abort(self, one): self.rows.pop(one, None)
    def step(self):
        print("noise")
        step = int(self.tensors["weight"].flatten()[0])
        for one, request in list(self.rows.items()):
            if 91 in request["prompt"]:
                continue  # never ends
            del self.rows[one]
            tokens = [(request["prompt"][-1] + step * i) % 97 for i in range(1, request["options"]["max_tokens"] + 1)]
            numbers = [-float(i) for i in range(len(tokens))]
            top = [([t] * request["top"], [-0.5] * request["top"]) for t in tokens]
            return [dict(id=one, token_ids=tokens, sampler_logprob=numbers, policy_logprob=[n - 1 for n in numbers],
                         finish="length", top=top)]
        time.sleep(0.01)
        return []
    def load(self, tensors):
        if tensors["weight"].isnan().any():
            raise ValueError("not a number")
        self.tensors = tensors

serve.main(Fake)
"""


def counting(step: float) -> torch.nn.Linear:
    model = torch.nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.fill_(step)
        model.bias.fill_(0.5)
    return model


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("counting")
    (folder / "config.json").write_text("{}")
    save_file(dict(counting(1).state_dict()), folder / "model.safetensors")
    script = folder / "fake.py"
    script.write_text(FAKE.format(folder=str(vllm.WORKER.parent)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm, "WORKER", script)
        sampler = VllmSampler(folder, python=sys.executable, dtype=torch.float32, seconds=60)
    with sampler:
        yield sampler


@pytest.fixture
def sampler(counter):
    counter.push(counting(1), 0)
    return counter


def test_answers_come_in_the_order_of_the_prompts_with_their_numbers(sampler):
    groups = sampler.generate([[5], [20, 30]], Sampling(max_tokens=3, top_logprobs=2), n=2)
    assert [[one.token_ids for one in group] for group in groups] == [[[6, 7, 8]] * 2, [[31, 32, 33]] * 2]
    one = groups[1][1]
    assert one.prompt_ids == (20, 30) and one.finish == "length"
    assert one.sampler_logprob == [0, -1, -2] and one.policy_logprob == [-1, -2, -3]
    assert one.top == [([t, t], [-0.5, -0.5]) for t in (31, 32, 33)]
    assert len({one.sampling.seed for group in groups for one in group}) == 4
    assert one.version == [0, 0, 0] and one.digest == fingerprint(counting(1))
    assert not sampler.busy


def test_a_greedy_token_was_certain(sampler):
    [[one]] = sampler.generate([[5]], Sampling(max_tokens=2, temperature=0))
    assert one.sampler_logprob == [0.0, 0.0] and one.policy_logprob == [-1, -2]


def test_a_push_changes_weights_version_and_digest(sampler):
    sampler.push(counting(4), 3)
    [[one]] = sampler.generate([[5]], Sampling(max_tokens=2))
    assert (one.token_ids, one.version, one.digest) == ([9, 13], [3, 3], fingerprint(counting(4)))
    sampler.push(counting(2), 4, digest="the trainer's own")
    [[one]] = sampler.generate([[5]], Sampling(max_tokens=1))
    assert (one.token_ids, one.version, one.digest) == ([7], [4], "the trainer's own")


def push_by_hand(sampler, tensors, digest):
    with memory_file() as file:
        write_tensors(file, tensors)
        return sampler.process.ask("push", file=file, version=9, digest=digest, abort=[])


def test_weights_that_did_not_arrive_as_sent_are_refused_and_the_old_ones_stay(sampler):
    tensors = weights_of(counting(7), torch.float32)
    sent = fingerprint(counting(7))
    tensors["weight"][1, 2] += 2e-6
    with pytest.raises(UserError, match=f"the weights that arrived have digest [0-9a-f]{{16}}, not {sent}"):
        push_by_hand(sampler, tensors, sent)
    assert sampler.generate([[5]], Sampling(max_tokens=1))[0][0].token_ids == [6]


def test_another_models_weights_are_refused(sampler):
    with pytest.raises(UserError, match="1 names are on one side only, such as bias"):
        sampler.push(torch.nn.Linear(3, 2, bias=False), 1)
    assert sampler.version == 0
    assert sampler.generate([[5]], Sampling(max_tokens=1))[0][0].token_ids == [6]


def test_after_half_a_push_nothing_is_sampled(sampler):
    with pytest.raises(WorkerFailed, match="not a number"):
        sampler.push(counting(float("nan")), 1)
    with pytest.raises(UserError, match="holds weights \\(version, digest\\) None"):
        sampler.generate([[5]], Sampling(max_tokens=1))
    assert not sampler.busy
    sampler.push(counting(1), 2)
    assert sampler.generate([[5]], Sampling(max_tokens=1))[0][0].version == [2]


@pytest.mark.parametrize("what", ["version", "weights_digest"])
def test_a_worker_with_other_weights_refuses(sampler, monkeypatch, what):
    monkeypatch.setattr(sampler, what, "another")
    with pytest.raises(UserError, match=r"'another'.* were asked for"):
        sampler.generate([[5]], Sampling(max_tokens=1))


def test_no_push_while_answers_are_in_flight(sampler):
    endless = sampler.submit([91], Sampling(max_tokens=1), key="endless")
    with pytest.raises(UserError, match="before a push"):
        sampler.push(counting(2), 1)
    assert sampler.step() == [] and sampler.busy
    with pytest.raises(UserError, match="before the weights change"):
        push_by_hand(sampler, weights_of(counting(2), torch.float32), fingerprint(counting(2)))
    brief = sampler.submit([5], Sampling(max_tokens=1))
    assert sampler.step() == [brief] and brief.finish == "length" and sampler.busy
    sampler.abort(endless)
    assert endless.finish == "abort" and endless.key == "endless" and not sampler.busy
    sampler.push(counting(2), 1)


def test_equal_requests_are_told_apart(sampler):
    first, second = (sampler.submit([91], Sampling(max_tokens=1)) for _ in range(2))
    sampler.abort(second)
    assert (first.finish, second.finish) == ("", "abort") and sampler.busy
    sampler.step()
    sampler.abort(first)


def test_an_exception_ends_what_was_in_flight_and_no_more(sampler):
    waiting = sampler.submit([91], Sampling(max_tokens=1))
    with pytest.raises(WorkerFailed, match=r"ValueError: token 90\nIts last words:\n(.|\n)*token 90"):
        sampler.generate([[5], [90]], Sampling(max_tokens=1))
    assert waiting.finish == "abort" and not sampler.busy
    assert sampler.generate([[5]], Sampling(max_tokens=1))[0][0].token_ids == [6]


def test_an_impossible_request_is_refused_before_anything_is_asked(sampler):
    for prompt, sampling in [
        ([5] * 60, Sampling(max_tokens=4)),  # one token of the 64 is kept
        ([], Sampling(max_tokens=1)),
        ([97], Sampling(max_tokens=1)),
        ([5], Sampling(max_tokens=1, entropy=True)),
        ([5], Sampling(max_tokens=1, stop_strings=("x",))),
    ]:
        with pytest.raises(UserError):
            sampler.generate([[5], prompt], sampling)
        for one in sampler.waiting[:]:
            sampler.abort(one)
    sampler.generate([[5] * 60], Sampling(max_tokens=3))


def test_tensors_are_written_as_safetensors_reads_them(tmp_path):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        tensors = {"a": torch.randn(3, 5), "b.c": torch.randn(7), "odd": torch.randn(1, 1, 3)}
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        write_tensors(str(tmp_path / "file"), tensors)
        read = load_file(tmp_path / "file")
        assert {name: tensor.dtype for name, tensor in read.items()} == dict.fromkeys(tensors, dtype)
        assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_what_is_pushed_is_the_checkpoint_with_adapters_merged(tiny_folder):
    model = load_model(tiny_folder)
    plain = weights_of(model, torch.float32)
    assert plain.keys() == load_file(tiny_folder / "model.safetensors").keys()
    assert fingerprint(vllm._named(plain)) == fingerprint(model)
    assert {t.dtype for t in weights_of(model, torch.bfloat16).values()} == {torch.bfloat16}
    add_adapter(model, Lora(rank=2, alpha=8))
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            layer.lora_B.normal_()
    merged = copy.deepcopy(model)
    merge_adapter(merged)
    pushed = weights_of(model, torch.float32)
    assert fingerprint(vllm._named(pushed)) == fingerprint(merged)
    assert fingerprint(vllm._named(pushed)) != fingerprint(vllm._named(plain))


def test_where_vllm_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="There is no Python at /no/python"):
        vllm.find_python("/no/python")
    monkeypatch.setattr(vllm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"vLLM is neither installed here nor in \.venv-vllm"):
        vllm.find_python(None)
    usual = tmp_path / ".venv-vllm" / "bin" / "python"
    usual.parent.mkdir(parents=True)
    usual.symlink_to(sys.executable)
    assert vllm.find_python(None) == str(usual)  # the link itself: it is what makes it that environment
