"""Takes of the tiny pipeline, rendered and saved once."""

import pytest
import torch

from tests.support.dummies import SAMPLING_RATE, SEED, portrait, speech


@pytest.fixture(scope="session")
def lazy(tiny):
    source = tiny.encode_source(portrait(), size=128)
    sound = tiny.encode_speech(speech(0.8), SAMPLING_RATE)

    def make(**options):
        generator = torch.Generator().manual_seed(SEED)
        return tiny(source, sound, num_videos=2, generator=generator, output_type="lazy", **options)

    return make


@pytest.fixture(scope="session")
def saved(lazy, tmp_path_factory):
    """Takes as they are saved when nothing is said, and again with consent and without label."""
    folder = tmp_path_factory.mktemp("saved")
    lazy().save(folder / "plain")
    lazy().save(folder / "consent", consent=True, label=False)
    return folder
