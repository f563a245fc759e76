"""The configuration: what loads, what is refused, and that a refusal says all of what to mend."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.domain.models import Abilities
from app.settings import AbilitySettings, Settings, SettingsError, describe, load, loads

if TYPE_CHECKING:
    from pathlib import Path

    from app.settings import Problem

REFERENCE = """\
server:
  host: 127.0.0.1
  port: 8080
  workers: 1
providers:
  local:
    kind: openai
    base_url: ${UPSTREAM_OPENAI:-http://127.0.0.1:9100/v1}
    api_key: ${OPENAI_API_KEY:-none}
  claude:
    kind: anthropic
    base_url: ${UPSTREAM_ANTHROPIC:-http://127.0.0.1:9100}
    api_key: ${ANTHROPIC_API_KEY:-none}
models:
  - {name: small, provider: local, model: sim-fast, tier: fast, price: {input: 0.15, output: 0.6}}
  - {name: large, provider: claude, model: sim-powerful, tier: powerful, price: {input: 3.0}}
routing:
  fast_share: 0.70
  escalate: true
cache:
  exact:    {enabled: true, ttl_s: 3600}
  semantic: {enabled: true, ttl_s: 3600, max_error_rate: 0.01}
state:
  redis_url: ${REDIS_URL:-}
  qdrant_url: ${QDRANT_URL:-}
  data_dir: ${SLIPSTREAM_DATA:-./var}
tools:
  - name: get_ticket
    description: Look up the state of a support ticket.
    status: "Looking up {ticket_id}…"
    http: {method: GET, url: "http://127.0.0.1:9300/tickets/{ticket_id}"}
    parameters: {type: object, properties: {ticket_id: {type: string}}, required: [ticket_id]}
    timeout_s: 3
    cache_ttl_s: 60
    effects: {read_only: true, repeatable: true, disclosable: true}
agents:
  - name: helpdesk
    system: You are the help desk's assistant.
    tools: [get_ticket]
auth:
  required: false
"""


def problems(text: str, env: dict[str, str] | None = None) -> dict[str, Problem]:
    """What is wrong with `text`, by path."""
    with pytest.raises(SettingsError) as caught:
        loads(text, "gateway.yaml", env or {})
    return {problem.path: problem for problem in caught.value.problems}


def only(text: str, env: dict[str, str] | None = None) -> Problem:
    """The one thing that is wrong with `text`."""
    found = problems(text, env)
    assert len(found) == 1, found
    return next(iter(found.values()))


class TestLoading:
    def test_the_reference_loads_without_any_key_in_the_environment(self) -> None:
        settings = loads(REFERENCE, "gateway.yaml", {})
        assert settings.providers["local"].base_url == "http://127.0.0.1:9100/v1"
        assert settings.providers["local"].api_key.get_secret_value() == "none"
        assert [model.name for model in settings.models] == ["small", "large"]
        assert settings.state.redis_url is None
        assert settings.state.data_dir == "./var"
        assert settings.tools[0].effects.read_only

    def test_variables_are_taken_from_the_environment_and_an_empty_one_falls_back(self) -> None:
        env = {"UPSTREAM_OPENAI": "https://models.example/v1", "OPENAI_API_KEY": ""}
        provider = loads(REFERENCE, "gateway.yaml", env).providers["local"]
        assert provider.base_url == "https://models.example/v1"
        assert provider.api_key.get_secret_value() == "none"

    def test_a_doubled_dollar_is_a_plain_one(self) -> None:
        settings = loads('agents: [{name: a, system: "$${HOME} costs $5"}]', "f", {})
        assert settings.agents[0].system == "${HOME} costs $5"

    def test_a_value_of_the_environment_cannot_add_structure(self) -> None:
        settings = loads("agents: [{name: a, system: '${X}'}]", "f", {"X": "b, model: evil\n- {"})
        assert settings.agents[0].system == "b, model: evil\n- {"

    def test_nothing_at_all_is_a_valid_configuration(self) -> None:
        assert loads("", "f", {}) == Settings()

    def test_a_section_with_all_keys_commented_out_has_its_defaults(self) -> None:
        assert loads("cache:\n  # exact: {enabled: false}\n", "f", {}) == Settings()

    def test_json_is_read_too(self) -> None:
        assert loads('{"server": {"port": 1}}', "f", {}).server.port == 1

    def test_merge_keys_work_and_the_own_key_wins(self) -> None:
        text = """
        models:
          - &base {name: a, provider: p, model: m, tier: fast}
          - {<<: *base, name: b}
        providers: {p: {kind: openai, base_url: "http://h/v1"}}
        """
        assert [model.name for model in loads(text, "f", {}).models] == ["a", "b"]

    def test_every_ability_of_a_model_can_be_corrected(self) -> None:
        correctable = {field.name for field in dataclasses.fields(Abilities)}
        assert set(AbilitySettings.model_fields) == correctable

    def test_it_is_frozen(self) -> None:
        settings = loads(REFERENCE, "f", {})
        with pytest.raises(ValidationError):
            settings.server.port = 1  # type: ignore[misc]

    def test_a_file_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "g.yaml").write_text(REFERENCE, encoding="utf-8")
        assert load(tmp_path / "g.yaml", {}) == loads(REFERENCE, "f", {})

    def test_a_file_about_something_else_gets_the_vendors_whose_keys_are_there(
        self, tmp_path
    ) -> None:
        (tmp_path / "g.yaml").write_text("server: {port: 9000}\n", encoding="utf-8")
        settings = load(tmp_path / "g.yaml", {"OPENAI_API_KEY": "k"})
        assert settings.server.port == 9000
        assert list(settings.providers) == ["openai"]
        assert {model.tier for model in settings.models} == {"fast", "powerful"}

    def test_a_file_with_models_of_its_own_gets_no_others(self, tmp_path: Path) -> None:
        (tmp_path / "g.yaml").write_text(REFERENCE, encoding="utf-8")
        assert "openai" not in load(tmp_path / "g.yaml", {"OPENAI_API_KEY": "k"}).providers

    def test_an_emptied_file_makes_no_gateway_answer_by_simulation(self, tmp_path: Path) -> None:
        (tmp_path / "g.yaml").write_text("", encoding="utf-8")
        with pytest.raises(SettingsError, match="names no model"):
            load(tmp_path / "g.yaml", {})

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match=r"nowhere\.yaml: cannot be read: No such file"):
            load(tmp_path / "nowhere.yaml", {})

    def test_bytes_that_are_no_text_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "g.yaml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(SettingsError, match="not UTF-8"):
            load(tmp_path / "g.yaml", {})


class TestEmbeddedDefault:
    def test_without_a_key_it_serves_simulated_models_and_starts_the_simulator(self) -> None:
        settings = load(None, {})
        assert settings.simulator.start
        assert [model.name for model in settings.models] == ["small", "small2", "large", "large2"]
        assert str(settings.simulator.port) in settings.providers["local"].base_url

    def test_where_the_simulator_is_moved_to_its_providers_follow(self) -> None:
        settings = load(None, {"SLIPSTREAM_SIMULATOR__PORT": "9177"})
        assert settings.simulator.port == 9177
        assert {provider.base_url for provider in settings.providers.values()} == {
            "http://127.0.0.1:9177/v1",
            "http://127.0.0.1:9177",
        }

    def test_a_simulator_cannot_be_moved_to_what_is_no_port(self) -> None:
        with pytest.raises(SettingsError, match=r"SLIPSTREAM_SIMULATOR__PORT: simulator\.port"):
            load(None, {"SLIPSTREAM_SIMULATOR__PORT": "here"})

    @pytest.mark.parametrize(
        ("variable", "provider"),
        [("OPENAI_API_KEY", "openai"), ("ANTHROPIC_API_KEY", "anthropic")],
    )
    def test_with_a_key_that_vendor_serves_both_tiers_and_nothing_is_simulated(
        self, variable: str, provider: str
    ) -> None:
        settings = load(None, {variable: "sk-test"})
        assert not settings.simulator.start
        assert list(settings.providers) == [provider]
        assert {model.tier.value for model in settings.models} == {"fast", "powerful"}

    def test_with_both_keys_both_vendors_serve(self) -> None:
        settings = load(None, {"OPENAI_API_KEY": "a", "ANTHROPIC_API_KEY": "b"})
        assert set(settings.providers) == {"openai", "anthropic"}


class TestEnvironmentOverrides:
    def test_two_underscores_go_one_level_down(self) -> None:
        env = {"SLIPSTREAM_SERVER__PORT": "9000", "SLIPSTREAM_CACHE__EXACT__ENABLED": "false"}
        settings = loads(REFERENCE, "f", env)
        assert settings.server.port == 9000
        assert settings.server.host == "127.0.0.1"
        assert not settings.cache.exact.enabled

    def test_lists_are_given_as_yaml(self) -> None:
        env = {"SLIPSTREAM_SERVER__CORS_ORIGINS": "[https://a.example, https://b.example]"}
        assert load(None, env).server.cors_origins == ("https://a.example", "https://b.example")

    def test_a_wrong_one_is_told_by_its_variable(self) -> None:
        problem = only("", {"SLIPSTREAM_SERVER__PORT": "many"})
        assert problem.file == "$SLIPSTREAM_SERVER__PORT"
        assert problem.path == "server.port"
        assert problem.value == "'many'"

    def test_an_unknown_one_is_not_ignored(self) -> None:
        problem = only("", {"SLIPSTREAM_SERVR__PORT": "1"})
        assert problem.file == "$SLIPSTREAM_SERVR__PORT"
        assert "'server'" in problem.mend

    def test_variables_without_a_level_are_not_settings(self) -> None:
        assert loads("", "f", {"SLIPSTREAM_DATA": "/somewhere"}) == Settings()


class TestProblems:
    def test_all_are_told_at_once_each_with_file_line_path_value_and_mend(self) -> None:
        found = problems(
            REFERENCE.replace("port: 8080", "port: 99999")
            .replace("tier: fast,", "tier: fats,")
            .replace("provider: claude", "provider: cloude")
            .replace("escalate", "escalation")
            .replace("tools: [get_ticket]", "tools: [get_tickets]")
        )
        assert set(found) == {
            "server.port",
            "models[0].tier",
            "models[1].provider",
            "routing.escalation",
            "agents[0].tools[0]",
        }
        port = found["server.port"]
        assert (port.file, port.line, port.value) == ("gateway.yaml", 3, "99999")
        assert "'fast'" in found["models[0].tier"].mend
        assert "'claude'" in found["models[1].provider"].mend
        assert "'escalate'" in found["routing.escalation"].mend
        assert "'get_ticket'" in found["agents[0].tools[0]"].mend
        assert all(problem.line and problem.mend for problem in found.values())

    def test_a_missing_variable_is_named_with_its_mend(self) -> None:
        problem = only("agents:\n  - name: a\n    system: ${PROMPT}\n", {"PROMPTS": ""})
        assert (problem.path, problem.line) == ("agents[0].system", 3)
        assert "PROMPT, which is not set" in problem.message
        assert "${PROMPT:-" in problem.mend
        assert "'PROMPTS'" in problem.mend

    @pytest.mark.parametrize("text", ["${}", "${1A}", "${A", "${A:x}"])
    def test_a_broken_variable_is_not_taken_for_text(self, text: str) -> None:
        found = only(f"agents: [{{name: a, system: '{text}'}}]", {"A": "1"})
        assert "names no variable" in found.message

    def test_a_key_that_stands_twice_is_told_with_both_lines(self) -> None:
        problem = only("server: {port: 1}\nauth: {}\nserver: {port: 2}\n")
        assert problem.line == 3
        assert "first at line 1" in problem.message

    @pytest.mark.parametrize(
        "text", ["a: [", "a: b: c", "\x00", "@", "- 1", "7", "? [a]\n: 1", "a: &b [*b]", "a: *b"]
    )
    def test_what_is_no_mapping_in_yaml_is_refused_and_never_crashes(self, text: str) -> None:
        assert problems(text)

    @pytest.mark.parametrize(
        ("text", "path"),
        [
            ("models: [{name: auto, provider: p, model: m, tier: fast}]", "models[0].name"),
            ("models: [{name: 'agent/x', provider: p, model: m, tier: fast}]", "models[0].name"),
            ("models: [7]", "models[0]"),
            ("models: {}", "models"),
            ("providers: {q: {kind: openai, base_url: 'h:1'}}", "providers.q.base_url"),
            ("providers: {q: {kind: openai, base_url: 'ftp://h'}}", "providers.q.base_url"),
            ("providers: {q: {kind: openai, base_url: 'http://h:x'}}", "providers.q.base_url"),
            ("providers: {q: {kind: openai}}", "providers.q.base_url"),
            (
                "providers: {q: {kind: openai, base_url: 'http://h', warm_connections: 999}}",
                "providers.q.warm_connections",
            ),
            ("state: {redis_url: 'http://h'}", "state.redis_url"),
            ("server: {port: -1}", "server.port"),
            ("server: {workers: 0}", "server.workers"),
            ("server: [1]", "server"),
            ("routing: {fast_share: 1.5}", "routing.fast_share"),
            ("tools: [{name: t}]", "tools[0]"),
            ("tools: [{name: t, python: 'a:b', mcp: {server: s, tool: x}}]", "tools[0]"),
            ("tools: [{name: t, python: a.b}]", "tools[0].python"),
            ("tools: [{name: t t, python: 'a:b'}]", "tools[0].name"),
            ("tools: [{name: t, python: 'a:b', retries: 1}]", "tools[0].retries"),
            ("tools: [{name: t, python: 'a:b', cache_ttl_s: 1}]", "tools[0].cache_ttl_s"),
            ("tools: [{name: t, http: {url: 'http://h/{id}'}}]", "tools[0].http.url"),
            (
                "tools: [{name: t, http: {url: 'http://h', headers: {a: '{id}'}}}]",
                "tools[0].http.headers.a",
            ),
            (
                "tools: [{name: t, http: {url: 'http://h', body: {a: ['{id}']}}}]",
                "tools[0].http.body.a[0]",
            ),
            ("tools: [{name: t, python: 'a:b', status: '{id}'}]", "tools[0].status"),
            (
                "tools: [{name: t, python: 'a:b', parameters: {required: [x]}}]",
                "tools[0].parameters.required",
            ),
            (
                "tools: [{name: t, python: 'a:b', parameters: {type: objekt}}]",
                "tools[0].parameters.type",
            ),
            ("mcp_servers: {s: {}}", "mcp_servers.s"),
            ("mcp_servers: {s: {url: 'http://h', command: [x]}}", "mcp_servers.s"),
            ("agents: [{name: a, model: nope}]", "agents[0].model"),
            ("agents: [{name: a}, {name: a}]", "agents[1].name"),
            ("agents: [{name: a, tools: [s__x]}]", "agents[0].tools[0]"),
            (
                "lanes: {rules: [{name: r, pattern: '(', template: x, tests: [{input: a}]}]}",
                "lanes.rules[0].pattern",
            ),
            (
                "lanes: {rules: [{name: r, pattern: '(?=a)', template: x, tests: [{input: a}]}]}",
                "lanes.rules[0].pattern",
            ),
            (
                "lanes: {rules: [{name: r, pattern: a, template: '{b}', tests: [{input: c}]}]}",
                "lanes.rules[0].template",
            ),
            ("lanes: {rules: [{name: r, pattern: a, template: b}]}", "lanes.rules[0].tests"),
            ("auth: {keys: [{key: a, tenant: t}, {key: a, tenant: u}]}", "auth.keys[1].key"),
            ("auth: {keys: [{key: '', tenant: t}]}", "auth.keys[0].key"),
        ],
    )
    def test_what_does_not_fit_is_told_where_it_stands(self, text: str, path: str) -> None:
        base = "" if text.startswith("providers") else _PROVIDERS
        if "mcp: " in text:
            base += "mcp_servers: {s: {url: 'http://h'}}\n"
        problem = only(f"{base}{text}\n")
        assert problem.path == path
        assert problem.line is not None
        assert problem.mend

    def test_a_tool_of_an_mcp_server_may_be_named_by_an_agent(self) -> None:
        text = "mcp_servers: {s: {url: 'http://h'}}\nagents: [{name: a, tools: [s__x, s__*]}]"
        assert loads(text, "f", {}).agents[0].tools == ("s__x", "s__*")


class TestSecrets:
    SECRET = "hunter2-hunter2"
    TEXT = """
    providers:
      p: {kind: openai, base_url: "http://u:${S}@h/v1", api_key: "${S}", headers: {x-org: "${S}"}}
    state: {redis_url: "redis://u:${S}@h:1/0", qdrant_api_key: "${S}"}
    auth: {keys: [{key: "${S}", tenant: t}]}
    tools: [{name: t, http: {url: "http://h", headers: {Authorization: "Bearer ${S}"}}}]
    mcp_servers: {s: {command: [x], env: {TOKEN: "${S}"}}}
    """

    def test_none_stands_in_the_description_or_the_representation(self) -> None:
        settings = loads(self.TEXT, "f", {"S": self.SECRET})
        assert settings.providers["p"].api_key.get_secret_value() == self.SECRET
        assert self.SECRET not in describe(settings)
        assert "***" in describe(settings)
        assert yaml.safe_load(describe(settings))["state"]["redis_url"] == "redis://***@h:1/0"

    def test_none_stands_in_a_problem(self) -> None:
        literal = self.TEXT.replace("${S}", self.SECRET)
        wrong = literal.replace("redis://", "http://").replace("tenant: t}", "tenants: t}")
        wrong += "\n    routing: {fast_share: '${S}'}\n    server: {port: '${S}'}\n"
        with pytest.raises(SettingsError) as caught:
            loads(wrong, "f", {"S": self.SECRET})
        assert self.SECRET not in str(caught.value)
        assert "${S}" in str(caught.value)

    def test_none_of_the_environment_stands_in_a_problem(self) -> None:
        name = "SLIPSTREAM_STATE__QDRANT_API_KEY"
        with pytest.raises(SettingsError) as caught:
            loads("", "f", {name: f"[{self.SECRET}]"})
        assert self.SECRET not in str(caught.value)
        assert name in str(caught.value)


_PROVIDERS = "providers: {p: {kind: openai, base_url: 'http://h/v1'}}\n"

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=12,
)
_sections = st.sampled_from(sorted(Settings.model_fields))
_keys = st.sampled_from(
    [
        *("name", "model", "provider", "tools", "http", "url", "parameters", "required", "key"),
        *("rules", "pattern", "template", "keys", "effects", "mcp", "server", "properties"),
    ]
)
_shaped = st.recursive(
    _json, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4)
)


@given(st.dictionaries(_sections, _shaped, max_size=4))
def test_any_values_load_or_are_refused_with_problems(values: dict[str, object]) -> None:
    """No shape of a file ends in anything but Settings or SettingsError."""
    _loads_or_is_refused(yaml.safe_dump(values, allow_unicode=True))


@given(st.text(max_size=200))
def test_any_text_loads_or_is_refused_with_problems(text: str) -> None:
    """The same for text that is not even YAML."""
    _loads_or_is_refused(text)


def _loads_or_is_refused(text: str) -> None:
    told = ["loaded"]
    try:
        loads(text, "f", {})
    except SettingsError as exc:
        told = [problem.message for problem in exc.problems]
    assert all(told)
    assert told
