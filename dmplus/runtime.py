"""What this machine can do, and how dmplus reports errors, keys randomness and writes files.

The one place that decides device and precision (:func:`machine`), cures the C library's allocator
(:func:`cure_allocator`), derives random streams from (seed, names, indices) (:func:`rng`) and makes sure that
nothing is ever half written (:func:`replacing`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

S, T = TypeVar("S"), TypeVar("T")


class InputError(ValueError):
    """Input that cannot be used. The message says what was expected, what came and what to do (one line)."""


# --------------------------------------------------------------------------------------------- files
def named(path: str | Path) -> str:
    """How a message calls a file or folder: by its name alone; ``.`` and ``/`` have none and stay as they are."""
    return Path(path).name or str(path)


def output_path(path: str | Path, *, links: bool = True) -> Path:
    """``path`` made absolute. Raises ``InputError`` where no folder can be: at a file, at a link without ``links``."""
    absolute = Path(os.path.abspath(path))  # questions by os.path: pathlib raises for a name that is too long
    if (os.path.islink(absolute) and not links) or (os.path.lexists(absolute) and not os.path.isdir(absolute)):
        raise InputError(f"output {named(path)}: expected a folder's name; got a file or a link; choose another")
    return absolute


def make_folder(path: Path, *, name: str) -> list[Path]:
    """Make ``path`` and what is missing above it, and try to write there; returns the folders made, innermost first.

    Raises ``InputError`` (about ``name``) where that is not possible, and then leaves nothing behind. It does try: root
    is told that it may write anywhere, and cannot in /proc.
    """
    made = [p for p in (path, *path.parents) if not os.path.lexists(p)]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path, prefix=".part-"):
            pass
    except OSError as error:
        remove_folders(made)
        raise InputError(
            f"output {name}: expected a place that can be written; got: {error.strerror}; choose another"
        ) from None
    return made


def remove_folders(folders: list[Path]) -> None:
    """Remove those of ``folders`` that are empty, in their order."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def writable_folder(path: str | Path, *, own: str | None = None) -> Path:
    """``path`` made absolute, if a command can write there: to be asked before anything slow; nothing is left behind.

    Raises ``InputError`` for a file, a place that cannot be written and, with ``own``, for a folder that holds something
    but not this file, by which a command knows the folder as its own: results must not mix with other people's files.
    """
    absolute, name = output_path(path), named(path)
    held = min((p.name for p in absolute.iterdir()), default=None) if os.path.isdir(absolute) else None
    if own and held and not (absolute / own).is_file():
        raise InputError(
            f"output {name}: expected a new or empty folder, or one to go on with; got one without {own} that holds "
            f"{held}; choose another"
        )
    remove_folders(make_folder(absolute, name=name))
    return absolute


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it becomes ``path``, on failure it is removed.

    The temporary name keeps the suffixes (``.nii.gz``), which many writers use to choose the format.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        yield part
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(part, 0o666 & ~mask)  # some writers make files that only their owner can read
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all. NaN becomes ``null``."""
    with replacing(path) as part:
        part.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Path):
        return value.name
    return value


def from_dict(kind: type[T], content: dict[str, Any]) -> T:
    """Build the frozen configuration ``kind`` from a JSON object; unknown keys are errors, lists become tuples."""
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(content) - known)
    if unknown:
        raise InputError(
            f"{kind.__name__}: expected only the keys {', '.join(sorted(known))}; got {', '.join(unknown)}; "
            "remove or correct them"
        )
    return kind(**{k: _tuples(v) for k, v in content.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def settle(config: Any) -> None:
    """Of a frozen configuration, in its ``__post_init__``: lists become tuples, so that it equals what its JSON gives back."""
    for field in dataclasses.fields(config):
        object.__setattr__(config, field.name, _tuples(getattr(config, field.name)))


def require(config: Any, name: str, expected: str, ok: bool) -> None:
    """Raise ``InputError`` unless ``ok``: the configuration's field ``name`` is not what is ``expected``."""
    if not ok:
        raise InputError(
            f"{type(config).__name__}: expected {name} to be {expected}; got {getattr(config, name)!r}; correct it or leave it "
            "out"
        )


# ---------------------------------------------------------------------------------------- randomness
def rng(seed: int, *key: str | int) -> np.random.Generator:
    """A random generator that depends on ``seed`` and ``key`` alone, for example ``rng(seed, "segment", step, i)``.

    Nothing is carried from call to call, so resumed runs draw the same numbers and no two keys of one length share a stream (a
    trailing 0 does not count, so give one name one number of indices).
    """
    words = [int(seed)] + [zlib.crc32(k.encode()) if isinstance(k, str) else int(k) for k in key]
    return np.random.default_rng(np.random.SeedSequence(words))


# -------------------------------------------------------------------------------- device and precision
@dataclasses.dataclass(frozen=True)
class Machine:
    """Where and how tensors are computed: the answer of :func:`machine`."""

    device: str  #: "cpu" or "cuda"
    precision: str  #: "float32" or "bfloat16" (the convolutions; sums and probabilities stay float32)
    why: str  #: one sentence, printed by ``dmplus doctor`` and stored beside results

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.precision)

    def autocast(self) -> torch.autocast:
        """Context in which a network runs at this machine's precision."""
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bfloat16")


_MEASURED: dict[str, Machine] = {}


def machine(device: str = "auto", precision: str = "auto") -> Machine:
    """Choose device and precision; with ``"auto"``, by a probe of a fraction of a second.

    device: "auto", "cpu" or "cuda". precision: "auto", "float32" or "bfloat16". The probe times a convolution
    like the network's in both precisions: processors with AMX or AVX512-BF16 differ by a factor of ten.
    """
    if device not in ("auto", "cpu", "cuda") or precision not in ("auto", "float32", "bfloat16"):
        raise InputError(
            f"expected device auto, cpu or cuda and precision auto, float32 or bfloat16; got {device!r} and "
            f"{precision!r}; choose one of those"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("expected a CUDA device; this machine offers none to torch; use device=cpu or auto")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision != "auto":
        return Machine(device, precision, f"{precision} on {device}, as asked")
    if device not in _MEASURED:
        _MEASURED[device] = _probe(device)
    return _MEASURED[device]


def _probe(device: str) -> Machine:
    x = torch.randn(1, 16, 40, 40, 40, device=device).to(memory_format=torch.channels_last_3d)
    weight = torch.randn(16, 16, 3, 3, 3, device=device)

    def seconds(dtype: torch.dtype) -> float:
        a, w, best = x.to(dtype), weight.to(dtype), float("inf")
        for _ in range(4):
            start = time.perf_counter()
            torch.nn.functional.conv3d(a, w)
            if device == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
        return best

    with torch.inference_mode():
        full, half = seconds(torch.float32), seconds(torch.bfloat16)
    ratio = full / half
    chosen = "bfloat16" if ratio > 1.3 else "float32"
    return Machine(
        device, chosen, f"{chosen} on {device}: the probe convolution runs {ratio:.1f} times as fast in bfloat16"
    )


# ------------------------------------------------------------------------------------------ allocator
_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}


def allocator_cured() -> bool:
    """Whether large buffers are kept by the process instead of going back to the kernel at every step."""
    preload = os.environ.get("LD_PRELOAD", "")
    if platform.system() != "Linux" or "jemalloc" in preload or "tcmalloc" in preload:
        return True
    return all(os.environ.get(k) for k in _ALLOCATOR)


def allocator_environment() -> dict[str, str]:
    """The environment variables that cure glibc's allocator (a factor of up to five in training on a CPU)."""
    return {} if allocator_cured() else dict(_ALLOCATOR)


def cure_allocator(argv: list[str] | None = None) -> None:
    """Restart this Python with the allocator cured, unless it is. Call only from a command line entry point.

    glibc reads the settings once, when the process starts, hence the restart (``os.execve``, milliseconds).
    """
    if allocator_cured() or os.environ.get("DMPLUS_RESTARTED"):
        return
    environment = {**os.environ, **_ALLOCATOR, "DMPLUS_RESTARTED": "1"}
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *(argv or [*sys.orig_argv[1:]])], environment)


# ---------------------------------------------------------------------------------------------- in parallel
def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ahead(function: Callable[[S], T], items: Iterable[S], *, threads: int | None = None) -> Iterator[T]:
    """``map``, with the next results being made by ``threads`` threads (None: one a core, at most 8): for reading files, and
    numpy on large arrays."""
    threads = threads or min(8, cores())
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def workers(processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes of one thread each (a script that asks for it needs the usual ``if __name__ == "__main__"``)."""
    # spawned, not forked: a fork of a process whose torch threads run can hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,)) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


# ------------------------------------------------------------------------------------------- provenance
def versions() -> dict[str, str]:
    """Versions of what a result depends on, and the commit when run from a checkout ('' otherwise)."""
    names = ("dmplus", "torch", "numpy", "scipy", "nibabel", "pandas")
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found | {"commit": commit()}


def commit(root: Path | None = None) -> str:
    """Short hash of the checkout this package lies in ('' when it is installed elsewhere); '+' marks changes.

    What an executed notebook writes is none: executing one after the other leaves the mark of the commit. root: another checkout.
    """
    root = root or Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return ""
    try:
        git = ["git", "-C", str(root)]
        head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, timeout=10)
        asked = ["status", "--porcelain", "-uno", "--", ".", ":(exclude)*.ipynb", ":(exclude)notebooks/results/*.json"]
        state = subprocess.run([*git, *asked], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return head.stdout.strip() + ("+" if state.stdout.strip() else "")


def shell() -> Any:
    """IPython's shell, with the attribute ``kernel`` in a notebook; None outside IPython."""
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


class Progress:
    """One line every few seconds with the share done and the time left; call :meth:`step` after each unit of work.

    Lines go to stderr (in a notebook, which marks that as an error, to stdout), never more than one every ``every`` seconds;
    nothing is printed for work that is over sooner.
    """

    def __init__(self, total: int, what: str, *, done: int = 0, every: float = 5.0, stream: Any = None) -> None:
        self.total, self.what, self.every = total, what, every
        self.stream = stream
        self.start = self.last = time.monotonic()
        self.done = self.before = done  # work done in an earlier run says nothing about the speed of this one

    def step(self, n: int = 1, note: str = "") -> None:
        """Count ``n`` more units as done and print a line if one is due."""
        self.done += n
        now = time.monotonic()
        if now - self.last < self.every:
            return
        self.last = now
        left = (now - self.start) / (self.done - self.before) * (self.total - self.done)
        text = f"{self.what}: {self.done}/{self.total}, {clock(left)} left"
        usual = sys.stdout if hasattr(shell(), "kernel") else sys.stderr
        print(text + (f", {note}" if note else ""), file=self.stream or usual, flush=True)


def clock(seconds: float) -> str:
    """``75`` → ``'1:15 min'``; below a minute ``'42 s'``; above an hour ``'2:05 h'``."""
    s = int(round(seconds))
    if s < 60:
        return f"{s} s"
    return f"{s // 60}:{s % 60:02d} min" if s < 3600 else f"{s // 3600}:{s % 3600 // 60:02d} h"
