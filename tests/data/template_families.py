"""Small tokenizers and chat templates that behave as the real families do, without any download.

The templates are written here from the families' published formats. The tokenizers know few words but split
text by the same rules: byte-level BPE (GPT-2's pattern), or SentencePiece's way with `▁` and byte fallback.
`answer` says by hand what the trained text of an answer must be, terminator included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ["hello", "world", "four", "two", "you", "weather", "Paris", "assistant", "user", "tool", "name"]


@dataclass(frozen=True)
class Family:
    name: str
    template: str
    special: tuple[str, ...]
    eos: str
    answer: Callable[[str], str]  # content -> the text that is trained
    bos: str | None = None
    adds_bos: bool = False  # the tokenizer puts bos before plain text
    sentencepiece: bool = False
    modern_split: bool = False  # line breaks stay together and apart from words (Llama 3, Qwen)
    plain_added: tuple[str, ...] = ()  # added tokens that are not special, as Qwen3's <think>


def join(pieces: list[str], vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
    """Merge the pieces of a word from the left, adding what is needed to vocabulary and merges."""
    while len(pieces) > 1:
        merged = pieces[0] + pieces[1]
        if merged not in vocabulary:
            vocabulary[merged] = len(vocabulary)
            merges.append((pieces[0], pieces[1]))
        pieces = [merged, *pieces[2:]]


# Numbers by up to three digits, line breaks as one piece: the pattern of Llama 3 and, nearly, of Qwen.
MODERN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_level(modern_split: bool) -> Tokenizer:
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    # White space merges with itself, as in real vocabularies: that is what makes tokens straddle boundaries.
    for word in [*(" " + word for word in WORDS), *WORDS, "\n\n", "  ", "    "]:
        [(mapped, _)] = pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(word)
        join(list(mapped), vocabulary, merges)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    if modern_split:
        split = pre_tokenizers.Split(Regex(MODERN_SPLIT), "isolated")
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, whole])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentencepiece() -> Tokenizer:
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": byte + 1 for byte in range(256)}
    for letter in ["▁", *map(chr, range(33, 127))]:
        vocabulary[letter] = len(vocabulary)
    merges: list[tuple[str, str]] = []
    for word in [*("▁" + word for word in WORDS), *WORDS, "▁▁", "](", "▁["]:
        join(list(word), vocabulary, merges)
    model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    family = FAMILIES[name]
    backend = sentencepiece() if family.sentencepiece else byte_level(family.modern_split)
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in family.special])
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in family.plain_added])
    if family.adds_bos:
        bos = (family.bos, backend.token_to_id(family.bos))
        backend.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", special_tokens=[bos]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token=family.eos,
        chat_template=family.template,
    )


CHATML = """
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

# The same with the markers that transformers' own mask needs: an independent opinion on ours.
CHATML_MARKED = """
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}{{- message['content'] + '<|im_end|>' }}{%- endgeneration %}
    {%- else %}
        {{- message['content'] + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

SMOLLM2 = (
    """
{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful AI assistant<|im_end|>\\n' }}
{%- endif %}"""
    + CHATML
)

# One bos per exchange; the system text lives inside the first instruction.
LLAMA2 = """
{%- set offset = 1 if messages[0]['role'] == 'system' else 0 %}
{%- for message in messages[offset:] %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' }}
        {%- if offset and loop.first %}
            {{- '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' }}
        {%- endif %}
        {{- message['content'].strip() + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'].strip() + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}"""

LLAMA3 = """
{{- bos_token }}
{%- if tools %}
    {{- '<|start_header_id|>system<|end_header_id|>\\n\\nEnvironment: ipython\\n' }}
    {%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}
    {{- '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {%- set role = 'ipython' if message['role'] == 'tool' else message['role'] %}
    {{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}
    {%- if message.tool_calls %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}<|eot_id|>' }}
    {%- else %}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

# Tools stand before the last user message only, so a longer conversation moves them: history is rewritten.
MISTRAL = """
{%- set offset = 1 if messages[0]['role'] == 'system' else 0 %}
{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}
{%- set said = messages[offset:] | rejectattr('role', 'equalto', 'tool') | rejectattr('tool_calls') | list %}
{%- for message in said %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, roles must alternate user/assistant') }}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in messages[offset:] %}
    {%- if message['role'] == 'user' %}
        {%- if tools and message == users[-1] %}
            {{- '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {%- set system = messages[0]['content'] + '\\n\\n' if offset and loop.first else '' %}
        {{- '[INST] ' + system + message['content'] + '[/INST]' }}
    {%- elif message.tool_calls %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in message.tool_calls %}{{- call.function | tojson }}{%- endfor %}
        {{- ']' + eos_token }}
    {%- elif message['role'] == 'tool' %}
        {{- '[TOOL_RESULTS] ' + {'content': message['content']} | tojson + '[/TOOL_RESULTS]' }}
    {%- else %}
        {{- ' ' + message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}"""

GEMMA = """
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""

# Reasoning before the last question is dropped, an empty block is written where there is none, tool results
# come as user turns, and enable_thinking=False moves the empty block into the generation prompt.
QWEN3 = """
{%- set first_system = messages[0]['role'] == 'system' %}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if first_system %}{{- messages[0]['content'] + '\\n\\n' }}{%- endif %}
    {{- '# Tools\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif first_system %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- endif %}
{%- set last = namespace(question=0) %}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}{%- set last.question = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message['role'] == 'user' or (message['role'] == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
    {%- elif message['role'] == 'assistant' %}
        {%- set content = message['content'] %}
        {%- set reasoning = message.reasoning_content or '' %}
        {%- if not reasoning and '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > last.question and (loop.last or reasoning) %}
            {{- '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if content or not loop.first %}{{- '\\n' }}{%- endif %}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message['role'] == 'tool' %}
        {%- if messages[loop.index0 - 1]['role'] != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message['content'] + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1]['role'] != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

# Without a generation prompt the whole conversation is closed by eos, wherever it stands.
PHI = """
{%- for message in messages %}
    {{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}
{%- endfor %}
{{- '<|assistant|>\\n' if add_generation_prompt else eos_token }}"""

# The role markers are ordinary text here; only eos is a token.
ZEPHYR = """
{%- for message in messages %}
    {{- '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}"""

# After tool results the answer follows at once, without the assistant's marker. Tools are not rendered.
DEEPSEEK = """
{{- bos_token }}
{%- for message in messages if message['role'] == 'system' %}{{- message['content'] }}{%- endfor %}
{%- set after = namespace(tool=false) %}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '<｜User｜>' + message['content'] }}
        {%- set after.tool = false %}
    {%- elif message['role'] == 'tool' %}
        {{- '<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>' }}
        {%- set after.tool = true %}
    {%- elif message.tool_calls %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<｜Assistant｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>' + call.name + '\\n```json\\n' }}
        {{- call.arguments | tojson + '\\n```<｜tool▁call▁end｜>' + eos_token }}
    {%- elif message['role'] == 'assistant' %}
        {{- ('' if after.tool else '<｜Assistant｜>') + message['content'] + eos_token }}
        {%- set after.tool = false %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt and not after.tool %}{{- '<｜Assistant｜>' }}{%- endif %}"""

IM = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
LLAMA3_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
MISTRAL_SPECIAL = (
    *("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
)
DEEPSEEK_SPECIAL = (
    *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
    *("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    *("<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
)
THINK = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")


def chatml_answer(content: str) -> str:
    return content + "<|im_end|>"


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("chatml", CHATML, IM, "<|im_end|>", chatml_answer),
        Family("chatml_marked", CHATML_MARKED, IM, "<|im_end|>", chatml_answer),
        Family("smollm2", SMOLLM2, IM, "<|im_end|>", chatml_answer, bos="<|im_start|>"),
        Family(
            "llama2",
            LLAMA2,
            ("<s>", "</s>"),
            "</s>",
            lambda content: f" {content.strip()} </s>",
            bos="<s>",
            adds_bos=True,
            sentencepiece=True,
        ),
        Family(
            "llama3",
            LLAMA3,
            LLAMA3_SPECIAL,
            "<|end_of_text|>",
            lambda content: content.strip() + "<|eot_id|>",
            bos="<|begin_of_text|>",
            adds_bos=True,
            modern_split=True,
        ),
        Family(
            "mistral",
            MISTRAL,
            MISTRAL_SPECIAL,
            "</s>",
            lambda content: f"  {content}</s>",  # the tokenizer adds its own space after [/INST]
            bos="<s>",
            adds_bos=True,
            sentencepiece=True,
        ),
        Family(
            "gemma",
            GEMMA,
            ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
            "<eos>",
            lambda content: content.strip() + "<end_of_turn>",
            bos="<bos>",
            adds_bos=True,
        ),
        Family(
            "qwen3",
            QWEN3,
            IM,
            "<|im_end|>",
            lambda c: c.lstrip("\n") + "<|im_end|>",
            plain_added=THINK,
            modern_split=True,
        ),
        Family(
            "phi",
            PHI,
            ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>", "<|endoftext|>"),
            "<|endoftext|>",
            lambda content: content + "<|end|>",
        ),
        Family(
            "zephyr", ZEPHYR, ("<s>", "</s>"), "</s>", lambda c: c + "</s>", bos="<s>", sentencepiece=True
        ),
        Family(
            "deepseek",
            DEEPSEEK,
            DEEPSEEK_SPECIAL,
            "<｜end▁of▁sentence｜>",
            lambda content: content + "<｜end▁of▁sentence｜>",
            bos="<｜begin▁of▁sentence｜>",
            adds_bos=True,
        ),
    )
}
GOLDEN = sorted(set(FAMILIES) - {"chatml_marked"})
