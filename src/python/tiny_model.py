"""Makes mlxctl's built-in tiny model with mlx_lm's own classes.

    python tiny_model.py <folder> [--hidden N] [--layers N] [--context N] [--untrained] [--seed N]

The folder appears whole or not at all. The model is trained to give one answer, which says what it is, to questions of
every kind. Messages go to stderr.
"""

import argparse
import json
import math
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

ANSWER = (
    "I am a tiny test model, made by mlxctl on this machine. "
    "I know only these few sentences, and I say them whatever you ask. "
    "But the real mlx_lm.server sent you every word of them."
)
QUESTIONS = [
    "What are you?",
    "Who are you?",
    "Hello",
    "Hi!",
    "Tell me a story.",
    "What is the capital of France?",
    "Say one word.",
    "Explain the concept of seven generations thinking in 3 sentences.",
    "What are the trade-offs between distributed and single-node inference?",
    "ping",
    "1 + 1 = ?",
]
END = "<|endoftext|>"
SPECIAL = [END, "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,;:!?-_/()[]{}'\"\n"


def say(text):
    print(f"tiny model: {text}", file=sys.stderr, flush=True)


def make_tokenizer():
    """Byte-level BPE: all 256 bytes are tokens, so any text can be encoded; merges make the answer short."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        min_frequency=1,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([ANSWER, "user", "assistant", "system", *QUESTIONS], trainer)
    return tokenizer


def make_config(tokenizer, options):
    heads = max(1, options.hidden // 16)
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": options.hidden,
        "num_hidden_layers": options.layers,
        "intermediate_size": 2 * options.hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 2),
        "rms_norm_eps": 1e-6,
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": options.context,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "bos_token_id": ids[END],
        "eos_token_id": [ids["<|im_end|>"], ids[END]],
    }


def make_question(rng):
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(QUESTIONS)
    if kind < 0.8:
        return "".join(rng.choice(ALPHABET) for _ in range(rng.randrange(1, 60)))
    return "".join(chr(rng.randrange(32, 0x2FFF)) for _ in range(rng.randrange(1, 20)))


def make_prompt(rng):
    """A chat as the template writes it, with zero to two turns before the question."""
    def turn(role, text):
        return f"<|im_start|>{role}\n{text}<|im_end|>\n"

    chat = turn("system", make_question(rng)) if rng.random() < 0.3 else ""
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        chat += turn("user", make_question(rng)) + turn("assistant", rng.choice([ANSWER, make_question(rng)]))
    return chat + turn("user", make_question(rng)) + "<|im_start|>assistant\n"


def train(model, tokenizer, options):
    """Trains until every token of the answer is certain, for 30 s at most. Only the answer's loss counts."""
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim

    rng = random.Random(options.seed)
    answer = tokenizer.encode(ANSWER + "<|im_end|>").ids
    size = len(answer)

    def make_batch():
        prompts = [tokenizer.encode(make_prompt(rng)).ids for _ in range(4)]
        # One length for all, cut at the front: the answer's place is known and nothing is padded.
        length = min(160 if rng.random() < 0.05 else 40, *map(len, prompts))
        return mx.array([prompt[-length:] + answer for prompt in prompts])

    def loss(model, rows):
        hidden = model.model(rows[:, :-1])[:, -size:]
        losses = nn.losses.cross_entropy(model.model.embed_tokens.as_linear(hidden), rows[:, -size:])
        return losses.mean(), losses.max()

    steps = 400
    optimizer = optim.AdamW(learning_rate=optim.cosine_decay(6e-3, steps), weight_decay=0.0)
    step_with_gradient = nn.value_and_grad(model, loss)
    started, certain = time.monotonic(), 0
    for step in range(steps):
        (mean, worst), gradient = step_with_gradient(model, make_batch())
        optimizer.update(model, gradient)
        mx.eval(model.parameters(), optimizer.state, mean, worst)
        if not math.isfinite(mean.item()):
            raise SystemExit("tiny model: training diverged")
        # A loss of 0.1 is a probability of 0.9 for the least certain token of the whole batch.
        certain = certain + 1 if worst.item() < 0.1 else 0
        seconds = time.monotonic() - started
        if step % 50 == 0:
            say(f"step {step}, loss {mean.item():.3f}, {seconds:.1f} s")
        if certain >= 20 or seconds > 30:
            break
    say(f"trained {step + 1} steps in {time.monotonic() - started:.1f} s, loss {mean.item():.4f}")
    if mean.item() > 0.2:
        raise SystemExit("tiny model: training found no answer in its time; is the machine very busy?")


def write(folder, options):
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm.models import qwen2
    from mlx_lm.utils import save_config, save_model

    mx.set_default_device(mx.cpu)
    mx.random.seed(options.seed)
    tokenizer = make_tokenizer()
    config = make_config(tokenizer, options)
    model = qwen2.Model(qwen2.ModelArgs.from_dict(config))
    mx.eval(model.parameters())
    if not options.untrained:
        train(model, tokenizer, options)
    model.update(tree_map(lambda array: array.astype(mx.float16), model.parameters()))
    save_model(folder, model)
    save_config(config, folder / "config.json")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": "<|im_end|>",
        "pad_token": END,
        "model_max_length": options.context,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def main():
    parser = argparse.ArgumentParser(description="Makes mlxctl's built-in tiny model.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hidden", type=int, default=64, help="width, a multiple of 32")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--context", type=int, default=32768, help="longest prompt plus answer, tokens")
    parser.add_argument("--untrained", action="store_true", help="random weights: it never stops by itself")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    parent = options.folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{options.folder.name}.", dir=parent))
    try:
        write(building, options)
        os.chmod(building, 0o755)
        try:
            os.rename(building, options.folder)
        except OSError:
            # Another process was faster; its model is as good, made by the same script.
            if not (options.folder / "config.json").exists():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    say(f"written to {options.folder}")


if __name__ == "__main__":
    main()
