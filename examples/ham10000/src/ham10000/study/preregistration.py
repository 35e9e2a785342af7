"""Append-only record of a study: its plan, its extensions, and every look at its result.

plan.json is a list of entries. Each entry contains the SHA-256 of the previous entry and of itself,
so an edited, removed or moved entry is detected when the file is read. Looks removed from the end
are detected by comparison with study.json. The hash is not a signature: it detects mistakes and
casual edits, but can be recomputed after any edit.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ham10000.errors import ArgumentError, DataError, PredictionError, RecipeError, SplitError
from ham10000.recipe import Recipe
from ham10000.study.plan import PlannedRun, StudyPlan
from ham10000.utils import write_text

__all__ = ["PLAN", "StudyRecord", "content_hash", "list_seeds", "recorded_values", "table_hash"]

PLAN = "plan.json"

UNPLANNED = (
    "seed",
    "data.root",
    "data.cache",
    "data.check_cache",
    "data.features",
    "data.split",
    "data.split_seed",
    "data.fold",
    "data.pairs",
    "data.workers",
    "training.keep",
    "training.checkpoint_steps",
    "training.checkpoint_minutes",
    "training.max_minutes",
)
"""Recipe fields that are not recorded: they differ between runs or machines, or only affect the
split, which has a hash of its own. Logging is not recorded either."""

_PATHS = ("data.set", "data.offline", "model.weights")
"""Recorded fields that can be paths."""


class StudyRecord:
    """Entries of a study's plan.json, verified when they are read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.recipe import Recipe
        >>> from ham10000.study import StudyRecord, make_plan
        >>> recipes = [Recipe("bare"), Recipe("attended")]
        >>> plan = make_plan(recipes, [0, 1], folds=None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     StudyRecord(Path(folder)).register(plan, recipes, split="0a1b")
        ...     StudyRecord(Path(folder)).seeds
        (0, 1)

    Args:
        folder: Folder of the study.

    Raises:
        DataError: plan.json cannot be read or was edited.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries = _read(folder / PLAN)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the plan with its extensions."""
        planned = [entry["seeds"] for entry in self.entries if entry["kind"] != "look"]
        return tuple(planned[-1]) if planned else ()

    @property
    def plan(self) -> StudyPlan:
        """The plan, including the seeds of all extensions."""
        terms = self.entries[0]
        return StudyPlan(
            control=terms["control"],
            arms=tuple(terms["arms"]),
            seeds=self.seeds,
            folds=terms["folds"],
            primary=terms["primary"],
            secondaries=tuple(terms["secondaries"]),
            margins=terms["margins"],
            looks=terms["looks"],
        )

    @property
    def looks(self) -> list[dict[str, Any]]:
        """Entries of the looks at the result, in order."""
        return [entry for entry in self.entries if entry["kind"] == "look"]

    @property
    def looks_taken(self) -> list[dict[str, Any]]:
        """The looks as study.json has them, without the hashes of predictions."""
        names = ("number", "time", "seeds", "level", "exploratory", "verdicts")
        return [{name: look[name] for name in names} for look in self.looks]

    def check_looks(self, taken: Iterable[Mapping[str, Any]]) -> None:
        """Check that the looks of an earlier result are recorded.

        Args:
            taken: `looks_taken` of the result, in study.json.

        Raises:
            DataError: A look is not recorded.
        """
        recorded = [(look["number"], look["time"]) for look in self.looks]
        for look in taken:
            if (look["number"], look["time"]) not in recorded:
                raise DataError(
                    f"running a study in {self.folder}: study.json has look {look['number']} at "
                    f"the result ({look['time']}), which is not in {PLAN}, so {PLAN} was edited or "
                    "removed. Restore it, or choose another folder."
                )

    def register(
        self,
        plan: StudyPlan,
        recipes: Sequence[Recipe],
        split: str,
        *,
        split_seed: int | None = None,
        extend: bool = False,
    ) -> None:
        """Record a plan, or check that the recorded plan is the same.

        Args:
            plan: Plan of the study.
            recipes: Recipes with the overrides of the study applied.
            split: Hash of split.csv, from `table_hash`.
            split_seed: Seed that split.csv was made with, if the recipes have one.
            extend: Record additional seeds.

        Raises:
            ArgumentError: The recorded plan is another one, has seeds that `plan` leaves out, or
                lacks seeds of `plan` and `extend` is false.
            RecipeError: A recipe was changed.
            SplitError: The split was changed, or another seed of the split is wanted.
        """
        doing = f"running a study in {self.folder}"
        fields = {recipe.name: recorded_values(recipe) for recipe in recipes}
        if not self.entries:
            hashes = {name: content_hash(values) for name, values in fields.items()}
            content = {
                "split": split,
                "split_seed": split_seed,
                "recipe_hashes": hashes,
                "recipe_fields": fields,
            }
            self._append("plan", {**plan.terms(), "seeds": plan.seeds, **content})
            return
        recorded = self.entries[0]
        for name, value in plan.terms().items():
            if recorded[name] != value:
                raise ArgumentError(
                    f"{doing}: its plan has {name} {recorded[name]!r}, not {value!r}. "
                    "Choose another folder."
                )
        drawn = recorded.get("split_seed", split_seed)  # older plans lack it
        if drawn != split_seed:
            raise SplitError(
                f"{doing}: its split was drawn with data.split_seed {drawn}, not {split_seed}. "
                "Choose another folder."
            )
        for name, values in fields.items():
            _check_recipe(name, recorded["recipe_fields"][name], values, doing)
        if recorded["split"] != split:
            raise SplitError(
                f"{doing}: split.csv was changed after the plan was recorded "
                f"({recorded['time']}). Restore it, or choose another folder."
            )
        self._check_seeds(plan.seeds, extend, doing)

    def check_run(self, run: PlannedRun, recipe: Recipe) -> None:
        """Check that a run was trained as planned.

        Args:
            run: A run of the plan.
            recipe: The recipe in the folder of the run.

        Raises:
            RecipeError: A field of the recipe, the seed or the fold is not as planned.
        """
        planned = self.entries[0]["recipe_fields"][run.recipe]
        found = recorded_values(recipe)
        expected = {name: value for name, value in planned.items() if name not in UNPLANNED}
        expected |= {"seed": run.seed, "data.fold": recipe.data.fold}
        found |= {"seed": recipe.seed, "data.fold": recipe.data.fold}
        if run.fold is not None:
            expected["data.fold"] = run.fold
        for values in (expected, found):  # a run has absolute paths, and may be of another machine
            values |= {name: Path(values[name]).name for name in _PATHS if values.get(name)}
        differing = [name for name in expected if expected[name] != found.get(name)]
        if differing:
            name = differing[0]
            raise RecipeError(
                f"running a study in {self.folder}: {run.folder} was trained with {name} "
                f"{found.get(name)!r}, and the plan has {expected[name]!r}. Remove this run to "
                "train it again."
            )

    def check_predictions(self, hashes: Mapping[str, str]) -> None:
        """Check that the predictions of earlier looks are unchanged.

        Args:
            hashes: Hashes of the predictions, from `table_hash`, by folder of the run.

        Raises:
            PredictionError: The predictions of a run have changed.
        """
        for look in self.looks:
            for folder, before in look["predictions"].items():
                if hashes.get(folder, before) != before:
                    raise PredictionError(
                        f"running a study in {self.folder}: the predictions of {folder} have "
                        f"changed since look {look['number']} at the result ({look['time']}). "
                        "Restore them, or choose another folder."
                    )

    def look_number(self, seeds: Sequence[int]) -> int:
        """Return the number of a look at these seeds, counted from 1.

        Summarizing the seeds of the last look again is the same look.
        """
        looks = self.looks
        same = bool(looks) and set(looks[-1]["seeds"]) == set(seeds)
        return len(looks) + (not same)

    def add_look(self, result: Mapping[str, Any], hashes: Mapping[str, str]) -> None:
        """Record a look at the result, unless it repeats the last one.

        Args:
            result: From `summarize_study`.
            hashes: Hashes of the predictions, from `table_hash`, by folder of the run.
        """
        if result["look"]["number"] > len(self.looks):
            found = {
                "seeds": result["seeds"],
                "verdicts": result["verdicts"],
                "predictions": hashes,
            }
            self._append("look", {**result["look"], **found})

    def _check_seeds(self, seeds: Sequence[int], extend: bool, doing: str) -> None:
        before = self.seeds
        missing = [seed for seed in before if seed not in seeds]
        added = [seed for seed in seeds if seed not in before]
        if missing:
            raise ArgumentError(
                f"{doing}: its plan has the seeds {list_seeds(before)}, and {list_seeds(missing)} "
                "would be left out. A result for some of the planned seeds is not a result of the "
                "plan: pass all of them."
            )
        if added and not extend:
            raise ArgumentError(
                f"{doing}: its plan has the seeds {list_seeds(before)}, without "
                f"{list_seeds(added)}. Pass --extend to add seeds, which is recorded in the plan."
            )
        if added:
            self._append("extension", {"seeds": seeds, "after_looks": len(self.looks)})

    def _append(self, kind: str, content: Mapping[str, Any]) -> None:
        time = datetime.now(UTC).isoformat(timespec="seconds")
        previous = self.entries[-1]["hash"] if self.entries else None
        # Converted through JSON, so that the hash covers the values as they are read back.
        entry = json.loads(
            json.dumps({"kind": kind, "time": time, **content, "previous": previous})
        )
        self.entries.append({**entry, "hash": content_hash(entry)})
        text = json.dumps({"entries": self.entries}, indent=2)
        write_text(self.folder / PLAN, text + "\n")


def recorded_values(recipe: Recipe) -> dict[str, Any]:
    """Return the recorded fields of a recipe by name, as JSON values.

    Example:
        >>> from ham10000.recipe import Recipe
        >>> from ham10000.study.preregistration import recorded_values
        >>> recorded_values(Recipe("bare"))["optimizer.lr"]
        0.001

    Args:
        recipe: A recipe with all overrides applied.
    """
    values: dict[str, Any] = {}
    for name, value in asdict(recipe).items():
        if isinstance(value, dict):
            values |= {f"{name}.{field}": each for field, each in value.items()}
        else:
            values[name] = value
    plain = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if name not in UNPLANNED and not name.startswith("logging.")
    }
    content: dict[str, Any] = json.loads(json.dumps(plain))
    return content


def table_hash(table: pd.DataFrame) -> str:
    """Return a SHA-256 of a table of strings, independent of the order of its rows.

    Storing a split or predictions in another file format does not change the hash.

    Args:
        table: With columns of strings, as in a CSV file.
    """
    table = table[sorted(table.columns)].sort_values(sorted(table.columns))
    return hashlib.sha256(table.to_csv(index=False, lineterminator="\n").encode()).hexdigest()


def _check_recipe(name: str, before: Mapping[str, Any], now: Mapping[str, Any], doing: str) -> None:
    # A field that did not exist when the plan was recorded had the effect of its default.
    before = {**recorded_values(Recipe(name)), **before}
    # Older plans have data.check_cache.
    names = [name for name in {**before, **now} if name not in UNPLANNED]
    differing = [name for name in names if before.get(name) != now.get(name)]
    if differing:
        field, more = differing[0], len(differing) - 1
        others = f" and {more} more field{'s' * (more > 1)}" if more else ""
        raise RecipeError(
            f"{doing}: the recipe {name} was changed after the plan was recorded: {field} was "
            f"{before.get(field)!r} and is now {now.get(field)!r}{others}. Change it back, or "
            "choose another folder."
        )


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    doing = f"reading {path}"
    try:
        entries = [dict(entry) for entry in json.loads(path.read_text(encoding="utf-8"))["entries"]]
        hashes = [entry.pop("hash") for entry in entries]
        previous = [entry["previous"] for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{doing}: it is not the plan of a study ({type(error).__name__}: {error}). Restore "
            "the file, or choose another folder."
        ) from error
    for number, entry in enumerate(entries):
        if hashes[number] != content_hash(entry) or previous[number] != ([None, *hashes][number]):
            raise DataError(
                f"{doing}: entry {number + 1} does not match its hash, so the file was edited. "
                "Restore it, or choose another folder."
            )
    if not entries or entries[0]["kind"] != "plan":
        raise DataError(f"{doing}: it does not begin with a plan. Choose another folder.")
    return [{**entry, "hash": hashed} for entry, hashed in zip(entries, hashes, strict=True)]


def content_hash(content: Mapping[str, Any]) -> str:
    """Return a SHA-256 of a JSON object, independent of the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def list_seeds(seeds: Sequence[int]) -> str:
    """Return seeds as text."""
    return ", ".join(map(str, seeds))
