#!/usr/bin/env python3
"""Decode and prefill of the same GGUF file after contexts of several lengths: Hindsight beside llama.cpp.

Both run on the same cores with as many threads, in turns; Hindsight's indexer counts as one of the threads. llama.cpp is used through
its own interface (llama-cpp-python, built on this machine by pip), with an f16 KV cache, flash attention off and on. Ratios are
those of medians over the turns, against the faster of the two.

Up to --longest-read tokens contexts are read by both. Beyond that the keys and values of 2,048 tokens are repeated, by both: rows with
an asterisk. Needs the network once, for pip, and a C++ compiler; the package goes to a virtual environment in the cache directory.
"""

import argparse
import ctypes
import json
import os
import statistics
import sys
import time
from pathlib import Path

import environment
from command_line import number, numbers, output_of, positive

PACKAGES = ["llama-cpp-python==0.3.36"]
BOOK = Path(__file__).parents[2] / "examples" / "alice.txt"
REPEATED = 2048
BATCH = 512


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hindsight", default="target/release/hindsight", help="the program [target/release/hindsight]")
    parser.add_argument("--model", default="smollm2-135m", help="a name that `hindsight pull` knows, or a GGUF file")
    parser.add_argument("--depth", type=numbers, default=[0, 1024, 8000, 32768], help="tokens before the first step")
    parser.add_argument("--prefill", type=numbers, default=[512, 4096], help="tokens of prompts to read")
    parser.add_argument("--tokens", type=positive, default=32, help="tokens to decode in each turn")
    parser.add_argument("--longest-read", type=number, default=8000, help="deepest context that is read")
    parser.add_argument("--turns", type=positive, default=3, help="how often everything is timed")
    parser.add_argument("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="threads of each [all cores]")
    parser.add_argument(
        "--plain-weights",
        action="store_true",
        help="llama.cpp with weights as the file has them, not laid out anew: virtual machines show AMX and may refuse it, of which it dies",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser.parse_args()


class Hindsight:
    def __init__(self, options):
        self.options = options
        self.command = [options.hindsight, "bench"]
        self.common = ["--model", options.model, "--threads", str(options.threads), "--repeats", "1", "--json"]

    def model(self):
        if Path(self.options.model).exists():
            return self.options.model
        return json.loads(output_of(self.options.hindsight, "pull", self.options.model, "--json"))["path"]

    def bench(self, *arguments):
        return json.loads(output_of(*self.command, *arguments, *self.common))

    def decode(self):
        """Tokens per second, and what stages of a step take, by (attention, depth)."""
        rows = []
        read = [depth for depth in self.options.depth if depth <= self.options.longest_read]
        for depths, more in [(read, []), ([d for d in self.options.depth if d not in read], ["--synthetic-kv"])]:
            if depths:
                depths = ",".join(map(str, depths))
                tokens = str(self.options.tokens + 1)
                rows += self.bench("decode", "--attention", "full,lfps", "--depth", depths, "--tokens", tokens, *more)
        return {(row["attention"], row["depth"]): row["tokens_per_s"] for row in rows}

    def prefill(self):
        tokens = ",".join(map(str, self.options.prefill))
        rows = self.bench("prefill", "--attention", "lfps", "--tokens", tokens)
        return {row["tokens"]: row["tokens_per_s"] for row in rows}


class Llama:
    """A context of llama.cpp; `flash` turns on flash attention."""

    def __init__(self, llama, model, options, flash):
        self.llama, self.options = llama, options
        deepest = max([*options.depth, *options.prefill, 1])
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = deepest + options.tokens + BATCH
        parameters.n_batch = parameters.n_ubatch = BATCH
        parameters.n_seq_max = max(1, -(-deepest // REPEATED) + 1)
        parameters.kv_unified = True
        parameters.n_threads = parameters.n_threads_batch = options.threads
        parameters.flash_attn_type = 1 if flash else 0
        self.context = llama.llama_init_from_model(model, parameters)
        if not self.context:
            sys.exit("llama.cpp makes no context: is there enough memory?")
        self.memory = llama.llama_get_memory(self.context)
        vocabulary = llama.llama_model_get_vocab(model)
        book = BOOK.read_bytes()
        buffer = (llama.llama_token * len(book))()
        count = llama.llama_tokenize(vocabulary, book, len(book), buffer, len(book), False, False)
        text = buffer[:count]
        self.text = (text * (deepest // count + 2))[: deepest + options.tokens + 1]
        self.states = {}

    def clear(self):
        self.llama.llama_memory_clear(self.memory, True)

    def feed(self, tokens):
        array = (self.llama.llama_token * len(tokens))(*tokens)
        for start in range(0, len(tokens), BATCH):
            part = ctypes.cast(ctypes.byref(array, start * 4), ctypes.POINTER(self.llama.llama_token))
            batch = self.llama.llama_batch_get_one(part, min(BATCH, len(tokens) - start))
            if self.llama.llama_decode(self.context, batch):
                sys.exit("llama.cpp fails to decode")
        self.llama.llama_synchronize(self.context)

    def read(self, length):
        """The state after the first `length` tokens of the text."""
        if length not in self.states:
            self.clear()
            self.feed(self.text[:length])
            size = self.llama.llama_state_seq_get_size(self.context, 0)
            state = (ctypes.c_uint8 * size)()
            self.llama.llama_state_seq_get_data(self.context, state, size, 0)
            self.states[length] = state
        return self.states[length]

    def restore(self, state, sequence):
        if not self.llama.llama_state_seq_set_data(self.context, state, len(state), sequence):
            sys.exit("llama.cpp does not take its own state back")

    def go_to(self, depth):
        repeats = 1 if depth <= self.options.longest_read else depth // REPEATED
        state = self.read(max(depth, 1) if repeats == 1 else REPEATED)
        self.clear()
        for sequence in range(repeats):
            self.restore(state, sequence)
            if sequence > 0:
                self.llama.llama_memory_seq_cp(self.memory, sequence, 0, -1, -1)

    def decode(self):
        speeds = {}
        for depth in self.options.depth:
            self.go_to(depth)
            start = time.perf_counter()
            for token in self.text[depth : depth + self.options.tokens]:
                self.feed([token])
            speeds[depth] = self.options.tokens / (time.perf_counter() - start)
        return speeds

    def prefill(self):
        speeds = {}
        for length in self.options.prefill:
            self.clear()
            start = time.perf_counter()
            self.feed(self.text[:length])
            speeds[length] = length / (time.perf_counter() - start)
        return speeds


def measure(options):
    # This file has the package's name.
    sys.path.remove(str(Path(__file__).parent.resolve()))
    import llama_cpp

    llama_cpp.llama_log_set(QUIET := llama_cpp.llama_log_callback(lambda level, text, data: None), ctypes.c_void_p())
    hindsight = Hindsight(options)
    path = hindsight.model()
    parameters = llama_cpp.llama_model_default_params()
    parameters.use_extra_bufts = not options.plain_weights
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    rivals = {name: Llama(llama_cpp, model, options, flash) for name, flash in [("off", False), ("on", True)]}
    decoded, read = {}, {}
    for turn in range(options.turns):
        print(f"turn {turn + 1} of {options.turns}", file=sys.stderr)
        for (attention, depth), speed in hindsight.decode().items():
            decoded.setdefault((f"hindsight {attention}", depth), []).append(speed)
        for tokens, speed in hindsight.prefill().items():
            read.setdefault(("hindsight", tokens), []).append(speed)
        for name, rival in rivals.items():
            for depth, speed in rival.decode().items():
                decoded.setdefault((f"llama.cpp, flash {name}", depth), []).append(speed)
            for tokens, speed in rival.prefill().items():
                read.setdefault((f"llama.cpp, flash {name}", tokens), []).append(speed)
    del QUIET
    return [
        rows("decode", options.depth, decoded, options.longest_read),
        rows("prefill", options.prefill, read, max(options.prefill, default=0)),
    ]


def rows(what, lengths, speeds, longest_read):
    """Medians, and their ratios to llama.cpp's better setting."""
    table = []
    for length in lengths:
        medians = {name: statistics.median(values) for (name, at), values in speeds.items() if at == length}
        rival = max(speed for name, speed in medians.items() if name.startswith("llama.cpp"))
        for name, speed in medians.items():
            values = speeds[name, length]
            table.append(
                {
                    "measurement": what,
                    "program": name,
                    "tokens": length,
                    "synthetic_kv": length > longest_read,
                    "tokens_per_s": speed,
                    "tokens_per_s_min": min(values),
                    "tokens_per_s_max": max(values),
                    "of_llama_cpp": speed / rival,
                }
            )
    return table


def main():
    options = arguments()
    environment.enter("llama-cpp", PACKAGES)
    table = sum(measure(options), [])
    if options.json:
        print(json.dumps({"model": options.model, "threads": options.threads, "rows": table}))
        return
    print(f"{'':8} {'tokens':>8}  {'program':22} {'tokens/s':>8}  {'(least-most)':>15}  of llama.cpp")
    for row in table:
        spread = f"({row['tokens_per_s_min']:.1f}-{row['tokens_per_s_max']:.1f})"
        mark = "*" if row["synthetic_kv"] else " "
        print(
            f"{row['measurement']:8} {row['tokens']:>8}{mark} {row['program']:22} {row['tokens_per_s']:>8.1f}  {spread:>15}"
            f"  {row['of_llama_cpp']:>11.2f}x"
        )
    if any(row["synthetic_kv"] for row in table):
        print("* synthetic: keys and values of 2,048 tokens, repeated")


if __name__ == "__main__":
    main()
