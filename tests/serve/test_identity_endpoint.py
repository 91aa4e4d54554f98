"""`nanochat data identity` through our own server, whose random model writes nothing usable."""

import pytest

from nanochat.cli.identity import IdentityConfig, run_identity
from nanochat.errors import EnvironmentFault
from nanochat.paths import Paths
from tests.serve.conftest import CHAT, Running

pytestmark = pytest.mark.slow


def test_our_own_server_is_such_an_endpoint(server: Running, paths: Paths) -> None:
    offline = run_identity(IdentityConfig(conversations=3), paths).out.read_text()
    config = IdentityConfig(conversations=3, api_base=f"{server.url}/v1", model=CHAT)
    result = run_identity(config, paths)
    assert result.written_by_endpoint > 3
    assert result.kept == 0 or result.out.read_text() != offline


def test_its_errors_are_passed_on(server: Running, paths: Paths) -> None:
    with pytest.raises(EnvironmentFault, match=r"answers 404: .*nobody"):
        run_identity(IdentityConfig(api_base=f"{server.url}/v1", model="nobody"), paths)
    assert not paths.identity.exists()
