"""`PipelineTesterMixin`: what holds for the pipelines of all families.

A test class derives from it and gives the fixtures `pipeline` (the real classes, tiny) and `folder` (the same, saved).
"""

import inspect
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

from osmnet.media.video_reader import read_frames
from osmnet.pipelines.options import MotionOptions, PictureOptions
from osmnet.pipelines.talking_head import TalkingHeadPipeline
from osmnet.rendering import chunks
from tests.support.dummies import SAMPLING_RATE, SEED, portrait, speech

SIDE = 96


class PipelineTesterMixin:
    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, pipeline):
        return pipeline.encode_source(portrait(), size=SIDE)

    @pytest.fixture(scope="class")
    @classmethod
    def voice(cls, pipeline):
        return pipeline.encode_speech(speech(1.0), SAMPLING_RATE)

    @pytest.fixture(scope="class")
    @classmethod
    def out(cls, pipeline, source, voice):
        return pipeline(source, voice, num_videos=3, seed=SEED)

    def test_shapes_types_and_ranges(self, out):
        assert out.frames.shape == (3, 25, SIDE, SIDE, 3) and out.frames.dtype == np.uint8
        assert out.head_pose.shape == (3, 25, 6) and out.head_pose.dtype == np.float32
        assert np.isfinite(out.head_pose).all()

    def test_the_same_seed_gives_the_same_frames(self, pipeline, source, voice, out):
        for again in (
            pipeline(source, voice, num_videos=3, seed=SEED),
            pipeline(source, voice, num_videos=3, generator=torch.Generator().manual_seed(SEED)),
            pipeline(source, voice, num_videos=3, seed=list(out.motion.seeds)),
        ):
            assert np.array_equal(again.frames, out.frames)
            assert np.array_equal(again.head_pose, out.head_pose)
            assert again.motion.seeds == out.motion.seeds

    def test_a_take_does_not_depend_on_how_many_there_are(self, pipeline, voice, out):
        for count in (1, 2, 7):
            motion = pipeline.sample_motion(voice, num_videos=count, seed=SEED)
            both = min(count, 3)
            assert motion.seeds[:both] == out.motion.seeds[:both]
            assert np.array_equal(motion.head_pose[:both], out.motion.head_pose[:both])
            assert np.array_equal(motion.blink[:both], out.motion.blink[:both])

    def test_a_seed_is_a_whole_number_and_given_once(self, pipeline, source, voice):
        for seed in (-1, 2**63, 1.5, "7", True, [1, -1]):
            with pytest.raises(ValueError, match="seed must be a whole number"):
                pipeline(source, voice, seed=seed, output_type="lazy")
        with pytest.raises(ValueError, match="seed and generator say the same"):
            pipeline(source, voice, seed=1, generator=torch.Generator(), output_type="lazy")
        with pytest.raises(ValueError, match="2 generators were given for 1 videos"):
            pipeline(source, voice, seed=[1, 2], output_type="lazy")

    def test_the_public_steps_make_what_the_call_makes(self, pipeline, out):
        source = pipeline.encode_source(portrait(), size=SIDE)
        encoded = pipeline.encode_speech(speech(1.0), SAMPLING_RATE)
        motion = pipeline.sample_motion(encoded, num_videos=3, seed=SEED)
        chunks = list(pipeline.render(source, motion))
        assert len(chunks) > 1 and all(len(chunk) == 3 for chunk in chunks)
        assert np.array_equal(np.concatenate(chunks, 1), out.frames)
        direct = pipeline(portrait(), (speech(1.0), SAMPLING_RATE), num_videos=3, size=SIDE, seed=SEED)
        assert np.array_equal(direct.frames, out.frames)

    def test_what_is_encoded_is_not_encoded_again(self, pipeline, source, voice):
        for options in ({"full_frame": True}, {"size": 128}, {"face": 0}):
            with pytest.raises(ValueError, match="encoded already"):
                pipeline(source, voice, **options)
        for options in ({"size": SIDE}, {"full_frame": False}):
            pipeline(source, voice, **options, still=True, output_type="lazy")

    @pytest.mark.parametrize("chunk", [1, 5, 64])
    def test_chunked_is_whole(self, pipeline, source, voice, out, monkeypatch, chunk):
        longest, most_bytes = chunks.CPU_CHUNK
        assert chunk != longest
        monkeypatch.setattr(chunks, "CPU_CHUNK", (chunk, most_bytes))
        frames = pipeline(source, voice, num_videos=1, seed=SEED).frames[0]
        # Sums over another batch may round another way, by one grey level at most.
        assert np.abs(frames.astype(int) - out.frames[0]).max() <= 1

    @pytest.mark.integration
    def test_output_types_show_the_same(self, pipeline, source, voice, out, tmp_path):
        lazy = pipeline(source, voice, num_videos=3, seed=SEED, output_type="lazy")
        assert lazy.frames is None
        assert np.array_equal(lazy.head_pose, out.head_pose)
        streamed = [chunk.frames for chunk in lazy.stream(label=False)]
        assert np.array_equal(np.concatenate(streamed, axis=1), out.frames)
        pil = pipeline(source, voice, num_videos=3, seed=SEED, output_type="pil")
        assert isinstance(pil.frames[2][24], Image.Image)
        assert np.array_equal(np.asarray(pil.frames[2][24]), out.frames[2, 24])
        written = [kind.save(tmp_path / str(i), sheet=False) for i, kind in enumerate((lazy, pil, out))]
        for paths in zip(*written, strict=True):
            if paths[0].suffix == ".mp4":
                videos = [np.stack(list(read_frames(path))).astype(int) for path in paths]
                # x264 itself varies from time to time, more with pictures as noisy as an untrained network's.
                assert np.abs(videos[0] - videos[1]).mean() < 3 and np.abs(videos[0] - videos[2]).mean() < 3
        assert np.array_equal(np.stack(lazy.videos), out.frames)  # renders now

    def test_a_saved_pipeline_makes_the_same_frames(self, pipeline, folder, out):
        for cls in (type(pipeline), TalkingHeadPipeline):
            loaded = cls.from_pretrained(folder)
            assert type(loaded) is type(pipeline)
            again = loaded(portrait(), (speech(1.0), SAMPLING_RATE), num_videos=3, size=SIDE, seed=SEED)
            assert np.array_equal(again.frames, out.frames)

    def test_a_wrong_keyword_suggests_the_right_one(self, pipeline, source, voice):
        for wrong, right in (("epsilonn", "epsilon"), ("num_video", "num_videos"), ("n", "num_videos"),
                             ("seeds", "seed"), ("crop", "full_frame"), ("output", "output_type")):  # fmt: skip
            with pytest.raises(TypeError, match=f"no option '{wrong}'; did you mean '{right}'"):
                pipeline(source, voice, **{wrong: 1})
        with pytest.raises(TypeError, match="no option 'zzz'; it takes num_videos, epsilon"):
            pipeline(source, voice, zzz=1)
        with pytest.raises(TypeError, match="sample_motion has no option 'siz'"):
            pipeline.sample_motion(voice, siz=1)

    def test_signatures_show_every_option(self, pipeline):
        shown = inspect.signature(pipeline.__call__).parameters
        for each in [*fields(MotionOptions), *fields(PictureOptions)]:
            assert shown[each.name].default == each.default
        assert "options" not in shown and {"portrait", "speech", "seed", "generator", "output_type"} <= set(shown)

    def test_the_whole_picture_is_the_default(self, pipeline, voice):
        assert pipeline.encode_source(portrait()).frame_size == (160, 160)
        assert pipeline.encode_source(portrait(), full_frame=False).frame_size == (256, 256)
        assert pipeline.encode_source(portrait(), size=SIDE).frame_size == (SIDE, SIDE)

    def test_an_output_is_a_sequence_of_takes(self, out, tmp_path):
        assert len(out) == 3 and [len(take) for take in out] == [1, 1, 1]
        assert [video.shape for video in out.videos] == [(25, SIDE, SIDE, 3)] * 3
        for index, take in enumerate(out):
            assert np.array_equal(take.frames[0], out.frames[index])
            assert take.motion.seeds == (out.motion.seeds[index],)
        assert np.array_equal(out[-1].head_pose, out.head_pose[2:])
        assert np.array_equal(out[1:].frames, out.frames[1:])
        for wrong, error in ((3, IndexError), (-4, IndexError), ("1", TypeError), (slice(2, 2), ValueError)):
            with pytest.raises(error):
                out[wrong]
        [file] = out[1].save(tmp_path / "second.mp4")
        assert [path.name for path in tmp_path.iterdir()] == ["second.mp4"] and file.name == "second.mp4"
        with pytest.raises(ValueError, match="'all.mp4' is one file, and there are 3 takes; name a folder"):
            out.save(tmp_path / "all.mp4")

    def test_texts_are_short(self, pipeline, out):
        assert f"3 takes of 1.0 s, {SIDE} × {SIDE}, seed {SEED}, rendered" in repr(out)
        assert len(repr(out)) < 120 and len(repr(pipeline)) < 120
        assert type(pipeline).__name__ in repr(pipeline)

    @pytest.mark.integration
    def test_a_notebook_plays_the_takes(self, out):
        html = out._repr_html_()
        assert html.count("<video") == 3 and html.count("data:video/mp4;base64,AAAA") == 3

    def test_frames_that_do_not_fit_in_memory_are_refused_before_the_work(self, pipeline, source, voice, monkeypatch):
        size = 3 * 25 * SIDE * SIDE * 3
        monkeypatch.setattr("osmnet.takes.output.available_bytes", lambda: size)
        with pytest.raises(ValueError, match=r'take 2.07 MB of memory, and 2.07 MB are free; use output_type="lazy"'):
            pipeline(source, voice, num_videos=3)
        lazy = pipeline(source, voice, num_videos=3, output_type="lazy")
        with pytest.raises(ValueError, match="lazy"):
            lazy.videos  # noqa: B018
        assert lazy[0].videos[0].shape == (25, SIDE, SIDE, 3)
