"""A model on this machine answers as it does elsewhere: greedy text, log-probs of options, what cannot be asked."""

import numpy as np
import pytest
import torch

from rung.pipelines import asking_local
from rung.pipelines.asking_local import LocalModel
from rung.rewards.asking import Budget, Ledger, Question, Reply, user


@pytest.fixture(scope="module")
def local(tiny_folder):
    torch.set_num_threads(1)
    return LocalModel(str(tiny_folder), slots=2, precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def theirs(tiny_folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(tiny_folder), AutoTokenizer.from_pretrained(tiny_folder)


def test_answers_are_the_models_own_and_stand_in_order(local, theirs):
    model, tokenizer = theirs
    texts = [f"say {i}" for i in range(7)]  # more than twice the slots
    replies = Ledger(local).ask([Question((user(text),), 5) for text in texts])
    for text, reply in zip(texts, replies, strict=True):
        ids = tokenizer.apply_chat_template([user(text)], add_generation_prompt=True, return_dict=False)
        with torch.no_grad():
            whole = model.generate(torch.tensor([ids]), max_new_tokens=5, do_sample=False, pad_token_id=0)[0]
        assert reply.text == tokenizer.decode(whole[len(ids) :], skip_special_tokens=True)
        assert (reply.read, reply.written) == (len(ids), len(whole) - len(ids))


def test_options_have_the_models_own_log_probs(local, theirs, monkeypatch):
    monkeypatch.setattr(asking_local, "TOP", 260)  # all there are
    model, tokenizer = theirs
    [reply] = Ledger(local).ask([Question((user("A or B?"),), 1, options=("A", "B"))])
    ids = tokenizer.apply_chat_template([user("A or B?")], add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        logprob = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1].double(), -1)
    for letter in "AB":  # a byte tokenizer has a capital and a small one
        spelt = [tokenizer.convert_tokens_to_ids(each) for each in (letter, letter.lower())]
        expected = np.logaddexp(*(logprob[i].item() for i in spelt))
        assert reply.logprobs[letter] == pytest.approx(expected, abs=1e-4)


def test_what_is_too_long_is_unanswered_alone_and_other_weights_have_another_name(local, tiny_folder):
    found = Ledger(local).ask([Question((user("x" * 300),), 5), Question((user("short"),), 5)])
    assert not found[0].again and "reads 256" in found[0].reason and isinstance(found[1], Reply)
    assert local.name.startswith(str(tiny_folder)) and len(local.name.split()[-1]) == 16
    [cut] = Ledger(local).ask([Question((user("x" * 200),), 500)])
    assert cut.read + cut.written <= 256


def test_the_budget_holds_here_too(local):
    found = Ledger(local, budget=Budget(calls=2)).ask([Question((user(f"q{i}"),), 2) for i in range(5)])
    assert [isinstance(each, Reply) for each in found] == [True, True, False, False, False]


def test_an_interruption_leaves_nothing_in_the_sampler(local):
    def interrupted(which, answer):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        local.answer([Question((user(f"q{i}"),), 3 + i) for i in range(6)], interrupted, lambda: "")
    assert not local.sampler.busy
    assert isinstance(Ledger(local).ask([Question((user("again"),), 2)])[0], Reply)
