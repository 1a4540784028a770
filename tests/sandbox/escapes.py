# ruff: noqa: E501  programs within strings
"""Programs that mean harm. An escape prints ESCAPED, and only an escape does, so a pass would be one.

argv: a secret file of the machine, a TCP port and an abstract socket on it, a folder of ours it may not write.
"""

PRELUDE = """
import ctypes, os, resource, signal, socket, sys, threading, time
secret, port, abstract, folder = sys.argv[1:5]
libc = ctypes.CDLL(None, use_errno=True)
def escaped(): os.write(1, b"ESCAPED"); os._exit(0)
def leaked(path):
    try:
        if b"canary" in open(path, "rb").read(1 << 20): escaped()
    except OSError: pass
def syscall(*numbers):
    if libc.syscall(*numbers) >= 0: escaped()
def writes(path, how="w"):
    try: open(path, how).write("x")
    except OSError: return
    escaped()
"""

# ---- reaching out: what is not there to be reached ----

REACH = {
    "read a file": "leaked(secret)",
    "read through ..": "leaked('../' * 30 + secret)",
    "read through a link": "os.symlink(secret, 'link'); leaked('link')",
    "link a folder": "os.symlink('/', 'root'); leaked('root' + secret)",
    "hard link": "os.link(secret, 'link'); leaked('link')",
    "/proc/self/root": "leaked('/proc/self/root' + secret)",
    "/proc/1/root": "leaked('/proc/1/root' + secret)",
    "/proc/1/cwd": "leaked('/proc/1/cwd/..' + secret)",
    "every /proc/N/root": "[leaked(f'/proc/{n}/root' + secret) for n in os.listdir('/proc') if n.isdigit()]",
    "the password file": "open('/etc/shadow').read(); escaped()",
    "a home": "any(os.listdir(d) for d in ('/home', '/root/.ssh')) and escaped()",
    "own environment": "'CANARY' in str(os.environ) and escaped()",
    "environment of 1": "leaked('/proc/1/environ'); open('/proc/1/environ').read(); escaped()",
    "memory of 1": "open('/proc/1/mem', 'rb'); escaped()",
    "files of 1": "[os.open(f'/proc/1/fd/{n}', os.O_RDWR) for n in os.listdir('/proc/1/fd')] and escaped()",
    "see other processes": "len([n for n in os.listdir('/proc') if n.isdigit()]) > 2 and escaped()",
    "write into the system": "[writes(d + '/rung-x') for d in ('/', '/usr', '/usr/bin', '/etc', '/dev', '/rung', '/root')]",
    "overwrite the grader": "[writes('/rung/' + n) for n in ('check.py', 'launcher.py', 'wire.py')]",
    "overwrite the interpreter": "writes(sys.executable, 'r+')",
    "chmod the interpreter": "os.chmod(sys.executable, 0o777); escaped()",
    "write a folder of the user": "os.makedirs(folder, exist_ok=True); open(folder + '/x', 'w'); leaked(secret)",
    "core pattern": "writes('/proc/sys/kernel/core_pattern')",
    "sysrq": "writes('/proc/sysrq-trigger')",
    "raise its oom score": "writes('/proc/1/oom_score_adj')",
    "control groups": "[writes('/sys/fs/cgroup' + n) for n in ('/cgroup.procs', '/memory/cgroup.procs')]",
    "kernel memory": "[open(p, 'rb').read(1) for p in ('/dev/mem',)]; escaped()",
    "kcore": "open('/proc/kcore', 'rb').read(64); escaped()",
    "make a device": "os.mknod('disk', 0o600 | 0o60000, os.makedev(8, 0)); escaped()",
    "chmod the null device": "os.chmod('/dev/null', 0o600); escaped()",
    "TCP to the machine": "socket.create_connection(('127.0.0.1', int(port)), 1); escaped()",
    "TCP out": "socket.create_connection(('1.1.1.1', 53), 1); escaped()",
    "UDP out": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53)); escaped()",
    "abstract socket": "s = socket.socket(socket.AF_UNIX); s.connect('\\0' + abstract); escaped()",
    "vsock": "socket.socket(40, socket.SOCK_STREAM); escaped()",
    "raw and packet sockets": """
for family, kind in ((socket.AF_INET, socket.SOCK_RAW), (17, socket.SOCK_RAW), (16, socket.SOCK_RAW), (38, 5)):
    try: socket.socket(family, kind, 1 if family == 2 else 0); escaped()
    except OSError: pass""",
    "unshare": "libc.unshare(0x10000000) == 0 and escaped()",
    "unshare the rest": "[libc.unshare(1 << n) == 0 and escaped() for n in (17, 25, 26, 27, 28, 29, 30)]",
    "clone into a user namespace": "syscall(56, 0x10000000 | 17, 0, 0, 0, 0)",
    "clone3": "syscall(435, ctypes.create_string_buffer(88), 88)",
    "setns": "[libc.setns(os.open(f'/proc/1/ns/{n}', 0), 0) == 0 and escaped() for n in ('mnt', 'user', 'net')]",
    "mount": "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0 and escaped()",
    "remount": "libc.mount(None, b'/usr', None, 0x20 | 0x1000, None) == 0 and escaped()",
    "umount": "libc.umount2(b'/proc', 2) == 0 and escaped()",
    "chroot": "os.mkdir('j'); os.chroot('j'); escaped()",
    "new mount calls": "syscall(430, b'tmpfs', 0); syscall(428, -100, b'/', 1)",
    "ptrace the parent": "libc.ptrace(16, os.getppid(), 0, 0) == 0 and escaped()",
    "ptrace a child": "libc.ptrace(0, 0, 0, 0) == 0 and escaped()",
    "read a process": "syscall(310, 1, None, 0, None, 0, 0)",
    "steal a descriptor": "syscall(438, os.pidfd_open(1), 0, 0)",
    "limits of 1": "resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0)); escaped()",
    "raise own limits": "resource.setrlimit(resource.RLIMIT_DATA, (-1, -1)); escaped()",
    "keys": "syscall(248, b'user', b'x', b'y', 1, -2); syscall(250, 0, -3, 1)",
    "bpf, perf, userfaultfd": "syscall(321, 0, 0, 0); syscall(298, 0, 0, -1, -1, 0); syscall(323, 1)",
    "io_uring": "syscall(425, 8, ctypes.create_string_buffer(120))",
    "kernel modules": "syscall(313, 0, b'', 0); syscall(175, 0, 0, b'')",
    "file handles": "syscall(303, -100, b'/', ctypes.create_string_buffer(b'\\x80' + bytes(200)), ctypes.byref(ctypes.c_int()), 0)",
    "the clock and the name": "libc.sethostname(b'x', 1) == 0 and escaped(); time.clock_settime(0, 0); escaped()",
    "become root": "os.setuid(0); escaped()",
    "su": "os.system('su -c true; sudo true') == 0 and escaped()",
    "real time": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50)); escaped()",
    "type into the terminal": "import fcntl; fcntl.ioctl(0, 0x5412, b'x'); escaped()",
    "the container's door": "[socket.socket(1).connect(p) for p in ('/run/docker.sock', '/var/run/docker.sock')]; escaped()",
    "kill the parent": "os.kill(os.getppid(), 9); os.kill(1, 15); time.sleep(0.1); print('still here')",
    "kill everyone": "signal.signal(15, signal.SIG_IGN); os.kill(-1, 15); os.kill(-1, 19)",
}

# ---- using up ----

EXHAUST = {
    "fork bomb": "while True:\n  try: os.fork()\n  except OSError: pass",
    "thread bomb": "while True:\n  try: threading.Thread(target=time.sleep, args=(99,)).start()\n  except RuntimeError: pass",
    "memory bomb": "x = []\nwhile True: x.append(bytearray(1 << 22))",
    "memory in children": "while True:\n  if os.fork() == 0:\n    x = bytearray(30 << 20); time.sleep(99)",
    "shared memory bomb": "import mmap\nx = []\nwhile True:\n  m = mmap.mmap(-1, 1 << 22); m.write(bytes(1 << 22)); x.append(m)",
    "anonymous files": "x = []\nwhile True:\n  f = os.memfd_create('x'); os.write(f, bytes(1 << 22)); x.append(f)",
    "system V memory": "while libc.shmget(0, 1 << 22, 0o1600) >= 0: pass",
    "infinite output": "while True: os.write(1, b'x' * 65536)",
    "infinite errors": "while True: os.write(2, b'x' * 65536)",
    "slow output": "while True: print('ESCAPED', flush=True); time.sleep(0.001)",
    "fill the disk": "f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))",
    "fill the disk with files": "for n in range(10 ** 6):\n  open(str(n), 'wb').write(bytes(1 << 19))",
    "many empty files": "n = 0\nwhile True: os.close(os.open(str(n), os.O_CREAT)); n += 1",
    "huge sparse file": "os.truncate(os.open('s', os.O_CREAT | os.O_RDWR), 1 << 50); escaped()",
    "fill shared memory": "f = open('/dev/shm/x', 'wb')\nwhile True: f.write(bytes(1 << 20))",
    "huge names": "open('n' * 5000, 'w')",
    "deep folders": "while True: os.mkdir('d' * 200); os.chdir('d' * 200)",
    "sleep through signals": "for s in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(s, signal.SIG_IGN)\nwhile True: time.sleep(1)",
    "busy loop": "while True: pass",
    "stop itself": "os.kill(os.getpid(), 19)",
    "close its output and stay": "os.close(1); os.close(2); time.sleep(99)",
    "outlive itself": "if os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\nos.execv('/bin/sleep', ['rung-hostile', '99'])",
    "leave a child with the output": "if os.fork(): os._exit(3)\nwhile True: time.sleep(1)",
    "zombies": "for _ in range(10 ** 6):\n  if os.fork() == 0: os._exit(0)",
    "deep recursion": "sys.setrecursionlimit(10 ** 9)\ndef f(n): return f([n])\nf(0)",
    "deep recursion in C": "x = []\nfor _ in range(10 ** 7): x = [x]\nrepr(x); hash(((),)); import pickle; pickle.dumps(x)",
    "all descriptors": "x = []\nwhile True: x.append(os.open('/dev/null', 0))",
    "pipes full of nothing": "while True: r, w = os.pipe(); os.set_blocking(w, False); os.write(w, bytes(65536))",
    "a number without end": "print(9 ** 9 ** 9)",
    "a match without end": "import re; re.match('(a*)*b', 'a' * 64)",
    "not UTF-8": "os.write(1, bytes(range(128, 256)) * 9)",
    "nothing but NUL": "os.write(1, bytes(5000))",
    "crash": "ctypes.string_at(0)",
    "abort": "os.abort()",
    "exit 0": "sys.exit(0)",
}

# ---- in other languages ----

OTHERS = {
    "cpp: fork bomb": ("cpp", "#include <unistd.h>\nint main() { while (true) fork(); }"),
    "cpp: memory bomb": (
        "cpp",
        "#include <cstdlib>\n#include <cstring>\nint main() { while (true) { void* p = malloc(1 << 22); if (p) memset(p, 1, 1 << 22); } }",
    ),
    "cpp: deep recursion": (
        "cpp",
        "int f(volatile int n) { volatile int a[99]; a[0] = n; return f(n + 1) + a[0]; }\nint main() { return f(0); }",
    ),
    "cpp: infinite output": ("cpp", '#include <cstdio>\nint main() { while (true) puts("ESCAPED"); }'),
    "cpp: include a secret": ("cpp", '#include "SECRET"\nint main() {}'),
    "cpp: assemble a secret in": (
        "cpp",
        '#include <cstdio>\n__asm__(".globl s\\ns: .incbin \\"SECRET\\"\\n.byte 0");\nextern char s[];\nint main() { puts("ESCAPED"); }',
    ),
    "cpp: error without end": (
        "cpp",
        "template <int n> struct A { A<n + 1> a; };\nA<0> a;\n#include __FILE__\nint main() {}",
    ),
    "cpp: 32 bit calls": (
        "cpp",
        '#include <cstdio>\nint main() { int r; asm volatile("int $0x80" : "=a"(r) : "a"(310), "b"(0x10000000)); if (r == 0) puts("ESCAPED"); }',
    ),
    "js: read a secret": (
        "javascript",
        'console.log(require("fs").readFileSync("SECRET", "utf8").includes("canary") ? "ESCAPED" : "")',
    ),
    "js: write the system": (
        "javascript",
        'require("fs").writeFileSync("/usr/bin/x", "x"); console.log("ESCAPED")',
    ),
    "js: kill the parent": ("javascript", "process.kill(process.ppid, 9); process.kill(1, 9)"),
    "js: spawn without end": (
        "javascript",
        'for (;;) require("child_process").spawn("sleep", ["99"], { detached: true })',
    ),
    "js: memory bomb": ("javascript", "const x = []; for (;;) x.push(Buffer.alloc(1 << 22, 1))"),
    "js: never ends": ("javascript", "for (;;) {}"),
    "js: network": (
        "javascript",
        'require("net").connect(PORT, "127.0.0.1", () => { console.log("ESCAPED"); process.exit(0) })',
    ),
    "ts: environment": (
        "typescript",
        'console.log(JSON.stringify(process.env).includes("CANARY") ? "ESCAPED" : "")',
    ),
    "rust: kill": (
        "rust",
        'fn main() { let _ = std::process::Command::new("/bin/kill").args(["-9", "1", "-1"]).status(); if std::fs::read("SECRET").is_ok() { println!("ESCAPED"); } }',
    ),
    "rust: include a secret": ("rust", 'fn main() { let _ = include_str!("SECRET"); println!("ESCAPED"); }'),
    "java: memory bomb": (
        "java",
        "class Main { public static void main(String[] a) { java.util.List<byte[]> x = new java.util.ArrayList<>(); while (true) x.add(new byte[1 << 22]); } }",
    ),
    "go: read a secret": (
        "go",
        'package main\nimport ("fmt"; "os")\nfunc main() { if _, e := os.ReadFile("SECRET"); e == nil { fmt.Println("ESCAPED") } }',
    ),
    "go: fork by threads": (
        "go",
        'package main\nimport ("runtime"; "time")\nfunc main() { for { go func() { runtime.LockOSThread(); time.Sleep(99 * time.Second) }() } }',
    ),
    "ocaml: read a secret": ("ocaml", 'let () = ignore (open_in "SECRET"); print_endline "ESCAPED"'),
}

# ---- cheating the grader: f should double; none of these does ----

LOOK = "import os, gc, sys, glob\n"
YES = """
class Yes:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    __hash__ = None
"""
FORGE = {
    "exit at once": "import sys; sys.exit(0)",
    "exit hard": "import os; os._exit(0)",
    "exit in the call": "import os\ndef f(x): os._exit(0)",
    "exit politely in the call": "import sys\ndef f(x): sys.exit(0)",
    "print success": "print('ok', 'PASSED', '{\"ok\": true}', flush=True)\ndef f(x): return 0",
    "always equal": YES + "def f(x): return Yes()",
    "a list of equals": YES + "def f(x): return [Yes()]",
    "an int that agrees": "class I(int):\n  def __eq__(s, o): return True\n  def __ne__(s, o): return False\n  __hash__ = int.__hash__\ndef f(x): return I(0)",
    "a str that agrees": "class S(str):\n  __eq__ = lambda s, o: True\n  __hash__ = str.__hash__\ndef f(x): return S()",
    "patch builtins": "import builtins\nfor n in ('all', 'any', 'sorted', 'len', 'isinstance', 'abs'): setattr(builtins, n, lambda *a, **k: True)\ndef f(x): return 0",
    "own all, sorted and abs": "def all(x): return True\ndef sorted(x): return 4\ndef abs(x): return 0\ndef f(x): return 0",
    "no assertions": "import builtins\nclass AssertionError(Exception): pass\nbuiltins.AssertionError = None\n__debug__ if True else 0\ndef f(x): raise builtins.Exception",
    "compile tests away": "import builtins, sys\nbuiltins.compile = lambda *a, **k: (lambda: 0).__code__\nbuiltins.exec = lambda *a: None\ndef f(x): return 0",
    "patch json": "import json\njson.dumps = lambda *a, **k: '{\"ok\": true}'\ndef f(x): return 0",
    "patch the wire": "import wire\nwire.Peer.encode = lambda s, v: ['o', 0]\ndef f(x): return 0",
    "take over the server": "import sys\nm = sys.modules['__main__']\nm.Peer = None\ndef f(x): return 4 if x == 2 else 0",
    "speak for the tests": 'import os, json\nos.write(3, b\'{"ok": true}\\n{"ok": true}\\n{"ok": true}\\n{"end": true}\\n\')\ndef f(x): return 0',
    "speak for the tests and stay": 'import os, time\nos.write(3, b\'{"test": 2}\\n{"ok": true}\\n{"end": true}\\n\' * 99)\ntime.sleep(99)',
    "flood the wire": 'import os\nwhile True: os.write(3, b\'{"return": 4, "args": [2]}\\n\' * 999)',
    "a line without end": "import os\nwhile True: os.write(3, b'x' * 65536)",
    "nested without end": "import os\nos.write(3, b'[' * 10 ** 6 + b'\\n')\ndef f(x): return 0",
    "nonsense": "import os\nos.write(3, bytes(range(256)) + b'\\n' + b'null\\n[]\\n{}\\n3\\n')\ndef f(x): return 0",
    "ask for the tests' globals": """
import os, json
def ask(message):
    os.write(3, json.dumps(message).encode() + b'\\n')
    return json.loads(os.read(3, 1 << 20).split(b'\\n')[0])
def f(x):
    for number in range(3):
        for name in ('__globals__', '__builtins__', 'names', 'statements', '__class__'):
            a = ask({"get": number, "name": name, "args": [], "keywords": {}})
            b = ask({"get": None, "name": name, "args": [], "keywords": {}})
            if "return" in a or "return" in b: return x * 2
    ask({"call": 0, "args": [], "keywords": {}})
    return 0
""",
    "close the wire": "import os\nos.close(3)\ndef f(x): return 0",
    "read the tests": LOOK
    + """
def f(x):
    for path in glob.glob('/tmp/**', recursive=True) + glob.glob('/proc/*/fd/*') + glob.glob('/proc/*/mem'):
        try: text = open(path, 'rb').read(1 << 16)
        except OSError: continue
        if b'assert f(' in text and b'main' not in path.encode(): return x * 2
    return 0""",
    "find the tests in memory": LOOK
    + """
def f(x):
    frame, needle = sys._getframe(), ''.join(['ass', 'ert f('])
    seen = []
    while frame:
        seen += list(frame.f_locals.values())
        frame = frame.f_back
    for o in gc.get_objects():
        seen += o if type(o) is list else list(o.values()) if type(o) is dict else []
    return x * 2 if any(type(o) is str and needle in o and o != needle for o in seen) else 0""",
    "trace the caller": "import sys\nsys.settrace(lambda *a: None); sys.setprofile(lambda *a: None)\ndef f(x): return 0",
    "at exit": "import atexit, os\natexit.register(lambda: os.write(3, b'{\"end\": true}\\n'))\ndef f(x): raise SystemExit(0)",
    "raise what a test catches": "def f(x): raise AssertionError",
    "an endless iterator": "def f(x):\n  while True: yield x",
    "one answer for all": "def f(x): return 4",
    "huge answer": "def f(x): return 'x' * 12 * 10 ** 6",
    "huge number": "def f(x): return 1 << (8 * 10 ** 6)",
    "no function": "g = 1",
    "not a function": "f = 4",
    "syntax error": "def f(x) return x * 2",
    "changes its argument": "class D(dict): pass\ndef f(x):\n  globals().clear()\n  return 0",
    "NaN": "def f(x): return float('nan')",
}
