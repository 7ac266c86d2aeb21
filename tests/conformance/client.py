"""A host program for the official conformance suite, on the public API alone.

The suite starts it with a server URL as the last argument. The scenario's name, given
in MCP_CONFORMANCE_SCENARIO, decides which calls the program makes, as a user would
decide; how they are made is left to the client. A protocol version given in
MCP_CONFORMANCE_PROTOCOL_VERSION is taken as the user's setting; without it the client
negotiates.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Callable, Dict, Optional

import requests

import mcpsync
from mcpsync import types
from mcpsync.auth import grants


def main() -> None:
    """Connect, make the calls of the scenario, close."""
    url = sys.argv[-1]
    scenario = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
    make_calls = SCENARIOS.get(scenario, call_first_tool)
    with mcpsync.connect(
        url,
        protocol=os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "auto"),
        on_elicitation=confirm,
        on_sampling=sample,
        roots=[types.Root(uri="file:///tmp", name="tmp")],
        auth=authorization(scenario),
    ) as client:
        make_calls(client)


def confirm(request: types.ElicitRequest) -> mcpsync.ElicitResult:
    """Accept, and say yes to whatever asks for a confirmation."""
    properties = (request.requested_schema or {}).get("properties", {})
    content = {"confirmed": True} if "confirmed" in properties else {}
    return mcpsync.ElicitResult(action="accept", content=content)


def sample(request: types.CreateMessageRequest) -> mcpsync.CreateMessageResult:
    """Answer for a model."""
    content = types.TextContent(text="A sampled answer.")
    return mcpsync.CreateMessageResult(role="assistant", content=content, model="none")


def list_tools(client: mcpsync.Client) -> None:
    """List the tools."""
    client.list_tools()


def call_first_tool(client: mcpsync.Client) -> None:
    """List the tools and call the first without arguments."""
    for tool in client.list_tools()[:1]:
        client.call_tool(tool.name, {})


def call_all_tools(client: mcpsync.Client) -> None:
    """Call every tool that the client offers, without arguments."""
    for tool in client.list_tools():
        client.call_tool(tool.name, {})


def add_numbers(client: mcpsync.Client) -> None:
    """Add two numbers."""
    client.list_tools()
    client.call_tool("add_numbers", {"a": 5, "b": 3})


def use_everything(client: mcpsync.Client) -> None:
    """List all there is and use each thing once."""
    call_all_tools(client)
    for resource in client.list_resources():
        client.read_resource(resource.uri)
    for prompt in client.list_prompts():
        client.get_prompt(prompt.name)


def make_given_calls(client: mcpsync.Client) -> None:
    """Make the calls that the suite spells out in MCP_CONFORMANCE_CONTEXT."""
    context = json.loads(os.environ["MCP_CONFORMANCE_CONTEXT"])
    client.list_tools()
    for call in context["toolCalls"]:
        client.call_tool(call["name"], call["arguments"])


def echo_schema(client: mcpsync.Client) -> None:
    """Send one tool's input schema, as the client shows it, through another tool."""
    tools = {tool.name: tool for tool in client.list_tools()}
    schema = tools["json_schema_2020_12_tool"].input_schema
    client.call_tool("json_schema_echo", {"schema": schema})


# --- authorization ----------------------------------------------------------------


def authorization(scenario: str) -> Optional[mcpsync.OAuth]:
    """Return how the program is authorized, from what its user would know."""
    if "auth" not in scenario:
        return None
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
    options: Dict[str, Any] = {"flow": log_in, "store": "memory"}
    name = scenario.rpartition("/")[2]
    if name in GRANTS:
        options["grant"] = GRANTS[name](context)
    elif name == "basic-cimd":
        options["client_metadata_url"] = CLIENT_METADATA_URL
    elif name == "pre-registration":
        for key in ("client_id", "client_secret", "issuer"):
            options[key] = context.get(key)
    elif name.startswith("dpop"):
        options["dpop"] = True
    return mcpsync.OAuth(**options)


def log_in(url: str) -> str:
    """Be the person with the browser: the suite's servers ask nothing."""
    response = requests.get(url, allow_redirects=False, timeout=30)
    return response.headers["Location"]


CLIENT_METADATA_URL = "https://conformance-test.local/client-metadata.json"


def client_secret(context: Dict[str, str]) -> grants.ClientCredentials:
    """Identify the program by a secret."""
    return grants.ClientCredentials(context["client_id"], context["client_secret"])


def client_key(context: Dict[str, str]) -> grants.ClientCredentials:
    """Identify the program by a key."""
    return grants.ClientCredentials(
        context["client_id"],
        private_key=context["private_key_pem"],
        algorithm=context["signing_algorithm"],
    )


def enterprise(context: Dict[str, str]) -> grants.EnterpriseManaged:
    """Let the company's identity provider decide."""
    return grants.EnterpriseManaged(
        idp_token_endpoint=context["idp_token_endpoint"],
        id_token=context["idp_id_token"],
        idp_client_id=context["idp_client_id"],
        client_id=context["client_id"],
        client_secret=context["client_secret"],
        # The suite does not say which authorization server the company trusts.
        accepts_issuer=lambda issuer: True,
        # Nor does its metadata name the profile.
        require_profile=False,
    )


def workload(context: Dict[str, str]) -> grants.WorkloadIdentity:
    """Show what the platform says about the program."""
    return grants.WorkloadIdentity(
        lambda issuer: context["valid_jwt"], context["client_id"]
    )


GRANTS: Dict[str, Callable[[Dict[str, str]], Any]] = {
    "client-credentials-basic": client_secret,
    "client-credentials-jwt": client_key,
    "enterprise-managed-authorization": enterprise,
    "wif-jwt-bearer": workload,
}


SCENARIOS: Dict[str, Callable[[mcpsync.Client], None]] = {
    "initialize": list_tools,
    "request-metadata": list_tools,
    "json-schema-ref-no-deref": list_tools,
    "tools_call": add_numbers,
    "elicitation-sep1034-client-defaults": call_all_tools,
    "sse-retry": call_all_tools,
    "sep-2322-client-request-state": call_all_tools,
    "http-standard-headers": use_everything,
    "http-custom-headers": make_given_calls,
    "http-invalid-tool-headers": call_all_tools,
    "json-schema-2020-12-preservation": echo_schema,
}


if __name__ == "__main__":
    main()
