from pathlib import Path

import psutil
import pytest
import torch

from rso_core import memory

CPU = torch.device("cpu")


def groups(folder: Path, listed: str, files: dict[str, str]) -> dict[str, Path]:
    """Write a made-up /proc/self and a tree of control groups."""
    for name, text in {"self/cgroup": listed, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    return {"process": folder / "self", "groups": folder / "groups"}


def test_without_limits_what_the_machine_has_is_free(tmp_path: Path) -> None:
    files = {"groups/memory.max": "max\n", "groups/memory.current": "5\n"}

    found = memory.free_bytes(CPU, **groups(tmp_path, "0::/\n", files))
    assert found == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_the_narrowest_control_group_decides(tmp_path: Path) -> None:
    stat = "anon 70\ninactive_file 40\n"
    files = {
        "groups/a/memory.max": "1000\n", "groups/a/memory.current": "900\n",
        "groups/a/b/memory.max": "500\n", "groups/a/b/memory.current": "100\n", "groups/a/b/memory.stat": stat,
    }  # fmt: skip

    assert memory.free_bytes(CPU, **groups(tmp_path, "0::/a/b\n", files)) == 100  # of the outer one
    (tmp_path / "groups/a/memory.current").write_text("10\n", encoding="ascii")
    assert memory.free_bytes(CPU, **groups(tmp_path, "0::/a/b\n", files | {"groups/a/memory.current": "10\n"})) == 440


def test_control_groups_of_the_first_version_are_read_too(tmp_path: Path) -> None:
    files = {
        "groups/memory/x/memory.limit_in_bytes": "700\n", "groups/memory/x/memory.usage_in_bytes": "300\n",
        "groups/memory/x/memory.stat": "total_inactive_file 20\n", "groups/cpu/x/memory.limit_in_bytes": "1\n",
    }  # fmt: skip

    assert memory.free_bytes(CPU, **groups(tmp_path, "4:memory:/x\n3:cpu:/x\n", files)) == 420


def test_a_group_that_is_over_its_limit_has_nothing_free(tmp_path: Path) -> None:
    files = {"groups/memory.max": "100\n", "groups/memory.current": "130\n"}

    assert memory.free_bytes(CPU, **groups(tmp_path, "0::/\n", files)) == 0


def test_growth_is_the_most_that_was_held_at_once() -> None:
    held: list[torch.Tensor] = []
    meter = memory.Meter(CPU)

    assert meter.peak(lambda: torch.ones(50_000_000).sum().item() and None) == pytest.approx(2e8, rel=0.2)
    assert meter.peak(lambda: None) < 5e7  # it was given back
    assert meter.peak(lambda: held.append(torch.ones(25_000_000))) == pytest.approx(1e8, rel=0.3)
    assert meter.peak(lambda: None) == pytest.approx(1e8, rel=0.3)  # counted from when the meter was made


def test_work_that_takes_more_than_it_may_fails_with_an_error_and_the_limit_is_gone_afterwards() -> None:
    with memory.limited_to(100_000_000, CPU), pytest.raises(RuntimeError) as caught:
        torch.ones(100_000_000)

    assert memory.is_out_of_memory(caught.value)
    assert len(torch.ones(100_000_000)) == 100_000_000


@pytest.mark.parametrize(
    "error", [RuntimeError("a matrix is singular"), ValueError("out of memory"), KeyError("memory")]
)
def test_other_errors_are_not_taken_for_want_of_memory(error: Exception) -> None:
    assert not memory.is_out_of_memory(error)
