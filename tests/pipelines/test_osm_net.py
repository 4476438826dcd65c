"""The pipeline from end to end, on a real face and tiny random networks."""

import json
import warnings
from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from PIL import Image

import osmnet
from osmnet.face.topology import eye_opening, mouth_opening
from osmnet.loading.pipeline import _name_of
from osmnet.media.audio import load_speech
from osmnet.media.features import mel_windows
from osmnet.media.recording import Recording
from osmnet.media.video_reader import read_frames
from osmnet.media.video_writer import VideoWriter
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from osmnet.rendering import chunks
from osmnet.rendering.mesh_renderer import MeshRenderer
from osmnet.takes.sheet import MAX_TAKES
from tests.pipelines.tester import SIDE, PipelineTesterMixin
from tests.support.dummies import (
    SAMPLING_RATE,
    SEED,
    edit_tensors,
    portrait,
    read_json,
    speech,
    tiny_pipeline,
    write_wav,
)


def seeded(seed=SEED):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def source(tiny):
    return tiny.encode_source(portrait(), size=SIDE)


@pytest.fixture(scope="module")
def voice(tiny):
    return tiny.encode_speech(speech(1.0), SAMPLING_RATE)


@pytest.fixture(scope="module")
def speech_start(tiny):
    return tiny.encode_speech(speech(0.2), SAMPLING_RATE)


@pytest.fixture(scope="module")
def out(tiny, source, voice):
    return tiny(source, voice, num_videos=3, generator=seeded())


# What comes out


class TestOSMNetPipeline(PipelineTesterMixin):
    @pytest.fixture(scope="class")
    @classmethod
    def pipeline(cls, tiny):
        return tiny

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tiny_folder):
        return tiny_folder


def test_the_expression_of_every_frame_is_returned(tiny, source, voice, out):
    assert out.expression.shape == (25, 64) and out.expression.dtype == np.float32
    assert np.isfinite(out.expression).all() and np.ptp(out.expression, axis=0).max() > 0
    lazy = tiny(source, voice, num_videos=3, generator=seeded(), output_type="lazy")
    assert np.array_equal(lazy.expression, out.expression)
    assert np.array_equal(out[1].expression, out.expression)


def test_the_first_frame_has_the_pose_of_the_portrait(out, source):
    np.testing.assert_allclose(out.head_pose[:, 0], np.tile(source.fit.head_pose, (3, 1)), atol=1e-6)


def test_frames_show_the_portrait(out, source):
    """A head that has hardly moved looks like the portrait; one that has moved does not look the same."""
    difference = np.abs(out.frames[:, 0].astype(int) - source.crop).mean()
    assert difference < 12
    assert np.abs(out.frames[0, -1].astype(int) - source.crop).mean() > difference / 3
    assert (out.frames[0, 5] != out.frames[0, 20]).any()


def test_geometry_none_runs(voice, source):
    plain = tiny_pipeline("none")
    out = plain(source, voice, num_videos=2, generator=seeded())
    assert out.frames.shape == (2, 25, SIDE, SIDE, 3) and out.frames.dtype == np.uint8
    assert (out.frames[0] != out.frames[1]).any()
    whole = plain(portrait(), voice, full_frame=True, generator=seeded())
    assert whole.frames.shape == (1, 25, 160, 160, 3)


# Seeds


def test_seeds_and_takes_differ(tiny, voice, out):
    other = tiny.sample_motion(voice, num_videos=3, generator=seeded(SEED + 1)).head_pose
    poses = np.concatenate([out.motion.head_pose, other])[..., 0]
    distance = np.abs(poses[:, None] - poses[None]).max(-1)
    assert distance[~np.eye(6, dtype=bool)].min() > np.radians(0.5)


def test_only_a_seed_that_makes_the_takes_again_is_recorded(tiny, source, voice):
    generator = seeded()
    first, second = (tiny(source, voice, generator=generator, output_type="lazy") for _ in range(2))
    assert (first.seed, second.seed) == (SEED, None)
    assert second.motion.seeds != first.motion.seeds


@pytest.mark.integration
def test_more_takes_than_a_sheet_shows_are_saved(tiny, source, speech_start, tmp_path):
    out = tiny(source, speech_start, num_videos=MAX_TAKES + 1, generator=seeded(), output_type="lazy")
    assert len(out.save(tmp_path)) == 2 * (MAX_TAKES + 1) + 1


def test_one_generator_a_take(tiny, source, voice, out):
    alone = tiny(source, voice, generator=[seeded(out.motion.seeds[2])])
    assert np.array_equal(alone.frames[0], out.frames[2])
    assert alone.motion.seeds == out.motion.seeds[2:]
    with pytest.raises(ValueError, match="2 generators were given for 3 videos"):
        tiny.sample_motion(voice, num_videos=3, generator=[seeded(), seeded()])
    with pytest.raises(ValueError, match="torch.Generator.* not int"):
        tiny.sample_motion(voice, generator=7)


def test_without_a_generator_every_call_differs(tiny, voice):
    first, second = (tiny.sample_motion(voice).head_pose for _ in range(2))
    assert (first != second).any()


# Epsilon


@pytest.mark.parametrize("sampling", ["span", "ball"])
def test_epsilon_0_gives_the_same_motion_for_every_seed(tiny, voice, sampling):
    poses = [
        tiny.sample_motion(voice, num_videos=2, epsilon=0, sampling=sampling, generator=seeded(seed)).head_pose
        for seed in (1, 2)
    ]
    assert np.array_equal(poses[0], poses[1]) and np.array_equal(poses[0][0], poses[0][1])
    assert np.ptp(poses[0]) > 0  # the most likely motion is motion


def test_the_spread_of_poses_grows_with_epsilon(tiny, voice):
    spread = [
        tiny.sample_motion(voice, num_videos=12, epsilon=epsilon, generator=seeded()).head_pose.std(0).mean()
        for epsilon in (0, 0.25, 0.5, 1, 2)
    ]
    assert spread[0] < 1e-6
    assert all(larger > 1.2 * smaller for smaller, larger in zip(spread, spread[1:], strict=False)), spread


@pytest.mark.integration
def test_five_minutes_do_not_drift(tiny):
    encoded = tiny.encode_speech(np.tile(speech(10), 30), SAMPLING_RATE)
    assert encoded.num_frames == 7500
    pose = tiny.sample_motion(encoded, num_videos=3, generator=seeded()).head_pose
    assert np.abs(pose[..., :3]).max() < np.radians(30)
    assert np.abs(pose[..., 3:]).max() < 3
    # The last minute reaches no further from the middle of its path than the first one.
    for part in (pose[:, :1500], pose[:, -1500:]):
        assert np.abs(part[..., 0].mean()) < np.radians(25)
    assert pose[:, -1500:, 0].std() < 2 * pose[:, 1500:3000, 0].std() + 1e-3


# The steps


def test_expression_of_another_length_is_refused(tiny, source, voice):
    motion = tiny.sample_motion(voice, generator=seeded())
    with pytest.raises(ValueError, match=r"expression must have shape \(25, 64\), not \(4, 64\)"):
        next(tiny.render(source, motion, expression=np.zeros((4, 64))))


def test_large_frames_come_in_small_chunks(tiny, source, voice, monkeypatch):
    monkeypatch.setattr(chunks, "CPU_CHUNK", (16, 3 * 3 * SIDE * SIDE + 1))
    motion = tiny.sample_motion(voice, num_videos=2, generator=seeded())
    assert {chunk.shape[1] for chunk in tiny.render(source, motion)} == {3, 1}  # 8 times 3, and the last of 25


# Files


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "new" / "folder"
    waveform = np.concatenate([speech(1.0), speech(0.03)])  # 1.03 s: 26 frames, the last one begun
    out = tiny(portrait(), waveform, sampling_rate=SAMPLING_RATE, full_frame=True, num_videos=5, generator=seeded())
    steps = []
    paths = out.save(folder, progress=lambda done, total: steps.append((done, total)))
    return folder, paths, out, waveform, steps


@pytest.mark.integration
def test_save_writes_every_take_and_nothing_else(saved):
    folder, paths, _, _, steps = saved
    takes = [f"take-{i}.{suffix}" for i in range(1, 6) for suffix in ("mp4", "json")]
    assert [path.name for path in paths] == [*takes, "sheet.png"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*takes, "sheet.png"])
    assert steps[-1] == (5 * 26, 5 * 26) and sorted(steps) == steps


@pytest.mark.integration
def test_saved_videos_hold_the_frames_and_the_speech(saved):
    folder, _, out, waveform, _ = saved
    for take in (0, 4):
        path = folder / f"take-{take + 1}.mp4"
        frames = np.stack(list(read_frames(path)))
        assert frames.shape == (26, 160, 160, 3)
        error, other = (np.abs(frames.astype(int) - out.frames[each]).mean() for each in (take, 1))
        assert error < 7 and error < other / 2  # what H.264 loses of an untrained network's noise
        sound = load_speech(path)
        assert abs(len(sound) - 26 * 640) <= 1024
        assert np.corrcoef(sound[: len(waveform)], waveform[: len(sound)])[0, 1] > 0.9  # in step with the pictures
    with av.open(str(folder / "take-1.mp4")) as container:
        assert "AI-generated" in container.metadata["comment"]
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt, audio.codec_context.name) == (
            "h264",
            "yuv420p",
            "aac",
        )


@pytest.mark.integration
def test_saved_json_says_how_the_take_was_made(saved, tiny, voice):
    folder, _, out, waveform, _ = saved
    for take in (0, 3):
        text = (folder / f"take-{take + 1}.json").read_text(encoding="utf-8")
        content = json.loads(text)
        assert content["ai_generated"] is True
        assert (content["take"], content["seed"], content["take_seed"]) == (take + 1, SEED, out.motion.seeds[take])
        assert (content["epsilon"], content["sampling"], content["fps"], content["frames"]) == (1.0, "span", 25, 26)
        assert content["versions"]["osmnet"] == osmnet.__version__ and content["versions"]["torch"]
        np.testing.assert_allclose(content["head_pose"], out.head_pose[take], atol=1e-5)
        assert content["settings"] == {
            "motion_scale": 1.0, "expression_scale": 1.0, "blink": True, "upper_face": 1.0, "gaze": "viewer",
            "yaw": 0.0, "pitch": 0.0, "roll": 0.0, "full_frame": True,
        }  # fmt: skip
        assert content["take_seed"] < 2**53  # more is not exact in every reader of JSON
        alone = tiny(
            portrait(),
            (waveform, SAMPLING_RATE),
            full_frame=True,
            generator=[seeded(content["take_seed"])],
        )
        assert np.array_equal(alone.frames[0], out.frames[take])


@pytest.mark.integration
def test_saved_sheet_shows_every_take(saved):
    folder = saved[0]
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.width > 600 and sheet.height > 5 * 150
        assert len(set(np.asarray(sheet.convert("L")).ravel().tolist())) > 50


def test_json_names_the_model(tiny_folder, source, voice, tmp_path):
    pipe = OSMNetPipeline.from_pretrained(tiny_folder)
    paths = pipe(source, voice, output_type="lazy", generator=seeded()).save(tmp_path, sheet=False)
    assert read_json(paths[1])["model"] == str(tiny_folder)
    assert _name_of(None, tiny_folder) == f"weights of osmnet {osmnet.__version__}"
    cache = tmp_path / "models--someone--tiny" / "snapshots" / "0123abcd"
    assert _name_of("someone/tiny", cache) == "someone/tiny@0123abcd"


def test_a_failure_while_rendering_leaves_no_part_of_a_video(tiny, source, voice, tmp_path, monkeypatch):
    out = tiny(source, voice, num_videos=2, generator=seeded(), output_type="lazy")
    drawn = []

    def fail_late(self, *arguments):
        drawn.append(1)
        if len(drawn) > 3:
            raise RuntimeError("a defect")
        return paint(self, *arguments)

    paint = MeshRenderer._render_mesh
    monkeypatch.setattr(MeshRenderer, "_render_mesh", fail_late)
    with pytest.raises(RuntimeError, match="a defect"):
        out.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Controls


def test_still_moves_only_the_face(tiny, source, voice, out):
    still = tiny(source, voice, still=True, blink=False, generator=seeded())
    assert np.array_equal(still.head_pose[0], np.tile(source.fit.head_pose, (25, 1)))
    change = np.abs(still.frames[0].astype(int) - still.frames[0, :1]).max((0, 3))
    assert change[SIDE // 2 :].max() > 10  # the mouth
    moving = np.abs(out.frames[0].astype(int) - out.frames[0, :1]).max((0, 3))
    assert change[: SIDE // 4].mean() < 0.2 * moving[: SIDE // 4].mean()  # hair and forehead


def test_blinks_close_the_lids(tiny, source, voice):
    open_eyes = tiny.sample_motion(voice, still=True, blink=False)
    assert not open_eyes.blink.any()
    shut = replace(open_eyes, blink=np.where(np.arange(25) == 12, 1, 0).astype(np.float32)[None])
    awake, asleep = (np.concatenate(list(tiny.render(source, m)), 1)[0].astype(int) for m in (open_eyes, shut))
    change = np.abs(awake - asleep).max(-1)
    around = tiny.video_generator.config.window // 2
    assert not change[: 12 - around].any() and not change[12 + around + 1 :].any()
    seen = source.fit.similarity.place(source.fit.shape)[:, :2]
    eyes, nose = seen[[33, 133, 362, 263], 1].mean(), int(seen[1, 1])
    assert abs(np.argwhere(change[12, :nose] > 60)[:, 0].mean() - eyes) < 0.06 * SIDE
    closing = float(eye_opening(source.fit.shape)) * tiny.face_model.array("blink")
    closed = tiny.face_model.move(source.fit.shape, closing[None])
    assert eye_opening(closed)[0] < 0.35 * eye_opening(source.fit.shape)


def test_blinks_are_on_unless_refused(tiny):
    encoded = tiny.encode_speech(np.tile(speech(2), 5), SAMPLING_RATE)
    assert tiny.sample_motion(encoded, generator=seeded()).blink.max() > 0.8
    assert not tiny.sample_motion(encoded, generator=seeded(), blink=False).blink.any()


@pytest.mark.parametrize(("name", "column"), [("yaw", 0), ("pitch", 1), ("roll", 2)])
def test_offsets_are_added_frame_by_frame(tiny, voice, out, name, column):
    curve = np.linspace(-12, 17, 25)
    for offset in (12, 12.5, curve, list(curve)):  # degrees
        moved = tiny.sample_motion(voice, num_videos=3, generator=seeded(), **{name: offset}).head_pose
        expected = np.zeros((25, 6))
        expected[:, column] = np.radians(offset)
        np.testing.assert_allclose(moved - out.motion.head_pose, np.broadcast_to(expected, (3, 25, 6)), atol=1e-6)


def test_a_yaw_turns_the_face_in_the_picture(tiny):
    source = tiny.encode_source(portrait(), size=256)
    encoded = tiny.encode_speech(speech(0.3), SAMPLING_RATE)
    turned = tiny(source, encoded, still=True, blink=False, yaw=17).frames[0, 0]
    seen = tiny.encode_source(turned, size=256).fit.head_pose - source.fit.head_pose
    assert 0.15 < seen[0] < 0.4 and np.abs(seen[1:3]).max() < 0.1


@pytest.mark.parametrize("curve", [np.zeros(24), np.zeros((25, 2)), np.full(25, np.nan), np.inf, 70])
def test_curves_that_do_not_fit_are_refused(tiny, voice, curve):
    with pytest.raises(ValueError, match="yaw must"):
        tiny.sample_motion(voice, yaw=curve)


def test_scales(tiny, source, voice, out):
    off = {"motion_scale": 0, "expression_scale": 0, "upper_face": 0, "gaze": "fixed", "blink": False}
    none = tiny(source, voice, num_videos=2, generator=seeded(), **off)
    assert np.array_equal(none.head_pose, np.broadcast_to(source.fit.head_pose, (2, 25, 6)))
    assert not np.ptp(none.expression, axis=0).any()
    # Batches of another length may round another way.
    assert np.abs(none.frames.astype(int) - none.frames[:, :1]).max() <= 1
    half = tiny.sample_motion(voice, num_videos=3, generator=seeded(), motion_scale=0.5).head_pose
    np.testing.assert_allclose(half, 0.5 * out.motion.head_pose, atol=1e-6)
    more = tiny.extract_expression(source, voice, 2.0) - none.expression
    np.testing.assert_allclose(more, 2 * (out.expression - none.expression), atol=1e-4)


@pytest.mark.integration
def test_head_motion_of_a_video(tiny, tmp_path):
    source = tiny.encode_source(portrait(192), size=192)
    encoded = tiny.encode_speech(speech(1.2), SAMPLING_RATE)
    yaw = 0.3 * np.sin(np.arange(30) / 30 * 2 * np.pi)
    frames = tiny(source, encoded, still=True, blink=False, yaw=np.degrees(yaw)).frames[0]
    with VideoWriter(tmp_path / "reference.mp4", (192, 192)) as writer:
        writer.write(frames)
    # The speech is longer than the video, whose motion is then made backwards.
    longer = tiny.encode_speech(speech(2.0), SAMPLING_RATE)
    motion = tiny.sample_motion(longer, num_videos=2, head_motion=tmp_path / "reference.mp4", generator=seeded())
    assert motion.sampling == "video" and motion.head_pose.shape == (2, 50, 6)
    pose = motion.head_pose[0]
    assert np.array_equal(pose, motion.head_pose[1])
    assert not pose[0].any()
    assert np.corrcoef(pose[:30, 0], yaw)[0, 1] > 0.97
    assert 0.6 < np.ptp(pose[:30, 0]) / np.ptp(yaw) < 1.3
    assert np.abs(pose[:, 1:3]).max() < 0.1
    assert np.array_equal(pose[29:49], pose[29:9:-1])


def test_silence_rests_the_mouth(tiny, source):
    waveform = np.concatenate([speech(0.6), np.zeros(32_000, np.float32), speech(0.6, seed=1)])
    encoded = tiny.encode_speech(waveform, SAMPLING_RATE)
    out = tiny(source, encoded, still=True, blink=False, upper_face=0, gaze="fixed")
    quiet = slice(28, 55)  # 1.12 to 2.2 s, well inside the silence
    assert not encoded.activity[quiet].any()
    assert not np.ptp(out.expression[quiet], axis=0).any()
    assert np.ptp(out.expression[:15], axis=0).max() > 0.01
    at_rest = tiny.extract_expression(source, encoded, expression_scale=0)
    assert np.array_equal(out.expression[quiet], at_rest[quiet])
    around = tiny.video_generator.config.window // 2
    resting = out.frames[0, 28 + around : 55 - around]
    assert (resting == resting[0]).all()
    shape = tiny.face_model.move(source.fit.shape, out.expression[40:41] - source.fit.expression)
    assert mouth_opening(shape)[0] < 0.6 * mouth_opening(source.fit.shape) + 0.01  # she smiles with her teeth


# Portraits


def test_a_full_frame_is_the_picture_outside_the_square(tiny, voice):
    picture = np.pad(portrait(), ((10, 41), (30, 60), (0, 0)), mode="edge")  # 211 x 250: an odd height
    given = picture.copy()
    out = tiny(picture, voice, full_frame=True, num_videos=2, generator=seeded())
    assert np.array_equal(picture, given)
    assert out.frames.shape == (2, 25, 211, 250, 3)
    left, top, side = out.source.box
    outside = np.ones(picture.shape[:2], bool)
    outside[max(top, 0) : top + side, max(left, 0) : left + side] = False
    assert 0.2 < outside.mean() < 0.9
    assert (out.frames[:, :, outside] == picture[outside]).all()
    assert (out.frames[:, :, ~outside] != picture[~outside]).any()
    # No seam: at the edge of the square the picture is hardly changed.
    edge = ~outside
    edge[top + 1 : top + side - 1, left + 1 : left + side - 1] = False
    seam = np.abs(out.frames[:, :, edge].astype(int) - picture[edge])
    assert seam.mean() < 1 and np.quantile(seam, 0.99) < 12


def test_a_small_face_beside_a_large_one_is_found(tiny, repository):
    small, large = (Image.open(repository / "examples" / f"portrait_{name}.jpg") for name in ("astronaut", "hopper"))
    picture = Image.new("RGB", (1024, 600), "gray")
    picture.paste(small, (0, 44))
    picture.paste(large, (512, 0))
    left = {face: tiny.encode_source(picture, face=face).box.left for face in (0, 1)}
    assert left[0] > 512 > left[1]


@pytest.mark.integration
def test_a_large_picture_is_scaled_down(tiny):
    picture = np.asarray(Image.fromarray(portrait(400)).resize((1800, 1800)))
    source = tiny.encode_source(picture, full_frame=True)
    assert max(source.picture.shape) <= 1280 and source.size <= 768
    small = tiny.encode_source(portrait(400), full_frame=True)
    np.testing.assert_allclose(source.fit.head_pose, small.fit.head_pose, atol=0.06)


@pytest.mark.integration
def test_the_orientation_of_a_camera_is_obeyed(tiny, tmp_path):
    upright = Image.fromarray(portrait())
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90 degrees to see it upright
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    source = tiny.encode_source(tmp_path / "turned.png", size=SIDE)
    expected = tiny.encode_source(upright, size=SIDE)
    assert np.array_equal(source.picture, portrait()) and np.array_equal(source.crop, expected.crop)
    assert np.array_equal(source.fit.head_pose, expected.fit.head_pose)


@pytest.mark.integration
def test_transparent_and_grey_portraits(tiny, voice, tmp_path):
    alpha = np.full((160, 160, 1), 255, np.uint8)
    alpha[:, :20] = 0
    Image.fromarray(np.concatenate([portrait(), alpha], -1)).save(tmp_path / "cut out.png")
    source = tiny.encode_source(tmp_path / "cut out.png", full_frame=True)
    assert (source.picture[:, :20] == 255).all() and np.array_equal(source.picture[:, 20:], portrait()[:, 20:])
    Image.fromarray(portrait()).convert("L").save(tmp_path / "grey.jpg")
    frames = tiny(tmp_path / "grey.jpg", voice, size=SIDE, still=True, blink=False, generator=seeded()).frames[0]
    assert frames.shape == (25, SIDE, SIDE, 3)
    top = frames[:, : SIDE // 4]
    assert (top == top[..., :1]).all()  # grey stays grey where nothing is painted


def two_faces():
    """Two women close together: the left one is larger, and the square around the right one shows both."""
    left = portrait(240)[:, 72:168]
    right = np.pad(portrait(220)[:, 66:154], ((0, 20), (0, 0), (0, 0)), mode="edge")
    return np.concatenate([left, right], 1)


@pytest.mark.integration
def test_of_two_faces_the_largest_is_taken_and_said(tiny):
    with pytest.warns(UserWarning, match="shows 2 faces; the largest is taken"):
        source = tiny.encode_source(two_faces(), full_frame=True)
    assert source.num_faces == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (tiny.encode_source(two_faces(), full_frame=True, face=face) for face in (0, 1))
    assert np.array_equal(first.fit.head_pose, source.fit.head_pose)
    centres = [
        (fit.similarity.place(fit.shape)[:, 0].mean() + box.left)
        for fit, box in ((each.fit, each.box) for each in (first, second))
    ]
    assert centres[0] < 96 < centres[1]  # though the second square shows both
    for face in (2, -1, 0.5):
        with pytest.raises(ValueError, match="face"):
            tiny.encode_source(two_faces(), full_frame=True, face=face)


def test_size(tiny, voice):
    for size in (64, 131):
        out = tiny(portrait(), voice, size=size, still=True, output_type="lazy")
        assert next(tiny.render(out.source, out.motion)).shape == (1, 4, size, size, 3)
    for size, full_frame in ((63, False), (4096, False), (100.5, False), (128, True)):
        with pytest.raises(ValueError, match="size"):
            tiny.encode_source(portrait(), size=size, full_frame=full_frame)


# Speech


def test_a_fifth_of_a_second_is_enough(tiny, source):
    out = tiny(source, (speech(0.2), SAMPLING_RATE), num_videos=2, generator=seeded())
    assert out.frames.shape[:2] == (2, 5)


def test_speech_in_pieces_is_speech_at_once(tiny, source, tmp_path, monkeypatch):
    path = write_wav(tmp_path / "voice.wav", speech(1.7))

    def through():
        recording = Recording.open(path)
        encoded = tiny.encode_speech(recording)
        np.testing.assert_array_equal(encoded.waveform, load_speech(path))
        np.testing.assert_array_equal(encoded.mel_windows, mel_windows(encoded.waveform))
        motion = tiny.sample_motion(encoded, num_videos=2, generator=seeded())
        return encoded.weights, motion.head_pose, tiny.extract_expression(source, encoded)

    whole = through()
    monkeypatch.setattr("osmnet.media.recording.MEMORY_SECONDS", 0.5)
    monkeypatch.setattr("osmnet.pipelines.osm_net.pipeline_osm_net.CLIPS_AT_ONCE", 3)
    monkeypatch.setattr("osmnet.pipelines.osm_net.pipeline_osm_net.FRAMES_AT_ONCE", 7)
    monkeypatch.setattr("osmnet.models.osm_net.expression.CHUNK", 5)
    for expected, found in zip(whole, through(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.integration
def test_files_videos_and_arrays_say_the_same(tiny, saved, tmp_path):
    from_array = tiny.encode_speech(speech(1.0), SAMPLING_RATE)
    from_file = tiny.encode_speech(write_wav(tmp_path / "voice.wav", speech(1.0)))
    np.testing.assert_allclose(from_file.mel_windows, from_array.mel_windows, atol=0.02)
    np.testing.assert_allclose(from_file.weights, from_array.weights, atol=1e-2)
    from_video = tiny.encode_speech(saved[0] / "take-1.mp4")
    assert from_video.num_frames in (26, 27, 28)  # AAC comes in blocks of 1.6 frames


# Loading


def test_another_model_makes_other_frames(tiny_folder, out, source, voice, tmp_path):
    other = tiny_pipeline(seed=1)
    other.save_pretrained(tmp_path)
    edit_tensors(tmp_path, lambda state: state["motion_bases"].mul_(2))
    loaded = OSMNetPipeline.from_pretrained(tmp_path)
    motion = loaded.sample_motion(loaded.encode_speech(speech(1.0), SAMPLING_RATE), num_videos=3, generator=seeded())
    assert (motion.head_pose != out.motion.head_pose).any()


@pytest.mark.integration
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_half_precision(out, source, tmp_path, dtype):
    tiny_pipeline().to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    half = OSMNetPipeline.from_pretrained(tmp_path, variant="fp16", dtype=dtype)
    assert half.dtype == (dtype or torch.float32)
    result = half(source, (speech(1.0), SAMPLING_RATE), num_videos=1, generator=seeded())
    assert np.abs(result.head_pose[0] - out.head_pose[0]).max() < np.radians(2)
    assert np.abs(result.frames[0].astype(int) - out.frames[0]).mean() < 1


def test_a_face_on_its_head_is_refused(tiny, repository):
    upright = Image.open(repository / "examples" / "portrait_astronaut.jpg")
    tiny.encode_source(upright)
    with pytest.raises(ValueError, match="upside down"):
        tiny.encode_source(upright.rotate(180))


def test_a_face_that_is_cut_off_is_refused(tiny, repository):
    picture = Image.open(repository / "examples" / "portrait_hopper.jpg")
    face = tiny.encode_source(picture)
    middle = face.box.left + face.box.side // 2
    with pytest.raises(ValueError, match="outside the picture|No face"):
        tiny.encode_source(picture.crop((middle, 0, *picture.size)))
