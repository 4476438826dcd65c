"""The page's work, and its endpoints called by a real client, on a tiny model."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osmnet.media.audio import FPS
from osmnet.provenance.verify import verify
from tests.support.dummies import becomes_empty, portrait, speech, write_wav

gradio_client = pytest.importorskip("gradio_client", reason="needs the extra 'demo'")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the page is no part of the package

import app  # noqa: E402
from demo.settings import Settings  # noqa: E402
from demo.showcase import Showcase  # noqa: E402
from demo.studio import RefusedInputError, Step, Studio, Wishes, run  # noqa: E402

SETTINGS = Settings(size=64, max_seconds=2, max_mb=1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, str]:
    """A portrait, speech, speech that is too long, and a picture without a face."""
    folder = tmp_path_factory.mktemp("inputs")
    Image.fromarray(portrait()).save(folder / "face.png")
    Image.new("RGB", (200, 200), "white").save(folder / "empty.png")
    (folder / "text.png").write_text("no picture")
    write_wav(folder / "speech.wav", speech(0.6))
    write_wav(folder / "long.wav", speech(2.5))
    return {path.stem: str(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def studio(tiny):
    made = Studio(SETTINGS, tiny)
    yield made
    made.close()
    assert not made.folder.exists()


@pytest.fixture(scope="module")
def url(studio, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        page = app.build(studio, Showcase(studio, []))
        _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, **app.launch_options(SETTINGS))
        yield address
        page.close()


@pytest.fixture(scope="module")
def client(url, tmp_path_factory):
    return gradio_client.Client(url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


def files(inputs, *names: str) -> list:
    return [gradio_client.handle_file(inputs[name]) for name in names]


def test_settings_come_from_the_environment():
    found = Settings.from_environment({"OSMNET_MAX_SECONDS": "30", "OSMNET_MODEL": "someone/weights", "OTHER": "x"})
    assert (found.max_seconds, found.model, found.max_mb) == (30, "someone/weights", 20)
    for wrong in ("0", "-3", "many", "1.5"):
        with pytest.raises(ValueError, match="OSMNET_MAX_MB must be a whole number above 0"):
            Settings.from_environment({"OSMNET_MAX_MB": wrong})


def test_a_sketch_holds_what_the_takes_do(studio, inputs):
    draft = run(studio.draft(inputs["face"], inputs["speech"], Wishes(num_videos=3)))
    drawn = studio.sketch(draft)
    face, motion = drawn["face"], draft.motion
    assert drawn["seconds"] == motion.speech.num_frames / FPS
    # The mesh at its places along the directions is the face model's own, but for what is too small to see.
    weights = np.reshape(face["weights"], (-1, len(face["directions"]) - 1)) / 100
    lips = np.reshape(face["rest"], (478, 3)) + np.einsum(
        "fk,kvc->fvc", weights, np.reshape(face["directions"], (-1, 478, 3))[:-1]
    )
    expression = studio.pipe.extract_expression(draft.source, motion.speech)[::2]
    exact = studio.pipe.face_model.move(draft.source.fit.shape, expression - draft.source.fit.expression)
    assert np.abs(lips / 1000 - exact).max() < 0.03  # head units: a hundredth of the head
    assert len({take["seed"] for take in drawn["takes"]}) == 3
    for take, path in zip(drawn["takes"], motion.head_pose, strict=True):
        turn = np.reshape(take["turn"], (-1, 3)) / 10
        own = np.degrees(draft.source.fit.head_pose[:3])
        np.testing.assert_allclose(turn, own + np.degrees(path[::2, :3]), atol=0.051)
        assert max(take["lids"]) <= 100


def test_more_like_this_stays_nearer_than_other_takes_do(studio, inputs):
    draft = run(studio.draft(inputs["face"], inputs["long"].replace("long", "speech"), Wishes(num_videos=6)))
    near = studio.more_like(draft, 2, seed=11)
    chain = studio.more_like(near, 0, seed=12)
    poses = draft.motion.head_pose[..., :3]
    others = [np.abs(poses[take] - poses[2]).mean() for take in range(6) if take != 2]
    assert 0 < np.abs(near.motion.head_pose[..., :3] - poses[2]).mean() < 0.7 * np.mean(others)
    assert chain.motion.near == (draft.motion.seeds[2], near.motion.seeds[0])
    with pytest.raises(RefusedInputError, match="still"):
        studio.more_like(run(studio.draft(inputs["face"], inputs["speech"], Wishes(still=True))), 0, seed=1)


def test_a_render_that_nobody_waits_for_stops_and_leaves_nothing(studio, inputs, tmp_path):
    draft = run(studio.draft(inputs["face"], inputs["speech"], Wishes(num_videos=6)))
    job = studio.render(draft, tmp_path / "out", consent=True)
    assert isinstance(next(job), Step)
    next(job)
    job.close()
    assert not list(tmp_path.rglob("*.mp4"))


def test_steps_count_up_to_the_end(studio, inputs, tmp_path):
    draft = run(studio.draft(inputs["face"], inputs["speech"], Wishes(num_videos=3))).take([2, 0])
    steps, job = [], studio.render(draft, tmp_path, consent=True)
    with pytest.raises(StopIteration) as end:
        while True:
            steps.append(next(job))
    done = [step.stage + (step.done or 0) for step in steps]
    assert done == sorted(done)
    takes = end.value.value
    assert [take.number for take in takes] == [1, 3]
    assert all(take.video.is_file() and take.details.is_file() for take in takes)
    with pytest.raises(RefusedInputError, match="No take is picked"):
        draft.take([5])


def test_the_first_seconds_of_a_recording_can_be_used(studio, inputs, tmp_path):
    with pytest.raises(RefusedInputError, match=r"lasts 2 s, and the most .* use its first 2 s"):
        run(studio.draft(inputs["face"], inputs["long"], Wishes()))
    first = studio.first_seconds(inputs["long"], tmp_path / "first.wav")
    assert run(studio.draft(inputs["face"], str(first), Wishes(1))).motion.speech.num_frames == 2 * FPS


def test_endpoints_are_named_typed_and_described(url, client):
    api = client.view_api(return_format="dict")["named_endpoints"]
    assert set(api) == {"/generate", "/preview", "/bases"}
    parameters = {each["parameter_name"]: each for each in api["/generate"]["parameters"]}
    assert parameters["epsilon"]["parameter_default"] == 1.0 and parameters["consent"]["parameter_default"] is False
    tools = gradio_client.utils.httpx.get(f"{url}gradio_api/mcp/schema").json()
    described = {tool["name"].split("_", 1)[-1] if "name" in tool else "": tool for tool in tools}
    assert any("talking-head videos" in tool["description"] for tool in described.values())


def test_generate_gives_files_that_verify(studio, client, inputs):
    paths, takes = client.predict(*files(inputs, "face", "speech"), num_videos=2, consent=True, api_name="/generate")
    assert [Path(path).suffix for path in paths] == [".mp4", ".json"] * 2
    verdicts = [verify(path) for path in paths[::2]]
    assert all(verdict.state == "valid" and verdict.consent is True for verdict in verdicts)
    previewed = client.predict(*files(inputs, "face", "speech"), num_videos=2, api_name="/preview")
    assert [take["take_seed"] for take in previewed["takes"]] == [take["take_seed"] for take in takes]
    assert len(previewed["takes"][0]["turn"]) == 3 * math.ceil(previewed["seconds"] * FPS / 2)
    assert becomes_empty(studio.folder)


def test_bases_are_filmed_and_listed(studio, client):
    film, names = client.predict(basis=3, api_name="/bases")
    assert verify(film).state == "valid"
    assert [each["basis"] for each in names] == list(range(studio.pipe.motion_space.config.num_bases))


@pytest.mark.parametrize(
    ("face", "voice", "options", "sentence"),
    [
        ("face", "speech", {"consent": False}, "Set consent to true"),
        ("empty", "speech", {}, "No face was found"),
        ("text", "speech", {}, "The upload is not a picture"),
        ("face", "text", {}, "(?i)the upload"),
        ("face", "long", {}, "use its first 2 s"),
        ("face", "speech", {"num_videos": 7}, "from 1 to 6 takes"),
        ("face", "speech", {"epsilon": -1}, "epsilon must be"),
    ],
)
def test_refusals_are_a_sentence_that_names_no_file_of_the_server(client, inputs, face, voice, options, sentence):
    with pytest.raises(Exception, match=sentence) as refused:
        client.predict(*files(inputs, face, voice), **{"consent": True, **options}, api_name="/generate")
    assert "cache" not in str(refused.value) and "/tmp" not in str(refused.value)


def test_a_cancelled_request_makes_room_for_the_next(studio, client, inputs):
    first = client.submit(*files(inputs, "face", "speech"), num_videos=6, consent=True, api_name="/generate")
    first.cancel()
    paths, _ = client.predict(*files(inputs, "face", "speech"), num_videos=1, consent=True, api_name="/generate")
    assert verify(paths[0]).state == "valid"
    assert becomes_empty(studio.folder)


def test_no_file_of_the_server_can_be_fetched(url, repository):
    for path in ("/etc/passwd", repository / "pyproject.toml", repository / "app.py"):
        assert gradio_client.utils.httpx.get(f"{url}gradio_api/file={path}").status_code in (403, 404)


def test_files_that_are_too_large_are_refused(client, inputs, tmp_path):
    large = tmp_path / "large.wav"
    large.write_bytes(bytes(2**20 + 1))
    with pytest.raises(Exception, match="(?i)size"):
        client.predict(*files(inputs, "face"), gradio_client.handle_file(large), api_name="/preview")
