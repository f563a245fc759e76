"""Whatever is sent to what ``/openapi.json`` describes, the gateway never fails itself: no 5xx of its own.

schemathesis makes requests from the document, fitting ones and broken ones, for a real gateway process over
the simulated upstream.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode

from app.main import create_app
from tests.support.gateway import GatewayProcess, configuration, gateway_process, settings_of

NOT_FUZZED = {
    # They begin work that goes on after the answer, or end what other examples use.
    "/v1/speculation",
}
HONEST = {503, 504}
"""Said on purpose: overloaded, or nothing cached where only a hit was asked for."""


def operations() -> list[tuple[str, str]]:
    """Every operation of the document."""
    document = create_app(settings_of(configuration("http://127.0.0.1:9"))).openapi()
    return [
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method in methods
        if path not in NOT_FUZZED
    ]


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    with gateway_process(None, env={"SLIPSTREAM_CACHE__SEMANTIC__ENABLED": "false"}) as running:
        yield running


@pytest.fixture(scope="module")
def schema(gateway: GatewayProcess):
    document = httpx.get(f"{gateway.url}/openapi.json", timeout=20).json()
    return schemathesis.openapi.from_dict(document, config=SchemathesisConfig())


@pytest.mark.parametrize(("method", "path"), operations())
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.timeout(120)
def test_no_request_makes_the_gateway_fail(gateway, schema, method, path, mode):
    operation = schema[path][method]
    with httpx.Client(base_url=gateway.url, timeout=30) as http:

        @settings(
            max_examples=12,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case) -> None:
            sent = case.as_transport_kwargs(base_url=gateway.url)
            sent.pop("cookies", None)
            try:
                with http.stream(**{k: v for k, v in sent.items() if v is not None}) as answer:
                    status = answer.status_code
                    if status < 500:
                        return
                    body = answer.read()
            except (httpx.InvalidURL, UnicodeError, httpx.LocalProtocolError):
                return  # no HTTP client sends it
            assert status in HONEST, f"{status} {body[:500]!r} for {sent}"
            assert b"Traceback" not in body

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ask()
            except Unsatisfiable:  # nothing of a request without parameters can be wrong
                assert mode is GenerationMode.NEGATIVE
    assert gateway.process.poll() is None
