import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.servers import ROOT, serving

# A command, and what it prints.
_ASKED = re.compile(r"^\$ (curl .*)\n((?:(?!\$ |```).*\n)*)", re.MULTILINE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl (Debian: apt install curl)")
def test_the_examples_of_the_readme_print_what_it_says(tmp_path: Path) -> None:
    examples = _ASKED.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    with serving(tmp_path) as server:
        for command, expected in examples:
            here = command.replace("localhost:8000", f"{server.host}:{server.port}")
            asked = subprocess.run(
                ["bash", "-c", here], capture_output=True, check=True, text=True, timeout=60
            )
            assert asked.stdout.strip() == expected.strip(), command
    assert len(examples) > 3
