"""The page as visitors use it, in a headless Chromium, on a tiny model; run with `pytest -m slow`."""

import hashlib
import os
import shutil
import threading
import urllib.request
from pathlib import Path

import pytest

from osmnet.provenance.verify import verify
from osmnet.serving.jobs import PICTURES, Job, Step
from osmnet.serving.settings import Settings
from osmnet.serving.showcase import Example, Showcase
from osmnet.serving.studio import Studio
from tests.support.dummies import becomes_empty

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra 'browser'")
pytest.importorskip("gradio", reason="needs the extra 'demo'")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")]
PATIENCE = 60_000  # ms; nothing waits for so long on an idle machine


@pytest.fixture(scope="module")
def studio(tiny):
    made = Studio(Settings(size=64, max_seconds=4), tiny)
    yield made
    made.close()


@pytest.fixture(scope="module")
def url(studio, inputs, tmp_path_factory):
    from tests.support.pages import serve

    example = Example("Somebody", "A moment", Path(inputs["face"]), Path(inputs["speech"]))
    with serve(studio, Showcase(studio, [example], num_videos=2), tmp_path_factory.mktemp("cache")) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, url):
    """Opens the page, of a size; at the end no script of it may have failed."""
    errors, contexts = [], []

    def open_page(**options):
        context = browser.new_context(accept_downloads=True, **{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        page.wait_for_selector("#gallery video")  # the example, which is there before anything is asked for
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors


def give(page, inputs, face: str = "face", voice: str = "speech") -> None:
    page.set_input_files("#portrait input[type=file]", inputs[face])
    page.set_input_files("#speech input[type=file]", inputs[voice])
    page.wait_for_selector("#portrait img")
    page.wait_for_selector("#speech .waveform-container, #speech #waveform, #speech canvas", state="attached")


def preview(page) -> None:
    page.click("#preview")
    page.wait_for_selector("#drafts canvas")


def render(page) -> None:
    page.check("#consent input")
    page.click("#drafts .primary")
    page.wait_for_selector("#gallery h3:has-text('finished')")


def test_from_upload_to_a_download_that_verifies(visit, studio, inputs, tmp_path):
    page = visit()
    give(page, inputs)
    page.wait_for_selector("text=A face was found")
    preview(page)
    assert page.locator("#drafts canvas").count() == 4
    page.locator("#drafts .pick input").nth(1).uncheck()
    page.wait_for_selector("#drafts .primary:has-text('Render 3 takes')")
    render(page)
    videos = page.locator("#gallery video")
    assert videos.count() == 3
    assert page.locator("#gallery .line strong").all_text_contents() == ["Take 1", "Take 3", "Take 4"]

    # All play together, one is heard, and the play bar stops all.
    page.click("#gallery .playbar button")
    page.wait_for_function("[...document.querySelectorAll('#gallery video')].every((v) => v.currentTime > 0.2)")
    state = page.evaluate("[...document.querySelectorAll('#gallery video')].map((v) => [v.currentTime, v.muted])")
    assert max(time for time, _ in state) - min(time for time, _ in state) < 0.25
    assert [muted for _, muted in state] == [False, True, True]
    page.click("#gallery .card:nth-child(2) .frame button")
    assert page.evaluate("[...document.querySelectorAll('#gallery video')].map((v) => v.muted)") == [True, False, True]
    page.fill("#gallery input[type=range]", "0.4")
    times = page.evaluate("[...document.querySelectorAll('#gallery video')].map((v) => v.currentTime)")
    assert max(times) - min(times) < 0.25

    # What the browser gets is the file that was signed, byte for byte.
    with page.expect_download() as waiting:
        page.click("#gallery .card:nth-child(1) a[download$='.mp4']")
    assert waiting.value.suggested_filename.startswith("osmnet-take-1-seed-")
    saved = tmp_path / "take.mp4"
    waiting.value.save_as(saved)
    verdict = verify(saved)
    assert verdict.state == "valid" and verdict.consent is True
    source = page.locator("#gallery video").first.get_attribute("src")
    with urllib.request.urlopen(source) as played:
        assert hashlib.sha256(played.read()).digest() == hashlib.sha256(saved.read_bytes()).digest()
    with page.expect_download() as waiting:
        page.click("#gallery .card:nth-child(1) a[download$='.json']")
    assert '"take_seed"' in Path(waiting.value.path()).read_text(encoding="utf-8")

    # More like the second of them.
    page.click("#gallery .card:nth-child(2) .actions button")
    page.wait_for_selector("#drafts .note:has-text('much like take 3')")
    page.wait_for_function("!document.querySelector('#progress ol')")
    assert becomes_empty(studio.folder)

    # Of another person nobody has said anything yet, and the sketches are not of them.
    assert page.is_checked("#consent input")
    page.click("#examples .example")
    page.wait_for_selector("#drafts canvas", state="detached")
    assert not page.is_checked("#consent input")


def test_a_phone(visit, inputs):
    page = visit(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True, device_scale_factor=2)
    give(page, inputs)
    preview(page)
    render(page)
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 0
    for tab in ("Motion space", "About"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate(overflow) <= 0
    page.get_by_role("tab", name="Create").click()
    small = page.evaluate(
        "[...document.querySelectorAll('#drafts button, #gallery button, #gallery a')]"
        ".filter((e) => e.offsetHeight && e.offsetHeight < 32).length"
    )
    assert small == 0  # a finger hits them


def test_everything_has_a_name_and_can_be_reached_with_the_keyboard(visit, inputs):
    page = visit()
    give(page, inputs)
    preview(page)
    nameless = page.evaluate(
        "[...document.querySelectorAll('#drafts, #gallery, #examples')].flatMap((part) =>"
        " [...part.querySelectorAll('button, a, input, video, canvas, svg[role]')]).filter((e) =>"
        " !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).map((e) => e.outerHTML)"
    )
    assert nameless == []
    page.locator("#gallery .playbar button").focus()
    page.keyboard.press("Space")
    page.wait_for_function("[...document.querySelectorAll('#gallery video')].every((v) => v.currentTime > 0)")


def test_bad_input_is_said_where_it_is(visit, inputs):
    page = visit()
    page.click("#preview")
    page.wait_for_selector("#inputs .refused:has-text('There is no portrait yet')")
    page.wait_for_selector(".toast-body.error")
    give(page, inputs, "empty", "long")
    page.wait_for_selector("#inputs .refused:has-text('No face was found')")
    page.wait_for_selector("#inputs .refused:has-text('use its first 4 s')")
    page.get_by_role("button", name="Use its first 4 seconds").click()
    page.wait_for_selector("#inputs .refused:has-text('use its first 4 s')", state="detached")
    page.get_by_role("button", name="Remove").or_(page.get_by_label("Clear")).first.click()
    page.set_input_files("#portrait input[type=file]", inputs["face"])
    page.wait_for_selector("text=A face was found")
    preview(page)
    page.click("#drafts .primary")  # without the tick
    page.wait_for_selector("#inputs .refused:has-text('Please tick first')")


class Held:
    """Rendering that waits for `go`; `begun` counts the requests, `closed` is set when one is stopped."""

    def __init__(self, studio, monkeypatch):
        self.begun, self.go, self.closed = 0, threading.Event(), threading.Event()
        self._render = studio.render
        monkeypatch.setattr(studio, "render", lambda *arguments: Job(self._wait(*arguments)))

    def _wait(self, *arguments):
        self.begun += 1
        try:
            while not self.go.wait(0.2):
                yield Step(PICTURES, 0.0)
            with self._render(*arguments) as job:
                yield from job
                return job.result()
        except GeneratorExit:
            self.closed.set()
            raise


def test_stop_two_clicks_and_a_closed_tab_leave_the_page_free(visit, studio, inputs, monkeypatch):
    page = visit()
    give(page, inputs)
    preview(page)
    page.check("#consent input")
    held = Held(studio, monkeypatch)
    page.click("#drafts .primary")
    page.click("#stop")
    assert held.closed.wait(PATIENCE / 1000)
    page.wait_for_selector("#stop", state="hidden")
    page.wait_for_function("!document.querySelector('#progress ol')")

    page.click("#drafts .primary", click_count=2)
    page.wait_for_selector("#progress progress")
    held.go.set()
    page.wait_for_selector("#gallery h3:has-text('finished')")
    assert held.begun == 2

    held.go.clear()
    held.closed.clear()
    page.click("#drafts .primary")
    page.wait_for_selector("#progress progress")
    page.close()
    assert held.closed.wait(PATIENCE / 1000)

    held.go.set()
    other = visit()  # nothing of the first is seen here, and it is served
    assert other.locator("#drafts canvas").count() == 0
    give(other, inputs)
    preview(other)
    render(other)
    assert becomes_empty(studio.folder)


def test_the_motion_space_moves_an_example(visit):
    page = visit()
    page.get_by_role("tab", name="Motion space").click()
    page.get_by_role("button", name="Show the basis").click()
    page.wait_for_selector("video[src*='basis-0']")
    page.get_by_role("button", name="Turn and frontalise the face").click()
    page.wait_for_selector("#turned img")
    assert page.locator("#turned img").count() == 3
