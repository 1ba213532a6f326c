"""Files of torch.export, and models of timm and torchvision with random weights."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import repzoo
import torch
from PIL import Image
from repzoo.errors import RepzooError
from repzoo_training.importing import import_encoder
from repzoo_training.importing.preprocessing import Flags
from torch import nn

FLAGS = Flags(mean=(0.5,), std=(0.5,))
IMAGES = np.random.default_rng(5).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)


def network() -> nn.Module:
    torch.manual_seed(0)
    pool = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), *pool).eval()


def export(path: Path, *, dynamic: bool = True) -> Path:
    shapes = ({0: torch.export.Dim("N")},) if dynamic else None
    program = torch.export.export(network(), (torch.zeros(2, 3, 24, 24),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


@pytest.mark.filterwarnings("ignore")  # torch's exporter warns of its own deprecations
def test_a_file_of_torch_export(tmp_path: Path) -> None:
    path = export(tmp_path / "net.pt2")
    config = import_encoder(str(path), tmp_path / "package", flags=FLAGS, licence="mit")
    assert (config.latent_dim, config.input.shape) == (5, (24, 24, 3))
    with torch.no_grad():
        rows = torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255
        expected = network()((rows - 0.5) / 0.5).numpy()
    embedding = repzoo.load(tmp_path / "package").embed(IMAGES)
    np.testing.assert_allclose(embedding, expected, atol=1e-5)
    assert "ONNX and torch embeddings differ" in (tmp_path / "package" / "README.md").read_text()


@pytest.mark.filterwarnings("ignore")
def test_a_file_with_a_fixed_number_of_rows_is_refused(tmp_path: Path) -> None:
    path = export(tmp_path / "net.pt2", dynamic=False)
    with pytest.raises(RepzooError, match="takes exactly 2 images: export it with dynamic_shapes"):
        import_encoder(str(path), tmp_path / "package", flags=FLAGS, licence="mit")


@pytest.mark.filterwarnings("ignore")
def test_a_file_with_pickled_objects_is_refused_before_torch_reads_it(tmp_path: Path) -> None:
    path, changed = export(tmp_path / "net.pt2"), tmp_path / "changed.pt2"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(changed, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("constants_config.json"):
                data = b'{"config": {"x": {"path_name": "opaque_obj_0", "use_pickle": true}}}'
            new.writestr(entry, data)
    with pytest.raises(RepzooError, match="holds pickled objects"):
        import_encoder(str(changed), tmp_path / "package", flags=FLAGS, licence="mit")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "timm:vit_smal_patch16_224",
            {},
            "timm has no model 'vit_smal_patch16_224'; similar are v",
        ),
        ("torchvision:resnet19", {}, "torchvision has no model 'resnet19'; similar are resnet"),
        ("torchvision:resnet18.V9", {}, "torchvision:resnet18 has no weights 'V9'"),
        ("torchvision:squeezenet1_0", {}, "has no linear classifier whose input is embedded"),
        ("torchvision:resnet18", {"weights": "net.pth"}, "expected 'pretrained', 'random' or a s"),
        ("torchvision:resnet18", {"keep_head": True}, "--keep-head is for timm:NAME"),
        # Before the weights are downloaded:
        (
            "torchvision:resnet18",
            {"licence": None, "weights": "pretrained"},
            "does not say under which licence",
        ),
        ("torchvision:resnet18", {"name": "a b", "weights": "pretrained"}, "cannot name a model"),
    ],
)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_wrong_names(source: str, options: dict[str, object], message: str, tmp_path: Path) -> None:
    options = {"weights": "random", "licence": "mit", **options}
    with pytest.raises(RepzooError, match=message):
        import_encoder(source, tmp_path / "package", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "package").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_timm_model_with_its_preprocessing_and_weights_in_a_file(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file
    from timm.data import create_transform

    torch.manual_seed(1)
    whole = timm.create_model("vit_small_patch16_224", pretrained=False).eval()
    save_file(whole.state_dict(), tmp_path / "vit.safetensors")
    config = import_encoder(
        "timm:vit_small_patch16_224",
        tmp_path / "vit",
        weights=str(tmp_path / "vit.safetensors"),
        licence="apache-2.0",
        precision="float16",
    )
    assert (config.latent_dim, config.input.shape) == (384, (224, 224, 3))
    assert (config.input.scaled, config.input.resize.filter) == ((248, 248), "bicubic")
    encoder = repzoo.load(tmp_path / "vit")
    photo = Image.fromarray(
        np.random.default_rng(2).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    ).resize((400, 300), Image.Resampling.BICUBIC)
    transform = create_transform(
        input_size=(3, 224, 224), crop_pct=0.9, interpolation="bicubic", mean=0.5, std=0.5
    )
    pixels = transform(photo)
    assert isinstance(pixels, torch.Tensor)
    theirs = (pixels.permute(1, 2, 0).numpy() * 0.5 + 0.5) * 255
    ours = encoder.preprocess(photo)
    # repzoo scales rows first, with one more rounding.
    assert np.abs(ours[0] - theirs).max() < 2.5
    assert np.abs(ours[0] - theirs).mean() < 0.2
    rows = (torch.from_numpy(ours).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features(rows), pre_logits=True)
    off = np.abs(encoder.embed(photo) - expected.numpy()).max()
    assert off < 0.05 * float(expected.std())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_torchvision_model(tmp_path: Path) -> None:
    config = import_encoder(
        "torchvision:resnet18", tmp_path / "resnet", weights="random", licence="bsd-3-clause"
    )
    assert (config.latent_dim, config.input.shape) == (512, (224, 224, 3))
    assert (config.input.scaled, config.source) == (
        (256, 256),
        "torchvision resnet18, random weights",
    )
    repzoo.load(tmp_path / "resnet")
