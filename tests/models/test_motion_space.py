"""The motion space by its equations, and the promises of sampling."""

import math

import numpy as np
import pytest
import torch

from osmnet.models.osm_net import motion_space
from osmnet.models.osm_net.motion_codec import MotionDecoder
from osmnet.models.osm_net.motion_space import MotionSpace, MotionWalk, kl_loss

BASES, DIM = 12, 32


@pytest.fixture
def space():
    torch.manual_seed(0)
    return MotionSpace(num_bases=BASES, motion_dim=DIM)


@pytest.fixture
def center(space):
    torch.manual_seed(1)
    return space.reconstruct(torch.randn(9, BASES).softmax(-1)).detach()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_attention_and_reconstruction_follow_equations_1_and_2(space):
    feature = torch.randn(4, DIM)
    bases, features = space.motion_bases.detach().double().numpy(), feature.double().numpy()
    for row in range(4):
        cosine = [float(b @ features[row]) / math.sqrt((b @ b) * (features[row] @ features[row])) for b in bases]
        scores = [math.exp(space.config.kappa * c) for c in cosine]
        weights = np.array(scores) / sum(scores)
        np.testing.assert_allclose(space.attention(feature)[row].detach(), weights, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(space(feature)[0][row].detach(), weights @ bases, rtol=1e-4, atol=1e-6)


def test_attention_depends_on_direction_only_and_prefers_the_own_basis(space):
    feature = torch.randn(3, DIM)
    torch.testing.assert_close(space.attention(feature), space.attention(100 * feature))
    torch.testing.assert_close(space.log_attention(feature).exp(), space.attention(feature))
    assert space.attention(space.motion_bases).argmax(-1).tolist() == list(range(BASES))


def test_basis_loss_is_the_mean_absolute_difference(space):
    feature = torch.randn(5, DIM)
    expected = (space(feature)[0] - feature).abs().sum() / (5 * DIM)
    torch.testing.assert_close(space.basis_loss(feature), expected)
    space.basis_loss(feature).backward()
    assert space.motion_bases.grad.abs().sum() > 0


def test_kl_loss_against_a_sum_by_hand():
    first, second = [0.2, 0.3, 0.5], [0.6, 0.3, 0.1]
    expected = sum(p * math.log(p / q) for p, q in zip(first, second, strict=True))
    value = kl_loss(torch.tensor([first, first]).log(), torch.tensor([second, first]).log())
    assert value.item() == pytest.approx(expected / 2, rel=1e-5)  # the second pair is equal: 0
    with pytest.raises(ValueError, match="one shape"):
        kl_loss(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize("sampling", ["span", "ball"])
@pytest.mark.parametrize("epsilon", [1e-3, 0.5, 1.0, 40.0])
def test_samples_stay_in_the_ball_and_use_it(space, center, sampling, epsilon):
    feature = space.sample(center, epsilon, seeded(), num_videos=20, sampling=sampling)
    distance = (feature.double() - center.double()).norm(dim=-1)
    assert feature.shape == (20, 9, DIM) and feature.dtype == torch.float32
    assert distance.max() <= epsilon
    assert distance.max() > 0.98 * epsilon and distance.mean() > 0.5 * epsilon


def test_samples_stay_in_the_ball_when_rounding_is_coarser_than_epsilon(space, center):
    huge = center * 1e6
    distance = (space.sample(huge, 1e-3, seeded(), num_videos=5).double() - huge.double()).norm(dim=-1)
    assert distance.max() <= 1e-3


@pytest.mark.parametrize("sampling", ["span", "ball"])
def test_epsilon_zero_is_the_center_and_more_epsilon_is_more_spread(space, center, sampling):
    def draw(epsilon):
        return space.sample(center, epsilon, seeded(3), num_videos=6, sampling=sampling)

    assert torch.equal(draw(0), center.expand(6, -1, -1))
    spreads = [draw(epsilon).std(0).mean().item() for epsilon in (0.0, 0.25, 0.5, 1.0, 2.0)]
    assert spreads[0] < 1e-7 and spreads == sorted(spreads)
    # the same seed is the same motion, only larger
    torch.testing.assert_close(2 * (draw(0.5) - center), draw(1.0) - center, atol=1e-5, rtol=1e-4)


def test_same_generator_same_sample_and_other_seeds_differ(space, center):
    first = space.sample(center, 1.0, seeded(5), num_videos=3)
    assert torch.equal(first, space.sample(center, 1.0, seeded(5), num_videos=3))
    assert not torch.equal(first, space.sample(center, 1.0, seeded(6), num_videos=3))
    assert not torch.equal(first[0], first[1])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    space.sample(center, 1.0, seeded(5))
    assert torch.equal(before, torch.get_rng_state())  # nothing else draws


@pytest.mark.parametrize("sampling", ["span", "ball"])
def test_take_i_does_not_depend_on_the_number_of_takes(space, center, sampling):
    many = space.sample(center, 1.0, seeded(5), num_videos=5, sampling=sampling)
    assert torch.equal(many[:2], space.sample(center, 1.0, seeded(5), num_videos=2, sampling=sampling))
    generators = [seeded(seed) for seed in (7, 8, 9)]
    listed = space.sample(center, 1.0, generators, num_videos=3, sampling=sampling)
    for take, seed in enumerate((7, 8, 9)):
        assert torch.equal(listed[take], space.sample(center, 1.0, seeded(seed), sampling=sampling)[0])


@pytest.mark.parametrize("sampling", ["span", "ball"])
@pytest.mark.parametrize("chunk", [1, 4, 9, 100])
def test_chunks_of_a_take_are_the_take(space, sampling, chunk, monkeypatch):
    weights = torch.randn(9, BASES, generator=seeded()).softmax(-1)
    center = space.reconstruct(weights).detach()
    activity = torch.linspace(0, 1, 9)
    whole = space.sample(center, 0.5, seeded(5), sampling=sampling, activity=activity)[0]
    monkeypatch.setattr(motion_space, "CHUNK", chunk)
    chunks = list(space.sample_chunks(weights, 0.5, seeded(5), sampling, activity))
    assert [len(part) for part in chunks[:-1]] == [chunk] * (len(chunks) - 1)
    joined = torch.cat(chunks).detach()
    torch.testing.assert_close(joined, whole)
    assert (joined.double() - center.double()).norm(dim=-1).max() <= 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": -1.0}, "epsilon"),
        ({"sampling": "cube"}, "sampling"),
        ({"activity": torch.ones(5)}, "activity"),
        ({"weights": torch.zeros(4, BASES + 1)}, "weights"),
    ],
)
def test_chunks_refuse_what_sample_refuses_at_the_call(space, arguments, message):
    with pytest.raises(ValueError, match=message):
        space.sample_chunks(**({"weights": torch.zeros(4, BASES)} | arguments))


def test_span_directions_lie_between_the_bases_and_ball_directions_do_not(space, center):
    bases = space.motion_bases.detach()
    axes = torch.linalg.svd(bases - bases.mean(0), full_matrices=False).Vh[: BASES - 1]

    def outside(sampling):
        offset = space.sample(center, 1.0, seeded(), num_videos=30, sampling=sampling) - center
        return ((offset - offset @ axes.T @ axes).norm(dim=-1) / offset.norm(dim=-1)).mean()

    assert outside("span") < 1e-3
    assert outside("ball") == pytest.approx(math.sqrt(1 - (BASES - 1) / DIM), abs=0.03)


def test_ball_is_uniform(space):
    radius = space.sample(torch.zeros(40, DIM), 1.0, seeded(), num_videos=100, sampling="ball").norm(dim=-1)
    volume = (radius**DIM).flatten().sort().values  # uniform in [0, 1] if the ball is filled evenly
    uniform = torch.linspace(0, 1, len(volume))
    assert (volume - uniform).abs().max() < 0.05


def test_a_walk_of_any_number_of_steps_is_the_same(space):
    activity = torch.rand(40, generator=seeded(1))
    whole = MotionWalk(space, seeded()).advance(40, activity)
    walk, parts = MotionWalk(space, seeded()), []
    for part in activity.split([1, 1, 7, 30, 1]):
        parts.append(walk.advance(len(part), part))
    assert torch.equal(torch.cat(parts), whole) and not torch.equal(whole, MotionWalk(space, seeded()).advance(40))


def test_a_walk_goes_where_its_prior_says(space):
    """A movement goes on for some clips and swings back, along two axes only."""
    space.prior_axes[2:] = 0
    transitions = torch.zeros_like(space.prior_transitions)
    transitions[0], transitions[1] = 1.2 * torch.eye(BASES), -0.72 * torch.eye(BASES)
    space.prior_transitions.copy_(transitions)
    offset = space.sample(torch.zeros(400, DIM), 1.0, seeded(), 10)
    assert torch.linalg.matrix_rank(offset.flatten(0, 1), atol=1e-4) == 2
    cosines = [torch.cosine_similarity(offset[:, lag:], offset[:, : 400 - lag], dim=-1).mean() for lag in (1, 3, 5)]
    assert cosines[0] > 0.4 and cosines[1] < -0.1 and cosines[2] < 0


def test_a_walk_rests_and_bursts_and_is_calmer_in_silence(space):
    size = MotionWalk(space, seeded()).advance(4000).norm(dim=-1)
    calm, lively = size.quantile(torch.tensor([0.1, 0.9]))
    assert lively > 3 * calm  # of a plain Gaussian walk of so many dimensions 1.7
    assert torch.corrcoef(torch.stack([size[1:], size[:-1]]).log())[0, 1] > 0.4
    silent, talking = (MotionWalk(space, seeded()).advance(50, torch.full((50,), level)) for level in (0.0, 1.0))
    torch.testing.assert_close(talking / silent, torch.full_like(silent, math.exp(motion_space.VOICE)))


def test_neighbouring_draws_in_the_ball_correlate(space):
    offset = space.sample(torch.zeros(60, DIM), 1.0, seeded(), 20, "ball")
    cosine = torch.cosine_similarity(offset[:, 1:], offset[:, :-1], dim=-1).mean().item()
    assert cosine == pytest.approx(motion_space.BALL_CORRELATION, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": -0.1}, "epsilon"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"epsilon": float("inf")}, "epsilon"),
        ({"num_videos": 0}, "num_videos"),
        ({"sampling": "sphere"}, "sampling"),
        ({"activity": torch.ones(10)}, "activity"),
        ({"center": torch.zeros(3, DIM + 1)}, "center"),
        ({"center": torch.zeros(0, DIM)}, "center"),
        ({"generator": [torch.Generator()], "num_videos": 2}, "generator"),
    ],
)
def test_sample_refuses_what_makes_no_sense(space, center, arguments, message):
    with pytest.raises(ValueError, match=message):
        space.sample(**({"center": center} | arguments))


@pytest.mark.parametrize(
    "cast", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.to(dtype=torch.half)]
)
def test_casting_keeps_the_bases_bit_for_bit(space, center, cast):
    before = space.motion_bases.detach().clone()
    sample = space.sample(center, 1.0, seeded())
    cast(space)
    assert {tensor.dtype for tensor in space.state_dict().values()} == {torch.float32}
    assert torch.equal(space.motion_bases, before) and isinstance(space.motion_bases, torch.nn.Parameter)
    assert torch.equal(sample, space.sample(center, 1.0, seeded()))


def test_from_pretrained_in_bfloat16_keeps_the_bases(space, tmp_path):
    space.save_pretrained(tmp_path)
    loaded = MotionSpace.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(loaded.motion_bases, space.motion_bases) and not loaded.training
    decoder = MotionDecoder(DIM, hidden_dim=16)
    decoder.pose_scale.fill_(1 / 3)
    decoder.save_pretrained(tmp_path / "decoder")
    decoder = MotionDecoder.from_pretrained(tmp_path / "decoder", dtype=torch.bfloat16)
    assert decoder.linear_in.weight.dtype == torch.bfloat16
    assert decoder.pose_scale.dtype == torch.float32 and decoder.pose_scale[0].item() == np.float32(1 / 3)
    assert decoder(torch.randn(2, DIM)).dtype == torch.float32


def test_loading_leaves_the_global_seed_alone(space, tmp_path):
    space.save_pretrained(tmp_path)
    before = torch.get_rng_state()
    MotionSpace.from_pretrained(tmp_path)
    assert torch.equal(before, torch.get_rng_state())
