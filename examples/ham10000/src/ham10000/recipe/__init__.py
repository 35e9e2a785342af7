"""Recipes: what decides what a training run gives, as typed fields in a YAML file."""

from ham10000.recipe.arguments import add_recipe_fields, recipe_changes, spell_out
from ham10000.recipe.fields import (
    DataRecipe,
    LoggingRecipe,
    LossRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    ScheduleRecipe,
    TrainingRecipe,
)
from ham10000.recipe.files import dump_recipe, load_recipe, make_recipe, save_recipe

__all__ = [
    "DataRecipe",
    "LoggingRecipe",
    "LossRecipe",
    "ModelRecipe",
    "OptimizerRecipe",
    "Recipe",
    "ScheduleRecipe",
    "TrainingRecipe",
    "add_recipe_fields",
    "dump_recipe",
    "load_recipe",
    "make_recipe",
    "recipe_changes",
    "save_recipe",
    "spell_out",
]
