"""An example of every command, as `--help` shows it. A test types each of them up to its first effect."""

from __future__ import annotations

import typer
from typer.models import CommandInfo

EXAMPLES = {
    "demo": "curate demo",
    "doctor": "curate doctor --no-torch",
    "pack": "curate pack photos/ shards/",
    "index": "curate index shards/",
    "score": "curate score shards/ --proxy resnet18 --test test/",
    "prune": "curate prune --keep 0.8 --fn variation_ratio",
    "build-up": "curate build-up shards/ --schedule 0.2,0.4,0.8 --fn variation_ratio",
    "acquire": "curate acquire shards/ --schedule 0.1,0.2 --fn least_confidence",
    "report": "curate report manifests/variation_ratio-0.8",
    "explain": "curate explain KEY --manifest manifests/variation_ratio-0.8",
    "diff": "curate diff manifests/margin-0.5 manifests/entropy-0.5 --md",
    "check": "curate check manifests/variation_ratio-0.8 --gates ci/gates.toml",
    "verify": "curate verify manifests/variation_ratio-0.8",
    "manifest merge": "curate manifest merge manifests/margin-0.5 manifests/entropy-0.5 --out manifests/either",
    "manifest intersect": "curate manifest intersect manifests/margin-0.5 manifests/entropy-0.5 --out manifests/both",
    "manifest subtract": "curate manifest subtract manifests/margin-0.5 manifests/entropy-0.5 --out manifests/only",
    "manifest invert": "curate manifest invert manifests/margin-0.5 --out manifests/dropped",
    "cat": "curate cat manifests/variation_ratio-0.8 train-000000.tar | tar t",
    "materialize": "curate materialize manifests/variation_ratio-0.8 kept/",
    "export": "curate export manifests/variation_ratio-0.8 --to timm --out timm/",
    "serve": "curate serve manifests/variation_ratio-0.8",
    "evaluate": "curate evaluate --curve 0.3,0.5,0.7,0.9 --fn variation_ratio --test test/",
    "compare": "curate compare scores-resnet18 scores-resnet50",
    "fingerprint": "curate fingerprint shards/ --recipe recipe.toml",
}


def show_examples(app: typer.Typer, group: str = "") -> None:
    """Gives every command of an application its example, below the options."""
    for command in app.registered_commands:
        command.epilog = f"Example: {EXAMPLES[group + name_of(command)]}"
    for inner in app.registered_groups:
        if inner.typer_instance:
            show_examples(inner.typer_instance, f"{inner.typer_instance.info.name} ")


def name_of(command: CommandInfo) -> str:
    """Returns what a registered command is called: as it says, or as its function."""
    return command.name or str(getattr(command.callback, "__name__", "")).replace("_", "-")
