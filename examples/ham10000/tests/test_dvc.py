import json
from pathlib import Path
from string import Template
from typing import Any, get_args

import pytest
import yaml
from dvc_project import DvcProject

from ham10000.cli import parse_command
from ham10000.errors import RecipeError
from ham10000.evaluation import read_predictions
from ham10000.recipe import Recipe, field_values, load_recipe, recipe_fields
from ham10000.training import RunDir

FOLDER = Path(__file__).parents[1]
STAGES = yaml.safe_load((FOLDER / "dvc.yaml").read_text())["stages"]
PIPELINE = yaml.safe_load((FOLDER / "pipeline.yaml").read_text())
PARAMS = yaml.safe_load((FOLDER / "params.yaml").read_text())
OWN = {"data.root": "dvc/data", "data.cache": "dvc/cache"}

SMALL = {
    "data.size": 24,
    "data.epoch_samples": 32,
    "data.workers": 0,
    "model.at": "block2",
    "training.epochs": 1,
    "training.batch_size": 16,
    "logging.tensorboard": False,
}


class _Dotted(Template):
    braceidpattern = r"[a-z.]+"


def _values() -> dict[str, str]:
    nested = {
        f"{section}.{name}": value
        for section, fields in PARAMS.items()
        if isinstance(fields, dict)
        for name, value in fields.items()
    }
    return {name: str(value) for name, value in {**PIPELINE, **nested}.items()}


@pytest.mark.parametrize("stage", list(STAGES))
def test_the_commands_of_a_stage_are_ours(stage: str) -> None:
    commands = STAGES[stage]["cmd"]
    for command in [commands] if isinstance(commands, str) else commands:
        program, *arguments = _Dotted(command).substitute(_values()).split()
        assert program == "ham10000"
        assert parse_command(arguments).func.__name__ == arguments[0]


def test_the_parameters_are_a_recipe_with_all_fields() -> None:
    expected = load_recipe("smoke_sa", [f"{name}={value}" for name, value in OWN.items()])
    assert load_recipe(FOLDER / "params.yaml") == expected
    assert (
        {name for name in recipe_fields() if "." not in name}
        | {name.partition(".")[0] for name in recipe_fields()}
        == set(PARAMS)
        == set(STAGES["train"]["params"])
    )
    for name in recipe_fields():
        section, _, field = name.partition(".")
        assert field in PARAMS[section] if field else section in PARAMS, name


VALUES = {
    "data.set": "isic2019",
    "data.protocol": "paper",
    "data.augment": "strong",
    "data.offline": "auto",
    "model.backbone": "timm:resnet18",
    "training.crops": "4",
    "model.mean": "[0.4,0.5,0.6]",
    "model.std": "[0.2,0.2,0.3]",
    "model.authors_parameters": "{backbone: 3}",
    "attention.gamma": "uniform",
    "optimizer.betas": "[0.8,0.9]",
    "loss.class_weights": "{mel: 2.5}",
    "loss.dx_type_weights": "{histo: 2.0}",
    "loss.cumulative": "[1.0,2.0]",
    "training.tta": "4",
    "training.precision": "bf16",
    "training.monitor": "auc_macro",
}
"""Values for fields whose type and present value do not suggest one."""


@pytest.mark.slow
def test_an_experiment_can_set_any_field(tmp_path: Path) -> None:
    hydra = pytest.importorskip("dvc.utils.hydra", reason="needs DVC: pip install dvc")
    text, path = (FOLDER / "params.yaml").read_text(), tmp_path / "params.yaml"
    before = load_recipe(FOLDER / "params.yaml")
    for name, info in recipe_fields().items():
        change = f"{name}={VALUES.get(name) or _another(field_values(before)[name], info.kind)}"
        path.write_text(text)
        hydra.apply_overrides(path, [change])
        changed = _load(path)
        assert changed == _load(FOLDER / "params.yaml", change), change
        assert changed != before, change


def _load(path: Path, *changes: str) -> Recipe | str:
    """Return a recipe, or why it is refused: some values need a change of another field too."""
    try:
        return load_recipe(path, changes)
    except RecipeError as error:
        return str(error).removeprefix(f"reading {path}: ")


def test_a_precision_that_looks_like_a_number_can_be_set(tmp_path: Path) -> None:
    hydra = pytest.importorskip("dvc.utils.hydra", reason="needs DVC: pip install dvc")
    path = tmp_path / "params.yaml"
    path.write_text((FOLDER / "params.yaml").read_text())
    hydra.apply_overrides(path, ["training.precision=32"])
    assert load_recipe(path).training.precision == "32"


def _another(value: Any, kind: Any) -> str:
    """Return a value of a field that differs from its present one, as on a command line."""
    options = [option for option in get_args(kind) if isinstance(option, str)]
    if options:
        return next(option for option in options if option != value)
    if isinstance(value, bool) or bool in get_args(kind):
        return str(not value).lower()
    if isinstance(value, float):
        return str(value / 2 or 0.25)
    if float in get_args(kind):
        return "0.5"
    return str(value + 1) if isinstance(value, int) else "1" if int in get_args(kind) else "other"


@pytest.mark.slow
def test_a_changed_recipe_and_changed_images_replace_the_run(tmp_path: Path) -> None:
    pytest.importorskip("dvc", reason="needs DVC: pip install dvc")
    make = "synthesize --images 280 --width"
    project = DvcProject(tmp_path / "project", {"make": f"{make} 48"}, SMALL)
    outputs = project.folder / "dvc"
    run = RunDir(outputs / "run")
    project.run("dvc", "repro")
    assert (outputs / "report.html").is_file()
    assert project.run("dvc", "status").strip() == "Data and pipelines are up to date."
    first, log = read_predictions(run.predictions()), run.log.read_text()
    images = run.images.read_text()
    mine = outputs / "notes.txt"
    mine.write_text("mine")
    project.commit()

    changes = ("optimizer.lr=0.5", "attention.layer=none", "training.ema=0.5")
    options = [option for change in changes for option in ("-S", change)]
    project.run("dvc", "exp", "run", "train", *options)
    recipe = load_recipe(run.recipe)
    assert (recipe.optimizer.lr, recipe.attention.layer, recipe.training.ema) == (0.5, "none", 0.5)
    second = read_predictions(run.predictions())
    assert not first.table.equals(second.table)
    assert log.splitlines()[0] not in run.log.read_text()
    shown = json.loads(project.run("dvc", "metrics", "show", "--json"))
    assert "dvc/run/evaluation/metrics.json" in json.dumps(shown)

    project.edit("pipeline.yaml", {"make": f"{make} 56"})
    project.run("dvc", "repro", "train")
    assert run.images.read_text() != images
    assert not second.table.equals(read_predictions(run.predictions()).table)
    assert mine.read_text() == "mine"
