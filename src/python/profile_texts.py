"""What the folder of a model says in its texts: configuration and chat template. None of it is trusted."""

import hashlib
import json
import os
import re

LARGEST_CONFIG = 16 << 20
LARGEST_TEMPLATE = 2 << 20
MOST_TEMPLATES = 16
DEEPEST = 64
MOST_LAYERS = 4096
LARGEST_NUMBER = 1 << 48
LAYER_COUNTS = re.compile(r"(^|_)(n|num|number)_?(of_)?(hidden_|decoder_|transformer_)?(layers?|blocks)$")


class Refused(Exception):
    """Becomes the document's error: a kind and one sentence."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind, self.message = kind, message


def first_line(error):
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def read_text(path, largest):
    try:
        with open(path, "rb") as file:
            data = file.read(largest + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused("config", f"{os.path.basename(path)} cannot be read: {error.strerror}") from None
    if len(data) > largest:
        raise Refused("config", f"{os.path.basename(path)} is larger than {largest >> 20} MiB")
    return data


def parse(name, data):
    try:
        return json.loads(data)
    except RecursionError:
        raise Refused("config", f"{name} is nested more than {DEEPEST} levels deep") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise Refused("config", f"{name} is not valid JSON: {error}") from None


def check_bounds(config):
    """Refuses numbers, nesting and counts beyond any model's, before anything is built from them."""
    if not isinstance(config, dict):
        raise Refused("config", "config.json is not a JSON object")
    pending = [(config, "", 1)]
    while pending:
        value, at, depth = pending.pop()
        if depth > DEEPEST:
            raise Refused("config", f"config.json is nested more than {DEEPEST} levels deep")
        if isinstance(value, dict):
            pending.extend((inner, str(key), depth + 1) for key, inner in value.items())
        elif isinstance(value, list):
            pending.extend((inner, at, depth + 1) for inner in value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            if LAYER_COUNTS.search(at.lower()) and not 0 <= value <= MOST_LAYERS:
                raise Refused("config", f"{at}: {value} is out of range (0 to {MOST_LAYERS})")
            if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
                raise Refused("config", f"{at}: {value} is out of range (up to {LARGEST_NUMBER})")


def read_config(folder):
    data = read_text(os.path.join(folder, "config.json"), LARGEST_CONFIG)
    if data is None:
        raise Refused("config", "there is no config.json")
    config = parse("config.json", data)
    check_bounds(config)
    for name in ("generation_config.json", "hf_quant_config.json"):
        beside = read_text(os.path.join(folder, name), LARGEST_CONFIG)
        if beside is not None and name.startswith("hf_"):
            check_bounds(parse(name, beside))
        elif beside is not None:
            # mlx_lm ignores a damaged one, but fails on one that is nested too deeply.
            try:
                json.loads(beside)
            except RecursionError:
                raise Refused("config", f"{name} is nested too deeply") from None
            except ValueError:
                pass
    if config.get("model_file") is not None:
        raise Refused("code", "config.json names a `model_file`: the model brings code of its own, which is never run")
    family = config.get("model_type")
    if not isinstance(family, str):
        raise Refused("config", "model_type is missing" if family is None else "model_type is not a string")
    return config, hashlib.sha256(data).hexdigest()


def part(config, *keys):
    """The first of `keys` that is set, in the text model's configuration or else in the whole one."""
    text = next((config[k] for k in ("text_config", "llm_config", "language_config") if isinstance(config.get(k), dict)), {})
    for place in (text, config):
        for key in keys:
            if place.get(key) is not None:
                return place[key]
    return None


def count(value):
    if isinstance(value, list):
        value = max((n for n in value if isinstance(n, int)), default=None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def undeclared(source):
    """The variables that a chat template reads. It is parsed, never run: constants are not folded either."""
    import jinja2
    import jinja2.ext
    import jinja2.meta
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """`{% generation %}`, as in transformers."""

        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    class Tracking(jinja2.meta.TrackingCodeGenerator):
        def __init__(self, environment):
            super().__init__(environment)
            self.optimizer = None

    # A finalizer that needs the context keeps the compiler from evaluating constants.
    finalize = jinja2.pass_context(lambda context, value: value)
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols], finalize=finalize
    )
    environment.filters["tojson"] = environment.filters["tojson"]
    environment.globals.update(raise_exception=None, strftime_now=None)
    tracking = Tracking(environment)
    tracking.visit(environment.parse(source))
    return sorted(tracking.undeclared_identifiers)


def template_sources(folder, settings):
    """(file, text) of each chat template, found as transformers finds them."""
    files = ["chat_template.jinja"]
    more = os.path.join(folder, "additional_chat_templates")
    if os.path.isdir(more):
        files += sorted(f"additional_chat_templates/{n}" for n in os.listdir(more) if n.endswith(".jinja"))[:MOST_TEMPLATES]
    texts = [(name, read_text(os.path.join(folder, name), LARGEST_TEMPLATE)) for name in files]
    found = [(name, text.decode("utf-8", "replace")) for name, text in texts if text is not None]
    if found:
        return found
    beside = read_text(os.path.join(folder, "chat_template.json"), LARGEST_TEMPLATE)
    places = [("chat_template.json", parse("chat_template.json", beside))] if beside else []
    for name, place in [*places, ("tokenizer_config.json", settings)]:
        found = place.get("chat_template") if isinstance(place, dict) else None
        if isinstance(found, str):
            return [(name, found)]
        if isinstance(found, list):
            return [(name, t["template"]) for t in found if isinstance(t, dict) and isinstance(t.get("template"), str)]
    return []


def describe_template(folder, settings):
    sources = template_sources(folder, settings)
    if not sources:
        return None
    if sum(len(source) for _, source in sources) > LARGEST_TEMPLATE:
        return {"file": sources[0][0], "error": f"it is longer than {LARGEST_TEMPLATE >> 20} MiB"}
    try:
        names = set().union(*(undeclared(source) for _, source in sources))
    except RecursionError:
        return {"file": sources[0][0], "error": "it is nested too deeply"}
    except Refused:
        raise
    except Exception as error:
        return {"file": sources[0][0], "error": first_line(error)}
    return {"file": sources[0][0], "variables": sorted(names)}
