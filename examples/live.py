"""A recording streamed as if it came from a microphone: frames are returned while it is being spoken.

python examples/live.py            in real time
python examples/live.py --fast     as fast as this machine can

For a real microphone, open an `InputStream` of the package `sounddevice`, and pass the arrays of its callback to
`session.feed` in another thread, through a queue.
"""

import argparse
import time
from pathlib import Path

from osmnet import OSMNetPipeline, load_speech
from osmnet.media.video_writer import VideoWriter
from osmnet.provenance.manifest import sign

EXAMPLES = Path(__file__).resolve().parent
RATE, CHUNK = 16_000, 320  # Hz; samples a chunk: 20 ms, as sound cards deliver them

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--fast", action="store_true", help="do not wait for the sound")
parser.add_argument("--portrait", default=EXAMPLES / "portrait_astronaut.jpg")
parser.add_argument("--speech", default=EXAMPLES / "speech_1.wav")
parser.add_argument("--block", type=int, default=2, help="frames rendered together (2): more are faster, and later")
parser.add_argument("--output", default="out/live.mp4")
arguments = parser.parse_args()

pipe = OSMNetPipeline.from_pretrained()
source = pipe.encode_source(arguments.portrait, size=256)
speech = load_speech(arguments.speech)
pipe.warm_up()  # compile now, not in the first block

session = pipe.live(source, seed=7, block=arguments.block, sampling_rate=RATE)
print(f"A frame is returned {session.latency:.3f} s of sound after its own moment, plus the time to render it.")
work, delays = [], []  # seconds
with VideoWriter(arguments.output, source.frame_size, waveform=speech, seal=sign) as writer:
    begun = time.perf_counter()
    for end in range(CHUNK, len(speech) + CHUNK, CHUNK):
        if not arguments.fast:
            time.sleep(max(begun + end / RATE - time.perf_counter(), 0))
        called = time.perf_counter()
        frames = session.feed(speech[end - CHUNK : end])
        now = time.perf_counter()
        work.append(now - called)
        delays += [now - begun - (session.num_frames - len(frames) + i) / 25 for i in range(len(frames))]
        if len(frames):
            writer.write(frames)
    frames = session.finish()
    if len(frames):
        writer.write(frames)

if not arguments.fast:
    delays.sort()
    median, latest = delays[len(delays) // 2], delays[-1]
    print(f"Frames came {median:.3f} s after their moment (median), {latest:.3f} s at the latest.")
seconds = session.num_frames / 25
print(f"{seconds:.2f} s of sound took {sum(work):.2f} s of work: real-time factor {sum(work) / seconds:.2f}")
print(f"{1000 * sum(work) / session.num_frames:.1f} ms a frame; the longest call took {1000 * max(work):.0f} ms")
print(arguments.output)
