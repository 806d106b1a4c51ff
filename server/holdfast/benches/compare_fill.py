#!/usr/bin/env python3
"""A fill of many keys in Holdfast and in etcd: three nodes each on this machine, one after the other, medians.

Each round starts clusters of its own, so that both begin empty, and the order changes with the round. Beside what
the load generator prints: resident memory of a node while it is filled and at the end, its disk at the end.

    cargo build --release
    server/holdfast/benches/compare_fill.py --etcd DIRECTORY-OF-ETCD [--rounds 3] [--keys 1000000]

Prints a Markdown table.
"""

import statistics
import sys
import tempfile
import threading
from pathlib import Path

from compare_etcd import Clusters, arguments, free_ports, measure

SAMPLE_EVERY_S = 0.25


def resident_mib(pid):
    """Resident memory of a process; 0 once it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0


def disk_mib(directory):
    return sum(file.stat().st_blocks for file in directory.rglob("*") if file.is_file()) / 2048


class Memory:
    """The most that any of some processes held, sampled while the block runs."""

    def __init__(self, pids):
        self.pids = pids
        self.most = 0
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.sample)

    def sample(self):
        while not self.done.wait(SAMPLE_EVERY_S):
            self.look()

    def look(self):
        self.most = max(self.most, *map(resident_mib, self.pids))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        self.look()


def fill(args, name):
    clusters = Clusters(tempfile.mkdtemp(prefix="fill-"))
    try:
        port = free_ports()
        if name == "etcd":
            addresses, pids = clusters.etcd(str(args.etcd / "etcd"), port)
            data = [clusters.directory / f"e{i}" for i in range(len(pids))]
        else:
            addresses, pids = clusters.holdfast(args.holdfast, port)
            data = sorted(path for path in (clusters.directory / "holdfast").iterdir() if path.is_dir())
        with Memory(pids) as memory:
            run = measure(args, f"fill:{args.concurrency}", addresses, pids)
        return {
            "puts/s": run["ops_per_second"],
            "p99, ms": run["p99_ms"],
            "longest time without any answer, ms": run["stall_ms"],
            "CPU-ms of the three nodes for 1,000 puts": run["cpu_ms_per_1000_ops"],
            "resident memory of a node at the end, at most, MiB": max(map(resident_mib, pids)),
            "resident memory of a node at any time, at most, MiB": memory.most,
            "disk of a node at the end, at most, MiB": max(map(disk_mib, data)),
        }
    finally:
        clusters.end()


def main():
    parser = arguments(__doc__, rounds=3, keys=1_000_000)
    parser.add_argument("--concurrency", type=int, default=256)
    args = parser.parse_args()
    # A fill ends with its last key, whatever this says.
    args.duration = "1h"
    runs = {"etcd": [], "Holdfast": []}
    for round_ in range(args.rounds):
        order = list(runs)
        if round_ % 2:
            order.reverse()
        for name in order:
            run = fill(args, name)
            runs[name].append(run)
            print(f"round {round_ + 1}: {name}: {run}", file=sys.stderr)
    print("| | etcd | Holdfast | ratio |")
    print("| --- | --- | --- | --- |")
    for row in runs["etcd"][0]:
        etcd, ours = (statistics.median(run[row] for run in of) for of in runs.values())
        print(f"| {row} | {etcd:,.0f} | {ours:,.0f} | {ours / etcd:.2f} |")


if __name__ == "__main__":
    main()
