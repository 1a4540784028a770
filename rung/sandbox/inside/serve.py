"""In the sandbox of a tested program: run it, then answer calls of its functions. Nothing here is trusted."""

import sys
import types

from wire import Peer, PeerEndedError


def main():
    module = types.ModuleType("program")
    sys.modules["program"] = module
    sys.path[0] = "."
    with open("main.py", "rb") as file:
        source = file.read()
    exec(compile(source, "main.py", "exec"), module.__dict__)
    peer = Peer(3, module.__dict__)
    try:
        while True:
            peer.serve(peer.receive())
    except PeerEndedError:
        pass


if __name__ == "__main__":
    main()
