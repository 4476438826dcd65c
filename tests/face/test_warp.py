"""The mesh warp: what moves, what stays and what hides what."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from osmnet.face.crop import crop_box, extract, to_crop
from osmnet.face.drawing import rasterise
from osmnet.face.landmarker import FaceLandmarker
from osmnet.face.morphable import FaceModel
from osmnet.face.pose import Similarity, pose_from_similarity, rotation_from_euler, similarity_from_pose
from osmnet.face.topology import (
    CHIN,
    FOREHEAD,
    INNER_LIPS,
    LEFT_EYE,
    LEFT_IRIS,
    LEFT_MOUTH_CORNER,
    LOWER_LIP,
    NOSE,
    NUM_VERTICES,
    OUTER_LIPS,
    OVAL,
    RIGHT_EYE,
    RIGHT_IRIS,
    UPPER_LIP,
    opposite_lid,
)
from osmnet.face.warp import LASHES_WIDTH, NUM_POINTS, TRIANGLES, MeshWarp
from osmnet.media.image import load_portrait

SIZE = 192
POSE = np.array([0.1, 0.05, 0.03, 0.02, 0.05, 0.2])
# Pixel centres, (x, y).
IDENTITY = np.stack(np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5), -1)


@pytest.fixture(scope="module")
def shape(repository):
    return FaceModel.from_pretrained(repository / "weights_card" / "face_model").array("mean_shape").astype(float)


@pytest.fixture(scope="module")
def image():
    noise = np.random.default_rng(0).uniform(-1, 1, (SIZE, SIZE, 3)).astype(np.float32)
    return np.clip(128 + 700 * cv2.GaussianBlur(noise, (0, 0), 3), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def warp(image, shape):
    return MeshWarp(image, shape, similarity_from_pose(POSE, SIZE))


def moved(*change):
    """A pose, changed, for one frame."""
    return similarity_from_pose(POSE + np.pad(change, (0, 6 - len(change)))[None], SIZE)


def grid_of(warp, shape, similarity):
    target, origin = warp.points(shape[None], similarity)
    return warp.grid(target[0], origin[0]), target[0], origin[0]


def talking(shape, drop=0.25):
    """The jaw drops: what lies below the line between the lips goes down, less to the sides."""
    lower, upper = shape[INNER_LIPS[:11]], shape[INNER_LIPS[opposite_lid(INNER_LIPS)][:11]]
    between = np.interp(shape[:, 0], lower[:, 0], (lower[:, 1] + upper[:, 1]) / 2)
    sideways = np.clip(1 - (shape[:, 0] / shape[LEFT_MOUTH_CORNER, 0]) ** 2, 0, 1)
    opened = shape.copy()
    opened[:, 1] += drop * sideways * (shape[:, 1] > between + 1e-3)
    return opened


def with_lids(shape, closed):
    """The upper lids come down to the lower ones by a share; eyeballs stay."""
    changed = shape.copy()
    for loop in (RIGHT_EYE, LEFT_EYE):
        upper, lower = loop[9:], loop[opposite_lid(loop)][9:]
        changed[upper] += closed * (shape[lower] - shape[upper])
    return changed


def inside(loop_px):
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillPoly(canvas, [np.round((loop_px - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return canvas.astype(bool)


MOTIONS = [(0.35, 0, 0), (-0.3, 0.2, -0.15), (0.1, -0.25, 0.2, 0.15, -0.1, 0.8), (0, 0, 0, -0.2, 0.15, -1.5)]


def test_nothing_moves_at_the_sources_own_pose(warp, shape, image):
    grid, target, _ = grid_of(warp, shape, moved(0))
    away = np.abs(grid - IDENTITY).max(-1)
    openings = np.zeros((SIZE, SIZE), bool)
    for loop in (RIGHT_EYE, LEFT_EYE, INNER_LIPS):
        openings |= inside(target[loop, :2])
    openings = cv2.dilate(openings.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    assert away[~openings].max() < 1e-3
    assert away[openings].max() < 0.5  # a tenth of a lid's way: never a lash or a lip in an opening
    out = warp(shape[None], moved(0))[0]
    np.testing.assert_array_equal(out[~openings], image[~openings])


def test_source_points_are_where_the_source_has_them(warp, shape):
    np.testing.assert_allclose(warp.source_points[:NUM_VERTICES, :2], warp.similarity.place(shape)[:, :2], atol=1e-3)
    assert warp.source_points.shape == (NUM_POINTS, 3)


@pytest.mark.parametrize("motion", MOTIONS)
def test_border_of_the_crop_stays_while_the_head_moves(warp, shape, image, motion):
    out = warp(talking(shape)[None], moved(*motion))[0]
    assert (out != image).any(-1).mean() > 0.3
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        np.testing.assert_array_equal(out[edge], image[edge])
    grid = grid_of(warp, talking(shape), moved(*motion))[0]
    # Nor does a step lie just inside it: a seam in the pasted picture.
    assert np.abs(grid - IDENTITY)[1:3, :].max() < 3 and np.abs(grid - IDENTITY)[:, 1:3].max() < 3


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("expression", ["rest", "talking", "blinking"])
def test_no_pixel_is_left_without_an_origin(warp, shape, motion, expression):
    seen = {"rest": shape, "talking": talking(shape), "blinking": with_lids(shape, 1.0)}[expression]
    grid, target, origin = grid_of(warp, seen, moved(*motion))
    assert grid.dtype == np.float32 and np.isfinite(grid).all() and grid.min() >= 0 and grid.max() <= SIZE
    # What the triangles leave out is the corners and the outermost pixels.
    drawn = np.full((2, SIZE, SIZE), np.nan, np.float32)
    depth = np.full((SIZE, SIZE), np.finfo(np.float32).max, np.float32)
    rasterise(target, TRIANGLES, origin, drawn, depth)
    drawn = np.moveaxis(drawn, 0, -1)
    hole = np.isnan(drawn).any(-1)
    assert not hole[inside(target[OVAL, :2])].any()
    from_edge = SIZE / 2 - np.abs(IDENTITY - SIZE / 2)
    assert (from_edge[hole & (from_edge.min(-1) > 1)].sum(1) < 0.2 * SIZE).all()
    np.testing.assert_array_equal(grid[~hole], drawn[~hole])
    np.testing.assert_array_equal(grid[hole], IDENTITY[hole].astype(np.float32))


@pytest.mark.parametrize("yaw", [-0.6, 0.6])
def test_the_nose_hides_the_far_cheek(warp, shape, yaw):
    grid, target, origin = grid_of(warp, shape, moved(yaw))
    for vertex in NOSE[:8]:  # its ridge is nearest wherever the head looks
        x, y = target[vertex, :2].astype(int)
        assert np.linalg.norm(grid[y, x] - origin[vertex]) < 3, vertex


def test_the_face_lies_before_the_hair(warp, shape):
    target = warp.points(shape[None], moved(0.5, 0.2))[0][0]
    assert target[:NUM_VERTICES, 2].max() < target[NUM_VERTICES + 67 :, 2].min()


@pytest.mark.parametrize("vertex", [4, 50, 280, 152, 105, 17, 291, 10])
def test_a_painted_dot_goes_where_its_vertex_goes(shape, vertex):
    source = similarity_from_pose(POSE, SIZE)
    x, y = source.place(shape)[vertex, :2]
    dot = 255 * np.exp(-((IDENTITY[..., 0] - x) ** 2 + (IDENTITY[..., 1] - y) ** 2) / (2 * 1.5**2))
    painted = MeshWarp(np.repeat(dot[..., None], 3, -1).astype(np.uint8), shape, source)
    for seen, similarity in (
        (talking(shape), moved(0.2, -0.1, 0.1, 0.05, 0, -0.3)),
        (shape, moved(-0.15, 0.15, -0.2)),
    ):
        out = painted(seen[None], similarity)[0, ..., 0].astype(float)
        out[out < 60] = 0
        centre = (IDENTITY * out[..., None]).sum((0, 1)) / out.sum()
        assert np.linalg.norm(centre - similarity.place(seen[None])[0, vertex, :2]) < 1.5


def skin(placed):
    """Pixels well inside the face and off its openings; `(478, 3)` pixels to a mask."""
    face = cv2.erode(inside(placed[OVAL, :2]).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    for loop in (RIGHT_EYE, LEFT_EYE, INNER_LIPS):
        face &= ~cv2.dilate(inside(placed[loop, :2]).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    return face


def test_pure_translation_moves_the_face_as_it_is(warp, shape, image):
    source = warp.similarity
    right, down = 4, -3
    similarity = Similarity(
        source.scale[None], source.rotation[None], source.translation[None] + np.array([[right, down, 0]])
    )
    out = warp(shape[None], similarity)[0]
    face = skin(similarity.place(shape)[0])
    assert face.sum() > 3000
    np.testing.assert_array_equal(out[face], np.roll(image, (down, right), (0, 1))[face])


def test_rotation_in_the_picture_turns_the_face_as_it_is(warp, shape):
    turn = rotation_from_euler(np.array([0, 0, 0.2]))
    source = warp.similarity
    similarity = Similarity(source.scale[None], (turn @ source.rotation)[None], source.translation[None])
    grid = grid_of(warp, shape, similarity)[0]
    expected = (IDENTITY - source.translation[:2]) @ turn[:2, :2] + source.translation[:2]
    assert np.abs(grid - expected)[skin(similarity.place(shape)[0])].max() < 1e-3


@pytest.mark.parametrize("closed", [0.3, 0.6])
def test_a_lid_hides_the_eyeball_and_does_not_squash_it(warp, shape, closed):
    source = warp.similarity.place(shape)
    seen = with_lids(shape, closed)
    grid, target, _ = grid_of(warp, seen, moved(0))
    for loop in (RIGHT_EYE, LEFT_EYE):
        still_open = cv2.erode(inside(target[loop, :2]).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        assert still_open.sum() >= 5
        lid = np.abs(target[loop, 1] - source[loop, 1]).max()
        away = np.abs(grid - IDENTITY).max(-1)[still_open]
        assert np.median(away) < 0.15 * lid and away.max() < 0.6 * lid


@pytest.mark.parametrize("closed", [0.5, 1.0])
def test_lashes_come_down_as_they_are_and_the_skin_behind_them_unfolds(warp, shape, closed):
    source = warp.similarity
    grid, target, _ = grid_of(warp, with_lids(shape, closed), moved(0))
    for edge, crease in ((159, 27), (386, 257)):  # the middles of the upper lids
        up = target[crease, :2] - target[edge, :2]
        up /= np.linalg.norm(up)
        at = target[edge, :2] + np.array([0.6, 0.85])[:, None] * LASHES_WIDTH * source.scale * up
        (near, far), own = grid[tuple(at.astype(int).T[::-1])], source.place(shape)[edge, :2]
        for here, there in zip(at, (near, far), strict=True):
            assert abs(np.linalg.norm(here - target[edge, :2]) - np.linalg.norm(there - own)) < 0.75


def test_between_lids_that_are_nearly_shut_no_single_pixel_shines(shape):
    source = similarity_from_pose(POSE, SIZE)
    px = source.place(shape)[:, :2]
    face = np.full((SIZE, SIZE, 3), 60, np.uint8)
    for loop in (RIGHT_EYE, LEFT_EYE):
        face[inside(px[loop])] = 255
    seen = with_lids(shape, 0.85)
    out = MeshWarp(face, shape, source)(seen[None], moved(0))[0, ..., 0].astype(float)
    white = out > 200
    around = cv2.filter2D(white.astype(np.uint8), -1, np.ones((3, 3), np.uint8))
    assert not (white & (around < 3)).any()


def test_the_outline_of_the_head_hardly_moves_when_the_face_turns(warp, shape):
    rest, turned = (warp.points(shape[None], moved(yaw))[0][0] for yaw in (0, 0.35))
    away = np.linalg.norm((turned - rest)[..., :2], axis=-1)
    hair = away[NUM_VERTICES + 67 : NUM_VERTICES + 67 + len(OVAL)]
    assert away[FOREHEAD] > 10 and hair.max() < 0.5 * away[FOREHEAD]


def test_shut_lids_leave_nothing_of_the_eyeball(image, shape):
    source = similarity_from_pose(POSE, SIZE)
    px = source.place(shape)[:, :2]
    red = image.copy()
    red[...] = (0, 255, 0)
    for loop in (RIGHT_EYE, LEFT_EYE):
        cv2.fillPoly(red, [np.round((px[loop] - 0.5) * 16).astype(np.int32)], (255, 0, 0), shift=4)
    warp = MeshWarp(red, shape, source)
    before = (warp(shape[None], moved(0))[0, ..., 0] > 128).sum()
    after = (warp(with_lids(shape, 1.0)[None], moved(0))[0, ..., 0] > 128).sum()
    assert before > 30 and after < 0.35 * before  # what is left is the red rim of the lids


def test_gaze_moves_the_iris_with_its_vertices(warp, shape):
    looks = shape.copy()
    looks[RIGHT_IRIS : RIGHT_IRIS + 10, 0] += 0.06  # three pixels
    grid, target, origin = grid_of(warp, looks, moved(0))
    for iris in (RIGHT_IRIS, LEFT_IRIS):
        x, y = target[iris, :2].astype(int)
        assert target[iris, 0] - origin[iris, 0] > 2.5
        offset = target[iris, :2] - (x + 0.5, y + 0.5)  # of the vertex from the pixel's centre
        np.testing.assert_allclose(grid[y, x], origin[iris] - offset, atol=0.7)


def test_an_open_mouth_shows_what_is_behind_the_lips_and_no_stretched_lip(shape):
    # Lips red, everything else green: between lips that open beyond what the source shows there must be little red.
    source = similarity_from_pose(POSE, SIZE)
    opened = talking(shape, 0.1)
    px = source.place(opened)[:, :2]
    canvas = np.zeros((SIZE, SIZE, 3), np.uint8)
    canvas[..., 1] = 255
    for loop, colour in ((OUTER_LIPS, (255, 0, 0)), (INNER_LIPS, (0, 0, 255))):
        cv2.fillPoly(canvas, [np.round((px[loop] - 0.5) * 16).astype(np.int32)], colour, shift=4)
    warp = MeshWarp(canvas, opened, source)
    wider = talking(shape, 0.2)
    similarity = Similarity(*(part[None] for part in source))
    out = warp(wider[None], similarity)[0]
    mouth = cv2.erode(inside(source.place(wider)[INNER_LIPS, :2]).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(
        bool
    )
    assert mouth.sum() > 100
    assert (out[mouth][:, 2] > 128).mean() > 0.9


def test_lower_teeth_go_with_the_jaw_and_upper_teeth_with_the_skull(shape):
    opened, wider = talking(shape, 0.15), talking(shape, 0.2)
    source = similarity_from_pose(np.zeros(6), SIZE)
    warp = MeshWarp(np.zeros((SIZE, SIZE, 3), np.uint8), opened, source)
    grid = grid_of(warp, wider, Similarity(*(part[None] for part in source)))[0]
    jaw = 0.05 * source.scale
    top, bottom = (source.place(wider)[vertex, :2] for vertex in (UPPER_LIP, LOWER_LIP))
    x = int(top[0])
    for y, expected in ((int(top[1]) + 2, 0.0), (int(bottom[1]) - 2, jaw)):
        assert IDENTITY[y, x, 1] - grid[y, x, 1] == pytest.approx(expected, abs=1.2)


def test_frames_do_not_depend_on_each_other(warp, shape):
    shapes = np.stack([shape, talking(shape), with_lids(shape, 0.5)])
    poses = POSE + np.array([[0.1, 0, 0, 0, 0, 0], [0, 0.1, 0.1, 0, 0, 0], [0, 0, 0, 0.1, 0.1, 0.5]])
    together = warp(shapes, similarity_from_pose(poses, SIZE))
    assert together.shape == (3, SIZE, SIZE, 3) and together.dtype == np.uint8
    for i in range(3):
        np.testing.assert_array_equal(
            warp(shapes[i : i + 1], similarity_from_pose(poses[i : i + 1], SIZE))[0], together[i]
        )


def test_several_threads_may_draw_with_one_warp(image, shape):
    warp = MeshWarp(image, shape, similarity_from_pose(POSE, SIZE))  # nothing of it is prepared yet
    poses = POSE + np.random.default_rng(0).uniform(-0.2, 0.2, (12, 3, 6))
    jobs = [similarity_from_pose(pose, SIZE) for pose in poses]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: warp(np.repeat(talking(shape)[None], 3, 0), job), jobs))
    for drawn, job in zip(together, jobs, strict=True):
        np.testing.assert_array_equal(drawn, warp(np.repeat(talking(shape)[None], 3, 0), job))


def test_the_ring_of_hair_moves_with_the_head_the_halo_a_little_and_the_border_not(warp, shape):
    similarity = Similarity(
        warp.similarity.scale[None], warp.similarity.rotation[None], warp.similarity.translation[None] + [[4.0, 0, 0]]
    )
    target, origin = warp.points(shape[None], similarity)
    change = (target[..., :2] - origin)[0]
    rings = change[-3 * len(OVAL) :].reshape(3, len(OVAL), 2)
    assert pose_from_similarity(similarity, SIZE)[0, 3] > POSE[3]
    assert rings[0, 0, 0] == pytest.approx(4, abs=1e-6)  # above the forehead
    chin = list(OVAL).index(CHIN)
    assert 1 < rings[0, chin, 0] < 3  # the neck stays behind
    assert 0 < rings[1, 0, 0] < rings[0, 0, 0]
    assert np.abs(rings[2]).max() == 0


@pytest.mark.parametrize("side", [2.2, 2.6, 3.6])
def test_nothing_is_folded_away_around_the_face_of_a_tight_crop(image, shape, side):
    # A crop this many head units wide; a ring within the face would come out as a second chin.
    warp = MeshWarp(image, shape, similarity_from_pose(np.array([0, 0, 0, 0, 0, 10 * (side / 3.6 - 1)]), SIZE))
    a, b, c = np.moveaxis(warp.source_points[TRIANGLES[-6 * len(OVAL) :], :2], 1, 0)
    turn = np.linalg.det(np.stack([b - a, c - a], 1))
    assert (turn < 0).all() or (turn > 0).all()


@pytest.mark.integration
def test_a_rendered_head_is_measured_in_the_pose_it_was_given(repository):
    """The signs of docs/conventions.md, closed through the picture: warp a portrait, look at it again."""
    weights = repository / "weights_card"
    model = FaceModel.from_pretrained(weights / "face_model")
    picture = load_portrait(repository / "examples" / "portrait_astronaut.jpg")
    with FaceLandmarker(weights / "face_landmarker.task") as landmarker:
        landmarks = landmarker.detect(picture)[0]
        box = crop_box(landmarks, *picture.shape[:2])
        crop = extract(picture, box, 256)
        source = model.fit(to_crop(landmarks, box, 256), 256)
        warp = MeshWarp(crop, source.shape, source.similarity)
        change = np.diag([0.25, 0.2, 0.25, 0.15, 0.15, 1.5])
        frames = warp(np.repeat(source.shape[None], 6, 0), similarity_from_pose(source.head_pose + change, 256))
        seen = np.stack([model.fit(landmarker.detect(frame)[0], 256).head_pose for frame in frames]) - source.head_pose
    ratio = np.diag(seen) / np.diag(change)
    assert (ratio > 0.6).all() and (ratio < 1.3).all(), ratio
    # No other angle turns with it, but yaw and pitch a little: it is one picture, not a head.
    others = (seen - np.diag(np.diag(seen)))[:, :3]
    assert np.abs(others).max() < 0.12
