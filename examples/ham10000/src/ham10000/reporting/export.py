"""Export the model of a run, with a model card: for the hub, as ONNX, or with torch.export."""

import json
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from softattn import (
    MissingExtraError,
    SoftAttention,
    SoftAttentionBlock,
    SoftAttentionClassifier,
    SoftAttnError,
    wrap_backbone,
)
from softattn.hub import from_pretrained, save_pretrained
from softattn.keras import KerasSoftAttention
from torch import Tensor, nn

from ham10000.data import SYNTHETIC, find_dataset
from ham10000.errors import ExportError, MissingPackageError
from ham10000.evaluation import metric_name, read_predictions
from ham10000.models import LesionClassifier
from ham10000.recipe import MAP_LAYERS, Recipe
from ham10000.reporting.runs import stored_metrics
from ham10000.training import Run, normalize
from ham10000.utils import new_folder, write_text

__all__ = ["ExportFormat", "export_run"]

ExportFormat = Literal["hub", "onnx", "torch-export"]
"""hub: a folder for `softattn.hub`; onnx: model.onnx; torch-export: model.pt2."""

TOLERANCE = 1e-4
"""Largest difference of a probability between the exported model and the model of the run."""

_OTHER_FORMATS = "Use --to onnx or --to torch-export."
_CONFIG = "config.json"
_METRICS = (
    "balanced_accuracy",
    "accuracy",
    "auc_macro",
    "average_precision_macro",
    "precision_weighted",
    "brier",
)

Loaded = Callable[[Tensor], Tensor]
"""Function from normalized images, (B, 3, S, S), to probabilities, (B, C)."""


def export_run(run: Run, to: ExportFormat, out: Path) -> None:
    """Export the model of a run to a folder, and check that it computes the same probabilities.

    The folder has the model, config.json with the classes and the preprocessing, and a model card,
    README.md, with the metrics that `ham10000 evaluate RUN` has stored. The exported model takes
    normalized images, (B, 3, S, S) with any B, and computes in float32.

    - hub: `softattn.hub.from_pretrained` loads the folder, and the model returns logits.
    - onnx, torch-export: the model returns probabilities, and maps if it has attention. The
      content of config.json is also in the file of the model.

    Args:
        run: From `open_run`.
        to: Format.
        out: Folder to create.

    Raises:
        ArgumentError: `out` exists and is not an empty folder.
        ExportError: The model needs metadata, cannot be exported in this format, or computes other
            probabilities after export.
        MissingPackageError: A package for this format is not installed.
        Ham10000Error: The model cannot be loaded, or the folder cannot be written.
    """
    doing = f"exporting {run.folder}"
    if run.recipe.data.metadata:
        raise ExportError(
            f"{doing}: its model also needs metadata of each image (data.metadata), and exported "
            "models take images only. Use a run that was trained with data.metadata=false."
        )
    model = run.load_model().to(memory_format=torch.contiguous_format)
    assert isinstance(model, LesionClassifier)
    write = {"hub": _write_hub, "onnx": _write_onnx, "torch-export": _write_program}[to]
    images = _noise(run.recipe)
    with new_folder(out) as folder:
        write_text(folder / "README.md", _card(run, to))
        try:
            loaded = write(run, model, folder, doing)
        except MissingExtraError as error:
            raise MissingPackageError(f"{doing}: {error}") from error
        _check(loaded, model, images, doing)


def _noise(recipe: Recipe) -> Tensor:
    size, generator = recipe.data.size, torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, size, size), generator=generator, dtype=torch.uint8)
    return normalize(pixels, recipe)


@torch.no_grad()
def _check(loaded: Loaded, model: LesionClassifier, images: Tensor, doing: str) -> None:
    worst = float((loaded(images) - model(images).softmax(1)).abs().max())
    if not worst <= TOLERANCE:
        raise ExportError(
            f"{doing}: a probability of the exported model differs by {worst:.2g}, more than "
            f"{TOLERANCE:g}. Nothing was written. Try another format."
        )


class _Exported(nn.Module):
    """The model as it is exported: returns probabilities, and maps if the model has attention."""

    def __init__(self, model: LesionClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if not self.model.has_attention:
            return self.model(images).softmax(1)  # type: ignore[no-any-return]
        scores, maps = self.model(images, return_maps=True)
        return scores.softmax(1), maps


def _write_program(run: Run, model: LesionClassifier, folder: Path, doing: str) -> Loaded:
    config, path = _write_config(run, model, folder), folder / "model.pt2"
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(
        _Exported(model).eval(), (_noise(run.recipe),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, path, extra_files={_CONFIG: config})
    loaded = torch.export.load(path).module()
    return lambda images: loaded(images)[0] if model.has_attention else loaded(images)


def _write_onnx(run: Run, model: LesionClassifier, folder: Path, doing: str) -> Loaded:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"{doing}: the package {error.name} is not installed. Install it with: "
            "pip install 'softattn[onnx]'"
        ) from error
    config, path = _write_config(run, model, folder), folder / "model.onnx"
    program = torch.onnx.export(
        _Exported(model).eval(),
        (_noise(run.recipe),),
        input_names=["images"],
        output_names=["probabilities", "maps"] if model.has_attention else ["probabilities"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=4096)}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props[_CONFIG] = config
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _write_hub(run: Run, model: LesionClassifier, folder: Path, doing: str) -> Loaded:
    built = _from_name(run.recipe, model, doing)
    built.pretrained_cfg.update(_preprocessing(run.recipe))
    try:
        save_pretrained(built, folder)
        loaded = from_pretrained(folder)
    except MissingExtraError:
        raise
    except SoftAttnError as error:
        raise ExportError(f"{doing}: {error} {_OTHER_FORMATS}") from error
    return lambda images: loaded(images).softmax(1)


def _from_name(recipe: Recipe, model: LesionClassifier, doing: str) -> SoftAttentionClassifier:
    """Build the model from names alone, so that the hub can build it again."""
    source, _, _ = recipe.model.backbone.partition(":")
    if source == "ham10000" or recipe.model.head not in ("pool", "flatten"):
        what = f"backbone {recipe.model.backbone}" if source == "ham10000" else recipe.model.head
        raise ExportError(
            f"{doing}: softattn.hub builds models of timm and torchvision with the heads pool and "
            f"flatten, found {what}. {_OTHER_FORMATS}"
        )
    try:
        built = wrap_backbone(
            recipe.model.backbone,
            len(find_dataset(recipe.data.set).classes),
            at=recipe.model.at,
            block=_block(recipe, doing),
            head=recipe.model.head,
            drop_rate=recipe.model.drop_rate,
            input_size=recipe.data.size,
        )
        built.load_state_dict(model.network.state_dict())
    except (SoftAttnError, RuntimeError) as error:
        raise ExportError(f"{doing}: {error} {_OTHER_FORMATS}") from error
    return built.eval()


def _block(recipe: Recipe, doing: str) -> Any:
    attention = recipe.attention
    if attention.layer == "none" and recipe.model.activation == "none":
        return nn.Identity
    if attention.layer not in ("none", *MAP_LAYERS):
        return attention.layer
    shared: dict[str, Any] = {"num_maps": attention.num_maps, "aggregate": attention.aggregate}
    if attention.layer == "keras" and attention.block == "plain":
        return partial(KerasSoftAttention, **shared, concat=attention.concat)
    if attention.layer in ("none", "keras"):
        what = "the activation relu" if attention.layer == "none" else "keras in the paper's block"
        raise ExportError(f"{doing}: softattn.hub cannot store {what}. {_OTHER_FORMATS}")
    gamma = 1.0 if attention.gamma == "uniform" else attention.gamma  # the learned one is loaded
    shared |= {"kernel_size": attention.kernel_size, "gamma": gamma}
    if attention.block == "plain":
        return partial(SoftAttention, **shared, concat=attention.concat)
    return partial(SoftAttentionBlock, **shared, pool=attention.pool, drop_rate=attention.drop_rate)


def _preprocessing(recipe: Recipe) -> dict[str, Any]:
    """Return the preprocessing and the classes, with the names that timm uses."""
    info = find_dataset(recipe.data.set)
    return {
        "input_size": (3, recipe.data.size, recipe.data.size),
        "mean": recipe.model.mean,
        "std": recipe.model.std,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",  # resize without keeping the aspect ratio
        "label_names": info.classes,
        "label_descriptions": dict(info.class_names),
    }


def _write_config(run: Run, model: LesionClassifier, folder: Path) -> str:
    outputs = ["probabilities", "maps"] if model.has_attention else ["probabilities"]
    content = {
        "recipe": run.recipe.name,
        "ham10000": version("ham10000"),
        "input": "images",
        "outputs": outputs,
        "preprocessing": _preprocessing(run.recipe),
    }
    text = json.dumps(content, indent=2) + "\n"
    write_text(folder / _CONFIG, text)
    return text


def _card(run: Run, to: ExportFormat) -> str:
    recipe, data = run.recipe, run.data_name
    terms = TERMS.get(data, run.info.licence)
    size, mean, std = recipe.data.size, list(recipe.model.mean), list(recipe.model.std)
    counts = run.split_table["split"].value_counts()
    layer = recipe.attention.layer
    return _CARD.format(
        licence="cc-by-nc-4.0" if "CC BY-NC 4.0" in terms else "other",
        library={"hub": "softattn", "onnx": "onnx", "torch-export": "pytorch"}[to],
        name=recipe.name,
        backbone=recipe.model.backbone,
        attention="without attention" if layer == "none" else f"with the attention `{layer}`",
        data=data,
        seed=recipe.seed,
        train=counts.get("train", 0),
        test=counts.get("test", 0),
        classes="\n".join(
            f"| {number} | {name} | {text} |"
            for number, (name, text) in enumerate(run.info.class_names.items())
        ),
        size=size,
        mean=mean,
        std=std,
        code=_CODE[to].format(size=size, mean=mean, std=std),
        results=_results(run),
        terms=terms,
    )


def _results(run: Run) -> str:
    found = stored_metrics(run)
    if not found:
        return "No metrics with confidence intervals were stored with the run."
    predictions = read_predictions(run.files.predictions(), run.info.classes)
    views = run.recipe.training.tta * run.recipe.training.crops
    text = (
        f"On {len(predictions):,} test images of {predictions.table['lesion_id'].nunique():,} "
        "lesions, with 95 % confidence intervals over lesions."
    )
    if views > 1:
        text += f" Predictions are means over {views} views of an image; this model computes one."
    text += "\n\n| metric | value | interval |\n| --- | --- | --- |"
    for name in (*_METRICS, *(f"recall/{dx}" for dx in run.info.classes)):
        each = found.get(name)
        if each is not None and each["value"] is not None:
            interval = f"{each['low']:.3f} to {each['high']:.3f}"
            text += f"\n| {metric_name(name)} | {each['value']:.3f} | {interval} |"
    return text


TERMS = {
    SYNTHETIC: "The training images are synthetic and do not resemble real skin. Use the model "
    "for tests only.",
    "other data": "The licence depends on that of the training images.",
}
"""Terms by name of the data set, other than those of HAM10000."""

_CARD = """\
---
license: {licence}
library_name: {library}
pipeline_tag: image-classification
tags: [dermatoscopy, skin-lesion, ham10000, soft-attention]
---

# {name}: a classifier of skin lesions

**This is not a medical device.** It is for research only. Do not use it to diagnose, or to decide
about treatment.

`{backbone}` {attention}, trained on {data} with the recipe `{name}` of ham10000, the example of
[softattn](https://github.com/softattn/softattn), seed {seed}: {train:,} training images and
{test:,} test images, split by lesion.

## Classes

| index | name | diagnosis |
| --- | --- | --- |
{classes}

The model assigns one of these classes to any image, also to one of another lesion or of none.

## Use

Rotate an image by its EXIF orientation, convert it to RGB, resize it to {size} x {size} pixels
(bilinear, without keeping the aspect ratio), scale it to 0 to 1, subtract the mean {mean} and
divide by the standard deviation {std}.

```python
{code}
```

## Results

{results}

## Licence

{terms}

Weights of a pretrained backbone have a licence of their own; see their source.
"""

_CODE = {
    "hub": """\
import timm
from PIL import Image, ImageOps
from softattn.hub import from_pretrained

model = from_pretrained(".")  # this folder, or the name of a repository
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
probabilities = model(transform(image)[None]).softmax(1)[0].tolist()
print(dict(zip(model.pretrained_cfg["label_names"], probabilities)))""",
    "onnx": """\
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("model.onnx")
image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
pixels = np.array(image.resize(({size}, {size}), Image.Resampling.BILINEAR)) / 255
inputs = (pixels - {mean}) / {std}
inputs = inputs.transpose(2, 0, 1)[None].astype(np.float32)
probabilities = session.run(None, {{"images": inputs}})[0][0].tolist()
config = json.loads(session.get_modelmeta().custom_metadata_map["config.json"])
print(dict(zip(config["preprocessing"]["label_names"], probabilities)))""",
    "torch-export": """\
import json

import numpy as np
import torch
from PIL import Image, ImageOps

files = {{"config.json": ""}}
model = torch.export.load("model.pt2", extra_files=files).module()
image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
pixels = np.array(image.resize(({size}, {size}), Image.Resampling.BILINEAR)) / 255
inputs = (pixels - {mean}) / {std}
inputs = torch.from_numpy(inputs.transpose(2, 0, 1)[None]).float()
with torch.no_grad():
    outputs = model(inputs)  # probabilities, or (probabilities, maps)
probabilities = (outputs[0] if isinstance(outputs, tuple) else outputs)[0].tolist()
names = json.loads(files["config.json"])["preprocessing"]["label_names"]
print(dict(zip(names, probabilities)))""",
}
"""Code of the model card, by format. It is run in a folder that also has photo.jpg."""
