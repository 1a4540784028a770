"""Which of four cognitive behaviours a written solution shows (2503.01307), read off its words and equations.

    verification        compares a result with what it should be    "check 3*5-8=7", "= 40, not 4", "which matches"
    backtracking        gives up a line and takes another           "back.", "try again", "that doesn't work, so"
    subgoal setting     names something to be made on the way       "first get 15", "make 15 from 3 5", "step 1:"
    backward chaining   goes from the target to what it needs       "7+8=15" where 7 is the target

Rules, no judge: cheap enough for every rollout of a run, the same tomorrow, and blind to what nobody wrote a rule
for. A count is of places that match. Without a `target` backward chaining is only seen where it is named, or where
the text itself says what the target is. The paper used a language model as classifier; its words are not ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

VERIFICATION, BACKTRACKING = "verification", "backtracking"
SUBGOAL, BACKWARD = "subgoal setting", "backward chaining"
EXPRESSION = r"[-(]*\d[\d\s()+*/.-]*"
RULES = {
    VERIFICATION: (
        rf"\b(?:re|double-)?check(?:ing)?:?\s+(?:that\s+)?{EXPRESSION}="
        r"|\b(?:re|double[- ])?(?:check|verif|confirm)(?:y|ing|s|ies)?\b[^.\n]{0,20}"
        r"\b(?:this|that|whether|it|my|(?:the|our) (?:result|answer|sum|math|arithmetic|calculation|work))\b"
        r"|=\s*-?\d+(?:\.\d+)?\s*[,;:(]?\s*(?:which is|that is|that's|is|so it is)?\s*"
        r"(?:yes|no\b|ok\b|correct|right\b|wrong|not\s+(?:equal|the target|what|enough|\d)"
        r"|too (?:big|small|high|low|large|much))"
        r"|\b(?:which|this|that|it)\s+(?:matches|equals|is equal to|does equal|does not equal|doesn't equal)\b"
    ),
    BACKTRACKING: (
        r"(?:^|[.;,!]\s+)back[.,:;]|\bbacktrack|\b(?:go|going|went) back (?:to|and)\b"
        r"|\b(?:let me |let's |i(?:'ll| will) )?try (?:again|another|something else|something different|a different)\b"
        r"|\bstart(?:ing)? over\b|\bdead end\b|\bscrap (?:that|this)\b|(?:^|[.;!]\s*)wait,"
        r"|\b(?:does not|doesn't|won't|will not|didn't|did not) work\b|\binstead,? (?:let|try|use|i)\b"
    ),
    SUBGOAL: (
        r"\b(?:make|get|get to|reach|form|build|produce|need)\s+(?:a\s+)?-?\d+"
        r"(?=\s*(?:$|[.,:;)]|from|with|using|out of|first|by)(?!\w))"
        r"|\bsub-?goals?\b|\bstep (?:\d+|one|two|three)\s*[:.,]|\bbreak (?:this|it|the problem) (?:down|into)\b"
    ),
    BACKWARD: r"\bwork(?:ing)? (?:back(?:wards?)?) from\b|\bwork(?:ing)? backwards?\b|\bbackwards? from the target\b",
}
COMPILED = {name: re.compile(rule, re.I | re.M) for name, rule in RULES.items()}
BLANK = re.compile(r"\s+")
STATED = re.compile(r"\b(?:target|goal)(?: number)?(?: is| of|:)?\s+(\d+)", re.I)


def from_target(target: int | str) -> re.Pattern[str]:
    """An equation that begins with the target: 24/3=8. One that ends with it is no step back from it."""
    return re.compile(rf"(?<![\d.+*/(=-]){target}\s*[-+*/]\s*\d+(?:\s*[-+*/]\s*\d+)*\s*=\s*-?\d+(?!\d|\.\d)")


def behaviours(text: str, target: int | None = None) -> dict[str, int]:
    """How often each behaviour shows. The four names are always there."""
    text = BLANK.sub(lambda run: "\n" if "\n" in run[0] else " ", text)  # long runs would cost their cube
    counts = {name: len(rule.findall(text)) for name, rule in COMPILED.items()}
    stated = STATED.search(text)
    aim = target if target is not None else int(stated[1]) if stated else None
    if aim is not None:
        plain = re.sub(r"(?<=[\d)])\s*([-+*/=])\s*(?=[\d(-])", r"\1", text)
        counts[BACKWARD] += sum(1 for match in from_target(aim).finditer(plain))
    return counts


def shares(texts: Iterable[tuple[str, int | None]]) -> Mapping[str, float]:
    """The share of texts that show each behaviour at least once; NaN of none."""
    found = [behaviours(text, target) for text, target in texts]
    return {
        name: sum(counts[name] > 0 for counts in found) / len(found) if found else float("nan")
        for name in COMPILED
    }
