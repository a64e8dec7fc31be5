"""What `make run` starts, as a newcomer meets it: a miss, a hit, a picture, and a clean end."""

import io
import json
from base64 import b64decode
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.support.caller import ask
from tests.support.polling import eventually
from tests.support.process import Proxy


@pytest.mark.parametrize("leave", ["interrupt", "terminate"])
def test_a_miss_becomes_a_hit_and_nothing_is_left_running(tmp_path: Path, leave: str) -> None:
    config = tmp_path / "imagegate.toml"
    config.write_text('[cache]\ndirectory = "cache"\nmin_free_bytes = "1MB"\n')
    proxy = Proxy("--with-sandbox", "--port", "0", "--config", str(config), log=tmp_path / "imagegate.log")
    children = proxy.children()
    try:
        assert children, "the sandbox paints in a process of its own"
        no_key: dict[str, str | None] = {"authorization": None}
        miss = ask(proxy, "A lighthouse in a storm, oil on canvas", headers=no_key)
        hit = ask(proxy, "A lighthouse in a storm, oil on canvas", headers=no_key)
        assert (miss.status, miss.cache, hit.cache) == (200, "MISS", "HIT")
        assert miss.body == hit.body
        picture = Image.open(io.BytesIO(b64decode(json.loads(hit.body)["data"][0]["b64_json"])))
        picture.load()
        assert (picture.format, picture.size) == ("PNG", (1024, 1024))
        assert proxy.metric("imagegate_purchases_total", outcome="bought") == 1
        getattr(proxy, leave)()
        assert proxy.wait(15) == 0
        _, alive = psutil.wait_procs(children, timeout=5)
        assert alive == []
    finally:
        proxy.kill()
        for child in children:
            if child.is_running():
                child.kill()
    text = proxy.log_text()
    assert "curl" in text and "/metrics" in text, "a newcomer is told what to type"
    assert "Traceback" not in text


@pytest.mark.parametrize("way", ["kill -9", "a second signal"])
def test_the_sandbox_does_not_outlive_its_proxy(tmp_path: Path, way: str) -> None:
    config = tmp_path / "imagegate.toml"
    config.write_text('[server]\ndrain_delay_seconds = 60\n[cache]\ndirectory = "cache"\nmin_free_bytes = "1MB"\n')
    proxy = Proxy("--with-sandbox", "--port", "0", "--config", str(config), log=tmp_path / "imagegate.log")
    children = proxy.children()
    try:
        assert children
        if way == "a second signal":
            proxy.terminate()
            eventually(lambda: proxy.get("/readyz")[0] == 503)
            proxy.terminate()
            proxy.wait(5)
        proxy.kill()
        _, alive = psutil.wait_procs(children, timeout=5)
        assert alive == []
    finally:
        proxy.kill()
        for child in children:
            if child.is_running():
                child.kill()
