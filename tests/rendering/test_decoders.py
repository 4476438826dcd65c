"""The runtimes of the video generator draw the same frames, from any number of threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from osmnet.models.osm_net.video_generator import VideoGenerator
from osmnet.rendering.decoders.eager import EagerDecoder
from osmnet.rendering.decoders.fused import AT_ONCE, FusedDecoder
from osmnet.rendering.decoders.runtimes import make_decoder

HEIGHT = WIDTH = 64
GREY = 2 / 255  # one grey level, in [-1, 1]


def build(**arguments):
    torch.manual_seed(0)
    small = {"image_size": HEIGHT, "driving_dim": 9, "window": 3, "base_channels": 4, "max_channels": 12}
    network = VideoGenerator(**(small | {"num_residual": 2, "vector_dim": 16, "stem_stride": 2} | arguments)).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name or "conv_out" in name:  # not ones and zeros, and colours that are seen
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def inputs(count=3, guides=2, seed=1):
    torch.manual_seed(seed)
    source, *warped = (torch.rand(count + 1, 3, HEIGHT, WIDTH) * 2 - 1).split(1)
    guide = torch.rand(count, guides, HEIGHT, WIDTH)
    guide[:, :1, :21] = guide[:, :1, 46:] = 0
    guide[:, :1, :, :34] = guide[:, :1, :, 41:] = 0
    return source, torch.randn(count, 16), torch.cat(warped), guide


def reference(network, source, vectors, warped, guide=None):
    with torch.inference_mode():
        output = network.decode(source, vectors, warped, guide)
    return output.residual, output.mask


def difference(made, wanted):
    return max((a - b).abs().max().item() for a, b in zip(made, wanted, strict=True))


@pytest.mark.parametrize("arguments", [{}, {"stem_stride": 1, "num_down": 2}, {"num_residual": 0}])
def test_fused_draws_what_the_network_draws(arguments):
    network = build(guide_channels=2, **arguments)
    source, *rest = inputs(AT_ONCE + 1)
    wanted = reference(network, source, *rest)
    made = make_decoder(network, source, "fused", "float32")(*rest)
    assert made[0].dtype == made[1].dtype == torch.float32
    assert difference(made, wanted) < 1e-5 < 0.1 < wanted[0].abs().max()


def test_fused_draws_everywhere_without_a_guide():
    network = build(guide_channels=0)
    source, vectors, warped, _ = inputs(1)
    made = FusedDecoder(network, source)(vectors, warped)
    assert difference(made, reference(network, source, vectors, warped)) < 1e-5 and made[1].min() > 0


@pytest.mark.parametrize("rows", [(0, 5), (60, 64), (0, 64)])
def test_fused_paints_up_to_the_edges(rows):
    network = build(guide_channels=2)
    source, vectors, warped, guide = inputs()
    guide[:, 0, slice(*rows)] = 1
    made = FusedDecoder(network, source)(vectors, warped, guide)
    assert difference(made, reference(network, source, vectors, warped, guide)) < 1e-5


def test_fused_leaves_what_the_guide_forbids():
    network = build(guide_channels=2)
    source, vectors, warped, guide = inputs()
    guide[1, 0] = 0
    residual, mask = FusedDecoder(network, source, torch.bfloat16)(vectors, warped, guide)
    forbidden = guide[:, :1] == 0
    assert not mask[forbidden].any() and not residual[forbidden.expand_as(residual)].any()
    assert mask[0].any() and mask[2].any()
    shut = FusedDecoder(network, source)(vectors, warped, torch.zeros_like(guide))
    assert shut[0].shape == warped.shape and not shut[0].any() and not shut[1].any()


def test_bfloat16_stays_within_two_grey_levels():
    network = build(guide_channels=2)
    source, *rest = inputs(AT_ONCE + 1)
    wanted = reference(network, source, *rest)
    made = FusedDecoder(network, source, torch.bfloat16)(*rest)
    assert 0 < difference(made, wanted) < 2 * GREY
    assert (made[0] - wanted[0]).abs().mean() < 0.1 * GREY


@pytest.mark.parametrize("make", [FusedDecoder, lambda *given: EagerDecoder(*given, torch.float32, batch=2)])
def test_threads_do_not_disturb_each_other(make):
    network = build(guide_channels=2)
    source, *rest = inputs(12)
    decoder = make(network, source)
    parts = [[value[i : i + 3] for value in rest] for i in range(0, 12, 3)] * 4
    alone = [decoder(*part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda part: decoder(*part), parts))
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


@pytest.mark.parametrize("runtime", ["fused", "eager"])
def test_a_decoder_has_weights_of_its_own(runtime):
    network = build(guide_channels=2)
    source, *rest = inputs()
    decoder = make_decoder(network, source, runtime, "float32")
    before = decoder(*rest)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert difference(decoder(*rest), before) == 0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_batches_of_one_size_are_filled_up(count):
    network = build(guide_channels=2)
    source, *rest = inputs(count)
    decoder = EagerDecoder(network, source, torch.float32, batch=2)
    decoder(*inputs(2, seed=2)[1:])  # what a short batch is filled up with
    made = decoder(*rest)
    assert difference(made, reference(network, source, *rest)) < 1e-5


def test_whole_pictures_are_drawn_in_batches_too():
    network = build(geometry="none", guide_channels=0)
    source, vectors, _, _ = inputs(5)
    sample, mask = EagerDecoder(network, source, torch.float32, batch=2)(vectors)
    assert mask is None
    torch.testing.assert_close(sample, network.decode(source, vectors).sample, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        sample, make_decoder(network, source, precision="float32")(vectors)[0], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runtime": "fast"}, "runtime must be one of auto, fused, eager, not 'fast'"),
        ({"precision": "int8"}, "precision must be one of auto, float32, bfloat16, float16, not 'int8'"),
        ({"precision": "float16"}, "not in float16"),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_decoder(build(guide_channels=2), inputs()[0], **arguments)


def test_whole_pictures_have_no_fused_form():
    with pytest.raises(ValueError, match='not on cpu with geometry="none"'):
        make_decoder(build(geometry="none"), inputs()[0], runtime="fused")


@pytest.mark.parametrize("make", [FusedDecoder, lambda *given: EagerDecoder(*given, torch.float32, batch=2)])
def test_wrong_shapes_are_named(make):
    source, vectors, warped, guide = inputs()
    decoder = make(build(guide_channels=2), source)
    with pytest.raises(ValueError, match=r"\(3, 32, 64\)|\(3, 3, 32, 64\)"):
        decoder(vectors, warped[:, :, :32], guide)
    with pytest.raises(ValueError):
        decoder(vectors[:2], warped, guide)
    with pytest.raises(ValueError):
        decoder(vectors, warped)
