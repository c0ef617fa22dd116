"""What `make` does to a folder: the Makefile in one of its own, with stand-ins for Python."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NO_PIP = """#!/bin/sh
exit 1
"""
WORKS = """#!/bin/sh
echo "$*" >> asked
"""
MAKES_ENVIRONMENTS = """#!/bin/sh
case "$*" in "-m venv"*) echo "$*" >> asked; mkdir -p .venv/bin && cp works .venv/bin/python ;; esac
"""
MAKES_NO_PIP = """#!/bin/sh
case "$*" in "-m venv"*) mkdir -p .venv/bin && cp no-pip .venv/bin/python; exit 1 ;; esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    stand_ins = {"no-pip": NO_PIP, "works": WORKS, "python": MAKES_ENVIRONMENTS, "python-without-pip": MAKES_NO_PIP}
    for name, script in stand_ins.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def make(checkout: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["make", *arguments], cwd=checkout, capture_output=True, text=True, check=False)


def test_an_environment_that_was_cut_off_while_it_was_made_is_made_anew(checkout: Path) -> None:
    without = make(checkout, "setup", "PYTHON=./python-without-pip")
    assert without.returncode != 0
    assert "install python3-venv" in without.stdout
    assert (checkout / ".venv/bin/python").exists()
    done = make(checkout, "setup", "PYTHON=./python")
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (checkout / "asked").read_text().splitlines()
    assert first == "-m venv --clear .venv"
    assert second.startswith("-m pip install ")


def test_an_environment_that_has_pip_is_kept(checkout: Path) -> None:
    (checkout / ".venv/bin").mkdir(parents=True)
    shutil.copy(checkout / "works", checkout / ".venv/bin/python")
    assert make(checkout, "setup", "PYTHON=./python-without-pip").returncode == 0
    assert "venv" not in (checkout / "asked").read_text()


def test_clean_keeps_what_was_trained(checkout: Path) -> None:
    for name in (".venv/x", "out/x", "build/page/x", "build/demo-model/state/x", "vidray.egg-info/x"):
        (checkout / name).mkdir(parents=True)
    assert make(checkout, "clean").returncode == 0
    left = {path.relative_to(checkout).as_posix() for path in checkout.rglob("*") if path.is_dir()}
    assert left == {"build", "build/demo-model", "build/demo-model/state", "build/demo-model/state/x"}
    (checkout / "build").rename(checkout / "elsewhere")
    assert make(checkout, "clean").returncode == 0
