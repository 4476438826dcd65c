"""Load test of the page: is every request served, does memory stay flat, are temporary files removed?

`python benchmarks/soak.py` starts the page with a tiny model and sends 30 requests from 8 clients; half of them
render, the others preview. Needs the extra `demo`, and Linux to read the page's memory.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gradio_client import Client, handle_file
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from osmnet import OSMNetPipeline  # noqa: E402
from osmnet.provenance.verify import verify  # noqa: E402
from tests.support.dummies import portrait, speech, write_wav  # noqa: E402

WARM = 8  # requests after which memory is first reported
PATIENCE = 300  # s until the page must be there


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
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.fromarray(portrait()).save(folder / "face.png")
        write_wav(folder / "speech.wav", speech(2.0))
        page, url = start_page(folder)
        try:
            report(folder, page, url, arguments.requests, arguments.clients)
        finally:
            page.send_signal(signal.SIGTERM)
            page.wait()
        left = [path.name for path in (folder / "work").iterdir()]
        print(f"left behind after the end: {', '.join(left) or 'nothing'}")


def report(folder: Path, page: subprocess.Popen, url: str, requests: int, clients: int) -> None:
    """Send the requests and print the results."""
    inputs = handle_file(str(folder / "face.png")), handle_file(str(folder / "speech.wav"))
    memory: list[float] = []
    visitors = [Client(url, verbose=False, download_files=str(folder / "got")) for _ in range(clients)]

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


if __name__ == "__main__":
    main()
