"""Optimizer, schedule, checkpoints: from cases to weights, resumable to the same weights at any moment.

A run's folder holds ``config.json``, ``versions.json`` (where these changed on the way, also the earlier ones),
``history.csv``, ``checkpoint.safetensors`` (parameters, batch statistics, optimizer state, step), and at the end
``weights.safetensors`` and ``result.json``. Randomness depends on (seed, step, index), so a run that was stopped and started
again takes the same steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import runpy
import shutil
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dmplus import losses
from dmplus.inference import predict_volume
from dmplus.metrics import match_lesions
from dmplus.network import (
    DeepMedic,
    NetworkConfig,
    add_prior_channel,
    add_prior_path,
    build,
    not_finite,
    preset,
    save,
)
from dmplus.runtime import (
    InputError,
    Machine,
    Progress,
    ahead,
    from_dict,
    replacing,
    require,
    settle,
    versions,
    writable_folder,
    write_json,
)
from dmplus.runtime import machine as choose_machine
from dmplus.sampling import Sampler, SamplingConfig, Segments, Volumes
from dmplus.volume import Case

#: loss name → (detection loss, segmentation loss)
LOSSES: dict[str, tuple[str | None, str | None]] = {
    "bce": (None, "bce"),
    "dice": (None, "dice"),
    "iou": (None, "iou"),
    "vss": ("vss", None),
    "sse": ("sse", None),
    "jvss": ("vss", "bce"),
    "jvss_dice": ("vss", "dice"),
    "sse_bce": ("sse", "bce"),
}


OWN: dict[str, Callable[..., Tensor]] = {}  #: losses from other people's files, by name (:func:`add_loss`)


def add_loss(path: str | Path) -> tuple[str, tuple[float, ...]]:
    """Make a loss from a Python file known to trainings; returns its name, which is the file's, and its alphas.

    The file defines ``loss(prob, target, *, alpha)``: foreground probability and target, both (B, X, Y, Z) float → a
    scalar; and, if it likes, ``ALPHAS``, a tuple of numbers from 0 to 1. It is run as it stands: use your own files. The
    function is tried on a batch with a lesion and on one without. Raises ``InputError`` for a name that is taken or cannot
    be one, a file that does not run or defines no loss, and a loss that is no finite scalar with finite slopes.
    """
    path = Path(path)
    where, name = f"loss {path.name}", path.stem
    if not path.is_file() or path.suffix != ".py" or not name.isidentifier() or (name in LOSSES and name not in OWN):
        raise InputError(
            f"{where}: expected a Python file with a name of letters, digits and _ that is not {', '.join(LOSSES)}; got "
            f"{'that name' if path.is_file() else 'no such file'}; rename it or check the path"
        )

    @contextlib.contextmanager
    def running() -> Iterator[None]:
        try:
            yield
        except Exception as error:  # somebody's own program: anything can come
            lines = [f", line {f.lineno}" for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
            raise InputError(
                f"{where}: expected a file that runs and a function loss(prob, target, *, alpha); got {type(error).__name__}: "
                f"{error}{lines[-1] if lines else ''}; correct it"
            ) from error

    with running():
        content = runpy.run_path(str(path))
        function, alphas = content.get("loss"), tuple(content.get("ALPHAS", (0.95, 0.8, 0.5, 0.2, 0.05)))
        in_range = bool(alphas) and all(0 <= a <= 1 for a in alphas)
    if not callable(function) or not in_range:
        raise InputError(
            f"{where}: expected a function `loss` and ALPHAS from 0 to 1; got neither or no such; add them"
        )
    for lesion in (1.0, 0.0):
        target = torch.zeros(2, 3, 3, 3)
        target[0, 1, 1, 1] = lesion
        prob = torch.linspace(0.1, 0.9, 54).view(2, 3, 3, 3).requires_grad_()
        with running():
            value = function(prob, target, alpha=alphas[0])
            slopes = torch.autograd.grad(value, prob, allow_unused=True)[0] if _is_scalar(value) else None
        if slopes is None or not bool(value.isfinite() and slopes.isfinite().all()):
            raise InputError(
                f"{where}: expected a finite scalar with finite slopes for a batch {'with' if lesion else 'without'} a "
                f"lesion; got {value!r}; avoid logarithms of 0 and divisions by empty classes"
            )
    OWN[name], LOSSES[name] = function, (name, None)
    return name, alphas


def _is_scalar(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0 and value.requires_grad


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training. The defaults are the paper's (II.E.2); halving points are the release's.

    Raises ``InputError`` for an unknown loss, form, optimizer or schedule, and for numbers no training can be run with.
    """

    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    sampling: SamplingConfig = dataclasses.field(default_factory=SamplingConfig)
    loss: str = "jvss"  #: a key of LOSSES
    alpha: float = 0.995  #: large: sensitivity (VSS and SSE)
    weight_detection: float = 1.0  #: factor of VSS or SSE
    weight_segmentation: float = 1.0  #: factor of BCE, Dice or IOU
    form: str = "paper"  #: "paper" or "released" (see dmplus.losses)
    optimizer: str = "rmsprop"  #: "rmsprop" (with Nesterov momentum, as released) or "adamw"
    learning_rate: float = 1e-3
    #: AdamW remembers squared gradients over 1 / (1 - beta2) steps: a short memory (0.95) bounds what one large gradient
    #: does after many small ones, as VSS has them once nearly everything is found
    beta2: float = 0.999
    schedule: str = "halving"  #: "halving" at the epochs below, "cosine" to 0, or "constant"
    halve_after: tuple[int, ...] = (
        17,
        22,
        27,
        32,
        37,
        47,
        52,
        57,
    )  #: epochs (from 0) after which the rate is halved
    warmup: int = 0  #: steps over which the rate rises linearly from 0
    l1: float = 1e-6  #: weight of Σ|W| over convolution kernels
    l2: float = 1e-4  #: weight of ΣW² over convolution kernels
    steps: int = 120_000  #: 60 epochs × 20 subepochs × 1000 segments / batches of 10
    steps_per_epoch: int = 2000
    batch: int = 10
    seed: int = 0
    validate_every: int = 2000  #: steps between whole-volume validations (0: only at the end)
    checkpoint_every: int = 100  #: steps

    def __post_init__(self) -> None:
        settle(self)
        for name, allowed in (
            ("loss", tuple(LOSSES)),
            ("form", ("paper", "released")),
            ("optimizer", ("rmsprop", "adamw")),
            ("schedule", ("halving", "cosine", "constant")),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"TrainConfig: expected {name} {', '.join(allowed)}; got {getattr(self, name)!r}; choose one of those"
                )
        least = dict.fromkeys(("steps", "batch", "steps_per_epoch", "checkpoint_every"), 1)
        least |= dict.fromkeys(("warmup", "validate_every", "seed"), 0)
        least |= dict.fromkeys(("l1", "l2", "weight_detection", "weight_segmentation"), 0)
        for name, bound in least.items():
            if not bound <= getattr(self, name) < math.inf:  # NaN fails as well
                raise InputError(
                    f"TrainConfig: expected a finite {name} of at least {bound}; got {getattr(self, name)}; correct it or "
                    f"leave it out: the paper's is {getattr(type(self), name):g}"
                )
        for name in ("steps", "batch", "steps_per_epoch", "checkpoint_every", "warmup", "validate_every", "seed"):
            require(self, name, "a whole number", isinstance(getattr(self, name), int))
        if not 0 < self.learning_rate < math.inf:
            raise InputError(
                f"TrainConfig: expected a finite learning_rate above 0; got {self.learning_rate}; correct it or leave it "
                f"out: the paper's is {type(self).learning_rate:g}"
            )
        if not 0 <= self.beta2 < 1:
            raise InputError(
                f"TrainConfig: expected beta2 of at least 0 and below 1; got {self.beta2}; correct it or leave it out"
            )
        if not 0 <= self.alpha <= 1:
            raise InputError(
                f"TrainConfig: expected alpha between 0 and 1; got {self.alpha}; large alpha favours sensitivity"
            )

    def rate(self, step: int) -> float:
        """Learning rate of training step ``step`` (counted from 0)."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.schedule == "cosine":
            return rise * self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))
        if self.schedule == "halving":
            return rise * self.learning_rate * 0.5 ** sum(step // self.steps_per_epoch > e for e in self.halve_after)
        return rise * self.learning_rate

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TrainConfig:
        """From a JSON object as in a run's config.json; unknown keys are errors."""
        content = dict(content)
        for name, kind in (("network", NetworkConfig), ("sampling", SamplingConfig)):
            if name in content:
                content[name] = from_dict(kind, content[name])
        return from_dict(cls, content)


def quick_config(prior: str = "path", **changes: Any) -> TrainConfig:
    """The ``quick`` recipe: 16 channels, AdamW with a cosine, every lesion alike; some thousand segments on two cores."""
    start = TrainConfig(
        network=preset("quick", prior=prior),
        sampling=SamplingConfig(centre="lesion"),
        optimizer="adamw",
        schedule="cosine",
        learning_rate=2e-3,
        warmup=50,
        steps=1500,
        l1=0.0,
        l2=0.0,
        validate_every=500,
    )
    return dataclasses.replace(start, **changes)


# ------------------------------------------------------------------------------------------- the step
class RMSPropNesterov(torch.optim.Optimizer):
    """The released optimizer: RMSProp with the epsilon inside the root and Nesterov momentum on the scaled step.

    a ← ρa + (1−ρ)g² ; step = lr·g/√(a + ε) ; v ← m·v − step ; p ← p + m·v − step, with the new v; a and v start at 0
    (Huang et al. 2022, II.E.2: ρ = 0.9, ε = 1e-4, m = 0.6). torch.optim.RMSprop differs: ε outside the root, the rate
    applied after the momentum, no Nesterov.
    """

    def __init__(self, params: Any, lr: float, *, rho: float = 0.9, eps: float = 1e-4, momentum: float = 0.6) -> None:
        super().__init__(params, {"lr": lr, "rho": rho, "eps": eps, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p] = {"a": torch.zeros_like(p), "v": torch.zeros_like(p)}
            grads = [p.grad for p in params]
            a, v = ([self.state[p][k] for p in params] for k in "av")
            torch._foreach_mul_(a, group["rho"])
            torch._foreach_addcmul_(a, grads, grads, 1 - group["rho"])
            root = torch._foreach_add(a, group["eps"])
            torch._foreach_sqrt_(root)
            scaled = torch._foreach_div(grads, root)
            torch._foreach_mul_(scaled, group["lr"])
            torch._foreach_mul_(v, group["momentum"])
            torch._foreach_sub_(v, scaled)
            torch._foreach_add_(params, v, alpha=group["momentum"])
            torch._foreach_sub_(params, scaled)


def kernels(network: DeepMedic) -> list[Tensor]:
    """The convolution kernels, the only parameters that L1 and L2 act on (of a unet, without its residual convolutions)."""
    return [p for name, p in network.named_parameters() if name.endswith("conv.weight")]


def make_optimizer(network: DeepMedic, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of a configuration over all parameters of the network."""
    if config.optimizer == "adamw":
        fused = next(network.parameters()).is_cuda  # one kernel for all parameters
        how = {"lr": config.learning_rate, "betas": (0.9, config.beta2), "weight_decay": 0.0, "fused": fused}
        return torch.optim.AdamW(network.parameters(), **how)
    return RMSPropNesterov(network.parameters(), lr=config.learning_rate)


def cost(logits: Tensor, target: Tensor, config: TrainConfig) -> dict[str, Tensor]:
    """The parts of the loss and their weighted sum ``"loss"``; log-odds and target of the foreground, both (B, X, Y, Z)."""
    detection, segmentation = LOSSES[config.loss]
    prob = logits.sigmoid()
    parts: dict[str, Tensor] = {}
    total = prob.new_zeros(())
    if detection in OWN:
        parts[detection] = OWN[detection](prob, target, alpha=config.alpha)
    elif detection:
        function = losses.vss if detection == "vss" else losses.sse
        parts[detection] = function(prob, target, alpha=config.alpha, form=config.form)
    if detection:
        total = total + config.weight_detection * parts[detection]
    if segmentation:
        # from a probability BCE loses its slope where that rounds to 1
        exact = segmentation == "bce" and config.form == "paper"
        loss = losses.bce_of_logits(logits, target) if exact else getattr(losses, segmentation)(prob, target, form=config.form)
        parts[segmentation] = loss
        total = total + config.weight_segmentation * parts[segmentation]
    return parts | {"loss": total}


Forward = Callable[[Tensor, Sequence[Tensor], Tensor | None], Tensor]


def training_step(
    network: DeepMedic,
    optimizer: torch.optim.Optimizer,
    segments: Segments,
    config: TrainConfig,
    *,
    forward: Forward | None = None,
    machine: Machine | None = None,
    replayed: Replayed | None = None,
) -> dict[str, Tensor]:
    """One update of ``network`` (in training mode) on one batch; returns the parts of the loss before the update, and as
    ``"gradient"`` the length of its gradient (a jump shows a training going astray before its loss does): scalars on the
    network's device (reading one waits for the step).

    forward: the compiled network, or None for the plain one. replayed: the step of a GPU, recorded once.
    The part ``"loss"`` is NaN where logits are not finite.
    """
    if replayed is not None:
        parts = replayed(segments)
    else:
        parts = _gradients(network, segments, config, forward, machine or Machine("cpu", "float32", ""))
    optimizer.step()
    return parts


def _gradients(
    network: DeepMedic, segments: Segments, config: TrainConfig, forward: Forward | None, machine: Machine
) -> dict[str, Tensor]:
    """The parts of the loss of one batch, whose gradients the parameters hold afterwards."""
    with machine.autocast():
        both = (forward or network)(segments.current, segments.low, segments.prior).float()  # (B, 2, X, Y, Z)
    # torch's own losses answer NaN with a traceback, on a GPU with the end of the process: so they never see one
    finite = both.detach().isfinite().all()
    parts = cost((both[:, 1] - both[:, 0]).nan_to_num(0.0), segments.target, config)
    total = parts["loss"]
    if config.l1 or config.l2:
        w = kernels(network)
        parts["l1"], parts["l2"] = sum(k.abs().sum() for k in w), sum((k * k).sum() for k in w)
        total = total + config.l1 * parts["l1"] + config.l2 * parts["l2"]
    network.zero_grad(set_to_none=True)
    total.backward()
    parts = {k: v.detach() for k, v in parts.items()}
    parts["gradient"] = torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
    return parts | {"loss": torch.where(finite, parts["loss"], torch.nan)}


class Replayed:
    """The gradients of a batch on a CUDA device, recorded once as a graph and replayed: a step's thousand kernels are launched
    together, where one by one the launching takes longer than they do."""

    def __init__(self, network: DeepMedic, example: Segments, config: TrainConfig, machine: Machine) -> None:
        """example: a batch on the device, whose memory every later batch of its shape is copied to."""
        self.inputs = example
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):  # libraries choose their algorithms, and allocate what they keep
                _gradients(network, example, config, None, machine)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch says at each call that this mode is a prototype
                try:  # a step that waits for a value cannot be recorded, and a failed recording leaves the device's random
                    torch.cuda.set_sync_debug_mode("error")  # numbers unusable
                    _gradients(network, example, config, None, machine)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
        torch.cuda.current_stream().wait_stream(beside)
        network.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            parts = _gradients(network, example, config, None, machine)
            self.names, self.values = list(parts), torch.stack(list(parts.values()))

    def __call__(self, segments: Segments) -> dict[str, Tensor]:
        for held, new in zip(self.inputs.tensors(), segments.tensors(), strict=True):
            held.copy_(new)
        self.graph.replay()
        return dict(zip(self.names, self.values.clone().unbind(), strict=True))


# ------------------------------------------------------------------------------------------- the run
def train(
    config: TrainConfig,
    training: Sequence[Case] | Volumes,
    validation: Sequence[Case],
    folder: str | Path,
    *,
    init: DeepMedic | None = None,
    machine: Machine | None = None,
    compile: bool | None = None,
    progress: bool = True,
    stop_after: int | None = None,
) -> DeepMedic:
    """Train a network and return it in inference mode; everything about the run lies in ``folder``.

    training, validation: cases with labels (raw intensities; they are normalised here); validation may be empty. Several
    trainings on the same cases may share what :func:`prepared` makes of them. A folder with a checkpoint of the same
    configuration is resumed; one of another configuration is refused.
    init: a network whose weights start the run, for fine-tuning: of the same configuration, or without prior where the
    configuration has one (:func:`dmplus.network.add_prior_path`, :func:`dmplus.network.add_prior_channel`).
    compile: torch.compile the step (None: when a compiler is there and the run is long enough to earn it back). Not on a
    GPU, where a step is recorded instead.
    stop_after: stop (with a checkpoint) once so many steps are done in all: for tests and for sharing a machine.
    Raises ``InputError`` for a folder or ``init`` that cannot be used, ``FloatingPointError`` when logits, loss,
    weights or batch statistics are no longer finite: such a state is never written.
    """
    folder = run_folder(folder)
    machine = machine or choose_machine()
    network = _start(config, init).to(machine.device, memory_format=torch.channels_last_3d)
    optimizer = make_optimizer(network, config)
    done, history = _resume(folder, config, network, optimizer)
    volumes = training if isinstance(training, Volumes) else prepared(training, machine)
    _check_cases(folder, volumes.cases, validation)
    folder.mkdir(parents=True, exist_ok=True)
    if done == 0:
        write_json(folder / "config.json", config)
    last = config.steps if stop_after is None else min(stop_after, config.steps)
    if done < last:
        _note_versions(folder, machine, done)
    sampler = Sampler(volumes, config.network, config.sampling, seed=config.seed)
    held_out = [c.normalised() for c in validation]
    if progress:
        n = sampler.lesion_counts()
        print(
            f"segments of {config.sampling.segment}³: {(n > 0).mean():.0%} hold a lesion, {(n > 1).mean():.1%} two or more, "
            "which VSS counts as one",
            flush=True,
        )
    network.train()
    example = sampler.batch(0, config.batch).to(machine.device)
    # by the length of the whole run, not of what is left: resumed, it must go on with the same arithmetic
    forward = _compiled(network, example, machine, config.steps if done < config.steps else 0, compile, progress)
    replayed = None if machine.device == "cpu" else _recorded(network, example, config, machine)
    report = Progress(config.steps, "training", done=done, every=10 if progress else math.inf)
    seen: list[dict[str, float]] = []
    unread: list[dict[str, Tensor]] = []  # of steps that a GPU may not have finished
    begun, before = time.monotonic(), history[-1]["seconds"] if history else 0.0
    for step in range(done, last):
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step)
        torch.manual_seed(int(np.random.SeedSequence([config.seed, step]).generate_state(1)[0]))  # dropout
        segments = sampler.batch(step, config.batch).to(machine.device)
        try:
            parts = training_step(
                network, optimizer, segments, config, forward=forward, machine=machine, replayed=replayed
            )
        except torch._dynamo.exc.TorchDynamoException:  # a compiler that gives up on the real batch
            forward = None
            parts = training_step(network, optimizer, segments, config, machine=machine)
        unread.append(parts)
        n = step + 1
        due = n == config.steps or (config.validate_every and n % config.validate_every == 0)
        stored = due or n % config.checkpoint_every == 0 or n == last
        if stored or machine.device == "cpu" or len(unread) == 20:
            seen += _read(unread, n, folder.name)
            unread = []
            report.step(n - report.done, note=f"loss {np.mean([p['loss'] for p in seen[-20:]]):.4f}")
        if stored:
            broken = not_finite(network)  # the loss may not show it: it is that before the update
            if broken:
                raise FloatingPointError(
                    f"{broken} weights are not finite after step {step}; lower the learning rate of {folder.name}"
                )
            row = {"step": n, "segments": n * config.batch, "seconds": round(before + time.monotonic() - begun, 1)}
            row |= {"rate": config.rate(step)} | {k: float(np.mean([p[k] for p in seen])) for k in seen[0]}
            if due and held_out:
                row |= validate(network, held_out, machine=machine)
                network.train()
                if progress:
                    print(
                        f"step {n}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items() if k.startswith("val_")),
                        flush=True,
                    )
            history.append(row)
            seen = []
            _checkpoint(folder, config, network, optimizer, n, history, _mark(volumes.cases))
    network.eval()
    if last == config.steps and not (done == last and (folder / "result.json").is_file()):  # which says who finished it
        _finish(folder, config, network, history, machine)
    return network


def _check_cases(folder: Path, training: Sequence[Case], validation: Sequence[Case]) -> None:
    """Raise ``InputError`` for validation cases without label or of a patient that is trained on, and for a run that was begun
    on other training cases."""
    for case in validation:
        if case.label is None:
            raise InputError(
                f"train: expected a label for every validation case; {case.name} has none; add or drop it"
            )
    both = {c.patient for c in training if c.patient} & {c.patient for c in validation}
    if both:
        raise InputError(
            f"train: expected patients of validation who are not trained on; got {min(both)} in both; split by patient"
        )
    path = folder / "checkpoint.safetensors"
    if path.exists():
        with safetensors.safe_open(path, "pt") as f:
            begun = f.metadata().get("cases", _mark(training))  # older ones do not say
        if begun != _mark(training):
            raise InputError(
                f"{folder.name}: expected the training cases that this run was begun on; got others; choose another folder or "
                "remove this one"
            )


def _mark(cases: Sequence[Case]) -> str:
    """What a run's cases are known by: a checksum of their names and grids, in their order."""
    return str(zlib.crc32(repr([(c.name, c.shape) for c in cases]).encode()))


def prepared(cases: Iterable[Case], machine: Machine) -> Volumes:
    """Raw cases as trainings take them: normalised, without what surrounds the brain, and on a GPU all in its memory."""
    ready = ahead(lambda case: case.normalised().trimmed(), cases)
    return Volumes(ready, device=None if machine.device == "cpu" else machine.device)


def _read(steps: list[dict[str, Tensor]], done: int, name: str) -> list[dict[str, float]]:
    """The parts of the loss of the last steps as numbers. Raises ``FloatingPointError`` for a loss that is not finite."""
    table = torch.stack([torch.stack(list(parts.values())) for parts in steps]).tolist()
    found = [dict(zip(parts, row, strict=True)) for parts, row in zip(steps, table, strict=True)]
    for step, parts in enumerate(found, done - len(steps)):
        if not math.isfinite(parts["loss"]):
            raise FloatingPointError(
                f"the loss of step {step} is not finite (or the logits before it are not); lower the learning rate of "
                f"{name}"
            )
    return found


def run_folder(path: str | Path) -> Path:
    """The folder of a run, absolute, if it is new, empty or that of an earlier run, and can be written."""
    return writable_folder(path, own="config.json")


def validate(network: DeepMedic, cases: Sequence[Case], *, machine: Machine | None = None) -> dict[str, float]:
    """Lesion-wise figures at threshold 0.5 over normalised cases with labels, and the mean BCE inside the brain.

    That BCE is of the map, in float32: a voxel that is wrong by more than it can hold (a probability of 1 outside a lesion)
    counts 100, not its log-odds.
    """
    counts, entropy = None, []
    for case in cases:
        prob = predict_volume(network, case.image, prior=case.prior, mask=case.mask, machine=machine)
        found = match_lesions(case.label.astype(bool), prob >= 0.5, spacing=case.spacing)
        counts = found if counts is None else counts + found
        p, y = (torch.from_numpy(a[case.mask].astype(np.float32)) for a in (prob, case.label))
        entropy.append(float(torch.nn.functional.binary_cross_entropy(p, y)))
    assert counts is not None
    return {
        "val_bce": float(np.mean(entropy)),
        "val_sensitivity": counts.sensitivity,
        "val_precision": counts.precision,
        "val_fp_per_volume": counts.fp / len(cases),
        "val_mdsc": counts.mdsc,
    }


def _start(config: TrainConfig, init: DeepMedic | None) -> DeepMedic:
    torch.manual_seed(config.seed)
    network = build(config.network)
    if init is not None:
        if init.config.prior == "none" and config.network.prior != "none":
            init = add_prior_path(init) if config.network.prior == "path" else add_prior_channel(init)
        if init.config != config.network:
            wanted, came = (dataclasses.asdict(c) for c in (config.network, init.config))
            differing = [name for name in wanted if wanted[name] != came[name]]
            raise InputError(
                f"train: expected init weights of a network with {_listed(wanted, differing)}; got one with "
                f"{_listed(came, differing)}; train them with the same preset (prior='none' may grow into 'path' or 'channel')"
            )
        network.load_state_dict(init.state_dict())
    return network


def _listed(values: dict[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name}={values[name]!r}" for name in names)


def has_compiler() -> bool:
    """Whether torch.compile finds what it needs on this processor."""
    return shutil.which("g++") is not None


_FAST: dict[tuple[NetworkConfig, Machine], DeepMedic] = {}


def fast(network: DeepMedic, machine: Machine, compile: bool | None = None) -> DeepMedic:
    """The same weights, for prediction, in a network that is compiled once for all of one configuration.

    What comes back holds these weights until the next call for its configuration. compile: None where a compiler is there;
    False gives the network itself. Pays from some ten volumes on: compiling takes a quarter of a minute. On a GPU, where
    brains of other sizes would be compiled anew, the network itself.
    """
    if machine.device != "cpu" or compile is False or (compile is None and not has_compiler()):
        return network
    key = (network.config, machine)
    if key not in _FAST:
        like = build(network.config).to(machine.device, memory_format=torch.channels_last_3d)
        for module in like.modules():
            if isinstance(module, torch.nn.Conv3d):  # else the compiler loses the layout when autocast casts them:
                module.to(machine.dtype)  # twice the time on a CPU
        like.probabilities = torch.compile(like.probabilities, dynamic=False)  # type: ignore[method-assign]
        _FAST[key] = like
    _FAST[key].load_state_dict(network.state_dict())
    return _FAST[key].eval()


def _compiled(
    network: DeepMedic, example: Segments, machine: Machine, steps: int, wanted: bool | None, progress: bool
) -> Forward | None:
    """The network compiled, or None where that does not pay, is not possible, or was not wanted.

    Never on a GPU: on an H200 (torch 2.11) a step both compiled and recorded was faster, but its training was not the plain
    step's: on one batch repeated the loss hardly fell; nor were its gradients with ``comprehensive_padding`` off.
    """
    if machine.device != "cpu":
        if wanted:
            print("not compiled: on a GPU the plain step is recorded", flush=True)
        return None
    if wanted is False or (wanted is None and (steps < 400 or not has_compiler())):
        return None
    if progress:
        print("compiling the training step (about a minute) ...", flush=True)
    keep = {k: v.clone() for k, v in network.state_dict().items()}  # the trial below must not leave batch statistics
    forward = torch.compile(network.forward, dynamic=False)
    network.train()
    try:
        with warnings.catch_warnings(), machine.autocast():
            warnings.simplefilter("ignore")  # the compiler's own deprecation warnings
            forward(example.current, example.low, example.prior).sum().backward()
    except Exception as error:  # any failure of the compiler has the same cure, and is reported
        print(f"not compiled ({type(error).__name__}): training goes on without, somewhat slower", flush=True)
        forward = None
    network.load_state_dict(keep)
    network.zero_grad(set_to_none=True)
    return forward


def _recorded(network: DeepMedic, example: Segments, config: TrainConfig, machine: Machine) -> Replayed | None:
    """A step recorded for its replay, or None where it cannot be: a loss of one's own may look at values."""
    keep = {k: v.clone() for k, v in network.state_dict().items()}  # the trials must not leave batch statistics
    torch.backends.cudnn.benchmark = True  # all batches are of one shape: the algorithms are worth a trial
    try:
        return Replayed(network, example, config, machine)
    except RuntimeError as error:
        print(f"not recorded as a graph ({str(error).splitlines()[0]}): training goes on without, slower", flush=True)
        network.zero_grad(set_to_none=True)
        return None
    finally:
        torch.backends.cudnn.benchmark = False
        network.load_state_dict(keep)


# ------------------------------------------------------------------------------------------- checkpoints
def _checkpoint(
    folder: Path,
    config: TrainConfig,
    network: DeepMedic,
    optimizer: torch.optim.Optimizer,
    step: int,
    history: list[dict[str, Any]],
    cases: str,
) -> None:
    tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
    for name, p in network.named_parameters():
        tensors |= {f"optimizer.{name}.{k}": torch.as_tensor(v) for k, v in optimizer.state[p].items()}
    header = {"step": str(step), "config": json.dumps(dataclasses.asdict(config)), "history": json.dumps(history),
              "cases": cases}  # fmt: skip
    with replacing(folder / "checkpoint.safetensors") as part:
        safetensors.torch.save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part, metadata=header
        )
    with replacing(folder / "history.csv") as part:
        pd.DataFrame(history).to_csv(part, index=False)


def _note_versions(folder: Path, machine: Machine, done: int) -> None:
    """``versions.json``: with what the run goes on; where that has changed on the way, ``earlier`` lists what it was before."""
    path = folder / "versions.json"
    now = versions() | {"device": machine.device, "precision": machine.precision, "why": machine.why}
    if done and path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        earlier = before.pop("earlier", [])
        if {k: v for k, v in before.items() if k != "why"} != {k: v for k, v in now.items() if k != "why"}:
            earlier.append({"until_step": done} | before)
        now |= {"earlier": earlier} if earlier else {}
    write_json(path, now)


def _resume(
    folder: Path, config: TrainConfig, network: DeepMedic, optimizer: torch.optim.Optimizer
) -> tuple[int, list[dict[str, Any]]]:
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0, []
    try:
        with safetensors.safe_open(path, "pt") as f:
            header = f.metadata()
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(
            f"{path.name}: expected a checkpoint of dmplus train; it cannot be read; delete the run's folder"
        ) from error
    if TrainConfig.from_json(json.loads(header["config"])) != config:
        raise InputError(
            f"{folder.name}: expected a run of the same configuration to resume; its config.json differs; "
            "choose another folder or remove this one"
        )
    network.load_state_dict({k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")})
    for name, p in network.named_parameters():
        prefix = f"optimizer.{name}."
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        optimizer.state[p] = {k: _beside(v, p, fused=bool(optimizer.defaults.get("fused"))) for k, v in state.items()}
    return int(header["step"]), json.loads(header["history"])


def _beside(stored: Tensor, parameter: Tensor, *, fused: bool) -> Tensor:
    """A stored part of the optimizer's state as the optimizer keeps it: on the parameter's device and laid out like it. A
    step count lies there only if one kernel updates all parameters."""
    if stored.shape != parameter.shape:
        return stored.to(parameter.device) if fused else stored
    return torch.empty_like(parameter, requires_grad=False).copy_(stored)


def _finish(
    folder: Path, config: TrainConfig, network: DeepMedic, history: list[dict[str, Any]], machine: Machine
) -> None:
    info = {
        "loss": config.loss,
        "alpha": config.alpha if LOSSES[config.loss][0] else None,
        "weight_detection": config.weight_detection,
        "weight_segmentation": config.weight_segmentation,
        "form": config.form,
        "segments": config.steps * config.batch,
        "seed": config.seed,
    }
    save(folder / "weights.safetensors", network, info=info)
    write_json(
        folder / "result.json",
        {"step": config.steps, "device": machine.device, "precision": machine.precision} | history[-1],
    )
