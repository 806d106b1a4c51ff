#!/usr/bin/env python3
"""What a cluster keeps of keys that were overwritten, and how soon a node with many keys serves again.

Three nodes on this machine. All keys are put once, then five times more, then old versions are compacted away
and nobody does anything else; then a node is killed, and started again by `holdfast dev`.

    cargo build --release
    server/holdfast/benches/overwrites.py [--keys 300000] [--overwrites 5]

Needs curl. Prints a line for each step. Disk is that of the state of the node with the most, without the log: the log has a
budget of its own.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from compare_etcd import Clusters, free_ports, measure
from compare_fill import disk_mib

# How long a compaction may take to show, and how long it must have shown nothing new.
SETTLED_WITHIN_S = 300
QUIET_FOR_S = 15
SERVES_WITHIN_S = 60
MARK = "overwritten"
# A RangeRequest for the key `a`, uncompressed, in its gRPC frame.
READ = b"\x00\x00\x00\x00\x03\x0a\x01a"


def state_mib(nodes):
    """Of the node with the most."""
    return max(disk_mib(Path(node["data_dir"]) / "state") for node in nodes)


def settled(nodes, bound=0):
    """Disk once it is within the bound, if there is one, and has not shrunk for a while; when it was last seen to
    shrink, and when it came within the bound."""
    begun = last = time.monotonic()
    least, within = state_mib(nodes), None
    def is_settled():
        return (not bound or within is not None) and time.monotonic() - last > QUIET_FOR_S

    while not is_settled() and time.monotonic() - begun < SETTLED_WITHIN_S:
        time.sleep(0.5)
        now = state_mib(nodes)
        if now < least * 0.98:
            least, last = now, time.monotonic()
        if within is None and now <= bound:
            within = time.monotonic() - begun
    return state_mib(nodes), last - begun, within


def ctl(args, endpoint, *words):
    done = subprocess.run([args.ctl, "-o", "json", "--endpoints", endpoint, *words],
                          capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def nodes_of(data):
    return json.loads((data / "cluster.json").read_text())["nodes"]


def serves(endpoint):
    """Whether this very node answers a linearizable read, asked without a client that would ask another."""
    done = subprocess.run(
        ["curl", "--silent", "--http2-prior-knowledge", "--max-time", "1", "--output", "/dev/null", "--dump-header", "-",
         "--header", "content-type: application/grpc", "--header", "te: trailers", "--data-binary", "@-",
         f"http://{endpoint}/etcdserverpb.KV/Range"],
        input=READ, capture_output=True, check=False,
    )
    return b"grpc-status: 0" in done.stdout


def restart(data):
    """Seconds from the start of a process that was killed before to its first linearizable read."""
    victim = nodes_of(data)[-1]
    endpoint = victim["client_url"].removeprefix("http://")
    if not serves(endpoint):
        sys.exit("the node that is to be killed does not serve")
    os.kill(victim["pid"], signal.SIGKILL)
    deadline = time.monotonic() + SERVES_WITHIN_S
    while nodes_of(data)[-1]["pid"] == victim["pid"]:
        if time.monotonic() > deadline:
            sys.exit("nobody started the killed node again")
        time.sleep(0.01)
    begun = time.monotonic()
    while not serves(endpoint):
        if time.monotonic() > deadline:
            sys.exit("the killed node does not serve")
        time.sleep(0.01)
    return time.monotonic() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--holdfast", default="target/release/holdfast")
    parser.add_argument("--ctl", default="target/release/holdfastctl")
    parser.add_argument("--keys", type=int, default=300_000)
    parser.add_argument("--overwrites", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=256)
    args = parser.parse_args()
    args.duration = "1h"
    clusters = Clusters(tempfile.mkdtemp(prefix="overwrites-"))
    try:
        addresses, pids = clusters.holdfast(args.holdfast, free_ports())
        data = clusters.directory / "holdfast"

        def fill():
            return measure(args, f"fill:{args.concurrency}", addresses, pids)["ops_per_second"]

        rate = fill()
        live, _, _ = settled(nodes_of(data))
        print(f"filled: {rate:,.0f} puts/s, live data take {live:.0f} MiB", flush=True)
        for round_ in range(args.overwrites):
            print(f"overwritten {round_ + 1}: {fill():,.0f} puts/s, {state_mib(nodes_of(data)):.0f} MiB", flush=True)
        # A key that is read after the restart, and the present revision.
        answer = ctl(args, addresses[0], "put", MARK, "1")
        if answer is None or ctl(args, addresses[0], "compact", str(answer["header"]["revision"])) is None:
            sys.exit("the old versions cannot be compacted away")
        disk, last, within = settled(nodes_of(data), 2 * live)
        when = "never" if within is None else f"after {within:.1f} s"
        print(f"compacted: {disk:.0f} MiB, {disk / live:.2f} times live data, last shrunk after {last:.1f} s, "
              f"twice live data {when}", flush=True)
        for _ in range(3):
            print(f"restarted: served after {restart(data):.2f} s", flush=True)
    finally:
        clusters.end()


if __name__ == "__main__":
    main()
