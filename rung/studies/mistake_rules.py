"""What compilers and runtimes say, and which kind of mistake it tells of: one table of patterns per language.

The pattern that matches on the earliest line of the message decides, because what comes later is often only a
consequence; of two that match on the same line, the one that stands first here. A pattern of kind "unknown" captures a name
that does not exist, and `rung.studies.mistakes` looks at where else it does.
"""

from __future__ import annotations

Rules = tuple[tuple[str, str], ...]  # (kind, pattern)

SCRIPT: Rules = (
    ("ecosystem", r"Cannot find (?:module|package) '[^./]"),
    ("convention", r"(?:Cannot use import statement|await is only valid|require is not defined)"),
    ("convention", r"Cannot (?:mix BigInt|convert a BigInt)|Assignment to constant variable"),
    ("unknown", r"(?:\w+\.)*?(\w+) is not (?:a function|a constructor|defined)"),
    ("form", r"SyntaxError: |main\.ts\(\d+\): |error TS1\d{3}"),
    ("api", r"TypeError: (?!Cannot read)"),
)

RULES: dict[str, Rules] = {
    "python": (
        ("ecosystem", r"ModuleNotFoundError: "),
        ("unknown", r"ImportError: cannot import name '(\w+)'"),
        ("convention", r"(?:Missing parentheses in call|IndentationError|TabError|leading zeros in decimal)"),
        ("convention", r"NameError: name '(?:xrange|raw_input|unicode|long|unichr|reduce)'"),
        ("convention", r"NameError: name '(?:math|sys|os|re|itertools|functools|collections|heapq|bisect|string|time)'"),
        ("convention", r"NameError: name '(?:Counter|defaultdict|deque|lru_cache|cache|reduce|List|Dict|Decimal|Fraction)'"),
        ("convention", r"EOFError|Exceeds the limit \(\d+ digits\)"),
        ("unknown", r"(?:has no attribute|NameError: name) '(\w+)'"),
        ("form", r"SyntaxError: "),
        ("api", r"TypeError: "),
    ),
    "javascript": SCRIPT,
    "typescript": SCRIPT,
    "go": (
        ("ecosystem", r"package \S+ is not in|no required module provides package|cannot find package"),
        ("convention", r"imported (?:and|but) not used|declared (?:and|but) not used|missing return\b"),
        ("convention", r"non-declaration statement outside|function main is undeclared|overflows"),
        ("convention", r"undefined: (?:fmt|math|big|strings|strconv|sort|os|bufio|bits|unicode|time)$"),
        ("unknown", r"(?:has no field or method|undefined:|not declared by package) (?:\w+\.)?(\w+)"),
        ("unknown", r"undefined: (\w+)"),
        ("form", r"syntax error: "),
        ("api", r"cannot use|mismatched types|(?:not enough|too many) arguments|invalid operation|assignment mismatch"),
    ),
    "rust": (
        ("convention", r"(?s)error\[E04(?:33|12|25)\](?:(?!\nerror).)*?consider importing"),
        ("ecosystem", r"error\[E0432\]: unresolved imports? `(?!std|core|alloc|crate|self|super)"),
        ("ecosystem", r"error\[E0463\]|(?s:error\[E043[23]\](?:(?!\nerror).)*?(?:missing|unlinked) crate)"),
        ("convention", r"error\[E0(?:382|499|502|503|505|506|507|596|594|384|106|597|373|716|381|601)\]"),
        ("convention", r"error: literal out of range|error: this arithmetic operation will overflow"),
        ("unknown", r"error\[E0(?:599|425|432|433|412)\]: [^\n]*?`(?:\w+::)*(\w+)`"),
        ("unknown", r"error: cannot find macro `(\w+)`"),
        ("api", r"error\[E0\d{3}\]"),
        ("form", r"error: "),
    ),
    "java": (
        ("ecosystem", r"error: package (?!java[.x])\S+ does not exist"),
        ("convention", r"should be declared in a file named|integer number too large|unreported exception"),
        ("convention", r"possible lossy conversion|might (?:not have been|already have been) (?:initialized|assigned)"),
        ("convention", r"missing return statement|[Mm]ain method not found|effectively final|no main"),
        (
            "convention",
            r"(?s)error: cannot find symbol(?:(?!error:).)*?symbol:\s+(?:class|variable) "
            r"(?:\w*(?:List|Map|Set|Deque|Queue)|Arrays|Collections|Scanner|BigInteger|BigDecimal|Collectors|\w+Stream)\b",
        ),
        ("unknown", r"(?s)error: cannot find symbol(?:(?!error:).)*?symbol:\s+\w+ (\w+)"),
        ("api", r"incompatible types|cannot be applied to|bad operand types|no suitable|cannot be dereferenced"),
        ("form", r"error: (?:.*expected|illegal start|not a statement|reached end|unclosed|class, interface)"),
    ),
    "kotlin": (
        ("ecosystem", r"error: unresolved reference:? '?(?:kotlinx|com|org|io)\b"),
        ("convention", r"(?i)val (?:.\w+. )?cannot be reassigned|must be initialized|only safe \(\?\.\)|[Ss]mart cast"),
        ("convention", r"out of range|must be exhaustive|no main manifest|'when' expression must"),
        ("unknown", r"error: unresolved reference:? '?(\w+)"),
        ("api", r"(?i)type mismatch|none of the following|too many arguments|no value passed|type inference failed"),
        ("form", r"(?i)error: (?:expecting|unexpected|unsupported|syntax error)"),
    ),
    "ocaml": (
        ("ecosystem", r"Unbound module (?:Z|Q|Zarith|Core|Base|Batteries|BatList|Num|Big_int|Str|Unix|Lwt|Stdio)\b"),
        ("convention", r"should have type unit|is not mutable|Integer literal exceeds|this is not a function"),
        ("unknown", r"Unbound (?:value|constructor|record field|type constructor|module) (?:\w+\.)*(\w+)"),
        ("api", r"This expression has type|is applied to too many arguments|This function has type"),
        ("form", r"[Ss]yntax error|Illegal character|Unterminated"),
    ),
    "zig": (
        ("ecosystem", r"error: (?:no module named|unable to (?:find|load))"),
        ("convention", r"error: (?:unused |local variable is never mutated|pointless discard|.*is ignored)"),
        ("form", r"error: invalid builtin function"),
        ("unknown", r"error: .*(?:has no member named|no field or member function named|undeclared identifier) '(\w+)'"),
        ("api", r"error: (?:expected type|expected \d+ argument|incompatible types|member function expected|type ')"),
        ("form", r"error: "),
    ),
    "cpp": (
        ("ecosystem", r"fatal error: \S+: No such file|undefined reference to `(?!main)"),
        ("convention", r"(?s)error: (?:(?!error:).)*?(?:is defined in header|forget to .#include)"),
        ("convention", r"(?s)error: .\w+. was not declared in this scope(?:(?!error:).)*?(?:std::|‘std::)"),
        ("convention", r"undefined reference to `main|::main. must return|too large for its type"),
        ("unknown", r"error: [^\n]*?has no member named .(\w+)"),
        ("unknown", r"error: .(\w+). (?:was not declared|is not a member of|does not name a type)"),
        ("api", r"error: (?:no matching|cannot convert|invalid conversion|could not convert|no match for|invalid operands)"),
        ("form", r"error: (?:expected|stray|missing terminating)"),
        ("api", r"error: "),
    ),
    "hack": (
        ("convention", r"<\?(?:hh|php)|top-level (?:code|statements)|__EntryPoint"),
        ("unknown", r"(?:[Uu]nbound name:?|undefined function) \W*(\w+)"),
        ("form", r"Parsing\[|[Ss]yntax error|parse error"),
        ("api", r"Typing\[|Argument \d+ passed to|expects \d+ argument"),
    ),
}  # fmt: skip

# Names that one of these languages has, or its best-known library; a language that lacks one was taken for another.
WORDS = """
append push push_back pushBack add insert emplace_back length len size count Count Len println print printf
puts echo log writeln cout printLine toString to_string str String parseInt parse_int int float atoi stoi
substring substr slice slices split join strip trim trimmed reverse reversed sort sorted sortBy map filter
reduce fold foldl foldr zip range xrange iota each forEach foreach for_each contains includes has containsKey
has_key get put set remove delete erase pop popleft shift unshift peek top front back isEmpty is_empty empty
indexOf index find floor ceil sqrt isqrt pow abs max min gcd lcm sum null nil None undefined true false True
False this self elif then fi BigInt BigInteger HashMap HashSet ArrayList vector dict list tuple Math Array
Object console System fmt std Integer require import include charAt ord chr char_at is_prime isPrime
bit_count bitCount popcount count_ones concat extend flatten entries keys values items
"""
NAMES = frozenset(WORDS.split())

# Forms of other languages, looked for in a program whose form was refused.
FORMS: dict[str, str] = {
    "python": r"\+\+|&&|\|\||^\s*(?:var|let|const|int|function|fn|func) \w|\belse if\b|[;{]\s*$|^\s*//",
    "javascript": r"^\s*(?:def|elif|fn|func|int|long) |^\s*#|:\s*$| and | or ",
    "typescript": r"^\s*(?:def|elif|fn|func|int|long) |^\s*#|:\s*$| and | or ",
    "go": r"\bwhile\b|^\s*(?:let|def|fn|int|const \w+ \w+ =) |\?[^:]*:|\+\+\w|^\s*#",
    "rust": r"\+\+|--;|\bfor \(|^\s*(?:def|var|int|func) |\? [^:]*:|^\s*import ",
    "java": r"^\s*(?:def|let|fn|func|elif|val) |:=|\bin range\(|^\s*#| and | or ",
    "kotlin": r"\bfor \(\w+ \w+ =|^\s*(?:def|let|int|long|func|fn) |\? [^:.]*:|;;|^\s*#",
    "ocaml": r"\bdo\b(?![\s\S]*\bdone\b)|\breturn\b|\bdo\b[^\n]*\n[\s\S]*\bend\b|[{}]\s*$|\+\+|&&=|==>|\bvar\b|\bdef\b|//",
    "zig": r"\+\+;|\bfor \([^)]*;|^\s*(?:let|def|int|func|import) |&&|\|\|",
    "cpp": r"^\s*(?:def|let|fn|func|import|elif) |:=|\bin range\(|\bfunction\b",
    "hack": r"^\s*(?:def|let|fn|func|var|const \w+ =) |\bin range\(",
}
