"""The video generator and its discriminator: which input may change which output."""

import pytest
import torch

from osmnet.models.osm_net.discriminator import PatchDiscriminator, d_loss, feature_matching_loss, g_loss
from osmnet.models.osm_net.video_generator import DrivingEncoder, VideoGenerator

SIZE, WINDOW, DRIVING = 32, 5, 9


def build(**arguments):
    torch.manual_seed(0)
    small = {"image_size": SIZE, "driving_dim": DRIVING, "window": WINDOW, "base_channels": 4, "max_channels": 16}
    return VideoGenerator(**(small | {"num_residual": 2, "vector_dim": 16, "guide_channels": 2} | arguments)).eval()


def build_plain(**arguments):
    return build(geometry="none", guide_channels=0, **arguments)


def inputs(batch=3, size=SIZE, seed=1):
    torch.manual_seed(seed)
    picture = torch.rand(2, batch, 3, size, size) * 2 - 1
    return picture[0], torch.randn(batch, WINDOW, DRIVING), picture[1], torch.rand(batch, 2, size, size)


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_a_frame_does_not_depend_on_its_batch(stem_stride):
    network, arguments = build(stem_stride=stem_stride), inputs()
    with torch.inference_mode():
        whole = network(*arguments)
        assert torch.equal(whole.sample, network(*arguments).sample)
        for frame in range(3):
            alone = network(*(argument[frame : frame + 1] for argument in arguments))
            torch.testing.assert_close(alone.sample, whole.sample[frame : frame + 1], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(alone.mask, whole.mask[frame : frame + 1], atol=1e-5, rtol=1e-5)


def test_one_source_serves_many_frames():
    network, (source, window, warped, guide) = build(), inputs()
    once = network(source[:1], window, warped, guide).sample
    torch.testing.assert_close(once, network(source[:1].expand(3, -1, -1, -1), window, warped, guide).sample)


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_mesh_blends_and_leaves_what_the_guide_forbids(stem_stride):
    network, (source, window, warped, guide) = build(stem_stride=stem_stride), inputs()
    guide[:, 0] = 1
    guide[:, 0, :, : SIZE // 2] = 0
    output = network(source, window, warped, guide)
    assert torch.equal(output.sample[:, :, :, : SIZE // 2], warped[:, :, :, : SIZE // 2])
    assert (output.mask[:, :, :, : SIZE // 2] == 0).all()
    painted = output.mask[:, :, :, SIZE // 2 :]
    assert painted.min() > 0.35 and painted.max() < 0.65  # it starts near one half of the prior
    torch.testing.assert_close(output.sample, warped + output.residual)
    colour = warped + output.residual / output.mask.clamp(min=1e-9)
    assert colour[:, :, :, SIZE // 2 :].abs().max() <= 1 + 1e-5
    expected = warped * (1 - output.mask) + colour * output.mask
    torch.testing.assert_close(output.sample, expected, atol=1e-5, rtol=1e-5)


def test_mesh_mask_follows_the_prior():
    network, (source, window, warped, guide) = build(), inputs()
    mask = network(source, window, warped, guide).mask
    assert (mask <= guide[:, :1]).all() and (mask > 0.3 * guide[:, :1]).all()


def test_untouched_pixels_are_exact_in_sixteen_bits_too():
    network, (source, window, warped, guide) = build().bfloat16(), inputs()
    guide[:, 0] = 0
    output = network(source, window, warped, guide)
    assert output.sample.dtype == torch.float32 and torch.equal(output.sample, warped)


def test_mesh_without_guide_may_paint_everywhere():
    network, (source, window, warped, _) = build(guide_channels=0), inputs()
    output = network(source, window, warped)
    assert output.mask.shape == (3, 1, SIZE, SIZE) and output.mask.min() > 0.3


@pytest.mark.parametrize("stem_stride", [1, 2])
def test_plain_generator_makes_every_pixel_itself(stem_stride):
    network, (source, window, _, _) = build_plain(stem_stride=stem_stride), inputs()
    output = network(source, window)
    assert output.sample.shape == source.shape and output.mask is None and output.residual is None
    assert output.sample.abs().max() < 1
    assert (network(-source, window).sample - output.sample).abs().max() > 1e-3


@pytest.mark.parametrize("argument", range(4))
def test_every_input_matters(argument):
    network, arguments = build(), list(inputs())
    before = network(*arguments).residual
    arguments[argument] = inputs(seed=2)[argument]
    assert (network(*arguments).residual - before).abs().max() > 1e-4


def test_every_parameter_is_trained():
    network, (source, window, warped, guide) = build().train(), inputs()
    output = network(source, window, warped, guide)
    (output.sample**2).mean().backward()
    without = [name for name, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert not without


def test_other_sizes_than_the_trained_one():
    network, arguments = build(), inputs(size=48)
    assert network(*arguments).sample.shape == (3, 3, 48, 48)


def test_driving_vectors_can_be_kept():
    network, (source, window, warped, guide) = build(), inputs()
    vector = network.encode_driving(window)
    assert torch.equal(
        network.decode(source, vector, warped, guide).sample, network(source, window, warped, guide).sample
    )


@pytest.mark.parametrize("window", [3, 5, 17])
def test_driving_encoder_on_a_sequence_equals_its_windows(window):
    torch.manual_seed(0)
    encoder = DrivingEncoder(DRIVING, window, hidden_dim=8, out_dim=6)
    sequence = torch.randn(2, 10 + window - 1, DRIVING)
    at_once = encoder.encode_sequence(sequence)
    assert at_once.shape == (2, 10, 6)
    for frame in range(10):
        torch.testing.assert_close(at_once[:, frame], encoder(sequence[:, frame : frame + window]))
    edge = sequence.clone()
    edge[:, 0] += 1  # the whole window is used, its ends included
    assert (encoder(edge[:, :window]) - encoder(sequence[:, :window])).abs().max() > 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"warped_image": None}, "warped_image is missing"),
        ({"guide": None}, "guide is missing"),
        ({"guide": torch.zeros(3, 1, SIZE, SIZE)}, r"guide must have shape \(3, 2, 32, 32\)"),
        ({"warped_image": torch.zeros(3, 3, SIZE, 16)}, r"warped_image .*\(3, 3, 32, 16\)"),
        ({"source_image": torch.zeros(3, 3, 30, 30)}, "divisible by 8"),
        ({"source_image": torch.zeros(2, 3, SIZE, SIZE)}, r"source_image .*\(2, 3, 32, 32\)"),
        ({"driving_window": torch.zeros(3, 4, DRIVING)}, r"driving_window .*\(3, 4, 9\)"),
    ],
)
def test_wrong_inputs_are_named(change, message):
    names = ("source_image", "driving_window", "warped_image", "guide")
    arguments = dict(zip(names, inputs(), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        build()(**arguments)


def test_plain_generator_refuses_what_it_would_ignore():
    source, window, warped, _ = inputs()
    with pytest.raises(ValueError, match="warped_image is not used"):
        build_plain()(source, window, warped)


@pytest.mark.parametrize(
    "arguments",
    [
        {"geometry": "flow"},
        {"image_size": 20},
        {"image_size": 2**20},
        {"image_size": 64.0},
        {"window": 4},
        {"base_channels": 0},
        {"geometry": "none", "guide_channels": 1},
    ],
)
def test_constructor_refuses(arguments):
    with pytest.raises(ValueError):
        build(**arguments)


def test_discriminator_judges_patches_of_one_picture_at_a_time():
    torch.manual_seed(0)
    network, pictures = PatchDiscriminator(base_channels=4), torch.randn(3, 3, 32, 32)
    logits, features = network(pictures)
    assert logits.shape == (3, 1, 4, 4) and [feature.shape[2] for feature in features] == [16, 8, 4]
    torch.testing.assert_close(logits[1:2], network(pictures[1:2])[0], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match=r"images .*\(3, 4, 32, 32\)"):
        network(torch.zeros(3, 4, 32, 32))


def test_adversarial_losses_by_hand():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert d_loss(real, fake).item() == pytest.approx((0 + 0.5) / 2 + (0 + 1) / 2)
    assert g_loss(fake).item() == pytest.approx(1.5)
    first = [torch.zeros(2, 2, requires_grad=True), torch.ones(4, requires_grad=True)]
    second = [torch.full((2, 2), 2.0, requires_grad=True), torch.ones(4)]
    loss = feature_matching_loss(first, second)
    assert loss.item() == pytest.approx((2 + 0) / 2)
    loss.backward()
    assert first[0].grad is None and second[0].grad is not None
    with pytest.raises(ValueError, match="equally many"):
        feature_matching_loss(first, second[:1])
