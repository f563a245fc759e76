"""The house rules that a machine can see: who imports whom, how large, how named, what is banned."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "app"
MODULES = sorted(APP.rglob("*.py"))
LONGEST_MODULE_LINES = 500
LONGEST_PORTS_LINES = 200
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "manager", "handler", "base"}
ENVIRONMENT_READERS = {"app/settings.py"}
STATEMENTS_WITHOUT_EFFECT = (
    ast.Import,
    ast.ImportFrom,
    ast.Assign,
    ast.AnnAssign,
    ast.AugAssign,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.If,
    ast.Assert,
)
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|NotImplemented" + r"Error)\b")
# Spelt in pieces, for this file is searched too.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("npmjs", "com"),
        ("proxy", "golang", "org"),
        ("crates", "io"),
        ("deb", "debian", "org"),
        ("registry", "yarnpkg", "com"),
    )
]
MACHINE_PATHS = re.compile(r"(?<![\w./:-])/(?:work|root|opt/pypi)/")
KEY_SHAPES = re.compile(
    r"\b(sk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,}|ghp_[A-Za-z0-9]{30,}|AKIA[A-Z0-9]{16})\b"
)

PLANNED = {
    "": "__main__ cli main settings bootstrap errors ports",
    "domain": "chat events decisions plan deadline usage",
    "pipeline": "turn gateway speculation converse fanout synthesis replay",
    "lanes": "rules templates",
    "classify": "complexity cacheability tool_need features calibration",
    "cache": "key exact semantic verifier admission coalesce",
    "routing": "score load breaker hedge escalation",
    "prompts": "layout breakpoints warm lint contracts",
    "upstream": "http1 pool",
    "providers": "wire sdk profiles policies",
    "tools": "registry http_tool python_tool mcp egress planner",
    "stores": "memory redis qdrant",
    "wire": "sse openai_chat openai_responses anthropic_messages ag_ui vercel",
    "api": "response auth problems",
    "telemetry": "timeline metrics tracing ledger log",
}
"""The plan's modules by room."""
ELSEWHERE = {
    "providers/policies.py": ("pipeline/limited.py", "pipeline/hedged.py", "pipeline/converse.py"),
    "tools/planner.py": ("pipeline/planner.py",),
}
"""Planned modules that stand under another name; decision 0019 says why."""


def relative(path: Path) -> str:
    """A path as the reader of a failure wants it."""
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    """The syntax of a module."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=relative(path))


def tracked() -> list[Path]:
    """Every file that git keeps."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False, text=True
    )
    if listed.returncode != 0:
        pytest.skip("not a git work tree")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_rooms_import_only_what_the_plan_allows() -> None:
    """The arrows of ARCHITECTURE.md hold (the contracts stand in pyproject.toml)."""
    command = [str(Path(sys.executable).parent / "lint-imports")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_domain_knows_the_standard_library_alone() -> None:
    known = sys.stdlib_module_names | {"app.domain", "app.errors"}
    foreign = {
        f"{relative(path)}: {name}"
        for path in sorted((APP / "domain").rglob("*.py"))
        for name in imported(tree(path))
        if not any(name == root or name.startswith(f"{root}.") for root in known)
    }
    assert foreign == set()


def imported(module: ast.Module) -> set[str]:
    """The full names of the modules that a module imports, at any depth."""
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def test_the_rooms_hold_the_modules_of_the_plan() -> None:
    """A module that the plan names exists, or decision 0019 says where it is instead."""
    planned = [
        f"{room}/{name}.py".lstrip("/") for room, names in PLANNED.items() for name in names.split()
    ]
    absent = {name for name in planned if not (APP / name).is_file()}
    assert absent == ELSEWHERE.keys()
    decision = (ROOT / "docs/decisions/0019-where-the-house-differs.md").read_text(encoding="utf-8")
    for name, places in ELSEWHERE.items():
        assert all((APP / place).is_file() for place in places), name
        assert all(f"`{each}`" in decision for each in (name, *places)), name


def test_every_module_is_imported_or_started_by_another() -> None:
    """What nothing uses any more is gone, as what a rename would leave under its old name."""
    used: set[str] = set()
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                used |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                used |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                used.add(node.value)  # python -m, and uvicorn's import strings
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in MODULES
        if path.name not in {"__init__.py", "__main__.py"}
    }
    assert names - used == set()


def test_no_module_is_longer_than_can_be_held_in_mind() -> None:
    sizes = {relative(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: size for name, size in sizes.items() if size > LONGEST_MODULE_LINES} == {}
    ports = [line for line in (APP / "ports.py").read_text().splitlines() if line.strip()]
    assert len(ports) < LONGEST_PORTS_LINES


def test_no_module_has_a_name_that_says_nothing() -> None:
    vague = [relative(path) for path in MODULES if set(path.stem.split("_")) & VAGUE_NAMES]
    assert vague == []


def test_every_module_and_package_says_why_it_exists() -> None:
    silent = [relative(path) for path in MODULES if not ast.get_docstring(tree(path))]
    assert silent == []
    folders = {path.parent for path in MODULES}
    assert [relative(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_importing_a_module_does_nothing_but_define() -> None:
    """No call for its effect, no loop, no file and no global state at import."""
    found = []
    for path in MODULES:
        for node in tree(path).body:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if not is_docstring and not isinstance(node, STATEMENTS_WITHOUT_EFFECT):
                found.append(f"{relative(path)}:{node.lineno}")
    assert found == []


def test_nothing_rebinds_a_global() -> None:
    found = [
        f"{relative(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Global)
    ]
    assert found == []


def test_the_environment_is_read_in_one_place() -> None:
    found = [
        f"{relative(path)}:{node.lineno}"
        for path in MODULES
        if relative(path) not in ENVIRONMENT_READERS
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "putenv"}
    ]
    assert found == []


def test_no_function_middleware_wraps_the_streams() -> None:
    """Starlette's function middlewares break cancellation and cost about 10x per chunk."""
    found = [
        f"{relative(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(tree(path))
        if (isinstance(node, ast.Name) and node.id == "BaseHTTPMiddleware")
        or (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "middleware"
        )
    ]
    assert found == []


def test_nothing_that_is_ours_is_mocked() -> None:
    mocked = [
        relative(path)
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if {"mock", "unittest.mock"} & imported(tree(path))
    ]
    assert mocked == []


def test_nothing_is_left_unfinished() -> None:
    found = [
        f"{relative(path)}:{number}"
        for path in tracked()
        if relative(path).split("/")[0] in {"app", "bench", "deploy", "scripts"}
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert found == []


def test_no_committed_file_names_a_registry_a_machine_or_a_key() -> None:
    found = []
    for path in tracked():
        text = path.read_text(encoding="utf-8", errors="replace")
        found += [f"{relative(path)}: {host}" for host in REGISTRY_HOSTS if host in text]
        found += [f"{relative(path)}: {match[0]}" for match in MACHINE_PATHS.finditer(text)]
        found += [f"{relative(path)}: a key" for _ in KEY_SHAPES.finditer(text)]
    assert found == []


class TestLocks:
    """What is declared is what is pinned."""

    @staticmethod
    def pins(name: str) -> dict[str, str]:
        """The packages of a lock with the text of their pin, hashes included."""
        text = (ROOT / name).read_text(encoding="utf-8")
        found = re.findall(r"(?m)^([A-Za-z0-9._-]+)==(\S+)((?:.*\\\n)*.*)", text)
        return {normal(package): hashes for package, _, hashes in found}

    @pytest.mark.parametrize(
        "name", [f"requirements{kind}.lock" for kind in ("", "-build", "-dev", "-weights")]
    )
    def test_every_pin_has_a_hash(self, name: str) -> None:
        pins = self.pins(name)
        assert pins
        assert [package for package, hashes in pins.items() if "--hash=sha256:" not in hashes] == []

    def test_every_dependency_is_locked_for_serving(self) -> None:
        declared = {normal(word) for word in document()["project"]["dependencies"]}
        assert declared - set(self.pins("requirements.lock")) == set()

    def test_every_dependency_of_a_group_is_locked_for_developing(self) -> None:
        declared = {
            normal(word)
            for words in document()["dependency-groups"].values()
            for word in words
            if isinstance(word, str)
        }
        pins = set(self.pins("requirements-dev.lock"))
        assert declared - pins == set()
        assert set(self.pins("requirements.lock")) <= pins

    def test_every_dependency_of_the_build_group_is_locked_for_building(self) -> None:
        declared = {normal(word) for word in document()["dependency-groups"]["build"]}
        assert declared - set(self.pins("requirements-build.lock")) == set()

    @pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock"])
    def test_all_locks_agree_on_every_version(self, name: str) -> None:
        of_dev, versions = (
            dict(re.findall(r"(?m)^([A-Za-z0-9._-]+)==(\S+)", (ROOT / lock).read_text()))
            for lock in ("requirements-dev.lock", name)
        )
        assert {package: of_dev.get(package) for package in versions} == versions

    def test_no_training_framework_is_ever_installed(self) -> None:
        assert {"torch", "transformers"} & set(self.pins("requirements-dev.lock")) == set()


def document() -> dict[str, dict[str, list[str]]]:
    """pyproject.toml, as far as these tests read it."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def normal(requirement: str) -> str:
    """A requirement's package, spelt as locks spell it."""
    name = re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()
