"""A 3D U-Net (MONAI's) behind the interface of :class:`~dmplus.network.DeepMedic`: the loss in another network (Table 2).

It takes the segments, losses, training and tiler of everything else here: 37³ voxels in, the inner 19³ out, so that the
VSS loss sees blocks of one size in both networks. It has no coarse paths and no prior. The paper does not print its U-Net's
configuration; ours is small, with batch normalisation (statistics of a patch would depend on the size of the tile).
Needs ``pip install 'dmplus[experiments]'``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from dmplus.network import NetworkConfig
from dmplus.runtime import InputError


class UNet(nn.Module):
    """Channels ``config.features``, one per resolution, each half as fine as the one before."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        try:
            from monai.networks.nets import UNet as Layers
        except ImportError as error:
            raise InputError(
                "network unet: expected MONAI; it is not installed; pip install 'dmplus[experiments]'"
            ) from error
        self.config = config
        self.layers = Layers(
            spatial_dims=3, in_channels=1, out_channels=2, channels=config.features,
            strides=(2,) * (len(config.features) - 1), num_res_units=2, norm="batch",
        )  # fmt: skip

    def forward(self, current: Tensor, low: Sequence[Tensor] = (), prior: Tensor | None = None) -> Tensor:
        """Logits (B, 2, X−18, Y−18, Z−18), background first, of segments (B, 1, X, Y, Z); low is empty, prior None."""
        if current.ndim != 5 or current.shape[1] != 1 or min(current.shape[2:]) <= 2 * self.config.margin:
            raise InputError(
                f"network unet: expected the current scan as (B, 1, X, Y, Z) of more than {2 * self.config.margin} voxels an "
                f"edge; got {tuple(current.shape)}; add batch and channel axes or pad the image"
            )
        if len(low) or prior is not None:
            raise InputError("network unet: expected the current scan alone; got coarse inputs or a prior; drop them")
        unit = 2 ** (len(self.config.features) - 1)
        missing = [-n % unit for n in current.shape[2:]]
        x = self.layers(F.pad(current, [p for m in reversed(missing) for p in (0, m)]))  # (B, 2, ≥X, ≥Y, ≥Z)
        m = self.config.margin
        return x[(..., *(slice(m, n - m) for n in current.shape[2:]))]

    def probabilities(self, current: Tensor, low: Sequence[Tensor] = (), prior: Tensor | None = None) -> Tensor:
        """Softmax of :meth:`forward` in float32: (B, 2, X−18, Y−18, Z−18), background first, summing to 1."""
        return self(current, low, prior).float().softmax(1)
