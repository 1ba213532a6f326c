"""ONNX files become packages that give the file's own outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import repzoo
from onnx import TensorProto, helper
from PIL import Image
from repzoo.errors import RepzooError
from repzoo.packages.config import ModelConfig
from repzoo.packages.package import Package
from repzoo.runtime.golden import check_golden
from repzoo_training.importing import import_encoder
from repzoo_training.importing.preprocessing import Flags

WriteOnnx = Callable[..., Path]
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
FLAGS = Flags(mean=MEAN, std=STD)
IMAGES = np.random.default_rng(5).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def original(path: Path, images: np.ndarray, output: str = "features") -> np.ndarray:
    """Return what the file itself gives for normalised images."""
    rows = ((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    session = onnxruntime.InferenceSession(str(path))
    return np.concatenate([session.run([output], {"pixels": row[None]})[0] for row in rows])


def imported(source: Path | str, out: Path, **options: object) -> ModelConfig:
    options = {"flags": FLAGS, "licence": "mit", **options}
    return import_encoder(str(source), out, **options)  # type: ignore[arg-type]


def test_the_package_gives_the_outputs_of_the_file(write_onnx: WriteOnnx, tmp_path: Path) -> None:
    path = write_onnx("my net.onnx")
    config = imported(path, tmp_path / "package", summary="A net", paper="arXiv:2304.07193")
    assert (config.name, config.method, config.latent_dim) == ("my-net", "imported", 6)
    assert (config.training, config.licence, config.metric) == (None, "mit", "cosine")
    assert config.source is not None
    assert config.source.startswith("my net.onnx, sha256 ")
    assert config.required_version == 2

    encoder = repzoo.load(tmp_path / "package")
    np.testing.assert_allclose(encoder.embed(IMAGES), original(path, IMAGES), atol=1e-5)
    check_golden(encoder)
    Package.open(tmp_path / "package").verify()
    # Nothing of the machine that exported it.
    assert b"someone" not in (tmp_path / "package" / "encoder.onnx").read_bytes()
    card = (tmp_path / "package" / "README.md").read_text()
    assert "| Source | my net.onnx, sha256 " in card
    assert "The embeddings were not measured: the model was trained elsewhere." in card
    assert "license: mit" in card
    assert "arXiv:2304.07193" in card
    assert "self-supervised" not in card
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_any_image_is_scaled_and_its_centre_cropped(write_onnx: WriteOnnx, tmp_path: Path) -> None:
    flags = Flags(mean=(0.0,), std=(1.0,), resize=40, filter="bicubic")
    config = imported(write_onnx(), tmp_path / "package", flags=flags)
    assert config.input.scaled == (40, 40)
    assert config.input.resize.filter == "bicubic"
    encoder = repzoo.load(tmp_path / "package")
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    # As torchvision does: the shorter side first, then the centre.
    whole = image.resize((int(120 * 40 / 90), 40), Image.Resampling.BICUBIC)
    left, top = (whole.width - 32) // 2, 4
    expected = np.asarray(whole.crop((left, top, left + 32, top + 32))).astype(int)
    assert np.abs(encoder.preprocess(image)[0] - expected).max() <= 1
    card = (tmp_path / "package" / "README.md").read_text()
    assert "scale to cover 40×40 and crop the centre of 32×32; bicubic filter" in card
    assert "pixels = np.asarray(image.crop((4, 4, 36, 36)))" in card


def test_grey_images_with_the_channel_last_and_any_size(
    write_onnx: WriteOnnx, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["maps"], strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["maps"], ["averaged"]),
        helper.make_node("Reshape", ["averaged", "rows"], ["features"]),
    ]
    path = write_onnx(shape=("batch", "height", "width", 1), nodes=nodes)
    flags = Flags(mean=(0.5,), std=(0.5,))
    with pytest.raises(RepzooError, match="takes images of any size: choose one with --size"):
        imported(path, tmp_path / "package", flags=flags)
    flags = Flags(mean=(0.5,), std=(0.5,), size=(20, 28))
    config = imported(path, tmp_path / "package", flags=flags)
    assert config.input.shape == (20, 28, 1)
    images = np.random.default_rng(2).integers(0, 256, (3, 20, 28, 1), dtype=np.uint8)
    session = onnxruntime.InferenceSession(str(path))
    (expected,) = session.run(None, {"pixels": ((images / 255 - 0.5) / 0.5).astype(np.float32)})
    embedding = repzoo.load(tmp_path / "package").embed(images)
    np.testing.assert_allclose(embedding, expected, atol=1e-5)


def test_features_are_pooled(write_onnx: WriteOnnx, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["maps"], strides=[4, 4]),
        helper.make_node("Flatten", ["maps"], ["flat"], axis=1),
        helper.make_node("Reshape", ["flat", "tokens_of"], ["planes"]),
        helper.make_node("Transpose", ["planes"], ["tokens"], perm=[0, 2, 1]),
    ]
    constant = helper.make_node(
        "Constant",
        [],
        ["tokens_of"],
        value=helper.make_tensor("shape", TensorProto.INT64, [3], [-1, 6, 64]),
    )
    outputs = [("maps", ("batch", 6, 8, 8)), ("tokens", ("batch", 64, 6))]
    path = write_onnx(nodes=[constant, *nodes], outputs=outputs)
    with pytest.raises(RepzooError, match="several outputs: choose one with --output, of maps, to"):
        imported(path, tmp_path / "package")
    with pytest.raises(RepzooError, match=r"has no output cls: choose one with --output, of maps"):
        imported(path, tmp_path / "package", output="cls")
    with pytest.raises(RepzooError, match=r"\['N', 64, 6\]; an embedding is \[N, D\]: choose --po"):
        imported(path, tmp_path / "package", output="tokens")
    tokens, maps = (original(path, IMAGES, name) for name in ("tokens", "maps"))
    for number, (output, pool, expected) in enumerate(
        [
            ("tokens", "first", tokens[:, 0]),
            ("tokens", "mean", tokens.mean(1)),
            ("maps", "mean", maps.mean((2, 3))),
        ]
    ):
        imported(path, tmp_path / str(number), name="net", output=output, pool=pool)
        embedding = repzoo.load(tmp_path / str(number)).embed(IMAGES)
        np.testing.assert_allclose(embedding, expected, atol=1e-5)


def test_weights_in_another_file_and_local_functions(write_onnx: WriteOnnx, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["maps"], strides=[4, 4]),
        helper.make_node("Averages", ["maps", "rows"], ["features"], domain="someone"),
    ]
    function = helper.make_function(
        "someone",
        "Averages",
        ["x", "shape"],
        ["y"],
        [
            helper.make_node("GlobalAveragePool", ["x"], ["averaged"]),
            helper.make_node("Reshape", ["averaged", "shape"], ["y"]),
        ],
        [helper.make_opsetid("", 17)],
    )
    path = write_onnx(nodes=nodes, functions=[function], external=True)
    imported(path, tmp_path / "package")
    encoder = repzoo.load(tmp_path / "package")
    np.testing.assert_allclose(encoder.embed(IMAGES), original(path, IMAGES), atol=1e-5)


def test_half_the_weights(write_onnx: WriteOnnx, tmp_path: Path) -> None:
    path = write_onnx(features=64)
    assert imported(path, tmp_path / "half", precision="float16").precision == "float16"
    imported(path, tmp_path / "full")
    half, full = (tmp_path / each / "encoder.onnx" for each in ("half", "full"))
    assert half.stat().st_size < 0.6 * full.stat().st_size
    ours, theirs = repzoo.load(tmp_path / "half").embed(IMAGES), original(path, IMAGES)
    assert 0 < np.abs(ours - theirs).max() < 0.01 * theirs.std()


def fused(name: str = "FusedConv") -> list[onnx.NodeProto]:
    return [helper.make_node(name, ["pixels"], ["features"], domain="com.microsoft")]


def fixed() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Conv", ["pixels", "kernel"], ["maps"], strides=[4, 4]),
        helper.make_node("GlobalAveragePool", ["maps"], ["averaged"]),
        helper.make_node("Reshape", ["averaged", "one_row"], ["features"]),
    ]


#: What is written, and what the error says.
REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "an operator of one runtime": (
        {"nodes": fused()},
        r"operators outside the standard ONNX domain: com.microsoft.FusedConv \(1\). To avoid them",
    ),
    "a fixed number of rows": (
        {"nodes": fixed(), "shape": (1, 3, 32, 32)},
        "runs with one image, but not with several: export it with a dynamic batch dimension",
    ),
    "two inputs": (
        {"inputs": [helper.make_tensor_value_info("text", TensorProto.INT64, ["batch", 77])]},
        r"has 2 inputs \(pixels, text\); an image encoder has one",
    ),
    "half precision": ({"kind": TensorProto.FLOAT16}, "is FLOAT16; expected FLOAT"),
    "no images": ({"shape": ("batch", 3)}, r"has shape \[0, 3\]; expected \[N, C, H, W\]"),
    "quantised": (
        {"nodes": [helper.make_node("QuantizeLinear", ["pixels", "kernel"], ["features"])]},
        "is quantised: import the float32 model",
    ),
    "constant": (
        {
            "nodes": [
                helper.make_node("Sub", ["pixels", "pixels"], ["zero"]),
                helper.make_node("Conv", ["zero", "kernel"], ["maps"], strides=[4, 4]),
                helper.make_node("GlobalAveragePool", ["maps"], ["averaged"]),
                helper.make_node("Reshape", ["averaged", "rows"], ["features"]),
            ]
        },
        "gives the same number for all of 4 test images",
    ),
    "an old operator set": ({"opset": 6}, "operator set version is 6; expected 7 to 28"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_files(what: str, write_onnx: WriteOnnx, tmp_path: Path) -> None:
    options, message = REFUSED[what]
    path = write_onnx(**options)
    with pytest.raises(RepzooError, match=message):
        imported(path, tmp_path / "package")
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_dir()) == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("net.onnx", {"flags": None}, "does not say how pixels are normalised: set --mean and"),
        ("net.onnx", {"flags": Flags(mean=(1, 2), std=(1,))}, "--mean has 2 numbers; expected 1 o"),
        ("net.onnx", {"flags": Flags(mean=(0,), std=(0,))}, "--std is 0,0,0; expected positive nu"),
        ("net.onnx", {"flags": Flags((64, 64), MEAN, STD)}, "takes 32x32 pixels only; leave out"),
        ("net.onnx", {"flags": Flags(None, MEAN, STD, 20)}, "20x20, smaller than the input of 32x"),
        ("net.onnx", {"licence": None}, "does not say under which licence its weights are"),
        ("net.onnx", {"name": "My Net"}, "'My Net' cannot name a model"),
        ("net.onnx", {"pool": "mean"}, r"gives embeddings \['N', 6\] already: leave out --pool"),
        ("net.onnx", {"weights": "random"}, "--weights and --keep-head are for timm:NAME"),
        ("none.onnx", {}, "none.onnx does not exist"),
        ("garbage.onnx", {}, "garbage.onnx (cannot be read as ONNX|is not an ONNX model)"),
        ("empty.onnx", {}, "empty.onnx is not an ONNX model"),
        ("net.pth", {}, "is a pickle or TorchScript, which can run code: export the model to ONNX"),
        ("net.safetensors", {}, "holds weights without a network: import timm:NAME --weights"),
        ("net", {}, "is not something to import: expected FILE.onnx, FILE.pt2, timm:NAME or"),
        ("garbage.pt2", {}, "garbage.pt2 cannot be read as a torch.export file"),
    ],
)
def test_wrong_arguments(
    name: str, options: dict[str, object], message: str, write_onnx: WriteOnnx, tmp_path: Path
) -> None:
    write_onnx()
    for kind in ("onnx", "pt2"):
        (tmp_path / f"garbage.{kind}").write_bytes(b"\x08\x07not an encoder" * 9)
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(RepzooError, match=message):
        imported(tmp_path / name, tmp_path / "package", **options)
    assert not [each for each in tmp_path.iterdir() if each.is_dir()]


def test_an_existing_folder_is_not_touched(write_onnx: WriteOnnx, tmp_path: Path) -> None:
    imported(write_onnx(), tmp_path / "package")
    before = json.loads((tmp_path / "package" / "manifest.json").read_text())
    with pytest.raises(RepzooError, match="exists already: remove it or choose another --out"):
        imported(write_onnx(), tmp_path / "package")
    assert json.loads((tmp_path / "package" / "manifest.json").read_text()) == before
