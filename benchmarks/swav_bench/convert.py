"""`swav-bench convert`: published weights to a safetensors file of ours, and ours to the names of other programs.

Reads the files that SwAV's authors published (a state dict, or one under "state_dict"; names with or without
"module."), checks every name and shape, and finds out which network they are of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from swav_bench import checkpoint, children, torch_files, weights
from swav_bench.progress import printable
from swav_bench.weights import Weights
from swav_spec import recipes
from swav_spec.errors import InvalidInput, require
from swav_spec.network import is_buffer

#: Layout -> what `--to` says about it.
LAYOUTS = {
    "swav-bench": "all that evaluate, embed, assign and the Python API need (.safetensors)",
    "published": "the names of the authors' files, to be read by their code (.pth.tar, .pth or .safetensors)",
    "torchvision": "the backbone in the names of torchvision and timm, without head and fc (.pth or .safetensors)",
}
_HASHED_AT_ONCE = 2**20


def convert(
    source: Path,
    out: Path,
    *,
    to: str = "swav-bench",
    network: str | None = None,
    backbone_only: bool = False,
    interpreters: Mapping[str, str] | None = None,
) -> Weights:
    """Reads weights in any of the layouts and writes them in one.

    Args:
        source: a file of torch.save or safetensors in the published or torchvision's names, a converted file, a
            checkpoint, or a run's folder.
        out: the file to write.
        to: one of LAYOUTS.
        network: a name in swav_spec.recipes.NETWORKS that the weights must be of; found from their shapes otherwise.
        backbone_only: accept a file from elsewhere without head and prototypes; its classifier (fc) is left out.
        interpreters: implementation -> Python that has its framework; "torch" reads and writes .pth files.

    Returns:
        What was read.

    Raises:
        InvalidInput: a file cannot be read or written, or its tensors are not those of a network; says which.
    """
    require(to in LAYOUTS, "to", to, "one of " + ", ".join(LAYOUTS))
    suffixes = (".safetensors",) if to == "swav-bench" else (".safetensors", *torch_files.SUFFIXES)
    require(out.name.endswith(suffixes), "out", str(out), "a file that ends in " + ", ".join(suffixes))
    require(out.parent.is_dir(), "out", str(out), "in a folder that exists")
    found = _read(source, network, backbone_only, interpreters)
    try:
        if to == "swav-bench":
            weights.write(out, found)
            return found
        renamed = weights.published(found) if to == "published" else weights.torchvision(found)
        if out.suffix == ".safetensors":
            weights.write_tensors(out, renamed, {"format": "pt"})  # what Hugging Face's readers look for
        else:
            torch_files.write(out, renamed, interpreters)
    except OSError as error:
        raise InvalidInput(f"out = {str(out)!r}: cannot be written ({error.strerror or error})") from error
    return found


def command(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A .pth.tar or .safetensors file, a checkpoint or a run's folder.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    to: Annotated[
        str,
        typer.Option(metavar="LAYOUT", help="; ".join(f"{name}: {text}" for name, text in LAYOUTS.items())),
    ] = "swav-bench",
    network: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Network it must be, see `swav-bench list`; by default found.", show_default=False
        ),
    ] = None,
    backbone_only: Annotated[
        bool,
        typer.Option("--backbone-only", help="Accept a file without head and prototypes: good for features alone."),
    ] = False,
    python: Annotated[
        list[str] | None,
        typer.Option(metavar="torch=INTERPRETER", help="Python that has PyTorch, for .pth files.", show_default=False),
    ] = None,
) -> None:
    """Convert published weights to a safetensors file of ours, or ours to other programs' names, unpickling nothing."""
    found = convert(
        source,
        out,
        to=to,
        network=network,
        backbone_only=backbone_only,
        interpreters=children.interpreters(python),
    )
    print(printable(f"{out}: {describe(found)}; layout: {to}"))


def describe(found: Weights) -> str:
    """What the weights are, in a few words."""
    parameters = sum(tensor.size for name, tensor in found.tensors.items() if not is_buffer(name))
    head = "backbone alone" if found.backbone_only else f"{found.network.prototypes} prototypes"
    return f"{weights.network_name(found.network)}, {parameters / 1e6:,.2f} M parameters, {head}"


def _read(source: Path, network: str | None, backbone_only: bool, interpreters: Mapping[str, str] | None) -> Weights:
    if source.is_file() and weights.is_pytorch(source):
        tensors = torch_files.read(source, interpreters)
    elif source.is_dir() or weights.header_of(source).get("format") in (weights.FORMAT, checkpoint.FORMAT):
        found = weights.load(source)
        if network is not None and weights.network_name(found.network) != network:
            require(network in recipes.NETWORKS, "network", network, "one of " + ", ".join(recipes.NETWORKS))
            raise InvalidInput(f"weights {source}: are of {weights.network_name(found.network)}, not of {network}")
        return found
    else:
        _, tensors = weights.read_tensors(source)
    origin = {"file": source.name, "sha256": _sha256(source)}
    return weights.from_state_dict(tensors, source, network=network, backbone_only=backbone_only, origin=origin)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASHED_AT_ONCE):
            digest.update(chunk)
    return digest.hexdigest()
