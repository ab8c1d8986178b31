"""Fetch blobs from a loopback bucket: assay against BigCode's published way.

That way is one boto3 GetObject a blob, the body through gzip, in a pool of threads. Both use the
same number of connections; assay also checks every digest, keeps a cache and writes parquet. The
server holds all blobs in memory and answers after a delay that stands for the distance to a
bucket. It shares the machine with its client, so that its own limit, measured with plain sockets
and no decoding, is printed too.

    python -m tests.benchmarks.fetch --blobs 20000
"""

import argparse
import asyncio
import gzip
import hashlib
import json
import os
import platform
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from data.fetch import Fetching, FetchJob, fetch_unit
from data.stack_v2 import read_index
from tests.data.sources import BUCKET, Blob, write_file_rows
from tests.data.stack_server import NO_OTHER_CREDENTIALS

MEAN_BYTES = 4_000
"""About that of the Python of The Stack v2."""
PROBES = 8
CONNECTIONS = (64, 256)
DELAYS_SECONDS = (0.0, 0.05)
OK = (
    "HTTP/1.1 200 OK\r\nETag: x\r\nLast-Modified: Wed, 01 Jan 2025 00:00:00 GMT\r\n"
    "Content-Type: binary/octet-stream\r\nContent-Length: {}\r\n\r\n"
)
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def blobs(num: int) -> list[Blob]:
    """Return blobs of real source lines, with the long tail that source files have."""
    source = b"".join(path.read_bytes() for path in sorted(Path(os.__file__).parent.glob("*.py")))
    lines = source.splitlines(keepends=True)
    generator = np.random.default_rng(0)
    counts = np.maximum(generator.lognormal(4, 1, num) * MEAN_BYTES / 3300, 1).astype(int)
    starts = generator.integers(0, len(lines), num)
    return [
        Blob(b"# %d\n" % n + b"".join(lines[start : start + count]), f"/{n}.py")
        for n, (start, count) in enumerate(zip(starts, counts, strict=True))
    ]


class Answers(asyncio.Protocol):
    """One connection of the server."""

    def __init__(self, objects: dict[str, bytes], delay_seconds: float) -> None:
        self._objects, self._delay_seconds = objects, delay_seconds
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *requests, self._received = (self._received + data).split(b"\r\n\r\n")
        for request in requests:
            key = request.split(b" ", 2)[1].rpartition(b"/")[2].decode()
            answer = self._objects.get(key, NOT_FOUND)
            if self._delay_seconds:
                loop = asyncio.get_running_loop()
                loop.call_later(self._delay_seconds, self._transport.write, answer)
            else:
                self._transport.write(answer)


async def serve(num_blobs: int, delay_seconds: float) -> None:
    """Serve until killed; the port is printed once all is there."""
    objects = {}
    for blob in blobs(num_blobs):
        body = gzip.compress(blob.content, 6)
        objects[blob.blob_id] = OK.format(len(body)).encode() + body
    server = await asyncio.get_running_loop().create_server(
        lambda: Answers(objects, delay_seconds), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def served(num_blobs: int, delay_seconds: float) -> Iterator[int]:
    """Run the server in a process of its own; give its port."""
    arguments = ["--serve", str(delay_seconds), "--blobs", str(num_blobs)]
    command = [sys.executable, "-m", "tests.benchmarks.fetch", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.kill()


def by_assay(index: Path, connections: int) -> int:
    """Fetch as assay does, parquet included."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "out"
        out.mkdir()
        cache = str(Path(directory) / "cache")
        fetching = Fetching(
            cache=cache, max_in_flight=connections, max_retries=5, patience_seconds=60.0
        )
        listed = read_index(index, "Python", 0, 2**62)
        job = FetchJob("Python", BUCKET, anonymous=True, max_blob_bytes=10**7, max_missing_share=0)
        fetch_unit(job, fetching, listed, "benchmark", out)
        return int(json.loads((out / "account.json").read_text())["num_bytes"])


def by_boto3(index: Path, connections: int) -> int:
    """Fetch as the card of The Stack v2 does, with the pool of threads that it leaves open."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    config = Config(max_pool_connections=connections, signature_version=UNSIGNED)
    client = boto3.client("s3", config=config)
    names = read_index(index, "Python", 0, 2**62)["blob_id"].to_pylist()

    def one(name: str) -> int:
        found = client.get_object(Bucket="softwareheritage", Key=f"content/{name}")
        with gzip.GzipFile(fileobj=found["Body"]) as content:
            return len(content.read())

    with ThreadPoolExecutor(connections) as threads:
        return sum(threads.map(one, names))


def by_sockets(index: Path, connections: int) -> int:
    """Ask for all blobs as fast as sockets can, each connection all its requests at once."""
    listed = read_index(index, "Python", 0, 2**62)
    names = listed["blob_id"].to_pylist()

    def one(mine: list[str]) -> None:
        requests = "".join(f"GET /b/{name} HTTP/1.1\r\n\r\n" for name in mine).encode()
        port = int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection:
            sender = threading.Thread(target=connection.sendall, args=(requests,))
            sender.start()
            answers = 0
            while answers < len(mine):
                received = connection.recv(2**20)
                answers += received.count(b"HTTP/1.1 200")

    threads = [threading.Thread(target=one, args=(names[n::PROBES],)) for n in range(PROBES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(listed["length_bytes"].to_pylist())


CONTENDERS: dict[str, Callable[[Path, int], int]] = {
    "assay": by_assay,
    "boto3 + gzip, threads": by_boto3,
    "server's own limit": by_sockets,
}


def contend(name: str, index: Path, connections: int) -> None:
    """Run a contender and print what it took; imports are not counted."""
    import boto3
    import obstore

    assert boto3
    assert obstore
    wall = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_SELF)
    num_bytes = CONTENDERS[name](index, connections)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    wall = time.perf_counter() - wall
    peak_mb = after.ru_maxrss * 1024 / 1e6
    print(json.dumps({"wall": wall, "cpu": cpu, "bytes": num_bytes, "peak_mb": peak_mb}))


def measure(name: str, index: Path, connections: int, port: int, num_blobs: int) -> str:
    """Run a contender in a process of its own; return a row of the table."""
    arguments = ["--contender", name, "--index", str(index), "--connections", str(connections)]
    credentials = {"AWS_REGION": "us-east-1", **NO_OTHER_CREDENTIALS}
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.fetch", *arguments],
        env={**os.environ, **credentials, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    took = json.loads(done.stdout)
    return (
        f"| {name} | {connections} | {num_blobs / took['wall']:,.0f} "
        f"| {took['bytes'] / 1e6 / took['wall']:,.1f} | {num_blobs / took['cpu']:,.0f} "
        f"| {took['peak_mb']:,.0f} |"
    )


def table(num_blobs: int, contenders: Sequence[str]) -> None:
    """Print the whole comparison."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("obstore", "boto3", "pyarrow"))
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load "
        f"{os.getloadavg()[0]:.1f}; Python {platform.python_version()}, {versions}"
    )
    with tempfile.TemporaryDirectory() as directory:
        index = Path(directory) / "index.parquet"
        files = blobs(num_blobs)
        write_file_rows(index, [files])
        digest = hashlib.sha256(index.read_bytes()).hexdigest()[:12]
        mean = sum(len(blob.content) for blob in files) / num_blobs
        print(f"{num_blobs:,} blobs of {mean:,.0f} bytes on average, index {digest}")
        for delay_seconds in DELAYS_SECONDS:
            print(f"\nanswers after {delay_seconds * 1000:.0f} ms\n")
            print("| | connections | blobs/s | MB/s | blobs/cpu-s | peak MB |")
            print("|---|---|---|---|---|---|")
            with served(num_blobs, delay_seconds) as port:
                for connections in CONNECTIONS:
                    for name in contenders:
                        if name != "server's own limit" or connections == CONNECTIONS[0]:
                            print(measure(name, index, connections, port, num_blobs), flush=True)


def main() -> None:
    """Print the table, or be one of its parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blobs", type=int, default=20_000)
    parser.add_argument("--serve", type=float)
    parser.add_argument("--contender", choices=CONTENDERS)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--connections", type=int)
    parser.add_argument("--only", choices=CONTENDERS, action="append", help="leave out the others")
    given = parser.parse_args()
    if given.serve is not None:
        asyncio.run(serve(given.blobs, given.serve))
    elif given.contender:
        contend(given.contender, given.index, given.connections)
    else:
        table(given.blobs, given.only or tuple(CONTENDERS))


if __name__ == "__main__":
    main()
