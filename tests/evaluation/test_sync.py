"""Lip sync: the published SyncNet against its released program, and our own judge, trained and measured."""

import io

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from osmnet.data.dataset import Dataset, speaker_of
from osmnet.data.manifest import write_manifest
from osmnet.data.shards import ShardWriter, encode_track, fingerprint
from osmnet.evaluation.metrics.sync import (
    LIPS,
    MAX_SHIFT,
    SyncJudge,
    judge_distances,
    judge_score,
    lip_shapes,
    load_sync_judge,
    score,
    shifted_distances,
)
from osmnet.evaluation.metrics.syncnet import SyncNet, load_syncnet, mfcc, syncnet_crops, syncnet_score
from osmnet.face.morphable import FaceModel
from osmnet.face.pose import rotation_from_euler
from osmnet.face.topology import LOWER_LIP, OVAL
from osmnet.loading.packaged import packaged_weights
from osmnet.training.sync_judge import SyncConfig, train

# Tensors of the released syncnet_v2.model: branch, layer and shape of every weight.
CONVOLUTIONS = {
    "netcnnaud": {0: (64, 1, 3, 3), 4: (192, 64, 3, 3), 8: (384, 192, 3, 3), 11: (256, 384, 3, 3),
                  14: (256, 256, 3, 3), 18: (512, 256, 5, 4)},
    "netcnnlip": {0: (96, 3, 5, 7, 7), 4: (256, 96, 1, 5, 5), 8: (256, 256, 1, 3, 3), 11: (256, 256, 1, 3, 3),
                  14: (256, 256, 1, 3, 3), 18: (512, 256, 1, 6, 6)},
    "netfcaud": {0: (512, 512), 3: (1024, 512)},
    "netfclip": {0: (512, 512), 3: (1024, 512)},
}  # fmt: skip
# python_speech_features 0.6: mfcc(samples as int16, 16000), rows 0, 10 and 29 of `chirp()`.
MFCC_PACKAGE = {
    0: [21.448109, -19.72102, 6.412102, 3.279608, -2.851581, -14.215365, -18.63082, -25.95765, -21.943565, -20.671381,
        -15.466582, -9.44974, -5.078262],
    10: [21.880455, -24.124283, -10.501001, -24.615769, -17.879449, 9.036461, 26.794288, 16.861714, -12.188596,
         -26.750395, -13.154324, 5.83455, 15.724702],
    29: [22.75558, -28.247226, -15.991729, 4.793921, 18.310138, -14.886702, -10.694207, 18.955718, 4.092126, -23.71904,
         -0.159806, 16.613522, -7.931981],
}  # fmt: skip


def chirp():
    n = np.arange(5000)
    return (0.3 * np.sin(2 * np.pi * (200 + 0.2 * n) * n / 16000) + 0.1 * np.sin(n * n * 0.01)).astype(np.float32)


def talker(frames, seed):
    """Landmarks and sound of somebody whose lower lip drops as far as the noise is loud, in bursts."""
    rng = np.random.default_rng(seed)
    loud = np.repeat(rng.random(frames // 4 + 1) < 0.5, 4)[:frames] * rng.uniform(0.5, 1)
    loud = np.convolve(np.pad(loud, 1, mode="edge"), [0.25, 0.5, 0.25], "valid")
    sound = 0.3 * np.repeat(loud + 0.01, 640) * rng.standard_normal(640 * frames)
    return heads(frames, seed=seed, opening=loud), sound.astype(np.float32)


def heads(frames, size=256, seed=0, opening=None):
    """Landmarks of a head that talks and turns a little, in pixels."""
    model = FaceModel.from_pretrained(packaged_weights(), subfolder="face_model")
    rng = np.random.default_rng(seed)
    angles = 0.1 * np.sin(np.arange(frames)[:, None] / 9 + rng.uniform(0, 6, 3))
    shape = np.repeat(model.array("mean_shape")[None], frames, 0)
    lower = [vertex for vertex in LIPS if shape[0, vertex, 1] > shape[0, LIPS, 1].mean()]
    shape[:, lower, 1] += 0.15 * (rng.random(frames) if opening is None else opening)[:, None]
    turned = shape @ rotation_from_euler(angles).transpose(0, 2, 1)
    return (turned * size / 3.6 + (size / 2, size / 2, 0)).astype(np.float32)


@pytest.fixture(scope="module")
def syncnet():
    """The real network at its real size, with random weights that let signals through."""
    torch.manual_seed(0)
    network = SyncNet()
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(0.1)
        elif name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
    network.netcnnlip[1].running_var.fill_(3000.0)  # pictures in [0, 255]
    return network.eval()


# Shifts


@pytest.mark.parametrize("late", [-15, -4, 0, 3])
def test_a_late_picture_has_a_positive_offset(late):
    sound = np.random.default_rng(0).normal(size=(60, 8))
    lips = np.roll(sound, late, axis=0)  # frame i shows what is heard at i - late
    found = score(shifted_distances(lips, sound))
    assert found.offset == late
    assert found.distance == pytest.approx(0, abs=1e-9)


def test_pooling_follows_the_released_program():
    rng = np.random.default_rng(1)
    lips, sound = rng.normal(size=(2, 40, 6)).astype(np.float32)
    # calc_pdist and evaluate of syncnet_python, with loops.
    padded = F.pad(torch.from_numpy(sound), (0, 0, MAX_SHIFT, MAX_SHIFT))
    rows = [F.pairwise_distance(torch.from_numpy(lips[[i]]).repeat(31, 1), padded[i : i + 31]) for i in range(40)]
    mean = torch.stack(rows, 1).mean(1)
    smallest, index = mean.min(0)
    found = score(shifted_distances(lips, sound, beyond=0.0))
    assert found.distance == pytest.approx(float(smallest), abs=1e-4)
    assert found.confidence == pytest.approx(float(mean.median() - smallest), abs=1e-4)
    assert found.offset == MAX_SHIFT - int(index)


def test_short_videos_compare_only_what_there_is():
    sound = np.random.default_rng(2).normal(size=(5, 4))
    distances = shifted_distances(sound, sound)
    assert np.isnan(distances).all(0).sum() == 2 * (MAX_SHIFT - 4)  # shifts of 5 frames and more
    assert score(distances).offset == 0
    with pytest.raises(ValueError, match="one shape"):
        shifted_distances(sound, sound[:4])


# SyncNet


def test_syncnet_has_the_tensors_of_the_released_file():
    wanted = {}
    for branch, layers in CONVOLUTIONS.items():
        for index, shape in layers.items():
            wanted[f"{branch}.{index}.weight"], wanted[f"{branch}.{index}.bias"] = shape, shape[:1]
            if shape[0] != 1024:  # batch normalisation follows
                for name in ("weight", "bias", "running_mean", "running_var"):
                    wanted[f"{branch}.{index + 1}.{name}"] = shape[:1]
                wanted[f"{branch}.{index + 1}.num_batches_tracked"] = ()
    assert {name: tuple(value.shape) for name, value in SyncNet().state_dict().items()} == wanted


@pytest.mark.integration
def test_syncnet_loads_files_of_all_ages_and_refuses_others(syncnet, tmp_path):
    old = {name: value for name, value in syncnet.state_dict().items() if not name.endswith("tracked")}
    torch.save(old, tmp_path / "old.model", _use_new_zipfile_serialization=False)
    save_file(old, tmp_path / "same.safetensors")
    for name in ("old.model", "same.safetensors"):
        loaded = load_syncnet(tmp_path / name)
        assert not loaded.training
        assert all(torch.equal(loaded.state_dict()[key], value) for key, value in old.items())
    old.pop("netfclip.3.bias")
    torch.save(old, tmp_path / "lacking.model")
    with pytest.raises(ValueError, match="netfclip.3.bias.*1 in all"):
        load_syncnet(tmp_path / "lacking.model")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "pickle.model")  # could run code: never loaded
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    (tmp_path / "page.model").write_text("<html>")
    for name in ("pickle.model", "cut.safetensors", "page.model"):
        with pytest.raises(ValueError, match="cannot be read as a state dict"):
            load_syncnet(tmp_path / name)
    with pytest.raises(ValueError, match="no SyncNet weights"):
        load_syncnet(tmp_path / "missing.model")


def test_mfcc_agrees_with_the_published_package():
    found = mfcc(chirp())
    assert found.shape == (30, 13)
    for row, values in MFCC_PACKAGE.items():
        assert found[row] == pytest.approx(values, abs=1e-5)
    assert np.isfinite(mfcc(np.zeros(3000))).all()


def test_the_crop_is_the_released_programs_square():
    # A face box of 80 x 100 pixels around (150, 130): s = 50, the square reaches x 80...220, y 80...220.
    landmarks = np.full((20, 478, 3), 150, np.float32)
    landmarks[:, :, 1] = 130
    landmarks[:, OVAL[:4], :2] = [[110, 130], [190, 130], [150, 80], [150, 180]]
    landmarks[7, :, :2] += 60  # one bad detection: the median does not follow it
    y, x = np.mgrid[:256, :256]
    frame = np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8)
    crops = syncnet_crops(np.repeat(frame[None], 20, 0), landmarks)
    assert crops.shape == (20, 224, 224, 3)
    ends = crops[7][[0, -1], [0, -1]].astype(int)
    assert ends[:, 2] == pytest.approx([80, 219], abs=1) and ends[:, 1] == pytest.approx([80, 219], abs=1)  # BGR
    assert (crops[..., 0] == 0).all()
    near = syncnet_crops(np.repeat(frame[None], 20, 0), landmarks - (100, 0, 0))
    assert (near[0][:, :31] == 110).all() and (near[0][:, 33:, 0] == 0).all()  # 20 of 140 pixels: beyond the edge


@pytest.mark.integration
def test_syncnet_scores_are_the_released_programs(syncnet):
    frames = np.random.default_rng(0).integers(0, 256, (9, 256, 256, 3)).astype(np.uint8)
    landmarks = heads(9)
    sound = np.concatenate([chirp(), chirp()[::-1]])[: 9 * 640]
    images = torch.from_numpy(syncnet_crops(frames, landmarks)).permute(3, 0, 1, 2).float()[None]
    cepstra = torch.from_numpy(mfcc(sound).T).float()[None, None]
    rows = []
    with torch.no_grad():
        lips = torch.cat([syncnet.embed_lips(images[0, :, i : i + 5]) for i in range(4)])  # one window at a time
        heard = torch.cat([syncnet.embed_sound(cepstra[..., 4 * i : 4 * i + 20]) for i in range(4)])
    padded = F.pad(heard, (0, 0, MAX_SHIFT, MAX_SHIFT))
    rows = [F.pairwise_distance(lips[[i]].repeat(31, 1), padded[i : i + 31]) for i in range(4)]
    mean = torch.stack(rows, 1).mean(1)
    found = syncnet_score(syncnet, frames, landmarks, sound)
    assert lips.std(0).mean() > 1e-3 and heard.std(0).mean() > 1e-3  # windows do differ
    assert found.distance == pytest.approx(float(mean.min()), rel=1e-4)
    assert found.confidence == pytest.approx(float(mean.median() - mean.min()), rel=1e-3, abs=1e-5)
    with pytest.raises(ValueError, match="at least 6 frames with sound, not 5"):
        syncnet_score(syncnet, frames, landmarks, sound[: 5 * 640 + 100])


# The judge


def test_lip_shapes_know_nothing_of_the_heads_pose():
    landmarks = heads(12)
    turn = rotation_from_euler(np.array([0.4, -0.2, 0.3]))
    moved = 1.7 * landmarks @ turn.T + (30, -50, 9)
    assert lip_shapes(moved) == pytest.approx(lip_shapes(landmarks), abs=1e-5)
    assert lip_shapes(landmarks).shape == (12, 40, 3)
    assert lip_shapes(landmarks).mean(0) == pytest.approx(0, abs=1e-6)
    opening = lip_shapes(landmarks)[:, list(LIPS).index(LOWER_LIP), 1]
    assert opening.std() > 0.02  # and it does see the mouth


def test_an_embedding_is_made_of_five_frames():
    judge = SyncJudge().eval()
    lips, mel = torch.randn(1, 12, 40, 3), torch.randn(1, 12, 16, 16)
    changed = lips.clone(), mel.clone()
    changed[0][:, 6] += 1
    changed[1][:, 6] += 1
    with torch.no_grad():
        before, after = judge(lips, mel), judge(*changed)
    assert judge.frames == 5
    for one, other in zip(before, after, strict=True):
        assert one.shape == (1, 8, 64)
        assert one.norm(dim=2) == pytest.approx(1, abs=1e-5)
        assert torch.nonzero((one - other).abs().amax((0, 2)) > 1e-6).ravel().tolist() == [2, 3, 4, 5, 6]


def test_the_packaged_judge_is_small_and_whole():
    judge = load_sync_judge()
    assert sum(parameter.numel() for parameter in judge.parameters()) <= 500_000
    distances = judge_distances(judge, heads(30), np.tile(chirp(), 4)[: 30 * 640])
    assert distances.shape == (26, 31)
    assert np.nanmin(distances) >= 0 and np.nanmax(distances) <= 2
    with pytest.raises(ValueError, match="at least 5 frames with sound, not 3"):
        judge_score(judge, heads(3), np.tile(chirp(), 4))


@pytest.mark.integration
def test_training_teaches_the_judge_which_sound_belongs_to_lips(tmp_path):
    # Mouths that open as the sound is loud, at random moments: only alignment tells right from wrong.
    names = [f"speaker{i}-voice" for i in range(6)] + ["opentalker-face-1"]  # the last one is held out by name
    rows, recordings = [], {}
    model = FaceModel.from_pretrained(packaged_weights(), subfolder="face_model")
    with ShardWriter(tmp_path / "data", "clips") as writer:
        for seed, name in enumerate(names):
            landmarks, waveform = talker(100, seed)
            recordings[name] = landmarks, waveform
            wav = io.BytesIO()
            soundfile.write(wav, waveform, 16_000, format="WAV", subtype="PCM_16")
            track = encode_track(landmarks, model.fit_track(landmarks, 256), fingerprint(model))
            files = {"npz": track, "wav": wav.getvalue()}
            row = {"status": "kept", "key": name, "speaker": speaker_of(name), "size": 256, "frames": 100}
            writer.add(row, files)
            rows.append(row)
    write_manifest(tmp_path / "data", rows)
    config = SyncConfig(
        steps=60, batch_size=6, learning_rate=3e-3, warm_up=5, ema=0.9, hidden_dim=32, embedding_dim=16, dropout=0.0,
        frames=40,
    )  # fmt: skip
    data = Dataset.open(tmp_path / "data")
    report = train(data, tmp_path / "model", config, tmp_path / "work")
    assert report["val/auc"] > 0.9 and report["val/found"] == 1
    judge = SyncJudge.from_pretrained(tmp_path / "model" / "sync_judge")
    landmarks, waveform = recordings["opentalker-face-1"]
    for late in (-5, 0, 5):
        sound = np.roll(waveform, -640 * late)  # the picture comes `late` frames after its sound
        assert judge_score(judge, landmarks, sound).offset == pytest.approx(late, abs=1)
    still = np.repeat(landmarks[:1], 100, 0)
    assert judge_score(judge, still, waveform).confidence < 0.5 * judge_score(judge, landmarks, waveform).confidence
    with pytest.raises(ValueError, match="shorter than 250 frames"):
        train(data, tmp_path / "m", SyncConfig(frames=500), tmp_path / "w")
