"""The reference of all commands, made from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from curate.cli.examples import EXAMPLES
from curate.cli.options import app


def reference() -> str:
    """Returns the reference of all commands in Markdown, made from the commands themselves."""
    parts = ["# Command line\n\nGenerated from the program; do not edit.\n"]
    for name, command in sorted(_commands(typer.main.get_command(app))):
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        words = "".join(f" {p.metavar or p.name.upper()}" for p in arguments)
        parts.append(f"## curate {name}{words}\n\n{command.help.strip()}\n\n    {EXAMPLES[name]}\n")
        rows = [f"| `{p.metavar or p.name.upper()}` | {p.help or ''} | |" for p in arguments]
        rows += [f"| `{', '.join(p.opts)}` | {p.help or ''} | {_default(p)} |" for p in options if p.name != "help"]
        parts.append("\n".join(["| | | default |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every command by its words, those of groups included."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def _default(option: Any) -> str:
    value = option.default
    return "" if value in (None, "", False, []) or callable(value) else f"`{value}`"
