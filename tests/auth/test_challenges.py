"""Reading ``WWW-Authenticate``."""

from __future__ import annotations

import logging
import time
from typing import Any, Dict, List, Tuple

import pytest

from mcpsync.auth import discovery
from mcpsync.auth._records import Challenge
from mcpsync.auth.challenges import (
    choose_challenge,
    parse_challenges,
    resource_metadata_url,
)

from ..fakes import bounded

Found = List[Tuple[str, Dict[str, str]]]

VECTORS: List[Tuple[str, List[str], Found]] = [
    (
        "P-1 three parameters",
        ['Bearer resource_metadata="https://a/x", scope="a b", error="invalid_token"'],
        [
            (
                "bearer",
                {
                    "resource_metadata": "https://a/x",
                    "scope": "a b",
                    "error": "invalid_token",
                },
            )
        ],
    ),
    (
        "P-1 three challenges",
        [
            'Basic realm="x", Bearer scope="s", '
            'DPoP algs="ES256", error="use_dpop_nonce"',
        ],
        [
            ("basic", {"realm": "x"}),
            ("bearer", {"scope": "s"}),
            ("dpop", {"algs": "ES256", "error": "use_dpop_nonce"}),
        ],
    ),
    (
        "P-1 two header lines",
        ['Basic realm="x"', 'Bearer scope="s"'],
        [("basic", {"realm": "x"}), ("bearer", {"scope": "s"})],
    ),
    (
        "P-1 two header lines, joined",
        ['Basic realm="x", Bearer scope="s"'],
        [("basic", {"realm": "x"}), ("bearer", {"scope": "s"})],
    ),
    (
        "P-1 a parameter inside of quotes",
        ['Bearer error_description="a, scope=\\"evil\\", b", scope="good"'],
        [("bearer", {"error_description": 'a, scope="evil", b', "scope": "good"})],
    ),
    (
        "P-1 a parameter's name at the end of another",
        ['Bearer xscope="evil", scope="good"'],
        [("bearer", {"xscope": "evil", "scope": "good"})],
    ),
    (
        "P-1 a parameter in the realm",
        ['Bearer realm="scope=evil"'],
        [("bearer", {"realm": "scope=evil"})],
    ),
    (
        "P-1 a challenge inside of quotes",
        ['Basic realm="x, Bearer scope=evil"'],
        [("basic", {"realm": "x, Bearer scope=evil"})],
    ),
    (
        "P-1 letter case and spaces",
        ['bearer SCOPE = "A"'],
        [("bearer", {"scope": "A"})],
    ),
    (
        "P-1 tabs",
        ['Bearer\tscope\t=\t"a"\t,\terror=b'],
        [("bearer", {"scope": "a", "error": "b"})],
    ),
    (
        "P-1 token68",
        ['Negotiate abcd==, Bearer scope="x"'],
        [("negotiate", {}), ("bearer", {"scope": "x"})],
    ),
    (
        "P-1 token68 without padding",
        ['Negotiate a/b+c, Bearer scope="x"'],
        [("negotiate", {}), ("bearer", {"scope": "x"})],
    ),
    ("P-1 scheme alone", ["Bearer"], [("bearer", {})]),
    ("P-1 scheme and comma", ["Bearer ,"], [("bearer", {})]),
    ("P-1 commas only", [" , ,, "], []),
    ("P-1 empty", [""], []),
    ("P-1 no header", [], []),
    (
        "P-1 empty elements",
        [',, Bearer , scope="a",, error=b ,'],
        [("bearer", {"scope": "a", "error": "b"})],
    ),
    (
        "P-1 scheme without parameters before another",
        ['Basic, Bearer scope="a"'],
        [("basic", {}), ("bearer", {"scope": "a"})],
    ),
    ("P-1 no quotes", ["Bearer scope=a"], [("bearer", {"scope": "a"})]),
    (
        "P-1 no quotes, though needed",
        ["Bearer scope=read:data, error=b"],
        [("bearer", {"scope": "read:data", "error": "b"})],
    ),
    (
        "P-1 no quotes, though needed, other parameters",
        ['Bearer resource_metadata=https://a/x, scope="a"'],
        [("bearer", {"scope": "a"})],
    ),
    (
        "P-1 empty value",
        ['Bearer scope="", error=b'],
        [("bearer", {"scope": "", "error": "b"})],
    ),
    (
        "P-1 twice",
        ['Bearer scope="a", error=c, scope="b"'],
        [("bearer", {"error": "c"})],
    ),
    (
        "P-1 three times",
        ['Bearer scope="a", scope="b", scope="c"'],
        [("bearer", {})],
    ),
    (
        "P-1 twice, once unreadable",
        ["Bearer error=:, error=b"],
        [("bearer", {})],
    ),
    (
        "P-1 no closing quote",
        ['Bearer error="b", scope="a'],
        [("bearer", {"error": "b"})],
    ),
    (
        "P-1 no closing quote, then another line",
        ['Bearer error="b", scope="a', "Basic realm=x"],
        [("bearer", {"error": "b"}), ("basic", {"realm": "x"})],
    ),
    ("P-1 a backslash at the end", ['Bearer scope="a\\'], [("bearer", {})]),
    (
        "P-1 no comma",
        ['Bearer scope="a" error="b"'],
        [("bearer", {"scope": "a", "error": "b"})],
    ),
    ("P-1 a parameter without a scheme", ['scope="a", Bearer'], [("bearer", {})]),
    (
        "P-1 garbage before a comma",
        ['Bearer @@@, scope="a"'],
        [("bearer", {"scope": "a"})],
    ),
    (
        "P-1 garbage with quotes",
        ['Bearer @@"x, scope=evil , y", error=b'],
        [("bearer", {"error": "b"})],
    ),
    (
        "P-1 two with metadata",
        ['Bearer resource_metadata="https://a", Bearer resource_metadata="https://b"'],
        [
            ("bearer", {"resource_metadata": "https://a"}),
            ("bearer", {"resource_metadata": "https://b"}),
        ],
    ),
    (
        "P-1 line break",
        ['Bearer error=b, scope="a"\r\n\t, realm="c"'],
        [("bearer", {"error": "b", "scope": "a"})],
    ),
    ("P-1 NUL", ["Bearer error=b\0, scope=a"], [("bearer", {"error": "b"})]),
    (
        "P-1 line feed in quotes",
        ['Bearer error=b, scope="a\nc"'],
        [("bearer", {"error": "b"})],
    ),
    ("P-1 control character in quotes", ['Bearer scope="a\x1bc"'], [("bearer", {})]),
    (
        "P-1 other characters in quotes",
        ['Bearer realm="\xe9"'],
        [("bearer", {"realm": "\xe9"})],
    ),
]


@pytest.mark.parametrize(
    "values, expected", [pytest.param(v, e, id=i) for i, v, e in VECTORS]
)
def test_vectors(values: List[str], expected: Found) -> None:
    found = parse_challenges(values)
    assert [(challenge.scheme, dict(challenge.params)) for challenge in found] == (
        expected
    )


def test_p1_at_most_32_challenges() -> None:
    text = ", ".join('S%d a="%d"' % (n, n) for n in range(40))
    found = parse_challenges([text, "Bearer"])
    assert len(found) == 32
    assert found[-1] == Challenge("s31", {"a": "31"})


def test_p1_at_most_16_kib() -> None:
    padding = "x" * 16000
    found = parse_challenges(['Bearer a="%s", b="%s", c="c"' % (padding, padding)])
    assert found == [Challenge("bearer", {"a": padding})]
    # Together, not for each line.
    found = parse_challenges(['Bearer a="%s"' % padding, 'Basic b="%s"' % padding])
    assert found == [Challenge("bearer", {"a": padding})]


def test_p1_a_value_at_the_limit_is_not_cut_in_two() -> None:
    text = "Bearer a=b, scope=" + "x" * 20000
    assert parse_challenges([text]) == [Challenge("bearer", {"a": "b"})]


@pytest.mark.parametrize(
    "text",
    [
        "Bearer " + 'a="b",' * 3000,
        'Bearer scope="' + "\\" * 16000,
        'Bearer a="' + '\\"' * 8000,
        "," * 16000,
        " " * 16000 + "a",
        "a " * 8000,
        "@" * 16000,
        '@"' * 8000,
        'a=@"' * 4000,
        'Bearer @"' + '\\"' * 8000,
        "Bearer " + "x" * 16000 + ":",
        "Bearer x=" + "y" * 16000 + ":",
        "Bearer a=:," * 1400,
        "Negotiate " + "=" * 16000,
        "Negotiate " + "a=" * 8000,
    ],
)
def test_p1_time_is_linear(text: str) -> None:
    # A quadratic parser takes hundreds of times as long for this.
    start = time.monotonic()
    bounded(lambda: [parse_challenges([text]) for _ in range(10)], 30)
    assert time.monotonic() - start < 20


def test_p1_an_ambiguous_parameter_is_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "mcpsync"):
        parse_challenges(["Bearer " + "scope=a, " * 100 + "er\x01ror=b"])
    (record,) = caplog.records
    assert "scope" in record.getMessage()


# --- which one ----------------------------------------------------------------------

BEARER = Challenge("bearer", {"scope": "a"})
SECOND = Challenge("bearer", {"scope": "b"})
DPOP = Challenge("dpop", {"algs": "ES256"})
BASIC = Challenge("basic", {})


@pytest.mark.parametrize(
    "challenges, dpop, expected",
    [
        pytest.param([BASIC, BEARER, SECOND, DPOP], False, BEARER, id="first bearer"),
        pytest.param(
            [BASIC, BEARER, SECOND, DPOP], True, DPOP, id="DPoP if we speak it"
        ),
        pytest.param([BEARER], True, BEARER, id="no DPoP offered"),
        pytest.param([DPOP], False, None, id="DPoP only, and we do not speak it"),
        pytest.param([BASIC], True, None, id="nothing for us"),
        pytest.param([], False, None, id="none"),
    ],
)
def test_choice(challenges: List[Challenge], dpop: bool, expected: Any) -> None:
    assert choose_challenge(challenges, dpop) is expected


def metadata(scheme: str, url: str) -> Challenge:
    return Challenge(scheme, {"resource_metadata": url})


@pytest.mark.parametrize(
    "challenges, expected",
    [
        pytest.param([metadata("bearer", "https://a")], "https://a", id="P-2 bearer"),
        pytest.param([metadata("dpop", "https://a")], "https://a", id="P-2 DPoP"),
        pytest.param(
            [BEARER, metadata("dpop", "https://a")], "https://a", id="P-2 second one"
        ),
        pytest.param([metadata("basic", "https://a")], None, id="P-2 another scheme"),
        pytest.param([BEARER, DPOP], None, id="P-2 none"),
    ],
)
def test_metadata_url(challenges: List[Challenge], expected: Any) -> None:
    assert resource_metadata_url(challenges) == expected


def test_p2_several_metadata_urls(caplog: pytest.LogCaptureFixture) -> None:
    several = [metadata("bearer", "https://a"), metadata("bearer", "https://b")]
    with caplog.at_level(logging.WARNING, "mcpsync"):
        assert resource_metadata_url(several) == "https://a"
    assert "several" in caplog.text


def test_discovery_has_them_too() -> None:
    assert discovery.parse_challenges is parse_challenges
    assert discovery.choose_challenge is choose_challenge
