from collections.abc import Callable

import pytest

from ham10000.errors import RecipeError, SplitError
from ham10000.recipe import Recipe, dump_recipe
from ham10000.training.consistency import (
    load_recipe_text,
    refuse_other_recipe,
    refuse_other_split,
)

SPLIT = "image_id,lesion_id,dx,split\na,x,nv,train\nb,y,nv,test\nc,z,nv,test\n"


def test_a_recipe_may_differ_where_the_weights_do_not(recipe: Callable[..., Recipe]) -> None:
    trained = load_recipe_text(dump_recipe(recipe()))
    refuse_other_recipe(trained, recipe(), "resuming")
    refuse_other_recipe(trained, recipe(data={"workers": 3}, training={"tta": 2}), "resuming")
    other = recipe(optimizer={"lr": 0.5}, training={"epochs": 9})
    with pytest.raises(
        RecipeError, match=r"resuming: .* optimizer.lr was 0.001 and is now 0.5 and 1 more field"
    ):
        refuse_other_recipe(trained, other, "resuming")


@pytest.mark.parametrize(
    ("edited", "difference"),
    [
        (SPLIT.replace("a,x,nv,train", "a,x,nv,test"), r"a was in train and is now in test \(1 "),
        (SPLIT.replace("c,z,nv,test\n", ""), "c was in test and is now in no part"),
        (SPLIT + "d,w,nv,train\n", "d was in no part and is now in train"),
        ("", "split.csv is damaged"),
        ("image,part\na,train\n", "split.csv is damaged"),
    ],
)
def test_a_split_that_differs_is_refused(edited: str, difference: str) -> None:
    with pytest.raises(SplitError, match=rf"^resuming: .*{difference}"):
        refuse_other_split(SPLIT, edited, "resuming")


def test_the_order_of_rows_and_line_ends_are_free() -> None:
    head, *rows = SPLIT.splitlines()
    refuse_other_split(SPLIT, "\r\n".join([head, *reversed(rows)]), "resuming")
