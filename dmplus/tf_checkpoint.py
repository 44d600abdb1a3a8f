"""The authors' variables (TensorFlow names) in a :class:`dmplus.network.DeepMedic`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from dmplus.network import Block, DeepMedic
from dmplus.runtime import InputError


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
