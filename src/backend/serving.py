"""What the launcher changes in the server's own work: the context is exact. It looks first whether this mlx-lm is as
known, and else leaves it as it is, and says so.

Written by mlxctl next to the launcher; changes are overwritten.
"""

import functools
import inspect


class TooLong(Exception):
    """A prompt that does not fit the context; raised where the server tokenizes, answered by the launcher."""

    def __init__(self, prompt, context):
        self.prompt, self.context = prompt, context
        super().__init__(
            f"the prompt has {prompt} tokens, and the context holds {context}, the answer included: "
            "shorten the messages, or raise memory.context"
        )

    def body(self):
        error = {"message": str(self), "type": "invalid_request_error", "param": "messages"}
        return {"error": {**error, "code": "context_length_exceeded"}}


def parameters(function):
    return list(inspect.signature(function).parameters)


def exact_context(context):
    """Refuses a prompt of more tokens than fit, and caps the answer to what is left. False: it cannot be done here."""
    from mlx_lm import server

    tokenize = getattr(getattr(server, "ResponseGenerator", None), "_tokenize", None)
    fields = getattr(getattr(server, "GenerationArguments", None), "__dataclass_fields__", {})
    if tokenize is None or parameters(tokenize) != ["self", "tokenizer", "request", "args"] or "max_tokens" not in fields:
        return False

    @functools.wraps(tokenize)
    def counted(self, tokenizer, request, args):
        found = tokenize(self, tokenizer, request, args)
        prompt = len(found[0])
        if prompt >= context:
            raise TooLong(prompt, context)
        args.max_tokens = min(args.max_tokens, context - prompt)
        return found

    server.ResponseGenerator._tokenize = counted
    return True
