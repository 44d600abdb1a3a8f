"""DeepMedic and DeepMedic+ (Figure 3) from one :class:`NetworkConfig`.

Tensors are (B, C, X, Y, Z). Convolutions are valid (no padding), so nine layers of 3³ see a receptive field of 19³ and a
segment of 37³ gives an output of 19³. The current scan enters at full resolution and, as context, on grids 3 and 5
times coarser; the earlier scan (prior) enters by a path of its own (``prior="path"``, DeepMedic+), as a second channel
of the full-resolution path (``"channel"``), or not at all (``"none"``, DeepMedic).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmplus.runtime import InputError, from_dict, named, replacing, require, settle
from dmplus.tf_bundle import checkpoint_files, is_checkpoint

FLOAT32_TINY = 1.1754944e-38  #: the released program's epsilon in batch normalisation: in effect none


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Every choice that makes a network. The defaults are the preset ``paper``; :func:`preset` gives the others."""

    prior: str = "path"  #: "none" (DeepMedic), "channel" or "path" (DeepMedic+)
    features: tuple[int, ...] = (30, 40, 50, 60, 70, 80, 90, 100, 110)  #: channels of the 3³ layers, same in each path
    residual_layers: tuple[int, ...] = (
        4,
        6,
        8,
    )  #: layers (counted from 1) whose output gets the input of the one before
    low_factors: tuple[int, ...] = (3, 5)  #: how many times coarser each low-resolution path is
    fully_connected: tuple[int, ...] = (300, 300)  #: channels of the 1³ layers after the paths are joined
    residual_fully_connected: tuple[int, ...] = (2,)  #: the same rule among the 1³ layers
    dropout: tuple[float, ...] = (0.0, 0.5, 0.5)  #: rate before each 1³ layer, the classifier last
    dropout_scaling: str = "released"  #: "released": x·keep at inference; "inverted": x/keep in training
    low_grid: str = (
        "released"  #: low-resolution voxel on the "released" first or the "aligned" middle voxel of its block
    )
    norm_epsilon: float = FLOAT32_TINY  #: added to the variance in batch normalisation
    norm_window: int = 60  #: inference uses the mean of the last so many batch statistics
    architecture: str = (
        "deepmedic"  #: or "unet" (:mod:`dmplus.unet`), of which prior, features and low_factors alone speak
    )

    def __post_init__(self) -> None:
        settle(self)
        for name, allowed in (
            ("prior", ("none", "channel", "path")),
            ("dropout_scaling", ("released", "inverted")),
            ("low_grid", ("released", "aligned")),
            ("architecture", ("deepmedic", "unet")),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"NetworkConfig: expected {name} {' or '.join(allowed)}; got {getattr(self, name)!r}; choose one of those"
                )
        if self.architecture == "unet" and (self.prior != "none" or self.low_factors):
            raise InputError(
                f"NetworkConfig: expected prior='none' and low_factors=() of a unet; got {self.prior!r} and {self.low_factors}"
            )
        if len(self.dropout) != len(self.fully_connected) + 1:
            raise InputError(
                f"NetworkConfig: expected {len(self.fully_connected) + 1} dropout rates (one per 1³ layer and one for the "
                f"classifier); got {len(self.dropout)}; give as many"
            )
        odd = all(f >= 1 and f % 2 for f in self.low_factors)  # an even block has no middle voxel
        require(self, "low_factors", "odd numbers", odd)
        require(self, "dropout", "rates from 0 to below 1", all(0 <= rate < 1 for rate in self.dropout))
        require(self, "norm_window", "a whole number from 1", isinstance(self.norm_window, int) and self.norm_window >= 1)
        if self.architecture == "deepmedic":
            for name, depth in (
                ("residual_layers", len(self.features)),
                ("residual_fully_connected", len(self.fully_connected)),
            ):
                require(self, name, f"layers from 2 to {depth}", all(2 <= k <= depth for k in getattr(self, name)))

    @property
    def receptive_field(self) -> int:
        """Edge of the receptive field of a full-resolution path, in voxels: 19 for nine layers."""
        return 2 * self.margin + 1

    @property
    def margin(self) -> int:
        """Voxels lost at each side between input and output: 9 for nine layers, and for a unet, which shares its segments."""
        return 9 if self.architecture == "unet" else len(self.features)

    def low_size(self, out: int, factor: int) -> int:
        """Edge of the low-resolution input (in its own coarse voxels) for an output edge of ``out`` voxels."""
        return math.ceil(out / factor) + self.receptive_field - 1

    def low_start(self, start: int, factor: int) -> int:
        """First full-resolution voxel of the low-resolution input for a segment that begins at voxel ``start``.

        ``released``: coarse neuron j is centred on the first voxel of the block of ``factor`` output voxels that it is
        repeated to; ``aligned``: on its middle voxel (1 and 2 voxels further for factors 3 and 5).
        """
        released = start + factor // 2 - ((factor - 1) // 2) * self.receptive_field
        return released + (factor // 2 if self.low_grid == "aligned" else 0)


def preset(name: str, *, prior: str = "path") -> NetworkConfig:
    """``paper``: the paper and, where it is silent, the authors' release. ``quick``: 16 channels, aligned coarse grids,
    safe epsilon, inverted dropout. ``smoke``: ``quick`` with 4 channels, for tests of the plumbing. ``unet`` (without
    prior): another network for the same losses, :mod:`dmplus.unet`."""
    improved: dict[str, Any] = {
        "prior": prior,
        "residual_fully_connected": (),  # so that a prior path can be added to a trained network (add_prior_path)
        "dropout": (0.0, 0.25, 0.25),
        "dropout_scaling": "inverted",
        "low_grid": "aligned",
        "norm_epsilon": 1e-5,
    }
    if name == "paper":
        return NetworkConfig(prior=prior)
    if name == "quick":
        return NetworkConfig(features=(16,) * 9, fully_connected=(64, 64), **improved)
    if name == "unet" and prior == "none":
        return NetworkConfig(architecture="unet", prior="none", features=(16, 32, 64, 128), low_factors=())
    if name == "smoke":
        return NetworkConfig(features=(4,) * 9, fully_connected=(16, 16), **improved)
    raise InputError(
        f"network preset: expected paper, quick, smoke or (without prior) unet; got {name!r}; choose one of those"
    )


class BatchNorm(nn.Module):
    """Batch normalisation and PReLU. At inference its statistics are the mean of the last ``window`` batches', not a moving
    average.

    (B, C, X, Y, Z) and the PReLU's slope (C,) → (B, C, X, Y, Z). A channel that does not vary within the batch (an absent
    prior, a constant image) is passed on as the bias alone, with zero gradient: without an epsilon its gradient would be
    infinite.
    """

    def __init__(self, channels: int, epsilon: float, window: int) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("means", torch.zeros(window, channels))
        self.register_buffer("variances", torch.ones(window, channels))
        self.register_buffer("row", torch.zeros(1, dtype=torch.int64))  # the row that the next batch overwrites

    def forward(self, x: Tensor, slope: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                wide = x.float()
                mean = wide.mean(EACH)  # (C,)
                variance = (wide - _wide(mean)).square().mean(EACH)  # biased
                self.means.index_copy_(0, self.row, mean[None])
                self.variances.index_copy_(0, self.row, variance[None])
                self.row.copy_((self.row + 1) % len(self.means))
            return _NormPReLU.apply(x, self.weight, self.bias, slope, mean, self._root(mean, variance))
        mean, variance = self.means.mean(0), self.variances.mean(0)
        if x.is_cuda:  # one kernel, without copies in float32
            varies = _varies(mean, variance)
            y = F.batch_norm(
                x, mean, torch.where(varies, variance, 1), self.weight * varies, self.bias, eps=self.epsilon
            )
            return F.prelu(y, slope.to(x.dtype))
        return _prelu(x, *_scale_and_shift(self.weight, self.bias, mean, self._root(mean, variance)), slope)

    def _root(self, mean: Tensor, variance: Tensor) -> Tensor:
        """1 / standard deviation (C,), 0 for a channel that does not vary."""
        varies = _varies(mean, variance)
        return varies * (torch.where(varies, variance, 1) + self.epsilon).rsqrt()


EACH = (0, 2, 3, 4)  #: all axes but the channels'


def _wide(x: Tensor) -> Tensor:
    """(C,) → (1, C, 1, 1, 1)."""
    return x.view(1, -1, 1, 1, 1)


def _varies(mean: Tensor, variance: Tensor) -> Tensor:
    """Whether a channel varies by more than the rounding noise of a constant: the mean of 360,000 equal numbers, summed in
    float32, is off by up to 1e-6 of them."""
    return variance > 1e-10 * mean**2 + 1e-16


@torch.library.custom_op("dmplus::once", mutates_args=())
def _once(x: Tensor) -> Tensor:
    """A copy. A compiler cannot look inside: numbers per channel would else be computed anew for every voxel."""
    return x.clone()


@_once.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


_once.register_autograd(lambda ctx, grad: grad)


def _scale_and_shift(weight: Tensor, bias: Tensor, mean: Tensor, root: Tensor) -> Tensor:
    """The two numbers per channel (2, C) that normalise x: x · scale + shift."""
    scale = weight * root
    return _once(torch.stack((scale, bias - mean * scale)))


def _prelu(x: Tensor, scale: Tensor, shift: Tensor, slope: Tensor) -> Tensor:
    """PReLU of x · scale + shift, of x's type (B, C, X, Y, Z); the affine part is in float32 whatever x is."""
    return F.prelu(torch.addcmul(_wide(shift), x.float(), _wide(scale)), slope).to(x.dtype)


class _NormPReLU(torch.autograd.Function):
    """PReLU of (x − mean) · root · weight + bias, where mean and root are x's own.

    Written out, since both directions then pass over x as seldom as they can and keep x alone from one to the other.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, mean: Tensor, root: Tensor) -> Tensor:
        scale, shift = _scale_and_shift(weight, bias, mean, root)
        ctx.save_for_backward(x, slope, mean, root, scale, shift)
        return _prelu(x, scale, shift, slope)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, slope, mean, root, scale, shift = ctx.saved_tensors
        wide, dy = x.float(), grad.float()
        z = torch.addcmul(_wide(shift), wide, _wide(scale))
        dz = torch.where(z > 0, dy, dy * _wide(slope))
        d_slope = (dy * z.clamp(max=0)).sum(EACH)
        d_bias = dz.sum(EACH)
        d_root = (dz * (wide - _wide(mean))).sum(EACH)  # of weight · root
        # x moves the mean and the variance, too: dx = scale · (dz − mean of dz − (x − mean) · root² · mean of dz · (x − mean))
        n = x.numel() // x.shape[1]
        slant = -scale * root**2 * d_root / n
        slant, level = _once(torch.stack((slant, -scale * d_bias / n - slant * mean)))
        dx = torch.addcmul(_wide(level), wide, _wide(slant)).addcmul_(dz, _wide(scale))
        return dx.to(x.dtype), d_root * root, d_bias, d_slope, None, None


class Block(nn.Module):
    """normalise → PReLU → dropout → convolution without bias; the first block of a path only adds a bias to the image."""

    def __init__(
        self, config: NetworkConfig, c_in: int, c_out: int, *, kernel: int, first: bool, dropout: float
    ) -> None:
        super().__init__()
        self.dropout, self.scaling = dropout, config.dropout_scaling
        if first:
            self.shift = nn.Parameter(torch.zeros(c_in))
        else:
            self.norm = BatchNorm(c_in, config.norm_epsilon, config.norm_window)
            self.slope = nn.Parameter(torch.full((c_in,), 0.01))
        self.conv = nn.Conv3d(c_in, c_out, kernel, bias=False)
        nn.init.normal_(self.conv.weight, std=math.sqrt(2 / (c_in * kernel**3)))

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "shift"):  # conv(x + shift), written so that training needs no gradient of the image
            y = self.conv(x)
            return y + torch.einsum("oixyz,i->o", self.conv.weight, self.shift).to(y.dtype).view(1, -1, 1, 1, 1)
        x = self.norm(x, self.slope)
        if self.dropout > 0 and self.scaling == "inverted":
            x = (x * _kept(x, self.dropout)).mul(1 / (1 - self.dropout)).to(x.dtype) if self.training else x
        elif self.dropout > 0:  # released: the mask is not rescaled in training, all values shrink at inference
            x = (x * _kept(x, self.dropout)).to(x.dtype) if self.training else x * (1 - self.dropout)
        return self.conv(x)


@torch.library.custom_op("dmplus::random_bytes", mutates_args=())
def _random_bytes(x: Tensor) -> Tensor:
    """Uniform bytes, as many as x has elements, eight from each 64-bit number of torch's generator: drawing them one by one
    costs a fifth of a step. They depend on x in nothing but their number, yet a compiler that saw no x would take two layers'
    bytes for one and the same."""
    words = torch.empty(x.numel() // 8 + 1, dtype=torch.int64, device=x.device).random_(-(2**63), None)
    return words.view(torch.uint8)[: x.numel()]


@_random_bytes.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty(x.numel(), dtype=torch.uint8, device=x.device)


def _kept(x: Tensor, rate: float) -> Tensor:
    """Dropout's mask for x (B, C, ...): 0 with probability ``rate`` (to 1/256), else 1; laid out with channels last."""
    b, c, *edges = x.shape
    drawn = _random_bytes(x.detach()).view(b, *edges, c).movedim(-1, 1)
    return (drawn.float() / 256 + (1 - rate)).floor()


class Pathway(nn.Module):
    """Blocks in a row with residual connections over two blocks; sizes shrink by 2 per 3³ block."""

    def __init__(self, blocks: Sequence[Block], residual: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.residual = frozenset(residual)

    def forward(self, x: Tensor) -> Tensor:
        before = x  # the input of the block before
        for number, block in enumerate(self.blocks, 1):
            y = block(x)
            if number in self.residual:
                y = _add(y, before)
            before, x = x, y
        return x


@torch.library.custom_op("dmplus::add_centre", mutates_args=())
def _add(y: Tensor, early: Tensor) -> Tensor:
    """y + the centre of an earlier, larger tensor; channels beyond the smaller count are left as they are in y.

    An operation of its own, since a compiler that works the sum into the next block's statistics leaves them to one core.
    """
    shared = min(y.shape[1], early.shape[1])
    out = torch.empty_like(y)
    torch.add(y[:, :shared], _centre(early, y.shape)[:, :shared], out=out[:, :shared])
    out[:, shared:] = y[:, shared:]
    return out


@_add.register_fake
def _(y: Tensor, early: Tensor) -> Tensor:
    return torch.empty_like(y)


def _add_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    channels, *edges = ctx.early[1:]
    pads = []
    for n, m in zip(reversed(edges), reversed(grad.shape[2:]), strict=True):
        pads += [(n - m) // 2, n - m - (n - m) // 2]
    shared = min(channels, grad.shape[1])
    return grad, F.pad(grad[:, :shared], (*pads, 0, channels - shared))


def _keep_shape(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.early = inputs[1].shape


_add.register_autograd(_add_backward, setup_context=_keep_shape)


def _centre(x: Tensor, like: Sequence[int]) -> Tensor:
    """The middle of x (B, C, ...) that has the edges of the shape ``like``."""
    for axis, m in enumerate(like[2:], 2):
        x = x.narrow(axis, (x.shape[axis] - m) // 2, m)
    return x


def build(config: NetworkConfig) -> DeepMedic:
    """The network of a configuration, with new weights. A unet stands in a DeepMedic's place: it has the same methods."""
    if config.architecture == "unet":
        from dmplus.unet import UNet  # here, since it needs an extra

        return UNet(config)  # type: ignore[return-value]
    return DeepMedic(config)


class DeepMedic(nn.Module):
    """DeepMedic (``prior="none"``) and DeepMedic+ (``"path"``, ``"channel"``): Figure 3 of the paper."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        channels = 2 if config.prior == "channel" else 1
        self.current = self._path(channels)
        self.prior = self._path(1) if config.prior == "path" else None
        self.low = nn.ModuleList(self._path(1) for _ in config.low_factors)
        paths = 1 + (self.prior is not None) + len(self.low)
        widths = (paths * config.features[-1], *config.fully_connected, 2)
        self.fully_connected = Pathway(
            [
                Block(config, c_in, c_out, kernel=1, first=False, dropout=rate)
                for c_in, c_out, rate in zip(widths, widths[1:], config.dropout, strict=False)
            ],
            config.residual_fully_connected,
        )
        self.bias = nn.Parameter(torch.zeros(2))

    def _path(self, channels: int) -> Pathway:
        widths = (channels, *self.config.features)
        blocks = [
            Block(self.config, c_in, c_out, kernel=3, first=i == 0, dropout=0.0)
            for i, (c_in, c_out) in enumerate(zip(widths, widths[1:], strict=False))
        ]
        return Pathway(blocks, self.config.residual_layers)

    def forward(self, current: Tensor, low: Sequence[Tensor], prior: Tensor | None = None) -> Tensor:
        """Logits (B, 2, X−18, Y−18, Z−18), background first, of segments (B, 1, X, Y, Z).

        low: one (B, 1, ·, ·, ·) tensor per low-resolution factor, its edges :meth:`NetworkConfig.low_size`. prior: the
        earlier scan like ``current``; None stands for an absent one (zeros) and is the only choice without a prior.
        """
        self._check(current, low, prior)
        x = current
        if self.config.prior == "channel":
            x = torch.cat((current, torch.zeros_like(current) if prior is None else prior), 1)
        features = [self.current(x)]  # (B, C, X−18, Y−18, Z−18)
        out = features[0].shape[2:]
        if self.prior is not None and prior is None and not self.training:
            # zeros give the same features everywhere: compute one voxel of them, save nearly half of the work
            zero = current.new_zeros(1, 1, *[self.config.receptive_field] * 3)
            features.append(self.prior(zero).expand(len(current), -1, *out))
        elif self.prior is not None:
            features.append(self.prior(torch.zeros_like(current) if prior is None else prior))  # as the current scan's
        for factor, path, coarse in zip(self.config.low_factors, self.low, low, strict=True):
            features.append(_upsample(path(coarse), factor, out))  # (B, C, ⌈·/f⌉ ...) → (B, C, X−18, Y−18, Z−18)
        logits = self.fully_connected(torch.cat(features, 1))  # (B, paths·C, ...) → (B, 2, X−18, Y−18, Z−18)
        return logits + self.bias.view(1, 2, 1, 1, 1)

    def probabilities(self, current: Tensor, low: Sequence[Tensor], prior: Tensor | None = None) -> Tensor:
        """Softmax of :meth:`forward` in float32: (B, 2, X−18, Y−18, Z−18), background first, summing to 1."""
        return self(current, low, prior).float().softmax(1)

    def _check(self, current: Tensor, low: Sequence[Tensor], prior: Tensor | None) -> None:
        config = self.config
        if current.ndim != 5 or current.shape[1] != 1 or min(current.shape[2:]) < config.receptive_field:
            raise InputError(
                f"network: expected the current scan as (B, 1, X, Y, Z) of at least {config.receptive_field} voxels an edge; "
                f"got {tuple(current.shape)}; add batch and channel axes or pad the image"
            )
        if len(low) != len(config.low_factors):
            raise InputError(f"network: expected {len(config.low_factors)} low-resolution inputs; got {len(low)}")
        for factor, tensor in zip(config.low_factors, low, strict=True):
            wanted = [config.low_size(n - 2 * config.margin, factor) for n in current.shape[2:]]
            if list(tensor.shape) != [current.shape[0], 1, *wanted]:
                raise InputError(
                    f"network: expected a low-resolution input (factor {factor}) of shape "
                    f"{(current.shape[0], 1, *wanted)}; got {tuple(tensor.shape)}; take it from sampling.Sampler.batch"
                )
        if prior is not None and config.prior == "none":
            raise InputError(
                "network: expected no prior, as this network was built with prior='none'; got one; drop it"
            )
        if prior is not None and prior.shape != current.shape:
            raise InputError(
                f"network: expected a prior of the current scan's shape {tuple(current.shape)}; got {tuple(prior.shape)}"
            )


def _upsample(x: Tensor, factor: int, out: Sequence[int]) -> Tensor:
    """Repeat each voxel ``factor`` times along each axis and keep the first ``out`` voxels."""
    for axis in (2, 3, 4):
        x = x.repeat_interleave(factor, axis)
    return x[:, :, : out[0], : out[1], : out[2]]


def add_prior_path(network: DeepMedic) -> DeepMedic:
    """A DeepMedic+ that at first computes exactly what a trained DeepMedic does: a warm start for the prior path.

    The new path is a copy of the current scan's and the first 1³ layer's weights on its features start at 0. A residual
    connection among the 1³ layers would add the new features behind these weights' back, so it is refused.
    """
    if network.config.prior != "none" or network.config.residual_fully_connected:
        raise InputError(
            "add_prior_path: expected a network with prior='none' and residual_fully_connected=(); got "
            f"{network.config.prior!r} and {network.config.residual_fully_connected}; train the preset quick without prior first"
        )
    config = dataclasses.replace(network.config, prior="path")
    grown = DeepMedic(config)
    old, new = network.state_dict(), grown.state_dict()
    width = config.features[-1]
    for name, tensor in new.items():
        source = old[name.replace("prior.", "current.", 1) if name.startswith("prior.") else name]
        if source.shape == tensor.shape:
            new[name] = source.clone()
            continue
        # the first 1³ block: its input channels are the joined paths; insert the prior's after the current scan's
        axis = next(i for i, (a, b) in enumerate(zip(source.shape, tensor.shape, strict=True)) if a != b)
        first, rest = source.split([width, source.shape[axis] - width], axis)
        inserted = torch.zeros_like(first) if name.endswith("conv.weight") else first
        new[name] = torch.cat((first, inserted, rest), axis)
    grown.load_state_dict(new)
    return grown.train(network.training)


def add_prior_channel(network: DeepMedic) -> DeepMedic:
    """A DeepMedic with the prior as second input channel that at first computes what a trained DeepMedic does: the first
    layer's weights on the new channel start at 0."""
    if network.config.prior != "none":
        raise InputError(
            f"add_prior_channel: expected a network with prior='none'; got {network.config.prior!r}; train one without first"
        )
    grown = DeepMedic(dataclasses.replace(network.config, prior="channel"))
    state = dict(network.state_dict())
    for name in ("current.blocks.0.conv.weight", "current.blocks.0.shift"):
        axis = state[name].ndim - 4 if name.endswith("weight") else 0  # input channels
        state[name] = torch.cat((state[name], torch.zeros_like(state[name])), axis)
    grown.load_state_dict(state)
    return grown.train(network.training)


# ------------------------------------------------------------------------------------------- weights files
SHIPPED = ("sens", "spec")  #: names of the weights inside the package
#: Weights of single runs of the experiments (:mod:`dmplus.experiment`), for the notebooks' pictures; "trunk" starts them all.
EXPERIMENTS = ("trunk", "bce-s0", "jvss-0.995-s0", "jvss-0.5-fresh-path-s0", "jvss-0.5-fresh-channel-s0")


def save(path: str | Path, network: DeepMedic, *, info: dict[str, Any] | None = None) -> None:
    """Write weights and configuration as safetensors; ``info`` is a JSON object kept in the header (loss, alpha, ...)."""
    header = {"dmplus": json.dumps({"network": dataclasses.asdict(network.config), "info": info or {}})}
    tensors = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    with replacing(path) as part:
        safetensors.torch.save_file(tensors, part, metadata=header)


def load(source: str | Path, *, device: str = "cpu") -> DeepMedic:
    """The network of a weights file, or of a shipped one by name ("sens", "spec"), ready for inference.

    A checkpoint of the authors' program (its prefix or its ``.index``) will do, if it has the released configuration;
    for others there is :func:`dmplus.tf_checkpoint.load_network`. Raises ``InputError`` for a file that is missing, damaged
    or not ours, for weights that do not fit their configuration, and for weights that are not finite.
    """
    if str(source) not in (*SHIPPED, *EXPERIMENTS) and is_checkpoint(source):
        from dmplus import tf_checkpoint  # here, since it builds on this module

        return tf_checkpoint.load_network(source).to(device)
    path = weights_path(source)
    header = _header(path)
    network = build(from_dict(NetworkConfig, header["network"]))
    try:
        network.load_state_dict(safetensors.torch.load_file(path))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise InputError(
            f"{path.name}: expected the weights of its own configuration; they do not fit; the file is damaged"
        ) from error
    broken = not_finite(network)
    if broken:
        raise InputError(
            f"{path.name}: expected finite weights; got {broken} that are not; train again with a lower rate"
        )
    return network.to(device).eval()


def not_finite(network: DeepMedic) -> int:
    """How many numbers among the weights and the batch statistics are NaN or infinite."""
    return sum(int((~tensor.isfinite()).sum()) for tensor in network.state_dict().values())


def info(source: str | Path) -> dict[str, Any]:
    """What a weights file says of itself: {"network": configuration, "info": loss, alpha, training ...}."""
    if str(source) not in (*SHIPPED, *EXPERIMENTS) and is_checkpoint(source):
        from dmplus import tf_checkpoint

        config = tf_checkpoint.network_config(source)
        return {"network": dataclasses.asdict(config), "info": tf_checkpoint.describe(source, config)}
    return _header(weights_path(source))


def loss_in_words(about: Mapping[str, Any]) -> str:
    """The loss that the notes of a weights file (``info(name)["info"]``) tell of: "JVSS, alpha 0.5" or "BCE"."""
    loss, alpha = str(about["loss"]).upper(), about.get("alpha")
    return loss if alpha is None else f"{loss}, alpha {alpha:g}"


def card() -> dict[str, Any]:
    """Every number of the shipped weights: how they were made, and how they did on the test patients (``card.json``)."""
    return json.loads(weights_path("sens").with_name("card.json").read_text(encoding="utf-8"))


def weights_path(source: str | Path) -> Path:
    """Path of a weights file given as a path or as the name of a shipped one."""
    folder = Path(str(resources.files("dmplus") / "weights"))
    if str(source) in SHIPPED:
        return folder / f"{source}.safetensors"
    return folder / "experiments" / f"{source}.safetensors" if str(source) in EXPERIMENTS else Path(source)


def weights_files(source: str | Path) -> list[Path]:
    """Every file that ``source`` names: one, or the index and the shards of a TensorFlow checkpoint."""
    if str(source) not in (*SHIPPED, *EXPERIMENTS) and is_checkpoint(source):
        return checkpoint_files(source)
    return [weights_path(source)]


def _header(path: Path) -> dict[str, Any]:
    wanted = (
        f"expected weights saved by dmplus (.safetensors), one of {', '.join(SHIPPED)} or a TensorFlow checkpoint "
        "(.index)"
    )
    if not path.is_file():
        came = "a folder" if path.is_dir() else "no such file"
        raise InputError(f"{named(path)}: {wanted}; got {came}; check the path")
    try:
        with safetensors.safe_open(path, "pt") as f:
            metadata = f.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(
            f"{path.name}: {wanted}; this is not a readable safetensors file; train or download it again"
        ) from error
    if "dmplus" not in metadata:
        raise InputError(
            f"{path.name}: {wanted}; this safetensors file was written by another program; use weights from dmplus train"
        )
    return json.loads(metadata["dmplus"])
