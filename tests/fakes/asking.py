"""A server that asks one question of its client, in the manner of either era."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

from .scripted_memory import LEGACY, MODERN, Incoming

__all__ = ["Asker", "ERAS", "SIMPLE", "form"]

ERAS = (MODERN, LEGACY)


def form(properties: Mapping[str, Any], *required: str) -> Dict[str, Any]:
    """Return the parameters of a form elicitation."""
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"message": "Well?", "requestedSchema": schema}


SIMPLE = form({"a": {"type": "string", "default": "x"}})


class Asker:
    """A server whose tool asks one question and keeps what it hears."""

    def __init__(self, method: str, params: Optional[Mapping[str, Any]]) -> None:
        self.question = {"method": method, **({"params": params} if params else {})}
        self.heard: List[Any] = []

    def __call__(self, incoming: Incoming) -> Any:
        if "io.modelcontextprotocol/protocolVersion" in incoming.meta:
            return self._modern(incoming)
        self.heard.append(
            incoming.ask(self.question["method"], self.question.get("params"))
        )
        return {"content": []}

    def _modern(self, incoming: Incoming) -> Any:
        given = incoming.params.get("inputResponses")
        if given is None:
            requests = {"question": self.question}
            return {"resultType": "input_required", "inputRequests": requests}
        self.heard.append({"result": given["question"]})
        return {"content": []}

    @property
    def result(self) -> Any:
        (answer,) = self.heard
        return answer["result"]

    @property
    def code(self) -> int:
        (answer,) = self.heard
        code: int = answer["error"]["code"]
        return code
