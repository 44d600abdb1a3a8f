"""The authors' TensorFlow checkpoints in a :class:`dmplus.network.DeepMedic`.

:func:`load_network` gives the network, :func:`convert` a weights file of ours; :func:`variable_names` is the map from our
names to theirs. :mod:`dmplus.tf_bundle` reads the files.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmplus import network as networks
from dmplus import runtime
from dmplus.network import Block, DeepMedic, NetworkConfig
from dmplus.runtime import InputError
from dmplus.tf_bundle import Variable, checkpoint_files, checkpoint_prefix, list_variables, read_variables

__all__ = [
    "Variable", "assign", "convert", "describe", "list_variables", "load_network", "network_config", "read_variables",
    "variable_names",
]  # fmt: skip


# ---------------------------------------------------------------------------------------------- the authors' names
def variable_names(network: DeepMedic) -> dict[str, str]:
    """State-dict name → the authors' variable name (``net/W_3``), for every tensor of the network that they have.

    Their variables are numbered per kind in creation order: full-resolution path, prior path, low-resolution paths, the
    joined 1³ layers; the first block of a path has a bias where the others have normalisation and slope.
    """
    paths = [("current", network.current)]
    if network.prior is not None:
        paths.append(("prior", network.prior))
    paths += [(f"low.{i}", path) for i, path in enumerate(network.low)] + [("fully_connected", network.fully_connected)]
    counts: dict[str, int] = {}
    names: dict[str, str] = {}

    def add(ours: str, theirs: str) -> None:
        number = counts.get(theirs, 0)
        counts[theirs] = number + 1
        names[ours] = f"net/{theirs}_{number}" if number else f"net/{theirs}"

    for prefix, path in paths:
        for i, block in enumerate(path.blocks):
            assert isinstance(block, Block)
            here = f"{prefix}.blocks.{i}"
            if hasattr(block, "shift"):
                add(f"{here}.shift", "b")
            else:
                add(f"{here}.norm.weight", "gBn")
                add(f"{here}.norm.bias", "bBn")
                add(f"{here}.norm.means", "muBnsForRollingAverage")
                add(f"{here}.norm.variances", "varBnsForRollingAverage")
                add(f"{here}.slope", "aPrelu")
            add(f"{here}.conv.weight", "W")
    add("bias", "b")
    return names


def assign(network: DeepMedic, variables: Mapping[str, np.ndarray]) -> DeepMedic:
    """Copy the authors' variables (name → array, weights as (C_out, C_in, x, y, z)) into ``network``; returns it.

    A missing variable or one of another shape is an error that names it.
    """
    state = network.state_dict()
    for ours, theirs in variable_names(network).items():
        if theirs not in variables:
            raise InputError(
                f"checkpoint: expected the variable {theirs} for {ours}; found none; check the configuration"
            )
        value = torch.as_tensor(np.asarray(variables[theirs]))
        if value.shape != state[ours].shape:
            raise InputError(
                f"checkpoint: expected {theirs} of shape {tuple(state[ours].shape)} for {ours}; got {tuple(value.shape)}; "
                "check features, paths and widths of the configuration"
            )
        state[ours] = value
    network.load_state_dict(state)
    return network


# --------------------------------------------------------------------------------------------- from checkpoint to network
def network_config(
    prefix: str | Path,
    *,
    residual_layers: Sequence[int] = (4, 6, 8),
    low_factors: Sequence[int] = (3, 5),
    residual_fully_connected: Sequence[int] = (2,),
    dropout: Sequence[float] = (0.0, 0.5, 0.5),
    dropout_scaling: str = "released",
) -> NetworkConfig:
    """The configuration of a checkpoint's network, from the index alone.

    Paths, depth, widths and the window of the batch statistics are read off the variables' names and shapes. What these
    cannot tell are the keywords, with the released choices as defaults. There is one path for the current scan and one
    per factor of ``low_factors``; one path more is the prior's, and any other number an ``InputError``, as are other
    programs' variables and networks that :class:`NetworkConfig` has no words for (paths of different widths, 3³ kernels
    after the paths, several channels or more than two classes).
    """
    name = checkpoint_prefix(prefix).name
    shapes = {v.name: v.shape for v in list_variables(prefix)}

    def numbered(kind: str) -> list[tuple[int, ...]]:
        names = itertools.chain([f"net/{kind}"], (f"net/{kind}_{i}" for i in itertools.count(1)))
        return [shapes[n] for n in itertools.takewhile(shapes.__contains__, names)]

    def refuse(expected: str, got: str, do: str) -> InputError:
        return InputError(f"checkpoint {name}: expected {expected}; got {got}; {do}")

    weights, paths = numbered("W"), len(numbered("b")) - 1  # a bias before each path, and the classifier's
    if len(weights) < 2 or paths < 1 or any(len(shape) != 5 for shape in weights):
        some = ", ".join(sorted(shapes)[:2]) or "none"
        raise refuse(
            "the variables of DeepMedic or DeepMedic+ (net/W, net/b, ...)",
            f"{len(shapes)} others, such as {some}",
            "another program wrote this checkpoint",
        )
    # the first path ends where channels no longer follow from each other or the kernel changes
    chain = enumerate(itertools.pairwise(weights), 1)
    depth = next((i for i, (a, b) in chain if a[0] != b[1] or a[2:] != b[2:]), len(weights))
    path, joined = weights[:depth], weights[paths * depth :]
    for i in range(1, paths):
        other = weights[i * depth : (i + 1) * depth]
        if other != path:
            raise refuse(
                f"{paths} paths of {depth} layers with {_widths(path)} channels each",
                f"{_widths(other)} in path {i + 1}",
                "dmplus has paths of one kind only",
            )
    kernels = {shape[2:] for shape in path}, {shape[2:] for shape in joined}
    if kernels != ({(3, 3, 3)}, {(1, 1, 1)}):
        got = " and ".join(", ".join("x".join(map(str, k)) for k in sorted(kind)) or "none" for kind in kernels)
        raise refuse(
            "3x3x3 kernels in the paths and 1x1x1 after them", got, "dmplus has no network of the older configurations"
        )
    channels, classes = path[0][1], joined[-1][0]
    if (channels, classes) != (1, 2):
        raise refuse("1 image channel and 2 classes", f"{channels} and {classes}", "dmplus reads T1c alone")
    for what, given, least, most in (
        ("residual layers", residual_layers, 2, depth),
        ("residual layers after the paths", residual_fully_connected, 2, len(joined)),
    ):
        if not all(least <= layer <= most for layer in given):
            raise refuse(f"{what} from {least} to {most}", _plain(given), "correct them")
    if not all(factor >= 3 and factor % 2 for factor in low_factors):
        raise refuse("odd low-resolution factors from 3", _plain(low_factors), "correct them")
    if not all(0 <= rate < 1 for rate in dropout):
        raise refuse("dropout rates from 0 to below 1", _plain(dropout), "correct them")
    prior = paths - 1 - len(low_factors)
    if prior not in (0, 1):
        raise refuse(
            f"{1 + len(low_factors)} paths, or {2 + len(low_factors)} with a prior, for low-resolution factors "
            f"{_plain(low_factors)}",
            f"{paths} paths",
            "give one factor for each low-resolution path (--low-factors)",
        )
    return NetworkConfig(
        prior="path" if prior else "none",
        features=tuple(shape[0] for shape in path),
        residual_layers=tuple(residual_layers),
        low_factors=tuple(low_factors),
        fully_connected=tuple(shape[0] for shape in joined[:-1]),
        residual_fully_connected=tuple(residual_fully_connected),
        dropout=tuple(dropout),
        dropout_scaling=dropout_scaling,
        norm_window=shapes.get("net/muBnsForRollingAverage", (60,))[0],
    )


def _widths(path: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(str(shape[0]) for shape in path)


def _plain(numbers: Sequence[float]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def load_network(prefix: str | Path, **choices: Any) -> DeepMedic:
    """The network of a checkpoint of the authors' program, ready for inference.

    ``choices``: the keywords of :func:`network_config`, for checkpoints of other than the released configuration. The
    result has their coarse grids, their scaling of dropout and no epsilon in the normalisation. Everything in the
    checkpoint is read, so damage anywhere in it (the optimizer's variables, too) is an ``InputError``.
    """
    name = checkpoint_prefix(prefix).name
    config = network_config(prefix, **choices)
    variables = read_variables(prefix)
    net = DeepMedic(config)
    used = variable_names(net).values()
    beyond = sorted(n for n in variables.keys() - set(used) if n.startswith("net/") and "/sharedNew" not in n)
    if beyond:
        raise InputError(
            f"checkpoint {name}: expected the {len(used)} variables of this network; got {len(beyond)} more, such as "
            f"{beyond[0]}; the authors' program has no such network"
        )
    broken = next((n for n in used if n in variables and not np.isfinite(variables[n]).all()), None)
    if broken is not None:
        raise InputError(
            f"checkpoint {name}: expected finite numbers; got others in {broken}; this training diverged, take an earlier "
            "checkpoint"
        )
    return assign(net, variables).eval()


def describe(prefix: str | Path, config: NetworkConfig) -> dict[str, Any]:
    """Where a network comes from and what had to be taken for granted: what lies beside converted weights."""
    taken = ("residual_layers", "low_factors", "residual_fully_connected", "dropout", "dropout_scaling")
    return {
        "source": "TensorFlow checkpoint",
        "files": [path.name for path in checkpoint_files(prefix)],
        "variables": len(list_variables(prefix)),
        "not_in_checkpoint": {name: getattr(config, name) for name in taken},
    }


def convert(prefix: str | Path, out: str | Path, *, overwrite: bool = False, **choices: Any) -> dict[str, Any]:
    """Write a checkpoint's network as weights of ours (``out``, .safetensors) and what it is beside it (.json).

    ``choices`` as for :func:`load_network`. Returns what the JSON file holds. Both files appear whole or not at all; raises
    ``InputError`` for what :func:`load_network` refuses, another suffix, and files that exist without ``overwrite``.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise InputError(f"output {out.name}: expected a name that ends in .safetensors; got another; correct it")
    sidecar = out.with_suffix(".json")
    for path in (out, sidecar):
        if path.is_dir() or (path.exists() and not overwrite):
            raise InputError(
                f"output {path.name}: expected a new file; got one that exists; pass --overwrite or choose another"
            )
    net = load_network(prefix, **choices)
    said = describe(prefix, net.config)
    report = {
        "command": "convert",
        "note": "Research and teaching only: not for clinical use.",
        **said,
        "weights": out.name,
        "parameters": sum(p.numel() for p in net.parameters()),
        "network": net.config,
        "versions": runtime.versions(),
    }
    with runtime.replacing(sidecar) as part:
        runtime.write_json(part, report)
        networks.save(out, net, info=json.loads(json.dumps(said)))
    return report
