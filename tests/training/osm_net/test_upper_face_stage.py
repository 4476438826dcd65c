"""The upper-face stage: stretches of brows and lids, habits of eyes, the unit of ε."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from osmnet.data.dataset import Dataset
from osmnet.face.morphable import FaceModel
from osmnet.face.upper_face import MIRROR, find_blinks
from osmnet.models.osm_net.upper_face_space import UpperFaceSpace
from osmnet.pipelines.options import MotionOptions
from osmnet.pipelines.osm_net.upper_face import UpperFaceTake
from osmnet.training.osm_net.upper_face_clip import UpperFaceClip, measure_habits
from osmnet.training.osm_net.upper_face_stage import UpperFaceConfig, UpperFaceStage, train
from tests.support.dummies import FACE_MODEL

TINY = UpperFaceConfig(
    steps=60, batch_size=32, hidden_dim=16, motion_dim=16, num_bases=6, learning_rate=1e-2, validate_every=0,
    sample_every=0, checkpoint_every=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(dataset_folder):
    return Dataset.open(dataset_folder)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    folder = tmp_path_factory.mktemp("upper") / "model"
    shutil.copytree(FACE_MODEL, folder / "face_model")
    return folder


def recorded(seed, seconds=120):
    """A clip of somebody who blinks and looks as the default habits say."""
    take = UpperFaceTake(UpperFaceSpace(), (seed,), MotionOptions())
    coordinates, blink = take.add(np.ones(25 * seconds, np.float32))
    return SimpleNamespace(
        speaker=str(seed), seconds=seconds, lids=1 - blink, awake=blink < 0.1, gaze=coordinates[:, 6:],
        gaze_noise=0.0, head_pose=np.zeros((25 * seconds, 6)),
    )  # fmt: skip


def test_stretches_begin_at_zero_and_have_no_blinks(dataset):
    clip = UpperFaceClip(dataset.clips()[0], FaceModel.from_pretrained(FACE_MODEL), 5)
    stretches = clip.clips()
    assert stretches.shape == (len(clip.starts), 5, 6) and stretches.dtype == np.float32
    assert not stretches[:, 0].any() and np.isfinite(clip.track).all()


def test_batches_depend_on_their_arguments_only_and_hold_mirror_images(dataset, bare):
    one, two = (UpperFaceStage(TINY, dataset, bare) for _ in range(2))
    two.batch(9, 0, 1, 0)
    batch = one.batch(4, 0, 1, 1)["upper_face"]
    assert batch.shape == (32, 5, 6) and torch.equal(batch, two.batch(4, 0, 1, 1)["upper_face"])
    real = one._clip(dataset.clips()[0]).clips()
    is_real, is_mirrored = (
        [bool((np.abs(each - signs * real).max((1, 2)) < 1e-6).any()) for each in batch.numpy()]
        for signs in (1, MIRROR[:6])
    )
    assert sum(is_real) > 3 and sum(is_mirrored) > 3


def test_the_stage_learns_and_gives_epsilon_its_unit(dataset, bare):
    first = UpperFaceStage(TINY, dataset, bare)
    start = float(first.objective(first.batch(0, 0, 1, 0))["pose"].detach())
    report = train(dataset, bare, TINY, bare / "work")
    assert report["pose"] < 0.6 * start
    space = UpperFaceSpace.from_pretrained(bare / "upper_face_space")
    distances = []
    for clip in first._pools.at(0):
        mixed, _ = first._features(space, clip)
        distances.append((mixed - space.center()).norm(dim=1))
    assert float(torch.cat(distances).quantile(0.95)) == pytest.approx(1, abs=2e-3)
    assert sum(file.stat().st_size for file in (bare / "upper_face_space").iterdir()) < 2**20


def test_habits_are_measured_as_they_were_sampled():
    clips = [recorded(seed) for seed in range(12)]
    found = find_blinks(clips[0].lids)
    assert len(found) > 10 and (clips[0].lids[found] < 0.15).all()
    space = UpperFaceSpace()
    habits = measure_habits(clips)
    for name, tolerance in (
        ("blink_rate", 0.3), ("blink_closing", 0.35), ("blink_opening", 0.4), ("glance_reach", 0.4), ("glance", 0.5),
        ("glance_rate", 0.5), ("fixation_right", 0.4),
    ):  # fmt: skip
        assert habits[name] == pytest.approx(space.habit(name), rel=tolerance), name
    assert measure_habits(clips[:2]).keys() == set()  # too few people
