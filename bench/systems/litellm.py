"""The LiteLLM proxy at its best: one worker, and its cache in memory turned on for images, which by default it is not."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import peers
from bench.process import Process, free_port
from bench.system import MODEL, Running, System

MASTER_KEY = "sk-bench-master"
UPSTREAM_KEY = "sk-bench-upstream"
READY_SECONDS = 120.0

# The list of call types has no images; the check is by name alone, so that naming them turns their caching on.
CONFIGURATION = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: "http://127.0.0.1:{upstream_port}/v1"
      api_key: {upstream_key}
general_settings:
  master_key: {master_key}
litellm_settings:
  telemetry: false
  num_retries: 0
  request_timeout: 900
  cache: true
  cache_params:
    type: local
    ttl: 7200
    supported_call_types: [aimage_generation, image_generation]
"""

# Without them it asks the network, at its start, for prices and headers that it also has with it.
VARIABLES = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
}


@contextmanager
def start(folder: Path, upstream_port: int) -> Iterator[System]:
    litellm = peers.installed("litellm")
    port = free_port()
    filled = functools.partial(CONFIGURATION.format, model=MODEL, upstream_port=upstream_port)
    configuration = folder / "litellm.yaml"
    configuration.write_text(filled(master_key=MASTER_KEY, upstream_key=UPSTREAM_KEY))
    options = ["--config", str(configuration), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with Process(
        [*litellm.command, *options],
        port=port,
        log=folder / "litellm.log",
        variables=VARIABLES | {"HOME": str(folder)},
        ready_seconds=READY_SECONDS,
    ) as process:
        yield Running(
            name="litellm",
            version=litellm.version,
            port=port,
            pid=process.pid,
            began=process.began,
            headers=(f"authorization: Bearer {MASTER_KEY}",),
            coalesces=False,
            configuration={
                "litellm.yaml": filled(master_key="sk-***", upstream_key="sk-***"),
                "environment": "".join(f"{name}={value}\n" for name, value in VARIABLES.items()),
            },
        )
