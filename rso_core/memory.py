"""How much memory is free, how much some work took at most, and whether an error means that it ran out.

On a CPU: what psutil calls available, or less where a control group or `ulimit -d` has a limit. On a GPU: what the
driver calls free and what torch keeps unused (written for CUDA, not tested on a GPU). Knows nothing of models.
"""

import ctypes
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ADVICE = (
    "Lower micro_batch_size (training) or sampling.batch_size (sampling and scoring), then data.max_prompt_tokens, "
    "data.max_response_tokens or reward.max_length; or use model.method lora or model.dtype bfloat16"
)
_WORDS = (
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "defaultcpuallocator: not enough memory",
)
_PROCESS = Path("/proc/self")
_GROUPS = Path("/sys/fs/cgroup")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory, of the machine or of the GPU, ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ in {"OutOfMemoryError", "ArrowMemoryError"}:
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(words in text for words in _WORDS)


def free_bytes(device: "torch.device", *, process: Path = _PROCESS, groups: Path = _GROUPS) -> int:
    """Return the memory that this process may still take on a device."""
    import psutil
    import torch

    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    of_process = [] if limit == resource.RLIM_INFINITY else [limit - _status(process, "VmData")]
    return max(0, min([psutil.virtual_memory().available, *_free_in_groups(process, groups), *of_process]))


def _free_in_groups(process: Path, groups: Path) -> Iterator[int]:
    """Yield limit − use of each control group of the process that has a limit, of both versions of control groups."""
    for line in _lines(process / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers in {"", "memory"}:
            root = groups / controllers
            names = _V1 if controllers else _V2
            inside = [root / part for part in (Path(path.lstrip("/")), *Path(path.lstrip("/")).parents)]
            yield from (free for folder in inside if (free := _free_in(folder, *names)) is not None)


_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def _free_in(folder: Path, limit_name: str, used_name: str, cache_name: str) -> int | None:
    limit, used = (next(iter(_lines(folder / name)), "") for name in (limit_name, used_name))
    if not limit.isdigit() or not used.isdigit():
        return None  # there is no such group, or it has no limit ("max")
    # Files that were read once count as used, but give way.
    cache = next((line.split()[1] for line in _lines(folder / "memory.stat") if line.split()[0] == cache_name), "0")
    return int(limit) - int(used) + int(cache)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []


def _status(process: Path, name: str) -> int:
    """Return a figure of the process in bytes, 0 where the system does not tell it."""
    found = (line.split()[1] for line in _lines(process / "status") if line.startswith(f"{name}:"))
    return 1024 * int(next(found, "0"))


@contextmanager
def limited_to(extra: int, device: "torch.device") -> Iterator[None]:
    """Let work on a CPU fail with an error as soon as it takes more than `extra` bytes, before the system kills it."""
    old = resource.getrlimit(resource.RLIMIT_DATA)
    used = _status(_PROCESS, "VmData")
    if device.type != "cpu" or not used:
        yield
        return
    resource.setrlimit(resource.RLIMIT_DATA, (used + extra if old[0] < 0 else min(old[0], used + extra), old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, old)


class Meter:
    """Measures by how much memory grew at most, counted from when the meter was made."""

    def __init__(self, device: "torch.device") -> None:
        import torch

        self._device = device
        self._start = torch.cuda.memory_allocated(device) if device.type == "cuda" else _status(_PROCESS, "VmRSS")

    def peak(self, work: Callable[[], None]) -> int:
        """Do the work and return the growth in bytes; 0 where the system does not tell it (only Linux does)."""
        import torch

        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            work()
            return torch.cuda.max_memory_allocated(self._device) - self._start
        try:
            (_PROCESS / "clear_refs").write_text("5", encoding="ascii")  # the peak so far becomes what is used now
        except OSError:
            work()
            return 0
        work()
        return max(0, _status(_PROCESS, "VmHWM") - self._start)


def release(device: "torch.device") -> None:
    """Give unused memory back, so that what comes next can take it in other pieces."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # the GNU C library's
        trim(0)
