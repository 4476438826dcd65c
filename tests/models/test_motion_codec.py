"""Motion encoders and decoder, and paths composed of clips."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from osmnet.models.osm_net.motion_codec import AudioMotionEncoder, MotionDecoder, MotionEncoder, compose_clips
from osmnet.models.osm_net.motion_space import MotionSpace

BASES, DIM = 12, 32


def test_encoders_and_decoder_do_not_mix_the_batch():
    torch.manual_seed(0)
    encoder, decoder = MotionEncoder(motion_dim=DIM, hidden_dim=16).eval(), MotionDecoder(DIM, hidden_dim=16).eval()
    audio = AudioMotionEncoder(num_bases=BASES, hidden_dim=16).eval()
    for network, inputs in (
        (encoder, torch.randn(5, 5, 6)),
        (decoder, torch.randn(5, DIM)),
        (audio, torch.randn(5, 5, 16, 16)),
    ):
        whole = network(inputs)
        torch.testing.assert_close(whole[2:3], network(inputs[2:3]), atol=1e-6, rtol=1e-5)
        assert torch.equal(whole, network(inputs))
        assert (whole[0] - whole[1]).abs().max() > 1e-3  # and the input matters


def test_audio_weights_are_a_distribution():
    log_weights = AudioMotionEncoder(num_bases=BASES, hidden_dim=16)(torch.randn(3, 5, 16, 16))
    assert log_weights.shape == (3, BASES)
    torch.testing.assert_close(log_weights.exp().sum(-1), torch.ones(3))


def test_pose_scale_standardises_the_encoder_and_scales_the_decoder():
    torch.manual_seed(0)
    encoder, decoder = MotionEncoder(motion_dim=DIM, hidden_dim=16), MotionDecoder(DIM, hidden_dim=16)
    pose, feature, scale = torch.randn(2, 5, 6), torch.randn(2, DIM), torch.tensor([0.1, 0.2, 0.3, 1.0, 2.0, 3.0])
    encoded, decoded = encoder(pose), decoder(feature)
    assert decoded.shape == (2, 5, 6) and torch.equal(decoded[:, 0], torch.zeros(2, 6))
    encoder.pose_scale.copy_(scale)
    decoder.pose_scale.copy_(scale)
    torch.testing.assert_close(encoder(pose * scale), encoded)
    torch.testing.assert_close(decoder(feature), decoded * scale)


def test_compose_without_pull_and_smoothing_is_a_cumulative_sum():
    steps = torch.randn(3, 7, 4, 6, dtype=torch.float64)  # 7 clips of 4 steps = 5 poses
    clips = torch.cat([torch.zeros(3, 7, 1, 6, dtype=torch.float64), steps.cumsum(2)], 2)
    path = compose_clips(clips, pull=0, smoothing=0)
    assert path.shape == (3, 29, 6)
    torch.testing.assert_close(path[:, 1:], steps.flatten(1, 2).cumsum(1))
    assert torch.equal(path[:, 0], torch.zeros(3, 6, dtype=torch.float64))


def test_compose_pulls_evenly_over_the_clip():
    clips = torch.zeros(1, 3, 5, 1)
    clips[0, 0, :, 0] = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])  # one clip moves away, the others rest
    path = compose_clips(clips, pull=0.2, smoothing=0)[0, :, 0]
    expected = [0, 1, 2, 3, 4, 3.8, 3.6, 3.4, 3.2, 3.04, 2.88, 2.72, 2.56]
    torch.testing.assert_close(path, torch.tensor(expected))


def test_compose_smooths_as_scipy_does():
    clips = torch.randn(2, 6, 5, 6, dtype=torch.float64)
    rough = compose_clips(clips, smoothing=0).numpy()
    expected = gaussian_filter1d(rough, 2.0, axis=1, mode="mirror", truncate=4.0)
    path = compose_clips(clips, smoothing=2.0).numpy()
    np.testing.assert_allclose(path, expected - expected[:, :1], atol=1e-10)
    assert compose_clips(clips[:, :1, :2], smoothing=5.0).shape == (2, 2, 6)  # shorter than the kernel


def test_five_minutes_do_not_drift():
    steps = torch.randn(8, 1875, 4, 6, generator=torch.Generator().manual_seed(0)) * 0.02  # 5 minutes of random walk
    clips = torch.cat([torch.zeros(8, 1875, 1, 6), steps.cumsum(2)], 2)
    path, walk = compose_clips(clips), compose_clips(clips, pull=0, smoothing=0)
    assert walk.abs().max() > 3
    assert path.abs().max() < 0.6
    late, early = path[:, 4000:].std(), path[:, :3500].std()
    assert 0.7 < late / early < 1.4


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((2, 3, 5), {}, "shape"),
        ((2, 3, 1, 6), {}, "clip_length"),
        ((2, 3, 5, 6), {"pull": 1.5}, "pull"),
        ((2, 3, 5, 6), {"smoothing": -1}, "smoothing"),
    ],
)
def test_compose_refuses_what_makes_no_sense(shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        compose_clips(torch.zeros(shape), **arguments)


def test_networks_refuse_other_shapes_by_name():
    for call, message in (
        (lambda: MotionEncoder()(torch.zeros(1, 4, 6)), r"head_pose .*\(1, 4, 6\)"),
        (lambda: MotionDecoder()(torch.zeros(1, 5)), r"feature .*\(1, 5\)"),
        (lambda: AudioMotionEncoder()(torch.zeros(1, 4, 16, 16)), r"mel_windows .*\(1, 4, 16, 16\)"),
        (lambda: AudioMotionEncoder()(torch.zeros(1, 5, 16, 8)), r"mel_windows .*\(1, 5, 16, 8\)"),
        (lambda: MotionSpace().attention(torch.zeros(1, 5)), r"feature .*\(1, 5\)"),
        (lambda: MotionEncoder(clip_length=1), "clip_length"),
        (lambda: MotionSpace(num_bases=0), "num_bases"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
