"""Checks of the machine itself: Python, libraries, devices, limits, memory that processes share, disk."""

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from services.local.doctor.diagnosis import Diagnosis, ok, problem, warning

OLDEST_PYTHON = (3, 11)
PACKAGES = ("torch", "transformers", "grpcio", "redis", "fastapi", "uvicorn", "safetensors")
MEBIBYTE, GIBIBYTE = 2**20, 2**30
PROBE_BYTES = 64 * MEBIBYTE
PART_BYTES = 4 * MEBIBYTE
SLOW_DISK = 50 * MEBIBYTE  # a second
LITTLE_DISK, TOO_LITTLE_DISK = 10 * GIBIBYTE, GIBIBYTE
LITTLE_SHARED_MEMORY = GIBIBYTE  # a container has 64 MiB unless it is given more
FEW_FILES, TOO_FEW_FILES = 4096, 512
FEW_PROCESSES = 512
SHARED_MEMORY = Path("/dev/shm")


def python(packages: Sequence[str] = PACKAGES) -> Iterator[Diagnosis]:
    """Its version, and the packages that a run, or one process of it, needs."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        yield problem("Python", found, "install Python 3.11 or newer and make a new environment with it")
    else:
        yield ok("Python", f"{found} at {sys.executable}")
    versions = {name: version_of(name) for name in packages}
    if missing := [name for name, found in versions.items() if not found]:
        yield problem(
            "packages", f"not installed: {', '.join(missing)}", "pip install -c constraints.txt -e '.[local]'"
        )
    else:
        yield ok("packages", ", ".join(f"{name} {found}" for name, found in versions.items()))


def version_of(package: str) -> str:
    """Empty where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def has_nvidia_driver() -> bool:
    """Whether there may be devices of NVIDIA's."""
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def devices() -> Iterator[Diagnosis]:
    """What PyTorch can compute on, and whether it was built for what is here."""
    import torch

    if torch.cuda.is_available():
        yield from _cuda_devices()
        return
    has_driver = has_nvidia_driver()
    if has_driver and torch.version.cuda is None:
        yield warning(
            "devices",
            f"an NVIDIA driver, and PyTorch {torch.__version__}, which was built without CUDA",
            "install PyTorch's CUDA build: leave constraints.txt out, or set TORCH_INDEX to the index of your CUDA",
        )
    elif has_driver:
        yield problem(
            "devices",
            f"an NVIDIA driver, and PyTorch {torch.__version__} for CUDA {torch.version.cuda} finds no device",
            "compare the driver's CUDA version (nvidia-smi) with PyTorch's; in a container pass the device: --gpus all",
        )
    elif torch.backends.mps.is_available():
        yield ok("devices", f"mps, PyTorch {torch.__version__}")
    else:
        yield ok("devices", f"the CPU alone, {len(os.sched_getaffinity(0))} cores, PyTorch {torch.__version__}")


def _cuda_devices() -> Iterator[Diagnosis]:
    import torch

    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield ok(f"cuda:{number}", f"{properties.name}, {properties.total_memory / GIBIBYTE:.0f} GiB")
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.distributed.is_nccl_available() else ""  # type: ignore[no-untyped-call]
    if nccl or torch.cuda.device_count() < 2:
        yield ok("NCCL", nccl or "not in this build, and one device needs none")
    else:
        yield warning("NCCL", "not in this build", "install a build of PyTorch with NCCL to train on several devices")


def limits() -> Iterator[Diagnosis]:
    """Of this user's processes."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    remedy = "raise it: ulimit -n 65536 (in a container --ulimit nofile=65536)"
    if _is_below(files, TOO_FEW_FILES):
        yield problem("open files", str(files), remedy)
    elif _is_below(files, FEW_FILES):
        yield warning("open files", str(files), remedy)
    else:
        yield ok("open files", _shown(files))
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if _is_below(processes, FEW_PROCESSES):
        yield warning("processes", str(processes), "raise it: ulimit -u 4096 (in a container --pids-limit)")
    else:
        yield ok("processes", _shown(processes))
    size = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if size != resource.RLIM_INFINITY:
        remedy = "lift it (ulimit -f unlimited): larger weights are copied to each generator, and checkpoints fail"
        yield warning("file size", f"at most {size / GIBIBYTE:.1f} GiB", remedy)
    else:
        yield ok("file size", "unlimited")


def _is_below(limit: int, number: int) -> bool:
    return limit != resource.RLIM_INFINITY and limit < number


def _shown(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


def threads(environment: Mapping[str, str] = os.environ) -> Iterator[Diagnosis]:
    """Threads of every process on cores that all share."""
    cores, name = len(os.sched_getaffinity(0)), "OMP_NUM_THREADS"
    given = environment.get(name, "")
    if given.isdecimal() or cores > 4:
        yield ok("threads", f"{name}={given or 'unset'}, {cores} cores")
    else:
        remedy = f"export {name}=1: on few cores the processes' threads wait for each other"
        yield warning("threads", f"{name} unset, {cores} cores", remedy)


def shared_memory(folder: Path = SHARED_MEMORY) -> Iterator[Diagnosis]:
    """Sealed memory files for weights; the folder for NCCL, vLLM and gloo."""
    if hasattr(os, "memfd_create"):
        try:
            os.close(os.memfd_create("tppo-doctor", os.MFD_ALLOW_SEALING))
        except OSError as error:
            yield warning(
                "memory files", str(error), "allow memfd_create (seccomp): weights are copied by gRPC until then"
            )
        else:
            yield ok("memory files", "weights reach the generators of this host by shared memory")
    else:
        yield warning("memory files", "none on this system", "on Linux weights reach generators by shared memory")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        yield problem("shared memory", f"no {folder} to write to", "mount it: --shm-size=8g, or a tmpfs there")
        return
    free = shutil.disk_usage(folder).free
    if free < LITTLE_SHARED_MEMORY:
        remedy = "give it more (--shm-size=8g): vLLM and processes that train together need it"
        yield warning("shared memory", f"{free // MEBIBYTE} MiB free in {folder}", remedy)
    else:
        yield ok("shared memory", f"{free / GIBIBYTE:.0f} GiB free in {folder}")


def disk(folder: Path, *, needed: int = TOO_LITTLE_DISK, measures_speed: bool = True) -> Iterator[Diagnosis]:
    """Room and speed where the runs are kept; `needed` in bytes."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield problem("disk", f"{there} may not be written to", "set run.directory to a folder that may be")
        return
    free = shutil.disk_usage(there).free
    if free < needed:
        yield problem(
            "disk", f"{_size(free)} free in {there}; {_size(needed)} are needed", "make room, or set run.directory"
        )
        return
    if free < max(LITTLE_DISK, 2 * needed):
        yield warning("disk", f"{_size(free)} free in {there}", "make room: checkpoints take 24 bytes a parameter")
    else:
        yield ok("disk", f"{_size(free)} free in {there}")
    if measures_speed:
        yield _speed(there)


def _speed(folder: Path) -> Diagnosis:
    speed = bytes_per_second(folder)
    if speed < SLOW_DISK:
        remedy = "set run.directory to a faster disk: each step's log is synced"
        return warning("disk speed", f"{_size(speed)}/s", remedy)
    return ok("disk speed", f"{_size(speed)}/s")


def bytes_per_second(folder: Path) -> int:
    """Written and synced."""
    parts: Sequence[bytes] = [os.urandom(PART_BYTES)] * (PROBE_BYTES // PART_BYTES)
    with tempfile.TemporaryFile(dir=folder, prefix=".tppo-doctor-") as file:
        started = time.perf_counter()
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
        return int(PROBE_BYTES / max(time.perf_counter() - started, 1e-6))


def _size(number: int) -> str:
    return f"{number / GIBIBYTE:.1f} GiB" if number >= GIBIBYTE else f"{number // MEBIBYTE} MiB"
