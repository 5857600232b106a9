"""The house plan: imports go down, never up, and the light commands stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import curate

PACKAGE = Path(curate.__file__).parent
FLOORS = {
    "errors": 0, "samples": 0, "progress": 0,
    "durable": 1, "apart": 1, "tables": 1, "recipe": 1, "pool": 1, "scores": 1, "embeddings": 1, "foreign": 1, "manifest": 1,
    "acquisition": 1, "selection": 1, "statistics": 1,
    "proxy": 2, "trainer": 2, "workflows": 3, "cli": 4, "report": 4, "console": 4, "__main__": 4, "__init__": 4,
}  # fmt: skip
FILES_ROOM = {"durable", "apart", "tables", "recipe", "pool", "scores", "embeddings", "foreign", "manifest"}
ARITHMETIC_ROOM = {"acquisition", "selection", "statistics"}
ONLY_IMPORTER = {
    "typer": {"cli"}, "rich": {"console"}, "jinja2": {"report"},
    "torch": {"proxy", "trainer", "workflows"}, "timm": {"proxy"},
}  # fmt: skip
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    room = room_of(path)
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "curate" and len(parts) > 1 and parts[1] in FLOORS:
            assert FLOORS[parts[1]] <= FLOORS[room], f"{path} imports {name}"
            if room in ARITHMETIC_ROOM:
                assert parts[1] not in FILES_ROOM, f"{path} knows files: {name}"
        for library, rooms in ONLY_IMPORTER.items():
            assert parts[0] != library or room in rooms, f"{path} imports {library}"


def test_the_table_names_every_room() -> None:
    assert {room_of(path) for path in MODULES} <= set(FLOORS)


def loaded_after(code: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in result.stdout.splitlines()[-1].split()}


def test_help_prune_and_verify_do_not_import_torch() -> None:
    code = "import curate.cli.reference, curate.workflows.prune, curate.manifest.verify, curate.report.explanation, curate.report.outcomes, curate.report.page"
    assert not {"torch", "timm", "webdataset"} & loaded_after(code)


def test_cat_imports_the_standard_library_and_zstandard_alone() -> None:
    code = "import curate.__main__, curate.manifest.stream"
    heavy = {"numpy", "typer", "rich", "pyarrow", "pydantic", "torch", "PIL"}
    assert not heavy & loaded_after(code)


def test_the_package_imports_nothing_until_a_dataset_is_asked_for() -> None:
    assert not {"torch", "numpy", "typing"} & (loaded_after("import curate; dir(curate)") - loaded_after("pass"))
    assert "torch" in loaded_after("import curate; curate.KeptSamples, curate.KeptStream")
    with pytest.raises(AttributeError, match="no attribute 'kept'"):
        curate.kept  # noqa: B018  (asked for to fail)
