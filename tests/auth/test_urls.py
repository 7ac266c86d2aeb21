"""Which URLs and addresses of somebody else may be used."""

from __future__ import annotations

from typing import Any

import pytest

from mcpsync.auth._urls import (
    bare_url,
    check_url,
    is_loopback_host,
    is_public_address,
    origin,
    same_origin,
    split,
)
from mcpsync.exceptions import DiscoveryError

REFUSED = [
    # what, URL, a part of the reason
    ("E-8 backslash before @", "https://a\\@evil.com/", "characters"),
    ("E-8 backslash", "https://a\\b/", "characters"),
    ("E-8 open bracket", "http://[::1", "malformed"),
    ("E-8 NUL", "https://a/\0", "characters"),
    ("E-8 leading space", " https://a/", "characters"),
    ("E-8 trailing space", "https://a/ ", "characters"),
    ("E-8 port too large", "https://a:99999/", "port"),
    ("E-8 one slash", "https:/x", "no http or https URL"),
    ("E-8 no slashes", "https:a/b", "no http or https URL"),
    ("E-8 tab inside", "https://a\t.example/", "characters"),
    ("E-8 newline inside", "https://a/\nb", "characters"),
    ("E-8 carriage return", "https://a/\r", "characters"),
    ("E-8 three slashes", "https:///a", "malformed"),
    ("E-8 empty host", "https://:443/", "malformed"),
    ("E-8 zone of an address", "https://[fe80::1%25eth0]/", "malformed"),
    ("E-8 no address in brackets", "https://[1::2::3]/", "IPv6"),
    ("E-8 colons without brackets", "https://::1/", "malformed"),
    ("E-8 two ports", "https://a:1:2/", "malformed"),
    ("E-8 empty port", "https://a:/", "malformed"),
    ("E-8 bad escape", "https://a/%zz", "malformed"),
    ("E-8 short escape", "https://a/%4", "malformed"),
    ("E-8 escape in the host", "https://a%2eb/", "malformed"),
    ("E-8 other alphabet", "https://\u0430.example/", "characters"),
    ("E-8 full-width dot", "https://a\uff0eb/", "characters"),
    ("E-8 bidirectional override", "https://a/\u202etxt", "characters"),
    ("E-8 quotation mark", 'https://a/"', "characters"),
    ("E-8 angle bracket", "https://a/<b>", "characters"),
    ("E-8 braces", "https://a/{b}", "characters"),
    ("E-8 dot segment", "https://a/b/../c", "dot segments"),
    ("E-8 last dot segment", "https://a/b/.", "dot segments"),
    ("E-8 escaped dot segment", "https://a/b/%2E%2e/c", "dot segments"),
    ("E-8 two dots in the host", "https://a..b/", "host is malformed"),
    ("E-8 dot after the host", "https://a./", "host is malformed"),
    ("E-8 long label", "https://%s.example/" % ("a" * 64), "host is malformed"),
    ("E-8 empty", "", "no http or https URL"),
    ("E-8 relative", "/token", "no http or https URL"),
    ("E-8 without scheme", "//a.example/token", "no http or https URL"),
    ("E-9 hexadecimal", "https://0x7f.1/", "IPv4"),
    ("E-9 hexadecimal number", "https://0x7f000001/", "IPv4"),
    ("E-9 one number", "https://2130706433/", "IPv4"),
    ("E-9 two numbers", "https://127.1/", "IPv4"),
    ("E-9 octal", "https://017700000001/", "IPv4"),
    ("E-9 octal parts", "https://0177.0.0.1/", "IPv4"),
    ("E-9 a name that ends in a number", "https://a.b.1/", "IPv4"),
    ("H-1 http", "http://as.example/token", "https"),
    ("H-1 http, private", "http://10.0.0.1/token", "https"),
    ("H-1 http, looks like loopback", "http://localhost.example/", "https"),
    ("H-1 http, begins like loopback", "http://127.0.0.1.example/", "https"),
    ("H-1 http, unspecified address", "http://0.0.0.0/", "https"),
    ("H-2 javascript", "javascript:alert(1)", "characters|no http"),
    ("H-2 javascript with a comment", "javascript://a/%0aalert(1)", "no http"),
    ("H-2 data", "data:text/html,x", "no http"),
    ("H-2 file", "file:///etc/passwd", "no http"),
    ("H-2 ftp", "ftp://a/", "no http"),
    ("H-2 vbscript", "vbscript:x", "no http"),
    ("H-2 user", "https://user@a/", "user"),
    ("H-2 user and password", "https://user:pw@a/", "user"),
    ("H-2 empty user", "https://@a/", "user"),
    ("H-2 fragment", "https://a/b#c", "fragment"),
    ("H-2 empty fragment", "https://a/b#", "fragment"),
    ("H-2 port zero", "https://a:0/", "port"),
    ("H-2 length", "https://a/" + "b" * 2039, "longer"),
    ("H-2 number", 5, "not a string"),
    ("H-2 null", None, "not a string"),
    ("H-2 list", ["https://a/"], "not a string"),
]


@pytest.mark.parametrize(
    "url, reason", [pytest.param(u, r, id=i) for i, u, r in REFUSED]
)
def test_refused(url: Any, reason: str) -> None:
    with pytest.raises(DiscoveryError, match=reason) as caught:
        check_url(url, "token_endpoint")
    assert "token_endpoint" in str(caught.value)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("https://as.example", id="E-8 no path"),
        pytest.param("https://as.example/", id="E-8 root"),
        pytest.param("https://as.example?tenant=1", id="E-8 query without path"),
        pytest.param("https://as.example/t/a;b,c/!$&'()*+=:@-._~", id="E-8 all signs"),
        pytest.param("https://as.example/a%20b?c=%2F/?", id="E-8 escapes"),
        pytest.param("https://as.example/@me?x=a@b", id="H-2 at sign in path, query"),
        pytest.param("https://as.example/a..b/...", id="E-8 dots in segments"),
        pytest.param("HTTPS://AS.example/T", id="E-8 upper case"),
        pytest.param("https://as_1.example:65535/", id="E-8 underscore, port"),
        pytest.param("https://[2606:4700::1111]:8443/x", id="E-8 IPv6"),
        pytest.param("https://a/" + "b" * 2038, id="H-2 longest"),
        pytest.param("http://localhost:3000/token", id="H-1 localhost"),
        pytest.param("http://LocalHost/token", id="H-1 localhost, upper case"),
        pytest.param("http://127.0.0.1:1/", id="H-1 127.0.0.1"),
        pytest.param("http://127.8.9.10/", id="H-1 127/8"),
        pytest.param("http://[::1]:3000/", id="H-1 ::1"),
    ],
)
def test_accepted_and_left_as_it_is(url: str) -> None:
    assert check_url(url, "issuer") == url


@pytest.mark.parametrize(
    "insecure",
    [
        pytest.param({"http://as.example:8080"}, id="H-1 set of origins"),
        pytest.param(["HTTP://AS.example:8080/x"], id="H-1 list of URLs"),
        pytest.param(lambda o: o == "http://as.example:8080", id="H-1 function"),
    ],
)
def test_plain_http_where_it_is_allowed(insecure: Any) -> None:
    url = "http://as.example:8080/token"
    assert check_url(url, "token_endpoint", insecure) == url
    for other in ("http://as.example/token", "http://b.example:8080/token"):
        with pytest.raises(DiscoveryError, match="https"):
            check_url(other, "token_endpoint", insecure)


def test_a_message_shows_neither_user_nor_query() -> None:
    with pytest.raises(DiscoveryError) as caught:
        check_url("https://user:pa55w0rd@as.example/a?key=s3cr3t", "issuer")
    assert "https://as.example/a" in str(caught.value)
    assert "pa55w0rd" not in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


PUBLIC = [
    "8.8.8.8",
    "93.184.216.34",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]

NOT_PUBLIC = [
    "127.0.0.1",
    "127.8.9.10",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.170",
    "198.18.0.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:1",
    "64:ff9b:1::808:808",
    "2002:7f00:1::",
    "2002:808:808::",
    "2001:0:7f00:1::",
    "2001:db8::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "not an address",
    "",
]


@pytest.mark.parametrize("address", [pytest.param(a, id="E-9 " + a) for a in PUBLIC])
def test_public_addresses(address: str) -> None:
    assert is_public_address(address)


@pytest.mark.parametrize(
    "address", [pytest.param(a, id="E-9 " + a) for a in NOT_PUBLIC]
)
def test_other_addresses(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize(
    "host, expected",
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.255.0.3", True),
        ("::1", True),
        ("localhost.example", False),
        ("127.1", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_loopback_hosts(host: str, expected: bool) -> None:
    assert is_loopback_host(host) is expected


@pytest.mark.parametrize(
    "url, expected",
    [
        ("HTTPS://A.Example:443/x?y#z", "https://a.example"),
        ("http://a:80", "http://a"),
        ("http://a:443/", "http://a:443"),
        ("https://u:p@a:8443/", "https://a:8443"),
        ("https://[::1]:443/", "https://[::1]"),
        ("https://[::1]:1/", "https://[::1]:1"),
        ("https://b\u00fccher.example/", "https://xn--bcher-kva.example"),
    ],
)
def test_origins(url: str, expected: str) -> None:
    assert origin(url) == expected


@pytest.mark.parametrize("url", ["", "x", "ftp://a/", "https:///", "https://a:99999/"])
def test_what_has_no_origin(url: str) -> None:
    with pytest.raises(ValueError):
        origin(url)
    assert not same_origin(url, url)


def test_parts_escape_what_a_person_may_write() -> None:
    parts = split("https://a/b c/\u00e9?d e=%2F#f")
    assert (parts.path, parts.query) == ("/b%20c/%C3%A9", "d%20e=%2F")
    assert split("https://a/b").query is None
    assert split("https://a/b?").query == ""
    assert split("https://a/b#c?d").query is None


@pytest.mark.parametrize(
    "url, expected",
    [
        ("https://user:pw@a:1/b?c#d", "https://a:1/b"),
        ("https://[::1]:1/b", "https://[::1]:1/b"),
        ("http://[::1", "an invalid URL"),
        ("https://a:99999/", "an invalid URL"),
        ("https://a/\x1b[2J", "https://a/\\x1b[2J"),
    ],
)
def test_bare_urls(url: str, expected: str) -> None:
    assert bare_url(url) == expected
