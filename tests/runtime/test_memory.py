import os
import platform
from pathlib import Path

import pytest

from rwcnet_runtime.memory import bytes_needed, give_back, memory_at_hand

GB = 10**9


@pytest.fixture
def machine(tmp_path):
    """A root folder of a Linux machine of 16 GB; files of control groups are added to it."""

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    write({"proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 9000000 kB\nSwapFree: 1000 kB\n"})
    return write


def test_a_machine_without_limits_has_what_it_has(machine):
    found = memory_at_hand(
        machine({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"})
    )
    assert (found.limit, found.free) == (16_000_000 * 1024, 9_001_000 * 1024)


def test_the_tightest_control_group_above_the_process_counts(machine):
    files = {"proc/self/cgroup": "0::/box/job\n"}
    for place, limit, used in (("box", 4 * GB, 2 * GB), ("box/job", 8 * GB, GB)):
        files |= {
            f"sys/fs/cgroup/{place}/memory.max": f"{limit}\n",
            f"sys/fs/cgroup/{place}/memory.current": f"{used}\n",
            f"sys/fs/cgroup/{place}/memory.stat": "anon 5\ninactive_file 500000000\n",
        }
    found = memory_at_hand(machine(files))
    assert (found.limit, found.free) == (4 * GB, 2.5 * GB)
    assert found.usable == pytest.approx(3.6 * GB)


def test_control_groups_of_the_first_version_are_read_at_the_top_of_a_container(machine):
    folder = "sys/fs/cgroup/memory"
    found = memory_at_hand(
        machine(
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/of/the/host\n",
                f"{folder}/memory.limit_in_bytes": f"{3 * GB}\n",
                f"{folder}/memory.usage_in_bytes": f"{GB}\n",
                f"{folder}/memory.stat": "inactive_file 7\ntotal_inactive_file 100\n",
            }
        )
    )
    assert (found.limit, found.free) == (3 * GB, 2 * GB + 100)


def test_a_system_that_does_not_say_is_not_limited(tmp_path):
    assert memory_at_hand(tmp_path).free is None


def test_an_old_kernel_does_not_say_what_is_free(machine):
    found = memory_at_hand(machine({"proc/meminfo": "MemTotal: 1000 kB\nSwapFree: 1 kB\n"}))
    assert (found.limit, found.free) == (1_024_000, None)


def test_memory_given_back_leaves_the_process():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if platform.libc_ver()[0] != "glibc":
        pytest.skip("of glibc")
    # Small enough for the heap; the last one keeps its top where it is.
    blocks = [b"x" * 50_000 for _ in range(2000)]
    last = blocks[-1]
    del blocks
    before = resident()
    give_back()
    assert resident() < before - 80_000_000, len(last)


def test_the_network_or_its_patches_or_the_output_decide_what_is_needed():
    network = bytes_needed(10**6, 10**6, 500, 10**7, program=False)
    patches = bytes_needed(10**6, 10**6, 500, 10**6, program=False)
    output = bytes_needed(10**8, 10**8, 500, 10**3, program=False)
    assert (network, patches, output) == (5 * GB, GB, 2.8 * GB)
    assert bytes_needed(10**8, 10**8, 500, 10**3) > output + 8 * 10**8
