"""The page: a portrait and speech in, as many different takes as you ask for out. `python app.py` opens it.

Widgets and what they call; the work is in `demo/studio.py`, what the page looks like in `demo/theme.py` and
`demo/assets/`. docs/page.md describes both, and the environment variables that set its limits.
"""

import atexit
import logging
import secrets
import signal
import sys
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

from demo.memory import share_arenas
from demo.zero_gpu import LENT, on_gpu  # before anything that may ask for a GPU, as many libraries do

# isort: split
import gradio as gr

from demo.endpoints import add_endpoints, refuse
from demo.motion_space import MotionSpace
from demo.parts import (
    ASSETS,
    drafts_value,
    file_data,
    gallery_value,
    make_part,
    make_portrait,
    progress_value,
    waiting_value,
)  # fmt: skip
from demo.settings import Settings
from demo.showcase import Example, Showcase
from demo.studio import Draft, RefusedInputError, Step, Studio, Wishes
from demo.theme import make_theme
from osmnet.media.audio import FPS

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE / "examples"
INTRO = """# One portrait, one recording, many takes

Speech says what the lips do, not how the head moves. So every take of a sentence moves differently, as people do.
Look at sketches within a second or two, then render the ones you like."""
TRY = "Try it with an example, or with a picture and a recording of your own:"
CONSENT = "The people in this picture and recording have agreed to this, or they are me."
NO_CONSENT = "Please tick first that the people who are seen and heard have agreed."
BASES = """All movement is mixed of a few dozen **bases**, short movements that were learned from real speakers. Pick
one to see what it does: *held* on the left, where the movement stays at the basis, and *swung* on the right, between
the basis and its opposite."""
SEEDS = 2**31
Options = dict[str, Any]
Updates = Generator[dict[Any, Any]]


def examples() -> list[Example]:
    """What the page can be tried with."""
    astronaut, hopper = EXAMPLES / "portrait_astronaut.jpg", EXAMPLES / "portrait_hopper.jpg"
    return [
        Example("Eileen Collins, astronaut", "English, 8 seconds", astronaut, EXAMPLES / "speech_1.wav"),
        Example("Grace Hopper, computer scientist", "German, 8 seconds", hopper, EXAMPLES / "speech_2.wav"),
    ]


def say(text: str = "", refused: bool = False) -> Options:
    """A sentence below a widget."""
    return gr.update(value=text, visible=bool(text), elem_classes=["refused" if refused else "said-ok"])


def portrait_remark(studio: Studio, path: str) -> Options:
    """What there is to say about a portrait."""
    try:
        _, remarks = studio.look(path)
    except RefusedInputError as error:
        return say(str(error), refused=True)
    return say(" ".join(remarks) or "A face was found.")


def gpu_seconds(draft: Draft, folder: Path, consent: bool | None) -> int:
    """How long a GPU may take for a draft: about ten times real time, and some seconds to get ready."""
    return round(12 + 0.15 * draft.motion.num_videos * draft.motion.speech.num_frames / FPS)


def build(studio: Studio, showcase: Showcase) -> gr.Blocks:
    """Lay out the page and connect it to a studio.

    Args:
        studio (`Studio`): Does the work.
        showcase (`Showcase`): Has the examples.

    Returns:
        `gr.Blocks`: To be launched with `launch_options`.
    """
    settings, space = studio.settings, MotionSpace(studio, EXAMPLES / "portrait_astronaut.jpg")
    hidden: Options = {"api_visibility": "private", "show_progress": "hidden"}
    light: Options = {"concurrency_id": "light", "concurrency_limit": 2}
    heavy: Options = {"concurrency_id": "heavy", "concurrency_limit": 1}

    @on_gpu(duration=gpu_seconds)
    def paint(draft: Draft, folder: Path, consent: bool | None) -> Generator[Any]:
        yield (yield from studio.render(draft, folder, consent))

    with gr.Blocks(title="osmnet: many takes of one sentence", delete_cache=(600, settings.keep_seconds)) as page:
        # What one visitor made; it goes when they do.
        drafted = gr.State(None, time_to_live=settings.keep_seconds)
        rendered = gr.State(None, time_to_live=settings.keep_seconds)

        gr.Markdown(INTRO, elem_id="hero", container=False)
        with gr.Tabs():
            with gr.Tab("Create", id="create"):
                gr.Markdown(TRY, elem_id="examples-title")
                example_cards = make_part("examples", elem_id="examples")
                with gr.Row(equal_height=False):
                    with gr.Column(scale=4, min_width=320, elem_id="inputs"):
                        portrait = make_portrait(
                            label="Portrait", height=280, elem_id="portrait",
                            placeholder="A picture with one clearly visible face",
                        )  # fmt: skip
                        portrait_note = gr.Markdown(visible=False)
                        speech = gr.Audio(
                            label="Speech, an audio file",
                            type="filepath",
                            sources=["upload", "microphone"],
                            elem_id="speech",
                        )
                        speech_note = gr.Markdown(visible=False)
                        shorten = gr.Button(f"Use its first {settings.max_seconds} seconds", visible=False, size="sm")
                        num_videos = gr.Slider(
                            1, settings.max_takes, 4, step=1, label="Number of takes", elem_id="num-videos"
                        )
                        epsilon = gr.Slider(
                            0, 2, 1, step=0.05, label="ε, how far takes may differ",
                            info="0: every take moves in the most likely way; 1: as variously as real speakers do.",
                        )  # fmt: skip
                        with gr.Row(elem_id="seed-row"):
                            seed = gr.Number(
                                7, precision=0, label="Seed", scale=5, min_width=160,
                                info="The same seed gives the same takes.",
                            )  # fmt: skip
                            dice = gr.Button(
                                "Roll", icon=str(ASSETS / "dice.svg"), elem_id="dice", min_width=116, scale=1
                            )
                        with gr.Accordion("Direct the movement", open=False):
                            motion_scale = gr.Slider(0, 2, 1, step=0.05, label="Movement of the head")
                            expression_scale = gr.Slider(0, 2, 1, step=0.05, label="Movement of the mouth")
                            still = gr.Checkbox(False, label="Keep still", info="Only the face moves.")
                            blink = gr.Checkbox(True, label="Blink")
                            whole_picture = gr.Checkbox(
                                False, label="Whole picture", info="Instead of the square around the head."
                            )
                            yaw = gr.Slider(-30, 30, 0, step=1, label="Turn, in degrees (yaw)")
                            pitch = gr.Slider(-30, 30, 0, step=1, label="Lift the chin, in degrees (pitch)")
                            roll = gr.Slider(-30, 30, 0, step=1, label="Tilt, in degrees (roll)")
                        consent = gr.Checkbox(False, label=CONSENT, elem_id="consent")
                        consent_note = gr.Markdown(visible=False)
                        preview = gr.Button("Preview takes", variant="primary", size="lg", elem_id="preview")
                    with gr.Column(scale=8, min_width=320, elem_id="results"):
                        drafts = make_part("drafts", elem_id="drafts")
                        progress = make_part("progress", elem_id="progress")
                        stop = gr.Button("Stop", visible=False, elem_id="stop")
                        gallery = make_part("gallery", elem_id="gallery")
            with gr.Tab("Motion space", id="space") as tab:
                add_motion_space(tab, studio, space, light, heavy)
            with gr.Tab("About", id="about-tab"):
                gr.Markdown((HERE / "demo" / "about.md").read_text("utf-8"), elem_id="about")

        wishes = [
            num_videos, epsilon, seed, motion_scale, expression_scale, still, blink, whole_picture, yaw, pitch, roll
        ]  # fmt: skip
        idle = {progress: None, stop: gr.update(visible=False), preview: gr.update(interactive=True)}
        notes = {"portrait": portrait_note, "speech": speech_note, "consent": consent_note, "takes": consent_note}

        def wish(values: list[Any]) -> Wishes:
            count, radius, number, *rest = values
            if number is None or not 0 <= number < SEEDS:
                raise RefusedInputError("takes", f"The seed must be a whole number from 0 to {SEEDS - 1}.")
            return Wishes(int(count), float(radius), int(number), *rest)

        def point_at(error: RefusedInputError) -> dict[Any, Any]:
            """The updates that show an error where it belongs."""
            return {notes[error.widget]: say(str(error), refused=True), **idle}

        # 1. Inputs are looked at as soon as they are there.
        def check_portrait(path: str | None) -> Generator[Options]:
            yield say("Looking for the face …" if path else "")
            if path:
                yield portrait_remark(studio, path)

        def check_speech(path: str | None) -> tuple[Options, Options]:
            if not path:
                return say(), gr.update(visible=False)
            try:
                recording = studio.listen(path)
            except RefusedInputError as error:
                return say(str(error), refused=True), gr.update(visible=False)
            long = studio.is_too_long(recording)
            return say(studio.too_long(recording) if long else "", refused=long), gr.update(visible=long)

        def use_first_seconds(path: str | None) -> Generator[str]:
            with studio.workplace() as folder:
                try:
                    yield str(studio.first_seconds(path, Path(folder) / "first_seconds.wav"))
                except RefusedInputError as error:
                    raise refuse(error) from None

        for widget in (portrait, speech):  # who has agreed is asked anew, and what was drawn is of before
            widget.change(lambda: (False, None, None), None, [consent, drafted, drafts], queue=False, **hidden)
        portrait.change(check_portrait, portrait, portrait_note, **hidden, **light)
        speech.change(check_speech, speech, [speech_note, shorten], **hidden, **light)
        shorten.click(use_first_seconds, speech, speech, **hidden, **light)
        consent.change(lambda _: say(), consent, consent_note, queue=False, **hidden)
        dice.click(None, None, seed, js="() => Math.floor(Math.random() * 2 ** 31)")

        # 2. Sketches of takes.
        def make_drafts(portrait_path: str | None, speech_path: str | None, *values: Any) -> Updates:
            yield {portrait_note: say(), speech_note: say(), consent_note: say(), stop: gr.update(visible=True)}
            try:
                job = studio.draft(portrait_path, speech_path, wish(list(values)))
                while True:
                    yield {progress: progress_value(next(job))}
            except RefusedInputError as error:
                yield point_at(error)
                raise refuse(error) from None
            except StopIteration as end:
                draft = end.value
            yield {drafted: draft, drafts: drafts_value(studio, draft), **idle}

        def settle() -> dict[Any, Any]:
            time.sleep(0.5)
            return idle

        def make_more(draft: Draft | None, event: gr.EventData) -> dict[Any, Any]:
            if draft is None:
                raise gr.Error("These takes are gone; preview new ones.", print_exception=False)
            try:
                draft = studio.more_like(draft, int(event.take), secrets.randbelow(SEEDS))
            except RefusedInputError as error:
                raise refuse(error) from None
            return {drafted: draft, drafts: drafts_value(studio, draft)}

        working = [*idle, drafted, drafts, portrait_note, speech_note, consent_note]
        previewing = preview.click(
            make_drafts, [portrait, speech, *wishes], working, trigger_mode="once", **hidden, **light
        )
        for part, draft in ((drafts, drafted), (gallery, rendered)):
            part.more(make_more, draft, [drafted, drafts], trigger_mode="once", **hidden, **light)

        # 3. Videos of those that were picked.
        def render_drafts(draft: Draft | None, has_agreed: bool, event: gr.EventData) -> Updates:
            try:
                if draft is None:
                    raise RefusedInputError("takes", "These takes are gone; preview new ones.")
                if not has_agreed:
                    raise RefusedInputError("consent", NO_CONSENT)
                chosen = draft.take([int(take) for take in event.takes])
            except RefusedInputError as error:
                yield point_at(error)
                raise refuse(error) from None
            busy = {stop: gr.update(visible=True), preview: gr.update(interactive=False)}
            yield {progress: progress_value(Step(3, 0.0)), consent_note: say(), **busy}
            try:
                with studio.workplace() as folder:
                    for step in paint(chosen, Path(folder), True):
                        if isinstance(step, Step):
                            yield {progress: progress_value(step)}
                            continue
                        title = f"{len(step)} finished take{'s' * (len(step) > 1)}"
                        yield {rendered: chosen, gallery: gallery_value(chosen, step, title, is_new=True), **idle}
            except ValueError as error:  # the disk is full
                yield idle
                raise gr.Error(str(error)) from error

        drafts.chosen(  # it may have to wait for others first
            lambda draft, has_agreed: gr.update(visible=bool(draft and has_agreed)), [drafted, consent], stop,
            queue=False, **hidden,
        )  # fmt: skip
        rendering = drafts.chosen(
            render_drafts, [drafted, consent], [*idle, rendered, gallery, *dict.fromkeys(notes.values())],
            trigger_mode="once", api_visibility="private", show_progress="minimal", show_progress_on=progress, **heavy,
        )  # fmt: skip
        stopped = stop.click(
            lambda: idle, None, list(idle), cancels=[previewing, rendering], queue=False, **hidden,
        )  # fmt: skip
        # Again: what the job said last may have been on its way.
        stopped.then(settle, None, list(idle), queue=False, **hidden)

        # 4. Examples, rendered beforehand.
        def show_cards() -> list[Options]:
            return [
                {"title": each.title, "text": each.text, "picture": file_data(each.portrait)}
                for each in showcase.examples
            ]

        def show_example(index: int) -> Updates:
            """Show the takes of an example; the first visitors after a start have to wait for them."""
            title = f"Example: {showcase.examples[index].title}"
            if not showcase.is_ready(index):
                yield {gallery: waiting_value(f"{title}, being rendered …")}
            draft, takes = showcase.show(index)
            yield {rendered: draft, gallery: gallery_value(draft, takes, title, is_new=False)}

        def pick_example(event: gr.EventData) -> Updates:
            index = int(event.index)
            if not 0 <= index < len(showcase.examples):
                raise gr.Error("There is no such example.", print_exception=False)
            example = showcase.examples[index]
            yield {portrait: str(example.portrait), speech: str(example.speech), **idle}
            yield from show_example(index)
            yield idle  # again, as below

        page.load(show_cards, None, example_cards, queue=False, **hidden)
        if showcase.examples:
            shown = [rendered, gallery]
            page.load(partial(show_example, 0), None, shown, concurrency_limit=None, **hidden)
            example_cards.pick(
                pick_example,
                None,
                [portrait, speech, *shown, *idle],
                cancels=[previewing, rendering],
                concurrency_limit=None,
                **hidden,
            )

        # 5. The same for programs.
        add_endpoints(studio, space, paint, light, heavy)

    return page.queue(max_size=settings.max_waiting, default_concurrency_limit=2)


def add_motion_space(tab: gr.Tab, studio: Studio, space: MotionSpace, light: Options, heavy: Options) -> None:
    """Fill the tab that shows what the bases do, and connect it.

    Args:
        tab (`gr.Tab`): The tab.
        studio (`Studio`): Where films are made.
        space (`MotionSpace`): Makes them.
        light (`dict`): How many may look at portraits at a time.
        heavy (`dict`): How many may render at a time.
    """
    gr.Markdown(BASES)
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320):
            basis = gr.Dropdown(
                [(f"{each.index}: {each.name}", each.index) for each in space.bases], value=0, label="Basis",
                info="Named by what the head does; right and left as in the picture.", elem_id="basis",
            )  # fmt: skip
            face = make_portrait(label="Portrait (an example if there is none)", height=240)
            agreed = gr.Checkbox(False, label="The person in this picture has agreed, or it is me.")
            note = gr.Markdown(visible=False)
            show = gr.Button("Show the basis", variant="primary")
            turn = gr.Button("Turn and frontalise the face")
        with gr.Column(scale=8, min_width=320):
            film = gr.Video(label="Held and swung (AI-generated)", autoplay=True, loop=True, interactive=False)
            turned = gr.Gallery(
                label="Turned by bases (AI-generated)", columns=3, interactive=False, object_fit="contain",
                elem_id="turned",
            )  # fmt: skip
            mixtures = gr.Markdown("")

    def check_face(path: str | None) -> tuple[Options, bool, None, None, str]:
        return (portrait_remark(studio, path) if path else say()), False, None, None, ""

    def first_film(shown: str | None, index: int) -> Any:
        return gr.skip() if shown else str(space.example_film(int(index)))

    def film_basis(path: str | None, index: int, has_agreed: bool) -> Updates:
        yield {note: say()}
        try:
            with studio.workplace() as folder:
                yield {film: str(space.film(path, int(index), Path(folder) / f"basis-{index}.mp4", has_agreed))}
        except RefusedInputError as error:
            yield {note: say(str(error), refused=True), film: None}
            raise refuse(error) from None

    def turn_face(path: str | None, has_agreed: bool) -> Updates:
        yield {note: say()}
        try:
            with studio.workplace() as folder:
                pictures, text = space.turn(path, Path(folder), has_agreed)
                yield {turned: [(str(picture), title) for picture, title in pictures], mixtures: text}
        except RefusedInputError as error:
            yield {note: say(str(error), refused=True), turned: None, mixtures: ""}
            raise refuse(error) from None

    events: Options = {"api_visibility": "private", "show_progress": "minimal", **heavy}
    filming: Options = {"show_progress_on": film, **events}
    checked: Options = {"api_visibility": "private", "show_progress": "hidden", **light}
    tab.select(first_film, [film, basis], film, **filming)
    face.change(check_face, face, [note, agreed, film, turned, mixtures], **checked)
    basis.input(film_basis, [face, basis, agreed], [film, note], trigger_mode="always_last", **filming)
    show.click(film_basis, [face, basis, agreed], [film, note], **filming)
    turn.click(turn_face, [face, agreed], [turned, mixtures, note], show_progress_on=turned, **events)


def launch_options(settings: Settings) -> Options:
    """What the page is launched with: nothing on this disk can be fetched but what a visitor was given."""
    return {
        "theme": make_theme(),
        "css_paths": [ASSETS / "page.css"],
        "max_file_size": settings.max_mb * 2**20,
        "allowed_paths": [],
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
    gr.set_static_paths([EXAMPLES])
    studio = Studio.load(settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # a service is stopped so: what is registered here still runs
    atexit.register(studio.close)
    showcase = Showcase(studio, examples())
    if LENT:
        # The GPU is not there yet. Visitors' calls will run in forks of this process, which must find no thread at
        # work, least of all at compiling: a lock that it holds would stay locked in them.
        studio.pipe.warm_up()
        showcase.prepare().join()
    else:
        studio.painter.warm_up()
        showcase.prepare()
    build(studio, showcase).launch(**launch_options(settings))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:  # a setting or the weights
        sys.exit(f"osmnet: {error}")
