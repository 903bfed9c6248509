"""Changes to how mlx_lm.server works: the context is exact, and a sequence that is alone in its batch is not copied.

Each is made only if this mlx-lm is as known, and returns whether it was.

Written by mlxctl next to the launcher; changes are overwritten.
"""

import copy
import functools
import inspect


class TooLong(Exception):
    """A prompt that does not fit the context, both in tokens. Raised while tokenizing, answered by launcher_answer."""

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
    """Refuses prompts that leave no room in `context` tokens, and caps answers to what is left.

    Wraps ResponseGenerator._tokenize of mlx_lm/server.py (0.32.2). False: it is not as known.
    """
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
    """Passes a sequence that is alone in its batch through it without copies.

    mlx_lm (0.32.2) copies all keys and values of a conversation when it becomes a batch, and again when the batch moves
    from its prompt to its answer, which picks rows, even if the only row is picked. Each copy is as large as the
    conversation in memory (16,000 tokens of a 32B: 4.2 GB), is mapped again because mlx_lm returns freed memory in
    between, and delays the first token. MLX's arrays never change, so sharing them is safe.

    Wraps BatchKVCache of mlx_lm/models/cache.py. False: it is not as known.
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
        # With any room behind the last token, so that nothing is copied to make it again. The array objects are copied,
        # not their data: a cache assigns to items of the objects that it holds.
        merged.keys, merged.values = copy.copy(one.keys), copy.copy(one.values)
        merged.offset, merged._idx = merged.offset + one.offset, one.offset
        return merged

    @functools.wraps(pick)
    def pick_alone(self, batch_indices):
        keys, values, length = self.keys, self.values, self._idx
        if keys is None or keys.shape[0] != 1 or list(batch_indices) != [0]:
            return pick(self, batch_indices)
        # Without arrays it does the rest, and may cut padding, which is then cut here.
        self.keys = self.values = None
        pick(self, batch_indices)
        cut = length - self._idx
        self.keys, self.values = (part[..., cut:, :] if cut else part for part in (keys, values))

    batch.merge, batch.filter = classmethod(merge_alone), pick_alone
    return True
