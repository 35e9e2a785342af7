import shutil
from pathlib import Path

import pytest
from studies import RECIPES, add_runs, look, split_table

from ham10000.study.plan import make_plan
from ham10000.study.preregistration import StudyRecord, table_hash
from ham10000.study.results import publish_study


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of two recipes, two folds and four seeds. Tests must not change it."""
    folder = tmp_path_factory.mktemp("finished") / "study"
    plan = make_plan(RECIPES, range(4), 2, looks=2)
    split_table().to_csv(folder.parent / "split.csv", index=False)
    record = StudyRecord(folder)
    record.register(plan, RECIPES, table_hash(split_table()))
    shutil.move(folder.parent / "split.csv", folder)
    add_runs(folder, plan)
    look(folder, plan)
    return folder


@pytest.fixture(scope="session")
def published(finished: Path) -> Path:
    """Published results of `finished`, in a folder of results. Tests must not change it."""
    publish_study(finished, finished.parent / "results/ours")
    return finished.parent / "results/ours"
