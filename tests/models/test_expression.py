"""The expression extractor: what a frame may depend on; the losses by their equations."""

import math

import pytest
import torch

from osmnet.models.osm_net.expression import ExpressionExtractor, expression_loss, landmark_loss, landmark_weights


def build(**arguments):
    torch.manual_seed(0)
    return ExpressionExtractor(**({"hidden_dim": 16, "identity_dim": 4, "expression_dim": 7} | arguments)).eval()


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return torch.randn(2, 60, 16, 16), torch.randn(2, 4)


@pytest.mark.parametrize("layers", [0, 2, 4])
def test_a_frame_sees_exactly_its_context(inputs, layers):
    network = build(context_layers=layers)
    assert network.context_frames == (0, 1, 3, 7, 15)[layers]
    mel, identity = inputs
    changed = mel.clone()
    changed[:, 30] += 1
    difference = (network(changed, identity) - network(mel, identity)).abs().amax((0, 2))
    seen = difference.nonzero().flatten().tolist()
    assert seen[0] == 30 - network.context_frames and seen[-1] == 30 + network.context_frames


def test_chunks_with_context_equal_the_whole(inputs):
    network = build()
    mel, identity = inputs
    whole, context = network(mel, identity), network.context_frames
    for start in range(0, 60, 20):
        first, last = max(0, start - context), min(60, start + 20 + context)
        chunk = network(mel[:, first:last], identity)[:, start - first : start - first + 20]
        torch.testing.assert_close(chunk, whole[:, start : start + 20], atol=1e-5, rtol=1e-5)


def test_batch_does_not_matter_and_identity_does(inputs):
    network = build()
    mel, identity = inputs
    whole = network(mel, identity)
    assert torch.equal(whole, network(mel, identity))
    torch.testing.assert_close(whole[1:], network(mel[1:], identity[1:]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network(mel, identity[:1])[1:], network(mel[1:], identity[:1]), atol=1e-5, rtol=1e-5)
    assert (network(mel, identity + 1) - whole).abs().max() > 1e-3


def test_loudness_reaches_the_output():
    network = build(context_layers=0)
    window = torch.rand(1, 1, 16, 16)
    quiet, loud = network(window - 1, torch.zeros(1, 4)), network(window, torch.zeros(1, 4))
    assert (quiet - loud).abs().max() > 1e-2


def test_output_buffers_scale_and_shift_and_stay_float32(inputs):
    network = build()
    before = network(*inputs)
    network.output_scale.fill_(3.0)
    network.output_bias.fill_(0.1)
    torch.testing.assert_close(network(*inputs), 3 * before + 0.1)
    network.bfloat16()
    assert network.output_bias.dtype == torch.float32 and network.output_bias[0].item() == pytest.approx(0.1, abs=1e-8)
    output = network(*inputs)
    assert output.dtype == torch.float32 and (output - 3 * before - 0.1).abs().max() < 0.3


def test_dropout_only_in_training(inputs):
    network = build(dropout=0.5)
    assert not torch.equal(network.train()(*inputs), network(*inputs))
    assert torch.equal(network.eval()(*inputs), network(*inputs))


def test_losses_by_hand():
    prediction, target = torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.zeros(2, 2)
    assert expression_loss(prediction, target).item() == pytest.approx((5 + 1) / 2)
    weighted = expression_loss(prediction, target, torch.tensor([0.0, 2.0]))
    assert weighted.item() == pytest.approx((8 + 2) / 2)

    landmarks = torch.tensor([[[3.0, 4.0], [0.0, 2.0], [1.0, 1.0]]])
    weights = landmark_weights(3, inner_mouth=[1], nose=[2])
    assert weights.tolist() == [1, 20, 20]
    expected = (5 + 20 * 2 + 20 * math.sqrt(2)) / 3
    assert landmark_loss(landmarks, torch.zeros(1, 3, 2), weights).item() == pytest.approx(expected)
    assert landmark_loss(landmarks, landmarks, weights).item() == 0


def test_loss_gradient_is_finite_where_prediction_and_target_agree():
    prediction = torch.zeros(2, 3, requires_grad=True)
    expression_loss(prediction, torch.zeros(2, 3)).backward()
    assert torch.isfinite(prediction.grad).all()


def test_refusals_name_the_shape():
    network = build()
    for call, message in (
        (lambda: network(torch.zeros(1, 3, 16, 15), torch.zeros(1, 4)), r"mel_windows .*\(1, 3, 16, 15\)"),
        (lambda: network(torch.zeros(1, 3, 16, 16), torch.zeros(1, 5)), r"identity .*\(1, 5\)"),
        (lambda: network(torch.zeros(3, 3, 16, 16), torch.zeros(2, 4)), r"identity .*\(2, 4\)"),
        (lambda: expression_loss(torch.zeros(2, 3), torch.zeros(2, 4)), "one shape"),
        (lambda: landmark_loss(torch.zeros(2, 3, 2), torch.zeros(2, 3, 2), torch.ones(2)), "weights"),
        (lambda: landmark_weights(5, [5], []), "index 5"),
        (lambda: build(context_layers=-1), "context_layers"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
