"""The package as it is installed: lazy names, version, what is in the repository and in the wheel."""

import ast
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata

import numpy as np
import pytest

import osmnet

HEAVY = ("torch", "diffusers", "numpy", "scipy", "mediapipe", "cv2", "librosa", "numba", "av", "matplotlib", "gradio")


@pytest.fixture(scope="module")
def project(repository):
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def build_landmarker(repository):
    spec = importlib.util.spec_from_file_location("build_landmarker", repository / "scripts" / "build_landmarker.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_python(code, environment):
    command = [sys.executable, "-P", "-c", code]  # -P: not the package that lies in the working folder
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_import_is_lazy(subprocess_environment):
    code = "import sys, osmnet, osmnet.cli.generate; osmnet.cli.generate.build_parser(); print(' '.join(sys.modules))"
    loaded = set(run_python(code, subprocess_environment).split())
    assert "osmnet.cli.generate" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_every_public_name_loads():
    for name in osmnet.__all__:
        assert getattr(osmnet, name) is not None
        assert name in dir(osmnet)
    assert osmnet.MotionSpace.__module__ == "osmnet.models.osm_net.motion_space"
    with pytest.raises(AttributeError, match="'osmnet' has no attribute 'Nothing'"):
        osmnet.Nothing  # noqa: B018


def test_type_checkers_see_the_names_that_exist_at_run_time(repository):
    tree = ast.parse((repository / "osmnet" / "__init__.py").read_text(encoding="utf-8"))
    imported = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("osmnet.")
        for alias in node.names
    }
    assert imported == osmnet._MODULE_OF_NAME
    assert set(osmnet.__all__) == set(imported) | {"__version__"}


def test_version_is_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", osmnet.__version__)


def test_nothing_in_the_package_imports_the_demo_or_training_above_itself(repository):
    for path in (repository / "osmnet").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not any(module.split(".")[0] == "gradio" for module in modules), path
        places_networks = path.parts[-2:] == ("loading", "pipeline.py")
        if "training" not in path.relative_to(repository).parts and not places_networks:
            assert not any(module.split(".")[0] == "accelerate" for module in modules), path
        if "models" in path.relative_to(repository).parts:
            assert not any(module.startswith(("osmnet.data", "osmnet.training")) for module in modules), path


def test_what_the_package_imports_is_required(repository, project):
    extras = project["project"]["optional-dependencies"]
    requirements = project["project"]["dependencies"] + extras["train"] + extras["scale"]
    names = [re.match(r"[\w-]+", text)[0] for text in requirements]
    required = {name.lower().replace("_", "-") for name in names}
    distributions = metadata.packages_distributions()
    for path in (repository / "osmnet").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            for module in {module.split(".")[0] for module in modules} - sys.stdlib_module_names - {"osmnet"}:
                sources = {name.lower().replace("_", "-") for name in distributions.get(module, [module])}
                assert sources & required, f"{path.name} imports {module}, which pyproject.toml does not ask for"


def test_requirements_are_those_of_the_project_and_the_demo(repository, project):
    lines = (repository / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["demo"]
    assert [line for line in lines if line and not line.startswith("#")] == wanted


def test_every_requirement_has_an_upper_bound(project):
    extras = project["project"]["optional-dependencies"]
    for requirement in project["project"]["dependencies"] + sum(extras.values(), []):
        if not requirement.startswith(("osmnet[", "packaging")):  # packaging's versions are years
            assert "<" in requirement, requirement


def test_ci_runs_the_command_of_the_readme(repository):
    command = (repository / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert command.endswith(".venv/bin/pytest -n 2 -m 'not slow'")
    assert command in (repository / "README.md").read_text(encoding="utf-8").splitlines()


def test_landmarker_bundle_is_aligned_and_holds_the_pinned_detector(repository, build_landmarker):
    bundle = repository / "weights_card" / "face_landmarker.task"
    content = bundle.read_bytes()
    with zipfile.ZipFile(bundle) as archive:
        assert archive.namelist() == ["face_detector.tflite", "face_landmarks_detector.tflite"]
        for entry in archive.infolist():
            member = archive.read(entry)
            assert content.index(member) % 64 == 0  # stored as it is, where it can be used without a copy
            assert member[4:8] == b"TFL3"
        detector = hashlib.sha256(archive.read("face_detector.tflite")).hexdigest()
    assert detector == build_landmarker.SHA256[build_landmarker.DETECTOR]


def test_gather_takes_refined_points_where_there_are_any(repository, build_landmarker):
    refinement = json.loads((repository / "scripts" / "landmark_refinement.json").read_text(encoding="utf-8"))
    indices = build_landmarker.gather_indices(refinement)
    num_values = sum(size for _, size, _ in build_landmarker.PARTS)
    assert indices.shape == (478, 3) and indices.min() >= 0 and indices.max() < num_values
    refined = {vertex for part in refinement.values() for vertex in part}
    assert {468 + i for i in range(10)} <= refined  # irises exist in the refined outputs only
    unrefined = np.array(sorted(set(range(468)) - refined))
    np.testing.assert_array_equal(indices[unrefined], unrefined[:, None] * 3 + np.arange(3))
    assert all((indices[vertex, :2] >= 1404).all() for vertex in refined)
    np.testing.assert_array_equal(indices[:468, 2], np.arange(468) * 3 + 2)  # depth is the mesh's
    np.testing.assert_array_equal(indices[refinement["left_iris"], 2], 145 * 3 + 2)


def test_wrong_wheel_is_refused_and_nothing_is_left(tmp_path, build_landmarker, capsys):
    wheel = tmp_path / "mediapipe-0.10.21.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in build_landmarker.SHA256:
            archive.writestr(path, b"another network")
    output = tmp_path / "out" / "face_landmarker.task"
    output.parent.mkdir()
    assert build_landmarker.main(["--wheel", str(wheel), "--output", str(output)]) == 2
    assert "has SHA-256" in capsys.readouterr().err
    wheel.write_bytes(b"no zip")
    assert build_landmarker.main(["--wheel", str(wheel), "--output", str(output)]) == 2
    assert "is no readable wheel" in capsys.readouterr().err
    assert list(output.parent.iterdir()) == []


@pytest.mark.slow
def test_landmarker_bundle_is_built_again_byte_for_byte(repository, build_landmarker, tmp_path):
    try:
        wheel = build_landmarker.download_wheel(tmp_path)
    except ValueError as error:
        pytest.skip(str(error))
    bundle = build_landmarker.build_bundle(wheel)
    assert bundle == (repository / "weights_card" / "face_landmarker.task").read_bytes()
