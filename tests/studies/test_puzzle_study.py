"""The study from end to end against a server that knows some answers, through the real sandbox."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rung.cli import status
from rung.envs.puzzles.build import all_puzzles
from rung.errors import UserError
from rung.pipelines.evaluate import evaluate
from rung.sandbox.languages import LANGUAGES
from rung.studies import puzzles as puzzles_module
from rung.studies.puzzles import study

FIRST, SECOND = all_puzzles()[:2]


class Server(BaseHTTPRequestHandler):
    """The first puzzle is solved by one attempt in two; the second has a mistake that the language decides."""

    asked: list = []  # noqa: RUF012

    def do_GET(self):
        self.say({"data": [{"id": "fake"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        language = "cpp" if "C++" in prompt else "python"
        with lock:
            Server.asked.append((language, prompt))
            odd = Server.asked.count((language, prompt)) % 2
        if prompt.startswith(SECOND.statement[:40]):
            text = "```python\nimport gmpy2_not_here\n```" if language == "python" else "I cannot."
        else:
            code = (
                FIRST.solutions[language]
                if odd
                else {"python": "print(1)", "cpp": "int main() { x.y(); }"}[language]
            )
            text = f"```{language}\n{code}\n```"
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        self.say({"choices": [choice], "usage": {"completion_tokens": 10}})

    def say(self, content):
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


lock = threading.Lock()


@pytest.fixture
def url():
    Server.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def without(missing, monkeypatch):
    """A machine without these toolchains."""
    real = puzzles_module.toolchain
    monkeypatch.setattr(puzzles_module, "toolchain", lambda name: None if name in missing else real(name))


def test_a_study_counts_explains_prices_and_goes_on(url, tmp_path, monkeypatch):
    without({"zig"}, monkeypatch)

    def measure(env, out):
        return evaluate(url, env, out=out, samples=4, tasks=2)

    made = study(measure, tmp_path, ("python", "c++", "zig"))
    assert [cell.language for cell in made.cells] == ["python", "cpp", "zig"]
    assert made.cells[2].evaluation is None and made.cells[2].missing == LANGUAGES["zig"].install
    python, cpp = made.judged
    for cell in (python, cpp):
        assert cell.right() == {FIRST.name: (2, 4), SECOND.name: (0, 4)}
        # pass@k of 2 right in 4: 1/2, 5/6, 1, 1; of 0: 0; and their mean.
        assert cell.evaluation.tally.pass_at.value == pytest.approx([1 / 4, 5 / 12, 1 / 2, 1 / 2])
        assert cell.tokens() == 80 and cell.tokens_per_right() == 40
    found = {cell.language: {k: n for k, n in cell.counts().items() if n} for cell in (python, cpp)}
    assert found == {"python": {"logic": 2, "ecosystem": 4}, "cpp": {"invented": 2, "no_code": 4}}
    assert len(Server.asked) == 16

    monkeypatch.setattr(puzzles_module.pool, "shared", lambda: pytest.fail("a program was run again"))
    again = study(measure, tmp_path, ("python", "cpp", "zig"))
    assert len(Server.asked) == 16 and again.cells[0].mistakes == python.mistakes

    kept = json.loads((tmp_path / "python.mistakes.json").read_text())
    kept["samples"][0][2] = "another answer"
    (tmp_path / "python.mistakes.json").write_text(json.dumps(kept))
    with pytest.raises(pytest.fail.Exception):  # mistakes of other answers are not believed
        study(measure, tmp_path, ("python",))


def test_the_command_writes_a_page_with_what_is_missing(url, tmp_path, monkeypatch, capsys):
    without(LANGUAGES.keys() - {"python"}, monkeypatch)
    words = ["study", "puzzles", url, "--samples", "2", "--tasks", "2", "--out", str(tmp_path / "out")]
    assert status(words) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Python" in page and "ecosystem" in page and "gmpy2_not_here" in page and "data:image/png" in page
    assert "Not on this machine" in page and "pip install ziglang" in page
    assert f"{FIRST.name}</td><td>1/2" in page
    assert "report.html" in capsys.readouterr().out


def test_a_machine_without_any_of_the_languages_is_told_so(tmp_path, monkeypatch):
    without({"zig", "hack"}, monkeypatch)
    with pytest.raises(UserError, match="none of zig, hack"):
        study(lambda env, out: pytest.fail("sampled"), tmp_path / "out", ("zig", "hack"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="no language 'cobol'"):
        study(lambda env, out: pytest.fail("sampled"), tmp_path / "out", ("cobol",))
