"""A stand-in for Node: answers each request for a drawing with a simple SVG whose colours depend on the options."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

PROGRAM = """#!{python}
import hashlib, json, sys
if sys.argv[1:] == ["--version"]:
    print("{version}")
    sys.exit()
for line in sys.stdin:
    options = json.loads(line)["options"]
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()
    face, body = "#" + digest[:6], "#" + digest[6:12]
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">'
        f'<circle cx="50" cy="36" r="24" fill="{{face}}"/>'
        f'<rect x="20" y="64" width="60" height="36" fill="{{body}}"/></svg>'
    )
    print(json.dumps({{"svg": svg}}), flush=True)
"""


def install_fake_node(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str = "v22.1.0") -> Path:
    """Put the stand-in first in the path; returns a folder to give as packages."""
    program = folder / "bin" / "node"
    program.parent.mkdir(parents=True)
    program.write_text(PROGRAM.format(python=sys.executable, version=version))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return folder
