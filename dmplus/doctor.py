"""What this machine and installation offer, as a table of checks: ``dmplus doctor``.

Nothing but the standard library is imported before the packages are known to be there.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmplus.runtime import Machine

PYTHON = (3, 11)
MEMORY_GIB = 3.0  #: a full scan with an earlier one takes 1.5; notebooks and a browser want the rest
DISK_GIB = 2.0  #: runs of the course and a small cohort

#: Seconds that the timed block takes on two cores without AMX, where `make course` takes ``COURSE_MINUTES``.
REFERENCE_SECONDS = 2.0
COURSE_MINUTES = 15.0
BLOCK = 60  #: output edge of the timed block, the tiler's largest
#: Output blocks of that size in the brain of a 240 x 240 x 155 scan, times two models, times two scans.
BLOCKS_FULL = 18


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the table."""

    what: str
    ok: bool
    detail: str


def checks(*, probe: bool = True) -> list[Check]:
    """Run all checks; ``probe=False`` leaves out those that take seconds (allocator, expected minutes).

    Where a package is missing or too old the table ends there: the other checks need them.
    """
    rows = [_python(), *_packages()]
    if not all(row.ok for row in rows):
        return rows
    from dmplus import runtime

    machine = runtime.machine()
    rows.append(Check("device, precision", True, machine.why))
    rows.append(_allocator(probe))
    rows += [_memory(), _disk(Path.cwd()), _kernel(), *_weights()]
    if probe:
        rows.append(_minutes(machine))
    return rows


def table(rows: list[Check]) -> str:
    """The checks as text, one line each."""
    width = max(len(row.what) for row in rows)
    lines = [f"{row.what:<{width}}  {'OK  ' if row.ok else 'FAIL'}  {row.detail}" for row in rows]
    failed = sum(not row.ok for row in rows)
    return "\n".join([*lines, "all checks passed" if not failed else f"{failed} of {len(rows)} checks failed"])


def _python() -> Check:
    have = sys.version_info[:3]
    return Check("python", have >= PYTHON, f"{'.'.join(map(str, have))} (needs {PYTHON[0]}.{PYTHON[1]} or newer)")


def _packages() -> Iterator[Check]:
    try:
        needed = importlib.metadata.requires("dmplus") or []
        yield Check("dmplus", True, importlib.metadata.version("dmplus"))
    except importlib.metadata.PackageNotFoundError:
        yield Check("dmplus", False, "it is not installed here: run `pip install -e .` in its folder")
        return
    for requirement in needed:
        found = re.fullmatch(r"([\w.-]+?)\s*>=\s*([\d.]+)", requirement)
        if not found:  # of an extra, or without a lower bound
            continue
        name, lowest = found.groups()
        try:
            have = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, False, f"missing (needs {lowest} or newer): pip install '{name}>={lowest}'")
            continue
        yield Check(name, _numbers(have) >= _numbers(lowest), f"{have} (needs {lowest} or newer)")


def _numbers(version: str) -> tuple[int, ...]:
    parts = [int(n) for n in re.findall(r"\d+", version.partition("+")[0])[:3]]
    return tuple(parts + [0] * (3 - len(parts)))


_ALLOCATOR_PROBE = """
import time, numpy as np
def touch():
    start = time.perf_counter()
    for _ in range(5):
        np.empty(64 << 20, np.uint8).fill(1)
    return time.perf_counter() - start
touch(); print(min(touch() for _ in range(3)))
"""


def _allocator(probe: bool) -> Check:
    from dmplus import runtime

    here = "cured in this process" if runtime.allocator_cured() else "cured by predict, train and run when they start"
    if not probe or not runtime.allocator_environment():
        return Check("allocator", True, here)

    def seconds(extra: dict[str, str]) -> float:
        environment = {**os.environ, **extra}
        command = [sys.executable, "-c", _ALLOCATOR_PROBE]
        return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    try:
        plain, cured = seconds({}), seconds(runtime.allocator_environment())
    except (subprocess.CalledProcessError, OSError, ValueError):
        return Check("allocator", False, "its probe did not run; set the variables of runtime.allocator_environment()")
    return Check("allocator", True, f"{here}; buffers are then {plain / cured:.1f} times as fast to get")


def _memory() -> Check:
    gib = available_gib()
    if gib is None:
        return Check("memory", True, f"unknown on this system (needs {MEMORY_GIB:g} GiB)")
    return Check("memory", gib >= MEMORY_GIB, f"{gib:.1f} GiB available (needs {MEMORY_GIB:g})")


def available_gib() -> float | None:
    """Memory that this process may still use, in GiB: the system's, or the container's limit; None if unknown."""
    found: list[float] = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        match = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
        found += [int(match.group(1)) / 2**20] if match else []
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        found.append((int(limit.read_text()) - int(used.read_text())) / 2**30)
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    return min(found) if found else None


def _disk(folder: Path) -> Check:
    gib = shutil.disk_usage(folder).free / 2**30
    return Check("disk", gib >= DISK_GIB, f"{gib:.1f} GiB free here (the course needs {DISK_GIB:g})")


def _kernel() -> Check:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return Check("notebook kernel", False, "no kernel python3: run `python -m ipykernel install --sys-prefix`")
    return Check("notebook kernel", True, "python3")


def _weights() -> Iterator[Check]:
    from dmplus import network
    from dmplus.runtime import InputError

    for name in network.SHIPPED:
        try:
            parameters = sum(p.numel() for p in network.load(name).parameters())
        except InputError as error:
            yield Check(f"weights {name}", False, str(error))
        else:
            yield Check(f"weights {name}", True, f"{parameters:,} parameters")


def _minutes(machine: Machine) -> Check:
    """Time one block of the tiler and scale it: seconds per block x blocks of a full scan x models x scans."""
    import numpy as np

    from dmplus import network
    from dmplus.inference import predict_volume

    model = network.DeepMedic(network.preset("quick"))
    image = np.zeros((BLOCK, BLOCK, BLOCK), np.float32)
    mask = np.ones(image.shape, bool)
    best = float("inf")
    for _ in range(2):  # the first one plans and allocates
        start = time.perf_counter()
        predict_volume(model, image, prior=image, mask=mask, machine=machine)
        best = min(best, time.perf_counter() - start)
    full = (best * BLOCKS_FULL * 4 + 10) / 60  # reading, maps and picture take some seconds
    course = COURSE_MINUTES * max(1.0, best / REFERENCE_SECONDS)
    return Check(
        "expected minutes",
        True,
        f"predict: {full:.1f} for 240 x 240 x 155 voxels with an earlier scan; make course: up to {course:.0f}",
    )
