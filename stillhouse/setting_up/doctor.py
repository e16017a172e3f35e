"""``stillhouse doctor``: what is around, and what of it will not work. Nothing is written and nothing is fetched."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Literal, final

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from stillhouse import __version__
from stillhouse.cache_dirs import cache_dir, folder_bytes, free_bytes
from stillhouse.setting_up.packages import COMPANIONS, MLFLOW_IN_FULL, PACKAGES, Package
from stillhouse.units import readable_bytes

Level = Literal["ok", "warn", "fail"]
OK: Level = "ok"
WARN: Level = "warn"
FAIL: Level = "fail"

_OLDEST_PYTHON = (3, 10)
_LITTLE_BYTES, _TOO_LITTLE_BYTES = 5 * 1000**3, 200 * 1000**2
_NETWORK_DISKS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "fuse.sshfs"})
_HUB, _TIMEOUT_S = "https://huggingface.co", 5
_SHOWN_SETTINGS = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
                   "HF_DATASETS_OFFLINE")
_SECRETS = ("HF_TOKEN", "WANDB_API_KEY")
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_NVIDIA = Path("/proc/driver/nvidia/version")


@final
@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: how it is (``ok``, ``warn`` or ``fail``), what it is, and what there is to say."""

    level: Level
    what: str
    text: str

    def as_dict(self) -> dict[str, str]:
        """The same for JSON."""
        return {"level": self.level, "what": self.what, "text": self.text}


def examined(*, online: bool = False) -> list[Finding]:
    """Look at everything. With ``online`` the model hub is asked too whether it is there."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python, _packages, _companions, _devices, _threads, _compiler, _cache, _disk, _settings]
    return [finding for check in [*checks, *([_hub] if online else [])] for finding in _survived(check)]


def _survived(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check finds; on a machine that is stranger than it expects, that it could not look."""
    try:
        yield from check()
    except Exception as error:
        yield Finding(WARN, check.__name__.strip("_"), f"cannot be looked at: {type(error).__name__}: {error}")


def _python() -> Iterator[Finding]:
    is_new_enough = sys.version_info >= _OLDEST_PYTHON
    yield Finding(OK if is_new_enough else FAIL, "Python", f"{platform.python_version()} on {platform.platform()}"
                  + ("" if is_new_enough else f"; Stillhouse needs {'.'.join(map(str, _OLDEST_PYTHON))} or newer"))
    yield Finding(OK, "stillhouse", f"{__version__}, in {Path(__file__).parents[1]}")


def _packages() -> Iterator[Finding]:
    for package in PACKAGES:
        found = _version(package.name)
        if found is None and package.extra == "mlflow":
            found = _version(MLFLOW_IN_FULL)
        yield judged(package, found)


def judged(package: Package, found: str | None) -> Finding:
    """What a package's version, or its absence, means."""
    what_for = f" (for {package.what_for})" if package.what_for else ""
    if found is None and package.extra:
        return Finding(OK, package.name, f"not installed{what_for}: pip install \"stillhouse[{package.extra}]\"")
    if found is None:
        return Finding(FAIL, package.name, f"not installed{what_for}: pip install \"{package.name}{package.versions}\"")
    try:
        version, tested = Version(found), Version(package.tested)
    except InvalidVersion:
        return Finding(WARN, package.name, f"{found}{what_for} is no version; tested with {package.tested}")
    if not SpecifierSet(package.versions).contains(version, prereleases=True):
        return Finding(WARN if package.extra else FAIL, package.name,
                       f"{found}{what_for} cannot be used: pip install \"{package.name}{package.versions}\"")
    if version.major != tested.major:
        return Finding(WARN, package.name, f"{found}{what_for}; tested with {package.tested}")
    same = version.release == tested.release
    return Finding(OK, package.name, f"{found}{what_for}" + ("" if same else f", tested with {package.tested}"))


def _companions() -> Iterator[Finding]:
    torch = _version("torch")
    for name in COMPANIONS:
        if torch is None or _version(name) is None:
            continue
        needs = [requirement for text in importlib.metadata.requires(name) or ()
                 if (requirement := Requirement(text)).name == "torch"]
        for requirement in needs:
            if not requirement.specifier.contains(Version(torch).public, prereleases=True):
                yield Finding(FAIL, name, f"{_version(name)} is for torch{requirement.specifier}, not {torch}, so that "
                              f"transformers may fail to import: pip install -U {name}, or pip uninstall {name}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except PackageNotFoundError:
        return None


def _devices() -> Iterator[Finding]:
    try:
        import torch

        from stillhouse.training.precision import has_fast_bf16
    except Exception as error:  # whatever a broken installation raises
        yield Finding(FAIL, "devices", f"torch cannot be imported: {type(error).__name__}: {error}; install it again "
                      "(https://pytorch.org/get-started)")
        return

    def bf16(device: torch.device) -> str:
        return "bf16 in hardware" if has_fast_bf16(device) else "no bf16 in hardware: precision auto is fp32"

    yield Finding(OK, "CPU", f"{_cpu_name()}, {bf16(torch.device('cpu'))}")
    for number in range(torch.cuda.device_count()):
        device = torch.device("cuda", number)
        free, total = torch.cuda.mem_get_info(device)
        yield Finding(OK, f"cuda:{number}", f"{torch.cuda.get_device_name(device)}, {readable_bytes(free)} of "
                      f"{readable_bytes(total)} free, {bf16(device)}")
    if not torch.cuda.is_available() and _NVIDIA.exists():
        why = ("this torch is a build without CUDA; install one with it (https://pytorch.org/get-started)"
               if torch.version.cuda is None else
               f"this torch is for CUDA {torch.version.cuda}, which the driver may be too old for; update it")
        yield Finding(WARN, "CUDA", f"there is an NVIDIA driver, but torch finds no device: {why}")
    if torch.backends.mps.is_available():
        yield Finding(OK, "MPS", "there is one; Stillhouse does not use it and trains on the CPU")


def _cpu_name() -> str:
    with_names = Path("/proc/cpuinfo")
    lines = with_names.read_text(encoding="utf-8", errors="replace").splitlines() if with_names.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _threads() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = torch.get_num_threads()
    said = os.environ.get("OMP_NUM_THREADS")
    text = f"{threads} for {cores} cores" + (f" (OMP_NUM_THREADS={said})" if said else "")
    if threads > cores:
        yield Finding(WARN, "threads", f"{text}, which wait for each other; set OMP_NUM_THREADS={cores}")
    elif threads < cores // 2:
        yield Finding(WARN, "threads", f"{text}: most cores stay idle; set OMP_NUM_THREADS={cores}, or leave it out")
    else:
        yield Finding(OK, "threads", text)


def _compiler() -> Iterator[Finding]:
    found = next((path for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name
                  and (path := shutil.which(name))), None)
    yield Finding(OK, "C++ compiler", f"{found or 'none'} (for training.compile: true on a CPU, which is optional)")


def _cache() -> Iterator[Finding]:
    folder = cache_dir()
    where = "$STILLHOUSE_CACHE" if os.environ.get("STILLHOUSE_CACHE") else "set STILLHOUSE_CACHE for another place"
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Finding(FAIL, "cache", f"{folder}: {there} cannot be written to; set STILLHOUSE_CACHE to a folder that "
                      "can")
        return
    size = readable_bytes(folder_bytes(folder)) if folder.exists() else "nothing yet"
    yield Finding(OK, "cache", f"{folder}, {size} ({where}; stillhouse cache info says more)")
    kind = _file_system(folder)
    if kind in _NETWORK_DISKS:
        yield Finding(WARN, "cache", f"{folder} is on a network disk ({kind}), where LMDB is neither safe nor fast; "
                      "set STILLHOUSE_CACHE to a folder on a local disk")


def _file_system(folder: Path) -> str:
    """The kind of file system that a folder is on, or would be; empty where nothing says so."""
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    mounts: Mapping[str, str] = {parts[1]: parts[2] for line in lines if len(parts := line.split()) > 2}
    return next((mounts[str(parent)] for parent in (folder.absolute(), *folder.absolute().parents)
                 if str(parent) in mounts), "")


def _disk() -> Iterator[Finding]:
    for what, folder in (("disk of the cache", cache_dir()), ("disk of this folder", Path.cwd())):
        free = free_bytes(folder)
        level = FAIL if free < _TOO_LITTLE_BYTES else WARN if free < _LITTLE_BYTES else OK
        advice = "" if level == OK else (": a run keeps checkpoints, and the cache answers; make room "
                                         "(stillhouse cache prune --max-size 5GB)")
        yield Finding(level, what, f"{readable_bytes(free)} free{advice}")


def _settings() -> Iterator[Finding]:
    shown = [f"{name}={os.environ[name]}" for name in _SHOWN_SETTINGS if name in os.environ]
    shown += [f"{name} is set" for name in _SECRETS if os.environ.get(name)]
    is_offline = any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in _OFFLINE)
    note = "; nothing is fetched from the hub, so that models are folders or in its cache" if is_offline else ""
    yield Finding(OK, "hub settings", (", ".join(shown) or "none") + note)


def _hub() -> Iterator[Finding]:
    address = os.environ.get("HF_ENDPOINT") or _HUB
    if not address.startswith(("http://", "https://")):
        yield Finding(FAIL, "hub", f"HF_ENDPOINT={address} is no address; write https://..., or leave it out")
        return
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_TIMEOUT_S):
            yield Finding(OK, "hub", f"{address} answers")
    except urllib.error.HTTPError as error:
        yield Finding(OK, "hub", f"{address} answers (with {error.code})")
    except OSError as error:
        yield Finding(WARN, "hub", f"{address} cannot be reached ({error}); use models in folders, or set HTTPS_PROXY "
                      "or HF_ENDPOINT")
