"""nginx and Envoy with the configurations of deploy/, in front of servers on free ports."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from orpheus.http.process import free_port
from orpheus.ops.child import ChildServer, wait_until_healthy

ROOT = Path(__file__).parents[2]
START_S = 20.0
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
CONFIGURATION = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
worker_processes 2;
events {{ worker_connections 1024; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {site}
}}
"""


def site(name: str, servers: Sequence[str], port: int) -> str:
    """A file of deploy/nginx that listens on `port` in front of `servers`, "host:port" each; nothing else differs."""
    text = (ROOT / "deploy/nginx" / name).read_text()
    text, count = re.subn(
        r"(?: +server \S+:\d+( max_fails\S*.*;)\n)+",
        lambda found: "".join(f"    server {server}{found[1]}\n" for server in servers),
        text,
    )
    assert count
    text, count = re.subn(r"(listen) [\d.]+:\d+;", rf"\1 127.0.0.1:{port};", text)
    assert count == 1
    return text


@contextlib.contextmanager
def running_nginx(
    folder: Path, name: str, servers: Sequence[str], instead: Mapping[str, str] = {}
) -> Iterator[str]:
    """Its URL. `instead`: words of the file, and what stands there here."""
    port = free_port()
    text = site(name, servers, port)
    for written, other in instead.items():
        assert written in text
        text = text.replace(written, other)
    (folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder, site=text))
    program, log = NGINX or "nginx", str(folder / "error.log")
    with _running([program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", log], port) as url:
        yield url


@contextlib.contextmanager
def running_envoy(folder: Path, servers: Sequence[str]) -> Iterator[str]:
    """Its URL."""
    configuration = yaml.safe_load((ROOT / "deploy/envoy/llama.yaml").read_text())
    port = free_port()
    (listener,), (cluster,) = (configuration["static_resources"][name] for name in ("listeners", "clusters"))
    listener["address"]["socket_address"] |= {"address": "127.0.0.1", "port_value": port}
    configuration["admin"]["address"]["socket_address"]["port_value"] = free_port()
    (endpoints,) = cluster["load_assignment"]["endpoints"]
    endpoints["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(number)}}}}
        for host, number in (server.split(":") for server in servers)
    ]
    (folder / "envoy.yaml").write_text(yaml.safe_dump(configuration))
    log = folder / "envoy.log"
    program = Path(sys.executable).with_name("envoy")
    words = [str(program), "-c", str(folder / "envoy.yaml"), "--log-path", str(log), "--use-dynamic-base-id"]
    with _running([*words, "--concurrency", "2"], port) as url:
        yield url


@contextlib.contextmanager
def _running(words: list[str], port: int) -> Iterator[str]:
    """Once the servers behind it answer."""
    with ChildServer(Path(words[0]).name, words, f"http://127.0.0.1:{port}", capture=True) as balancer:
        wait_until_healthy([balancer], START_S)
        yield balancer.url
