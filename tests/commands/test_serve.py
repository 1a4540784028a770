"""`rung serve` as its users start it: a process, a port, signals."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import openai
import pytest

from rung.cli import status

CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture
def serve(tiny_folder):
    """Start `rung serve` with some options; `(process, client)` once it listens."""
    processes = []

    def start(*options, **environment):
        command = [
            sys.executable,
            "-m",
            "rung",
            "serve",
            tiny_folder,
            "--port",
            "0",
            "--name",
            "tiny",
            *options,
        ]
        process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )  # fmt: skip
        processes.append(process)
        line = process.stdout.readline()
        [url] = re.findall(r"tiny is served at (http://127\.0\.0\.1:\d+/v1)", line) or [process.stderr.read()]
        return process, openai.OpenAI(base_url=url, api_key="secret", max_retries=0, timeout=60)

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_it_answers_and_sigterm_lets_an_answer_finish(serve):
    process, client = serve("--context", "200", "--slots", "2", RUNG_API_KEY="secret")
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="guess").models.list()
    assert client.models.list().data[0].max_model_len == 200
    asked = dict(model="tiny", messages=CHAT, temperature=0, max_tokens=150, logit_bias={"2": -100})
    whole = client.chat.completions.create(**asked)
    assert whole.usage.completion_tokens == 150
    with pytest.raises(openai.BadRequestError, match="maximum context length is 200"):
        client.chat.completions.create(**{**asked, "max_tokens": 190})
    chunks = iter(client.chat.completions.create(**asked, stream=True))
    text = next(chunks).choices[0].delta.content
    process.send_signal(signal.SIGTERM)
    text += "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert process.wait(20) == 0
    assert process.stderr.read() == ""


def test_ctrl_c_breaks_off_what_takes_longer_than_the_grace(serve):
    process, client = serve("--grace", "0")
    asked = dict(model="tiny", prompt="x", max_tokens=250, logit_bias={"2": -100}, temperature=0, n=16)
    chunks = iter(client.completions.create(**asked, stream=True))
    next(chunks)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    with pytest.raises(openai.APIError, match="shutting down"):
        list(chunks)
    assert process.wait(20) == 130
    assert time.monotonic() - began < 10
    assert process.stderr.read() == ""


def test_settings_that_cannot_work_are_refused_at_once(tiny_folder, capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert status(["serve", str(tiny_folder), "--port", port]) == 2
        assert f"Cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err
    assert status(["serve", str(tiny_folder), "--port", "99999"]) == 2
    assert status(["serve", str(tiny_folder), "--port", "0", "--slots", "0"]) == 2
    assert status(["serve", str(tiny_folder), "--port", "0", "--context", "257"]) == 2
    assert "reads 256 tokens at most" in capsys.readouterr().err
    # 2 x 2 layers x 2 heads x 8 x 4 bytes = 256 a token and slot; 256 tokens x 10^8 slots = 6.6 TB
    assert (
        status(["serve", str(tiny_folder), "--port", "0", "--slots", "100000000", "--precision", "fp32"]) == 2
    )
    assert "100000000 slots of 256 tokens need 6553.6 GB" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert status(["serve", str(tiny_folder)]) == 2
    assert "pip install 'rung[serve]'" in capsys.readouterr().err
