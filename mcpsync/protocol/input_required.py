"""Multi round-trip requests: a result that asks, and the request that answers.

The retry is the same method with the original parameters and a new id. It carries an
answer for every key that was asked, and the server's ``requestState`` byte for byte,
or none where the server sent none.

Specification: 2026-07-28, basic/patterns/mrtr.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional

from .._text import clean
from ..exceptions import InvalidArguments, UnexpectedResult

__all__ = ["MULTI_ROUND_METHODS", "Asked", "Question", "read_input_required"]

#: The only methods whose result may ask for input.
MULTI_ROUND_METHODS = frozenset({"tools/call", "prompts/get", "resources/read"})

#: Question methods, with the capability that the client must have declared.
_CAPABILITY = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}


@dataclass(frozen=True)
class Question:
    """One thing that the server asks: a method and its parameters, no id."""

    method: str
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """A result that is not final: questions, an opaque state, or both."""

    questions: Mapping[str, Question]
    # Not shown: the state is the server's secret.
    state: Optional[str] = field(repr=False)
    raw: Mapping[str, Any] = field(repr=False)

    def retry(
        self, params: Optional[Mapping[str, Any]], answers: Mapping[str, Any]
    ) -> Dict[str, Any]:
        """Return the parameters of the next round, from the original ones.

        Raises:
            InvalidArguments: a question has no answer.
        """
        missing = [key for key in self.questions if key not in answers]
        if missing:
            raise InvalidArguments(
                "every question needs an answer, there is none for %s"
                % clean(", ".join(map(repr, missing)), 200)
            )
        again = dict(params or {})
        # Of an earlier round: what the server needs of it is in its state.
        again.pop("inputResponses", None)
        again.pop("requestState", None)
        if self.questions:
            again["inputResponses"] = {key: answers[key] for key in self.questions}
        if self.state is not None:
            again["requestState"] = self.state
        return again


def read_input_required(
    result: Mapping[str, Any], capabilities: Mapping[str, Any]
) -> Asked:
    """Return what an ``input_required`` result asks.

    Raises:
        UnexpectedResult: it asks nothing, or something that this client never
            declared that it can answer.
    """
    state = result.get("requestState")
    requests = result.get("inputRequests")
    if requests is None:
        requests = {}
    if state is not None and not isinstance(state, str):
        raise UnexpectedResult("the server's requestState is not a string")
    if not isinstance(requests, dict):
        raise UnexpectedResult("the server's inputRequests are not an object")
    if not requests and state is None:
        raise UnexpectedResult("the server requires input, but asks for none")
    questions = {
        key: _question(key, request, capabilities) for key, request in requests.items()
    }
    return Asked(questions, state, result)


def _question(key: str, request: Any, capabilities: Mapping[str, Any]) -> Question:
    method = request.get("method") if isinstance(request, dict) else None
    if not isinstance(method, str) or method not in _CAPABILITY:
        raise UnexpectedResult(
            "the server asks for %s under %s, which no client can answer"
            % (clean(repr(method), 60), clean(repr(key), 60))
        )
    if _CAPABILITY[method] not in capabilities:
        raise UnexpectedResult(
            "the server asks for %s, a capability that was not declared; "
            "give a handler for it" % method
        )
    params = request.get("params")
    if params is None:
        params = {}
    if not isinstance(params, dict):
        raise UnexpectedResult("the params of the server's %s are no object" % method)
    return Question(method, params)
