"""The licence is there, whole, and the same wherever it is named."""

import hashlib
import re
import tomllib
from pathlib import Path


def test_the_licence_and_the_fields_that_name_it_agree(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (repository / "CITATION.cff").read_text(encoding="utf-8")
    assert project["license-files"] == ["LICENSE"]
    text = (repository / "LICENSE").read_text(encoding="utf-8")
    head = [line.strip() for line in text.splitlines() if line.strip()][:3]
    assert head == ["Apache License", "Version 2.0, January 2004", "http://www.apache.org/licenses/"]
    assert project["license"] == "Apache-2.0"
    assert re.findall(r"^license: (.*)$", citation, re.MULTILINE) == ["Apache-2.0"]


def test_the_licence_is_the_standard_text(repository: Path) -> None:
    """MD5 of www.apache.org/licenses/LICENSE-2.0.txt, which packagers compare with."""
    text = (repository / "LICENSE").read_bytes().replace(b"\r\n", b"\n")
    assert hashlib.md5(text, usedforsecurity=False).hexdigest() == "3b83ef96387f14655fc854ddc3c6bd57"
