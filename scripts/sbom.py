"""Write a software bill of materials (CycloneDX JSON) of the installed packages and the weights.

`python scripts/sbom.py --out sbom.json`, in the environment that it should describe; needs the extra `audit`.
`pip-audit -r requirements.txt` compares the packages with known vulnerabilities; it asks the network.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6

import osmnet
from osmnet.loading.packaged import LANDMARKER_NAME, packaged_weights

WEIGHTS_LICENSE = "osmnet weights: non-commercial research, see weights_card/LICENSE"


def weights(folder: Path) -> list[Component]:
    """Every file of weights, with its SHA-256 and licence."""
    found = []
    for path in sorted([*folder.rglob("*.safetensors"), folder / LANDMARKER_NAME]):
        name = path.relative_to(folder).as_posix()
        apache, own = DisjunctiveLicense(id="Apache-2.0"), DisjunctiveLicense(name=WEIGHTS_LICENSE)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found.append(
            Component(
                type=ComponentType.MACHINE_LEARNING_MODEL,
                name=name,
                bom_ref=f"weights/{name}",
                version=osmnet.__version__,
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
                licenses=[apache if name == LANDMARKER_NAME else own],
            )
        )
    return found


def packages() -> Bom:
    """The packages of this environment."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--no-validate", "--of", "JSON", sys.executable]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    bom: Bom = Bom.from_json(json.loads(done.stdout))  # type: ignore[attr-defined]
    return bom


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    out: Path = parser.parse_args().out
    bom = packages()
    bom.components.update(weights(packaged_weights()))
    out.write_text(JsonV1Dot6(bom).output_as_string(indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
