"""A recording streamed as if it came from a microphone: frames come out while it is being spoken.

python examples/live.py            in real time, as with a microphone
python examples/live.py --fast     as fast as this machine can

A real microphone is a few lines more with the package `sounddevice`: open an `InputStream`, and hand the arrays that
its callback gets to `session.feed` in another thread, through a queue.
"""

import argparse
import time
from pathlib import Path

import torch

from osmnet import OSMNetPipeline, load_speech
from osmnet.media.video_writer import VideoWriter
from osmnet.provenance.manifest import sign

EXAMPLES = Path(__file__).resolve().parent
RATE, CHUNK = 16_000, 320  # Hz; samples in a chunk: 20 ms, as sound cards hand them over

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--fast", action="store_true", help="do not wait for the sound")
parser.add_argument("--portrait", default=EXAMPLES / "portrait_astronaut.jpg")
parser.add_argument("--speech", default=EXAMPLES / "speech_1.wav")
parser.add_argument("--block", type=int, default=2, help="frames made at once (2): more are quicker, and later")
parser.add_argument("--output", default="out/live.mp4")
arguments = parser.parse_args()

pipe = OSMNetPipeline.from_pretrained()
source = pipe.encode_source(arguments.portrait, size=256)
speech = load_speech(arguments.speech)
pipe.warm_up()  # what is compiled on first use is compiled now

session = pipe.live(source, generator=torch.Generator().manual_seed(7), block=arguments.block, sampling_rate=RATE)
print(f"A frame is returned {session.latency:.3f} s of sound after its own moment, and when it is computed.")
took, late = [], []
with VideoWriter(arguments.output, source.frame_size, waveform=speech, seal=sign) as writer:  # signed, when whole
    begun = time.perf_counter()
    for end in range(CHUNK, len(speech) + CHUNK, CHUNK):
        if not arguments.fast:
            time.sleep(max(begun + end / RATE - time.perf_counter(), 0))
        called = time.perf_counter()
        frames = session.feed(speech[end - CHUNK : end])
        now = time.perf_counter()
        took.append(now - called)
        late += [now - begun - (session.num_frames - len(frames) + i) / 25 for i in range(len(frames))]
        if len(frames):
            writer.write(frames)
    frames = session.finish()
    if len(frames):
        writer.write(frames)

if not arguments.fast:
    late.sort()
    print(f"Frames came {late[len(late) // 2]:.3f} s after their moment (median), {late[-1]:.3f} s at the latest.")
seconds = session.num_frames / 25
factor = sum(took) / seconds
print(f"{seconds:.2f} s of sound took {sum(took):.2f} s of work: real-time factor {factor:.2f} (below 1 keeps up)")
print(f"{1000 * sum(took) / session.num_frames:.1f} ms a frame; the longest call took {1000 * max(took):.0f} ms")
print(arguments.output)
