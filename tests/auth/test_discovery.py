"""Finding the authorization server of a server, and the scopes to ask for."""

from __future__ import annotations

import logging
from typing import Any, Dict, Iterator, List, Optional

import pytest

from mcpsync.auth import discovery
from mcpsync.auth._fetch import Fetcher
from mcpsync.auth._records import Challenge, ResourceMetadata, ServerMetadata
from mcpsync.auth.discovery import (
    MetadataCache,
    canonical_resource,
    choose_issuer,
    choose_scopes,
    covers,
    find_resource_metadata,
    find_server_metadata,
    legacy_server_metadata,
    resource_metadata_urls,
    server_metadata_urls,
    split_scope,
    step_up_scopes,
    union_scopes,
    with_offline_access,
)
from mcpsync.exceptions import (
    ConfigError,
    DiscoveryError,
    IssuerMismatch,
    MCPError,
    ResourceMismatch,
)

from ..fakes.scripted_http import Reply, json_reply
from .sites import Resolver, Site, html, soon

PRM = "/.well-known/oauth-protected-resource"
OAUTH = "/.well-known/oauth-authorization-server"
OPENID = "/.well-known/openid-configuration"


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


def fetcher(site: Site) -> Fetcher:
    return Fetcher(server_url=site.url)


def challenge(**params: str) -> List[Challenge]:
    return [Challenge("bearer", params)]


# --- the protected resource ---------------------------------------------------------


def resource(site: Site, **more: Any) -> Dict[str, Any]:
    return {"resource": site.url, "authorization_servers": ["https://as"], **more}


def find(
    site: Site, challenges: Any = (), path: str = "/mcp"
) -> Optional[ResourceMetadata]:
    url = site.base + path
    return find_resource_metadata(fetcher(site), url, challenges, soon())


def test_p2_the_url_of_the_challenge_alone(site: Site) -> None:
    site.routes["/custom/location.json"] = resource(site)
    site.routes[PRM + "/mcp"] = site.routes[PRM] = resource(site)
    url = site.base + "/custom/location.json"
    found = find(site, challenge(resource_metadata=url))
    assert found is not None and found.resource == site.url
    assert site.asked == ["/custom/location.json"]


def test_p2_then_the_path_then_the_root(site: Site) -> None:
    site.routes[PRM] = resource(site)
    assert find(site) is not None
    assert site.asked == [PRM + "/mcp", PRM]


def test_p2_the_first_that_is_there_counts(site: Site) -> None:
    site.routes[PRM + "/mcp"] = site.routes[PRM] = resource(site)
    assert find(site) is not None
    assert site.asked == [PRM + "/mcp"]


@pytest.mark.parametrize(
    "url, expected",
    [
        pytest.param("https://a", [PRM], id="P-3 host"),
        pytest.param("https://a/", [PRM], id="P-3 root: one URL"),
        pytest.param("https://a/mcp", [PRM + "/mcp", PRM], id="P-3 path"),
        pytest.param("https://a/x/y", [PRM + "/x/y", PRM], id="P-3 longer path"),
        pytest.param("https://a/mcp/", [PRM + "/mcp/", PRM], id="P-3 slash is kept"),
        pytest.param("https://a/m?t=1", [PRM + "/m?t=1", PRM], id="P-3 query"),
        pytest.param("https://a/?t=1", [PRM + "?t=1", PRM], id="P-3 query of the root"),
        pytest.param("https://a/mcp#f", [PRM + "/mcp", PRM], id="P-3 fragment"),
        pytest.param("https://u:p@A/mcp", [PRM + "/mcp", PRM], id="P-3 U-4 user"),
        pytest.param("https://a:443/m n", [PRM + "/m%20n", PRM], id="P-3 space"),
    ],
)
def test_places_of_resource_metadata(url: str, expected: List[str]) -> None:
    assert resource_metadata_urls(url) == ["https://a" + path for path in expected]


@pytest.mark.parametrize(
    "url, reason",
    [
        pytest.param("http://as.example/x", "https", id="P-4 http"),
        pytest.param("http://127.0.0.1:1/x", "server itself", id="P-4 other origin"),
        pytest.param("javascript:alert(1)", "refused", id="P-4 javascript"),
        pytest.param("https://u@a/x", "user", id="P-4 user"),
        pytest.param("/relative", "refused", id="P-4 relative"),
        pytest.param("", "refused", id="P-4 empty"),
    ],
)
def test_urls_that_a_challenge_must_not_name(site: Site, url: str, reason: str) -> None:
    site.routes[PRM] = resource(site)
    with pytest.raises(DiscoveryError, match=reason):
        find(site, challenge(resource_metadata=url))
    assert site.asked == []


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(404), id="P-9 404"),
        pytest.param(Reply(405), id="P-9 405"),
        pytest.param(Reply(410), id="P-9 410"),
        pytest.param(json_reply({"resource": "x"}, status=401), id="P-9 401"),
        pytest.param(Reply(403), id="P-9 403"),
        pytest.param(html(), id="P-9 a web page"),
        pytest.param(html(404), id="P-9 a web page with 404"),
        pytest.param(Reply(200, {}, b"OK"), id="P-9 a word"),
        pytest.param(Reply(204), id="P-9 204"),
        pytest.param(Reply(302, {"Location": "/login"}), id="P-9 moved to a login"),
    ],
)
def test_what_means_not_there(
    site: Site, reply: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    site.routes["/login"] = html()
    site.routes["/named"] = site.routes[PRM + "/mcp"] = reply
    site.routes[PRM] = resource(site)
    url = site.base + "/named"
    with caplog.at_level(logging.WARNING, "mcpsync"):
        assert find(site, challenge(resource_metadata=url)) is not None
    asked = [path for path in site.asked if path != "/login"]
    assert asked == ["/named", PRM + "/mcp", PRM]
    assert "/named" in caplog.text


def test_p9_a_place_is_asked_once(site: Site) -> None:
    url = site.base + PRM + "/mcp"
    assert find(site, challenge(resource_metadata=url)) is None
    assert site.asked == [PRM + "/mcp", PRM]


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_p9_an_outage_ends_it(site: Site, status: int) -> None:
    site.routes[PRM + "/mcp"] = Reply(status)
    site.routes[PRM] = resource(site)
    with pytest.raises(DiscoveryError) as caught:
        find(site)
    assert caught.value.retryable
    assert site.asked == [PRM + "/mcp"]


def test_p10_nothing_anywhere(site: Site) -> None:
    assert find(site) is None
    assert find(site, path="/") is None
    assert site.asked == [PRM + "/mcp", PRM, PRM]


JSON_TYPE = {"Content-Type": "application/json; charset=utf-8"}

JUNK = [
    ("list", json_reply([])),
    ("null", json_reply(None)),
    ("string", json_reply("x")),
    ("number", json_reply(5)),
    ("true", json_reply(True)),
    ("empty", Reply(200, JSON_TYPE)),
    ("cut off", Reply(200, JSON_TYPE, b'{"resource": "')),
    ("deep", Reply(200, JSON_TYPE, b"[" * 5000)),
    ("other JSON type", Reply(200, {"Content-Type": "application/x+json"}, b"<html>")),
    ("two megabytes", Reply(200, JSON_TYPE, b" " * 2_000_000)),
    ("not UTF-8", Reply(200, JSON_TYPE, b'{"resource": "\xff"}')),
]


@pytest.mark.parametrize("reply", [pytest.param(r, id="P-9 " + i) for i, r in JUNK])
def test_junk_is_not_the_absence_of_metadata(site: Site, reply: Reply) -> None:
    site.routes[PRM + "/mcp"] = site.routes[OAUTH] = reply
    with pytest.raises(DiscoveryError, match="oauth-protected-resource/mcp") as caught:
        find(site)
    assert not caught.value.retryable
    assert site.asked == [PRM + "/mcp"]
    for look in (find_server_metadata, legacy_server_metadata):
        with pytest.raises(DiscoveryError, match="oauth-authorization-server"):
            look(fetcher(site), site.base, soon())


@pytest.mark.parametrize(
    "resource_value",
    [
        pytest.param("https://evil.example.com/mcp", id="P-5 other origin"),
        pytest.param("%(base)s/mcp123", id="P-5 longer segment"),
        pytest.param("%(base)s/mc", id="P-5 shorter segment"),
        pytest.param("%(base)s/mcp/x", id="P-5 below"),
        pytest.param("%(base)s/mcp#x", id="P-5 fragment"),
        pytest.param("mcp", id="P-5 no URL"),
        pytest.param("", id="P-5 empty"),
        pytest.param(5, id="P-5 number"),
        pytest.param(None, id="P-5 null"),
        pytest.param(["%(base)s/mcp"], id="P-5 list"),
    ],
)
def test_metadata_of_another_resource(site: Site, resource_value: Any) -> None:
    if isinstance(resource_value, str):
        resource_value = resource_value % {"base": site.base}
    site.routes[PRM + "/mcp"] = resource(site, resource=resource_value)
    site.routes[PRM] = resource(site)
    with pytest.raises(ResourceMismatch, match=site.url):
        find(site)
    assert site.asked == [PRM + "/mcp"]


def test_p5_metadata_without_a_resource(site: Site) -> None:
    site.routes[PRM + "/mcp"] = {"authorization_servers": ["https://as"]}
    with pytest.raises(ResourceMismatch, match="no resource"):
        find(site)


COVERS = [
    ("P-5 equal", "https://a/mcp", "https://a/mcp", True),
    ("P-5 origin", "https://a", "https://a/mcp", True),
    ("P-5 origin with slash", "https://a/", "https://a/mcp", True),
    ("P-5 root and empty", "https://a/", "https://a", True),
    ("P-5 empty and root", "https://a", "https://a/", True),
    ("P-5 parent", "https://a/x", "https://a/x/mcp", True),
    ("P-5 slash at the end", "https://a/mcp/", "https://a/mcp", True),
    ("P-5 no slash at the end", "https://a/mcp", "https://a/mcp/", True),
    ("P-5 letter case", "HTTPS://A/mcp", "https://a/mcp", True),
    ("P-5 default port", "https://a:443/mcp", "https://a/mcp", True),
    ("P-5 the server has a query", "https://a/mcp", "https://a/mcp?t=1", True),
    ("P-5 the same query", "https://a/mcp?t=1", "https://a/mcp?t=1", True),
    ("P-5 another query", "https://a/mcp?t=1", "https://a/mcp?t=2", False),
    ("P-5 query of a parent", "https://a/?t=1", "https://a/mcp?t=1", False),
    ("P-5 scheme", "http://a/mcp", "https://a/mcp", False),
    ("P-5 port", "https://a:8443/mcp", "https://a/mcp", False),
    ("P-5 host", "https://b/mcp", "https://a/mcp", False),
    ("P-5 subdomain", "https://x.a/mcp", "https://a/mcp", False),
    ("P-5 letter case of the path", "https://a/MCP", "https://a/mcp", False),
    ("P-5 segments", "https://a/api", "https://a/api123", False),
    ("P-5 below", "https://a/mcp/x", "https://a/mcp", False),
    ("P-5 sibling", "https://a/x", "https://a/y", False),
    ("P-5 two slashes", "https://a//", "https://a/mcp", False),
    ("P-5 fragment", "https://a/mcp#x", "https://a/mcp", False),
    ("P-5 empty fragment", "https://a/mcp#", "https://a/mcp", False),
    ("P-5 user", "https://u@a/mcp", "https://a/mcp", False),
    ("P-5 user, backslash", "https://b\\@a/mcp", "https://a/mcp", False),
    ("P-5 at sign in the path", "https://a/@x", "https://a/@x/mcp", True),
    ("P-5 dot segments", "https://a/mcp/x/../", "https://a/mcp/x/../", False),
    ("P-5 no URL", "urn:x", "https://a/mcp", False),
    ("P-5 no server", "https://a/mcp", "stdio", False),
    ("P-5 bad port", "https://a:99999/mcp", "https://a/mcp", False),
    ("U-4 the server's user", "https://a/mcp", "https://u:p@a/mcp", True),
]


@pytest.mark.parametrize(
    "identifier, server, expected", [pytest.param(*rest, id=i) for i, *rest in COVERS]
)
def test_covers(identifier: str, server: str, expected: bool) -> None:
    assert covers(identifier, server) is expected


@pytest.mark.parametrize(
    "identifier", ["%s", "%s/", "%s/mcp", "%s/mcp/"], ids="U-2 {}".format
)
def test_the_identifier_is_kept_as_it_is(site: Site, identifier: str) -> None:
    given = identifier % site.base
    site.routes[PRM + "/mcp"] = resource(site, resource=given)
    found = find(site)
    assert found is not None and found.resource == given


@pytest.mark.parametrize(
    "servers",
    [
        pytest.param([], id="P-6 empty"),
        pytest.param(None, id="P-6 null"),
        pytest.param("https://as", id="P-6 string"),
        pytest.param([5], id="P-6 number"),
        pytest.param(["https://as", None], id="P-6 null in it"),
        pytest.param({"https://as": 1}, id="P-6 object"),
    ],
)
def test_no_authorization_servers(site: Site, servers: Any) -> None:
    site.routes[PRM + "/mcp"] = resource(site, authorization_servers=servers)
    with pytest.raises(DiscoveryError, match="names no authorization servers"):
        find(site)


@pytest.mark.parametrize(
    "known, expected",
    [
        pytest.param((), "https://a", id="P-6 the first"),
        pytest.param({"https://b"}, "https://b", id="P-6 the one that knows us"),
        pytest.param({"https://c", "https://b"}, "https://b", id="P-6 first of these"),
        pytest.param({"https://b/"}, "https://a", id="P-6 exactly"),
        pytest.param({"https://gone"}, "https://a", id="P-6 not listed any more"),
    ],
)
def test_choice_of_an_issuer(known: Any, expected: str) -> None:
    listed = ("https://a", "https://b", "https://c")
    assert choose_issuer(ResourceMetadata("r", listed), known) == expected


@pytest.mark.parametrize(
    "scopes, expected",
    [
        pytest.param(["a", "b", "a"], ("a", "b"), id="P-12 list"),
        pytest.param([], (), id="P-12 empty"),
        pytest.param("a b", None, id="P-12 string"),
        pytest.param([1], None, id="P-12 number"),
        pytest.param({"a": 1}, None, id="P-12 object"),
        pytest.param(None, None, id="P-12 null"),
        pytest.param(["a b"], None, id="P-12 S-12 space"),
        pytest.param(["a", 'b"'], None, id="P-12 S-12 quotation mark"),
        pytest.param(["\x1b[2J"], None, id="P-12 S-12 control character"),
    ],
)
def test_optional_facts_of_a_resource(site: Site, scopes: Any, expected: Any) -> None:
    site.routes[PRM + "/mcp"] = resource(
        site,
        scopes_supported=scopes,
        bearer_methods_supported=5,
        signed_metadata="x.y.z",
        unknown={"a": 1},
    )
    found = find(site)
    assert found is not None and found.scopes_supported == expected
    assert found.raw["unknown"] == {"a": 1}


@pytest.mark.parametrize(
    "url, expected",
    [
        pytest.param("HTTPS://A.Example/Mcp", "https://a.example/Mcp", id="U-3 case"),
        pytest.param("https://a/", "https://a", id="U-3 slash"),
        pytest.param("https://a", "https://a", id="U-3 no slash"),
        pytest.param("https://a/mcp/", "https://a/mcp/", id="U-3 meaningful slash"),
        pytest.param("https://a:443/mcp", "https://a/mcp", id="U-3 default port"),
        pytest.param("https://a:8443/x/y", "https://a:8443/x/y", id="U-3 path"),
        pytest.param("https://a/mcp?t=1#f", "https://a/mcp?t=1", id="U-3 fragment"),
        pytest.param("https://u:p@a/mcp", "https://a/mcp", id="U-4 user"),
    ],
)
def test_canonical_resource(url: str, expected: str) -> None:
    assert canonical_resource(url) == expected


@pytest.mark.parametrize("function", [canonical_resource, resource_metadata_urls])
def test_a_server_url_that_is_none(function: Any) -> None:
    with pytest.raises(ConfigError, match="no URL"):
        function("stdio:x")


# --- the authorization server -------------------------------------------------------


def server(issuer: str, /, **more: Any) -> Dict[str, Any]:
    origin = "/".join(issuer.split("/")[:3])
    found = {
        "issuer": issuer,
        "authorization_endpoint": origin + "/authorize",
        "token_endpoint": origin + "/token",
        **more,
    }
    return {name: value for name, value in found.items() if value is not ...}


def look(site: Site, issuer: str) -> ServerMetadata:
    return find_server_metadata(fetcher(site), issuer, soon())


@pytest.mark.parametrize(
    "issuer, expected",
    [
        pytest.param("https://a", [OAUTH, OPENID], id="M-1 host"),
        pytest.param("https://a/", [OAUTH, OPENID], id="M-1 root"),
        pytest.param(
            "https://a/t",
            [OAUTH + "/t", OPENID + "/t", "/t" + OPENID],
            id="M-1 path",
        ),
        pytest.param(
            "https://a/t/",
            [OAUTH + "/t", OPENID + "/t", "/t" + OPENID],
            id="M-1 path with slash",
        ),
        pytest.param(
            "https://A:443/x/y",
            [OAUTH + "/x/y", OPENID + "/x/y", "/x/y" + OPENID],
            id="M-1 longer path",
        ),
    ],
)
def test_places_of_server_metadata(issuer: str, expected: List[str]) -> None:
    assert server_metadata_urls(issuer) == ["https://a" + path for path in expected]


@pytest.mark.parametrize(
    "path, place, expected",
    [
        pytest.param("", OAUTH, [OAUTH], id="M-1 default"),
        pytest.param("", OPENID, [OAUTH, OPENID], id="M-1 var1"),
        pytest.param("/t", OAUTH + "/t", [OAUTH + "/t"], id="M-1 var2"),
        pytest.param(
            "/t",
            "/t" + OPENID,
            [OAUTH + "/t", OPENID + "/t", "/t" + OPENID],
            id="M-1 var3",
        ),
        pytest.param("/t", OPENID + "/t", [OAUTH + "/t", OPENID + "/t"], id="M-1 M-2"),
    ],
)
@pytest.mark.parametrize("missing", [Reply(404), Reply(403), html()])
def test_order_of_server_metadata(
    site: Site, path: str, place: str, expected: List[str], missing: Reply
) -> None:
    issuer = site.base + path
    for other in (OAUTH + path, OPENID + path, path + OPENID):
        site.routes[other] = missing
    site.routes[place] = server(issuer)
    assert look(site, issuer).issuer == issuer
    assert site.asked == expected


def test_m1_none_anywhere(site: Site) -> None:
    with pytest.raises(DiscoveryError, match="no metadata") as caught:
        look(site, site.base + "/t")
    assert not caught.value.retryable
    assert site.asked == [OAUTH + "/t", OPENID + "/t", "/t" + OPENID]


def test_m1_an_outage_ends_it(site: Site) -> None:
    site.routes[OAUTH] = Reply(503)
    site.routes[OPENID] = server(site.base)
    with pytest.raises(DiscoveryError) as caught:
        look(site, site.base)
    assert caught.value.retryable
    assert site.asked == [OAUTH]


@pytest.mark.parametrize(
    "named",
    [
        pytest.param("https://attacker.example.com", id="M-3 other"),
        pytest.param("%s/", id="M-3 slash"),
        pytest.param("%s/t", id="M-3 path"),
        pytest.param(" %s", id="M-3 space"),
        pytest.param("HTTP%s", id="M-3 letter case"),
        pytest.param("", id="M-3 empty"),
        pytest.param(5, id="M-3 number"),
        pytest.param(None, id="M-3 null"),
        pytest.param(["%s"], id="M-3 list"),
        pytest.param(..., id="M-3 missing"),
    ],
)
def test_metadata_of_another_issuer(site: Site, named: Any) -> None:
    if isinstance(named, str):
        if named == "HTTP%s":
            named = site.base.replace("http", "HTTP")
        named = named.replace("%s", site.base)
    site.routes[OAUTH] = server(site.base, issuer=named)
    site.routes[OPENID] = server(site.base)
    with pytest.raises(IssuerMismatch, match=site.base + OAUTH):
        look(site, site.base)
    assert site.asked == [OAUTH]


@pytest.mark.parametrize("ending", ["", "/", "/t", "/t/"], ids="M-4 {}".format)
def test_the_issuer_is_kept_as_it_is(site: Site, ending: str) -> None:
    issuer = site.base + ending
    site.routes[OAUTH + ending.rstrip("/")] = server(issuer)
    assert look(site, issuer).issuer == issuer


@pytest.mark.parametrize(
    "issuer, reason",
    [
        pytest.param("http://as.example", "https", id="H-1 http"),
        pytest.param("https://as.example?x=1", "query", id="M-1 query"),
        pytest.param("https://as.example#x", "fragment", id="H-2 fragment"),
        pytest.param("https://u@as.example", "user", id="H-2 user"),
        pytest.param("as.example", "no http", id="H-2 no URL"),
        pytest.param("https://2130706433/", "IPv4", id="E-9 number"),
    ],
)
def test_issuers_that_are_not_asked(site: Site, issuer: str, reason: str) -> None:
    with pytest.raises(DiscoveryError, match=reason):
        look(site, issuer)


ENDPOINTS = [
    "authorization_endpoint",
    "token_endpoint",
    "registration_endpoint",
    "revocation_endpoint",
]

BAD_ENDPOINTS = [
    ("javascript", "javascript:alert(1)"),
    ("data", "data:text/html,x"),
    ("file", "file:///etc/passwd"),
    ("user", "https://u:p@as.example/x"),
    ("http", "http://as.example/x"),
    ("number for an address", "https://127.1/x"),
    ("relative", "/token"),
    ("fragment", "https://as.example/x#y"),
    ("space", "https://as.example/x y"),
    ("number", 5),
    ("list", ["https://as.example/x"]),
    ("object", {}),
    ("true", True),
]


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize(
    "value", [pytest.param(v, id="M-5 H-1 H-2 " + i) for i, v in BAD_ENDPOINTS]
)
def test_endpoints_that_are_refused(site: Site, name: str, value: Any) -> None:
    site.routes[OAUTH] = server(site.base, **{name: value})
    with pytest.raises(DiscoveryError, match=name):
        look(site, site.base)
    with pytest.raises(DiscoveryError, match=name):
        legacy_server_metadata(fetcher(site), site.url, soon())
    assert set(site.asked) == {OAUTH}


@pytest.mark.parametrize("value", [..., None, ""], ids="M-5 {}".format)
def test_no_token_endpoint(site: Site, value: Any) -> None:
    site.routes[OAUTH] = server(site.base, token_endpoint=value)
    with pytest.raises(DiscoveryError, match="has no token_endpoint"):
        look(site, site.base)


@pytest.mark.parametrize("value", [..., None, ""], ids="M-5 {}".format)
def test_endpoints_that_may_be_missing(site: Site, value: Any) -> None:
    # Whether a code can be asked for is a question of the flow.
    names = [name for name in ENDPOINTS if name != "token_endpoint"]
    site.routes[OAUTH] = server(site.base, **{name: value for name in names})
    found = look(site, site.base)
    assert [getattr(found, name) for name in names] == [None, None, None]


def test_m6_endpoints_may_be_elsewhere(site: Site) -> None:
    elsewhere = {name: "https://b.example/" + name for name in ENDPOINTS}
    site.routes[OAUTH] = server(site.base, **elsewhere)
    found = look(site, site.base)
    assert {name: getattr(found, name) for name in ENDPOINTS} == elsewhere


LISTS = [
    "scopes_supported",
    "code_challenge_methods_supported",
    "token_endpoint_auth_methods_supported",
    "authorization_grant_profiles_supported",
    "dpop_signing_alg_values_supported",
]


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    "value, expected",
    [
        pytest.param(["a", "b"], ("a", "b"), id="K-3 list"),
        pytest.param([], (), id="K-3 empty"),
        pytest.param(..., None, id="K-3 absent"),
        pytest.param(None, None, id="K-3 null"),
        pytest.param("S256", None, id="K-3 string"),
        pytest.param(["S256", 5], None, id="K-3 number in it"),
    ],
)
def test_lists_of_a_server(site: Site, name: str, value: Any, expected: Any) -> None:
    site.routes[OAUTH] = server(site.base, **{name: value})
    assert getattr(look(site, site.base), name) == expected


FLAGS = [
    "client_id_metadata_document_supported",
    "authorization_response_iss_parameter_supported",
]


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize(
    "value, expected",
    [(True, True), (False, False), (..., False), ("true", False), (1, False)],
)
def test_flags_of_a_server(site: Site, name: str, value: Any, expected: bool) -> None:
    site.routes[OAUTH] = server(site.base, **{name: value}, unknown=[1])
    found = look(site, site.base)
    assert getattr(found, name) is expected
    assert found.found and found.raw["unknown"] == [1]


@pytest.mark.parametrize("name", ENDPOINTS)
def test_h3_endpoints_at_private_addresses(
    site: Site, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 127.0.0.1, where the site is, counts as public here.
    resolver = Resolver(monkeypatch)
    resolver.names.update(
        {"mcp.example": ["93.184.216.34"], "inner.example": ["10.0.0.1"]}
    )
    monkeypatch.setattr(
        "mcpsync.auth._fetch.is_public_address", lambda a: not a.startswith("10.")
    )
    site.routes[OAUTH] = server(site.base, **{name: "https://inner.example/x"})
    public = Fetcher(server_url="https://mcp.example/mcp")
    with pytest.raises(DiscoveryError, match="10.0.0.1, which is no public address"):
        find_server_metadata(public, site.base, soon())
    inner = Fetcher(server_url="https://inner.example/mcp")
    assert find_server_metadata(inner, site.base, soon()).found


# --- the cache ----------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> List[float]:
    now = [1000.0]
    monkeypatch.setattr(discovery.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    "control, seconds",
    [
        pytest.param(None, 3600, id="M-7 an hour"),
        pytest.param("public", 3600, id="M-7 other directives"),
        pytest.param("public, max-age=60", 60, id="M-7 less"),
        pytest.param('Max-Age="60"', 60, id="M-7 quotes"),
        pytest.param("max-age=99999", 3600, id="M-7 more"),
        pytest.param("max-age=-1", 3600, id="M-7 nonsense"),
        pytest.param("max-age=0", 0, id="M-7 zero"),
        pytest.param("max-age=60, no-store", 0, id="M-7 no-store"),
        pytest.param("No-Cache", 0, id="M-7 no-cache"),
    ],
)
def test_how_long_metadata_is_good(
    control: Optional[str], seconds: float, clock: List[float]
) -> None:
    cache = MetadataCache()
    metadata = ServerMetadata("https://as", "https://as/token")
    headers = {} if control is None else {"Cache-Control": control}
    cache.put(metadata, headers)
    if seconds:
        clock[0] += seconds - 1
        assert cache.get("https://as") is metadata
        clock[0] += 1
    assert cache.get("https://as") is None


def test_m7_a_cached_server_is_not_asked_again(site: Site) -> None:
    site.routes[OAUTH] = server(site.base)
    cache = MetadataCache()
    first = find_server_metadata(fetcher(site), site.base, soon(), cache)
    assert find_server_metadata(fetcher(site), site.base, soon(), cache) is first
    assert site.asked == [OAUTH]
    cache.forget(site.base)
    assert find_server_metadata(fetcher(site), site.base, soon(), cache) == first
    assert site.asked == [OAUTH, OAUTH]


def test_m7_nothing_bad_is_cached(site: Site) -> None:
    site.routes[OAUTH] = server(site.base, issuer="https://evil.example")
    cache = MetadataCache()
    for issuer in (site.base, "https://evil.example"):
        with pytest.raises(MCPError):
            find_server_metadata(fetcher(site), site.base, soon(), cache)
        assert cache.get(issuer) is None


# --- servers that say nothing about themselves --------------------------------------


def legacy(site: Site, path: str = "/mcp?x=1") -> ServerMetadata:
    return legacy_server_metadata(fetcher(site), site.base + path, soon())


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(404), id="P-10 404"),
        pytest.param(Reply(401), id="P-10 401"),
        pytest.param(html(), id="P-10 a web page"),
    ],
)
def test_default_endpoints(site: Site, reply: Reply) -> None:
    site.routes[OAUTH] = reply
    found = legacy(site)
    assert site.asked == [OAUTH]
    assert found == ServerMetadata(
        issuer=site.base,
        token_endpoint=site.base + "/token",
        authorization_endpoint=site.base + "/authorize",
        registration_endpoint=site.base + "/register",
        found=False,
    )


def test_p10_an_outage_is_not_the_absence_of_metadata(site: Site) -> None:
    site.routes[OAUTH] = Reply(500)
    with pytest.raises(DiscoveryError) as caught:
        legacy(site)
    assert caught.value.retryable


def test_p11_advertised_endpoints_win(site: Site) -> None:
    site.routes[OAUTH] = server(
        site.base,
        authorization_endpoint=site.base + "/oauth/authorize",
        token_endpoint=site.base + "/oauth/token",
    )
    found = legacy(site)
    assert found.found
    assert found.authorization_endpoint == site.base + "/oauth/authorize"
    assert found.token_endpoint == site.base + "/oauth/token"
    # It is not registered at where nobody said that one can.
    assert found.registration_endpoint is None


@pytest.mark.parametrize(
    "ending, fine",
    [
        pytest.param("", True, id="P-11 equal"),
        pytest.param("/", True, id="P-11 one slash"),
        pytest.param("//", False, id="P-11 two slashes"),
        pytest.param("/mcp", False, id="P-11 path"),
        pytest.param(".evil.example", False, id="P-11 other host"),
    ],
)
def test_issuer_of_a_legacy_server(site: Site, ending: str, fine: bool) -> None:
    site.routes[OAUTH] = server(site.base, issuer=site.base + ending)
    if fine:
        assert legacy(site).issuer == site.base + ending
    else:
        with pytest.raises(IssuerMismatch):
            legacy(site)


def test_h1_a_legacy_server_over_plain_http() -> None:
    url = "http://mcp.example/mcp"
    with pytest.raises(DiscoveryError, match="https"):
        legacy_server_metadata(Fetcher(server_url=url), url, soon())


# --- scopes -------------------------------------------------------------------------

SUPPORTED = ResourceMetadata("r", ("https://as",), ("p", "q"))
UNKNOWN = ResourceMetadata("r", ("https://as",))


@pytest.mark.parametrize(
    "scope, metadata, configured, policy, expected",
    [
        pytest.param("a b", SUPPORTED, (), "add", ("a", "b"), id="S-1 challenge"),
        pytest.param(None, SUPPORTED, (), "add", ("p", "q"), id="S-1 metadata"),
        pytest.param("", SUPPORTED, (), "add", ("p", "q"), id="S-1 empty challenge"),
        pytest.param(None, UNKNOWN, (), "add", None, id="S-1 left out"),
        pytest.param(None, None, (), "add", None, id="S-1 legacy: left out"),
        pytest.param("z", SUPPORTED, (), "add", ("z",), id="S-2 not in the metadata"),
        pytest.param("a", SUPPORTED, ("u",), "add", ("a", "u"), id="S-3 union"),
        pytest.param("a", SUPPORTED, ("a",), "add", ("a",), id="S-3 the same"),
        pytest.param(
            None, SUPPORTED, ("u",), "add", ("p", "q", "u"), id="S-3 union, metadata"
        ),
        pytest.param(None, UNKNOWN, ("u",), "add", ("u",), id="S-3 nothing else"),
        pytest.param("a", SUPPORTED, ("u",), "only", ("u",), id="S-3 only"),
        pytest.param("a", SUPPORTED, (), "only", None, id="S-3 only nothing"),
    ],
)
def test_scopes(
    scope: Optional[str], metadata: Any, configured: Any, policy: str, expected: Any
) -> None:
    asked = Challenge("bearer", {} if scope is None else {"scope": scope})
    assert choose_scopes(asked, metadata, configured, policy) == expected
    if scope is None:
        assert choose_scopes(None, metadata, configured, policy) == expected


def test_s12_more_scopes_in_the_metadata_than_anybody_asks_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    many = tuple("s%d" % number for number in range(101))
    metadata = ResourceMetadata("r", ("https://as",), many)
    with caplog.at_level(logging.WARNING, "mcpsync"):
        assert choose_scopes(None, metadata) is None
    assert "101 scopes" in caplog.text
    some = ResourceMetadata("r", ("https://as",), many[:100])
    assert choose_scopes(None, some) == many[:100]


@pytest.mark.parametrize(
    "text, expected",
    [
        pytest.param("a b", ("a", "b"), id="S-12 two"),
        pytest.param("b a b", ("b", "a"), id="S-12 order, once"),
        pytest.param("  a   b ", ("a", "b"), id="S-12 spaces"),
        pytest.param("", (), id="S-12 empty"),
        pytest.param("mcp:read/x~!#[]", ("mcp:read/x~!#[]",), id="S-12 signs"),
    ],
)
def test_scope_strings(text: str, expected: Any) -> None:
    assert split_scope(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('a "b"', id="S-12 quotation mark"),
        pytest.param("a\\b", id="S-12 backslash"),
        pytest.param("a\tb", id="S-12 tab"),
        pytest.param("a\x1b[2Jb", id="S-12 escape"),
        pytest.param("a\x7f", id="S-12 delete"),
        pytest.param("\xe9", id="S-12 not ASCII"),
        pytest.param(" ".join(map(str, range(101))), id="S-12 too many"),
        pytest.param("a" * 4097, id="S-12 too long"),
    ],
)
def test_scope_strings_that_are_refused(text: str) -> None:
    with pytest.raises(DiscoveryError, match="scope") as caught:
        split_scope(text)
    assert str(caught.value).isprintable()
    with pytest.raises(DiscoveryError):
        choose_scopes(Challenge("bearer", {"scope": text}), SUPPORTED)


@pytest.mark.parametrize(
    "configured, policy", [(("a b",), "add"), (("",), "only"), (("a",), "mine")]
)
def test_s3_configured_scopes_are_checked(configured: Any, policy: str) -> None:
    with pytest.raises(ConfigError, match="scope"):
        choose_scopes(None, None, configured, policy)


@pytest.mark.parametrize(
    "scope, requested, granted, expected",
    [
        pytest.param("w", ("r",), None, ("r", "w"), id="S-4 requested and wanted"),
        pytest.param("w", ("r",), ("g",), ("r", "g", "w"), id="S-4 granted as well"),
        pytest.param(None, ("r",), None, None, id="S-4 no scope"),
        pytest.param("", ("r",), None, None, id="S-4 empty scope"),
        pytest.param("r", ("r", "w"), None, None, id="S-6 requested"),
        pytest.param("r", ("r", "w"), ("r",), None, id="S-6 granted"),
        pytest.param("w", (), ("r", "w"), None, id="S-6 granted without request"),
        pytest.param("w", ("r", "w"), ("r",), ("r", "w"), id="S-6 granted less"),
    ],
)
def test_step_up(scope: Any, requested: Any, granted: Any, expected: Any) -> None:
    wanted = Challenge("bearer", {} if scope is None else {"scope": scope})
    assert step_up_scopes(wanted, requested, granted) == expected


def test_s4_union() -> None:
    assert union_scopes(("a", "b"), ["b", "c"], ()) == ("a", "b", "c")


OFFERED = ServerMetadata("i", "t", scopes_supported=("a", "offline_access"))
NOT_OFFERED = ServerMetadata("i", "t", scopes_supported=("a",))
UNSAID = ServerMetadata("i", "t")


@pytest.mark.parametrize(
    "scopes, metadata, wants, expected",
    [
        pytest.param(
            ("a",),
            OFFERED,
            True,
            (("a", "offline_access"), "consent"),
            id="S-9 offered",
        ),
        pytest.param(("a",), NOT_OFFERED, True, (("a",), None), id="S-9 not offered"),
        pytest.param(("a",), UNSAID, True, (("a",), None), id="S-9 unsaid"),
        pytest.param(("a",), OFFERED, False, (("a",), None), id="S-9 not wanted"),
        pytest.param(None, OFFERED, True, (None, None), id="S-9 no scopes at all"),
        pytest.param(
            ("offline_access",),
            UNSAID,
            True,
            (("offline_access",), "consent"),
            id="S-9 the server or the user asks for it",
        ),
    ],
)
def test_offline_access(scopes: Any, metadata: Any, wants: bool, expected: Any) -> None:
    assert with_offline_access(scopes, metadata, wants) == expected
