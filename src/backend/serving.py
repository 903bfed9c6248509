"""What the launcher changes in the server's own work: the context is exact, and a sequence that is alone in its batch is
not copied. It looks first whether this mlx-lm is as known, and else leaves it as it is, and says so.

Written by mlxctl next to the launcher; changes are overwritten.
"""

import copy
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


def alone_without_copies():
    """A sequence that is alone in its batch goes through it without copies. False: it cannot be done here.

    mlx_lm (0.32.2) copies all keys and values of a conversation when it becomes a batch, and again when the batch goes
    from its prompt to its answer, which picks rows: also where there is one, and it is picked. Each copy is as large as
    the conversation in memory (16,000 tokens of a 32B: 4.2 GB), is mapped anew because mlx_lm gives freed memory back in
    between, and stands between a person and the first token. Arrays of MLX never change, so one that is shared is safe.
    """
    from mlx_lm.models import cache

    batch = getattr(cache, "BatchKVCache", None)
    merge, pick = getattr(batch, "merge", None), getattr(batch, "filter", None)
    fields = {"keys", "values", "offset", "left_padding", "_idx"}
    if (
        merge is None
        or pick is None
        or (parameters(merge), parameters(pick)) != (["caches"], ["self", "batch_indices"])
        or not fields <= vars(batch([0])).keys()
    ):
        return False

    @functools.wraps(merge.__func__)
    def merge_alone(cls, caches):
        if len(caches) != 1 or type(caches[0]) is not cache.KVCache or caches[0].keys is None:
            return merge.__func__(cls, caches)
        (one,) = caches
        merged = cls([0])
        # With the room behind the last token, if there is any: nothing is copied to make room there again.
        # Under a name of their own: a cache writes into what its arrays' names stand for.
        merged.keys, merged.values = copy.copy(one.keys), copy.copy(one.values)
        merged.offset, merged._idx = merged.offset + one.offset, one.offset
        return merged

    @functools.wraps(pick)
    def pick_alone(self, batch_indices):
        keys, values, length = self.keys, self.values, self._idx
        if keys is None or keys.shape[0] != 1 or list(batch_indices) != [0]:
            return pick(self, batch_indices)
        # It has its way with the rest, of which it may cut padding.
        self.keys = self.values = None
        pick(self, batch_indices)
        cut = length - self._idx
        self.keys, self.values = (part[..., cut:, :] if cut else part for part in (keys, values))

    batch.merge, batch.filter = classmethod(merge_alone), pick_alone
    return True
