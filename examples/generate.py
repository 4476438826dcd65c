"""One portrait and one recording of speech in, one talking-head video out."""

from pathlib import Path

import torch

from osmnet import OSMNetPipeline

EXAMPLES = Path(__file__).resolve().parent

pipe = OSMNetPipeline.from_pretrained()  # the weights inside the package; a folder or a Hub id works as well

takes = pipe(
    EXAMPLES / "portrait_astronaut.jpg",
    EXAMPLES / "speech_1.wav",
    num_videos=1,
    generator=torch.Generator().manual_seed(7),  # the same seed gives the same video
    output_type="lazy",  # frames are rendered while they are saved, in constant memory
)
for path in takes.save("out/generate"):
    print(path)
