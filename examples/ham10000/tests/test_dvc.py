from pathlib import Path
from string import Template

import pytest
import yaml

from ham10000.cli import parse_command

FOLDER = Path(__file__).parents[1]
STAGES = yaml.safe_load((FOLDER / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((FOLDER / "params.yaml").read_text())


@pytest.mark.parametrize("stage", list(STAGES))
def test_the_command_of_a_stage_is_one(stage: str) -> None:
    program, *arguments = Template(STAGES[stage]["cmd"]).substitute(PARAMS).split()
    assert program == "ham10000"
    assert parse_command(arguments).func.__name__ == arguments[0]
    assert set(STAGES[stage].get("params", [])) <= set(PARAMS)
    assert (FOLDER / PARAMS["recipe"]).is_file()
