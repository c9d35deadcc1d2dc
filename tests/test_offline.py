"""Nothing is fetched when modules are imported, or by tests."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

IMPORT_ALL = """
import importlib, pkgutil, socket, sys
sys.path.insert(0, "tests")
import offline

offline._is_here = lambda host: False  # not even this machine
offline.stay_offline()
for package in ("jaxdet", "converters"):
    for module in pkgutil.walk_packages([package], package + "."):
        importlib.import_module(module.name)
        print(module.name)
try:
    socket.create_connection(("127.0.0.1", 9))
except AssertionError:
    print("refused")
"""


def test_every_module_is_imported_without_a_connection():
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    *modules, last = result.stdout.split()
    assert last == "refused"
    folders = ("jaxdet", "jaxdet/configs", "converters")  # the second is a link
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    packages = {name.removesuffix(".__init__") for name in names if name.endswith(".__init__")}
    everything = {name for name in names if not name.endswith(".__init__")} | packages
    assert set(modules) == everything - {"jaxdet", "converters"}


# Addresses that documentation may use and nobody has.
@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("2001:db8::1", 80), ("example.org", 80)])
def test_tests_cannot_leave_this_machine(address):
    with pytest.raises(AssertionError, match="tests run offline"):
        socket.create_connection(address, timeout=1)


def test_nor_can_their_datagrams():
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as talker,
        pytest.raises(AssertionError, match="tests run offline"),
    ):
        talker.sendto(b"?", ("192.0.2.1", 80))


def test_tests_reach_servers_of_their_own(tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(("localhost", server.getsockname()[1]), timeout=5),
    ):
        pass
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))
