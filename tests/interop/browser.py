"""A browser without a window: it signs in and consents by sending the forms it meets.

As a program it is something for the variable BROWSER: it opens the URL it is given and
follows the last redirect to the client that waits for it.

    python browser.py URL [USERNAME]
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from typing import Dict, List, Optional, Tuple
from urllib.parse import parse_qs, urljoin, urlsplit

import requests

# Seconds for each request; pages and redirects in one login.
TIMEOUT = 60
STEPS = 20

Attributes = List[Tuple[str, Optional[str]]]


def sign_in(
    authorization_url: str,
    username: str = "user",
    *,
    deliver: bool = False,
    deny: bool = False,
) -> str:
    """Do what a user does at an authorization server, and return where it leads.

    Args:
        authorization_url: Where the client sends the user.
        username: The name to sign in with; the password is ``password``.
        deliver: Whether to open the redirect URI too, where the client listens.
        deny: Whether to follow the link that says Cancel.

    Returns:
        The redirect URI with the code, or the error, and the rest of its query.

    Raises:
        AssertionError: when a page is an error, or there is no way on.
    """
    redirect_uri = _parameter(authorization_url, "redirect_uri")
    with requests.Session() as session:
        session.trust_env = False
        response = _get(session, authorization_url)
        for _ in range(STEPS):
            if response.is_redirect:
                target = urljoin(response.url, response.headers["Location"])
                if _is_answer(target, redirect_uri):
                    break
                response = _get(session, target)
            else:
                response = _use(session, response, username, deny)
        else:
            raise AssertionError(f"no answer after {STEPS} steps: {response.url}")
        if deliver:
            # Cookies are kept for a host, whatever the port; the client needs none.
            session.cookies.clear()
            session.get(target, timeout=TIMEOUT)
    return target


def _get(session: requests.Session, url: str) -> requests.Response:
    return session.get(url, timeout=TIMEOUT, allow_redirects=False)


def _use(
    session: requests.Session, response: requests.Response, username: str, deny: bool
) -> requests.Response:
    page = Page(response.text)
    if response.status_code != 200 or page.form is None:
        shown = " ".join(page.words)[:500]
        raise AssertionError(f"{response.url}: {response.status_code} {shown}")
    if deny:
        if page.cancel is None:
            raise AssertionError(f"{response.url}: there is nothing to cancel with")
        return _get(session, urljoin(response.url, page.cancel))
    return session.post(
        urljoin(response.url, page.form.action),
        data=page.form.filled(username),
        timeout=TIMEOUT,
        allow_redirects=False,
    )


def _is_answer(url: str, redirect_uri: Optional[str]) -> bool:
    if redirect_uri is None:
        # The request was pushed to the server before.
        return any(_parameter(url, name) for name in ("code", "error"))
    here, there = urlsplit(url), urlsplit(redirect_uri)
    return here[:3] == there[:3]


def _parameter(url: str, name: str) -> Optional[str]:
    values = parse_qs(urlsplit(url).query).get(name)
    return values[0] if values else None


class Form:
    """A form of a page: where it goes and its fields."""

    def __init__(self, action: str) -> None:
        self.action = action
        self._fields: Dict[str, Tuple[str, str]] = {}

    def add(self, field: Dict[str, str]) -> None:
        """Add an input element that has a name."""
        if "name" in field:
            kind = field.get("type", "text")
            self._fields[field["name"]] = (kind, field.get("value", ""))

    def filled(self, username: str) -> Dict[str, str]:
        """Return what is sent when a user has filled it in."""
        typed = {"text": username, "email": username, "password": "password"}
        return {
            name: typed.get(kind, value) for name, (kind, value) in self._fields.items()
        }


class Page(HTMLParser):
    """What a user sees of a page: its first form, its text, its Cancel link."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.form: Optional[Form] = None
        self.cancel: Optional[str] = None
        self.words: List[str] = []
        self._in_form = False
        self._link: Optional[str] = None
        self._in_style = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        """Note forms, their inputs, and links."""
        found = {name: value or "" for name, value in attrs}
        if tag == "form" and self.form is None:
            self.form = Form(found.get("action", ""))
            self._in_form = True
        elif tag == "input" and self.form is not None and self._in_form:
            self.form.add(found)
        elif tag == "a":
            self._link = found.get("href")
        elif tag in ("style", "script"):
            self._in_style = True

    def handle_endtag(self, tag: str) -> None:
        """Note where a form or a link ends."""
        if tag == "form":
            self._in_form = False
        elif tag == "a":
            self._link = None
        elif tag in ("style", "script"):
            self._in_style = False

    def handle_data(self, data: str) -> None:
        """Note the text."""
        if not self._in_style:
            self.words += data.split()
        if self._link is not None and "cancel" in data.lower():
            self.cancel = self._link


if __name__ == "__main__":
    sign_in(*sys.argv[1:3], deliver=True)
