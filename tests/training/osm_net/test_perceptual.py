"""VGG-19's features, and the perceptual and style loss on them, against the definitions written out."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from osmnet.training.osm_net.perceptual import VGG19, find_vgg, gram, load_vgg, perceptual_losses

LAYOUT = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512, "M")


class Published(nn.Module):
    """VGG-19's convolutions as torchvision lays them out, written down independently."""

    def __init__(self):
        super().__init__()
        layers, channels = [], 3
        for width in LAYOUT:
            layers += [nn.MaxPool2d(2)] if width == "M" else [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = channels if width == "M" else width
        self.features = nn.Sequential(*layers)

    def forward(self, images, wanted):
        """Maps after the layers with these numbers, of pictures in [-1, 1]."""
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        x, maps = ((images + 1) / 2 - mean) / std, {}
        for number, layer in enumerate(self.features):
            x = layer(x)
            maps[number] = x
        return [maps[number] for number in wanted]


@pytest.fixture(scope="module")
def published() -> Published:
    torch.manual_seed(0)
    network = Published()
    for layer in network.features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.05)
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def file(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those weights as a file, with what a classifier has besides."""
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    save_file({**published.state_dict(), "head.fc.weight": torch.zeros(10, 4)}, path)
    return path


@pytest.fixture(scope="module")
def vgg(file: Path) -> VGG19:
    return load_vgg(file)


def pictures(count=2, size=32, seed=1):
    torch.manual_seed(seed)
    return torch.rand(count, 3, size, size) * 2 - 1


def test_maps_are_those_of_the_published_layout(vgg: VGG19, published: Published):
    # Where torchvision's layers count from 0, relu1_1 is 1, relu1_2 is 3 (pooling 4), relu2_1 is 6 and so on.
    numbers = {"relu1_1": 1, "relu1_2": 3, "relu2_1": 6, "relu2_2": 8, "relu3_1": 11, "relu3_4": 17, "relu4_1": 20,
               "relu4_4": 26, "relu5_1": 29, "relu5_2": 31}  # fmt: skip
    image = pictures()
    maps = vgg(image)
    for name, expected in zip(numbers, published(image, numbers.values()), strict=True):
        torch.testing.assert_close(maps[name], expected, rtol=1e-4, atol=1e-4)
        assert (expected > 0).any()
    with pytest.raises(ValueError, match=r"images must .* not \(1, 3, 8, 32\)"):
        vgg(torch.zeros(1, 3, 8, 32))


def test_first_map_by_hand(vgg: VGG19, published: Published):
    image = pictures(1, 16)
    kernel, bias = (published.state_dict()[f"features.0.{name}"] for name in ("weight", "bias"))
    for channel, y, x in ((0, 3, 5), (17, 8, 1), (63, 14, 14)):
        total = float(bias[channel])
        for c, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    colour = (float(image[0, c, y + dy, x + dx]) * 0.5 + 0.5 - mean) / std
                    total += colour * float(kernel[channel, c, dy + 1, dx + 1])
        assert float(vgg(image)["relu1_1"][0, channel, y, x]) == pytest.approx(max(total, 0), abs=1e-5)


def test_gram_by_hand():
    features = torch.tensor([[[[1.0, 2], [3, 4]], [[0, 1], [0, -1]], [[2, 0], [0, 0]]]])  # (1, 3, 2, 2)
    expected = torch.tensor([[30.0, 2 - 4, 2], [-2, 2, 0], [2, 0, 4]]) / (3 * 2 * 2)
    torch.testing.assert_close(gram(features)[0], expected)
    torch.testing.assert_close(gram(features.repeat(1, 1, 5, 3))[0], expected)  # the picture's size does not count
    large = torch.full((1, 2, 64, 64), 100.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(gram(large)[0], torch.full((2, 2), 5000.0))


def test_losses_by_hand_and_where_their_gradients_go(vgg: VGG19, published: Published):
    sample, target = pictures(seed=2).requires_grad_(), pictures(seed=3).requires_grad_()
    losses = perceptual_losses(vgg, sample, target)
    of = lambda image, numbers: published(image.detach(), numbers)  # noqa: E731
    per = style = 0.0
    for a, b in zip(of(sample, (1, 6, 11, 20, 29)), of(target, (1, 6, 11, 20, 29)), strict=True):
        per += (a - b).abs().mean()
    for a, b in zip(of(sample, (8, 17, 26, 31)), of(target, (8, 17, 26, 31)), strict=True):
        grams = [torch.einsum("bchw,bdhw->bcd", each, each) / each[0].numel() for each in (a, b)]
        style += (grams[0] - grams[1]).abs().mean()
    assert float(losses["per"].detach()) == pytest.approx(float(per), rel=1e-4)
    assert float(losses["style"].detach()) == pytest.approx(float(style), rel=1e-4)
    for name in ("per", "style"):
        (gradient,) = torch.autograd.grad(losses[name], sample, retain_graph=True)
        assert gradient.isfinite().all() and gradient.abs().max() > 0
    (losses["per"] + losses["style"]).backward()
    assert target.grad is None and all(parameter.grad is None for parameter in vgg.parameters())
    same = perceptual_losses(vgg, target, target.detach())
    assert float(same["per"].detach()) == float(same["style"].detach()) == 0


# Files


@pytest.mark.integration
def test_pickles_of_tensors_and_half_precision_load_too(tmp_path: Path, published: Published, vgg: VGG19):
    half = {name: tensor.half() for name, tensor in published.state_dict().items()}
    torch.save(half, tmp_path / "vgg.pth")
    loaded = load_vgg(tmp_path / "vgg.pth")
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, vgg.state_dict()[name], rtol=1e-3, atol=1e-4)


class Trap:
    def __reduce__(self):
        return os.makedirs, ("trapped",)


def test_wrong_files_are_named_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    small = {"features.0.weight": torch.zeros(64, 3, 3, 3), "features.0.bias": torch.zeros(64)}
    save_file(small, "short.safetensors")
    save_file({**small, "features.2.weight": torch.zeros(64, 64, 5, 5)}, "odd.safetensors")
    Path("text.safetensors").write_text("no tensors")
    Path("text.pth").write_text("no tensors")
    torch.save({"state": Trap()}, "trap.pth")
    torch.save([1, 2], "list.pth")
    for name, message in {
        "short.safetensors": r"features.2.weight should have shape \(64, 64, 3, 3\), and it is missing",
        "odd.safetensors": r"features.2.weight .* and it has shape \(64, 64, 5, 5\)",
        "text.safetensors": "not a file of tensors",
        "text.pth": "not a file of tensors",
        "trap.pth": "not a file of tensors",
        "list.pth": "is no VGG-19",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_vgg(find_vgg(name))
    assert not Path("trapped").exists()
    for name in ("missing.safetensors", "./missing/vgg.pth", str(tmp_path / "missing.pth")):
        with pytest.raises(ValueError, match="There is no file"):
            find_vgg(name)


# The Hub, on loopback, spoken to by the real client in a process of its own.

CLIENT = """
import contextlib, io, json, sys
from pathlib import Path
from tests.support.loadable import REPO_ID
from osmnet.data.dataset import Dataset
from osmnet.training.osm_net.perceptual import find_vgg
from osmnet.training.osm_net.video_stage import VideoConfig, VideoStage

def attempt(source):
    try:
        return find_vgg(source).read_text()
    except ValueError as error:
        return f"ValueError: {error}"

results = {source: attempt(source) for source in (REPO_ID, REPO_ID + ":other.pth", REPO_ID + ":none.pth", "auto")}
dataset, model, work = sys.argv[1:]
weights = {"rec": 4.0, "per": 2.5, "style": 1000.0, "gradient": 0.0, "mask": 0.0, "g": 0.0, "feature": 0.0}
config = VideoConfig(geometry="none", image_size=32, base_channels=4, vgg="auto", weights=weights)
with contextlib.redirect_stderr(io.StringIO()) as said:
    stage = VideoStage(config, Dataset.open(dataset), Path(model), Path(work))
results["said"], results["weights"], results["vgg"] = said.getvalue(), stage.config.weights, stage.config.vgg
results["adversarial"] = stage.adversary is not None
print(json.dumps(results))
"""


@pytest.mark.integration
@pytest.mark.hub
def test_hub_gives_the_file_or_training_goes_without(tmp_path: Path, dataset_folder: Path):
    from tests.support.dummies import FACE_MODEL
    from tests.support.hub_server import Hub, run_client
    from tests.support.loadable import REPO_ID

    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "model.safetensors").write_text("the usual file")
    (folder / "other.pth").write_text("another file")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "face_model").symlink_to(FACE_MODEL)
    server = Hub({REPO_ID: {"main": ("a" * 40, folder)}}, tmp_path)
    arguments = [dataset_folder, tmp_path / "model", tmp_path / "work"]
    results, _ = run_client(CLIENT, server, tmp_path, *arguments, HF_HUB_DISABLE_PROGRESS_BARS="1")
    assert results[REPO_ID] == "the usual file" and results[f"{REPO_ID}:other.pth"] == "another file"
    assert results[f"{REPO_ID}:none.pth"].startswith("ValueError: Cannot get none.pth of someone/tiny from the Hub")
    # This Hub has nothing else, so `auto` finds nothing: said once, and the discriminator takes over.
    assert results["auto"].startswith("ValueError: Cannot get model.safetensors of timm/vgg19.tv_in1k from the Hub")
    assert (
        results["said"].count("\n") == 1 and "training without per and style, with a discriminator" in results["said"]
    )
    assert results["adversarial"] and results["vgg"] == ""
    assert results["weights"]["g"] > 0 and results["weights"]["feature"] > 0 and results["weights"]["rec"] == 4
