"""The Portkey gateway: what to do with a request travels in its headers, caching too."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import peers
from bench.process import Process, free_port
from bench.system import Running, System

# It has no option for the address to listen on; as it is, other machines could send requests through it.
LOOPBACK = """\
const { Server } = require("net");
const listen = Server.prototype.listen;
Server.prototype.listen = function (port, host, ready) {
  return listen.call(this, port, "127.0.0.1", ready);
};
"""


@contextmanager
def start(folder: Path, upstream_port: int) -> Iterator[System]:
    portkey = peers.installed("portkey")
    port = free_port()
    headers = (
        "x-portkey-provider: openai",
        f"x-portkey-custom-host: http://127.0.0.1:{upstream_port}/v1",
        f"x-portkey-config: {json.dumps({'cache': {'mode': 'simple'}}, separators=(',', ':'))}",
        "authorization: Bearer sk-bench",
    )
    loopback = folder / "loopback.cjs"
    loopback.write_text(LOOPBACK)
    node, script = portkey.command
    command = [node, "--require", str(loopback), script, "--headless", f"--port={port}"]
    # The cache it is asked for is not in the open gateway: it answers x-portkey-cache-status: DISABLED.
    with Process(command, port=port, log=folder / "portkey.log", variables={"HOME": str(folder)}) as process:
        yield Running(
            name="portkey",
            version=portkey.version,
            port=port,
            pid=process.pid,
            began=process.began,
            headers=headers,
            caches=False,
            coalesces=False,
            configuration={
                "command line": "node --require ./loopback.cjs build/start-server.js --headless --port=PORT\n",
                "loopback.cjs": LOOPBACK,
                "headers": "".join(f"{header}\n" for header in headers[:-1]) + "authorization: Bearer sk-***\n",
            },
        )
