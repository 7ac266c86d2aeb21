"""The guard against regular expressions that run for ever."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
import warnings
from typing import List

import pytest

from mcpsync.exceptions import SchemaRefused
from mcpsync.protocol._patterns import MAX_PATTERN, MAX_STEPS, Pattern

EVIL = [
    "^(a+)+$",
    "(a|a)*$",
    "(a|aa)+$",
    r"^([a-zA-Z0-9])(([\-.]|[_]+)?([a-zA-Z0-9]+))*(@){1}[a-z0-9]+[.]{1}$",
    "(a?){30}a{30}",
    "a?" * 30 + "a" * 30,
    "(.*)*x",
    "(x+x+)+y",
    "((a*)*)*b",
    r"^(\w+\s?)*$",
    "(a{1,30}){1,30}b",
    "(.*)(.*)(.*)(.*)(.*)x",
    r"(\w*)*\1",
    "a*a*a*a*a*b",
    r"(?=(a+))a*b\1",
    "^(([a-z])+.)+[A-Z]([a-z])+$",
    "^(?:a|b|ab)*$",
    "^(?:[^\\w]|\u2028)+$",
    "^(?:[^é]|ü)+$",
    "^(?:a.|.b)*$",
    "(.*a){20}",
    "(?=(?:.*){9})",
    "(?:(?:(?:a{1000}){1000}){1000})",
    "(?:^){1000000000}",
    "(?:a?){1000000}",
    "^(?:(?:a?|b?)){20}c",
    "(?:(?:){60}){60}",
]

INVALID = [
    "(",
    "[",
    "a{2,1}",
    "*",
    "a{99999999999}",
    r"\p{L}",
    "(?P<x>a)(?P<x>b)",
    "(?<=a+)b",
    "(" * 200,
]

REFUSED_KINDS = [
    "(?i)a",
    "(?i:a)",
    "(?m)^a",
    "(?x) a",
    r"(a)\1",
    "(?P<x>a)(?P=x)",
    "(a)?(?(1)b|c)",
]

USUAL = [
    r"^[a-z0-9_-]{1,64}$",
    r"^\d{4}-\d{2}-\d{2}$",
    r"^[^@\s]+@[^@\s]+\.[^@\s]+$",
    r"^[\w.+-]+@[\w-]+\.[\w.-]+$",
    r"^(GET|POST|PUT)$",
    r"^https?://",
    r"^[A-Z]{2}\d{6}$",
    r"^#[0-9a-fA-F]{6}$",
    r"^\+?[1-9]\d{1,14}$",
    r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
    r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    r"^(\d+\.)?(\d+\.)?(\*|\d+)$",
    r"^\S+$",
    r"^(?!-)[a-z-]+$",
    r"^[a-z]+(-[a-z]+)*$",
    r"^\w+(\.\w+)*$",
    r"^(?=.*[A-Z])(?=.*\d).{8,}$",
    r"^\d+(\.\d+)?(e[+-]?\d+)?$",
    r"^(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?!$)|$)){4}$",
    r"^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$",
    r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$",
    r"^s3://[^/]+/.*$",
    r"\.(png|jpe?g)$",
    r"^(?!\s*$).+",
    r"^\(?\d{3}\)?",
    r"\s+$",
    ".+",
    "foo",
    "",
    "^$",
]

TEXTS = [
    "",
    "a",
    "2026-07-28",
    "me@example.com",
    "GET",
    "https://example.com",
    "AB123456",
    "#00ff7f",
    "+4930123456",
    "Zm9vYmFy",
    "123e4567-e89b-12d3-a456-426614174000",
    "1.2.*",
    "kebab-case-name",
    "snake.case",
    "Passw0rd!",
    "-1.5e+10",
    "192.168.0.255",
    "00:1A:2b:3C:4d:5E",
    "2026-07-28T12:00:00.5+02:00",
    "s3://bucket/key",
    "photo.jpeg",
    "  ",
    "(030) 1",
    "café\n",
]


@pytest.mark.parametrize("text", EVIL)
def test_patterns_that_could_run_for_ever_are_refused(text: str) -> None:
    with pytest.raises(SchemaRefused, match="pattern"):
        Pattern(text)


@pytest.mark.parametrize("text", INVALID)
def test_invalid_patterns_are_refused(text: str) -> None:
    with pytest.raises(SchemaRefused, match="invalid"):
        Pattern(text)


@pytest.mark.parametrize("text", REFUSED_KINDS)
def test_what_json_schema_does_not_have_is_refused(text: str) -> None:
    with pytest.raises(SchemaRefused):
        Pattern(text)


def test_a_long_pattern_is_refused() -> None:
    assert Pattern("a" * MAX_PATTERN).search("a" * MAX_PATTERN)
    with pytest.raises(SchemaRefused, match="257 characters"):
        Pattern("a" * (MAX_PATTERN + 1))


@pytest.mark.parametrize("text", USUAL)
def test_usual_patterns_work_on_usual_texts(text: str) -> None:
    pattern = Pattern(text)
    assert pattern.limit > 1000
    for example in TEXTS:
        assert pattern.search(example) is bool(re.search(text, example))


def test_most_usual_patterns_are_linear() -> None:
    polynomial = {text for text in USUAL if Pattern(text).limit < 40_000}
    assert polynomial == {r"^[^@\s]+@[^@\s]+\.[^@\s]+$", r"\s+$", ".+"}


def test_a_text_beyond_the_bound_is_refused_and_not_tried() -> None:
    pattern = Pattern(r"\s+$")
    assert pattern.search("a" * (pattern.limit - 1) + " ")
    with pytest.raises(SchemaRefused, match="too long on"):
        pattern.search(" " * (pattern.limit + 1))


def test_the_bound_is_where_the_work_crosses_the_limit() -> None:
    for text in (r"\s+$", r"^[^@\s]+@[^@\s]+\.[^@\s]+$", "(ab|ac)*d"):
        pattern = Pattern(text)
        assert pattern.steps(pattern.limit) <= MAX_STEPS
        assert pattern.steps(10) < pattern.steps(100) < pattern.steps(1000)


def test_a_warning_that_the_host_made_an_error_is_a_refusal() -> None:
    # A set that begins with a bracket is one day to mean something else.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SchemaRefused, match="invalid"):
            Pattern("[[a]")


def random_pattern(choose: random.Random, depth: int) -> str:
    atoms = ["a", "b", "[ab]", ".", "ab", "[^a]", r"\w", "^", "$", r"\b", "(?=a)"]
    kind = choose.random()
    if depth == 0 or kind < 0.3:
        return choose.choice(atoms + ["(?!b)", "(?:ab|a)", "(?<=a)", "(?=a*b)"])
    parts = [random_pattern(choose, depth - 1) for _ in range(choose.randint(2, 3))]
    if kind < 0.6:
        return "".join(parts)
    if kind < 0.75:
        return "(?:%s)" % "|".join(parts)
    repeats = ["*", "+", "?", "{2}", "{1,3}", "{2,}", "{0,40}", "*?", "{5,100}"]
    return "(?:%s)%s" % (parts[0], choose.choice(repeats))


# In a process of its own: a wrong guess of the guard would freeze this one.
_RUN = """
import json, sys, time
from mcpsync.exceptions import SchemaRefused
from mcpsync.protocol._patterns import Pattern

used = 0
worst = 0.0
for text in json.load(sys.stdin):
    try:
        pattern = Pattern(text)
    except SchemaRefused:
        continue
    used += 1
    length = min(pattern.limit, 20000)
    for unit in ("a", "b", "ab", "aab", " ", "a.", "a-", "1"):
        begun = time.perf_counter()
        pattern.search((unit * length)[: length - 1] + "!")
        worst = max(worst, time.perf_counter() - begun)
print(json.dumps([used, worst]))
"""


def run_patterns(patterns: List[str]) -> List[float]:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", _RUN],
        input=json.dumps(patterns),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    result: List[float] = json.loads(done.stdout)
    return result


def test_evil_patterns_cost_nothing_and_usual_ones_little() -> None:
    used, worst = run_patterns(EVIL + USUAL)
    assert used == len(USUAL)
    assert worst < 5


def test_no_accepted_random_pattern_is_slow() -> None:
    choose = random.Random(20261120)
    patterns = [random_pattern(choose, 4) + "!" for _ in range(400)]
    used, worst = run_patterns([text for text in patterns if len(text) <= MAX_PATTERN])
    assert used > 100
    assert worst < 5


def test_judging_is_bounded_too() -> None:
    costly = [
        "(?:a?b?){32}[abc]*",
        "[a-z]{1,64}[0-9]{1,64}[a-z]{1,64}[0-9]{1,60}",
        "|".join(chr(65 + n % 26) + chr(97 + n % 26) for n in range(80)),
        "a?" * 128,
        "(?:" * 60 + "a" + ")?" * 60,
    ]
    begun = time.perf_counter()
    for text in costly:
        try:
            Pattern(text)
        except SchemaRefused:
            continue
    assert time.perf_counter() - begun < 5
