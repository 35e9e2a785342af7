# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # HAM10000, from the images to a report
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/softattn/softattn/blob/main/examples/ham10000/notebook.ipynb)
# [![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/softattn/softattn/blob/main/examples/ham10000/notebook.ipynb)
#
# Split the images by lesion, train a small network without and with Soft-Attention
# ([arXiv:2105.03358](https://arxiv.org/abs/2105.03358)), compare the two on the test images, draw
# attention maps, and write a report.
#
# On Kaggle, choose Add Input and the data set `kmader/skin-cancer-mnist-ham10000`. Without it, the
# notebook draws synthetic images, whose results say nothing about skin lesions.

# %% tags=["skip-execution"]
# %pip install -q "softattn[timm,plot] @ git+https://github.com/softattn/softattn"
# %pip install -q "git+https://github.com/softattn/softattn#subdirectory=examples/ham10000"

# %% [markdown]
# ## The images

# %%
from pathlib import Path

from ham10000.data import open_folder, synthesize

OUT = Path("out")
TABLE = "HAM10000_metadata.csv"
inputs = Path("/kaggle/input")  # data sets are in it, or in datasets/OWNER
found = [*inputs.glob(f"*ham10000*/{TABLE}"), *inputs.glob(f"datasets/*/*ham10000*/{TABLE}")]
if found:
    DATA, FIELDS = found[0].parent, []
else:
    DATA, FIELDS = OUT / "images", ["data.size=32", "data.epoch_samples=128", "data.workers=0"]
    if not DATA.exists():
        synthesize(DATA, images=280, seed=0, width=48)
folder = open_folder(DATA)
print("HAM10000" if found else "synthetic images")
print(folder.table["dx"].value_counts().to_string())

# %%
from matplotlib import pyplot as plt

paths = dict(zip(folder.table["image_id"], folder.paths(), strict=True))
examples = folder.table.groupby("dx")["image_id"].first()
figure, axes = plt.subplots(1, len(examples), figsize=(10, 1.5), dpi=60)
for ax, (dx, image_id) in zip(axes, examples.items(), strict=True):
    ax.imshow(plt.imread(paths[image_id]))
    ax.set_title(dx)
    ax.set_axis_off()

# %% [markdown]
# ## A split by lesion
#
# Many lesions have several images. All images of a lesion, and all duplicates, are in one part of
# the split, so no test image shows a lesion of the training.

# %%
import pandas as pd

from ham10000.data import scan_pairs, split_by_protocol, write_split

SPLIT = OUT / "split.csv"
split = split_by_protocol(folder.table, "lesion", 0, scan_pairs(folder))
write_split(split, SPLIT)
print(pd.crosstab(split["split"], split["dx"]).loc[["train", "val", "test"]].to_string())

# %% [markdown]
# ## Two small models
#
# `smoke` is a tiny network that trains in a minute, and `smoke_sa` is the same with Soft-Attention.
# For good results, use a GPU and `lite0` and `lite0_sa`, or `best`. A run whose cell is repeated
# resumes.

# %%
from ham10000.recipe import load_recipe
from ham10000.training import train

RECIPES = ["smoke", "smoke_sa"]
for name in RECIPES:
    places = [f"data.root={DATA}", f"data.split={SPLIT}", f"data.cache={OUT / 'cache'}"]
    status = train(load_recipe(name, [*places, *FIELDS]), OUT / name)
    print(name, "finished" if status == 0 else "stopped early")

# %% [markdown]
# ## Evaluation
#
# Every metric has a 95 % confidence interval from bootstrap resamples of lesions. The last column
# is the difference of the two models on the same images, with its interval: an interval that
# includes 0 is no evidence of a difference.

# %%
from ham10000.evaluation import compare, evaluate, metric_name, read_predictions

predictions = [read_predictions(OUT / name / "predictions.csv") for name in RECIPES]
measured = [evaluate(each).per_image.metrics for each in predictions]
differences = compare(*predictions, (RECIPES[0], RECIPES[1])).per_image.metrics
rows = {}
for metric in ("auc_macro", "balanced_accuracy", "accuracy"):
    values = [
        f"{m[metric].value:.3f} [{m[metric].low:.3f}, {m[metric].high:.3f}]" for m in measured
    ]
    d = differences[metric]
    rows[metric_name(metric)] = [*values, f"{d.difference:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"]
print(pd.DataFrame(rows, index=[*RECIPES, "difference"]).T.to_string())

# %% [markdown]
# ## Attention maps
#
# The test images of melanomas with the lowest probability of the true class: image, attention,
# outline of the lesion if the data set has masks, and probabilities.

# %%
from IPython.display import Image, display

from ham10000.reporting import choose, make_cases, write_case
from ham10000.training import open_run

run = open_run(OUT / "smoke_sa")
worst = choose(predictions[1], worst=2, dx="mel")
for case in make_cases(run, predictions[1], worst):
    display(Image(filename=write_case(case, OUT / "maps"), width=600))

# %% [markdown]
# ## The report
#
# One HTML file with all metrics, curves, examples and the settings of both runs. On Colab and
# Kaggle, download it from the files of the notebook.

# %%
from ham10000.reporting import write_report

page = write_report([OUT / name for name in RECIPES], OUT / "report.html", faithful=20)
print(page)
