"""The guide's commands, and every command's example: typed as they stand."""

import re
import shlex
import shutil
import subprocess
from functools import reduce
from pathlib import Path

import pytest
import typer
from conftest import PER_SHARD, png, write_tar
from test_ci import environment

from curate.cli import run
from curate.cli.examples import EXAMPLES
from curate.cli.options import app
from curate.cli.reference import _commands
from curate.recipe import load_recipe
from curate.workflows.check import read_gates

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "guide.md").read_text()
BLOCKS = [line for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines()]
FILES = {text.split()[1]: text for text in re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)}
# As in the guide, but for a pool that is smaller still.
SMALLER = {"epochs = 8": "epochs = 3", "checkpoints = 4": "checkpoints = 2", "batch_size = 64": "batch_size = 16"}
COMMANDS = dict(_commands(typer.main.get_command(app)))


def parsed(line: str) -> str:
    """Returns the command of a line whose every word the program takes."""
    words = shlex.split(line.split(" | ")[0])[1:]
    name = " ".join(words[:2]) if words[0] == "manifest" else words[0]
    COMMANDS[name].make_context(name, words[len(name.split()) :])
    return name


def test_every_command_has_an_example_that_it_takes_and_shows(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(EXAMPLES) == set(COMMANDS)
    for name, example in EXAMPLES.items():
        assert parsed(example) == name
        assert run([*name.split(), "--help"]) == 0
        assert " ".join(example.split()) in " ".join(capsys.readouterr().out.split())


def test_the_guides_files_are_what_the_program_reads(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    assert load_recipe(tmp_path / "recipe.toml", []).train.checkpoints == 4
    assert read_gates(tmp_path / "gates.toml")["min_per_class"] == 4


def test_the_guide_types_what_the_program_takes() -> None:
    typed = {parsed(line) for line in BLOCKS if line.startswith("curate ")}
    assert {"index", "score", "prune", "report", "explain", "diff", "check", "evaluate", "compare"} <= typed


def test_pages_that_the_guide_names_are_there() -> None:
    for page in ("guide.md", "gallery.md", "ci.md"):
        text = (ROOT / "docs" / page).read_text()
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (ROOT / "docs" / target).exists(), f"{page}: {target}"


@pytest.mark.slow
def test_the_guides_commands_work_as_written(
    pool_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after another in one folder; shards, recipes and gates are there, as the guide says that you have them."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pool_folder, "shards", copy_function=shutil.copy2)
    colours = [(220, 30, 30), (30, 200, 40), (40, 60, 220)]
    for path, first in ((Path("test/test-0000.tar"), 500), (Path("new.tar"), 700)):
        samples = [(f"x{n}", n % 3, png(colours[n % 3], first + n)) for n in range(PER_SHARD)]
        members = [(f"{k}.{e}", d) for k, c, image in samples for e, d in (("png", image), ("cls", str(c).encode()))]
        write_tar(path, members)
    recipe = reduce(lambda text, change: text.replace(*change), SMALLER.items(), FILES["recipe.toml"])
    Path("recipe.toml").write_text(recipe + "[augment]\ntranslate_px = 1\n")
    Path("target.toml").write_text(recipe.replace("checkpoints = 2", "checkpoints = 1"))
    Path("gates.toml").write_text(FILES["gates.toml"])
    for line in BLOCKS:
        if "--base" in line:
            shutil.move("new.tar", "shards/toy-0009.tar")
        elif Path("shards/toy-0009.tar").exists():
            Path("shards/toy-0009.tar").unlink()
        if "ci/prune.sh" in line:
            words = ["sh", "-c", line.replace("ci/prune.sh", f"{ROOT}/ci/prune.sh")]
            subprocess.run(words, env=environment(), check=True)
        else:
            assert run(shlex.split(line)[1:]) == 0, line
        assert "Traceback" not in capsys.readouterr().err
    assert Path("report.html").stat().st_size > 10_000
