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
# # softattn in five minutes
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/softattn/softattn/blob/main/examples/quickstart.ipynb)
#
# Add Soft-Attention ([arXiv:2105.03358](https://arxiv.org/abs/2105.03358)) to a network, train it
# on synthetic skin lesions, and look at its attention maps on these images and on your own. The
# notebook runs on Colab, on Kaggle, and on a laptop without a GPU.

# %% tags=["skip-execution"]
# %pip install -q "softattn[timm,plot]"

# %% [markdown]
# ## Synthetic images
#
# Each image shows skin with one lesion, of one colour or of two. The network learns to distinguish
# these two classes. It is not trained on the position of the lesion.

# %%
import torch
import torch.nn.functional as F
from torchvision.utils import make_grid

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZE = 96
torch.manual_seed(0)


def draw(count):
    """Draw images (N, 3, H, W) with their classes (N,) and lesion masks (N, H, W)."""
    down, across = (torch.rand(2, count, 1, 1) * 1.2 - 0.6).unbind()
    axis = torch.linspace(-1, 1, SIZE)
    distance = ((axis[:, None] - down) ** 2 + (axis - across) ** 2).sqrt()
    masks = torch.sigmoid((0.2 + 0.1 * torch.rand(count, 1, 1) - distance) / 0.02)
    kinds = torch.randint(2, (count,))
    blotches = F.interpolate(torch.randn(count, 1, 12, 12), (SIZE, SIZE), mode="bicubic")
    dark = torch.sigmoid(6 * blotches) * kinds[:, None, None, None]
    skin = torch.tensor([0.88, 0.68, 0.58]).view(3, 1, 1) + 0.03 * torch.randn(count, 3, SIZE, SIZE)
    brown = torch.tensor([0.5, 0.3, 0.2]).view(3, 1, 1) * (1 - 0.6 * dark)
    return torch.lerp(skin, brown.expand_as(skin), masks[:, None]).clamp(0, 1), kinds, masks


images, kinds, masks = draw(8)
print(kinds.tolist())

# %%
from matplotlib import pyplot as plt

plt.figure(figsize=(12, 2))
plt.imshow(make_grid(images, nrow=8).permute(1, 2, 0))
plt.gca().set_axis_off()

# %% [markdown]
# ## A network with attention
#
# `wrap_backbone` accepts the name of any timm or torchvision model. `at` selects the feature map
# to which attention is applied, the last one by default.

# %%
from softattn import wrap_backbone

model = wrap_backbone("test_resnet", num_classes=2, at="layer2", input_size=SIZE).to(DEVICE)
optimizer = torch.optim.AdamW(model.param_groups(lr=3e-3))
for step in range(1, 101):
    images, kinds, _ = draw(16)
    loss = F.cross_entropy(model(4 * images.to(DEVICE) - 2), kinds.to(DEVICE))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step}: loss {loss.item():.3f}")

# %% [markdown]
# ## The attention maps
#
# The model computes the maps in its forward pass, and returns them together with the scores.

# %%
from softattn.plot import plot_maps


def look(images):
    """Return scores and maps of images from 0 to 1."""
    with torch.inference_mode():
        return model.eval()(4 * images.to(DEVICE) - 2, return_maps=True)


images, kinds, masks = draw(64)
scores, maps = look(images)
plot_maps(images[0], maps[0])

# %% [markdown]
# Over all images, what fraction of the attention falls on the lesions?

# %%
covered = F.interpolate(masks[:, None], maps.shape[2:], mode="area").to(DEVICE)
inside = ((maps.sum(1, keepdim=True) * covered).sum((1, 2, 3)) / maps.shape[1]).mean().item()
right = (scores.argmax(1).cpu() == kinds).float().mean().item()
print(f"64 new images: {right:.0%} classified correctly")
print(f"lesions: {masks.mean():.0%} of the area, {inside:.0%} of the attention")
assert inside > 3 * masks.mean()

# %% [markdown]
# ## Insert attention into a trained network
#
# `insert_attention` keeps the state dict keys, and the outputs do not change, to the last bit,
# until training starts.

# %%
from torchvision.models import resnet18

from softattn import capture_maps, insert_attention

resnet = resnet18().eval()  # weights="DEFAULT" loads pretrained weights
x = torch.rand(1, 3, 224, 224)
before = resnet(x)
insert_attention(resnet, at=["layer3", "layer4"])
with capture_maps(resnet) as captured:
    assert torch.equal(resnet(x), before)
print({name: tuple(maps.shape) for name, maps in captured.items()})

# %% [markdown]
# ## Your own image
#
# Upload an image (on Colab: the folder icon on the left; on Kaggle: Add Input) and set its path
# here. Without a path, a new synthetic image is used. This network was trained on synthetic images
# only, so its class scores for a photo are meaningless. The guide "HAM10000, from download to
# report" uses real images.

# %%
PATH = ""

# %%
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

if PATH:
    photo = decode_image(PATH, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    cut = v2.Compose([v2.Resize(SIZE), v2.CenterCrop(SIZE), v2.ToDtype(torch.float32, scale=True)])
    image = cut(photo)
else:
    image = draw(1)[0][0]
_, maps = look(image[None])
plot_maps(image, maps[0], title=PATH or "a new synthetic image")
