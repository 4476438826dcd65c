"""The motion stage: stretches of motion, learning, the unit of ε, and fine-tuning."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from osmnet.data.dataset import Dataset
from osmnet.face.morphable import FaceModel
from osmnet.loading.model import WEIGHTS_NAME
from osmnet.loading.packaged import packaged_weights
from osmnet.models.osm_net import motion_space
from osmnet.models.osm_net.motion_codec import AudioMotionEncoder, MotionDecoder, MotionEncoder
from osmnet.models.osm_net.motion_space import MotionSpace, MotionWalk
from osmnet.training.osm_net import motion_prior
from osmnet.training.osm_net import motion_stage as motion
from osmnet.training.osm_net.motion_prior import fit_prior
from osmnet.training.osm_net.motion_stage import AudioMotionConfig, AudioMotionStage, MotionConfig, MotionStage
from osmnet.training.osm_net.pose_clip import MIRROR, PoseClip, draw, evenly, smooth_track, unbroken_starts
from osmnet.training.osm_net.trained_components import load_component
from tests.support.clips import dataset_of
from tests.support.dummies import FACE_MODEL

QUIET = {"validate_every": 0, "sample_every": 0, "checkpoint_every": 0}
TINY = MotionConfig(
    steps=120, batch_size=32, hidden_dim=16, motion_dim=16, num_bases=6, learning_rate=1e-2, weights={
        "pose": 1.0, "pose_mixed": 1.0, "basis": 1.0, "usage": 0.02
    }, **QUIET
)  # fmt: skip
AUDIO = AudioMotionConfig(steps=3, batch_size=16, hidden_dim=16, **QUIET)
KINDS = {
    "motion_encoder": MotionEncoder, "motion_space": MotionSpace, "motion_decoder": MotionDecoder,
    "audio_motion_encoder": AudioMotionEncoder,
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(dataset_folder: Path) -> Dataset:
    return Dataset.open(dataset_folder)


@pytest.fixture(scope="module")
def face_model() -> FaceModel:
    return FaceModel.from_pretrained(FACE_MODEL)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with nothing but the face model."""
    folder = tmp_path_factory.mktemp("bare")
    shutil.copytree(FACE_MODEL, folder / "face_model")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, bare: Path, dataset: Dataset) -> tuple[Path, dict]:
    """A model folder after both halves of the stage, and their reports."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    shutil.copytree(bare, folder)
    return folder, motion.train(dataset, folder, TINY, folder / "work", AUDIO)


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / name / WEIGHTS_NAME)


# Stretches


def test_no_stretch_runs_across_a_cut():
    track = np.zeros((30, 6), np.float32)
    track[12:, 0] = np.deg2rad(20)  # between frames 11 and 12
    starts = unbroken_starts(track, 5)
    assert set(starts) == set(range(26)) - {8, 9, 10, 11}
    assert len(unbroken_starts(track[:4], 5)) == 0


def test_stretches_begin_at_zero_and_go_with_their_sound(dataset: Dataset, face_model: FaceModel):
    clip = dataset.clips()[0]
    poses = PoseClip(clip, face_model, 5, sound=True)
    track, mel = smooth_track(clip.fit(face_model).head_pose), clip.mel_windows()
    assert poses.poses().shape == (46, 5, 6) and poses.mel().shape == (46, 5, 16, 16)
    assert not poses.poses()[:, 0].any()
    np.testing.assert_allclose(poses.poses()[7], track[7:12] - track[7], atol=1e-6)
    np.testing.assert_allclose(poses.mel(np.array([7]))[0], mel[7:12], atol=1e-6)


def test_every_stretch_is_as_likely_as_any_other():
    clips = [SimpleNamespace(starts=np.arange(count)) for count in (1, 30, 9)]
    rng = np.random.default_rng(0)
    counts = np.zeros(40)
    for _ in range(200):
        for clip, index in draw(clips, 100, rng):
            first = {1: 0, 30: 1, 9: 31}[len(clip.starts)]
            np.add.at(counts, first + index, 1)
    assert counts.sum() == 20_000 and np.abs(counts / 500 - 1).max() < 0.2


def test_evenly_takes_at_most_so_many():
    assert evenly(range(7), 7) == list(range(7)) and evenly(range(8), 7) == [0, 2, 4, 6]


# The stage


def test_batches_depend_on_their_arguments_only_and_hold_mirror_images(dataset: Dataset, bare: Path):
    one, two = (MotionStage(TINY, dataset, bare) for _ in range(2))
    two.batch(9, 0, 1, 0)
    batch = one.batch(4, 0, 1, 1)["head_pose"]
    assert batch.shape == (32, 5, 6) and torch.equal(batch, two.batch(4, 0, 1, 1)["head_pose"])
    for other in ((5, 0, 1, 1), (4, 1, 2, 1), (4, 0, 1, 0)):
        assert not torch.equal(batch, one.batch(*other)["head_pose"])
    real = PoseClip(dataset.clips()[0], one.face_model, 5).poses()
    is_real, is_mirrored = (
        [bool((np.abs(each - pose).max((1, 2)) < 1e-6).any()) for pose in batch.numpy()]
        for each in (real, MIRROR * real)
    )
    assert all(a or b for a, b in zip(is_real, is_mirrored, strict=True)) and 6 < sum(is_mirrored) < 26


@pytest.mark.integration
def test_a_run_learns_to_give_poses_back(trained: tuple[Path, dict], dataset: Dataset, bare: Path):
    _, reports = trained
    start = MotionStage(TINY, dataset, bare)
    with torch.no_grad():
        before = start.validate(start.networks)
    assert set(reports) == {"motion", "audio-motion"}
    report = reports["motion"]
    assert report["val/pose"] < 0.5 * before["pose"] and report["val/pose_mixed"] < 0.6 * before["pose_mixed"]
    assert {"pose", "pose_mixed", "basis", "usage"} <= report.keys() and 1 < report["bases_in_use"] <= 6
    assert np.isfinite([value for each in reports.values() for value in each.values()]).all()
    # The unit of each number is its spread, mirror images counted.
    poses = PoseClip(dataset.clips()[0], start.face_model, 5).poses()
    both = np.concatenate([poses, MIRROR * poses]).reshape(-1, 6)
    np.testing.assert_allclose(start.networks["motion_encoder"].pose_scale, both.std(0), rtol=1e-4)


@pytest.mark.integration
def test_epsilon_1_holds_95_percent_of_real_stretches(trained: tuple[Path, dict], dataset: Dataset):
    encoder, space, decoder, audio = (load_component(kind, trained[0], name) for name, kind in KINDS.items())
    face_model = load_component(FaceModel, trained[0], "face_model")
    distances = []
    for clip in (PoseClip(each, face_model, 5, sound=True) for each in dataset.clips()):
        with torch.no_grad():
            poses, mel = torch.from_numpy(clip.poses()), torch.from_numpy(clip.mel())
            centre = space.reconstruct(audio(mel).exp())
            distances.append((space(encoder(poses))[0] - centre).norm(dim=1))
            assert decoder(space(encoder(poses))[0]).isfinite().all()
    distance = torch.cat(distances)
    assert float(distance.quantile(0.95)) == pytest.approx(1, abs=1e-3)


def test_the_prior_is_that_of_the_sequences_it_is_learned_from(monkeypatch):
    """What a walk with known transitions gives is learned, and then walked the same way."""
    for name, steady in (("MOOD", (0, 0)), ("BURST", (0, 0)), ("FORCE", 1)):
        monkeypatch.setattr(motion_space, name, steady)
    torch.manual_seed(0)
    space = MotionSpace(num_bases=5, motion_dim=12, prior_dim=3, prior_order=2)
    bases = space.motion_bases.detach().numpy()
    mixtures = np.array([[1, -1, 0, 0, 0], [0, 0.3, 0.3, -0.6, 0], [0, 0, 0.1, 0.1, -0.2]])
    rng, state = np.random.default_rng(0), np.zeros((4000, 3))
    for k in range(2, len(state)):
        state[k] = 0.9 * state[k - 1] - 0.5 * state[k - 2] + rng.standard_normal(3)
    real = 0.05 * state @ mixtures @ bases
    assert fit_prior(space, [*np.split(real, 40), real[:2]])
    walk = MotionWalk(space, torch.Generator().manual_seed(0)).advance(20_000).numpy()
    drawn = walk @ space.prior_axes.numpy() @ (bases - bases.mean(0))

    def lagged(path, lag):
        return (path[lag:] * path[:-lag]).sum() / (path * path).sum()

    for lag in (1, 2, 3, 4):
        assert lagged(drawn, lag) == pytest.approx(lagged(real, lag), abs=0.05)
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), real.T @ real / len(real), atol=2e-4)

    before = {name: value.clone() for name, value in space.state_dict().items()}
    assert not fit_prior(space, np.split(real[:40], 10))  # too little
    assert all(torch.equal(before[name], value) for name, value in space.state_dict().items())


def test_a_prior_forgets_even_if_what_it_is_learned_from_grew():
    torch.manual_seed(0)
    space = MotionSpace(num_bases=3, motion_dim=8, prior_dim=2, prior_order=2)
    noise = np.random.default_rng(0).standard_normal((200, 8))
    growing = np.exp(0.02 * np.arange(200))[:, None] + 1e-3 * noise
    assert fit_prior(space, [growing - growing.mean(0), -growing])
    assert MotionWalk(space, torch.Generator().manual_seed(0)).advance(5000).abs().max() < 1000


@pytest.mark.integration
def test_calibration_changes_only_the_unit_and_the_prior(trained: tuple[Path, dict], dataset: Dataset, monkeypatch):
    assert trained[1]["audio-motion"]["prior_learned"] == 0  # of so few seconds
    monkeypatch.setattr(motion_prior, "SAMPLES_PER_NUMBER", 0)
    stage = AudioMotionStage(AUDIO, dataset, trained[0])
    encoder, space, decoder = (stage.networks[name] for name in list(KINDS)[:3])
    poses = torch.from_numpy(PoseClip(dataset.clips()[0], stage.face_model, 5).poses())
    with torch.no_grad():
        space.motion_bases *= 3
        encoder.linear_out.weight *= 3
        encoder.linear_out.bias *= 3
        decoder.linear_in.weight /= 3
        decoded, attention = decoder(encoder(poses)), space.attention(encoder(poses))
        bases = space.motion_bases.clone()
        kept = AudioMotionStage(AUDIO, dataset, trained[0], rescale=False)
        untouched = {name: value.clone() for name, value in kept.networks["motion_space"].state_dict().items()}
        assert kept.finish(kept.networks)["epsilon_of_95_percent"] > 0
        assert all(torch.equal(untouched[k], v) for k, v in kept.networks["motion_space"].state_dict().items())
        innovation = space.prior_innovation.clone()
        report = stage.finish(stage.networks)
        unit = report["epsilon_of_95_percent"]
        assert report["prior_learned"] == 1 and not torch.equal(space.prior_innovation, innovation)
        torch.testing.assert_close(space.motion_bases, bases / unit)
        torch.testing.assert_close(decoder(encoder(poses)), decoded, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(space.attention(encoder(poses)), attention)
        assert stage.finish(stage.networks)["epsilon_of_95_percent"] == pytest.approx(1, abs=1e-4)


@pytest.mark.integration
def test_a_run_repeats_bit_for_bit(trained: tuple[Path, dict], dataset: Dataset, bare: Path, tmp_path: Path):
    folder = shutil.copytree(bare, tmp_path / "model")
    torch.manual_seed(123)  # whatever happened before
    motion.train(dataset, folder, TINY, tmp_path / "work", AUDIO)
    for name in KINDS:
        first, second = weights(trained[0], name), weights(folder, name)
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.integration
def test_the_audio_encoder_learns_and_leaves_the_space_alone(trained: tuple[Path, dict], dataset: Dataset):
    stage = AudioMotionStage(replace(AUDIO, steps=40, learning_rate=3e-3), dataset, trained[0])
    frozen = [p for name in list(KINDS)[:3] for p in stage.networks[name].parameters()]
    assert not any(p.requires_grad for p in frozen)
    trainable = [p for p in stage.objective.parameters() if p.requires_grad]
    assert len(trainable) == len(list(stage.networks["audio_motion_encoder"].parameters()))
    before = stage.validate(stage.networks)
    optimiser = torch.optim.Adam(trainable, 3e-3)
    for step in range(40):
        loss = stage.objective(stage.batch(step, 0, 1, 0))["kl"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = stage.validate(stage.networks)
    assert after["kl"] < 0.8 * before["kl"] and after["kl_constant"] == pytest.approx(before["kl_constant"])
    # The held-out clip is a copy of the training clips: hearing it must beat knowing nothing.
    assert after["kl"] < after["kl_constant"]


@pytest.mark.integration
def test_fine_tuning_keeps_the_space_and_reports_the_speakers_radius(dataset: Dataset, bare: Path, tmp_path: Path):
    folder = shutil.copytree(bare, tmp_path / "model")
    config = MotionConfig(init="packaged", split="clip", **QUIET)
    audio = AudioMotionConfig(init="packaged", split="clip", steps=2, batch_size=8, **QUIET)
    reports = motion.train(dataset, folder, config, tmp_path / "work", audio)
    assert list(reports) == ["audio-motion"] and reports["audio-motion"]["epsilon_of_95_percent"] > 0
    packaged = packaged_weights()
    for name in list(KINDS)[:3]:
        before, after = weights(packaged, name), weights(folder, name)
        assert all(torch.equal(before[key], after[key]) for key in before)
    before, after = weights(packaged, "audio_motion_encoder"), weights(folder, "audio_motion_encoder")
    assert before.keys() == after.keys() and not torch.equal(before["linear_out.bias"], after["linear_out.bias"])
    # With keep_space=false the space is trained, too, from the same start and at its own sizes.
    stage = MotionStage(replace(config, keep_space=False, num_bases=3), dataset, folder)
    assert torch.equal(stage.networks["motion_space"].motion_bases, weights(packaged, "motion_space")["motion_bases"])


@pytest.mark.integration
def test_networks_must_fit_each_other(trained: tuple[Path, dict], dataset: Dataset):
    with pytest.raises(ValueError, match="has num_bases=48, the motion space in .* 6; start both from one model"):
        AudioMotionStage(replace(AUDIO, init="packaged"), dataset, trained[0])


def test_bad_data_is_named_before_anything_is_trained(
    dataset: Dataset, bare: Path, talking: Path, tmp_path: Path, face_model: FaceModel
):
    mute = Dataset.open(dataset_of(talking, tmp_path / "mute", ("ann-voice",), speech=False))
    with pytest.raises(ValueError, match="no clips with speech"):
        motion.train(mute, bare, TINY, tmp_path / "work", AUDIO)
    assert not (tmp_path / "work").exists()
    with pytest.raises(ValueError, match="No training clip holds 60 frames without a cut"):
        MotionStage(replace(TINY, clip_length=60), dataset, bare)
    with pytest.raises(ValueError, match="has no motion_encoder"):
        AudioMotionStage(AUDIO, dataset, bare)


@pytest.mark.integration
def test_figures_show_tracks_and_weights(trained: tuple[Path, dict], dataset: Dataset):
    for stage in (MotionStage(TINY, dataset, trained[0]), AudioMotionStage(AUDIO, dataset, trained[0])):
        for network in stage.networks.values():
            network.eval()
        for picture in stage.figures(stage.networks).values():
            assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
            assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
