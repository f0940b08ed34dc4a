"""LoRA: changes of low rank, merged into a checkpoint's weights before anything is traced.

Source: Hu et al. 2021, arXiv:2106.09685. A weight W becomes W + scale * alpha / rank * up @ down.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from export.errors import CheckpointError
from runtime.bundle.manifest import describe_file

FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")  # of a folder, as diffusers and peft save
PREFIX = "base_model.model."  # peft's, of a module that was saved alone
# How a key is spelled: by peft, by diffusers in three ages, and by kohya's scripts.
_SPELLINGS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<layer>.+)\.lora_(?P<side>A|B)(\.[^.]+)?\.weight",
        r"(?P<layer>.+)\.processor\.(?P<projection>to_\w+)_lora\.(?P<side>down|up)\.weight",
        r"(?P<layer>.+)\.lora(_linear_layer)?\.(?P<side>down|up)\.weight",
        r"(?P<layer>.+)\.lora_(?P<side>down|up)\.weight",
        r"(?P<layer>.+)\.(?P<side>alpha)",
    )
)
MOST = 1e6  # of a scale
_SIDES = {"A": "down", "B": "up"}
_KOHYA = {"lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}


@dataclass(frozen=True)
class Change:
    """Of one layer's weight: `down` (rank, in, ...) and `up` (out, rank, ...), and what their product is scaled by."""

    down: torch.Tensor
    up: torch.Tensor
    factor: float

    def of(self, weight: torch.Tensor) -> torch.Tensor:
        """The change of this weight. Raises ValueError if it is none of it."""
        change = (self.up.flatten(1).float() @ self.down.flatten(1).float()) * self.factor
        if change.numel() != weight.numel() or change.shape[0] != weight.shape[0]:
            raise ValueError(
                f"{tuple(self.up.shape)} times {tuple(self.down.shape)}, the weight is {tuple(weight.shape)}"
            )
        return change.reshape(weight.shape)


@dataclass(frozen=True)
class Lora:
    """One file's changes, by the part of the checkpoint and the layer in it, and how strongly they count."""

    path: Path
    scale: float
    sha256: str
    changes: Mapping[str, Mapping[str, Change]] = field(repr=False)

    @classmethod
    def read(cls, text: str, parts: tuple[str, ...]) -> "Lora":
        """FILE or FILE:SCALE, a safetensors file or a folder with one, for a checkpoint of these parts.

        Keys may be spelled as peft, diffusers or kohya's scripts do. Raises CheckpointError.
        """
        path, scale = _split(text)
        layers = _layers(path, parts)
        alphas = _Alphas.beside(path)
        changes: dict[str, dict[str, Change]] = {}
        for (part, layer), tensors in layers.items():
            if not {"down", "up"} <= tensors.keys():
                missing = "up" if "down" in tensors else "down"
                raise CheckpointError(f"{path} lacks the {missing} half of {part}.{layer}")
            down, up = tensors["down"], tensors["up"]
            rank = down.shape[0]
            if up.ndim < 2 or down.ndim < 2 or up.shape[1] != rank or up[0, 0].numel() != 1:
                raise CheckpointError(
                    f"{path}: {part}.{layer} has halves of {tuple(up.shape)} and {tuple(down.shape)}: no common rank"
                )
            if not bool(torch.isfinite(down).all() and torch.isfinite(up).all()):
                raise CheckpointError(f"{path} has NaN or Inf in {part}.{layer}")
            alpha = float(tensors["alpha"]) if "alpha" in tensors else None
            factor = alphas.factor(part, layer, rank) if alpha is None else alpha / rank
            changes.setdefault(part, {})[layer] = Change(down, up, factor)
        return cls(path, scale, describe_file(path.parent, path.name).sha256, changes)

    @torch.no_grad()
    def merge(self, part: str, module: torch.nn.Module) -> None:
        """Change the weights of a part's module. Raises CheckpointError for a layer that it lacks or of other shape."""
        own = {name: layer for name, layer in module.named_modules() if hasattr(layer, "weight")}
        flat = {name.replace(".", "_"): layer for name, layer in own.items()}  # as kohya's scripts name them
        for name, change in self.changes.get(part, {}).items():
            layer = own.get(name, flat.get(name))
            if layer is None:
                raise CheckpointError(f"{self.path} changes {part}.{name}, which is not there: a LoRA of another base")
            weight: Any = layer.weight
            turned = type(layer).__name__ == "Conv1D"  # GPT2's linear layer keeps its weight as (in, out)
            try:
                found = change.of(weight.T if turned else weight)
            except ValueError as error:
                raise CheckpointError(f"{self.path}: {part}.{name} is {error}: a LoRA of another base") from error
            weight += self.scale * (found.T if turned else found)


@dataclass(frozen=True)
class _Alphas:
    """What peft keeps of a LoRA's scales: in a file beside its own, or by part in what diffusers writes into it."""

    configs: Mapping[str, Mapping[str, Any]]  # by part; "" is of any

    @classmethod
    def beside(cls, path: Path) -> "_Alphas":
        with safe_open(path, "pt") as file:
            written = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
        configs: dict[str, dict[str, Any]] = {}
        for key, value in written.items():
            part, _, name = key.rpartition(".")  # no part: of a module that was saved alone
            configs.setdefault(part, {})[name] = value
        config = path.parent / "adapter_config.json"
        if path.name == FILES[1] and config.is_file():
            configs[""] = json.loads(config.read_text())
        return cls(configs)

    def factor(self, part: str, layer: str, rank: int) -> float:
        """Alpha by the rank; where nobody says, 1."""
        config = self.configs.get(part, self.configs.get("", {}))
        alpha = config.get("lora_alpha")
        for pattern, other in (config.get("alpha_pattern") or {}).items():
            if re.search(rf"(^|\.){pattern}$", layer):
                alpha = other
        if alpha is None:
            return 1.0
        return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def name_of(text: str) -> str:
    """What tells its bundle from others: the file's name, or its folder's where that is what libraries call it."""
    path, _ = _split(text)
    return path.resolve().parent.name if path.name in FILES else path.stem


def _split(text: str) -> tuple[Path, float]:
    path, _, last = text.rpartition(":")
    scale = 1.0
    if path and not Path(text).exists():
        try:
            scale = float(last)
        except ValueError:
            path = text
    else:
        path = text
    if not 0 < abs(scale) <= MOST:
        raise CheckpointError(f"--lora {text}: a scale has to be a number other than 0, up to {MOST:g}")
    found = Path(path)
    if found.is_dir():
        files = [found / name for name in FILES if (found / name).is_file()]
        if len(files) != 1:
            raise CheckpointError(f"--lora {found} is a folder, and holds not one of {' and '.join(FILES)}")
        found = files[0]
    if not found.is_file():
        raise CheckpointError(f"--lora {found} does not exist")
    if found.suffix != ".safetensors":
        raise CheckpointError(f"--lora {found} is no safetensors file: others may hold code, and are not read")
    return found, scale


def _layers(path: Path, parts: tuple[str, ...]) -> dict[tuple[str, str], dict[str, torch.Tensor]]:
    layers: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for key, tensor in _tensors(path):
        spelled = next((found for spelling in _SPELLINGS if (found := spelling.fullmatch(key))), None)
        if spelled is None:
            raise CheckpointError(f"{path} has a key that is none of a LoRA's: {key}")
        projection = spelled.groupdict().get("projection")
        place = spelled["layer"] + (f".{'to_out.0' if projection == 'to_out' else projection}" if projection else "")
        part, layer = _place(place.removeprefix(PREFIX), parts)
        if part not in parts:
            raise CheckpointError(f"{path} changes {part}, which this checkpoint has not; it has {', '.join(parts)}")
        layers.setdefault((part, layer), {})[_SIDES.get(spelled["side"], spelled["side"])] = tensor
    if not layers:
        raise CheckpointError(f"{path} is empty")
    return layers


def _place(place: str, parts: tuple[str, ...]) -> tuple[str, str]:
    """The part and the layer in it. A module that was saved alone is the UNet."""
    for prefix, part in _KOHYA.items():
        if place.startswith(prefix):
            return part, place.removeprefix(prefix)
    part, _, layer = place.partition(".")
    return (part, layer) if part in {*parts, *_KOHYA.values()} else ("unet", place)


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  it is no mapping
                yield key, file.get_tensor(key)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"--lora {path} cannot be read: {error}") from error
