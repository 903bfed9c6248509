"""What a KV cache depends on other than the prompt, as one hash: a stored cache is read back only under the same one.

Written by mlxctl next to the launcher; changes are overwritten.
"""

import hashlib
import json
import os
import sys

from prompt_files import FORMAT, Unfit

# Options of the server that change nothing in a KV cache; any other one is part of the identity.
INDIFFERENT = {
    "--host",
    "--port",
    "--max-tokens",
    "--temp",
    "--top-p",
    "--top-k",
    "--min-p",
    "--prompt-cache-size",
    "--prompt-cache-bytes",
    "--decode-concurrency",
    "--prompt-concurrency",
    "--prefill-step-size",
    "--num-draft-tokens",
    "--log-level",
    "--allowed-origins",
}
WHOLE = 64 << 20  # bytes of the largest file that is read whole
SAMPLE = 65536  # bytes of each sample of a larger one


def identity(model_key, arguments):
    """A hash of weights, tokenizer, template, options and versions.

    `model_key` is mlx_lm's own (mlx_lm/server.py, ModelProvider.model_key): model, adapter, draft model; names or
    folders, or None. `arguments` are those of the server. Raises Unfit if the files of one are not found.
    """
    from importlib.metadata import version

    options, skip = [], False
    for argument in arguments:
        if argument.startswith("--"):
            skip = argument.split("=")[0] in INDIFFERENT
        if not skip:
            options.append(argument)
    whole = hashlib.sha256()
    # Two versions of MLX may lay arrays out or round differently.
    head = [FORMAT, version("mlx-lm"), version("mlx"), sys.byteorder, options, [str(part) for part in model_key]]
    whole.update(json.dumps(head).encode())
    for part in model_key:
        if part is not None:
            whole.update(_folder(_local(str(part))))
    return whole.hexdigest()


def _local(model):
    if os.path.isdir(model):
        return model
    from huggingface_hub import try_to_load_from_cache

    for name in ("config.json", "adapter_config.json"):
        found = try_to_load_from_cache(model, name)
        if isinstance(found, str):
            return os.path.dirname(found)
    raise Unfit(f"the files of {model} cannot be found")


def _folder(folder):
    """Weights are too large to be read whole: size, time and samples stand for them."""
    lines = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            continue
        found = os.stat(path)
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            if found.st_size <= WHOLE and not name.endswith(".safetensors"):
                digest.update(file.read())
                lines.append((name, digest.hexdigest()))
                continue
            for at in (0, found.st_size // 3, found.st_size // 3 * 2, max(0, found.st_size - SAMPLE)):
                file.seek(at)
                digest.update(file.read(SAMPLE))
        lines.append((name, digest.hexdigest(), found.st_size, found.st_mtime_ns))
    return json.dumps(lines).encode()
