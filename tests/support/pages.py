"""The page, served on the loopback interface within this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import app
from osmnet.serving.showcase import Showcase
from osmnet.serving.studio import Studio


@contextmanager
def serve(studio: Studio, showcase: Showcase, cache: Path) -> Iterator[str]:
    """Launch the page; gives its address. `cache` is Gradio's folder of uploads and results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(cache))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        app.gr.set_static_paths([app.EXAMPLES])
        guard = app.Guard(studio)
        page = app.build(studio, showcase, guard)
        _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, **app.launch_options(guard))
        yield address
        page.close()
