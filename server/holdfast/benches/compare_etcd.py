#!/usr/bin/env python3
"""Holdfast beside etcd: three nodes each on this machine, the same load, rounds interleaved, medians.

A figure alone says little on a machine that others share, so both clusters run at the same time, one idle while
the other is loaded, and what counts is the ratio within a run.

    cargo build --release
    server/holdfast/benches/compare_etcd.py --etcd DIRECTORY-OF-ETCD [--rounds 5] [--duration 4s] [--keys 10000]

Prints a Markdown table: operations a second, 99th percentile, CPU time of the three nodes for 1,000 operations.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ZONES = 3
# Ports from which the kernel takes none for outgoing connections.
PORTS = range(20_000, 32_000, 100)
READY_WITHIN_S = 60
STOPPED_WITHIN_S = 20


def free_ports():
    """The first of a hundred ports of which none is taken."""
    for first in PORTS[os.getpid() % len(PORTS):]:
        sockets = []
        try:
            for port in range(first, first + 60):
                listener = socket.socket()
                sockets.append(listener)
                listener.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
        finally:
            for listener in sockets:
                listener.close()
    sys.exit("no hundred ports in a row are free")


class Clusters:
    """Starts clusters below one directory, and ends and removes them."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.processes = []

    def spawn(self, name, *command):
        log = (self.directory / f"{name}.log").open("wb")
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.processes.append(process)
        return process

    def etcd(self, binary, port):
        """Addresses for clients, and process ids."""
        peers = ",".join(f"e{i}=http://127.0.0.1:{port + 10 + i}" for i in range(ZONES))
        pids = []
        for i in range(ZONES):
            client, peer = f"http://127.0.0.1:{port + i}", f"http://127.0.0.1:{port + 10 + i}"
            process = self.spawn(
                f"e{i}", binary, "--name", f"e{i}", "--data-dir", str(self.directory / f"e{i}"),
                "--listen-client-urls", client, "--advertise-client-urls", client,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", peers, "--log-level", "error",
                "--quota-backend-bytes", str(8 << 30),
            )
            pids.append(process.pid)
        for i in range(ZONES):
            self.wait_for(port + i)
        return [f"127.0.0.1:{port + i}" for i in range(ZONES)], pids

    def wait_for(self, port):
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                return socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError as error:
                if time.monotonic() > deadline:
                    sys.exit(f"nobody listens on port {port}: {error}")
                time.sleep(0.1)

    def holdfast(self, binary, port):
        data = self.directory / "holdfast"
        process = self.spawn("holdfast", binary, "dev", "--data-dir", str(data), "--base-port", str(port))
        deadline = time.monotonic() + READY_WITHIN_S
        log = self.directory / "holdfast.log"
        while "ready" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"holdfast dev is not ready:\n{log.read_text()}")
            time.sleep(0.1)
        nodes = json.loads((data / "cluster.json").read_text())["nodes"]
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        addresses = [node["client_url"].removeprefix("http://") for node in nodes]
        return addresses, [int(pid) for pid in children]

    def end(self):
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(STOPPED_WITHIN_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)


def measure(args, cell, addresses, pids):
    operation, concurrency, *more = cell.split(":")
    done = subprocess.run(
        [args.ctl, "-o", "json", "bench", operation, "--concurrency", concurrency, "--duration", args.duration,
         "--keys", str(args.keys), "--endpoints", ",".join(addresses), "--pids", ",".join(map(str, pids)), *more],
        capture_output=True, text=True, check=False,
    )
    if done.returncode:
        sys.exit(f"holdfastctl bench {operation}: {done.stderr}")
    # One run for each concurrency, and one was asked for.
    result = json.loads(done.stdout)
    return result[0] if isinstance(result, list) else result


def arguments(description, rounds, keys):
    """What every comparison is told: the programs, and how much of it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--etcd", required=True, type=Path, help="directory with the program etcd")
    parser.add_argument("--holdfast", default="target/release/holdfast")
    parser.add_argument("--ctl", default="target/release/holdfastctl")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--keys", type=int, default=keys)
    return parser


def main():
    parser = arguments(__doc__, rounds=5, keys=10_000)
    parser.add_argument("--duration", default="4s", help="length of a run")
    parser.add_argument(
        "--cells", default="put:1,put:64,put:256,txn:256,get:1,get:256,get:256:--consistency:s,mixed:256:--read-percent:90",
        help="operation, concurrency and more arguments of holdfastctl bench, with colons between",
    )
    args = parser.parse_args()
    clusters = Clusters(tempfile.mkdtemp(prefix="compare-"))
    try:
        port = free_ports()
        both = {
            "etcd": clusters.etcd(str(args.etcd / "etcd"), port),
            "Holdfast": clusters.holdfast(args.holdfast, port + 20),
        }
        runs = {}
        for round_ in range(args.rounds):
            order = list(both.items())
            if round_ % 2:
                order.reverse()
            for cell in args.cells.split(","):
                for name, (addresses, pids) in order:
                    run = measure(args, cell, addresses, pids)
                    runs.setdefault(cell, {}).setdefault(name, []).append(run)
                    print(f"round {round_ + 1}: {cell} {name}: {run['ops_per_second']:.0f}/s", file=sys.stderr)
        print("| load | etcd ops/s, p99 ms, CPU-ms | Holdfast ops/s, p99 ms, CPU-ms | rate | p99 | CPU |")
        print("| --- | --- | --- | --- | --- | --- |")
        keys = ("ops_per_second", "p99_ms", "cpu_ms_per_1000_ops")
        for cell, of_cell in runs.items():
            etcd, ours = ([statistics.median(run[key] for run in of_cell[name]) for key in keys] for name in both)
            figures = [f"{rate:,.0f}, {p99:.1f}, {cpu:.0f}" for rate, p99, cpu in (etcd, ours)]
            ratios = [f"{mine / theirs:.2f}" for mine, theirs in zip(ours, etcd)]
            print(f"| {cell.replace(':', ' ')} | {' | '.join(figures)} | {' | '.join(ratios)} |")
    finally:
        clusters.end()


if __name__ == "__main__":
    main()
