"""Text from outside, made safe to show."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from mcpsync._text import CLIP, clean, mask

from .fakes import CANARY

ELLIPSIS = "\u2026"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain words, 100 % of them",
        "na\u00efve \u20ac \u65e5\u672c\u8a9e \U0001f600",
        "a\\nb",
        "'quotes' and \"quotes\"",
    ],
)
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a\nb\r\nc\td", "a\\nb\\r\\nc\\td"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x00\x07\x08\x7f\x85\x9b", "\\x00\\x07\\x08\\x7f\\x85\\x9b"),
        ("\u202eevil", "\\u202eevil"),
        ("\u2066a\u2069\u200b\u200f", "\\u2066a\\u2069\\u200b\\u200f"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\ufeff", "\\ufeff"),
        ("\xad\u061c", "\\xad\\u061c"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_moves_or_hides_is_escaped(text: str, shown: str) -> None:
    assert clean(text) == shown


# Signs of scripts that take part in the shape of the digits or letters after them:
# they hide nothing.
_VISIBLE_FORMATS = set(range(0x600, 0x606)) | {0x6DD, 0x890, 0x891, 0x8E2}
_VISIBLE_FORMATS |= {0x110BD, 0x110CD} | set(range(0x13430, 0x13456))
_VISIBLE_FORMATS |= set(range(0x1BCA0, 0x1BCA4)) | set(range(0x1D173, 0x1D17B))


def test_no_control_or_format_character_gets_through() -> None:
    bad = [
        code
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
        and code not in _VISIBLE_FORMATS
        and chr(code) in clean(chr(code))
    ]
    assert [hex(code) for code in bad] == []


def test_what_is_cleaned_is_one_line_that_can_be_encoded() -> None:
    everything = "".join(map(chr, range(0x3000))) + "\ud800\U0001f600"
    shown = clean(everything, limit=len(everything))
    assert shown.splitlines() == [shown]
    shown.encode("utf-8")


def test_other_objects_are_shown_as_text() -> None:
    assert clean(404) == "404"
    assert clean(ValueError("a\nb")) == "a\\nb"


# --- clipping -----------------------------------------------------------------------


def test_long_text_is_clipped() -> None:
    assert clean("a" * CLIP) == "a" * CLIP
    assert clean("a" * (CLIP + 1)) == "a" * CLIP + ELLIPSIS
    assert clean("abcdef", 3) == "abc" + ELLIPSIS
    assert clean("abc", 3) == "abc"
    assert clean("x" * 10_000_000, 10) == "x" * 10 + ELLIPSIS


def test_no_escape_is_cut_in_two() -> None:
    assert clean("a\n\n", 2) == "a\\n" + ELLIPSIS


def test_what_masking_shortens_is_still_marked_as_clipped() -> None:
    secret = "s" * 100
    assert clean(secret * 200, 500, [secret]).endswith(ELLIPSIS)


# --- secrets ------------------------------------------------------------------------


def test_secrets_are_masked() -> None:
    assert clean("token=%s!" % CANARY, secrets=[CANARY]) == "token=***!"
    assert mask("a %s b %s" % (CANARY, CANARY), [CANARY]) == "a *** b ***"


def test_the_longer_secret_goes_first() -> None:
    assert mask("secret-and-more", ["secret", "secret-and-more"]) == "***"


def test_short_values_are_no_secrets() -> None:
    assert clean("12345 1 a", secrets=["1", "", "12345"]) == "12345 1 a"


@pytest.mark.parametrize(
    "text, shown",
    [
        ("Authorization: Bearer abc.DEF-12_3~+/==", "Authorization: Bearer ***"),
        ("bearer   0123456789", "bearer ***"),
        ("Basic dXNlcjpwYXNzd29yZA==, x", "Basic ***, x"),
        ("DPoP eyJhbGciOiJFUzI1NiJ9.e30.c2ln", "DPoP ***"),
        ("Bearer realm=x", "Bearer realm=x"),
    ],
)
def test_credentials_are_masked_by_their_look(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize("before", [0, 1, 300, 470, 490, 499, 500])
def test_a_secret_at_the_cut_is_not_cut_in_two(before: int) -> None:
    shown = clean("x" * before + CANARY + "y" * 1000, 500, [CANARY])
    assert CANARY[:6] not in shown


@pytest.mark.parametrize("length", [100, 4000, 4200, 5000, 20_000])
def test_a_long_secret_at_the_cut_is_not_shown_in_part(length: int) -> None:
    # Tokens with many claims in them have several thousand characters.
    secret = "S" * length
    assert "S" not in clean("x" * 450 + secret, 500, [secret])


@pytest.mark.parametrize("length", [6, 7, 10, 24, 40, 100, 333, 1000])
def test_a_secret_that_is_repeated_is_not_shown_in_part(length: int) -> None:
    secret = "S" * length
    for gap in range(1, 20):
        shown = clean((secret + "-" * gap) * 5000, 500, [secret])
        assert "S" not in shown, gap


def test_a_secret_is_masked_before_its_neighbours_are_escaped() -> None:
    secret = "line one\nline two"
    assert clean("\x00%s\x00" % secret, secrets=[secret]) == "\\x00***\\x00"
