"""What a child may reach: the command that confines it, its folders, its environment."""

import compileall
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from app.settings import get_settings
from models.core import confine
from workers.host import Grant

HAS_INIT = sys.platform == "linux"  # else the child runs as it is, and is the runner's own child
OPEN_FILES = 4096
# what a child may see of the worker's environment: no address or secret of the service
PASSED = ("PATH", "LANG", "TZ", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
PASSED_PREFIXES = ("LC_", "OPENBLAS_", "COVERAGE_")
SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix/store", "/proc", "/sys"),
    *("/var/cache/fontconfig", "/run/opengl-driver"),
)
ETC = tuple(
    f"/etc/{name}"
    for name in (
        *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "timezone", "passwd", "group"),
        *("nsswitch.conf", "hosts", "host.conf", "resolv.conf", "services", "protocols"),
        *("gai.conf", "fonts", "ssl", "pki", "alternatives", "os-release", "OpenCL", "vulkan"),
        "glvnd",
    )
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
GPU_DEVICES = ("dev/nvidia*", "dev/dri", "dev/shm", "proc/self")  # patterns under the root
PREFIXES = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)
CACHES = {
    "NUMBA_CACHE_DIR": "numba",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
    "SEXTANT_INDEX_DIR": "index",
}


def prefix(folder: Path, grant: Grant, action: str, memory_mb: int) -> list[str]:
    """The words before a child's command that confine it; none where it has no init.

    Args:
        folder: of the run or check, which the child may write.
        grant: its GPUs.
        action: ``run`` or ``check``; only a run gets the caches.
        memory_mb: address space of one process in MiB, 0 for no limit; not with GPUs, whose driver
            reserves far more than it uses.
    """
    if not HAS_INIT:
        return []
    options = [f"open_files={OPEN_FILES}"]
    if limit_bytes := get_settings().worker_file_limit_bytes:
        options.append(f"file_size={limit_bytes}")
    if memory_mb and not grant.gpus:
        options.append(f"address_space={memory_mb * 2**20}")
    if get_settings().worker_confined:
        options += [f"network={_network(grant)}", *_paths(folder, grant, action)]
    return [sys.executable, "-I", "-S", str(confine.__file__), *options, "--"]


def _network(grant: Grant) -> str:
    """Nothing; Unix sockets for the driver of a GPU; ranks of several GPUs meet over TCP."""
    if get_settings().worker_network or len(grant.gpus) > 1:
        return "all"
    return "local" if grant.gpus else "none"


def _paths(folder: Path, grant: Grant, action: str) -> Iterator[str]:
    code = [path for path in dict.fromkeys((*PREFIXES, *_code())) if _is_public(path)]
    yield from (f"read={path}" for path in (*filter(_is_public, SYSTEM), *ETC, *code))
    on_path = [path for path in sys.path if path and not path.startswith(tuple(code))]
    yield from (f"list={path}" for path in on_path)  # the importer looks for names there
    yield from (f"write={path}" for path in (folder, *DEVICES))
    if action == "run":
        yield from (f"write={path}" for path in _caches().values())
    if grant.gpus:
        devices = (path for pattern in GPU_DEVICES for path in Path("/").glob(pattern))
        yield from (f"write={path}" for path in devices)


def _is_public(path: str) -> bool:
    """Whether it is there and the state folder is not in it; Python itself must be readable."""
    inside = get_settings().state_dir.resolve().is_relative_to(Path(path).resolve())
    return Path(path).exists() and (path in PREFIXES or not inside)


def _code() -> Iterator[str]:
    """Packages, ours of a checkout, and what the operator has put on the paths."""
    yield from (path for path in sys.path if path.endswith(("site-packages", "dist-packages")))
    yield str(Path(confine.__file__).parents[1])
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH"):
        yield from filter(None, os.environ.get(name, "").split(os.pathsep))
    yield from (word for word in shlex.split(get_settings().worker_command) if os.sep in word)
    yield str(_hub())


def _caches() -> dict[str, Path]:
    """Where runs keep compiled machine code and lists of pictures, by the variable that says so."""
    folder = get_settings().state_dir.resolve() / "cache"
    return {name: Path(os.environ.get(name) or folder / each) for name, each in CACHES.items()}


def _hub() -> Path:
    """Weights that Hugging Face's library has fetched before."""
    return Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()


def environment(grant: Grant, folder: Path, *, deterministic: bool) -> dict[str, str]:
    """The whole environment of a child; makes the folders that it names."""
    passed = {
        name: value
        for name, value in os.environ.items()
        if name in PASSED or name.startswith(PASSED_PREFIXES)
    }
    if deterministic:
        passed["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    if not get_settings().worker_network:
        passed["HF_HUB_OFFLINE"] = "1"
    threads = str(grant.cpus)
    return passed | {
        "CUDA_VISIBLE_DEVICES": ",".join(grant.gpus),
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "PYTHONHASHSEED": "0",
        "PYTHONSAFEPATH": "1",  # nothing is imported from the folder of the run, by ranks neither
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(folder),
        "TMPDIR": str(_made(folder / "tmp")),
        "MPLCONFIGDIR": str(folder / ".matplotlib"),
        "HF_HOME": str(_hub()),
        **{name: str(_made(path)) for name, path in _caches().items()},
        "SEXTANT_CHECKPOINT_INTERVAL_S": str(get_settings().worker_checkpoint_s),
        "SEXTANT_ARCHIVE_ENTRIES": str(get_settings().worker_archive_entries),
        "SEXTANT_ARCHIVE_BYTES": str(get_settings().worker_archive_bytes),
    }


def compile_methods() -> None:
    """Compile the modules of methods to bytecode: a child may not write beside them."""
    compileall.compile_dir(Path(confine.__file__).parents[1], quiet=2)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder
