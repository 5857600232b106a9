import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from curate.cli import run


def test_a_whole_installation_is_found_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--out", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    found = {finding["check"]: finding for finding in document["findings"]}
    assert {"curate", "numpy", "torch", "cpu", "memory", "disk", "self-test"} <= set(found)
    assert found["self-test"]["what"] == "24 images packed, indexed, pruned to 12 and verified"
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--out", str(tmp_path / "nowhere"), "--no-torch"]) == 1
    out = capsys.readouterr().out
    assert "failed   disk: FileNotFoundError" in out
    assert "ok       self-test" in out


def test_a_library_that_breaks_when_it_is_imported_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so is missing')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    words = [sys.executable, "-m", "curate", "doctor"]
    result = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "failed   devices: ImportError: libcudart.so is missing" in result.stdout


def test_a_command_whose_library_is_missing_says_so(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no', name='torch')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    words = [sys.executable, "-m", "curate", "score", "pool"]
    result = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, "Traceback" in result.stderr) == (1, False)
    assert "needs 'torch', which is not installed here" in result.stderr
