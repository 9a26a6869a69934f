"""Memory and cores that a process may use, read from copies of Linux's files, and on systems without such files."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from autodistill import machine
from autodistill.options import search_options

GB = 2**30
MEMINFO = "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\n"


def linux(root: Path, *, groups: str = "", **files: str) -> Path:
    """A folder that stands for `/`; keyword names of files have `__` for `/`."""
    told = {"proc/self/cgroup": groups, "proc/meminfo": MEMINFO, **files}
    for name, text in told.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_allowed_cores", lambda: 64)


def test_without_control_groups_all_is_the_machines(tmp_path, many_cores):
    linux(tmp_path, proc__vmstat="pgfault 17\noom_kill 3\n")
    assert machine.memory_bytes(root=tmp_path) == 16 * GB
    assert machine.free_memory_bytes(root=tmp_path) == 8 * GB
    assert machine.usable_cores(root=tmp_path) == 64
    assert machine.oom_kills(root=tmp_path) == 3


def test_a_container_of_version_2_limits_memory_and_cores(tmp_path, many_cores):
    linux(
        tmp_path,
        groups="0::/\n",
        **{
            "sys/fs/cgroup/memory.max": f"{4 * GB}\n",
            "sys/fs/cgroup/memory.current": f"{3 * GB}\n",
            "sys/fs/cgroup/memory.stat": f"anon {GB}\ninactive_file {2 * GB}\nactive_file 5\n",
            "sys/fs/cgroup/memory.events": "low 0\nhigh 0\nmax 9\noom 4\noom_kill 2\noom_group_kill 0\n",
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "proc/vmstat": "oom_kill 30\n",
        },
    )
    assert machine.memory_bytes(root=tmp_path) == 4 * GB
    assert machine.free_memory_bytes(root=tmp_path) == 3 * GB, "cached files give way"
    assert machine.usable_cores(root=tmp_path) == 2, "one core and a half"
    assert machine.oom_kills(root=tmp_path) == 2, "the machine's count includes other containers"


def test_the_tightest_of_nested_groups_counts(tmp_path, many_cores):
    """`max` is no limit, a group without files neither; the group in the middle has the tightest quota."""
    a, b, c = "sys/fs/cgroup/a", "sys/fs/cgroup/a/b", "sys/fs/cgroup/a/b/c"
    linux(
        tmp_path,
        groups="0::/a/b/c\n",
        **{
            f"{a}/memory.max": f"{6 * GB}\n",
            f"{a}/memory.current": f"{5 * GB}\n",
            f"{a}/cpu.max": "400000 100000\n",
            f"{b}/memory.max": f"{5 * GB}\n",
            f"{b}/memory.current": f"{GB}\n",
            f"{b}/cpu.max": "250000 100000\n",
            f"{c}/memory.max": "max\n",
            f"{c}/memory.current": f"{GB}\n",
            f"{c}/cpu.max": "max 100000\n",
            f"{c}/memory.events": "oom_kill 1\n",
        },
    )
    assert machine.memory_bytes(root=tmp_path) == 5 * GB
    assert machine.free_memory_bytes(root=tmp_path) == GB, "what is left to the outermost group"
    assert machine.usable_cores(root=tmp_path) == 3
    assert machine.oom_kills(root=tmp_path) == 1
    assert machine.cgroup("cpu", root=tmp_path) == (2, [tmp_path / it for it in (c, b, a, "sys/fs/cgroup")])


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("/docker/9f", "memory/docker/9f"),
        ("/docker/9f", "memory"),  # a container, which sees its own group alone
        ("/../host", "memory"),
    ],
)
def test_a_group_of_version_1_is_found_below_the_folder_of_its_controller(tmp_path, many_cores, path, folder):
    folder = f"sys/fs/cgroup/{folder}"
    cpu = folder.replace("memory", "cpu")
    linux(
        tmp_path,
        groups=f"12:memory:{path}\n4:cpu,cpuacct:{path}\n1:name=systemd:/x\n0::/ignored\n",
        **{
            f"{folder}/memory.limit_in_bytes": f"{2 * GB}\n",
            f"{folder}/memory.usage_in_bytes": f"{GB}\n",
            f"{folder}/memory.stat": f"inactive_file 7\ntotal_inactive_file {GB // 2}\n",
            f"{folder}/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
            f"{cpu}/cpu.cfs_quota_us": "20000\n",
            f"{cpu}/cpu.cfs_period_us": "100000\n",
        },
    )
    assert machine.memory_bytes(root=tmp_path) == 2 * GB
    assert machine.free_memory_bytes(root=tmp_path) == 1.5 * GB
    assert machine.usable_cores(root=tmp_path) == 1, "a fifth of a core"
    assert machine.oom_kills(root=tmp_path) == 5


def test_a_group_of_version_1_without_limits_says_so_in_numbers(tmp_path, many_cores):
    linux(
        tmp_path,
        groups="2:memory:/a\n1:cpu,cpuacct:/a\n",
        **{
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/a/memory.usage_in_bytes": f"{GB}\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
        },
    )
    assert machine.memory_bytes(root=tmp_path) == 16 * GB
    assert machine.free_memory_bytes(root=tmp_path) == 8 * GB
    assert machine.usable_cores(root=tmp_path) == 64
    assert machine.oom_kills(root=tmp_path) == 0


@pytest.mark.parametrize("groups", ["", "garbage\n", "0::/\n", "0::/a/b\n", "9:memory:/gone\n"])
@pytest.mark.parametrize("quota", ["what", "-1 100000", "100000 0", "1 x"])
def test_missing_and_garbled_files_are_no_limit(tmp_path, many_cores, groups, quota):
    linux(tmp_path, groups=groups, **{"sys/fs/cgroup/cpu.max": f"{quota}\n"})
    assert machine.memory_bytes(root=tmp_path) == 16 * GB
    assert machine.free_memory_bytes(root=tmp_path) == 8 * GB
    assert machine.usable_cores(root=tmp_path) == 64
    assert machine.oom_kills(root=tmp_path) == 0


def test_a_system_without_proc_tells_its_memory_by_sysconf_and_not_what_is_free(tmp_path, monkeypatch):
    """As macOS does."""
    told = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(os, "sysconf", told.__getitem__)
    assert machine.memory_bytes(root=tmp_path) == 4_096_000
    assert machine.free_memory_bytes(root=tmp_path) is None
    assert machine.usable_cores(root=tmp_path) >= 1


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """No function that Windows lacks, and a kernel32 that fills in what it is given."""

    def tell(status: object) -> int:
        given = status._obj  # type: ignore[attr-defined]
        assert given.dwLength == 64, "Windows refuses a structure of another size"
        given.ullTotalPhys, given.ullAvailPhys = 12 * GB, 5 * GB
        return 1

    kernel = SimpleNamespace(GlobalMemoryStatusEx=tell)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    for name in ("sysconf", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(machine, "_text", lambda _: "")


def test_windows_tells_through_its_own_interface(windows):
    assert machine.memory_bytes() == 12 * GB
    assert machine.free_memory_bytes() == 5 * GB
    assert machine.usable_cores() == 6
    assert machine.oom_kills() == 0


def test_workers_are_counted_where_functions_of_other_systems_are_missing(windows, monkeypatch):
    assert search_options(student="resnet8", device="cpu").workers == 6
    monkeypatch.setattr(os, "cpu_count", lambda: 32)
    assert search_options(student="resnet8", device="cpu").workers == 12, "one for each GB"
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert search_options(student="resnet8", device="cpu").workers == 1


def test_a_failing_interface_is_an_error_of_the_system(windows, monkeypatch):
    monkeypatch.setattr(ctypes.windll.kernel32, "GlobalMemoryStatusEx", lambda _: 0)
    with pytest.raises(OSError, match="GlobalMemoryStatusEx"):
        machine.memory_bytes()


def test_this_machine_says_something_sensible():
    assert machine.memory_bytes() > 2**26
    free = machine.free_memory_bytes()
    assert free is None or 0 <= free <= machine.memory_bytes()
    assert 1 <= machine.usable_cores() <= (os.cpu_count() or 1)


def test_the_age_of_a_process_counts_from_its_start():
    code = "import time; time.sleep(0.5); from autodistill.machine import process_age_s; print(process_age_s())"
    begun = time.monotonic()
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.5 <= float(found.stdout) <= time.monotonic() - begun + 0.02, "the system counts hundredths of a second"
