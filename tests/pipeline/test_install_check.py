"""The last step of envs/install.sh: one known complaint is let through, all others and a crash are not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

KNOWN = "The package `galore-torch` requires `bitsandbytes`, but it's not installed"
KNOWN_TO_PIP = "galore-torch 1.0 requires bitsandbytes, which is not installed."
OTHER = "The package `peft` requires `torch>=9`, but `2.0` is installed"
OTHER_TO_PIP = "peft 1.0 has requirement torch>=9, but you have torch 2.0."


def checked(repository: Path, said: str, code: int) -> subprocess.CompletedProcess[str]:
    """Run the script's own function on what a package manager says and its exit code."""
    script = (repository / "envs/install.sh").read_text(encoding="utf-8")
    function = script[(start := script.index("\ncheck() {")) : script.index("\n}\n", start) + 3]
    program = f'set -eu\nunmet() {{ printf "%s" "$1"; return "$2"; }}\n{function}'
    program = program.replace("$(unmet)", '$(unmet "$1" "$2")') + 'check "$1" "$2"\n'
    return subprocess.run(["sh", "-c", program, "sh", said, str(code)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("Checked 198 packages in 8ms\nAll installed packages are compatible\n", 0),
        (f"Using Python 3.11 environment at: v\nChecked 198 packages in 8ms\nFound 1 incompatibility\n{KNOWN}\n", 1),
        ("No broken requirements found.\n", 0),
        (f"{KNOWN_TO_PIP}\n", 1),
    ],
)
def test_what_is_known_is_let_through(repository: Path, said: str, code: int) -> None:
    done = checked(repository, said, code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (f"Checked 198 packages in 8ms\nFound 2 incompatibilities\n{KNOWN}\n{OTHER}\n", 1),
        (f"{KNOWN_TO_PIP}\n{OTHER_TO_PIP}\n", 1),
        ("error: No virtual environment found\n", 2),
        (f"{KNOWN}\n", 2),
        ("thread 'main' panicked\n", 0),
        ("", 1),
        ("", 139),
    ],
)
def test_another_complaint_or_a_crash_ends_the_installation(repository: Path, said: str, code: int) -> None:
    done = checked(repository, said, code)
    assert done.returncode == 1
    assert said in done.stderr and f"(exit code {code})" in done.stderr
