class LRUPromptCache:
    def __init__(self, max_size=10, max_bytes=1 << 63):
        self.max_bytes = max_bytes

    def fetch_nearest_cache(self, model, tokens):
        return None, tokens


def can_trim_prompt_cache(cache):
    return False


def trim_prompt_cache(cache, num_tokens):
    return 0
