"""The page: one portrait and one recording in, as many different takes as you ask for out. `python app.py` opens it.

The tabs are built in `demo/`, the work is done by `osmnet.serving`. docs/page.md describes both, and the environment
variables that set the limits.
"""

import logging
import signal
import sys
from pathlib import Path
from typing import Any

from demo.memory import allow_connections, share_arenas
from demo.zero_gpu import LENT, make_paint  # before anything that may ask for a GPU, as many libraries do

# isort: split
import gradio as gr
from gradio.utils import get_upload_folder

from demo.bases_tab import BasesTab
from demo.create_tab import CreateTab
from demo.endpoints import Endpoints
from demo.guard import Guard
from demo.parts import ASSETS
from demo.theme import make_theme
from demo.uploads import EXAMPLES
from osmnet.serving.basis_films import BasisFilms
from osmnet.serving.settings import Settings
from osmnet.serving.showcase import Example, Showcase
from osmnet.serving.studio import Studio

TITLE = "osmnet: many takes of one sentence"
INTRO = """# One portrait, one recording, many takes

Speech determines how the lips move, not how the head moves. So every take of a sentence moves differently, as people
do. Look at sketches within a second or two, then render the ones you like."""
ABOUT = Path(__file__).resolve().parent / "demo" / "about.md"
CLEAN_UP_SECONDS = 600  # s between two removals of old uploads and results


def examples() -> list[Example]:
    """Portraits and recordings to try the page with."""
    astronaut, hopper = EXAMPLES / "portrait_astronaut.jpg", EXAMPLES / "portrait_hopper.jpg"
    return [
        Example("Eileen Collins, astronaut", "English, 8 seconds", astronaut, EXAMPLES / "speech_1.wav"),
        Example("Grace Hopper, computer scientist", "German, 8 seconds", hopper, EXAMPLES / "speech_2.wav"),
    ]


def build(studio: Studio, showcase: Showcase, guard: Guard) -> gr.Blocks:
    """Lay out the page and connect it to a studio.

    Args:
        studio (`Studio`): Does the work.
        showcase (`Showcase`): Has the examples.
        guard (`Guard`): Has the limits of clients.

    Returns:
        `gr.Blocks`: To be launched with `launch_options`.
    """
    settings, paint = studio.settings, guard.counted(make_paint(studio))
    films = BasisFilms(studio, EXAMPLES / "portrait_astronaut.jpg")
    with gr.Blocks(title=TITLE, delete_cache=(CLEAN_UP_SECONDS, settings.keep_seconds)) as page:
        gr.Markdown(INTRO, elem_id="hero", container=False)
        with gr.Tabs():
            with gr.Tab("Create", id="create"):
                create = CreateTab(studio, showcase, paint)
            with gr.Tab("Motion space", id="space") as space:
                bases = BasesTab(studio, films)
            with gr.Tab("About", id="about-tab"):
                gr.Markdown(ABOUT.read_text("utf-8"), elem_id="about")
        create.connect(page)
        bases.connect(space)
        Endpoints(studio, films, paint)
    # Closed: on open routes, requests would pass by the queue.
    page.queue(max_size=settings.max_waiting, default_concurrency_limit=2, api_open=False)
    return guard.protect(page)


def launch_options(guard: Guard) -> dict[str, Any]:
    """Options of `gr.Blocks.launch`: visitors can fetch no file of this machine but those made for them."""
    return {
        "theme": make_theme(),
        "css_paths": [ASSETS / "page.css"],
        "max_file_size": guard.settings.max_mb * 2**20,
        "allowed_paths": [],
        "app_kwargs": {"middleware": [guard.middleware()]},
        "enable_monitoring": False,
        "mcp_server": True,
        "run_history": False,
        "state_session_capacity": 200,
        "footer_links": ["api", "gradio"],
    }


def main() -> None:
    """Load the weights and open the page."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    settings = Settings.from_environment()
    share_arenas()
    allow_connections()
    gr.set_static_paths([EXAMPLES])
    studio = Studio.load(settings, folders=[Path(get_upload_folder())])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # how services are stopped
    try:
        showcase = Showcase(studio, examples())
        if LENT:
            # There is no GPU yet. Visitors' calls will run in forks of this process, which must find no thread at
            # work, least of all one that compiles: a lock that it holds would stay locked in them.
            studio.pipe.warm_up()
            showcase.prepare().join()
        else:
            studio.render_pipe.warm_up()
            showcase.prepare()
        guard = Guard(studio)
        build(studio, showcase, guard).launch(**launch_options(guard))
    finally:
        studio.close()


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:  # a setting or the weights
        sys.exit(f"osmnet: {error}")
