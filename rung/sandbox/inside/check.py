"""In a sandbox of its own: run trusted tests whose calls go to the tested program in another sandbox.

Reports one line a test, {"test": i} when it starts and {"ok": true | false, "error": ...} when it ends, then
{"end": true}; {"broken": ...} where the tests themselves cannot run.
"""

import ast
import builtins
import importlib
import json
import sys

from wire import Peer, PeerEndedError, Remote


def main():
    with open("tests.json") as file:
        tests = json.load(file)
    peer = Peer(3)
    names = {"__name__": "tests", "__builtins__": builtins}
    try:
        code = [compile(test, f"test {index}", "exec") for index, test in enumerate(tests["statements"])]
        exec(compile(tests["setup"], "setup", "exec"), names)
        wanted = free_names([tests["setup"], *tests["statements"]]) - names.keys() - set(dir(builtins))
    except Exception as error:
        peer.send({"broken": f"{type(error).__name__}: {error}"})
        return
    asked = False
    for index, statement in enumerate(code):
        peer.send({"test": index})
        try:
            if not asked:
                bind(peer, names, set(tests["entry"]), wanted)
                asked = True
            exec(statement, names)
            report: dict[str, object] = {"ok": not peer.ended}
        except PeerEndedError:
            report = {"ok": False, "error": "the program ended"}
        except BaseException as error:
            report = {"ok": False, "error": f"{type(error).__name__}: {error}"[:1000], "got": show(peer.last)}
        peer.send(report)
        if peer.ended or (not report["ok"] and tests["stop"]):
            break
    peer.send({"end": True})


def bind(peer, names, entry, wanted):
    """Give the tests what they use and do not define: modules of the standard library, the program's names.

    Never a builtin: a program's own `all` or `sorted` must not reach into the tests.
    """
    for name in sorted(wanted | entry):
        if name in sys.stdlib_module_names and name not in entry:
            names[name] = importlib.import_module(name)
            continue
        try:
            names[name] = peer.ask({"get": None, "name": name})
        except Exception:  # it has no such name; the test that needs it will say so
            names.pop(name, None)


def free_names(sources):
    trees = [ast.walk(ast.parse(source)) for source in sources]
    nodes = [node for tree in trees for node in tree if isinstance(node, ast.Name)]
    return {node.id for node in nodes if isinstance(node.ctx, ast.Load)}


def show(value):
    if type(value) is Remote:
        return "an object that is no plain data"
    try:
        return repr(value)[:1000]
    except ValueError:  # an integer of more digits than Python writes out
        return "a very long integer"


if __name__ == "__main__":
    main()
