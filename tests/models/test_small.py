"""A small model's tokenizer: characters, and the phrases that are a token each."""

from transformers import AutoTokenizer

from rung.models.load import load_model
from rung.models.small import write_small_model

PHRASES = ["Reverse (a -> b): ", "Reverse", "$x^"]


def tokens_of(folder, text) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    return [tokenizer.decode([i]) for i in ids]


def test_a_phrase_is_one_token_the_longest_first_and_no_pattern(tmp_path):
    letters = "".join(sorted(set("".join(PHRASES) + "xyz.")))
    folder = write_small_model(
        tmp_path / "m", letters, layers=1, width=8, heads=2, phrases=[*PHRASES[1:], PHRASES[0]]
    )
    assert tokens_of(folder, "Reverse (a -> b): xz") == ["Reverse (a -> b): ", "x", "z"]
    assert tokens_of(folder, "Reverse xy") == ["Reverse", " ", "x", "y"]
    assert tokens_of(folder, "$x^z$x") == ["$x^", "z", "$", "x"]
    assert load_model(folder).config.vocabulary == 2 + 1 + len(letters) + 3  # pad, end, a line break


def test_without_phrases_every_character_is_a_token(tmp_path):
    folder = write_small_model(tmp_path / "m", "ab.\n", layers=1, width=8, heads=2)
    assert tokens_of(folder, "a.b\n") == ["a", ".", "b", "\n"]
    assert load_model(folder).config.vocabulary == 2 + 4
