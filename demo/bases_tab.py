"""The tab *Motion space*: films of the bases, and a face turned by them."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import gradio as gr

from demo.events import HEAVY, LIGHT, Options, note, portrait_note, refuse
from demo.uploads import make_portrait
from osmnet.serving.basis_films import SQUARE, BasisFilms
from osmnet.serving.inputs import RefusedInputError
from osmnet.serving.studio import Studio

BASES = """All movement is mixed from a few dozen **bases**, short movements learned from real speakers. Pick one: it
is *held* on the left, where the movement stays at the basis, and *swung* on the right, between the basis and its
opposite."""
Updates = Generator[dict[Any, Any]]


class BasesTab:
    """Adds the widgets to the tab that is being built, and connects them.

    Args:
        studio (`Studio`): Checks portraits.
        films (`BasisFilms`): Makes the films.
    """

    def __init__(self, studio: Studio, films: BasisFilms):
        self.studio, self.films = studio, films
        self.has_film = gr.State(False)
        gr.Markdown(BASES)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320):
                self.basis = gr.Dropdown(
                    [(f"{each.index}: {each.name}", each.index) for each in films.bases], value=0, label="Basis",
                    info="Named after the movement of the head; right and left as in the picture.", elem_id="basis",
                )  # fmt: skip
                self.face = make_portrait(label="Portrait (an example if there is none)", height=240)
                self.agreed = gr.Checkbox(False, label="The person in this picture has agreed, or it is me.")
                self.note = gr.Markdown(visible=False)
                self.show = gr.Button("Show the basis", variant="primary")
                self.turn = gr.Button("Turn and frontalise the face")
            with gr.Column(scale=8, min_width=320):
                self.film = gr.Video(
                    label="Held and swung (AI-generated)", autoplay=True, loop=True, interactive=False
                )
                self.turned = gr.Gallery(
                    label="Turned by bases (AI-generated)", columns=3, interactive=False, object_fit="contain",
                    elem_id="turned",
                )  # fmt: skip
                self.mixtures = gr.Markdown("")

    def connect(self, tab: gr.Tab) -> None:
        """Connect the widgets; `tab` shows a first film when it is opened."""
        checked: Options = {"api_visibility": "private", "show_progress": "hidden", **LIGHT}
        rendered: Options = {"api_visibility": "private", "show_progress": "minimal", **HEAVY}
        filmed: Options = {"show_progress_on": self.film, **rendered}
        inputs, film = [self.face, self.basis, self.agreed], [self.film, self.has_film, self.note]
        tab.select(self.first_film, [self.has_film, self.basis], [self.film, self.has_film], **filmed)
        self.face.change(
            self.check_face, self.face,
            [self.note, self.agreed, self.film, self.has_film, self.turned, self.mixtures], **checked,
        )  # fmt: skip
        self.basis.input(self.film_basis, inputs, film, trigger_mode="always_last", **filmed)
        self.show.click(self.film_basis, inputs, film, **filmed)
        self.turn.click(
            self.turn_face, [self.face, self.agreed], [self.turned, self.mixtures, self.note],
            show_progress_on=self.turned, **rendered,
        )  # fmt: skip

    def check_face(self, path: str | None) -> tuple[Options, bool, None, bool, None, str]:
        """Say whether a face was found; consent and results belong to the portrait before."""
        return (portrait_note(self.studio, path, SQUARE) if path else note()), False, None, False, None, ""

    def first_film(self, has_film: bool, index: int) -> Any:
        """Show the example's film unless there is one."""
        return gr.skip() if has_film else (str(self.films.example_film(int(index))), True)

    def film_basis(self, path: str | None, index: int, has_agreed: bool) -> Updates:
        """Film a basis."""
        yield {self.note: note()}
        try:
            with self.studio.temporary_folder() as folder:
                film = self.films.film(path, int(index), Path(folder) / f"basis-{index}.mp4", has_agreed)
                yield {self.film: str(film), self.has_film: True}
        except RefusedInputError as error:
            yield {self.note: note(str(error), refused=True), self.film: None, self.has_film: False}
            raise refuse(error) from None

    def turn_face(self, path: str | None, has_agreed: bool) -> Updates:
        """Turn a face by bases."""
        yield {self.note: note()}
        try:
            with self.studio.temporary_folder() as folder:
                pictures, text = self.films.turn(path, Path(folder), has_agreed)
                yield {self.turned: [(str(picture), title) for picture, title in pictures], self.mixtures: text}
        except RefusedInputError as error:
            yield {self.note: note(str(error), refused=True), self.turned: None, self.mixtures: ""}
            raise refuse(error) from None
