"""`imagegate validate`: judges a request body as the model would, without sending it."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.command import DONE, FAILED, Options, add_command, add_json, settings_of
from proxy.errors import ConfigurationError, PayloadTooLarge, RequestError
from proxy.money import dollars, estimated_cost
from proxy.printing import complain, print_json, print_pairs
from proxy.settings import Settings

if TYPE_CHECKING:
    from proxy.model import Document, ImageRequest, InputImage
    from proxy.uploads.editjson import Inline


def add_validate(commands: Any) -> None:
    validate = add_command(
        commands, "validate", _validate, "judge a request body as the model would, without sending it"
    )
    validate.epilog = """example: echo '{"model": "gpt-image-2", "prompt": "a fox"}' | imagegate validate -"""
    validate.add_argument("file", nargs="?", default="-", metavar="FILE", help="the JSON body; - is standard input")
    validate.add_argument(
        "--edits", action="store_true", help="the body is one for /v1/images/edits, as JSON: its pictures in `images`"
    )
    validate.add_argument("--vendor", help="whose rules apply (default: those of the upstream that would serve it)")
    add_json(validate)


def _validate(options: Options) -> int:
    settings = settings_of(options, needs_secrets=False)
    try:
        request = _believe(_document(options, settings), settings, options)
    except RequestError as error:
        print_json(error.body())
        return complain(FAILED, f"refused with {error.status}: {error.message}")
    found = _findings(request)
    if options.json:
        print_json(found)
        return DONE
    unknown = "unknown"
    output, cost = found["estimated_output_tokens"], found["estimated_cost_usd"]
    lines = {
        "model": f"{request.model} at {request.vendor}" + ("" if request.known else ", not in the catalogue"),
        "request": request.canonical.decode(),
        "tokens": unknown
        if output is None
        else f"about {output:,} out, at most {found['estimated_input_tokens']:,} in",
        "price": unknown if cost is None else f"about ${cost}",
        "adjusted": "; ".join(request.adjusted),
        "let through": "; ".join(f"{param} ({code})" for param, code in request.violations),
    }
    print_pairs({name: line for name, line in lines.items() if line})
    return DONE


def _document(options: Options, settings: Settings) -> "Document":
    """The body as the proxy reads it. Raises RequestError."""
    from proxy import strictjson
    from proxy.model import Document

    setting = "max_edit_json_bytes" if options.edits else "max_json_bytes"
    body = _body(options.file, setting, getattr(settings.server, setting))
    return _edit(body, settings) if options.edits else Document(strictjson.parse_object(body))


def _edit(body: bytes, settings: Settings) -> "Document":
    from proxy import pictures
    from proxy.model import Document
    from proxy.uploads import editjson

    text_bytes = settings.server.max_json_bytes
    outline = editjson.outline(memoryview(body), max_text_bytes=text_bytes, max_pictures=pictures.MOST_IMAGES)
    *images, mask = (
        _picture(body, each) if isinstance(each, editjson.Inline) else each
        for each in (*(outline.images or ()), outline.mask)
    )
    return Document(outline.fields, None if outline.images is None else tuple(images), mask)


def _picture(body: bytes, inline: "Inline") -> "InputImage":
    import hashlib

    from proxy.model import InputImage
    from proxy.stores.body import MemoryBody
    from proxy.uploads import editjson, imagehead
    from proxy.uploads.dataurl import DataUrlDecoder

    decoder = DataUrlDecoder(escaped=inline.escaped)
    try:
        content = decoder.feed((body if inline.text is None else inline.text)[inline.start : inline.stop], last=True)
    except ValueError:
        raise editjson.bad_data_url(inline.where, "an invalid base64-encoded value") from None
    head = imagehead.look(lambda start, stop: content[start:stop])
    return InputImage(
        media_type=decoder.media_type,
        sha256=hashlib.sha256(content).hexdigest(),
        body=MemoryBody(content),
        found_type=head.media_type,
        width=head.width,
        height=head.height,
        has_alpha=head.has_alpha,
    )


def _believe(document: "Document", settings: Settings, options: Options) -> "ImageRequest":
    """The request as the upstream that would serve it judges it. Raises RequestError."""
    from proxy import catalogue, validation
    from proxy.model import Operation
    from proxy.routing import eligible

    validator = validation.Validator(catalogue.load(settings.rules.catalogue), settings.rules)
    vendor, vendors = options.vendor, validator.catalogue.vendors
    if vendor and vendor not in vendors:
        raise ConfigurationError([f"--vendor: {vendor!r} is not in the catalogue ({', '.join(vendors)})"])
    if vendor is None:
        vendor = eligible(settings.upstreams, validator.model_of(document))[0].vendor
    return validator.validate(document, Operation.EDIT if options.edits else Operation.GENERATION, vendor)


def _body(file: str, setting: str, most: int) -> bytes:
    if file == "-":
        body = sys.stdin.buffer.read(most + 1)
    else:
        try:
            with Path(file).open("rb") as opened:
                body = opened.read(most + 1)
        except OSError as error:
            raise ConfigurationError([f"{file}: cannot be read: {error.strerror}"]) from error
    if len(body) > most:
        raise PayloadTooLarge(f"The request body is larger than server.{setting} ({most} bytes).")
    return body


def _findings(request: "ImageRequest") -> dict[str, Any]:
    """In the words of a dry run (`X-Imagegate-Dry-Run`)."""
    usage, cost = request.estimate, estimated_cost(request)
    return {
        "vendor": request.vendor,
        "model": request.model,
        "known": request.known,
        "request": json.loads(request.canonical),
        "estimated_input_tokens": usage.text_in + usage.image_in if usage else None,
        "estimated_output_tokens": usage.text_out + usage.image_out if usage else None,
        "estimated_cost_usd": None if cost is None else dollars(cost),
        "adjusted": list(request.adjusted),
        "violations": [{"param": param, "code": code} for param, code in request.violations],
    }
