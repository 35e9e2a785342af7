from rich.console import Console

from ham10000.models import build_model, count_parameters, parameter_table
from ham10000.recipe import ModelRecipe


def shown(*args: object) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(parameter_table(*args))  # type: ignore[arg-type]
    return captured.get()


def test_counts_are_those_of_the_parts() -> None:
    model = build_model(ModelRecipe("ham10000:tiny", attention=True), size=32, metadata=True)
    counts = count_parameters(model)
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert counts["attention"] == 32 * 9 * 16 + 16 + 1
    assert counts["metadata"] == 18 * 64 + 64 + 64 * 7 + 7


def test_the_table_has_the_authors_counts_where_known() -> None:
    model = build_model(ModelRecipe("ham10000:tiny", attention=True), size=32)
    assert "the authors'" not in shown(model)
    text = shown(model, {"backbone": 1_000, "attention": 234, "head": 5})
    assert "the authors'" in text
    assert "1,239" in text
    assert "7,264" in text
