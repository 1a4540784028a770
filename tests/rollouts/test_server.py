"""The server asked by OpenAI's own client, its words judged by the engine and by transformers."""

import asyncio
import json
import threading
from pathlib import Path

import httpx2 as httpx
import openai
import pytest
import torch
from server_case import NAME, Script, peaked, serving, until
from test_detokenise import ids_of
from transformers import AutoModelForCausalLM

from rung.models.fallback import TransformersDecoder
from rung.models.folder import read_config
from rung.models.hub import load_tokenizer
from rung.models.load import load_model
from rung.rollouts.engine import Engine
from rung.rollouts.hf import HfSampler
from rung.rollouts.request import Sampling
from rung.rollouts.worker import Worker

CHAT = [{"role": "user", "content": "say something"}]
STOP_IDS = (2,)


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory) -> Path:
    return peaked(tiny_folder, tmp_path_factory.mktemp("peaked"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(str(folder))


@pytest.fixture(scope="module")
def engine(folder, tokenizer):
    """The judge: another engine over the same weights, asked directly."""
    return Engine(load_model(str(folder)), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def served(folder):
    with serving(folder, max_body_bytes=20_000) as (url, served, _):
        yield url, served


@pytest.fixture(scope="module")
def client(served):
    return openai.OpenAI(base_url=served[0] + "/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def script(folder, tokenizer):
    """A server whose model writes `text`, a byte a token, then the token that ends a turn."""
    servers = []

    def start(text="", **options):
        raw = text if isinstance(text, bytes) else text.encode()
        seconds = options.pop("seconds", 0.0)
        steps = Script(load_model(str(folder)), [*ids_of(tokenizer, raw), *STOP_IDS], seconds)
        servers.append(serving(folder, steps, **options))
        url, served, server = servers[-1].__enter__()
        client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=60)
        return client, steps, served, server

    yield start
    for server in servers:
        server.__exit__(None, None, None)


def chat_ids(tokenizer, messages=CHAT):
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


def text_of(tokenizer, completion):
    return tokenizer.decode(completion.token_ids, skip_special_tokens=True)


# ---- what is answered ----


def test_a_chat_is_the_engines_answer(client, engine, tokenizer):
    prompt = chat_ids(tokenizer)
    for options in ({"temperature": 0}, {"temperature": 0.9, "top_p": 0.8, "seed": 5}):
        [expected] = engine.generate([prompt], Sampling(max_tokens=20, stop_ids=STOP_IDS, **options), n=3)
        found = client.chat.completions.create(
            model=NAME, messages=CHAT, max_completion_tokens=20, n=3, **options
        )
        assert [c.message.content for c in found.choices] == [text_of(tokenizer, c) for c in expected]
        assert [c.finish_reason for c in found.choices] == [c.finish for c in expected]
        assert [c.index for c in found.choices] == [0, 1, 2]
        written = sum(len(c.token_ids) for c in expected)
        assert found.usage.prompt_tokens == len(prompt)
        assert (found.usage.completion_tokens, found.usage.total_tokens) == (written, len(prompt) + written)
        assert found.id.startswith("chatcmpl-") and found.model == NAME and found.object == "chat.completion"


def test_a_stream_says_the_same_and_ends_with_the_usage(client):
    asked = dict(model=NAME, messages=CHAT, max_tokens=30, n=2, seed=3, logprobs=True, top_logprobs=2)
    whole = client.chat.completions.create(**asked)
    texts, finishes, tokens, roles, usages = ["", ""], ["", ""], [[], []], [], []
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usages.append(chunk.usage)
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            finishes[choice.index] += choice.finish_reason or ""
            tokens[choice.index] += choice.logprobs.content if choice.logprobs else []
            roles += [choice.delta.role] if choice.delta.role else []
    assert texts == [c.message.content for c in whole.choices]
    assert finishes == [c.finish_reason for c in whole.choices]
    assert tokens == [c.logprobs.content for c in whole.choices]
    assert roles == ["assistant"] * 2
    assert usages[-1] == whole.usage and set(usages[:-1]) == {None}


def test_text_and_token_ids_alone_and_in_lists(client, engine, tokenizer):
    texts = ["ab cd", "xyz"]
    ids = [ids_of(tokenizer, text.encode()) for text in texts]
    sampling = Sampling(max_tokens=9, temperature=0.8, seed=4, stop_ids=STOP_IDS)
    groups = engine.generate(ids, sampling, n=2)
    expected = [text_of(tokenizer, completion) for group in groups for completion in group]
    asked = dict(model=NAME, max_tokens=9, temperature=0.8, seed=4, n=2)
    for prompt, right in (
        (texts[0], expected[:2]),
        (texts, expected),
        (ids[0], expected[:2]),
        (ids, expected),
    ):
        found = client.completions.create(prompt=prompt, **asked)
        assert [c.text for c in found.choices] == right
    streamed = [""] * 4
    for chunk in client.completions.create(prompt=texts, stream=True, **asked):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == expected
    assert len(client.completions.create(model=NAME, prompt="a", seed=1).choices[0].text) <= 16


def test_the_logprobs_are_those_of_transformers(client, folder, tokenizer):
    """Of a prompt that is echoed, of the answer, and of the likeliest tokens in their place."""
    theirs, texts = (
        AutoModelForCausalLM.from_pretrained(folder).double(),
        ["a longer beginning é", "q", "zz top"],
    )
    for max_tokens in (0, 1, 5):
        found = client.completions.create(
            model=NAME, prompt=texts, echo=True, max_tokens=max_tokens, logprobs=3, temperature=0
        )
        for text, choice in zip(texts, found.choices, strict=True):
            ids = ids_of(tokenizer, text.encode())
            scores = choice.logprobs
            assert choice.text.startswith(text) and len(scores.tokens) == len(ids) + max_tokens
            assert (choice.text == text) == (max_tokens == 0)
            for _ in range(max_tokens):
                ids.append(int(theirs(torch.tensor([ids])).logits[0, -1].argmax()))
            logprobs_TV = theirs(torch.tensor([ids])).logits[0].log_softmax(-1)
            right = logprobs_TV[:-1].gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1).tolist()
            assert scores.token_logprobs[0] is None and scores.top_logprobs[0] is None
            assert scores.token_logprobs[1:] == pytest.approx(right, abs=1e-4)
            for place, top in enumerate(scores.top_logprobs[1:]):
                best = logprobs_TV[place].topk(3).values.tolist()
                assert sorted(top.values(), reverse=True)[:3] == pytest.approx(best, abs=1e-4)
                assert top[scores.tokens[place + 1]] == scores.token_logprobs[place + 1]
    assert found.choices[0].logprobs.text_offset[:20] == [*range(20)], "é is two tokens"
    assert found.choices[0].logprobs.tokens[-7:-5] == ["bytes:\\xc3", "bytes:\\xa9"]


def test_chat_logprobs_name_each_token(client, engine, tokenizer):
    sampling = Sampling(max_tokens=6, temperature=0, top_logprobs=2)
    [[expected]] = engine.generate([chat_ids(tokenizer)], sampling)
    found = client.chat.completions.create(
        model=NAME, messages=CHAT, max_tokens=6, temperature=0, logprobs=True, top_logprobs=2
    )
    entries = found.choices[0].logprobs.content
    assert [e.logprob for e in entries] == pytest.approx(expected.policy_logprob, abs=1e-4)
    assert [t.logprob for e in entries for t in e.top_logprobs] == pytest.approx(
        [value for _, values in expected.top for value in values], abs=1e-4
    )
    ids = [ids_of(tokenizer, bytes(entry.bytes)) for entry in entries]
    assert [id for [id] in ids] == expected.token_ids


def test_twenty_requests_at_once_get_their_own_answers(served, engine, tokenizer):
    kinds = [{"temperature": 0}, {"temperature": 1.3}, {"top_p": 0.7}]
    beyond = [{"top_k": 5}, {"min_p": 0.1}, {"repetition_penalty": 1.3}]
    options = [{**(kinds + beyond)[i % 6], "seed": i, "max_tokens": 5 + i} for i in range(20)]
    prompts = [ids_of(tokenizer, b"abcdefghijklmnopqrstuvwxyz"[: i + 1]) for i in range(20)]
    expected = [
        text_of(tokenizer, engine.generate([prompt], Sampling(stop_ids=STOP_IDS, **asked))[0][0])
        for prompt, asked in zip(prompts, options, strict=True)
    ]

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=served[0] + "/v1", api_key="x", max_retries=0) as client:

            async def ask(prompt, asked, stream):
                own = {
                    name: asked[name] for name in asked if name in ("top_k", "min_p", "repetition_penalty")
                }
                known = {name: asked[name] for name in asked if name not in own}
                found = await client.completions.create(
                    model=NAME, prompt=prompt, stream=stream, extra_body=own, **known
                )
                if not stream:
                    return found.choices[0].text
                return "".join([c.text async for chunk in found for c in chunk.choices])

            asked = zip(prompts, options, strict=True)
            return await asyncio.gather(*(ask(*pair, bool(i % 2)) for i, pair in enumerate(asked)))

    assert asyncio.run(ask_all()) == expected
    assert len(set(expected)) > 15


def test_logit_bias_and_stop_strings(client, tokenizer):
    asked = dict(model=NAME, prompt="ab", max_tokens=12, temperature=0)
    [a] = ids_of(tokenizer, b"a")
    assert client.completions.create(**asked, logit_bias={str(a): 100}).choices[0].text == "a" * 12
    found = client.completions.create(**asked, logit_bias={str(a): 100}, stop=["aaaa", "b"]).choices[0]
    assert (found.text, found.finish_reason) == ("", "stop")
    plain = client.completions.create(**asked).choices[0].text
    stop = plain[4:7]
    found = client.completions.create(**asked, stop=stop)
    assert found.choices[0].text == plain[: plain.index(stop)] and found.choices[0].finish_reason == "stop"
    assert found.usage.completion_tokens < 12


def test_models_of_other_families_answer_too(folder, engine, tokenizer):
    model = TransformersDecoder(folder, read_config(folder), torch.float32)
    [[expected]] = engine.generate([chat_ids(tokenizer)], Sampling(max_tokens=9, temperature=0))
    with serving(folder, HfSampler(model, tokenizer=tokenizer)) as (url, served, _):
        client = openai.OpenAI(base_url=url + "/v1", api_key="x", max_retries=0)
        asked = dict(model=NAME, messages=CHAT, max_tokens=9, temperature=0)
        found = client.chat.completions.create(**asked, n=2)
        assert [c.message.content for c in found.choices] == [text_of(tokenizer, expected)] * 2
        stream = client.chat.completions.create(**{**asked, "max_tokens": 200}, stream=True)
        chunks = iter(stream)
        next(chunks)
        stream.close()
        until(lambda: not served.worker.steps.busy)


# ---- text that comes in pieces, from a script ----


def streamed(client, **asked):
    chunks = client.chat.completions.create(model=NAME, messages=CHAT, stream=True, **asked)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return [c.delta.content for c in choices if c.delta.content], choices


def test_emoji_and_stop_strings_over_many_tokens(script):
    client, *_ = script("ok 😀 then END of it")
    pieces, _ = streamed(client)
    assert "😀" in pieces and "".join(pieces) == "ok 😀 then END of it"
    for stop, right in (("END", "ok 😀 then "), ("😀", "ok "), (["of", "then"], "ok 😀 "), ("ENDE", None)):
        pieces, choices = streamed(client, stop=stop)
        whole = client.chat.completions.create(model=NAME, messages=CHAT, stop=stop)
        assert "".join(pieces) == whole.choices[0].message.content == (right or "ok 😀 then END of it")
        assert choices[-1].finish_reason == whole.choices[0].finish_reason == "stop"


CALL = '<tool_call>{"name": "add", "arguments": {"a": 1, "word": "é"}}</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("Let me see. " + CALL + CALL, "Let me see.", 2),
        ('{"name": "add", "parameters": {"a": 1, "word": "é"}}', None, 1),
        ("2 < 3 and <tool", "2 < 3 and <tool", 0),
        ("<tool_call>{broken</tool_call>", "<tool_call>{broken</tool_call>", 0),
        ('  {"answer": 3}', '  {"answer": 3}', 0),
    ],
)
def test_tool_calls_whole_and_streamed(script, text, content, calls):
    client, *_ = script(text)
    choice = client.chat.completions.create(model=NAME, messages=CHAT, tools=TOOLS).choices[0]
    assert choice.message.content == content
    assert choice.finish_reason == ("tool_calls" if calls else "stop")
    found = choice.message.tool_calls or []
    assert [(c.function.name, json.loads(c.function.arguments)) for c in found] == [
        ("add", {"a": 1, "word": "é"})
    ] * calls
    pieces, choices = streamed(client, tools=TOOLS)
    deltas = [call for c in choices for call in c.delta.tool_calls or []]
    assert "".join(pieces).strip() == (content or "").strip()
    assert [(d.index, d.function.arguments) for d in deltas] == [
        (i, c.function.arguments) for i, c in enumerate(found)
    ]
    assert choices[-1].finish_reason == choice.finish_reason
    one = client.chat.completions.create(model=NAME, messages=CHAT, tools=TOOLS, parallel_tool_calls=False)
    assert len(one.choices[0].message.tool_calls or []) == min(calls, 1)
    off = client.chat.completions.create(model=NAME, messages=CHAT, tools=TOOLS, tool_choice="none")
    assert off.choices[0].message.content == text


def test_the_template_sees_tools_calls_and_its_own_names(folder, script, tokenizer):
    client, _, served, _ = script("x")
    served.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.arguments['a'] }}{% endfor %};{% endfor %}{{ (tools or [])|length }}{{ mood }}"
    )
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 7}'}}
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "be"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "8"},
    ]
    right = "system:be;assistant:7;tool:8;1glad"
    found = client.chat.completions.create(
        model=NAME, messages=messages, tools=TOOLS, extra_body={"chat_template_kwargs": {"mood": "glad"}}
    )
    assert found.usage.prompt_tokens == len(right)


# ---- what goes wrong ----


@pytest.fixture(scope="module")
def post(served):
    def ask(body, path="chat/completions", **headers):
        body = body if isinstance(body, bytes | str) else json.dumps(body)
        headers = {"content-type": "application/json", **headers}
        answer = httpx.post(f"{served[0]}/v1/{path}", content=body, headers=headers, timeout=30)
        return answer.status_code, answer.json()["error"]

    return ask


GOOD = {"model": NAME, "messages": CHAT}


@pytest.mark.parametrize(
    ("change", "status", "param", "words"),
    [
        ({"frobnicate": 1}, 400, "frobnicate", "Unknown parameter: 'frobnicate'"),
        ({"model": "gpt-9"}, 404, "model", "'gpt-9' does not exist"),
        ({"messages": None}, 400, "messages", "Missing required parameter"),
        ({"messages": []}, 400, "messages", "empty list"),
        ({"messages": [{"role": "king", "content": "x"}]}, 400, "messages", "messages[0].role"),
        ({"max_tokens": 10_000}, 400, "messages", "maximum context length is 256 tokens"),
        ({"messages": [{"role": "user", "content": "x" * 300}]}, 400, "messages", "maximum context length"),
        ({"temperature": -1}, 400, "temperature", "not between"),
        ({"temperature": True}, 400, "temperature", "expected a number"),
        ({"temperature": 10**400}, 400, "temperature", "more than 64 bits"),
        ({"top_p": 0}, 400, "top_p", "not between"),
        ({"top_k": 10**30}, 400, "top_k", "not between"),
        ({"n": 1000}, 400, "n", "not between"),
        ({"max_tokens": 2.5}, 400, "max_tokens", "expected an integer"),
        ({"stop": ["", "a"]}, 400, "stop", "none of them empty"),
        ({"logit_bias": {"999": 1}}, 400, None, "logit_bias names token 999"),
        ({"logit_bias": {"1": 1e9}}, 400, "logit_bias", "not between"),
        ({"logit_bias": [1]}, 400, "logit_bias", "must be an object"),
        ({"top_logprobs": 3}, 400, "top_logprobs", "needs 'logprobs'"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty", "not supported"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format", "not supported"),
        ({"tools": TOOLS, "tool_choice": "required"}, 400, "tool_choice", "cannot be forced"),
        ({"chat_template_kwargs": {"tokenize": False}}, 400, "chat_template_kwargs", "'tokenize'"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_why(post, change, status, param, words):
    body = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    found, error = post(body)
    assert (found, error["param"]) == (status, param)
    assert words in error["message"] and error["type"] == "invalid_request_error"


def test_values_that_ask_for_nothing_are_taken(client):
    client.chat.completions.create(
        model=NAME, messages=CHAT, max_tokens=1, frequency_penalty=0, user="me", stop=None, seed=-3, top_p=1,
        response_format={"type": "text"}, metadata={"a": "b"}, logit_bias={}, temperature=1e-40,
    )  # fmt: skip


def test_bodies_that_are_no_request(post, served):
    for body in (b"{", b'{"model": NaN}', b"\xff\xfe", b"[1]", b"[" * 5000, b"9" * 5000):
        status, error = post(body)
        assert status == 400 and "JSON" in error["message"]
    assert post({}, "chat/completions")[1]["param"] == "model"
    assert post({**GOOD, "user": "x" * 20_000})[0] == 413

    def chunks():  # its length is not announced
        yield b'{"user": "'
        for _ in range(30):
            yield b"x" * 1000

    answer = httpx.post(
        served[0] + "/v1/completions", content=chunks(), headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413
    assert post(json.dumps(GOOD), **{"content-type": "text/plain"})[0] == 415
    assert post(GOOD, "nowhere")[0] == 404
    assert post({"model": NAME, "prompt": [[]]}, "completions")[0] == 400
    assert post({"model": NAME, "prompt": ["a"] * 1000, "n": 2}, "completions")[0] == 400
    assert post({"model": NAME, "prompt": ""}, "completions")[0] == 400
    assert post({"model": NAME, "prompt": [1, 5000]}, "completions")[0] == 400
    scored = {"model": NAME, "echo": True, "max_tokens": 0, "logprobs": 1}
    for prompt in ([1, 5000], [-1, 2], [1, 1 << 40], [3] * 257):
        assert post({**scored, "prompt": prompt}, "completions")[0] == 400
    full = httpx.post(served[0] + "/v1/completions", json={**scored, "prompt": [3] * 256}, timeout=30)
    assert full.status_code == 200, "a prompt that is only scored may fill the context"
    assert httpx.get(served[0] + "/health").json() == {"status": "ok"}


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_a_key_where_one_is_set(script):
    client, *_ = script("x", api_key="sésame")
    with pytest.raises(openai.AuthenticationError):
        client.chat.completions.create(**GOOD)
    with pytest.raises(openai.AuthenticationError):
        client.models.list()
    right = {"authorization": "Bearer sésame".encode()}
    url = str(client.base_url).removesuffix("v1/")
    assert httpx.get(url + "v1/models", headers=right).status_code == 200
    assert httpx.get(url + "health").status_code == 200


def test_one_request_too_many_is_told_to_come_again(script):
    client, steps, *_ = script("y" * 200, seconds=0.02, max_requests=1)
    stream = client.chat.completions.create(**GOOD, stream=True)
    iterator = iter(stream)
    next(iterator)
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(**GOOD)
    assert refused.value.response.headers["retry-after"] == "1"
    stream.close()
    until(lambda: not steps.busy)
    assert client.with_options(max_retries=5).chat.completions.create(**GOOD, max_tokens=2).choices


def test_a_client_that_goes_away_frees_its_slots(script):
    """Streamed and not; the step in progress ends, the next has nothing to do."""
    client, steps, served, _ = script("z" * 200, seconds=0.01)
    stream = client.chat.completions.create(**GOOD, n=3, stream=True)
    chunks = iter(stream)  # a stream that nobody holds is closed
    next(chunks)
    until(lambda: len(steps.rows) == 3)
    stream.close()
    until(lambda: not steps.rows and not served.worker.rows)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3).chat.completions.create(**GOOD, n=2)
    until(lambda: not steps.rows and not served.worker.rows, 1.0)


def test_equal_requests_are_ended_one_by_one(folder, tokenizer):
    """Two that are equal in every value wait behind a full engine; ending the second must leave the first."""
    worker = Worker(Engine(load_model(str(folder)), slots=1, tokenizer=tokenizer))
    [prompt] = [ids_of(tokenizer, b"ab")]

    async def run():
        worker.start()
        first = worker.sample([(prompt, Sampling(max_tokens=250, temperature=0))])
        await anext(first)
        short = [(prompt, Sampling(max_tokens=3, temperature=0))]
        kept, dropped = worker.sample(short), worker.sample(short)
        answers = asyncio.gather(*[anext(kept)])
        gone = asyncio.ensure_future(anext(dropped))
        await asyncio.sleep(0.01)
        gone.cancel()
        [piece] = await asyncio.wait_for(answers, 20)
        assert piece.token_ids and piece.finish != "abort"
        await kept.aclose()
        await first.aclose()

    try:
        asyncio.run(run())
    finally:
        worker.stop()


def test_a_failing_step_fails_what_was_in_flight_and_nothing_after(script):
    client, steps, _, _ = script("w" * 100, seconds=0.005)
    stream = client.chat.completions.create(**GOOD, stream=True)
    iterator = iter(stream)
    next(iterator)
    errors = []

    def ask():
        try:
            client.chat.completions.create(**GOOD)
        except openai.InternalServerError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(steps.rows) == 4)
    steps.failures = 1
    for thread in threads:
        thread.join(10)
    assert len(errors) == 3 and errors[0].body["type"] == "server_error"
    with pytest.raises(openai.APIError, match="The model failed"):
        list(iterator)
    assert client.chat.completions.create(**GOOD, max_tokens=3).choices[0].message.content == "www"


def test_when_the_grace_is_over_requests_are_told_so(script):
    client, _, _, server = script("v" * 250, seconds=0.05, grace=0.3)
    iterator = iter(client.chat.completions.create(**GOOD, stream=True))
    next(iterator)
    server.should_exit = True
    with pytest.raises(openai.APIError, match="shutting down"):
        list(iterator)
    with pytest.raises(openai.APIConnectionError):
        client.models.list()


def test_within_the_grace_requests_are_finished(script):
    client, _, _, server = script("u" * 40, seconds=0.02, grace=20.0)
    iterator = iter(client.chat.completions.create(**GOOD, stream=True))
    text = next(iterator).choices[0].delta.content
    server.should_exit = True
    for chunk in iterator:
        text += chunk.choices[0].delta.content or ""
    assert text == "u" * 40
