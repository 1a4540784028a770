"""The kinds of mistakes: real programs through this machine's compilers, and messages of those it lacks."""

import pytest

from rung.sandbox import pool
from rung.sandbox.languages import LANGUAGES, toolchain
from rung.sandbox.program import Case, Program
from rung.sandbox.result import Broken, CompileError, Failed, Missing, OutOfMemory, Passed, Timeout
from rung.studies.mistake_rules import FORMS, RULES
from rung.studies.mistakes import KINDS, MEANINGS, Mistake, mistake

RUST = "fn main() { %s }"
GO = 'package main\nimport "fmt"\nfunc main() { %s }'
CPP = "#include <iostream>\n#include <vector>\nint main() { %s }"
JAVA = "public class Main { public static void main(String[] args) { %s } }"

PROGRAMS = {
    "python": [
        ("logic", "print(41)"),
        ("logic", "print([1][5])"),
        ("ecosystem", "import primesieve_not_here\nprint(42)"),
        ("api", "x = [1]\nx.push(2)\nprint(x)"),
        ("api", "print(len(5))"),
        ("api", "x = 1\nx++\nprint(x)"),
        ("api", "if True && True:\n    print(42)"),
        ("invented", "print([1].summate())"),
        ("invented", "print(sum of [1, 2])"),
        ("convention", "print 42"),
        ("convention", "for i in xrange(3):\n    print(i)"),
        ("convention", "print(math.sqrt(4))"),
        ("convention", "n = int(input())\nprint(n)"),
    ],
    "javascript": [
        ("logic", "console.log(41)"),
        ("logic", "const a = []; console.log(a[0].b)"),
        ("ecosystem", "const m = require('mathjs-not-here'); console.log(42)"),
        ("api", "const a = []; a.append(2); console.log(a)"),
        ("api", "def f():\n  return 1\nconsole.log(f())"),
        ("invented", "console.log([1].summate())"),
        ("invented", "let x = = 3; console.log(x)"),
        ("convention", "console.log(2n ** 3n + 1)"),
    ],
    "typescript": [
        ("logic", "const n: number = 41; console.log(n)"),
        ("api", "const a: number[] = []; a.append(2); console.log(a)"),
        ("invented", "const n: number = = 3;\nconsole.log(n);"),
    ],
    "go": [
        ("logic", GO % "fmt.Println(41)"),
        ("ecosystem", 'package main\nimport "github.com/someone/big"\nfunc main() { big.F() }'),
        ("api", GO % 'var n int = "a"; fmt.Println(n)'),
        ("api", GO % "i := 0\nwhile i < 3 { i++ }\nfmt.Println(i)"),
        ("api", GO % "a := []int{}; a.push(3); fmt.Println(a)"),
        ("invented", GO % "fmt.PrintAllOfThem(3)"),
        ("convention", GO % "x := 3\nfmt.Println(42)"),
        ("convention", GO % "fmt.Println(math.Sqrt(4))"),
    ],
    "rust": [
        ("logic", RUST % 'println!("41");'),
        ("logic", RUST % 'let v = vec![1]; let i = std::env::args().count() + 7; println!("{}", v[i]);'),
        ("ecosystem", "use num::BigUint;\n" + RUST % 'println!("{}", BigUint::from(1u32));'),
        ("api", RUST % 'let x: u64 = 1i32; println!("{}", x);'),
        ("api", RUST % 'let mut v = Vec::new(); v.push(1); let n = v.length(); println!("{}", n);'),
        ("invented", RUST % 'let v = vec![1]; println!("{}", v.summate());'),
        ("convention", RUST % 'let x = 1; x += 1; println!("{}", x);'),
        ("convention", RUST % 'let m: HashMap<i32, i32> = HashMap::new(); println!("{}", m.len());'),
        ("convention", RUST % 'let a = vec![1]; let b = a; println!("{:?} {:?}", a, b);'),
    ],
    "java": [
        ("logic", JAVA % "System.out.println(41);"),
        ("ecosystem", "import org.apache.commons.math3.Primes;\n" + JAVA % "System.out.println(42);"),
        ("api", JAVA % 'int n = "a"; System.out.println(n);'),
        ("api", JAVA % "int[] a = {1}; String s = args.toString(); System.out.println(s.len());"),
        ("invented", JAVA % "System.out.println(Math.sumOfDigits(3));"),
        ("convention", JAVA % "long n = 12345678901; System.out.println(n);"),
        ("convention", JAVA % "List<Integer> a = new ArrayList<>(); System.out.println(a);"),
    ],
    "cpp": [
        ("logic", CPP % "std::cout << 41;"),
        ("ecosystem", "#include <boost_not_here/big.hpp>\n" + CPP % ""),
        ("api", CPP % "std::vector<int> v; v.append(1);"),
        ("api", CPP % 'int n = "a"; std::cout << n;'),
        ("invented", CPP % "std::vector<int> v{1}; std::cout << v.summate();"),
        ("invented", CPP % "int x = = 3;"),
        ("convention", CPP % "cout << 42;"),
        ("convention", "#include <iostream>\nint main() { std::map<int, int> m; std::cout << m.size(); }"),
    ],
    "ocaml": [
        ("logic", 'let () = print_string "41"'),
        ("logic", "let () = print_int (List.hd [])"),
        ("ecosystem", "let () = print_string (Z.to_string Z.one)"),
        ("api", 'let () = print_string 41'),
        ("api", "let () = let i = ref 0 in while !i < 3 do i := !i + 1 in print_int !i"),
        ("api", "let () = print_int (List.size [1])"),
        ("invented", "let () = print_int (List.summate [1])"),
    ],
}  # fmt: skip

SAID = {
    "kotlin": [
        ("ecosystem", "Main.kt:1:8: error: unresolved reference: kotlinx\nimport kotlinx.coroutines.*"),
        ("api", "Main.kt:1:20: error: type mismatch: inferred type is String but Int was expected"),
        ("api", "Main.kt:2:9: error: unresolved reference: push"),
        ("invented", "Main.kt:2:9: error: unresolved reference: summate"),
        ("invented", "Main.kt:2:9: error: unresolved reference 'summate'."),
        ("invented", "Main.kt:3:1: error: expecting a top level declaration"),
        ("convention", "Main.kt:2:3: error: val cannot be reassigned"),
        ("convention", "Main.kt:2:13: error: the value is out of range"),
    ],
    "zig": [
        ("ecosystem", "main.zig:1:21: error: no module named 'bigint' available within module root"),
        ("api", "main.zig:4:17: error: expected type 'usize', found 'i32'"),
        ("api", "main.zig:4:17: error: root source file struct 'mem' has no member named 'length'"),
        ("invented", "main.zig:4:17: error: invalid builtin function: '@intCastTo'"),
        ("invented", "main.zig:4:17: error: struct 'mem.Allocator' has no member named 'allocMany'"),
        ("invented", "main.zig:4:1: error: expected ';' after statement"),
        ("convention", "main.zig:4:11: error: unused local constant"),
        ("convention", "main.zig:4:9: error: local variable is never mutated"),
    ],
    "hack": [
        ("convention", "Fatal error: syntax error, unexpected '<?hh' at main.hack:1"),
        ("invented", "Fatal error: Uncaught Error: Call to undefined function vec_summate()"),
        ("api", "Fatal error: Call to undefined function println()"),
        ("invented", "Parsing[1002] A semicolon ; is expected here"),
        ("api", "Typing[4110] Invalid argument"),
    ],
}


@pytest.mark.parametrize("language", PROGRAMS)
def test_programs_through_the_real_toolchain(language):
    if toolchain(language) is None:
        pytest.skip(f"no {language} here; {LANGUAGES[language].install}")
    programs = [Program(language, code, (Case("", "42"),)) for _, code in PROGRAMS[language]]
    results = pool.shared().map(programs)
    found = [
        (mistake(language, program.code, result), result)
        for program, result in zip(programs, results, strict=True)
    ]
    wrong = [
        (expected, each, result.stderr[-500:])
        for (expected, _), (each, result) in zip(PROGRAMS[language], found, strict=True)
        if each is None or each.kind != expected or not each.evidence
    ]
    assert wrong == []


@pytest.mark.parametrize("language", SAID)
def test_messages_of_toolchains_that_are_slow_or_rare(language):
    said = [(mistake(language, "", CompileError(stderr=message)), message) for _, message in SAID[language]]
    wrong = [
        (kind, each) for (kind, _), each in zip(SAID[language], said, strict=True) if each[0].kind != kind
    ]
    assert wrong == []


def test_the_first_error_decides_not_the_order_of_the_rules():
    first = "error[E0599]: no method named `summate` found\n\nerror[E0382]: borrow of moved value"
    assert mistake("rust", "", CompileError(stderr=first)).kind == "invented"
    swapped = "error[E0382]: borrow of moved value\n\nerror[E0599]: no method named `summate` found"
    found = mistake("rust", "", CompileError(stderr=swapped))
    assert found == Mistake("convention", "error[E0382]: borrow of moved value")


def test_what_is_no_program_and_what_is_not_its_fault():
    assert mistake("python", None, None) == Mistake("no_code")
    assert mistake("python", None, None, "length") == Mistake("cut_off")
    assert mistake("zig", "x", Missing("zig", "pip install ziglang")) is None
    assert mistake("rust", "x", Broken("the toolchain hangs")) is None
    assert mistake("python", "x", Passed()) is None
    assert mistake("python", "x", None) is None


def test_limits_are_logic_and_a_program_cut_at_the_token_limit_is_no_invention():
    for result in (Timeout(), OutOfMemory()):
        assert mistake("rust", "x", result) == Mistake("logic", type(result).__name__)
    stopped = CompileError(stderr="the compiler ran into its limit of timeout\n")
    assert mistake("rust", "x", stopped).kind == "logic"
    unclosed = Failed(0, "exit status 1", stderr="SyntaxError: '(' was never closed")
    assert mistake("python", "print(", unclosed).kind == "invented"
    assert mistake("python", "print(", unclosed, "length").kind == "cut_off"
    absent = Failed(0, "exit status 1", stderr="ModuleNotFoundError: No module named 'x'")
    assert mistake("python", "import x", absent, "length").kind == "ecosystem"


def test_what_a_program_writes_to_stderr_while_it_answers_wrongly_in_a_compiled_language_is_logic():
    assert mistake("rust", "x", Failed(0, "exit status 101", stderr="error: expected 3")).kind == "logic"


def test_every_language_of_the_sandbox_has_rules_and_every_kind_a_meaning():
    assert RULES.keys() == FORMS.keys() == LANGUAGES.keys()
    assert set(KINDS) == MEANINGS.keys()
    assert {kind for rules in RULES.values() for kind, _ in rules} <= {*KINDS, "unknown", "form"}
