"""One portrait and one recording of speech in, one talking-head video out.

python examples/generate.py
"""

from pathlib import Path

from osmnet import OSMNetPipeline

EXAMPLES = Path(__file__).resolve().parent

pipe = OSMNetPipeline.from_pretrained()  # the weights in the package; a folder or a Hub id works as well

out = pipe(
    EXAMPLES / "portrait_astronaut.jpg",
    EXAMPLES / "speech_1.wav",
    seed=7,  # the same seed gives the same video
    output_type="lazy",  # render while saving, in constant memory
)
for path in out.save("out/generate.mp4", overwrite=True):
    print(path)
