"""A GGUF file's tokenizer metadata as a Hugging Face fast tokenizer.

Byte-level vocabularies (GPT-2, Llama 3, Qwen, SmolLM) are built here from tokens and merges. How text is cut
into words before merging stands nowhere in the file, only its name (`tokenizer.ggml.pre`), and a wrong cut
gives valid but different ids without any error; so an unknown name is refused. SentencePiece vocabularies
(Llama 2, Mistral, Gemma) are left to transformers, which has one way of cutting for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from rung.errors import UserError

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # tokenizer.ggml.token_type

# The rules that GPT-4 made common; families differ in how many digits stay together.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SINGLE_DIGITS, THREE_DIGITS = WORDS.format(digits=r"\p{N}"), WORDS.format(digits=r"\p{N}{1,3}")

LLAMA3 = ("llama-bpe", "llama3", "llama-v3")  # these also begin every text, and take whole words unmerged
CUTS: dict[str, tuple[str, ...]] = {  # how to cut -> the names that mean it
    "gpt-2 words": ("gpt-2",),
    "single digits, gpt-2 words": ("smollm",),
    SINGLE_DIGITS: ("qwen2",),
    THREE_DIGITS: (*LLAMA3, "dbrx"),  # dbrx: OLMo2
}


def build_tokenizer(metadata: dict[str, Any], file: Path) -> Any:
    """A `PreTrainedTokenizerFast` for the file's metadata, with special tokens and chat template."""
    from transformers import PreTrainedTokenizerFast

    kind = metadata.get("tokenizer.ggml.model")
    if kind == "llama":
        return PreTrainedTokenizerFast.from_pretrained(file.parent, gguf_file=file.name)
    if kind != "gpt2":
        raise UserError(
            f"{file} has a tokenizer of kind {kind!r}; rung reads 'gpt2' (byte-level) and 'llama' "
            "(SentencePiece). Use the model's safetensors release instead"
        )
    parts = [f"tokenizer.ggml.{part}" for part in ("tokens", "token_type", "merges")]
    absent = [part for part in parts if part not in metadata]
    if absent:
        raise UserError(f"{file} carries no whole tokenizer ({', '.join(absent)} missing); convert it anew")
    tokens = metadata["tokenizer.ggml.tokens"]
    named = {
        name: tokens[metadata[f"tokenizer.ggml.{key}_token_id"]]
        for name, key in (
            *(("bos_token", "bos"), ("eos_token", "eos")),
            *(("unk_token", "unknown"), ("pad_token", "padding")),
        )
        if metadata.get(f"tokenizer.ggml.{key}_token_id") is not None
    }
    architecture = metadata["general.architecture"]
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level(metadata, file),
        chat_template=metadata.get("tokenizer.chat_template"),
        model_max_length=metadata[f"{architecture}.context_length"],
        clean_up_tokenization_spaces=False,
        **named,
    )


def byte_level(metadata: dict[str, Any], file: Path) -> Tokenizer:
    """Byte-level BPE from tokens and merges, cut the way the file's pre-tokenizer name says."""
    name = metadata.get("tokenizer.ggml.pre", "")
    cut = next((cut for cut, names in CUTS.items() if name in names), None)
    if cut is None:
        known = ", ".join(sorted(name for names in CUTS.values() for name in names))
        raise UserError(
            f"{file} cuts text by the rule {name!r}, which rung does not know (it knows {known}); guessing "
            "would give wrong token ids. Use the model's safetensors release instead"
        )
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    size = len(tokens)
    while size and types[size - 1] == UNUSED:  # fillers up to the rows of the embedding; no text gives them
        size -= 1
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    vocabulary = {token: index for index, token in enumerate(tokens[:size])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=name in LLAMA3))
    if cut == SINGLE_DIGITS:
        tokenizer.normalizer = normalizers.NFC()  # Qwen composes accents; the others take text as it is
    tokenizer.pre_tokenizer = _pre_tokenizer(cut)
    tokenizer.decoder = decoders.ByteLevel()
    marked = [
        (token, kind) for token, kind in zip(tokens, types, strict=True) if kind in (CONTROL, USER_DEFINED)
    ]
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t, k in marked if k == CONTROL]
    )
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, k in marked if k == USER_DEFINED])
    begin = metadata.get("tokenizer.ggml.bos_token_id")
    if begin is not None and metadata.get("tokenizer.ggml.add_bos_token", name in LLAMA3):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{tokens[begin]} $A",
            pair=f"{tokens[begin]} $A {tokens[begin]} $B:1",
            special_tokens=[(tokens[begin], begin)],
        )
    return tokenizer


def _pre_tokenizer(cut: str) -> pre_tokenizers.PreTokenizer:
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if cut == "gpt-2 words":
        return words
    if cut == "single digits, gpt-2 words":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(cut), behavior="isolated"), spell])
