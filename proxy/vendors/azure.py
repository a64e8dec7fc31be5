"""Azure OpenAI: the same language, at two kinds of addresses, with another header for the key.

Source: MicrosoftDocs/azure-ai-docs, how-to/dall-e.md and api-version-lifecycle; npm @ai-sdk/azure 3.0.128 (2026-11).
"""

from urllib.parse import quote

from proxy.errors import UnsupportedByModel
from proxy.model import Operation
from proxy.settings import UpstreamSection
from proxy.vendors.profile import Vendor, path

V1_VERSION = "preview"
DEPLOYMENTS_VERSION = "2025-04-01-preview"
_SHOWN_CHARACTERS = 200


def target(section: UpstreamSection, operation: Operation, model: str) -> str:
    """A base that ends in `/v1` takes the model in the body; any other names the deployment in the path."""
    base = section.base_url.rstrip("/")
    if base.lower().endswith("/v1"):
        return f"{base}/{path(operation)}?api-version={_version(section, V1_VERSION)}"
    if not base.lower().endswith("/openai"):
        base += "/openai"
    version = _version(section, DEPLOYMENTS_VERSION)
    return f"{base}/deployments/{_segment(model)}/{path(operation)}?api-version={version}"


def key_header(key: str) -> tuple[str, str]:
    return "api-key", key


def _version(section: UpstreamSection, default: str) -> str:
    return quote(section.api_version or default, safe="")


def _segment(model: str) -> str:
    """The deployment as one segment of a path.

    Dots survive percent-encoding: clients, gateways and servers read `..` as a step up (RFC 3986 §5.2.4), some of them
    after they have decoded `%2F`, and the rest of our path would then mean something else.
    """
    if not {"", ".", ".."}.isdisjoint(model.replace("\\", "/").split("/")):
        shown = model if len(model) <= _SHOWN_CHARACTERS else model[:_SHOWN_CHARACTERS] + "…"
        raise UnsupportedByModel(f"The model '{shown}' does not exist.", param="model", code="invalid_value")
    return quote(model, safe="", errors="surrogatepass")


# Its documentation knows edits as multipart only.
AZURE = Vendor(target=target, key_header=key_header, edits_in_json=False)
