"""A fake OpenAI-compatible server whose trouble is set by the test, and a model that is a plain function."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from rung.rewards.asking import Reply


class Fake:
    """`say` is (question) -> text or Reply or Unanswered; what it was asked stands in `asked`."""

    remote = False

    def __init__(self, say, name="fake"):
        self.say, self.name, self.asked = say, name, []

    def answer(self, questions, ended, refuse):
        for which, question in enumerate(questions):
            from rung.rewards.asking import Unanswered

            if reason := refuse():
                ended(which, Unanswered(reason))
                continue
            self.asked.append(question)
            said = self.say(question)
            ended(which, Reply(said, 10, 5) if isinstance(said, str) else said)


class State:
    def __init__(self):
        self.asked, self.lock = [], threading.Lock()
        self.trouble = lambda number: None  # what becomes of request `number`, from 0
        self.say = lambda asked: "Verdict: tie"
        self.top = []  # [(token, logprob)], sent where log-probs are asked for


@contextmanager
def server():
    state = State()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words):
            pass

        def send(self, status, content):
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.send(200, {"data": [{"id": "served"}]})

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                number = len(state.asked)
                state.asked.append(asked)
            trouble = state.trouble(number)
            if isinstance(trouble, float):
                time.sleep(trouble)
                trouble = None
            if trouble == "drop":
                self.close_connection = True
            elif isinstance(trouble, bytes | dict):
                self.send(200, trouble)
            elif trouble:
                self.send(trouble, {"error": {"message": f"status {trouble}"}})
            else:
                choice = {"message": {"content": state.say(asked)}, "finish_reason": "stop"}
                if asked.get("logprobs"):
                    listed = [{"token": token, "logprob": value} for token, value in state.top]
                    choice["logprobs"] = {"content": [{"token": "A", "logprob": 0, "top_logprobs": listed}]}
                usage = {"prompt_tokens": 7, "completion_tokens": 3}
                self.send(200, {"choices": [choice], "usage": usage})

    class Server(ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            """A client that waited no longer is what some tests are about."""

    httpd = Server(("127.0.0.1", 0), Handler)
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
