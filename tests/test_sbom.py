"""The bill of materials."""

import hashlib
import json
import subprocess
import sys

import pytest

pytest.importorskip("cyclonedx_py", reason="needs the extra 'audit'")
pytestmark = pytest.mark.integration


def test_the_bill_of_materials_is_valid_and_names_packages_and_weights(tmp_path, repository, subprocess_environment):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    out = tmp_path / "sbom.json"
    command = [sys.executable, repository / "scripts" / "sbom.py", "--out", out]
    subprocess.run(command, env=subprocess_environment, check=True)
    text = out.read_text("utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = {each["name"]: each for each in json.loads(text)["components"]}
    assert {"torch", "av", "pillow", "gradio"} <= components.keys() and components["torch"]["version"]
    files = sorted((repository / "weights_card").rglob("*.safetensors"))
    assert len(files) > 10
    for path in (*files, repository / "weights_card" / "face_landmarker.task"):
        component = components[path.relative_to(repository / "weights_card").as_posix()]
        assert component["type"] == "machine-learning-model" and component["licenses"]
        assert component["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}]
