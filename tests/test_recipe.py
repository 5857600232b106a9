import re
from pathlib import Path

import pytest

from curate.errors import RecipeError
from curate.recipe import Recipe, load_recipe

RECIPES = Path(__file__).parent.parent / "recipes"


def test_the_default_recipe_spells_out_the_defaults() -> None:
    text = (RECIPES / "default.toml").read_text()
    assert load_recipe(RECIPES / "default.toml") == Recipe()
    for section, table in Recipe().model_dump().items():
        assert all(f"\n{key} = " in text for key in table), section


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda p: p.name)
def test_every_recipe_loads_and_says_how_to_run_it(path: Path) -> None:
    load_recipe(path)
    head = path.read_text().partition("\n[")[0]
    assert "# Run: curate " in head
    if path.name != "default.toml":
        for said in ("# Source: ", "# Hardware: ", "Wall time: ", "# Result: "):
            assert said in head, said
        assert "not measured" in head or any(place in head for place in ("docs/results", "docs/measurements"))


def test_recipes_name_recipes_that_exist() -> None:
    named = {
        name for path in RECIPES.glob("*.toml") for name in re.findall(r"recipes/([\w-]+\.toml)", path.read_text())
    }
    assert len(named) > 10
    assert named <= {path.name for path in RECIPES.glob("*.toml")}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.epoch=3", "Did you mean 'epochs'"),
        ("trian.epochs=3", "Did you mean 'train'"),
        ("train.epochs=0", "train.epochs"),
        ("train.rate=nan", "train.rate"),
        ("train.checkpoints=20", "20 checkpoints"),
        ("train.schedule=step", "milestones"),
        ("epochs", "section.key=value"),
        ("train.member=best", "there are 4 checkpoints"),
        ("train.stop_after=5", "comes down at the last epoch"),
        ("train.schedule=constant train.stop_after=3", "the checkpoints span 4"),
        ("train.schedule=patience train.patience=3 train.stop_after=7", "after 1 epochs at one rate"),
        ("train.schedule=step train.milestones=[10]", "first of 4 checkpoints is taken at epoch 9"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(None, setting.split())
    assert said in str(error.value)


def test_the_papers_optimisation_is_a_recipe() -> None:
    settings = [
        "schedule=patience",
        "patience=25",
        "stop_after=50",
        "epochs=400",
        "checkpoints=5",
        "checkpoint_every=5",
    ]
    assert load_recipe(None, [f"train.{one}" for one in settings]).train.needs_val


def test_a_recipe_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[train\nepochs=")
    with pytest.raises(RecipeError, match="TOML"):
        load_recipe(tmp_path / "r.toml")


@pytest.mark.parametrize("text", ["proxy = 3", "[proxy]\nname = [1]", "train = []", "text = 1"])
def test_tables_of_other_kinds_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(RecipeError, match="should be"):
        load_recipe(tmp_path / "r.toml")


@pytest.mark.parametrize(
    "setting", ["epochs=true", 'seeds="1"', "checkpoints=1.0", "seeds=99999999999", "seed=18446744073709551616"]
)
def test_a_number_is_a_whole_one_of_sane_size(setting: str) -> None:
    with pytest.raises(RecipeError, match=setting.partition("=")[0]):
        load_recipe(None, [f"train.{setting}"])
    assert load_recipe(None, ["train.rate=1"]).train.rate == 1
