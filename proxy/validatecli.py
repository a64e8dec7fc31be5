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
    from proxy.model import ImageRequest


def add_validate(commands: Any) -> None:
    validate = add_command(
        commands, "validate", _validate, "judge a request body as the model would, without sending it"
    )
    validate.epilog = """example: echo '{"model": "gpt-image-2", "prompt": "a fox"}' | imagegate validate -"""
    validate.add_argument("file", nargs="?", default="-", metavar="FILE", help="the JSON body; - is standard input")
    validate.add_argument("--vendor", help="whose rules apply (default: those of the upstream that would serve it)")
    add_json(validate)


def _validate(options: Options) -> int:
    settings = settings_of(options, needs_secrets=False)
    try:
        request = _believe(_body(options.file, settings.server.max_json_bytes), settings, options.vendor)
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


def _believe(body: bytes, settings: Settings, vendor: str | None) -> "ImageRequest":
    """The request as the upstream that would serve it judges it. Raises RequestError."""
    from proxy import catalogue, strictjson, validation
    from proxy.model import Operation
    from proxy.routing import eligible

    validator = validation.Validator(catalogue.load(settings.rules.catalogue), settings.rules)
    vendors = validator.catalogue.vendors
    if vendor and vendor not in vendors:
        raise ConfigurationError([f"--vendor: {vendor!r} is not in the catalogue ({', '.join(vendors)})"])
    document = strictjson.parse_object(body)
    if vendor is None:
        vendor = eligible(settings.upstreams, validator.model_of(document))[0].vendor
    return validator.validate(document, Operation.GENERATION, vendor)


def _body(file: str, most: int) -> bytes:
    if file == "-":
        body = sys.stdin.buffer.read(most + 1)
    else:
        try:
            with Path(file).open("rb") as opened:
                body = opened.read(most + 1)
        except OSError as error:
            raise ConfigurationError([f"{file}: cannot be read: {error.strerror}"]) from error
    if len(body) > most:
        raise PayloadTooLarge(f"The request body is larger than server.max_json_bytes ({most} bytes).")
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
