"""nginx as a cache of POST requests: one worker, and every directive that helps it here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import peers
from bench.process import Process, free_port
from bench.system import Running, System

CONFIGURATION = """\
daemon off;
master_process on;
worker_processes 1;
{user}pid {folder}/nginx.pid;
error_log {folder}/nginx.err warn;

events {{
    worker_connections 4096;
}}

http {{
    # Every system is measured with its log of requests on, as far as it has one.
    access_log {folder}/access.log combined buffer=64k;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_timeout 120s;
    keepalive_requests 1000000000;
    open_file_cache max=4096 inactive=60s;

    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache levels=1:2 keys_zone=images:64m max_size=8g inactive=2h use_temp_path=off;

    upstream images {{
        server 127.0.0.1:{upstream_port};
        keepalive 128;
    }}

    server {{
        listen 127.0.0.1:{port} backlog=4096;
        # A body that went to a file would be missing in the key: none does, and none is larger.
        client_max_body_size 1m;
        client_body_buffer_size 1m;
        client_body_in_single_buffer on;

        location / {{
            proxy_pass http://images;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_read_timeout 900s;
            proxy_buffering on;
            proxy_buffer_size 64k;
            proxy_buffers 32 64k;
            proxy_busy_buffers_size 256k;
            proxy_max_temp_file_size 1024m;

            proxy_cache images;
            proxy_cache_methods POST;
            proxy_cache_key "$uri|$http_authorization|$request_body";
            proxy_cache_valid 200 2h;
            # Equal requests at the same time wait for one call, and a reply is kept whose caller has left.
            proxy_cache_lock on;
            proxy_cache_lock_timeout 900s;
            proxy_cache_lock_age 900s;
            proxy_ignore_client_abort on;
            add_header X-Cache $upstream_cache_status;
        }}
    }}
}}
"""


@contextmanager
def start(folder: Path, upstream_port: int) -> Iterator[System]:
    nginx = peers.installed("nginx")
    port = free_port()
    # Root's worker would be another user, who may not look into a folder that is private to root.
    user = "user root;\n" if os.geteuid() == 0 else ""
    text = CONFIGURATION.format(folder=folder, port=port, upstream_port=upstream_port, user=user)
    configuration = folder / "nginx.conf"
    configuration.write_text(text)
    command = [*nginx.command, "-p", str(folder), "-e", str(folder / "nginx.err"), "-c", str(configuration)]
    with Process(command, port=port, log=folder / "nginx.log") as process:
        yield Running(
            name="nginx",
            version=nginx.version,
            port=port,
            pid=process.pid,
            began=process.began,
            headers=("authorization: Bearer sk-bench",),
            configuration={"nginx.conf": text.replace(str(folder), "FOLDER")},
        )
