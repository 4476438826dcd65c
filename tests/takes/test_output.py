"""Takes while they are made: streamed, written side by side, stopped and gone on with."""

import errno
import pickle
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from osmnet.face.drawing import draw
from osmnet.media.audio import FPS, SAMPLES_PER_FRAME
from osmnet.media.video_reader import read_frames
from osmnet.media.video_writer import VideoWriter, best_codec, join_videos
from osmnet.pipelines.osm_net.head_motion import absolute_pose
from osmnet.pipelines.osm_net.upper_face import UpperFace
from osmnet.rendering.decoders.fused_loops import activate, blend
from osmnet.rendering.mesh_renderer import MeshRenderer
from osmnet.rendering.select import renderer_for
from osmnet.takes import writer
from osmnet.takes.background import AHEAD, BackgroundWriter
from osmnet.takes.unfinished import FOLDER_NAME, unfinished_records
from osmnet.utils.profiling import Profile, span
from osmnet.utils.threads import default_workers
from tests.support.dummies import SAMPLING_RATE, SEED, portrait, read_json, speech, tiny_pipeline

FRAMES = 55
PART = 16


@pytest.fixture(scope="module")
def encoded(tiny):
    source = tiny.encode_source(portrait(), size=64)
    return source, tiny.encode_speech(speech(FRAMES / FPS), SAMPLING_RATE)


def lazy(pipe, encoded, seed=SEED, **options):
    options = {"num_videos": 2, "epsilon": 1.0} | options
    generator = torch.Generator().manual_seed(seed)
    return pipe(*encoded, generator=generator, output_type="lazy", **options)


@pytest.fixture(scope="module")
def whole(tiny, encoded):
    return tiny(*encoded, num_videos=2, generator=torch.Generator().manual_seed(SEED))


@pytest.fixture
def parts(monkeypatch):
    """Parts of 16 frames instead of a minute."""
    monkeypatch.setattr(writer, "PART_SECONDS", PART / FPS)


# Streams


def test_a_stream_put_together_is_the_whole(tiny, encoded, whole):
    options = {"num_videos": 2, "generator": torch.Generator().manual_seed(SEED), "label": False}
    chunks = list(tiny.stream(*encoded, **options))
    assert chunks[0].frames.shape[1] == 4  # the first come soon
    assert [chunk.first_frame for chunk in chunks] == [0, 4, 16, 32, 48]
    assert np.array_equal(np.concatenate([chunk.frames for chunk in chunks], 1), whole.frames)
    waveform = np.concatenate([chunk.waveform for chunk in chunks])
    assert np.array_equal(waveform, encoded[1].waveform)
    assert all(len(chunk.waveform) == chunk.frames.shape[1] * SAMPLES_PER_FRAME for chunk in chunks)


def test_what_was_encoded_and_sampled_goes_to_another_process(tiny, encoded, whole):
    source, motion = pickle.loads(pickle.dumps((whole.source, whole.motion)))
    assert motion != whole.motion and motion.speech != whole.motion.speech  # arrays have no single answer
    again = tiny.takes(source, motion)
    frames = np.concatenate([chunk.frames for chunk in again.stream(label=False)], 1)
    assert np.array_equal(frames, whole.frames)


def test_saving_can_show_a_bar(tiny, encoded, tmp_path, capsys):
    lazy(tiny, encoded).save(tmp_path, sheet=False, progress=True)
    assert "rendering: 100%" in capsys.readouterr().err
    lazy(tiny, encoded).save(tmp_path, sheet=False, progress=False, overwrite=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "options",
    [
        {name: value}
        for name in ("sheet", "resume", "label", "overwrite")
        for value in (None, 1, "yes", np.ones(2), object())
    ]
    + [{"progress": 3}, {"progress": "yes"}, {"consent": False}, {"animation": 10**5000}, {"path": 3}, {"path": None}],
)
def test_saving_refuses_at_the_call(tiny, encoded, tmp_path, options):
    ((name, _),) = options.items()
    with pytest.raises(ValueError, match=f"^{name} must be ") as refusal:
        lazy(tiny, encoded).save(**{"path": tmp_path / "out"} | options)
    assert len(str(refusal.value)) < 250 and not (tmp_path / "out").exists()


def test_a_stream_refuses_at_the_call(tiny, encoded):
    with pytest.raises(ValueError, match="epsilon"):
        tiny.stream(*encoded, epsilon=-1.0)
    with pytest.raises(ValueError, match="no output_type"):
        tiny.stream(*encoded, output_type="np")
    other = tiny_pipeline()
    for precision, message in (("float16", "not in float16"), ("float8", "precision must be one of")):
        other.precision = precision
        with pytest.raises(ValueError, match=message):
            other.stream(*encoded)
    with pytest.raises(ValueError, match="within the 55 frames, not from 50 to 56"):
        next(tiny.render(encoded[0], lazy(tiny, encoded).motion, chunks=[(0, 5), (50, 56)]))


def test_a_stream_that_is_closed_renders_no_further(tiny, encoded, monkeypatch):
    drawn = []
    draw = MeshRenderer.render_chunk
    monkeypatch.setattr(MeshRenderer, "render_chunk", lambda self, *driving: drawn.append(1) or draw(self, *driving))
    long = tiny.encode_speech(speech(40), SAMPLING_RATE)
    stream = tiny.stream(encoded[0], long, still=True)
    next(stream)
    stream.close()
    stopped_at = len(drawn)
    assert stopped_at <= 2 * default_workers() + 2  # of 63 chunks: those at work, as many ahead, and the one taken
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("osmnet_")]


def test_frames_are_those_of_the_straightforward_path(tiny, encoded, whole):
    """One chunk of everything, the network as it is defined, in float32."""
    source, speech_of_it = encoded
    renderer, network = renderer_for(source, tiny.face_model, tiny.video_generator), tiny.video_generator

    def decode(vectors, warped, guide):
        made = network.decode(renderer.source_image, vectors, warped, guide)
        return made.residual, made.mask

    renderer.decoder = decode
    beta = tiny.extract_expression(source, speech_of_it)
    poses = absolute_pose(source, whole.motion)
    closure, change = UpperFace(tiny.upper_face_space, tiny.face_model, source).of(whole.motion)
    (frames,) = renderer(poses, beta, closure, [(0, FRAMES)], change)
    difference = np.abs(frames.astype(int) - whole.frames)
    assert difference.max() <= 2 and difference.mean() < 0.1


@pytest.mark.parametrize("threads", [1, 3])
def test_frames_do_not_depend_on_how_many_threads_render(tiny, encoded, whole, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        frames = tiny(*encoded, num_videos=2, generator=torch.Generator().manual_seed(SEED)).frames
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(frames, whole.frames)


def test_after_the_warm_up_nothing_is_left_to_compile(tiny, encoded):
    tiny.warm_up()
    compiled = [list(function.signatures) for function in (draw, activate, blend)]
    lazy(tiny, encoded).stream().__next__()
    assert [list(function.signatures) for function in (draw, activate, blend)] == compiled
    assert all(compiled)


# Writers


def test_frames_are_written_while_others_are_made(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 48, 3), dtype=np.uint8)
    with BackgroundWriter(VideoWriter(tmp_path / "a.mp4", (32, 48))) as writer:
        for image in images:
            writer.write(image[None])
    with VideoWriter(tmp_path / "b.mp4", (32, 48)) as direct:
        direct.write(images)
    assert np.array_equal(*(np.stack(list(read_frames(tmp_path / f"{name}.mp4"))) for name in "ab"))


def test_ctrl_c_while_the_last_frames_are_encoded_leaves_nothing(tmp_path, monkeypatch):
    begun, go_on, encode = threading.Event(), threading.Event(), VideoWriter.write

    def slow(self, frames):
        begun.set()
        go_on.wait(10)
        encode(self, frames)

    join, joined = threading.Thread.join, []

    def interrupted(self, timeout=None):
        if self.name.startswith("osmnet write") and not joined:
            joined.append(1)
            begun.wait(10)
            go_on.set()
            raise KeyboardInterrupt
        join(self, timeout)

    monkeypatch.setattr(VideoWriter, "write", slow)
    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt), BackgroundWriter(VideoWriter(tmp_path / "a.mp4", (32, 32))) as writer:
        writer.write(np.zeros((1, 32, 32, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("osmnet write")]


def test_a_slow_encoder_holds_up_whoever_makes_frames(tmp_path, monkeypatch):
    go_on, encoded = threading.Semaphore(0), []
    encode = VideoWriter.write

    def slow(self, frames):
        go_on.acquire()
        encoded.append(len(frames))
        encode(self, frames)

    monkeypatch.setattr(VideoWriter, "write", slow)
    handed = []

    def make() -> None:
        with BackgroundWriter(VideoWriter(tmp_path / "a.mp4", (32, 32))) as writer:
            for _ in range(10):
                writer.write(np.zeros((1, 32, 32, 3), np.uint8))
                handed.append(1)

    maker = threading.Thread(target=make)
    maker.start()
    maker.join(0.3)
    assert len(handed) <= AHEAD + 1 and not encoded  # one at the encoder, two in the queue
    for _ in range(10):
        go_on.release()
    maker.join(20)
    assert len(handed) == len(encoded) == 10


def test_an_encoder_that_dies_stops_the_rendering(tiny, encoded, tmp_path, monkeypatch):
    encode, drawn, draw = VideoWriter._encode_picture, [], MeshRenderer.render_chunk

    def die(self, pixels):
        if self.num_frames == 7 and "take-2" in self.path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        encode(self, pixels)

    monkeypatch.setattr(VideoWriter, "_encode_picture", die)
    monkeypatch.setattr(MeshRenderer, "render_chunk", lambda self, *driving: drawn.append(1) or draw(self, *driving))
    long = tiny.encode_speech(speech(20), SAMPLING_RATE)
    with pytest.raises(ValueError, match=r"take-2.mp4' cannot be written \(No space left on device\)"):
        lazy(tiny, (encoded[0], long), still=True).save(tmp_path)
    assert len(drawn) < 2 * 33  # a chunk of each take: not to the end
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("osmnet")]


def test_a_renderer_that_dies_leaves_no_file_and_no_thread(tiny, encoded, tmp_path, monkeypatch):
    draw, drawn = MeshRenderer.render_chunk, []

    def die(self, *driving):
        drawn.append(1)
        if len(drawn) == 6:
            raise MemoryError("no memory")
        return draw(self, *driving)

    monkeypatch.setattr(MeshRenderer, "render_chunk", die)
    with pytest.raises(MemoryError):
        lazy(tiny, encoded).save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("osmnet")]


def test_without_a_gpu_the_codec_is_x264():
    assert best_codec("cpu", (256, 256)) == "libx264"
    if not torch.cuda.is_available():
        assert best_codec("cuda", (256, 256)) == "libx264"
    with pytest.raises(ValueError, match="codec must be one of"):
        VideoWriter("a.mp4", (32, 32), codec="theora")


# Parts


def packets(path) -> list[tuple[int, bytes]]:
    with av.open(str(path)) as container:
        found = [(p.pts, p.dts, bytes(p)) for p in container.demux(container.streams.video[0]) if p.dts is not None]
    assert [dts for _, dts, _ in found] == sorted({dts for _, dts, _ in found})
    return found


@pytest.mark.integration
def test_a_long_take_in_parts_shows_the_same_and_sounds_the_same(tiny, encoded, whole, parts, tmp_path):
    whole.save(tmp_path / "parts", sheet=False)
    paths = lazy(tiny, encoded).save(tmp_path / "lazy", label=False)
    assert [path.name for path in paths[:4]] == ["take-1.mp4", "take-1.json", "take-2.mp4", "take-2.json"]
    assert sorted(path.name for path in (tmp_path / "lazy").iterdir()) == sorted(path.name for path in paths)
    for take in (0, 1):
        frames = np.stack(list(read_frames(tmp_path / "lazy" / f"take-{take + 1}.mp4")))
        assert frames.shape == whole.frames[take].shape
        assert np.abs(frames.astype(int) - whole.frames[take]).mean() < 4
        with av.open(str(tmp_path / "lazy" / f"take-{take + 1}.mp4")) as container:
            assert container.streams.video[0].frames == FRAMES
            assert abs(container.streams.audio[0].duration * container.streams.audio[0].time_base - FRAMES / FPS) < 0.1
            assert "AI-generated" in container.metadata["comment"]
            sound = np.concatenate([f.to_ndarray()[0] for f in container.decode(container.streams.audio[0])])
        own = encoded[1].waveform
        lag = np.argmax(np.correlate(sound[: len(own)], own, "full")) - (len(own) - 1)
        assert abs(lag) <= 2 * SAMPLES_PER_FRAME / 10


def test_joined_parts_have_the_pictures_of_the_parts(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (37, 32, 48, 3), dtype=np.uint8)
    files = []
    for index, (start, stop) in enumerate(((0, 20), (20, 36), (36, 37))):
        files.append(tmp_path / f"{index}.mp4")
        with VideoWriter(files[-1], (32, 48)) as writer:
            writer.write(images[start:stop])
    before = [file.read_bytes() for file in files]
    join_videos(files, tmp_path / "all.mp4", np.zeros(100, np.float32))
    joined = list(read_frames(tmp_path / "all.mp4"))
    assert np.array_equal(joined, [frame for file in files for frame in read_frames(file)])
    packets(tmp_path / "all.mp4")
    assert [file.read_bytes() for file in files] == before
    files[1].write_bytes(b"broken")
    with pytest.raises(ValueError, match="broken.mp4' cannot be written"):
        join_videos(files, tmp_path / "broken.mp4")
    assert not (tmp_path / "broken.mp4").exists()


def stop_at(monkeypatch, frame: int) -> None:
    """Stop as Ctrl-C does, when a frame of take 2 is handed over; only once."""
    write, handed = BackgroundWriter.write, [0]

    def stopping(self, frames):
        if "take-2" in self.writer.path.name:
            handed[0] += len(frames)
        if handed[0] > frame:
            handed[0] = -(10**6)
            raise KeyboardInterrupt
        write(self, frames)

    monkeypatch.setattr(BackgroundWriter, "write", stopping)


@pytest.mark.integration
def test_a_run_that_goes_on_makes_the_same_files(tiny, encoded, parts, tmp_path, monkeypatch):
    lazy(tiny, encoded).save(tmp_path / "whole")
    stop_at(monkeypatch, 40)
    with pytest.raises(KeyboardInterrupt):
        lazy(tiny, encoded).save(tmp_path / "out")
    (folder,) = (tmp_path / "out" / FOLDER_NAME).iterdir()
    left = sorted(path.name for path in folder.iterdir() if path.name != "lock")
    assert left == ["run.json", *(f"take-{take}.000{part}.mp4" for take in (1, 2) for part in (0, 1))]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [FOLDER_NAME]

    drawn, draw = [], MeshRenderer.render_chunk
    monkeypatch.setattr(
        MeshRenderer,
        "render_chunk",
        lambda self, pose, beta: drawn.append(len(pose) - 2 * self.context) or draw(self, pose, beta),
    )
    steps = []
    paths = lazy(tiny, encoded).save(
        tmp_path / "out", resume=True, progress=lambda done, total: steps.append((done, total))
    )
    assert sum(drawn) <= 2 * (FRAMES - 2 * PART) + 2 * 2 * PART  # the sheet shows some of what was finished already
    assert steps[0] == (2 * 2 * PART, 2 * FRAMES) and steps[-1] == (2 * FRAMES, 2 * FRAMES)
    assert sorted(p.name for p in paths) == sorted(p.name for p in (tmp_path / "out").iterdir())
    for take in (1, 2):
        resumed, uninterrupted = (tmp_path / folder / f"take-{take}.mp4" for folder in ("out", "whole"))
        assert packets(resumed) == packets(uninterrupted)
        poses = [read_json(path.with_suffix(".json"))["head_pose"] for path in (resumed, uninterrupted)]
        assert poses[0] == poses[1]
    sheets = [np.asarray(Image.open(tmp_path / folder / "sheet.png")) for folder in ("out", "whole")]
    assert np.array_equal(*sheets)


@pytest.mark.integration
def test_another_run_is_not_gone_on_with(tiny, encoded, parts, tmp_path, monkeypatch):
    stop_at(monkeypatch, 40)
    with pytest.raises(KeyboardInterrupt):
        lazy(tiny, encoded).save(tmp_path)

    def left() -> dict:
        return {path: path.read_bytes() for path in (tmp_path / FOLDER_NAME).rglob("*") if path.is_file()}

    before = left()
    for other, differs in (
        ({"seed": SEED + 1}, "other seeds"),
        ({"num_videos": 1}, "another number of takes"),
        ({"epsilon": 0.5}, "another portrait, speech, model or setting"),
        ({"expression_scale": 0.9}, "another portrait, speech, model or setting"),
    ):
        with pytest.raises(ValueError, match=f"was begun with .*{differs}"):
            lazy(tiny, encoded, **other).save(tmp_path, resume=True)
    for mark, differs in (
        ({"label": False}, "another choice of label"),
        ({"consent": True}, "another word on consent"),
    ):
        with pytest.raises(ValueError, match=f"was begun with {differs}"):
            lazy(tiny, encoded).save(tmp_path, resume=True, **mark)
    louder = tiny.encode_speech(1.5 * speech(FRAMES / FPS), SAMPLING_RATE)  # sounds otherwise, moves the lips alike
    with pytest.raises(ValueError, match="was begun with another portrait, speech"):
        lazy(tiny, (encoded[0], louder)).save(tmp_path, resume=True)
    # Another run, begun in the same folder, leaves it alone.
    lazy(tiny, encoded, num_videos=1).save(tmp_path)
    assert left() == before
    with pytest.raises(ValueError, match="holds takes already; pass overwrite=True to replace them"):
        lazy(tiny, encoded).save(tmp_path, resume=True)
    assert left() == before
    lazy(tiny, encoded).save(tmp_path, resume=True, overwrite=True)
    assert not (tmp_path / FOLDER_NAME).exists()


@pytest.fixture(scope="module")
def short_speech(tiny, encoded):
    return encoded[0], tiny.encode_speech(speech(10 / FPS), SAMPLING_RATE)


@pytest.mark.integration
@pytest.mark.parametrize("count", [2, 5])  # fewer than before; more than are written at once
def test_an_overwritten_folder_holds_the_new_takes_alone(tiny, short_speech, tmp_path, monkeypatch, count):
    monkeypatch.setattr(writer, "TAKES_AT_ONCE", 1)
    lazy(tiny, short_speech, num_videos=4).save(tmp_path, animation="gif")
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    new = lazy(tiny, short_speech, num_videos=count, seed=SEED + 1)

    def old_ones_stay(done: int, total: int) -> None:
        begun = done // 10 + 1  # takes
        for name, content in old.items():
            if name == "sheet.png" or int(name[5]) > begun:
                assert (tmp_path / name).read_bytes() == content

    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            new.save(tmp_path, overwrite=True, progress=old_ones_stay)
    assert not (tmp_path / "take-1.gif").exists()  # it showed a take that is replaced
    assert {path.name: path.read_bytes() for path in tmp_path.glob("take-[234].*")} == {
        name: content for name, content in old.items() if "take-1" not in name and name != "sheet.png"
    }
    paths = new.save(tmp_path, resume=True, progress=old_ones_stay)
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.integration
def test_takes_that_another_run_has_replaced_are_not_taken_for_own(tiny, short_speech, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "TAKES_AT_ONCE", 1)
    first, other = (lazy(tiny, short_speech, seed=seed) for seed in (SEED, SEED + 1))
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            first.save(tmp_path, sheet=False)
    other.save(tmp_path, overwrite=True, sheet=False)
    with pytest.raises(ValueError, match="holds takes already"):
        first.save(tmp_path, resume=True, sheet=False)
    first.save(tmp_path, resume=True, overwrite=True, sheet=False)
    seeds = {read_json(path)["take_seed"] for path in tmp_path.glob("*.json")}
    assert seeds == set(first.motion.seeds)


@pytest.mark.parametrize(
    "record",
    [
        b"", b"[]", b"null", b"\xff\xfe", b"[" * 10**5, b'{"seed": 1', b'{"frames": ' + b"9" * 10**4 + b"}",
        b"x" * (2**22 + 1),
    ],
)  # fmt: skip
def test_a_damaged_record_is_no_run_to_resume(tiny, short_speech, tmp_path, record):
    run = tmp_path / FOLDER_NAME / "abcdef"
    run.mkdir(parents=True)
    (run / "take-1.whole").touch()
    (run / "run.json").write_bytes(record)
    assert unfinished_records(tmp_path) == []
    (tmp_path / FOLDER_NAME / "abcdef" / "run.json").write_text('{"seed": [], "unknown": {"a": 1}}')
    with pytest.raises(ValueError, match="was begun with other seeds"):
        lazy(tiny, short_speech).save(tmp_path, resume=True)


def stopped(pipe, encoded, folder, monkeypatch) -> Path:
    """The folder of a run that was stopped with two parts of each take."""
    with monkeypatch.context() as patch:
        stop_at(patch, 40)
        with pytest.raises(KeyboardInterrupt):
            lazy(pipe, encoded).save(folder)
    (run,) = (folder / FOLDER_NAME).iterdir()
    return run


@pytest.mark.integration
def test_two_runs_at_once_do_not_meet(tiny, encoded, parts, tmp_path, monkeypatch):
    run = stopped(tiny, encoded, tmp_path, monkeypatch)
    with FileLock(run / "lock"), pytest.raises(ValueError, match="Another process is making takes"):
        lazy(tiny, encoded).save(tmp_path)
    assert len(list(run.glob("take-*.mp4"))) == 4
    lazy(tiny, encoded).save(tmp_path, resume=True)


@pytest.mark.integration
@pytest.mark.parametrize("damage", ["empty", "zeros", "cut", "stray"])
def test_a_part_that_a_power_cut_has_damaged_is_made_again(tiny, encoded, parts, tmp_path, monkeypatch, damage):
    lazy(tiny, encoded).save(tmp_path / "whole", sheet=False)
    part = stopped(tiny, encoded, tmp_path / "out", monkeypatch) / "take-2.0001.mp4"
    content = part.read_bytes()
    damaged = {"empty": b"", "zeros": content[: len(content) // 2].ljust(len(content), b"\0"), "cut": content[:900]}
    if damage == "stray":
        (part.parent / ".take-2.0002.mp4.abcd.part").write_bytes(b"half")
    else:
        part.write_bytes(damaged[damage])
    lazy(tiny, encoded).save(tmp_path / "out", sheet=False, resume=True)
    for name in ("take-1.mp4", "take-2.mp4"):
        assert packets(tmp_path / "out" / name) == packets(tmp_path / "whole" / name)
    assert not (tmp_path / "out" / FOLDER_NAME).exists()


@pytest.mark.integration
def test_a_run_that_was_stopped_while_it_joined_goes_on(tiny, encoded, parts, tmp_path, monkeypatch):
    lazy(tiny, encoded).save(tmp_path / "whole", sheet=False)

    def full(*_: object, **__: object) -> None:
        raise ValueError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(writer, "join_videos", full)
        with pytest.raises(ValueError, match="no room"):
            lazy(tiny, encoded).save(tmp_path / "out", sheet=False)
    drawn = []
    monkeypatch.setattr(MeshRenderer, "render_chunk", lambda *_: drawn.append(1))
    lazy(tiny, encoded).save(tmp_path / "out", sheet=False, resume=True)
    assert not drawn
    assert packets(tmp_path / "out" / "take-2.mp4") == packets(tmp_path / "whole" / "take-2.mp4")


@pytest.mark.integration
def test_a_take_that_was_removed_since_is_made_again(tiny, encoded, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "TAKES_AT_ONCE", 1)
    with monkeypatch.context() as patch:
        stop_at(patch, 40)
        with pytest.raises(KeyboardInterrupt):
            lazy(tiny, encoded).save(tmp_path)
    assert (tmp_path / "take-1.mp4").exists()
    (tmp_path / "take-1.mp4").unlink()
    paths = lazy(tiny, encoded).save(tmp_path, resume=True)
    assert all(path.is_file() for path in paths)


def test_nothing_to_go_on_with_is_begun_anew(tiny, encoded, tmp_path):
    paths = lazy(tiny, encoded, num_videos=1).save(tmp_path, sheet=False, resume=True)
    assert sorted(tmp_path.iterdir()) == sorted(paths)


# Profiles


@pytest.mark.integration
def test_a_profile_counts_every_span(tiny, encoded, tmp_path):
    begun = time.process_time()
    with Profile() as profile:
        lazy(tiny, encoded).save(tmp_path)
    took = time.process_time() - begun
    spans = profile.as_dict(2 * FRAMES)["spans"]
    assert {"warp", "network", "paint", "encode"} <= set(spans)
    assert spans["warp"]["calls"] == spans["paint"]["calls"] == 2 * 5  # chunks of each take
    busy = sum(row["cpu_s"] for row in spans.values())
    assert took <= busy * 1.1 and busy <= time.process_time()  # nothing that the process did is left out
    table = profile.table(2 * FRAMES)
    assert all(name in table for name in spans) and f"{2 * FRAMES} frames" in table
    with span("afterwards"):
        pass
    assert "afterwards" not in profile.spans
