"""The bill of materials names every pinned package with its hashes, and is the same each time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def bill() -> dict:
    command = [sys.executable, str(ROOT / "scripts/sbom")]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def test_it_names_what_the_lock_pins():
    found = bill()
    lock = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", lock, flags=re.MULTILINE)
    assert [(each["version"]) for each in found["components"]] == [version for _, version in pins]
    assert sum(len(each["hashes"]) for each in found["components"]) == lock.count("--hash=sha256:")
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert bill() == found


def test_it_is_cyclonedx():
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(json.dumps(bill())) is None


def test_the_image_runs_as_nobody_and_starts_without_a_shell():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["10001"]
    assert any("--uid 10001" in line for line in lines)
    last_user = max(i for i, line in enumerate(lines) if line.startswith("USER "))
    assert all(not line.startswith(("RUN", "COPY", "ADD")) for line in lines[last_user:])
    starts = [line for line in lines if line.startswith(("ENTRYPOINT", "CMD"))]
    assert starts
    assert all(line.split(maxsplit=1)[1].startswith("[") for line in starts)
    assert any("--require-hashes" in line for line in lines)
