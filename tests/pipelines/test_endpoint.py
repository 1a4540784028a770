"""Evaluation over an OpenAI-compatible endpoint, against a server that counts, stumbles and vanishes when told to."""

import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rung import endpoint
from rung.endpoint import Endpoint, asked_pause
from rung.errors import RunStopped, UserError
from rung.eval.results import read
from rung.pipelines.evaluate import evaluate
from rung.rollouts.engine import sample_seed

ENV = Path(__file__).with_name("eval_env.py")


def spec(kind="letters", **options):
    return f"{ENV}:make?kind={kind}" + "".join(f"&{key}={value}" for key, value in options.items())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


class State:
    def __init__(self):
        self.asked, self.answered, self.statuses, self.keys = [], [], Counter(), []
        self.trouble = lambda number: (
            None
        )  # what happens to request `number`, from 0: a status, "drop", "cut", "odd"
        self.busy = self.most_busy = 0
        self.slow = 0.0
        self.models = ["served"]
        self.lock = threading.Lock()


@contextmanager
def server():
    state = State()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words):
            pass

        def say(self, status, content, **headers):
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            state.statuses[status] += 1
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            assert self.path == "/v1/models"
            self.say(200, {"data": [{"id": name} for name in state.models]})

        def do_POST(self):
            assert self.path == "/v1/chat/completions"
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                number = len(state.asked)
                state.asked.append(asked)
                state.keys.append(self.headers["Authorization"])
                state.busy += 1
                state.most_busy = max(state.most_busy, state.busy)
            self.answer(asked, state.trouble(number))

        def answer(self, asked, trouble):
            time.sleep(state.slow)
            with (
                state.lock
            ):  # before the client can know that it is done, or a slow machine counts one too many
                state.busy -= 1
            if trouble == "drop":
                self.close_connection = True
                return
            if trouble == "cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
                self.close_connection = True
                return
            if trouble == "odd":
                self.say(200, b"<html>welcome</html>")
            elif trouble:
                self.say(trouble, {"error": {"message": f"status {trouble}"}}, Retry_After="0")
            else:
                state.answered.append((asked["messages"][0]["content"], asked["seed"]))
                self.say(200, reply(asked))

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_port}/v1"
    try:
        yield state
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def reply(asked):
    """A pure function of what was asked."""
    said = "abcde"[: asked["seed"] % 5] + f" {len(asked['messages'])}"
    finish = "length" if asked["seed"] % 7 == 0 else "stop"
    message = {"role": "assistant", "content": said}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"completion_tokens": len(said)},
    }


def test_every_task_is_asked_with_its_own_seed_and_judged(tmp_path):
    with server() as state:
        found = evaluate(state.url, spec(), out=tmp_path / "r", samples=3, max_tokens=9, temperature=0.5)
    seeds = [
        (s.task, s.index, sample_seed(0, i // 3, i % 3) % 2**31) for i, s in enumerate(found.result.samples)
    ]
    for sample, (_, _, seed) in zip(found.result.samples, seeds, strict=True):
        assert sample.answer == "abcde"[: seed % 5] + " 1"
        assert (sample.tokens, sample.finish) == (len(sample.answer), "length" if seed % 7 == 0 else "stop")
        wanted = int(sample.task.split(":")[1]) % 3
        assert sample.verdict.value == float(seed % 5 > wanted)
    assert sorted(a["seed"] for a in state.asked) == sorted(seed for *_, seed in seeds)
    assert {(a["model"], a["max_tokens"], a["temperature"], a["top_p"]) for a in state.asked} == {
        ("served", 9, 0.5, 1.0)
    }
    assert found.name == "served" and found.result.header.engine == {"name": "endpoint", "host": "127.0.0.1"}


def test_several_turns(tmp_path):
    with server() as state:
        found = evaluate(state.url, spec("talk"), out=tmp_path / "r", samples=2)
    for sample in found.result.samples:
        cut = sample.finish == "length"
        said = [m["content"] for m in sample.messages if m["role"] == "assistant"]
        assert cut or len(said) == 3
        assert sample.tokens == sum(map(len, said)) and sample.answer == said[-1]
        assert sample.verdict.value == pytest.approx(len(sample.messages) + sample.tokens / 1000)
    assert len({a["seed"] for a in state.asked}) == len(state.asked), "each turn throws its own dice"


def test_concurrency_is_used_and_bounded(tmp_path):
    with server() as state:
        state.slow = 0.02
        evaluate(state.url, spec(), out=tmp_path / "r", samples=4, concurrency=3)
        assert state.most_busy == 3


@pytest.mark.parametrize("trouble", [429, 500, 503, "drop", "cut", "odd"])
def test_trouble_that_passes_changes_nothing(trouble, tmp_path):
    with server() as state:
        calm = evaluate(state.url, spec(), out=tmp_path / "calm", samples=2)
        asked = len(state.asked)
        state.trouble = lambda number: trouble if number % 2 and number < asked + 10 else None
        rough = evaluate(state.url, spec(), out=tmp_path / "rough", samples=2)
        assert len(state.asked) - asked == 15, "ten answers and five that failed"
    assert rough.result.samples == calm.result.samples


def test_a_server_that_dies_midway_costs_nothing_that_was_answered(tmp_path):
    note = tmp_path / "note"
    with server() as state:
        whole = evaluate(state.url, spec(note=note), out=tmp_path / "whole", samples=4)
        note.unlink()
        before = len(state.answered)
        state.trouble = lambda number: "drop" if len(state.answered) - before >= 7 else None
        with pytest.raises(RunStopped, match="does not answer any more") as stopped:
            evaluate(state.url, spec(note=note), out=tmp_path / "r", samples=4, concurrency=2)
        assert stopped.value.code == 1
        kept = (tmp_path / "r.partial/samples.jsonl").read_text().splitlines()
        assert len(kept) == len(state.answered) - before >= 7 and not (tmp_path / "r").exists()
        assert f"{len(kept)} of 20 answers are kept in {tmp_path / 'r.partial'}" in str(stopped.value)
        state.trouble = lambda number: None
        found = evaluate(state.url, spec(note=note), out=tmp_path / "r", samples=4)
        assert max(Counter(state.answered[before:]).values()) == 1, "nothing was asked for again"
    assert len(note.read_text().splitlines()) == 20, "nothing was judged twice"
    assert found.result == whole.result
    assert (tmp_path / "r/samples.jsonl").read_bytes() == (tmp_path / "whole/samples.jsonl").read_bytes()


def test_a_refusal_is_not_asked_again(tmp_path):
    with server() as state:
        state.trouble = lambda number: 400
        with pytest.raises(UserError, match=r"refuses what it is asked as served: HTTP 400.*status 400"):
            evaluate(state.url, spec(), out=tmp_path / "r", concurrency=1)
        assert len(state.asked) == 1


def test_patience_has_an_end():
    with server() as state:
        state.trouble = lambda number: 503
        with pytest.raises(endpoint.Down, match="HTTP 503"):
            Endpoint(state.url, "m").ask("/chat/completions", {"model": "m"} | {"messages": [], "seed": 0})
        assert len(state.asked) == 4


def test_the_key_is_sent(tmp_path, monkeypatch):
    with server() as state:
        evaluate(state.url, spec(), out=tmp_path / "a", tasks=1)
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        evaluate(state.url, spec(), out=tmp_path / "b", tasks=1)
    assert state.keys == [None, "Bearer secret"]
    assert b"secret" not in (tmp_path / "b/result.json").read_bytes()


def test_which_model_is_asked_for_where_there_are_several():
    with server() as state:
        state.models = ["a", "b"]
        with pytest.raises(UserError, match="serves a, b; say which: --name"):
            Endpoint(state.url)
        assert Endpoint(state.url, "b").model == "b"


def test_no_server_and_no_address():
    with pytest.raises(UserError, match="cannot be asked which models"):
        Endpoint("http://127.0.0.1:9/v1")
    for url in ("http://", "http://host:port/v1"):
        with pytest.raises(UserError, match="is no address"):
            Endpoint(url, "m")


def test_what_an_endpoint_cannot_promise_is_refused(tmp_path):
    for options in ({"strict": True}, {"think_tokens": 5}):
        with pytest.raises(UserError, match=r"needs? the model itself|an endpoint samples"):
            evaluate("http://127.0.0.1:9/v1", spec(), out=tmp_path / "r", **options)


def test_a_server_may_ask_for_a_longer_pause_but_not_for_hours():
    assert [asked_pause(h, 2.0) for h in (None, "1", "5", "3600", "Wed, 21 Oct")] == [
        2.0,
        2.0,
        5.0,
        60.0,
        2.0,
    ]
    assert asked_pause("5", None) is None


def test_a_result_has_no_clock_and_no_port(tmp_path):
    with server() as state:
        evaluate(state.url, spec(), out=tmp_path / "r")
        port = state.url.split(":")[2].split("/")[0]
    assert port not in json.dumps(read(tmp_path / "r").header.engine)
