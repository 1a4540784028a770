"""Special tokens: one bos, one eos, and every token that ends a turn among the stop tokens."""

from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from template_families import FAMILIES, tokenizer_of
from tokenizers import AddedToken, pre_tokenizers

from rung.data.tokens import decode, encode, encode_chats, encode_continuations, token_policy, token_texts
from rung.errors import UserError


def stops(family, generation_config=None):
    tokenizer = tokenizer_of(family)
    return tokenizer.convert_ids_to_tokens(list(token_policy(tokenizer, generation_config).stop_ids))


def test_stop_tokens_include_the_templates_own():
    assert stops("chatml") == ["<|im_end|>"]
    assert stops("llama3") == ["<|end_of_text|>", "<|eot_id|>"]
    assert stops("gemma") == ["<eos>", "<end_of_turn>"]
    assert stops("phi") == ["<|endoftext|>", "<|end|>"]


def test_stop_tokens_include_the_generation_configs():
    start = tokenizer_of("llama3").convert_tokens_to_ids("<|start_header_id|>")
    assert stops("llama3", {"eos_token_id": [start]}) == [
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|eot_id|>",
    ]
    assert stops("chatml", {"eos_token_id": tokenizer_of("chatml").eos_token_id}) == ["<|im_end|>"]


def test_who_writes_bos():
    for family, text, chat in (("llama3", True, True), ("zephyr", False, False), ("smollm2", False, True)):
        policy = token_policy(tokenizer_of(family))
        assert (policy.text_has_bos, policy.chat_has_bos) == (text, chat)


def test_bos_and_eos_are_never_doubled():
    policy = token_policy(tokenizer_of("llama3"))
    bos, eos = policy.bos_id, policy.eos_id
    assert policy.begin([5, 6]) == policy.begin([bos, 5, 6]) == [bos, 5, 6]
    assert policy.end([5], "x") == policy.end([5, eos], "x") == [5, eos]
    policy.check_beginning([bos, 5, bos], True, "x")
    for ids, wanted in (([bos, bos, 5], True), ([5], True), ([bos, 5], False), ([bos, bos], True)):
        with pytest.raises(UserError, match="beginning-of-text"):
            policy.check_beginning(ids, wanted, "x")
    assert token_policy(tokenizer_of("zephyr")).begin([5]) == [5]


def test_a_tokenizer_without_eos_is_refused():
    tokenizer = deepcopy(tokenizer_of("chatml"))
    tokenizer.eos_token = None
    with pytest.raises(UserError, match=r"t.jsonl:4.*eos_token"):
        token_policy(tokenizer).end([5], "t.jsonl:4")


@pytest.mark.parametrize("family", ["llama2", "chatml"])
@pytest.mark.parametrize("text", ["four", " four", "\nfour", "\n\nfour", "(x)"])
def test_a_continuation_adds_no_space(family, text):
    tokenizer = tokenizer_of(family)
    [before], [after] = encode(tokenizer, ["hello"]), encode_continuations(tokenizer, [text])
    assert decode(tokenizer, before + after) == "hello" + text


def test_token_texts_keep_leading_spaces():
    tokenizer = tokenizer_of("llama2")
    [ids] = encode(tokenizer, ["hello world"])
    assert "".join(token_texts(tokenizer, ids)) == " hello world"


def changed(family, change):
    tokenizer = deepcopy(tokenizer_of(family))
    change(tokenizer)
    return tokenizer


def space_before_the_first_word_only(tokenizer):
    tokenizer.backend_tokenizer.normalizer = None
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")


def tokens_that_swallow_space(tokenizer):
    names = ("[user]", "[end]")
    tokens = [AddedToken(name, special=True, rstrip=True, lstrip=True, normalized=False) for name in names]
    tokenizer.add_tokens(tokens, special_tokens=True)


def tokens_that_contain_others(tokenizer):
    tokenizer.add_tokens([AddedToken("<|user|>!", special=False, normalized=False)])


TOKENIZERS = {
    **{family: tokenizer_of(family) for family in FAMILIES},
    "first word": changed("llama2", space_before_the_first_word_only),
    "swallowing": changed("phi", tokens_that_swallow_space),
    "nested": changed("phi", tokens_that_contain_others),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_encoding_stretch_by_stretch_is_encoding_whole(name, data):
    tokenizer = TOKENIZERS[name]
    added = list(tokenizer.get_added_vocab())
    fragments = st.sampled_from(
        [*added, "hello", " world", "\n", "\n\n", " ", "  ", "é", "<", "|>", "s>", "["]
    )
    texts = data.draw(st.lists(st.lists(fragments, max_size=8).map("".join), max_size=4))
    assert encode_chats(tokenizer, texts) == encode(tokenizer, texts)


def test_special_cases_are_real():
    """These tokenizers do differ in the way that matters, or the test would test nothing."""
    first = TOKENIZERS["first word"]
    [alone, after] = encode(first, ["x", "</s>x"])
    assert after[1:] != alone
    swallowing = TOKENIZERS["swallowing"]
    assert decode(swallowing, encode(swallowing, ["x  [end]  x"])[0]) == "x[end]x"
