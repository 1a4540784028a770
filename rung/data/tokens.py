"""The one owner of special tokens: what begins a text, what ends it, what stops a model, how text is encoded.

Chats take their special tokens from the template; plain text takes them from here. A document has exactly one
beginning token if its tokenizer (for text) or its template (for chats) uses one, and none otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import jinja2
from transformers import PreTrainedTokenizerBase as Tokenizer

from rung.errors import UserError

PROBE = "sentinel"  # an answer no template treats specially


@dataclass(frozen=True)
class TokenPolicy:
    """Special tokens of one tokenizer and its template. Build it with `token_policy`."""

    bos_id: int | None
    eos_id: int | None  # ends plain text
    stop_ids: tuple[int, ...]  # everything that ends a turn or a text: generation stops at any of them
    special_ids: frozenset[int]
    text_has_bos: bool  # the tokenizer puts bos before plain text
    chat_has_bos: bool  # the template writes bos

    def begin(self, ids: list[int]) -> list[int]:
        """Plain text with its one bos, also when the text already brought it."""
        if self.text_has_bos and ids[:1] != [self.bos_id]:
            assert self.bos_id is not None
            return [self.bos_id, *ids]
        return ids

    def end(self, ids: list[int], origin: str) -> list[int]:
        """Plain text with its one eos, so that a model learns to stop."""
        if self.eos_id is None:
            raise UserError(
                f"{origin}: the tokenizer names no eos_token, so nothing can teach the model to stop. "
                "Set eos_token in its tokenizer_config.json."
            )
        return ids if ids[-1:] == [self.eos_id] else [*ids, self.eos_id]

    def check_beginning(self, ids: Sequence[int], wanted: bool, origin: str) -> None:
        """Exactly one bos in front when one is used. Templates may write it again before later turns."""
        if self.bos_id is None:
            return
        leading = next((n for n, token in enumerate(ids) if token != self.bos_id), len(ids))
        if leading != int(wanted):
            raise UserError(
                f"{origin}: begins with {leading} beginning-of-text tokens (id {self.bos_id}) where "
                f"{int(wanted)} is right. Remove the token from the text or from the chat template."
            )


def token_policy(tokenizer: Tokenizer, generation_config: dict | None = None) -> TokenPolicy:
    """Ask the tokenizer, the generation config and, by rendering a probe, the chat template."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    added = tokenizer.added_tokens_decoder
    special = frozenset(tokenizer.all_special_ids) | {id for id, token in added.items() if token.special}
    turn_end, chat_has_bos = probe_template(tokenizer, special | set(added))
    configured = (generation_config or {}).get("eos_token_id")
    configured = configured if isinstance(configured, list) else [configured]
    stops = [id for id in (eos, *configured, turn_end) if id is not None]
    return TokenPolicy(
        bos_id=bos,
        eos_id=eos,
        stop_ids=tuple(dict.fromkeys(stops)),
        special_ids=special,
        text_has_bos=bos is not None and tokenizer(PROBE)["input_ids"][:1] == [bos],
        chat_has_bos=chat_has_bos,
    )


def probe_template(tokenizer: Tokenizer, candidates: frozenset[int] | set[int]) -> tuple[int | None, bool]:
    """The token a template writes after an answer, and whether a chat begins with bos."""
    if not tokenizer.chat_template:
        return None, False
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": PROBE}]
    try:  # the template is the user's code
        text = str(tokenizer.apply_chat_template(chat, tokenize=False))
    except (jinja2.TemplateError, TypeError, ValueError, KeyError):
        return None, False
    begins = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    _, found, after = text.rpartition(PROBE)
    ids = encode(tokenizer, [after])[0] if found else []
    return next((id for id in ids if id in candidates), None), begins


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text and nothing else: no bos, no eos, no truncation."""
    if not texts:
        return []
    return tokenizer(
        list(texts),
        add_special_tokens=False,
        truncation=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]


def encode_chats(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The same ids as `encode`, with every stretch between special tokens encoded once.

    The beginnings of a conversation repeat each other, and a tokenizer cuts at special tokens before
    anything else, so n turns cost n stretches and not n whole conversations. Tokens that swallow white space
    around them do not count as cuts, and a tokenizer that treats the start of a text in its own way gets
    whole texts.
    """
    cuts = {
        token.content: id
        for id, token in tokenizer.added_tokens_decoder.items()
        if token.special and not (token.lstrip or token.rstrip or token.single_word or token.normalized)
    }
    others = [token.content for token in tokenizer.added_tokens_decoder.values() if token.content not in cuts]
    if not texts or not cuts or any(cut in other for cut in cuts for other in others):
        return encode(tokenizer, texts)
    mark, mark_id = next(iter(cuts.items()))
    alone, after, before = encode(tokenizer, ["x y", mark + "x y", "x y" + mark])
    if after != [mark_id, *alone] or before != [*alone, mark_id]:
        return encode(tokenizer, texts)
    longest_first = sorted(cuts, key=len, reverse=True)
    pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
    split = [[stretch for stretch in pattern.split(text) if stretch] for text in texts]
    stretches = list({stretch for parts in split for stretch in parts if stretch not in cuts})
    ids_of = dict(zip(stretches, encode(tokenizer, stretches), strict=True))
    ids_of |= {token: [id] for token, id in cuts.items()}
    return [list(chain.from_iterable(ids_of[stretch] for stretch in parts)) for parts in split]


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of some tokens, special ones shown and white space untouched."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text of each token in mid-text. Alone, some tokenizers would drop the space a token begins with."""
    [anchor] = encode(tokenizer, ["x"])
    before = decode(tokenizer, anchor)
    return [decode(tokenizer, [*anchor, token]).removeprefix(before) for token in ids]


def encode_continuations(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts that continue another text.

    Some tokenizers put a space before whatever they encode, which is wrong in mid-text. They are fed a
    newline first, whose tokens are cut off again.
    """
    anchor, plain, anchored = encode(tokenizer, ["\n", "x", "\nx"])
    if anchored == [*anchor, *plain]:
        return encode(tokenizer, texts)
    encoded = encode(tokenizer, ["\n" + text for text in texts])
    alone = encode(tokenizer, texts)
    return [
        ids[len(anchor) :] if ids[: len(anchor)] == anchor else fallback
        for ids, fallback in zip(encoded, alone, strict=True)
    ]
