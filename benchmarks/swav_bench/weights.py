"""A network's weights in one safetensors file: read from checkpoints and converted files, renamed for other programs.

Tensors have the names and layouts of the published state dicts (swav_spec.network.tensor_shapes). The published files
put "module." before each name; torchvision's and timm's ResNets have the backbone's names as they are, and nothing
else of ours. torch_files.py reads and writes PyTorch's own files.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from swav_bench import checkpoint
from swav_bench.records import write_atomically
from swav_spec import recipes
from swav_spec.config import Augmentation, Network
from swav_spec.errors import InvalidInput, require
from swav_spec.network import initial_weights, tensor_shapes

FORMAT = "swav-bench weights 1"
PREFIX = "module."
PROTOTYPES = "prototypes.weight"
_HEAD = ("projection_head.", "prototypes.")
#: Of a classifier that torchvision's and timm's files hold and SwAV's network does not.
_CLASSIFIER = ("fc.weight", "fc.bias")
#: So many names of a kind are listed where a file is refused.
_LISTED = 12
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Weights:
    """A network's tensors, and what must be known to use them.

    Attributes:
        network: that they are of.
        tensors: state-dict name -> array. Without those of the head and the prototypes for a backbone alone.
        size: side in pixels of the first crops that it was trained on.
        augmentation: its mean and std are what images are normalised with.
        origin: JSON values: where the weights come from.
    """

    network: Network
    tensors: Tensors
    size: int
    augmentation: Augmentation = field(default_factory=Augmentation)
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def backbone_only(self) -> bool:
        """Whether head and prototypes are missing: such weights give features, but no embeddings and no scores."""
        return PROTOTYPES not in self.tensors

    def complete(self) -> Tensors:
        """All tensors of the network; head and prototypes are drawn at random where the file has none."""
        if not self.backbone_only:
            return self.tensors
        drawn = initial_weights(self.network, 0)
        return {name: self.tensors[name] if name in self.tensors else drawn[name] for name in drawn}


def load(path: Path) -> Weights:
    """The weights in a converted file, in a checkpoint, or in a run's last checkpoint.

    Args:
        path: a file, or a folder that holds checkpoints or a folder `checkpoints`.

    Raises:
        InvalidInput: there is nothing of the kind, the file is cut off, corrupt or of another kind, its tensors are not
            those of its network, or a weight is not finite.
    """
    file = _last_checkpoint(path) if path.is_dir() else path
    kind = header_of(file).get("format")
    if kind == checkpoint.FORMAT:
        return _of_checkpoint(file)
    if kind != FORMAT:
        raise InvalidInput(
            f"weights {file}: is neither a checkpoint nor a converted file (format = {kind!r}); "
            "convert it first: swav-bench convert"
        )
    header, tensors = read_tensors(file)
    try:
        network = Network(**{name: _tuple(value) for name, value in json.loads(header["network"]).items()})
        augmentation = Augmentation(mean=_tuple(json.loads(header["mean"])), std=_tuple(json.loads(header["std"])))
        size, origin = int(header["size"]), json.loads(header["origin"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"weights {file}: the header is damaged ({error!r})") from error
    check_tensors(tensors, network, file, backbone_only=header.get("parts") == "backbone")
    # Read in the order of their names; given in the published one.
    ordered = {name: tensors[name] for name in tensor_shapes(network) if name in tensors}
    return Weights(network, ordered, size, augmentation, origin)


def write(path: Path, weights: Weights) -> None:
    """Writes a converted file, whole or not at all.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    header = {
        "format": FORMAT,
        "network": json.dumps(dataclasses.asdict(weights.network)),
        "parts": "backbone" if weights.backbone_only else "all",
        "size": str(weights.size),
        "mean": json.dumps(weights.augmentation.mean),
        "std": json.dumps(weights.augmentation.std),
        "origin": json.dumps(dict(weights.origin)),
    }
    write_tensors(path, weights.tensors, header)


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], header: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file, whole or not at all; see `write` for what it raises."""
    # safetensors wants C order; a transposed view would be written in the wrong order otherwise.
    ordered = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    write_atomically(path, to_bytes(ordered, dict(header or {})))


def read_tensors(path: Path) -> tuple[dict[str, str], Tensors]:
    """The header and the tensors of a safetensors file; half precision is widened to float32.

    Raises:
        InvalidInput: the file is missing, cut off, or no safetensors file.
    """
    header = header_of(path)
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: a type that NumPy does not have
        raise InvalidInput(f"weights {path}: cannot be read ({error})") from error
    return header, {name: _widened(tensor) for name, tensor in tensors.items()}


def header_of(path: Path) -> dict[str, str]:
    """The header of a safetensors file; see `read_tensors` for what it raises."""
    if not path.is_file():
        raise InvalidInput(f"weights {path}: there is no such file or folder")
    if is_pytorch(path):
        raise InvalidInput(f"weights {path}: is a file of PyTorch; convert it first: swav-bench convert")
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise InvalidInput(f"weights {path}: cannot be read as safetensors ({error})") from error


def is_pytorch(path: Path) -> bool:
    """Whether a file begins as those of torch.save do: as a zip archive, or (before PyTorch 1.6) as a pickle."""
    try:
        with path.open("rb") as file:
            return file.read(2) in (b"PK", b"\x80\x02")
    except OSError:
        return False


def from_state_dict(
    given: Mapping[str, np.ndarray],
    where: Path,
    *,
    network: str | None = None,
    backbone_only: bool = False,
    origin: Mapping[str, Any] | None = None,
) -> Weights:
    """Weights in the published layout, whose network is found from the tensors' shapes.

    Args:
        given: state dict; every name may begin with "module.".
        where: the file, for messages.
        network: a name in swav_spec.recipes.NETWORKS that it must be; head and prototypes may be of other sizes.
        backbone_only: head and prototypes may be missing, and a classifier (fc) is left out.
        origin: see Weights.

    Raises:
        InvalidInput: a tensor is missing, unexpected, of another shape or type, or not finite.
    """
    prefixed = bool(given) and all(name.startswith(PREFIX) for name in given)
    tensors = {name.removeprefix(PREFIX) if prefixed else name: tensor for name, tensor in given.items()}
    headless = not any(name.startswith(_HEAD) for name in tensors)
    if headless and backbone_only:
        tensors = {name: tensor for name, tensor in tensors.items() if name not in _CLASSIFIER}
    found = infer_network(tensors, network)
    check_tensors(tensors, found, where, backbone_only=headless and backbone_only)
    order = [name for name in tensor_shapes(found) if name in tensors]
    size = 224 if found.stem == "imagenet" else 32
    return Weights(found, {name: tensors[name] for name in order}, size, origin=origin or {})


def infer_network(tensors: Mapping[str, np.ndarray], name: str | None = None) -> Network:
    """The known network that most of the tensors fit, with the file's own sizes of head and prototypes."""
    if name is not None:
        require(name in recipes.NETWORKS, "network", name, "one of " + ", ".join(recipes.NETWORKS))
    known = recipes.NETWORKS.values() if name is None else [recipes.NETWORKS[name]]
    shapes = {tensor: array.shape for tensor, array in tensors.items()}

    def rows(tensor: str, otherwise: int) -> int:
        shape = shapes.get(tensor, ())
        return shape[0] if len(shape) == 2 and shape[0] >= 2 else otherwise

    candidates = [
        dataclasses.replace(
            network,
            hidden=rows("projection_head.0.weight", network.hidden),
            embedding=rows("projection_head.3.weight", network.embedding),
            prototypes=rows(PROTOTYPES, network.prototypes),
        )
        for network in known
    ]
    return max(candidates, key=lambda network: len(shapes.items() & tensor_shapes(network).items()))


def check_tensors(
    tensors: Mapping[str, np.ndarray], network: Network, where: Path, *, backbone_only: bool = False
) -> None:
    """Raises InvalidInput, with the names, unless the tensors are exactly those of the network, and all are finite."""
    wanted = tensor_shapes(network)
    if backbone_only:
        wanted = {name: shape for name, shape in wanted.items() if not name.startswith(_HEAD)}
    problems = [
        _listed([name for name in wanted if name not in tensors], "missing"),
        _listed([name for name in tensors if name not in wanted], "unexpected"),
        _listed(
            [
                f"{name} {tensors[name].shape} for {shape}"
                for name, shape in wanted.items()
                if name in tensors and tensors[name].shape != shape
            ],
            "of another shape",
        ),
    ]
    if any(problems):
        advice = ""
        if not backbone_only and not any(name.startswith(_HEAD) for name in tensors):
            advice = "; a backbone without head and prototypes needs --backbone-only"
        raise InvalidInput(
            f"weights {where}: are not those of {network_name(network)}: {'; '.join(filter(None, problems))}{advice}"
        )
    for name, tensor in tensors.items():
        counts = name.endswith("num_batches_tracked")
        kind, allowed = ("iu", "integers") if counts else ("f", "floating-point numbers")
        require(tensor.dtype.kind in kind, f"weights {where}: type of {name}", str(tensor.dtype), allowed)
        if not np.isfinite(tensor).all():
            raise InvalidInput(f"weights {where}: {name} holds a value that is not finite")
        if name.endswith("running_var") and tensor.min() < 0:
            raise InvalidInput(f"weights {where}: {name} holds a negative variance")


def network_name(network: Network) -> str:
    """Its name in swav_spec.recipes.NETWORKS, whatever the sizes of its head; "a network of its own" for others."""
    return recipes.network_name(network) or "a network of its own"


def published(weights: Weights) -> Tensors:
    """Tensors under the names of the published files.

    Raises:
        InvalidInput: head and prototypes are missing.
    """
    require_head(weights, "The published layout")
    return {PREFIX + name: tensor for name, tensor in weights.tensors.items()}


def torchvision(weights: Weights) -> Tensors:
    """The backbone under torchvision's and timm's names: no head, no prototypes, no fc.

    Raises:
        InvalidInput: it is no ResNet.
    """
    if weights.network.block == "conv":
        raise InvalidInput("torchvision and timm have no such network: only ResNets can be written in their names")
    return {name: tensor for name, tensor in weights.tensors.items() if not name.startswith(_HEAD)}


def require_head(weights: Weights, what: str) -> None:
    """Raises InvalidInput for a backbone alone."""
    if weights.backbone_only:
        raise InvalidInput(f"{what} needs head and prototypes, and these weights are of a backbone alone")


def _of_checkpoint(file: Path) -> Weights:
    found = checkpoint.read(file)
    tensors = {name.removeprefix("model/"): array for name, array in found.arrays.items() if name.startswith("model/")}
    check_tensors(tensors, found.config.network, file)
    return Weights(
        network=found.config.network,
        tensors=tensors,
        size=found.config.crops[0].size,
        augmentation=found.config.augmentation,
        origin={"file": file.name, "step": found.step},
    )


def _last_checkpoint(folder: Path) -> Path:
    for place in (folder / "checkpoints", folder):
        files = checkpoint.steps(place) if place.is_dir() else []
        if files:
            return files[-1]
    raise InvalidInput(f"weights {folder}: has no checkpoint (step-*.safetensors)")


def _widened(tensor: np.ndarray) -> np.ndarray:
    return tensor.astype(np.float32) if tensor.dtype == np.float16 else tensor


def _listed(names: list[str], what: str) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} {what} ({', '.join(names[:_LISTED])}{more})"


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
