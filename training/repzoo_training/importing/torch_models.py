"""Image encoders in torch: timm and torchvision models by name, and files of torch.export."""

from __future__ import annotations

import difflib
import json
import math
import os
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from repzoo.errors import InvalidInput, MissingExtra, PackageError
from torch import Tensor, nn

from repzoo_training.importing.preprocessing import Filter, Flags, Preprocessing

__all__ = ["TorchEncoder", "load_exported", "load_timm", "load_torchvision"]

_FILTERS: dict[str, Filter] = {
    "box": "box",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "lanczos": "lanczos",
}
_CLASSES = 1000


class TorchEncoder(NamedTuple):
    """An encoder in evaluation mode: float32 ``[N, C, H, W]`` -> features."""

    module: nn.Module
    preprocessing: Preprocessing
    #: Where the weights come from.
    origin: str
    licence: str | None


def load_timm(name: str, weights: str, flags: Flags, *, keep_head: bool) -> TorchEncoder:
    """Load a timm model by name, such as ``vit_small_patch14_dinov2.lvd142m``.

    Args:
        name: the model, with or without the tag of its weights.
        weights: ``pretrained``, ``random``, or a safetensors file.
        flags: the wanted size, which some models must be built for.
        keep_head: keep the last layer: CLIP's projection into the space of texts.

    Raises:
        MissingExtra: If timm is not installed.
        InvalidInput: If timm has no such model.
        PackageError: If the weights cannot be loaded.
    """
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise MissingExtra("zoo import timm:NAME", "import", error) from error
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    config = timm.get_pretrained_cfg(name)
    options: dict[str, Any] = {} if keep_head else {"num_classes": 0}
    if flags.size is not None and config is not None and config.fixed_input_size:
        options["img_size"] = flags.size
    try:
        with _trusting_no_pickle(), _quiet():
            model: Any = timm.create_model(name, pretrained=weights == "pretrained", **options)
    except Exception as error:  # of the network, the Hub, or the model
        raise PackageError(_not_loaded(f"timm:{name}", weights, error)) from error
    found = model.pretrained_cfg
    if weights not in ("pretrained", "random"):
        _load_file(model, weights, found.get("classifier") or ())
    library: Any = timm.data  # it states neither its names nor their types
    data = library.resolve_data_config(pretrained_cfg=found)
    if data["crop_mode"] == "border" and flags.fit is None:
        raise InvalidInput(
            f"timm:{name} pads images to its size, which packages do not: choose --fit crop or "
            "squash"
        )
    channels, *size = data["input_size"]
    height, width = flags.size or size
    crop = data["crop_pct"]
    full = ".".join(filter(None, (found.get("architecture", name), found.get("tag"))))
    return TorchEncoder(
        model.eval(),
        Preprocessing(
            size=(height, width),
            channels=channels,
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            resize=(math.floor(height / crop), math.floor(width / crop)),
            fit="squash" if data["crop_mode"] == "squash" else "crop",
            filter=_FILTERS.get(data["interpolation"], "bicubic"),
        ),
        f"timm {full if weights == 'pretrained' else name}, {_described(weights)}",
        found.get("license") if weights == "pretrained" else None,
    )


def load_torchvision(name: str, weights: str, flags: Flags) -> TorchEncoder:
    """Load a classifier of torchvision by name, such as ``resnet50``, without its last layer.

    Args:
        name: the model, with or without the name of its weights: ``resnet50.IMAGENET1K_V2``.
        weights: ``pretrained``, ``random``, or a safetensors file.
        flags: the wanted preprocessing.

    Raises:
        InvalidInput: If torchvision has no such classifier.
        PackageError: If the weights cannot be loaded.
    """
    import torchvision

    name, _, tag = name.partition(".")
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    pretrained = torchvision.models.get_model_weights(name)
    if tag and tag not in pretrained.__members__:
        raise _unknown(f"torchvision:{name}", tag, list(pretrained.__members__), "weights")
    chosen = pretrained[tag] if tag else pretrained.DEFAULT
    preset = chosen.transforms()
    try:
        with _trusting_no_pickle(), _quiet():
            model = torchvision.models.get_model(
                name, weights=chosen if weights == "pretrained" else None
            )
    except Exception as error:
        raise PackageError(_not_loaded(f"torchvision:{name}", weights, error)) from error
    head = _last_linear(model)
    if head is None:
        raise InvalidInput(f"torchvision:{name} has no linear classifier whose input is embedded")
    if weights not in ("pretrained", "random"):
        _load_file(model, weights, head)
    parent, _, attribute = head.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    size = flags.size or (crop, crop)
    return TorchEncoder(
        model.eval(),
        Preprocessing(
            size=size,
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            resize=(size[0] * resize // crop, size[1] * resize // crop),
            filter=_FILTERS.get(preset.interpolation.value, "bilinear"),
        ),
        f"torchvision {name}, "
        + (f"weights {chosen.name}" if weights == "pretrained" else _described(weights)),
        None,
    )


def load_exported(path: Path) -> TorchEncoder:
    """Load a file of ``torch.export.save``: float32 ``[N, C, H, W]`` -> features.

    torch does not promise that a file cannot run code. What it would unpickle is refused here, but
    import only files from sources that you trust.

    Raises:
        PackageError: If the file is not such a program, or has a fixed number of rows.
    """
    try:
        _refuse_pickles(path)
        with _trusting_no_pickle(), _quiet():
            program = torch.export.load(path)
    except PackageError:
        raise
    except Exception as error:
        raise PackageError(f"{path} cannot be read as a torch.export file: {error}") from error
    inputs = program.graph_signature.user_inputs
    if len(inputs) != 1:
        raise PackageError(f"{path} has {len(inputs)} inputs; an image encoder has one")
    value = next(n for n in program.graph.nodes if n.name == inputs[0]).meta["val"]
    shape = value.shape if isinstance(value, Tensor) else ()
    if len(shape) != 4 or shape[1] not in (1, 3) or value.dtype != torch.float32:
        raise PackageError(f"{path}: the input is {value}; expected float32 [N, C, H, W]")
    if isinstance(shape[0], int):
        raise PackageError(
            f"{path} takes exactly {shape[0]} images: export it with "
            'dynamic_shapes=({0: torch.export.Dim("N")},)'
        )
    size = (int(shape[2]), int(shape[3])) if all(isinstance(s, int) for s in shape[2:]) else None
    return TorchEncoder(
        program.module(), Preprocessing(size=size, channels=int(shape[1])), "", None
    )


def _refuse_pickles(path: Path) -> None:
    """Refuse a file with Python objects in it, such as custom classes."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        configs = [name for name in names if name.endswith("_config.json")]
        entries = [
            entry
            for name in configs
            for entry in json.loads(archive.read(name)).get("config", {}).values()
        ]
    if not configs or any(
        entry.get("use_pickle") or not entry["path_name"].startswith(("weight_", "tensor_"))
        for entry in entries
    ):
        raise PackageError(
            f"{path} holds pickled objects, or was written by an old version of torch: export the "
            "model again with plain tensors as weights"
        )


def _last_linear(model: nn.Module) -> str | None:
    names = [
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and part.out_features == _CLASSES
    ]
    return names[-1] if names else None


def _load_file(model: nn.Module, weights: str, head: str | Iterable[str]) -> None:
    """Load the weights in a safetensors file; those of the head may be missing or too many."""
    path = Path(weights)
    if path.suffix != ".safetensors":
        raise InvalidInput(
            f"--weights is {weights}; expected 'pretrained', 'random' or a safetensors file. Other "
            "files of weights are pickles, which can run code"
        )
    from safetensors.torch import load_file

    heads = tuple(f"{name}." for name in ([head] if isinstance(head, str) else head))
    try:
        state = load_file(path)
    except Exception as error:
        raise PackageError(f"{path} cannot be read as safetensors: {error}") from error
    own = model.state_dict()
    wrong = [
        f"{name} is {'missing' if name not in state else list(state[name].shape)}"
        for name, value in own.items()
        if (name not in state or state[name].shape != value.shape) and not name.startswith(heads)
    ]
    wrong += [
        f"{name} is unknown" for name in state if name not in own and not name.startswith(heads)
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise PackageError(f"{path} does not fit the model: {', '.join(wrong[:3])}{more}")
    fitting = {name: state[name] for name in own if name in state}
    fitting = {name: value for name, value in fitting.items() if value.shape == own[name].shape}
    model.load_state_dict(fitting, strict=False)


def _unknown(library: str, name: str, known: list[str], what: str = "model") -> InvalidInput:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = f"; similar are {', '.join(near)}" if near else ""
    return InvalidInput(f"{library} has no {what} {name!r}{hint}")


def _not_loaded(source: str, weights: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if weights != "pretrained":
        return f"{source} cannot be built: {reason}"
    return (
        f"the pretrained weights of {source} cannot be loaded: {reason}. Without a network, give "
        "them as a file: --weights FILE.safetensors"
    )


def _described(weights: str) -> str:
    if weights == "random":
        return "random weights"
    return "pretrained weights" if weights == "pretrained" else f"weights {Path(weights).name}"


@contextmanager
def _trusting_no_pickle() -> Iterator[None]:
    """Let torch load nothing but tensors."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
