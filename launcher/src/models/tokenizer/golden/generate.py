#!/usr/bin/env python3
"""Writes the golden tokens beside this script, by an implementation of its own.

    generate.py SMOLLM2.gguf QWEN2.gguf

Needs the package `regex`. Shares no code with the tokenizer under test: it reads GGUF itself, cuts words with the
regular expressions that llama.cpp documents for each name, and merges by the textbook loop (join the adjacent pair of
lowest rank, until no pair can be joined).

A fixture holds only the part of the vocabulary that its texts can touch: every token of one byte, every special token
of a text, and every merge that was a candidate at any step, so that merging over the part goes as over the whole.
No vocabulary of Llama 3 or GPT-2 is at hand; their rules are run over the vocabulary of Qwen2.
"""

import json
import pathlib
import struct
import sys
import unicodedata

import regex

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
LLAMA3 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
RULES = {
    "smollm": [r"\p{N}", GPT2],
    "qwen2": [LLAMA3.replace("{1,3}", "")],
    "llama-bpe": [LLAMA3],
    "gpt-2": [GPT2],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
}

TEXTS = [
    "",
    " ",
    "system",
    "Hello, world!",
    "The magic number is 7481920, not 1234.5 or 3.14159.",
    "It's what they'd said: we'LL SEE, I'M sure you've read 'em.",
    "  two  spaces\tand\ttabs \n\n\n and lines\r\n\r\nend  ",
    "Größe, naïve café, Ångström; cafe\u0301",
    "Привет, мир! 你好，世界。こんにちは世界 안녕하세요",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u00bd \u00b2 \u2460 ١٢٣",
    "fn main() {\n    let x_1 = vec![0u8; 4096]; // comment\n\treturn x_1 << 2;\n}",
    "a\u00a0b\u2003c\u3000d\u200be",
    "supercalifragilisticexpialidocious" * 3,
    "https://example.org/a?b=c&d=%20#e <tag attr=\"v\">$100+5^2~|</tag>",
    "<|im_end|> is not the end, nor is <|im_start|>",
]
CHATS = [
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is 7 + 35?<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|><|im_start|><|im_start|>x<|im_end|>",
]
# Words for the Llama 3 rule that are tokens but cannot be reached by merges.
UNREACHABLE = ["748", "Ġmagic"]

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


def read_metadata(path):
    with open(path, "rb") as file:

        def scalar(code):
            return struct.unpack(code, file.read(struct.calcsize(code)))[0]

        def string():
            return file.read(scalar("<Q")).decode()

        def value(kind):
            if kind == 8:
                return string()
            if kind == 9:
                element, length = scalar("<I"), scalar("<Q")
                return [value(element) for _ in range(length)]
            return scalar(SCALARS[kind])

        magic, _version, _tensors, keys = file.read(4), scalar("<I"), scalar("<Q"), scalar("<Q")
        assert magic == b"GGUF", path
        return {string(): value(scalar("<I")) for _ in range(keys)}


def alphabet():
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


ALPHABET = alphabet()


def cut(rules, text):
    words = [text]
    for rule in rules:
        pieces = []
        for word in words:
            done = 0
            for match in regex.finditer(rule, word):
                pieces += [word[done : match.start()], match.group()]
                done = match.end()
            pieces.append(word[done:])
        words = [piece for piece in pieces if piece]
    return words


class Vocabulary:
    def __init__(self, metadata):
        self.tokens = metadata["tokenizer.ggml.tokens"]
        self.types = metadata["tokenizer.ggml.token_type"]
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.merges = metadata["tokenizer.ggml.merges"]
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(self.merges)}
        self.used_tokens, self.used_merges = set(), set()

    def add(self, token):
        self.ids.setdefault(token, len(self.tokens))
        self.tokens.append(token)
        self.types.append(1)

    def special(self, text):
        control = [token for token, kind in zip(self.tokens, self.types) if kind in (3, 4)]
        control.sort(key=len, reverse=True)
        return regex.split("(" + "|".join(map(regex.escape, control)) + ")", text), set(control)

    def merge(self, word, ignore_merges):
        symbols = [ALPHABET[byte] for byte in word.encode()]
        whole = "".join(symbols)
        if ignore_merges and whole in self.ids:
            self.used_tokens.add(whole)
            return [whole]
        while True:
            pairs = [(self.ranks[pair], pair) for pair in zip(symbols, symbols[1:]) if pair in self.ranks]
            if not pairs:
                self.used_tokens.update(symbols)
                return symbols
            for rank, pair in pairs:
                self.used_merges.add(rank)
                self.used_tokens.update([*pair, "".join(pair)])
            _, (left, right) = min(pairs)
            joined, i = [], 0
            while i < len(symbols):
                if symbols[i : i + 2] == [left, right]:
                    joined.append(left + right)
                    i += 2
                else:
                    joined.append(symbols[i])
                    i += 1
            symbols = joined

    def encode(self, text, pre, specials):
        segments, control = self.special(text) if specials else ([text], set())
        ids = []
        for segment in segments:
            if segment in control:
                self.used_tokens.add(segment)
                ids.append(self.ids[segment])
                continue
            if pre == "qwen2":
                segment = unicodedata.normalize("NFC", segment)
            for word in cut(RULES[pre], segment):
                symbols = self.merge(word, ignore_merges=pre == "llama-bpe")
                ids += [self.ids[symbol] for symbol in symbols if symbol in self.ids]
        return ids

    def fixture(self, pre):
        cases = [{"text": text, "specials": False, "ids": self.encode(text, pre, False)} for text in TEXTS]
        cases += [{"text": text, "specials": True, "ids": self.encode(text, pre, True)} for text in CHATS]
        self.used_tokens |= {character for character in ALPHABET.values() if character in self.ids}
        self.used_tokens |= {"<|im_start|>", "<|im_end|>", "<|endoftext|>"}
        tokens = sorted((self.ids[t], t) for t in self.used_tokens if t in self.ids)
        return {
            "pre": pre,
            "tokens": [[i, token, self.types[i]] for i, token in tokens],
            "merges": [self.merges[rank] for rank in sorted(self.used_merges)],
            "cases": cases,
        }


def write(fixture, path):
    lines = []
    for key, value in fixture.items():
        if key == "cases":
            value = "[\n" + ",\n".join(json.dumps(case, ensure_ascii=True) for case in value) + "\n]"
        else:
            value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        lines.append(f"{json.dumps(key)}: {value}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main():
    smollm2, qwen2 = map(read_metadata, sys.argv[1:3])
    here = pathlib.Path(__file__).parent
    for pre in RULES:
        vocabulary = Vocabulary(smollm2 if pre == "smollm" else qwen2)
        if pre == "llama-bpe":
            for token in UNREACHABLE:
                vocabulary.add(token)
        write(vocabulary.fixture(pre), here / f"{pre}.json")


if __name__ == "__main__":
    main()
