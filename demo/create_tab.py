"""The tab *Create*: what its widgets do."""

import secrets
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import gradio as gr

from demo.create_layout import SEEDS, lay_out
from demo.events import HEAVY, HIDDEN, LIGHT, Options, note, portrait_note, refuse
from demo.parts import drafts_value, file_data, gallery_value, progress_value, waiting_value
from demo.zero_gpu import Paint
from osmnet.pipelines.options import PictureOptions
from osmnet.serving.drafts import Draft
from osmnet.serving.inputs import RefusedInputError
from osmnet.serving.jobs import PICTURES, Step
from osmnet.serving.showcase import Showcase
from osmnet.serving.studio import Studio

NO_CONSENT = "Please tick first that the people who are seen and heard have agreed."
GONE = "These takes are gone; preview new ones."
SETTLE_SECONDS = 0.5  # s; the last progress of a stopped job may still be on its way
Updates = Generator[dict[Any, Any]]


class CreateTab:
    """Adds the widgets to the tab that is being built, and connects them.

    Args:
        studio (`Studio`): Does the work.
        showcase (`Showcase`): Has the examples.
        paint (`Callable`): Renders a draft, see `make_paint`.
    """

    def __init__(self, studio: Studio, showcase: Showcase, paint: Paint):
        self.studio, self.showcase, self.paint = studio, showcase, paint
        self.widgets = widgets = lay_out(studio.settings)
        self.idle = {
            widgets.progress: None,
            widgets.stop: gr.update(visible=False),
            widgets.preview: gr.update(interactive=True),
        }
        self.notes = {
            "portrait": widgets.portrait_note,
            "speech": widgets.speech_note,
            "consent": widgets.consent_note,
            "takes": widgets.consent_note,
        }

    def connect(self, page: gr.Blocks) -> None:
        """Connect the widgets; `page` shows the first example when it loads."""
        self._connect_inputs()
        self._connect_work()
        self._connect_examples(page)

    def _connect_inputs(self) -> None:
        w = self.widgets
        for widget in (w.portrait, w.speech):  # consent and sketches belong to the inputs before
            widget.change(lambda: (False, None, None), None, [w.consent, w.drafted, w.drafts], queue=False, **HIDDEN)
        w.portrait.change(
            self.check_portrait, [w.portrait, w.options["full_frame"]], w.portrait_note, **HIDDEN, **LIGHT
        )
        w.speech.change(self.check_speech, w.speech, [w.speech_note, w.shorten], **HIDDEN, **LIGHT)
        w.shorten.click(self.use_first_seconds, w.speech, w.speech, **HIDDEN, **LIGHT)
        w.consent.change(lambda _: note(), w.consent, w.consent_note, queue=False, **HIDDEN)
        w.dice.click(None, None, w.options["seed"], js=f"() => Math.floor(Math.random() * {SEEDS})")

    def _connect_work(self) -> None:
        w, notes = self.widgets, list(dict.fromkeys(self.notes.values()))
        self.previewing = w.preview.click(
            self.make_drafts, [w.portrait, w.speech, *w.options.values()], [*self.idle, w.drafted, w.drafts, *notes],
            trigger_mode="once", **HIDDEN, **LIGHT,
        )  # fmt: skip
        for part, draft in ((w.drafts, w.drafted), (w.gallery, w.rendered)):
            part.more(self.make_more, draft, [w.drafted, w.drafts], trigger_mode="once", **HIDDEN, **LIGHT)
        w.drafts.chosen(  # rendering may have to wait for others first
            lambda draft, has_agreed: gr.update(visible=bool(draft and has_agreed)), [w.drafted, w.consent], w.stop,
            queue=False, **HIDDEN,
        )  # fmt: skip
        self.rendering = w.drafts.chosen(
            self.render_drafts, [w.drafted, w.consent], [*self.idle, w.rendered, w.gallery, *notes],
            trigger_mode="once", show_progress_on=w.progress, **{**HIDDEN, "show_progress": "minimal"}, **HEAVY,
        )  # fmt: skip
        stopped = w.stop.click(
            lambda: self.idle, None, list(self.idle), cancels=[self.previewing, self.rendering], queue=False, **HIDDEN
        )
        stopped.then(self.settle, None, list(self.idle), queue=False, **HIDDEN)

    def _connect_examples(self, page: gr.Blocks) -> None:
        w = self.widgets
        page.load(self.show_cards, None, w.examples, queue=False, **HIDDEN)
        if self.showcase.examples:
            page.load(self.show_first_example, None, [w.rendered, w.gallery], concurrency_limit=None, **HIDDEN)
            w.examples.pick(
                self.pick_example, None, [w.portrait, w.speech, w.rendered, w.gallery, *self.idle],
                cancels=[self.previewing, self.rendering], concurrency_limit=None, **HIDDEN,
            )  # fmt: skip

    # 1. Inputs are checked as soon as they are there.

    def check_portrait(self, path: str | None, full_frame: bool) -> Generator[Options]:
        """Say whether a face was found."""
        yield note("Looking for the face …" if path else "")
        if path:
            yield portrait_note(self.studio, path, PictureOptions(full_frame=full_frame))

    def check_speech(self, path: str | None) -> tuple[Options, Options]:
        """Say whether the recording is too long, and offer its first seconds."""
        if not path:
            return note(), gr.update(visible=False)
        inputs = self.studio.inputs
        try:
            recording = inputs.recording(path)
        except RefusedInputError as error:
            return note(str(error), refused=True), gr.update(visible=False)
        long = inputs.is_too_long(recording)
        return note(inputs.too_long(recording) if long else "", refused=long), gr.update(visible=long)

    def use_first_seconds(self, path: str | None) -> Generator[str]:
        """Replace the recording by its first seconds."""
        with self.studio.temporary_folder() as folder:
            try:
                yield str(self.studio.inputs.first_seconds(path, Path(folder) / "first_seconds.wav"))
            except RefusedInputError as error:
                raise refuse(error) from None

    # 2. Sketches of takes.

    def make_drafts(self, portrait: str | None, speech: str | None, *values: Any) -> Updates:
        """Sample takes and show their sketches."""
        w = self.widgets
        yield {w.consent_note: note(), w.stop: gr.update(visible=True)}
        options = dict(zip(w.options, values, strict=True))
        try:
            if options["seed"] is None or not 0 <= options["seed"] < SEEDS:
                raise RefusedInputError("takes", f"The seed must be a whole number from 0 to {SEEDS - 1}.")
            with self.studio.draft(portrait, speech, **options) as job:
                for step in job:
                    yield {w.progress: progress_value(step)}
                draft = job.result()
        except RefusedInputError as error:
            yield self._point_at(error)
            raise refuse(error) from None
        yield {w.drafted: draft, w.drafts: drafts_value(self.studio, draft), **self.idle}

    def make_more(self, draft: Draft | None, event: gr.EventData) -> dict[Any, Any]:
        """Sample takes near one that is shown."""
        if draft is None:
            raise gr.Error(GONE, print_exception=False)
        try:
            draft = self.studio.more_like(draft, int(event.take), secrets.randbelow(SEEDS))
        except RefusedInputError as error:
            raise refuse(error) from None
        return {self.widgets.drafted: draft, self.widgets.drafts: drafts_value(self.studio, draft)}

    # 3. Videos of those that were picked.

    def render_drafts(self, draft: Draft | None, has_agreed: bool, event: gr.EventData) -> Updates:
        """Render the picked takes and show them in the gallery."""
        w = self.widgets
        try:
            chosen = _chosen(draft, has_agreed, [int(take) for take in event.takes])
            yield {
                w.progress: progress_value(Step(PICTURES, 0.0)), w.consent_note: note(),
                w.stop: gr.update(visible=True), w.preview: gr.update(interactive=False),
            }  # fmt: skip
            with self.studio.temporary_folder() as folder:
                for made in self.paint(chosen, Path(folder), True):
                    if isinstance(made, Step):
                        yield {w.progress: progress_value(made)}
                        continue
                    title = f"{len(made)} finished take{'s' * (len(made) > 1)}"
                    yield {w.rendered: chosen, w.gallery: gallery_value(chosen, made, title, is_new=True), **self.idle}
        except RefusedInputError as error:
            yield self._point_at(error)
            raise refuse(error) from None
        except ValueError as error:  # the disk is full
            yield self.idle
            raise gr.Error(str(error)) from error

    def settle(self) -> dict[Any, Any]:
        """Reset the progress again after a stop."""
        time.sleep(SETTLE_SECONDS)
        return self.idle

    def _point_at(self, error: RefusedInputError) -> dict[Any, Any]:
        """Updates that show a refusal below its widget."""
        return {self.notes[error.field]: note(str(error), refused=True), **self.idle}

    # 4. Examples, rendered beforehand.

    def show_cards(self) -> list[Options]:
        """Value of the part `examples`."""
        return [
            {"title": each.title, "text": each.text, "picture": file_data(each.portrait)}
            for each in self.showcase.examples
        ]

    def show_example(self, index: int) -> Updates:
        """Show the takes of an example; the first visitors after a start wait for them."""
        w, title = self.widgets, f"Example: {self.showcase.examples[index].title}"
        if not self.showcase.is_ready(index):
            yield {w.gallery: waiting_value(f"{title}, being rendered …")}
        draft, takes = self.showcase.show(index)
        yield {w.rendered: draft, w.gallery: gallery_value(draft, takes, title, is_new=False)}

    def show_first_example(self) -> Updates:
        """`show_example` of the first one."""
        yield from self.show_example(0)

    def pick_example(self, event: gr.EventData) -> Updates:
        """Fill in an example and show its takes."""
        index = int(event.index)
        if not 0 <= index < len(self.showcase.examples):
            raise gr.Error("There is no such example.", print_exception=False)
        example = self.showcase.examples[index]
        yield {self.widgets.portrait: str(example.portrait), self.widgets.speech: str(example.speech), **self.idle}
        yield from self.show_example(index)
        yield self.idle  # again, as in `settle`


def _chosen(draft: Draft | None, has_agreed: bool, takes: list[int]) -> Draft:
    if draft is None:
        raise RefusedInputError("takes", GONE)
    if not has_agreed:
        raise RefusedInputError("consent", NO_CONSENT)
    return draft.take(takes)
