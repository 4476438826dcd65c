"""The network that tells people apart, with its shipped weights."""

import sys

import cv2
import numpy as np
import pytest
import torch

from osmnet.face.landmarker import FaceLandmarker
from osmnet.loading.packaged import packaged_landmarker
from osmnet.media.image import load_portrait
from osmnet.models.identity_network import ALIGNED, CHIP, IdentityNetwork, face_chip, load_identity_network


@pytest.fixture(scope="module")
def network() -> IdentityNetwork:
    return load_identity_network()


def test_a_chip_is_upright_and_the_same_whatever_the_size_of_the_face():
    picture = np.zeros((400, 400, 3), np.uint8)
    face = np.zeros((478, 3), np.float32)
    face[ALIGNED] = [(260, 150, 0), (220, 152, 0), (120, 150, 0), (160, 152, 0), (190, 225, 0)]
    for x, y, _ in face[ALIGNED]:
        cv2.circle(picture, (int(x), int(y)), 6, (255, 255, 255), -1)
    chip = face_chip(picture, face)
    assert chip.shape == (CHIP, CHIP, 3) and chip.dtype == np.uint8
    bright = chip[..., 0] > 60
    assert bright[:75].sum() > bright[75:].sum() > 0  # four corners of eyes above a nose
    half = face_chip(cv2.resize(picture, (200, 200), interpolation=cv2.INTER_AREA), face / 2)
    assert np.abs(half.astype(int) - chip).mean() < 3
    turned = np.ascontiguousarray(np.rot90(picture))
    moved = face.copy()
    moved[:, 0], moved[:, 1] = face[:, 1], 400 - face[:, 0]
    assert np.abs(face_chip(turned, moved).astype(int) - chip).mean() < 1


def test_gradients_reach_the_picture(network):
    chips = torch.zeros(1, 3, CHIP, CHIP, requires_grad=True)
    network(chips).square().sum().backward()
    assert chips.grad.abs().max() > 0


@pytest.mark.integration
def test_people_are_told_apart(network, repository):
    chips = []
    with FaceLandmarker(packaged_landmarker()) as landmarker:
        for name in ("astronaut", "hopper"):
            picture = load_portrait(repository / "examples" / f"portrait_{name}.jpg")
            face = landmarker.detect(picture)[0]
            dark = (0.6 * cv2.GaussianBlur(picture, (0, 0), 1)).astype(np.uint8)
            chips += [face_chip(picture, face), face_chip(dark, face)]
    described = network.describe(np.stack(chips))
    assert described.shape == (4, 128) and described.dtype == np.float32
    distance = np.linalg.norm(described[:, None] - described[None], axis=-1)
    assert max(distance[0, 1], distance[2, 3]) < 0.35 and distance[:2, 2:].min() > 0.6


@pytest.mark.slow
def test_the_weights_are_those_of_the_package(repository):
    """Downloads it with npm."""
    sys.path.insert(0, str(repository / "scripts"))
    import build_identity_network

    assert build_identity_network.main(["--check"]) == 0
