"""Take the screenshots of the page that README.md and docs/page.md show.

`python scripts/screenshots.py` renders with the weights in the package and drives a headless Chromium (`CHROMIUM` says
where it is, if not in the path). Needs the extras `demo` and `browser`; a minute or two on two cores.
"""

import argparse
import io
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

import app  # noqa: E402
from osmnet.serving.settings import Settings  # noqa: E402
from osmnet.serving.showcase import Showcase  # noqa: E402
from osmnet.serving.studio import Studio  # noqa: E402

PATIENCE = 240_000  # ms
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844}, "device_scale_factor": 1.5, "is_mobile": True, "has_touch": True,
}  # fmt: skip
AT_S = 2.6  # s, the moment of the takes that is shown
QUALITY = 72  # of JPEG, 0 to 100; four pictures take about 1.2 MB
STILL = ".playbar { position: static !important; }"  # else it sticks to the edge of the window


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs", help="folder (default: docs/)")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    settings = Settings()
    app.gr.set_static_paths([app.EXAMPLES])
    studio = Studio.load(settings)
    guard = app.Guard(studio)
    page = app.build(studio, Showcase(studio, app.examples()), guard)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **app.launch_options(guard))
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])

        def visit(**options: Any) -> Page:
            context = browser.new_context(**options)
            context.set_default_timeout(PATIENCE)
            opened = context.new_page()
            opened.goto(url)
            opened.wait_for_selector("#gallery video")
            return opened

        desktop = visit(**DESKTOP)
        make_takes(desktop)
        shoot(desktop, out / "page.jpg")
        phone = visit(**PHONE)
        make_takes(phone)
        shoot(phone, out / "page_phone.jpg")
        dark = visit(**DESKTOP, color_scheme="dark")
        make_takes(dark)
        shoot(dark, out / "page_dark.jpg")
        space = visit(**DESKTOP)
        show_space(space)
        shoot(space, out / "page_space.jpg")
        browser.close()
    page.close()
    studio.close()


def make_takes(page: Page) -> None:
    """Go from an example to sketches and rendered takes, all stopped at the same moment."""
    page.click("#examples .example >> nth=0")
    page.wait_for_selector("#portrait img")
    page.wait_for_selector("text=A face was found")
    page.click("#preview")
    page.wait_for_selector("#drafts canvas")
    page.check("#consent input")
    page.click("#drafts .primary")
    page.wait_for_selector("#gallery h3:has-text('finished')")
    for part in ("#drafts", "#gallery"):
        page.fill(f"{part} .playbar input", str(AT_S))
    page.wait_for_function("[...document.querySelectorAll('video')].every((v) => v.readyState > 2 && !v.seeking)")


def show_space(page: Page) -> None:
    """Show a basis and a face turned by bases."""
    page.get_by_role("tab", name="Motion space").click()
    page.get_by_role("button", name="Show the basis").click()
    page.wait_for_selector("video[src*='basis-0']")
    page.get_by_role("button", name="Turn and frontalise the face").click()
    page.wait_for_selector("#turned img")
    page.wait_for_function("[...document.images].every((image) => image.complete)")


def shoot(page: Page, path: Path) -> None:
    """Write the whole page as a JPEG."""
    page.mouse.move(0, 0)  # nothing is hovered over
    page.evaluate("window.scrollTo(0, 0)")
    content = page.screenshot(full_page=True, animations="disabled", style=STILL, timeout=PATIENCE)
    with Image.open(io.BytesIO(content)) as picture:
        picture.convert("RGB").save(path, quality=QUALITY, optimize=True)
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
