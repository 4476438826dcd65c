"""From inputs to drafts, and from drafts to files."""

import time

import numpy as np
import pytest

from osmnet.media.audio import FPS
from osmnet.provenance.verify import verify
from osmnet.serving.inputs import RefusedInputError
from osmnet.serving.jobs import MOVEMENT, PORTRAIT, SPEECH
from osmnet.serving.settings import Settings
from osmnet.serving.showcase import Example, Showcase
from osmnet.serving.studio import Studio, StudioClosedError


@pytest.fixture(scope="module")
def six(studio, inputs):
    """A draft of six takes."""
    return studio.draft(inputs["face"], inputs["speech"], num_videos=6, seed=7).result()


def test_a_draft_takes_the_options_of_the_pipeline(studio, inputs):
    job = studio.draft(inputs["face"], inputs["speech"], seed=7, num_videos=2, epsilon=0.5, yaw=20, full_frame=False)
    assert [step.index for step in job] == [PORTRAIT, SPEECH, MOVEMENT]
    draft = job.result()
    expected = studio.pipe.sample_motion(draft.motion.speech, seed=7, num_videos=2, epsilon=0.5, yaw=20)
    np.testing.assert_array_equal(draft.motion.head_pose, expected.head_pose)
    assert draft.motion.seeds == expected.seeds and draft.source.size == 64
    with pytest.raises(TypeError, match="did you mean 'epsilon'"):
        studio.draft(inputs["face"], inputs["speech"], seed=7, epsilom=0.5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_videos": 0}, "from 1 to 6 takes"),
        ({"num_videos": 7}, "from 1 to 6 takes"),
        ({"epsilon": -1}, "epsilon must be"),
        ({"yaw": 90}, "yaw must stay within"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_options_out_of_range_are_refused(studio, inputs, options, sentence):
    with pytest.raises(RefusedInputError, match=sentence) as refused:
        studio.draft(inputs["face"], inputs["speech"], **{"seed": 7, **options}).result()
    assert refused.value.field == "takes"


def test_a_sketch_approximates_the_takes(studio, six):
    sketch, motion = studio.sketch(six), six.motion
    face = sketch["face"]
    assert sketch["seconds"] == motion.speech.num_frames / FPS
    # The mesh, moved along the directions, is that of the face model.
    weights = np.reshape(face["weights"], (-1, len(face["directions"]) - 1)) / 100
    directions = np.reshape(face["directions"], (-1, 478, 3))[:-1]
    lips = np.reshape(face["rest"], (478, 3)) + np.einsum("fk,kvc->fvc", weights, directions)
    expression = studio.pipe.extract_expression(six.source, motion.speech)[::2]
    exact = studio.pipe.face_model.move(six.source.fit.shape, expression - six.source.fit.expression)
    assert np.abs(lips / 1000 - exact).max() < 0.03  # head units: a hundredth of the head
    assert len({take["seed"] for take in sketch["takes"]}) == 6
    for take, path in zip(sketch["takes"], motion.head_pose, strict=True):
        turn = np.reshape(take["turn"], (-1, 3)) / 10
        own = np.degrees(six.source.fit.head_pose[:3])
        np.testing.assert_allclose(turn, own + np.degrees(path[::2, :3]), atol=0.051)
        assert max(take["lids"]) <= 100


def test_more_like_this_stays_nearer_than_other_takes_do(studio, six, inputs):
    near = studio.more_like(six, 2, seed=11)
    chain = studio.more_like(near, 0, seed=12)
    poses = six.motion.head_pose[..., :3]
    others = [np.abs(poses[take] - poses[2]).mean() for take in range(6) if take != 2]
    assert 0 < np.abs(near.motion.head_pose[..., :3] - poses[2]).mean() < 0.7 * np.mean(others)
    assert chain.motion.near == (six.motion.seeds[2], near.motion.seeds[0])
    assert near.numbers == six.numbers and "like take 3" in near.notes[0]
    with pytest.raises(RefusedInputError, match="still"):
        studio.more_like(studio.draft(inputs["face"], inputs["speech"], seed=7, still=True).result(), 0, seed=1)
    with pytest.raises(RefusedInputError, match="No take is picked"):
        studio.more_like(six, 6, seed=1)


def test_a_full_disk_is_refused_before_rendering(studio, six, tmp_path, monkeypatch):
    (studio.folder / "file").write_bytes(bytes(3 * 2**20))
    assert 3 <= studio.disk.used_mb() < 4
    monkeypatch.setattr(studio.disk, "max_mb", 3)
    with pytest.raises(RefusedInputError, match="no room"):
        studio.render(six, tmp_path / "out").result()
    (studio.folder / "file").unlink()
    assert not (tmp_path / "out").exists()


@pytest.mark.integration
def test_a_render_that_is_stopped_leaves_nothing(studio, six, tmp_path):
    with studio.render(six, tmp_path / "out", consent=True) as job:
        steps = iter(job)
        next(steps)
        next(steps)
    assert not list(tmp_path.rglob("*.mp4"))


@pytest.mark.integration
def test_picked_takes_are_rendered_and_steps_count_up(studio, six, tmp_path):
    draft = six.take([2, 0])
    job = studio.render(draft, tmp_path, consent=True)
    done = [step.index + (step.done or 0) for step in job]
    assert done == sorted(done) and len(done) > 1
    takes = job.result()
    assert [take.number for take in takes] == [1, 3]
    assert all(verify(take.video).consent is True and take.details.is_file() for take in takes)
    with pytest.raises(RefusedInputError, match="No take is picked"):
        draft.take([5])


@pytest.mark.integration
def test_an_example_is_rendered_once(studio, inputs, monkeypatch):
    example = Example("Somebody", "A moment", inputs["face"], inputs["speech"])
    showcase = Showcase(studio, [example], num_videos=1, full_frame=False)
    assert not showcase.is_ready(0)
    showcase.prepare().join()
    draft, takes = showcase.show(0)
    assert showcase.is_ready(0) and showcase.show(0)[1] is takes
    assert draft.motion.num_videos == len(takes) == 1 and verify(takes[0].video).state == "valid"


def test_closing_stops_rendering_and_removes_everything(tiny, inputs):
    studio = Studio(Settings(max_seconds=10), tiny)
    showcase = Showcase(studio, [Example("Somebody", "A moment", inputs["face"], inputs["speech"])])
    rendering = showcase.prepare()
    until = time.monotonic() + 60
    while not list(studio.folder.rglob("*")) and time.monotonic() < until:
        time.sleep(0.01)
    studio.close()
    rendering.join(60)
    assert not rendering.is_alive() and not studio.folder.exists()
    for work in (studio.temporary_folder, lambda: showcase.show(0)):
        with pytest.raises(StudioClosedError):
            work()
    assert not studio.folder.exists()
