"""Promises of shell completion: what bash is told by ``--show-completion`` completes commands, options and files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")

ROOT = str(Path(__file__).parents[1])


def completed(folder: Path, line: str) -> list[str]:
    """What bash would offer behind a line, in a folder where ``stillhouse`` is a command."""
    command = folder / "bin" / "stillhouse"
    command.parent.mkdir(exist_ok=True)
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m stillhouse.cli "$@"\n')
    command.chmod(0o755)
    *words, last = line.split(" ")
    script = (
        'source <(_STILLHOUSE_COMPLETE=source_bash stillhouse)\n'
        f'COMP_WORDS=({" ".join(words)} "{last}"); COMP_CWORD={len(words)}\n'
        '_stillhouse_completion stillhouse\n'
        'printf "%s\\n" "${COMPREPLY[@]}"; complete -p stillhouse\n')
    environment = {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "PYTHONPATH": ROOT}
    result = subprocess.run(["bash", "--norc", "-c", script], cwd=folder, env=environment, capture_output=True,
                            text=True, timeout=120, check=True)
    *offered, registered = result.stdout.splitlines()
    assert registered == "complete -o default -F _stillhouse_completion stillhouse"  # default: files, where nothing is
    return [word.strip() for word in offered if word.strip()]


@pytest.mark.parametrize(("line", "offered"), [
    ("stillhouse r", ["run", "report"]),
    ("stillhouse cache ", ["info", "verify", "prune"]),
    ("stillhouse init --te", ["--text", "--teacher", "--test"]),
    ("stillhouse run --overw", ["--overwrite"]),
    ("stillhouse run reci", []),  # left to bash, which completes files
])
def test_bash_completes_commands_and_options(tmp_path: Path, line: str, offered: list[str]) -> None:
    assert sorted(completed(tmp_path, line)) == sorted(offered)


def test_completion_imports_nothing_heavy() -> None:
    code = ("import atexit, os, sys\n"
            "os.environ.update(_STILLHOUSE_COMPLETE='complete_bash', COMP_WORDS='stillhouse run --o', COMP_CWORD='2')\n"
            "atexit.register(lambda: print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules))))\n"
            "from stillhouse.cli import main\n"
            "main([])")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False,
                          env={**os.environ, "PYTHONPATH": ROOT}).stdout.split("\n")
    assert said[:2] == ["--overwrite", "[]"]
