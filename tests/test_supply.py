"""The pinned versions are those of the requirements."""

import configparser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def test_constraints_pin_every_requirement_within_its_bound():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    wanted = setup["options"]["install_requires"] + extras["test"] + extras["dev"]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    versions = {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}
    assert all(exact.startswith("==") and "," not in exact for exact in versions.values())
    for line in wanted.strip().splitlines():
        need = Requirement(line)
        pinned = versions[canonicalize_name(need.name)].removeprefix("==")
        assert pinned in need.specifier, line
        # .ci/oldest tests the bound, which must therefore be one version's number.
        assert [bound.operator for bound in need.specifier] == [">="], line
