"""The renderer for a GPU: the frames of the one for a CPU, computed on one device without waiting for it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from osmnet.face.mouth import apply_affine, cut_window, guide, paint_window, window_affine
from osmnet.face.pose import similarity_from_pose
from osmnet.face.topology import INNER_LIPS, NUM_VERTICES, OUTER_LIPS
from osmnet.face.warp import MeshWarp
from osmnet.rendering.decoders.runtimes import make_decoder
from osmnet.rendering.gpu import warp_gpu
from osmnet.rendering.gpu.mouth_gpu import BatchedMouth
from osmnet.rendering.gpu.warp_gpu import BatchedWarp, lanczos_matrix
from osmnet.rendering.mesh_renderer import MeshRenderer
from osmnet.rendering.mesh_renderer_gpu import BatchedMeshRenderer
from osmnet.rendering.select import renderer_for
from tests.support.dummies import portrait, tiny_pipeline
from tests.support.far_device import FAR, far_device, to_far

CPU = torch.device("cpu")
SIDE, WINDOW = 96, 48
aten = torch.ops.aten


def far_apart(frames, others, by=2):
    """The share of pixels that differ by more than `by` of 255."""
    return (np.abs(frames.astype(float) - others).max(-1) > by).mean()


def to_images(tensor):
    return tensor.permute(0, 2, 3, 1).numpy()


def from_images(images):
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float().contiguous()


@pytest.fixture(scope="module")
def source(tiny):
    return tiny.encode_source(portrait(), size=SIDE)


def driving(source, frames, context=2, seed=0):
    """A head that turns, nods, tilts, comes near and goes, and talks and blinks; with `context` on either side."""
    rng = np.random.default_rng(seed)
    phase = np.linspace(0, 2, frames + 2 * context)[:, None] + rng.uniform(0, 6, 6)
    pose = source.fit.head_pose + np.sin(phase) * (0.5, 0.3, 0.25, 0.15, 0.1, 2.0)
    expression = source.fit.expression + rng.normal(0, 1.5, (len(pose), 64))
    return pose.astype(np.float32), expression.astype(np.float32)


@pytest.fixture(scope="module")
def moved(tiny, source):
    """Shapes and poses of some frames."""
    pose, expression = driving(source, 12, context=0)
    return tiny.face_model.move(source.fit.shape, expression - source.fit.expression), similarity_from_pose(pose, SIDE)


@pytest.fixture(scope="module")
def warp(source):
    return MeshWarp(source.crop, source.fit.shape, source.fit.similarity)


# The warp


def test_frames_of_the_warp_are_those_of_the_cpu(warp, moved):
    frames, expected = to_images(BatchedWarp(warp, CPU)(*moved)), warp(*moved)
    assert far_apart(expected, warp.image, 30) > 0.1  # the head does move
    assert far_apart(frames, expected, 2) < 3e-4 and far_apart(frames, expected, 40) == 0
    assert np.array_equal(frames, np.clip(frames.round(), 0, 255))


@pytest.mark.parametrize("finest", [4096, 5 * SIDE, SIDE])  # the last as for pictures that fill the limit
def test_the_border_stays_while_the_head_moves(warp, moved, monkeypatch, finest):
    monkeypatch.setattr(warp_gpu, "_FINEST", finest)
    frames = to_images(BatchedWarp(warp, CPU)(*moved))
    for edge in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
        np.testing.assert_array_equal(frames[edge], np.broadcast_to(warp.image, frames.shape)[edge])


def test_what_lies_nearest_is_seen_in_whatever_order_triangles_are_drawn(warp, moved, monkeypatch):
    target, origin = warp.points(*moved)
    expected = BatchedWarp(warp, CPU).grid(target, origin)
    monkeypatch.setattr(warp_gpu, "TRIANGLES", np.random.default_rng(0).permutation(warp_gpu.TRIANGLES))
    drawing = BatchedWarp(warp, CPU)
    grid = drawing.grid(target, origin)
    apart = (grid - expected).abs().amax(-1) > 0.05
    assert apart.float().mean() < 1e-4  # at edges two triangles may be equally near
    target[..., 2] *= -1  # what was hidden comes to the front
    assert ((drawing.grid(target, origin) - expected).abs().amax(-1) > 1).float().mean() > 0.005


def test_triangles_without_an_area_or_outside_of_the_picture_draw_nothing(warp):
    drawing = BatchedWarp(warp, CPU)
    stays = np.stack(np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5), -1)
    for place in (0.0, SIDE / 2 + 0.5, -50.0, SIDE + 50.0):
        target = np.full((2, len(warp.source_points), 3), place)
        target[1] += np.linspace(0, 1, len(target[1]))[:, None] * 30 * (place < 0 or place > SIDE)
        grid = drawing.grid(target, np.zeros((2, len(warp.source_points), 2)))
        np.testing.assert_array_equal(grid.numpy(), np.broadcast_to(stays, grid.shape))


def test_lanczos_matrix():
    matrix = lanczos_matrix(20, 8)
    assert matrix.shape == (161, 20)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(matrix[4::8], np.eye(20), atol=1e-6)  # at the pixels' centres: the pixels
    wave = np.sin(0.9 * np.arange(20))
    places = np.arange(161) / 8 - 0.5
    inner = (places > 4) & (places < 15)
    np.testing.assert_allclose((matrix @ wave)[inner], np.sin(0.9 * places[inner]), atol=0.02)
    assert matrix[0, 0] > 0.99  # beyond the end the last pixel is repeated


# The mouth


@pytest.fixture(scope="module")
def mouths(tiny, source, warp, moved):
    """Windows' affine maps, mouths in them, and the source's own mouth."""
    shapes, similarity = moved
    anchor = tiny.face_model.mouth_anchor(source.fit.identity)
    affine = window_affine(anchor, similarity, WINDOW)
    target_px = apply_affine(affine, similarity.place(shapes)[..., :2])
    return affine, target_px, target_px[0]


def test_windows_are_those_of_the_cpu(mouths, warp, moved):
    affine, _, source_px = mouths
    enlarged = np.linalg.det(affine[:, :, :2]) > 1
    assert enlarged.any()
    shrunk = affine / np.where(np.arange(len(affine)) % 2, 1, 3)[:, None, None]  # both kinds in one batch
    assert (np.linalg.det(shrunk[:, :, :2]) < 1).any()
    frames = warp(*moved)
    for maps in (affine, shrunk):
        windows = to_images(BatchedMouth(source_px, WINDOW, CPU).cut(from_images(frames), maps))
        expected = np.stack([cut_window(f, a, WINDOW) for f, a in zip(frames, maps, strict=True)])
        assert np.abs(windows - expected).max() <= 2 and far_apart(windows, expected, 1) < 1e-2


def test_guides_are_those_of_the_cpu(mouths):
    _, target_px, source_px = mouths
    guides = BatchedMouth(source_px, WINDOW, CPU).guides(target_px).numpy()
    expected = np.stack([guide(points, source_px, WINDOW) for points in target_px])
    assert expected[:, 1].max() == 1 and guides.min() >= 0 and guides.max() <= 1
    apart = np.abs(guides - expected)
    assert apart.mean() < 2e-3 and (apart > 0.04).mean() < 2e-3
    np.testing.assert_array_equal(guides[:, 3], expected[:, 3])


@pytest.mark.parametrize("rows", [0, 0.4, 6])
def test_polygons_shut_open_and_beyond_the_window(rows):
    points = np.zeros((3, NUM_VERTICES, 2))
    angle = np.pi - 2 * np.pi * np.arange(20) / 20
    for i, centre in enumerate(([24, 24], [30.3, 21.7], [45, 40])):
        for loop, wide, high in ((INNER_LIPS, 9, rows), (OUTER_LIPS, 14, rows + 4)):
            points[i, loop] = np.array(centre) + np.stack([wide * np.cos(angle), high * np.sin(angle)], -1)
    guides = BatchedMouth(points[0], WINDOW, CPU).guides(points).numpy()
    expected = np.stack([guide(one, points[0], WINDOW) for one in points])
    assert np.abs(guides - expected).mean() < 2e-3
    assert (np.abs(guides - expected) > 0.1).mean() < 1e-3


def test_painted_windows_are_those_of_the_cpu(mouths, warp, moved):
    affine, target_px, source_px = mouths
    rng = np.random.default_rng(0)
    mask = np.stack([guide(points, source_px, WINDOW)[:1] for points in target_px]) * 0.9
    painted = cv2.GaussianBlur(rng.uniform(0, 255, (WINDOW, WINDOW, 3)).astype(np.float32), (0, 0), 2)
    painted = (painted * mask[:, 0, :, :, None]).astype(np.float32)
    mouth, unpainted = BatchedMouth(source_px, WINDOW, CPU), warp(*moved)
    smaller = affine / np.where(np.arange(len(affine)) % 2, 1, 3)[:, None, None]
    outside = affine - np.array([[0, 0, 4 * WINDOW], [0, 0, 0]]) * (np.arange(len(affine)) < 3)[:, None, None]
    for maps in (affine, smaller, outside):
        expected = unpainted.copy()
        for i, frame in enumerate(expected):
            paint_window(frame, painted[i], np.ascontiguousarray(mask[i, 0]), maps[i])
        assert far_apart(expected, unpainted, 8) > 0.005
        frames = from_images(unpainted)
        mouth.paint(frames, torch.from_numpy(painted).permute(0, 3, 1, 2), torch.from_numpy(mask), maps)
        assert np.abs(to_images(frames) - expected).max() <= 2
    frames = from_images(unpainted)
    beyond = affine - np.array([[0, 0, 40 * WINDOW], [0, 0, 0]])
    mouth.paint(frames, torch.from_numpy(painted).permute(0, 3, 1, 2), torch.from_numpy(mask), beyond)
    assert np.array_equal(to_images(frames), unpainted)


# The whole of it


@pytest.fixture(scope="module")
def plain():
    return tiny_pipeline("none")


def renderers(pipe, source):
    """Both renderers, with the same network in the same precision."""
    both = [kind(source, pipe.face_model, pipe.video_generator) for kind in (MeshRenderer, BatchedMeshRenderer)]
    for renderer in both:
        renderer.decoder = make_decoder(pipe.video_generator, renderer.source_image, "eager", "float32")
    return both


@pytest.mark.parametrize("side", [SIDE, 70, 150, 160])  # of the square in the picture: as rendered, smaller, larger
def test_frames_are_those_of_the_cpu(tiny, source, side):
    box = source.box._replace(left=160 - side // 2 if side > 100 else -20, top=7, side=side)  # some over its edge
    whole = replace(source, box=box, full_frame=side != SIDE)
    pose, expression = driving(source, 8)
    near, far = renderers(tiny, whole)
    frames, expected = far.render_chunk(pose, expression), near.render_chunk(pose, expression)
    assert frames.shape == expected.shape == (8, *whole.frame_size, 3) and frames.dtype == np.uint8
    assert far_apart(expected[:1], expected[1:], 10) > 0.05
    assert far_apart(frames, expected, 2) < 1e-3 and far_apart(frames, expected, 40) == 0
    outside = np.full(whole.frame_size, whole.full_frame)
    outside[max(box.top, 0) : box.top + side, max(box.left, 0) : box.left + side] = False
    assert np.array_equal(frames[:, outside], expected[:, outside])  # the picture around the square


@pytest.mark.parametrize("full_frame", [False, True])
def test_frames_without_a_mesh_are_those_of_the_cpu(plain, source, full_frame):
    pose, expression = driving(source, 5)
    near, far = renderers(plain, replace(source, full_frame=full_frame))
    frames, expected = far.render_chunk(pose, expression), near.render_chunk(pose, expression)
    assert frames.shape == expected.shape and frames.dtype == np.uint8
    assert expected.std() > 1 and far_apart(frames, expected, 2) < 1e-3


def test_a_block_is_the_same_every_time_and_on_every_thread(tiny, source):
    renderer = renderers(tiny, source)[1]
    blocks = [driving(source, 4, seed=seed) for seed in range(4)]
    expected = [renderer.render_chunk(*block) for block in blocks]
    assert not np.array_equal(expected[0], expected[1])
    with ThreadPoolExecutor(3) as pool:
        for frames, first in zip(
            pool.map(lambda block: renderer.render_chunk(*block), blocks * 2), expected * 2, strict=True
        ):
            assert np.array_equal(frames, first)


class _Watched(TorchDispatchMode):
    """Keeps the names of what is computed, and what is brought to the CPU from elsewhere."""

    def __init__(self):
        super().__init__()
        self.names, self.brought = set(), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.add(func._schema.name)
        if func is aten._to_copy.default and args[0].device == FAR and result.device == CPU:
            self.brought.append(result.dtype)
        return result


@pytest.mark.parametrize("geometry", ["mesh", "none"])
def test_nothing_is_brought_back_but_the_frames(geometry, source):
    pipe = tiny_pipeline(geometry)
    source = replace(source, full_frame=True)
    pose, expression = driving(source, 3)
    assert type(renderer_for(source, pipe.face_model, pipe.video_generator)) is MeshRenderer
    expected = renderers(pipe, source)[1].render_chunk(pose, expression)
    with far_device():
        to_far(pipe.video_generator)
        assert type(renderer_for(source, pipe.face_model, pipe.video_generator)) is BatchedMeshRenderer
        renderer = renderers(pipe, source)[1]
        with _Watched() as watched:
            frames = renderer.render_chunk(pose, expression)
    assert watched.brought == [torch.uint8]
    # No shape, no branch and no number depends on what the device computes: it is never waited for.
    waits = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "item", "equal"}
    assert not {name.removeprefix("aten::") for name in watched.names} & waits
    assert np.array_equal(frames, expected)


@pytest.mark.gpu
def test_frames_on_a_gpu_are_those_of_the_cpu(source):
    pipe = tiny_pipeline()
    pose, expression = driving(source, 8)
    expected = renderers(pipe, source)[0].render_chunk(pose, expression)
    pipe.to("cuda")
    renderer = renderers(pipe, source)[1]
    frames = renderer.render_chunk(pose, expression)
    assert far_apart(frames, expected, 2) < 2e-3
    with ThreadPoolExecutor(2) as pool:
        for again in pool.map(lambda _: renderer.render_chunk(pose, expression), range(6)):
            assert np.array_equal(again, frames)
