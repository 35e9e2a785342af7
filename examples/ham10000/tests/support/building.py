"""Models built from some sections of a recipe, with the defaults of the others."""

from ham10000.models import LesionClassifier, build_model
from ham10000.recipe import AttentionRecipe, DataRecipe, ModelRecipe, Recipe


def build_classifier(
    model: ModelRecipe,
    num_classes: int = 7,
    *,
    attention: AttentionRecipe | None = None,
    size: int = 224,
    metadata: bool = False,
) -> LesionClassifier:
    """Build a model without a complete recipe."""
    data = DataRecipe(size=size, metadata=metadata)
    recipe = Recipe("built", data=data, model=model, attention=attention or AttentionRecipe())
    return build_model(recipe, num_classes)
