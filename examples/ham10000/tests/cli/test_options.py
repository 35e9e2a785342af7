from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from jsonargparse import ArgumentParser

from ham10000.cli.options import Option, Seed, add_recipe_fields, parse, recipe_overrides, spell_out
from ham10000.errors import RecipeError


def command(
    run: Path,
    other: Path | None = None,
    /,
    *,
    out: Path,
    seed: Seed = 0,
    tta: Literal[1, 2] | None = None,
    parts: Sequence[Literal["a", "b"]] = ("a",),
    dx: Annotated[str | None, Option(name="class", choices=("mel", "nv"))] = None,
    dry_run: Annotated[bool, Option(group="trying")] = False,
) -> int:
    """Do something.

    More about it.

    Args:
        run: Folder of a run.
        other: Another one.
        out: Folder, 100 % of it.
        tta: Number of views.
        parts: Parts of it.
        dx: Class.
        dry_run: Do nothing.
    """
    raise NotImplementedError


def with_fields(recipes: Sequence[str], /, *, out: Path, **overrides: Any) -> int:
    """Train."""
    raise NotImplementedError


def test_positional_parameters_are_arguments_and_keywords_are_options() -> None:
    made = parse("it", command, ["a", "--out", "o", "--class", "nv", "--tta", "2", "--dry-run"])
    assert made.args == (Path("a"), None)
    assert made.keywords == {
        "out": Path("o"),
        "seed": 0,
        "tta": 2,
        "parts": ["a"],
        "dx": "nv",
        "dry_run": True,
    }
    made = parse("it", command, ["a", "b", "--dry_run", "--out=o", "--parts", "a", "b"])
    assert made.args == (Path("a"), Path("b"))
    assert list(made.keywords["parts"]) == ["a", "b"]
    assert made.keywords["dry_run"] is True, "underscores are accepted too"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "--out"),
        (["--out", "o"], "run"),
        (["a", "--out", "o", "--tta", "3"], "--tta"),
        (["a", "--out", "o", "--seed", "x"], "--seed"),
        (["a", "--out", "o", "--class", "mole"], "mole"),
    ],
)
def test_invalid_arguments_exit_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse("it", command, arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_help_has_the_docstring_and_the_shared_descriptions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parse("it", command, ["--help"])
    text = capsys.readouterr().out
    for part in (
        "Do something.\n\nMore about it.",
        "--out PATH",
        "Folder, 100 % of it.",
        "Seed of the random numbers. (default: 0)",
        "Parts of it. Choices: a, b. (default: a)",
        "--class {mel,nv}",
        "--dry-run",
    ):
        assert part in text
    assert "\ntrying:\n  --dry-run" in text
    assert text.index("options:") < text.rindex("--class {mel,nv}") < text.index("trying:")


def test_recipe_fields_are_options_that_only_help_fields_shows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = parse("it", with_fields, ["x", "y", "--out", "o", "data.size=64", "--seed", "3"])
    assert made.args == (["x", "y"],)
    assert made.keywords["data"]["size"] == "64"
    assert made.keywords["seed"] == "3"
    with pytest.raises(RecipeError, match=r"Closest: data\.size"):
        parse("it", with_fields, ["x", "--out", "o", "data.sise=64"])
    for option, shown in (("--help", False), ("--help-fields", True)):
        with pytest.raises(SystemExit) as stopped:
            parse("it", with_fields, [option])
        assert stopped.value.code == 0
        text = capsys.readouterr().out
        assert ("--optimizer.lr VALUE" in text) is shown
        assert ("Fields of a recipe, which --help-fields lists: name, seed, data (" in
                " ".join(text.split())) is not shown  # fmt: skip


def parse_fields(*arguments: str) -> tuple[list[str], dict[str, object]]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("recipe")
    parser.add_argument("--out")
    add_recipe_fields(parser)
    options = parser.parse_args(spell_out(arguments)).as_dict()
    return recipe_overrides(options), options


def test_an_option_has_three_spellings() -> None:
    for way in (["--data.root", "a b"], ["--data.root=a b"], ["data.root=a b"]):
        changes, options = parse_fields("x.yaml", *way, "--out", "run", "seed=3")
        assert changes == ["seed=3", "data.root=a b"]
        assert options == {"recipe": "x.yaml", "out": "run"}


def test_values_are_left_as_they_are() -> None:
    changes, _ = parse_fields(
        "x.yaml", "loss.class_weights={mel: 5, nv: 1}", "attention.gamma=null"
    )
    assert "loss.class_weights={mel: 5, nv: 1}" in changes
    assert "attention.gamma=null" in changes


def test_unknown_fields_are_refused_by_the_closest_name() -> None:
    for way in ("data.sise=3", "--data.sise=3", "--data.sise"):
        with pytest.raises(RecipeError, match=r"no field data\.sise\. Closest: data\.size"):
            spell_out(["x.yaml", way])


def test_other_arguments_stay() -> None:
    arguments = ["train", "recipes/x.yaml", "--out", "a=b", "--json", "x.y", "./a.b=c"]
    assert spell_out(arguments) == arguments


@pytest.mark.parametrize(
    ("argument", "nearest"),
    [
        ("epochs=3", "training.epochs"),
        ("sead=3", "seed"),
        ("data.Size=64", "data.size"),
        ("--training.batch-size", "training.batch_size"),
    ],
)
def test_misspelt_fields_are_refused_too(argument: str, nearest: str) -> None:
    with pytest.raises(RecipeError, match=f"has no field .* Closest: .*{nearest}"):
        spell_out(["train", "mine.yaml", argument])
