"""Text while it comes, judged by the text of all tokens at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.models.hub import load_tokenizer
from rung.rollouts.detokenise import GARBAGE, Cutter, Detokeniser, TokenNames, raw_bytes


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return load_tokenizer(str(tiny_folder))


def ids_of(tokenizer, raw: bytes) -> list[int]:
    """The byte tokenizer's ids: its alphabet is GPT-2's, sorted, behind four special tokens."""
    from rung.rollouts.detokenise import BYTE_OF

    letters = {byte: letter for letter, byte in BYTE_OF.items()}
    return [tokenizer.convert_tokens_to_ids(letters[byte]) for byte in raw]


@given(data=st.data(), raw=st.one_of(st.binary(max_size=GARBAGE), st.text(max_size=40).map(str.encode)))
def test_pieces_add_up_to_the_whole_and_hold_no_half_character(tokenizer, data, raw):
    ids = ids_of(tokenizer, raw)
    stream, pieces, start = Detokeniser(tokenizer), [], 0
    while start < len(ids):
        size = data.draw(st.integers(1, 3))
        pieces.append(stream.push(ids[start : start + size]))
        start += size
    end = stream.end()
    assert "".join([*pieces, end]) == raw.decode(errors="replace")
    assert not any(piece.endswith("\ufffd") for piece in pieces)
    assert stream.end() == ""


def test_an_emoji_comes_with_its_last_byte(tokenizer):
    stream = Detokeniser(tokenizer)
    assert [stream.push([id]) for id in ids_of(tokenizer, "a😀b".encode())] == ["a", "", "", "", "😀", "b"]


def test_special_tokens_are_text_only_when_asked_for(tokenizer):
    ids = [3, *ids_of(tokenizer, b"x"), 2]
    assert Detokeniser(tokenizer).push(ids) == "x"
    assert Detokeniser(tokenizer, special=True).push(ids) == "<|im_start|>x<|im_end|>"


def test_endless_garbage_comes_out_and_a_character_behind_it_is_whole(tokenizer):
    stream = Detokeniser(tokenizer)
    garbage = [stream.push([id]) for id in ids_of(tokenizer, b"\xff" * (GARBAGE + 3))]
    assert garbage[:GARBAGE] == [""] * GARBAGE, "it might have become something"
    assert "".join(garbage).count("\ufffd") == GARBAGE + 1 - 3
    rest = [stream.push([id]) for id in ids_of(tokenizer, "😀!".encode())]
    assert "".join(rest) == "\ufffd" * 5 + "😀!"


@given(
    data=st.data(),
    text=st.text("ab<", max_size=30),
    stops=st.lists(st.text("ab<", min_size=1, max_size=4), max_size=3),
)
def test_a_cutter_gives_what_stands_before_the_first_string(data, text, stops):
    cutter, given_out, start = Cutter(stops), "", 0
    while start < len(text):
        size = data.draw(st.integers(1, 4))
        given_out += cutter.push(text[start : start + size])
        start += size
        assert text.startswith(given_out)
        if not cutter.found:  # held back: no more than might become a stop string
            held = text[len(given_out) : start]
            assert not held or any(stop.startswith(held) for stop in stops)
    # Whole text read at once: where the earliest of them is complete first, nothing of it is shown.
    ends = {text.find(stop) + len(stop): stop for stop in stops if stop in text}
    if not ends:
        assert given_out + cutter.end() == text and not cutter.found
    else:
        assert cutter.found in text and not any(stop in given_out for stop in stops)
        assert text[len(given_out) :].startswith(cutter.found) and cutter.end() == ""


def test_the_longer_of_two_strings_at_one_place_and_the_earlier_of_two_places():
    for stops, rest in (((("bc", "b")), "a"), (("d", "c"), "ab")):
        cutter = Cutter(stops)
        assert cutter.push("abcd") == rest
    assert cutter.found == "c" and cutter.held == "cd"


def test_names_of_tokens(tokenizer):
    names = TokenNames(tokenizer)
    e_acute = ids_of(tokenizer, "é".encode())
    assert [names[id] for id in e_acute] == [("bytes:\\xc3", b"\xc3"), ("bytes:\\xa9", b"\xa9")]
    assert [names[id].letters for id in e_acute] == [1, 0]
    [space] = ids_of(tokenizer, b" ")
    assert names[space] == (" ", b" ")
    assert names[2].text == "<|im_end|>"
    assert raw_bytes("<0xE2>") == b"\xe2" and raw_bytes("é€") is None
