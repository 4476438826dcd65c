"""Load test of the page: is every request served, does memory stay flat, are temporary files removed?

`python benchmarks/soak.py` starts the page with a tiny model and sends 30 requests from 8 clients; half of them
render, the others preview. With `--hostile`, it does so twice: without and with a client beside them that floods the
queue and uploads garbage, decompression bombs and huge sounds. Needs the extra `demo`, and Linux to read the page's
memory.
"""

import argparse
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from gradio_client import Client, handle_file
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from osmnet import OSMNetPipeline  # noqa: E402
from osmnet.provenance.verify import verify  # noqa: E402
from tests.support.dummies import portrait, speech, write_wav  # noqa: E402

WARM = 8  # requests after which memory is first reported
PATIENCE = 300  # s until the page must be there
HOSTILE_ADDRESS = "192.0.2.66"
HOSTILE_THREADS = 8
SLOWER = 2.0  # factor of the median wait that a hostile client may cost


def memory_mb(process: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def start_page(folder: Path) -> tuple[subprocess.Popen, str]:
    """Start `app.py` with the tiny model; returns the process and the page's address."""
    OSMNetPipeline.tiny().save_pretrained(folder / "tiny")
    (folder / "work").mkdir()
    environment = os.environ | {
        "OSMNET_MODEL": str(folder / "tiny"),
        "OSMNET_SIZE": "64",
        "OSMNET_HOME": str(folder / "home"),
        "OSMNET_PROXIES": "1",  # each client says its address, in place of a proxy
        "TMPDIR": str(folder / "work"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    log = (folder / "page.log").open("w")
    page = subprocess.Popen(
        [sys.executable, REPOSITORY / "app.py"], env=environment, stdout=log, stderr=subprocess.STDOUT
    )
    for _ in range(PATIENCE):
        found = re.search(r"http://[\d.]+:\d+", (folder / "page.log").read_text())
        if found:
            return page, found[0]
        if page.poll() is not None:
            break
        time.sleep(1)
    raise RuntimeError((folder / "page.log").read_text()[-2000:])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--hostile", action="store_true", help="once more, with a hostile client beside the others")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.fromarray(portrait()).save(folder / "face.png")
        write_wav(folder / "speech.wav", speech(2.0))
        page, url = start_page(folder)
        try:
            waits, lost = report(folder, page, url, arguments.requests, arguments.clients)
            if arguments.hostile:
                print()
                with hostile_client(folder, url) as answers:
                    later, lost = report(folder, page, url, arguments.requests, arguments.clients)
                print(f"hostile requests: {', '.join(f'{count} {kind}' for kind, count in sorted(answers.items()))}")
                slower = later[len(later) // 2] / waits[len(waits) // 2]
                print(f"honest requests lost: {lost}; slower by a factor of {slower:.2f} at the median, "
                      f"{later[-1] / waits[-1]:.2f} at the longest")  # fmt: skip
                if lost or slower > SLOWER:
                    sys.exit("The hostile client cost the honest ones too much.")
        finally:
            page.send_signal(signal.SIGTERM)
            page.wait()
        left = [path.name for path in (folder / "work").iterdir()]
        print(f"left behind after the end: {', '.join(left) or 'nothing'}")


def hostile_files(folder: Path) -> list[Path]:
    """Garbage, a PNG of 49 million pixels, and 2.6 hours of noise at 1 kHz."""
    rng = np.random.default_rng(0)
    (folder / "garbage.png").write_bytes(rng.bytes(2**20))
    (folder / "garbage.wav").write_bytes(rng.bytes(2**20))
    side = 7000

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    rows = zlib.compressobj(1)
    data = b"".join(rows.compress(bytes(1 + 4 * side)) for _ in range(side)) + rows.flush()
    header = struct.pack("!IIBBBBB", side, side, 8, 6, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    (folder / "bomb.png").write_bytes(bomb)
    write_wav(folder / "huge.wav", rng.uniform(-0.5, 0.5, 9 * 2**20).astype(np.float32), 1000)
    return [folder / name for name in ("garbage.png", "garbage.wav", "bomb.png", "huge.wav", "face.png", "speech.wav")]


@contextmanager
def hostile_client(folder: Path, url: str) -> Iterator[Counter[str]]:
    """Attack the page from several threads; counts its answers."""
    files = {path.name: path.read_bytes() for path in hostile_files(folder)}
    answers: Counter[str] = Counter()
    over = threading.Event()

    def attack(number: int) -> None:
        rng = np.random.default_rng(number)
        with httpx.Client(headers={"x-forwarded-for": HOSTILE_ADDRESS}, timeout=60) as client:
            paths: dict[str, str] = {}
            while not over.is_set():
                try:
                    name = str(rng.choice(list(files)))
                    if name not in paths or rng.random() < 0.2:
                        sent = client.post(f"{url}/gradio_api/upload", files={"files": (name, files[name])})
                        answers[f"uploads {sent.status_code}"] += 1
                        if sent.status_code == 200:
                            paths[name] = sent.json()[0]
                    face = paths.get(str(rng.choice(["bomb.png", "garbage.png", "face.png"])))
                    voice = paths.get(str(rng.choice(["huge.wav", "garbage.wav", "speech.wav"])))
                    given = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in (face, voice)]
                    options = [6, 1, int(rng.integers(1000)), 1]
                    call, rest = [
                        ("generate", [1, False, True, True, 0, 0, 0, 1, "viewer", True]),
                        ("preview", [False, 0, 0, 0]),
                    ][int(rng.integers(2))]
                    body = {"data": [*given, *options, *rest], "session_hash": uuid.uuid4().hex}
                    sent = client.post(f"{url}/gradio_api/call/{call}", json=body)  # and never look at the result
                    answers[f"calls {sent.status_code}"] += 1
                except httpx.HTTPError:
                    answers["broken connections"] += 1

    threads = [threading.Thread(target=attack, args=(number,)) for number in range(HOSTILE_THREADS)]
    for thread in threads:
        thread.start()
    time.sleep(3)  # s; it was there before the others
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()


def report(folder: Path, page: subprocess.Popen, url: str, requests: int, clients: int) -> tuple[list[float], int]:
    """Send the requests and print the results; gives all waits, sorted, and how many requests were lost."""
    inputs = handle_file(str(folder / "face.png")), handle_file(str(folder / "speech.wav"))
    memory: list[float] = []
    visitors = [
        Client(
            url, verbose=False, download_files=str(folder / "got"), headers={"x-forwarded-for": f"192.0.2.{number}"}
        )
        for number in range(clients)
    ]

    def request(number: int) -> tuple[str, float]:
        client, began = visitors[number % clients], time.monotonic()
        try:
            result: Any
            if number % 2:
                result = client.predict(*inputs, num_videos=2, seed=number, api_name="/preview")
                good = len(result["takes"]) == 2
            else:
                result = client.predict(*inputs, num_videos=2, seed=number, consent=True, api_name="/generate")
                good = all(verify(path).state == "valid" for path in result[0][::2]) and len(result[0]) == 4
            return ("served" if good else "wrong"), time.monotonic() - began
        except Exception as error:  # any failure counts
            return f"failed: {error}", time.monotonic() - began
        finally:
            memory.append(memory_mb(page.pid))

    began = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        outcomes = list(pool.map(request, range(requests)))
    waits = sorted(seconds for _, seconds in outcomes)
    print(f"{requests} requests from {clients} clients in {time.monotonic() - began:.0f} s")
    for kind in sorted({outcome for outcome, _ in outcomes}):
        print(f"{kind}: {sum(outcome == kind for outcome, _ in outcomes)}")
    print(f"waited: median {waits[len(waits) // 2]:.1f} s, longest {waits[-1]:.1f} s")
    shown = sorted({WARM, *range(0, requests, max(requests // 4, 1)), requests} - set(range(WARM)))
    print("memory of the page: " + ", ".join(f"{memory[n - 1]:.0f} MB after {n} requests" for n in shown))
    return waits, sum(outcome != "served" for outcome, _ in outcomes)


if __name__ == "__main__":
    main()
