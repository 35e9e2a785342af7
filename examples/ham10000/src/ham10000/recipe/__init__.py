"""Recipes: typed, checked settings of a training run, stored as YAML."""

from ham10000.recipe.fields import FieldInfo, describe_type, field_values, recipe_fields
from ham10000.recipe.io import (
    dump_recipe,
    find_recipe,
    load_recipe,
    make_recipe,
    save_recipe,
    shipped_recipes,
)
from ham10000.recipe.recipe import (
    MAP_LAYERS,
    AttentionRecipe,
    DataRecipe,
    LoggingRecipe,
    LossRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    ScheduleRecipe,
    TrainingRecipe,
)

__all__ = [
    "MAP_LAYERS",
    "AttentionRecipe",
    "DataRecipe",
    "FieldInfo",
    "LoggingRecipe",
    "LossRecipe",
    "ModelRecipe",
    "OptimizerRecipe",
    "Recipe",
    "ScheduleRecipe",
    "TrainingRecipe",
    "describe_type",
    "dump_recipe",
    "field_values",
    "find_recipe",
    "load_recipe",
    "make_recipe",
    "recipe_fields",
    "save_recipe",
    "shipped_recipes",
]
