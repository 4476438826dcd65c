"""The video stage: pairs, losses by hand, and networks that train, resume, export and render."""

import gc
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from osmnet.cli import train
from osmnet.data.dataset import Dataset
from osmnet.face.morphable import FaceModel
from osmnet.face.topology import INNER_LIPS, LEFT_EYE
from osmnet.loading.packaged import packaged_weights
from osmnet.models.osm_net.discriminator import feature_matching_loss
from osmnet.models.osm_net.video_generator import DrivingEncoder, VideoGenerator
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from osmnet.training.osm_net import video_stage as video
from osmnet.training.osm_net.driving import Driving, window
from osmnet.training.osm_net.face_pairs import FaceClip, FacePairs
from osmnet.training.osm_net.mouth_pairs import MouthClip, MouthPairs
from osmnet.training.osm_net.pairs import PICTURES, flipped, frames_on_disk, random_view, tinted, view
from osmnet.training.osm_net.video_losses import VideoAdversary, VideoLosses, reconstruction_losses
from osmnet.training.osm_net.video_stage import VideoConfig, VideoStage
from tests.support.clips import dataset_of, mouth_curve
from tests.support.dummies import FACE_MODEL, portrait, speech

FRAMES, SIDE = 50, 320
SMALL = {"image_size": 32, "base_channels": 4, "batch_size": 2, "steps": 3, "adversarial_from": 1,
         "validate_every": 0, "sample_every": 0, "checkpoint_every": 0}  # fmt: skip
MESH, NONE = VideoConfig(**SMALL), VideoConfig(**SMALL, geometry="none", stem_stride=1)
SHIFT = np.array([[1.0, 0, 3], [0, 1, -2]])


@pytest.fixture(scope="module")
def shipped() -> FaceModel:
    return FaceModel.from_pretrained(FACE_MODEL)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder to read only, with the shipped face model and motion networks."""
    folder = tmp_path_factory.mktemp("model")
    for name in ("face_model", "motion_space", "motion_encoder", "motion_decoder", "audio_motion_encoder"):
        shutil.copytree(packaged_weights() / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def dataset(dataset_folder: Path) -> Dataset:
    return Dataset.open(dataset_folder)


@pytest.fixture(scope="module")
def mouth(dataset: Dataset, shipped: FaceModel, model: Path, tmp_path_factory: pytest.TempPathFactory) -> MouthClip:
    return MouthClip(dataset.clips()[0], shipped, Driving(("measured",), model), 64, tmp_path_factory.mktemp("mouth"))


@pytest.fixture(scope="module")
def face(dataset: Dataset, shipped: FaceModel, model: Path, tmp_path_factory: pytest.TempPathFactory) -> FaceClip:
    kinds = ("motion", "center")
    return FaceClip(dataset.clips()[0], shipped, Driving(kinds, model), 64, tmp_path_factory.mktemp("face"))


# Pictures on disk and changes at random


@pytest.mark.integration
def test_frames_are_kept_while_their_owner_lives(tmp_path: Path):
    class Owner:
        pass

    pictures = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), np.uint8)
    owner, never = Owner(), iter(())
    kept = frames_on_disk(owner, tmp_path / "new", "a", iter(pictures), 3, 8)
    assert isinstance(kept, np.memmap) and [file.name for file in (tmp_path / "new").iterdir()] == ["a.npy"]
    np.testing.assert_array_equal(kept, pictures)
    again = frames_on_disk(Owner(), tmp_path / "other", "b", iter(pictures), 3, 8)
    gc.collect()
    assert list((tmp_path / "other").iterdir()) == []
    np.testing.assert_array_equal(again, pictures)  # what is mapped stays
    second = frames_on_disk(Owner.__new__(Owner), tmp_path / "new", "c", iter(pictures), 3, 8)
    np.testing.assert_array_equal(frames_on_disk(owner, tmp_path / "new", "a", never, 3, 8), pictures)
    del owner, second
    gc.collect()
    assert list((tmp_path / "new").iterdir()) == []


def test_a_file_of_other_frames_is_not_used(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros((3, 9, 9, 3)))
    pictures = np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8, 3)
    np.testing.assert_array_equal(
        frames_on_disk(test_a_file_of_other_frames_is_not_used, tmp_path, "a", iter(pictures), 3, 8), pictures
    )


def test_frames_that_cannot_be_kept_leave_nothing(tmp_path: Path):
    with pytest.raises(ValueError, match="The video of 'a' has 2 frames, its track 3"):
        frames_on_disk(object, tmp_path, "a", iter(np.zeros((2, 8, 8, 3), np.uint8)), 3, 8)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="Cannot keep frames in .*; free some space"):
        frames_on_disk(object, tmp_path / "file", "a", iter(np.zeros((3, 8, 8, 3), np.uint8)), 3, 8)


@pytest.mark.parametrize("zoom_out", [True, False])
def test_views_are_small_and_stay_inside_if_asked(zoom_out: bool):
    size, rng = 64, np.random.default_rng(0)
    views = np.stack([random_view(size, rng, zoom_out) for _ in range(400)])
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]], float)
    moved = np.einsum("nij,cj->nci", views, corners)
    assert np.abs(moved - corners[:, :2]).max() < 0.16 * size
    still = (views == np.array([[1, 0, 0], [0, 1, 0]])).all((1, 2))
    assert 0.4 < still.mean() < 0.6
    zoom = views[:, 0, 0]
    shifted = views[(zoom == 1) & ~still]
    if zoom_out:
        assert len(shifted) > 50 and np.array_equal(shifted, np.round(shifted))
        assert zoom.min() < 0.95 and zoom.max() > 1.05
    else:  # the picture's corners lie outside the view or on its edge: no border comes into view
        assert (moved[:, 0] <= 1e-9).all() and (moved[:, 3] >= size - 1e-9).all() and zoom.max() > 1.05


def test_view_of_a_map_shows_what_lies_there():
    picture = np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)
    np.testing.assert_array_equal(view(picture, np.array([[1.0, 0, -4], [0, 1, -3]]), 10), picture[3:13, 4:14])
    ramp = np.repeat(np.arange(0, 160, 8, np.uint8)[None, :, None], 20, 0).repeat(3, 2)
    zoomed = view(ramp, np.array([[2.0, 0, -10], [0, 2, -10]]), 20)
    # Pixel x of the view has its centre at (x + 0.5 + 10) / 2 of the ramp, whose value there is 8 (that - 0.5).
    expected = 8 * ((np.arange(20) + 10.5) / 2 - 0.5)
    assert np.abs(zoomed[10, 2:-2, 0] - expected[2:-2]).max() < 1.5


# Pairs


def test_a_mouth_warped_to_itself_is_itself(mouth: MouthClip):
    pair = mouth.pair(10, 10, 4)
    inside = (slice(4, -4), slice(4, -4))
    assert np.abs(pair["warped"][inside].astype(int) - pair["target"][inside]).mean() < 3
    np.testing.assert_array_equal(pair["driving"][0, 4, :6], 0)
    # The guide finds the mouth: it is open where the made-up speaker opens it.
    area = [mouth.pair(0, i, 0)["guide"][1].sum() for i in range(FRAMES)]
    assert np.corrcoef(area, mouth_curve(FRAMES))[0, 1] > 0.8


def test_a_shifted_mouth_pair_is_the_pair_shifted(mouth: MouthClip):
    still, moved = mouth.pair(3, 20, 2), mouth.pair(3, 20, 2, SHIFT)
    here, there = (slice(8, -8), slice(8, -8)), (slice(6, -10), slice(11, -5))
    for name in ("source", "target"):
        np.testing.assert_array_equal(moved[name][there], still[name][here])
    assert np.abs(moved["warped"][there].astype(int) - still["warped"][here]).mean() < 1
    for channel in range(1, 4):
        np.testing.assert_allclose(moved["guide"][channel][there], still["guide"][channel][here], atol=0.1)
    zoomed = mouth.pair(3, 20, 2, np.array([[1.1, 0, -3.2], [0, 1.1, -3.2]]))
    assert zoomed["guide"][2].sum() == pytest.approx(1.21 * still["guide"][2].sum(), rel=0.05)
    enlarged = cv2.resize(still["target"], None, fx=1.1, fy=1.1, interpolation=cv2.INTER_CUBIC)
    shown = enlarged[3 : 3 + 64, 3 : 3 + 64]
    assert np.abs(zoomed["target"].astype(int) - shown).mean() < 4


def test_a_mirrored_pair_is_that_of_the_mirrored_face(mouth: MouthClip, face: FaceClip, shipped: FaceModel):
    mirror = shipped.mirror_expression().astype(np.float32)
    for clip in (mouth, face):
        pair = clip.pair(5, 12, 2)
        once = flipped(pair, mirror)
        np.testing.assert_array_equal(once["target"], pair["target"][:, ::-1])
        np.testing.assert_array_equal(once["guide"], pair["guide"][:, :, ::-1])
        np.testing.assert_allclose(once["driving"][..., :6], pair["driving"][..., :6] * [-1, 1, -1, -1, 1, 1])
        # β of the mirrored face moves the vertices as the mirror does.
        beta = torch.from_numpy(np.stack([each["driving"][0, 2, 6:] for each in (pair, once)]))
        offset, mirrored = shipped.expression_offset(beta).numpy()
        swapped = offset[shipped.array("mirror").astype(int)] * [-1, 1, 1]
        assert np.abs(mirrored - swapped).mean() < 0.1 * np.abs(offset).mean() + 1e-4
        twice = flipped(once, mirror)
        np.testing.assert_array_equal(twice["source"], pair["source"])


def test_light_and_colour_change_in_all_pictures_alike_and_some_lose_their_colour(mouth: MouthClip):
    pair = mouth.pair(0, 3, context=2)
    paleness = []
    for seed in range(60):
        tinted_pair = tinted(pair, np.random.default_rng(seed))
        spreads = [np.ptp(tinted_pair[key], axis=-1).mean() for key in PICTURES if key in pair]
        before = [np.ptp(pair[key].astype(float), axis=-1).mean() / 127.5 for key in PICTURES if key in pair]
        paleness.append(np.array(spreads) / before)
    ratios = np.array(paleness)
    assert (np.ptp(ratios, axis=1) < 0.35).all()  # all pictures of a pair alike
    share = (ratios.mean(1) < 0.6).mean()
    assert 0.03 < share < 0.35 and (ratios.mean(1) > 0.7).mean() > 0.5


def test_a_face_pair_is_two_frames_of_the_clip(dataset: Dataset, face: FaceClip):
    clip = dataset.clips()[0]
    frames = [cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA) for frame in clip.read_frames(0, 12)]
    pair = face.pair(4, 11, 3)
    np.testing.assert_array_equal(pair["source"], frames[4])
    np.testing.assert_array_equal(pair["target"], frames[11])
    inner, around = pair["guide"]
    for loop in (INNER_LIPS, LEFT_EYE):
        x, y = (clip.landmarks_px()[11, loop, :2].mean(0) * 64 / SIDE).astype(int)
        assert around[y, x] == 1
    assert 0 < inner.sum() < around.sum() < 0.25 * 64 * 64 and (around >= inner - 1e-6).all()
    area = [face.pair(0, i, 0)["guide"][0].sum() for i in range(FRAMES)]
    assert np.corrcoef(area, mouth_curve(FRAMES))[0, 1] > 0.8
    moved = face.pair(4, 11, 3, SHIFT)
    np.testing.assert_array_equal(moved["target"][6:-10, 11:-5], frames[11][8:-8, 8:-8])
    np.testing.assert_allclose(moved["guide"][:, 6:-10, 11:-5], pair["guide"][:, 8:-8, 8:-8], atol=0.1)


@pytest.mark.parametrize("make", [MouthPairs, FacePairs])
def test_batches_are_a_function_of_their_random_numbers(
    make, dataset: Dataset, shipped: FaceModel, model: Path, tmp_path
):
    pairs = make(shipped, Driving(("measured",), model), 32, 2, tmp_path)
    clips = [pairs.make(clip) for clip in dataset.clips()[:2]]
    one, same, other = (pairs.batch(clips, 6, np.random.default_rng(seed)) for seed in (1, 1, 2))
    channels = 4 if make is MouthPairs else 2
    assert one["driving"].shape == (6, 1, 5, 70) and one["guide"].shape == (6, channels, 32, 32)
    for name, value in one.items():
        assert torch.equal(value, same[name]) and not torch.equal(value, other[name])
        assert value.dtype == torch.float32 and value.isfinite().all()
    pictures = torch.cat([value for name, value in one.items() if name not in ("driving", "guide")])
    assert pictures.shape[1:] == (3, 32, 32) and -1 <= pictures.min() < -0.5 and 0.3 < pictures.max() <= 1
    # As they are, pictures keep their colours: the background of a frame is that of its source.
    plain = pairs.batch(clips, 6, np.random.default_rng(1), augment=False)
    assert (plain["source"][:, :, :2, :2] - plain["target"][:, :, :2, :2]).abs().max() < 0.5


# What drives


def test_driving_tracks_follow_the_head_or_its_sound(dataset: Dataset, shipped: FaceModel, model: Path):
    clip = dataset.clips()[0]
    pose = clip.fit(shipped).head_pose
    measured, motion, center = Driving(("measured", "motion", "center"), model).tracks(clip, pose)
    np.testing.assert_array_equal(measured, pose)
    for track in (motion, center):
        assert track.dtype == np.float32
        np.testing.assert_allclose(track[0], pose[0], atol=1e-5)
    assert np.abs(motion - pose)[:, :3].mean() < 0.2 * np.abs(pose - pose[0])[:, :3].mean()
    assert np.corrcoef(motion[:, 0], pose[:, 0])[0, 1] > 0.95
    # The centre moves as the pipeline moves a head by the same sound with epsilon=0.
    pipe = OSMNetPipeline.from_pretrained()
    heard = pipe.sample_motion(pipe.encode_speech(clip.speech(), 16_000), epsilon=0, blink=False).head_pose[0]
    assert np.abs(heard).max() > 1e-3 and np.abs(center - pose).max() > 0.02
    np.testing.assert_allclose(center - pose[0], heard[: len(pose)], atol=1e-3 * np.abs(heard).max() + 1e-5)
    short = Driving(("motion",), model).tracks(clip, pose[:3])
    assert short.shape == (1, 3, 6)


def test_windows_are_relative_to_the_source_and_repeat_the_ends():
    tracks = np.arange(2 * 5 * 6, dtype=np.float32).reshape(2, 5, 6) ** 2
    beta = np.arange(5 * 64, dtype=np.float32).reshape(5, 64)
    made = window(tracks, beta, 3, 4, 2)
    assert made.shape == (2, 5, 70)
    for kind in range(2):
        for place, frame in enumerate((2, 3, 4, 4, 4)):
            np.testing.assert_array_equal(made[kind, place, :6], tracks[kind, frame] - tracks[kind, 3])
            np.testing.assert_array_equal(made[kind, place, 6:], beta[frame])
    assert window(tracks, beta, 0, 2, 0).shape == (2, 1, 70)


def test_driving_names_missing_components(tmp_path: Path, model: Path, talking: Path):
    with pytest.raises(ValueError, match="driving must be of measured, motion, center, not 'sound'"):
        Driving(("sound",), model)
    with pytest.raises(ValueError, match="name each kind once"):
        Driving(("motion", "motion"), model)
    with pytest.raises(ValueError, match="has no motion_space; make it with `osmnet train motion"):
        Driving(("center",), tmp_path)
    with pytest.raises(ValueError, match="driving must be measured with geometry=mesh"):
        VideoConfig(driving=("motion", "center"))
    silent = Dataset.open(dataset_of(talking, tmp_path / "silent", ("ann-voice",), speech=False))
    config = VideoConfig(**SMALL, geometry="none", driving=("motion", "center"))
    with pytest.raises(ValueError, match="has no clips with speech"):
        VideoStage(config, silent, model, tmp_path / "work")


# Losses


def test_reconstruction_losses_by_hand():
    target = torch.zeros(1, 3, 4, 4)
    sample = target.clone()
    sample[:, :, 1, 2] = 0.5
    weight = torch.ones(1, 1, 4, 4)
    weight[..., 1, 2] = 3.0
    losses = reconstruction_losses(sample, target, weight)
    assert float(losses["rec"]) == pytest.approx(3 * 0.5 / 16)
    # Two edges across and two down; each counts by its first pixel: 1 and 3.
    assert float(losses["gradient"]) == pytest.approx(2 * (0.5 * 1 + 0.5 * 3) / 12)


def plain_batch(kinds=1, size=32):
    torch.manual_seed(4)
    return {
        "source": torch.rand(2, 3, size, size) * 2 - 1,
        "target": torch.rand(2, 3, size, size) * 2 - 1,
        "guide": torch.rand(2, 2, size, size).round(),
        "driving": torch.randn(2, kinds, 5, 70),
    }


def tiny_network(geometry="none", **more):
    torch.manual_seed(0)
    guides = 4 if geometry == "mesh" else 0
    return VideoGenerator(geometry, 32, window=5, base_channels=4, num_residual=1, guide_channels=guides, **more)


def test_the_losses_of_both_terms_are_added():
    network, adversary = tiny_network(), VideoAdversary()
    losses, batch = VideoLosses(network, None, adversary), plain_batch(kinds=2)
    losses.adversarial = True
    with torch.no_grad():
        both = losses(batch)
        alone = [losses({**batch, "driving": batch["driving"][:, k : k + 1]}) for k in range(2)]
        frames = [network(batch["source"], batch["driving"][:, k]).sample for k in range(2)]
    assert set(both) == {"rec", "gradient", "g", "feature"}
    for name in ("rec", "gradient"):
        assert float(both[name]) == pytest.approx(float(alone[0][name] + alone[1][name]), rel=1e-4)
    expected = sum((frame - batch["target"]).abs().mean() for frame in frames)  # Eq. 12
    assert float(both["rec"]) == pytest.approx(float(expected), rel=1e-4)


def test_the_discriminator_learns_from_the_objectives_pictures_only():
    network, adversary = tiny_network("mesh"), VideoAdversary()
    losses = VideoLosses(network, None, adversary)
    batch = {**plain_batch(), "warped": torch.rand(2, 3, 32, 32), "guide": torch.rand(2, 4, 32, 32)}
    batch["guide"][:, :, :, 16:] = 0
    assert set(losses(batch)) == {"rec", "gradient", "mask"}
    losses.adversarial = True
    computed = losses(batch)
    real, fake, weight = adversary.pictures
    assert not fake.requires_grad and torch.equal(real[:, :3], batch["target"])
    # Where nothing may be painted, the fake is the truth; the map beside both is the inside of the mouth.
    assert torch.equal(fake[..., 16:], real[..., 16:]) and not torch.equal(fake[..., :16], real[..., :16])
    assert torch.equal(fake[:, 3], batch["guide"][:, 1]) and torch.equal(weight, batch["guide"][:, :1])
    (computed["g"] + computed["feature"]).backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    d = adversary(batch)["d"]
    adversary.zero_grad(), network.zero_grad()
    d.backward()
    assert all(parameter.grad.isfinite().all() for parameter in adversary.parameters())
    assert not any(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_feature_matching_counts_places_by_their_weight():
    real, fake = [torch.zeros(1, 2, 4, 4)], [torch.zeros(1, 2, 4, 4)]
    fake[0][:, :, :, :2] = 1.0
    fake[0][:, :, :, 2:] = 3.0
    left = torch.zeros(1, 1, 8, 8)
    left[..., :4] = 1
    assert float(feature_matching_loss(real, fake, left)) == pytest.approx(1)
    assert float(feature_matching_loss(real, fake, 1 - left)) == pytest.approx(3)
    assert float(feature_matching_loss(real, fake)) == pytest.approx(2)


# The window


def test_a_window_of_one_frame_sees_that_frame_alone():
    torch.manual_seed(0)
    encoder = DrivingEncoder(70, 1, 16, 16)
    sequence = torch.randn(1, 6, 70)
    assert len(encoder.convs) == 0 and encoder(sequence[:, 2:3]).shape == (1, 16)
    changed = sequence.clone()
    changed[:, 3] += 1
    difference = (encoder.encode_sequence(changed) - encoder.encode_sequence(sequence)).abs().amax(-1)[0]
    assert difference[3] > 0 and not difference[[0, 1, 2, 4, 5]].any()
    for width in (0, 2, -1):
        with pytest.raises(ValueError, match="odd and at least 1"):
            DrivingEncoder(70, width, 16, 16)


# The stage


@pytest.mark.parametrize("config", [MESH, NONE], ids=["mesh", "none"])
def test_the_stage_gives_the_same_batches_again_and_calls_the_discriminator_in(config, dataset, model, tmp_path):
    stages = [VideoStage(config, dataset, model, tmp_path / str(i)) for i in range(2)]
    late = stages[0].batch(7, 0, 1, 1)
    stages[1].batch(3, 0, 1, 0)
    for name, value in stages[1].batch(7, 0, 1, 1).items():
        assert torch.equal(value, late[name])
    for arguments in ((8, 0, 1, 1), (7, 1, 2, 1), (7, 0, 1, 0)):
        assert not torch.equal(stages[1].batch(*arguments)["target"], late["target"])
    assert {clip.name for clip in stages[0]._training} == {"ann-voice", "bob-voice"}
    for step, active in ((0, False), (1, True), (9, True)):
        stages[0].begin_step(step)
        assert stages[0].adversary_active == active
        assert {"g", "feature"} <= set(stages[0].objective(late)) or not active


@pytest.mark.integration
def test_validation_measures_l1_by_area(dataset: Dataset, model: Path, tmp_path: Path):
    stage = VideoStage(NONE, dataset, model, tmp_path)

    class Still(VideoGenerator):
        def forward(self, source_image, *_):
            from osmnet.models.osm_net.video_generator import VideoGeneratorOutput

            return VideoGeneratorOutput(sample=source_image)

    result = stage.validate({"video_generator": Still.from_config(stage.networks["video_generator"].config)})
    assert result["l1"] == pytest.approx(result["l1_source"]) and 0.005 < result["l1"] < 0.5
    assert result["l1_whole"] == pytest.approx(result["l1_whole_source"]) and 0 < result["l1_whole"] < result["l1"]
    sheet = stage.figures(stage.networks)["sheet"]
    assert sheet.shape == (8 * 32, 3 * 32, 3) and sheet.dtype == np.uint8
    mesh = VideoStage(MESH, dataset, model, tmp_path)
    result = mesh.validate({name: network.eval() for name, network in mesh.networks.items()})
    assert set(result) == {"l1", "l1_warp"} and 0 < result["l1_warp"] < 0.5
    assert mesh.figures(mesh.networks)["sheet"].shape == (8 * 32, 4 * 32, 3)


@pytest.mark.integration
def test_init_takes_the_network_as_it_is(dataset: Dataset, model: Path, tmp_path: Path):
    stage = VideoStage(VideoConfig(init="packaged", base_channels=4, image_size=32), dataset, model, tmp_path)
    shipped = VideoGenerator.from_pretrained(packaged_weights() / "video_generator")
    network = stage.networks["video_generator"]
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in shipped.state_dict().items())
    assert (stage.config.image_size, stage.config.base_channels) == (128, 16)
    assert stage.batch(0, 0, 1, 0)["target"].shape == (8, 3, 128, 128)
    with pytest.raises(ValueError, match="has geometry=mesh, not none"):
        VideoStage(VideoConfig(init="packaged", geometry="none"), dataset, model, tmp_path)


@pytest.mark.integration
def test_a_run_that_was_stopped_ends_with_the_same_weights(dataset: Dataset, model: Path, tmp_path: Path):
    def run(name: str, steps: int):
        folder = tmp_path / name
        if not folder.exists():
            folder.mkdir()
            (folder / "face_model").symlink_to(FACE_MODEL)
        config = VideoConfig(**{**SMALL, "steps": steps, "schedule": "constant"})
        report = video.train(dataset, folder, config, folder / "work")
        return report, VideoGenerator.from_pretrained(folder / "video_generator").state_dict()

    report, straight = run("straight", 4)
    assert {"rec", "gradient", "mask", "g", "feature", "d", "val/l1", "val/l1_warp"} <= set(report)
    assert not (tmp_path / "straight" / "work" / "frames").exists()  # nothing is left of the pictures
    run("stopped", 2)
    _, resumed = run("stopped", 4)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in straight.items())
    lines = (tmp_path / "straight" / "work" / "log.jsonl").read_text().splitlines()
    assert {"rec", "d"} <= set().union(*(json.loads(line) for line in lines))


@pytest.mark.integration
def test_whole_faces_are_learnt(dataset: Dataset, model: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    settings = {**SMALL, "steps": 60, "learning_rate": 1e-3, "ema": 0.5, "image_size": 16}
    config = VideoConfig(**settings, geometry="none", stem_stride=1, driving=("motion", "center"),
                         weights={"rec": 4.0, "gradient": 0.0, "g": 0.0, "feature": 0.0})  # fmt: skip
    stage = VideoStage(config, dataset, folder, tmp_path / "before")
    before = stage.validate({name: network.eval() for name, network in stage.networks.items()})["l1_whole"]
    report = video.train(dataset, folder, config, tmp_path / "work")
    assert report["val/l1_whole"] < 0.5 * before and "g" not in report


@pytest.mark.integration
@pytest.mark.parametrize(
    "settings",
    [
        {"geometry": "none", "window": 1, "driving": "motion,center", "stem_stride": 1},
        {"geometry": "mesh", "window": 1},
    ],
    ids=["none", "mesh"],
)
def test_both_train_from_the_command_line_and_render(settings, dataset_folder: Path, tmp_path: Path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(packaged_weights(), folder)
    sets = [f"--set={name}={value}" for name, value in {**SMALL, "steps": 2, **settings}.items()]
    assert train.main(["video", "--data", str(dataset_folder), "--model", str(folder), *sets]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 2
    assert train.main(["export", "--model", str(folder), "--out", str(tmp_path / "out")]) == 0
    pipe = OSMNetPipeline.from_pretrained(tmp_path / "out")
    assert pipe.video_generator.config.geometry == settings["geometry"] and pipe.video_generator.config.window == 1
    frames = pipe(
        portrait(), speech(0.4), sampling_rate=16_000, generator=torch.Generator().manual_seed(0), size=64
    ).frames
    assert frames.shape[-3:] == (64, 64, 3) and frames.std() > 1
