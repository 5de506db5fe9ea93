"""What the comparisons share: types of arguments, and running Hindsight."""

import argparse
import subprocess
import sys


def number(text):
    """A whole number."""
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number")
    return int(text)


def positive(text):
    """A whole number from 1 on."""
    value = number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def numbers(text):
    """Whole numbers with commas between them."""
    return [number(part) for part in text.split(",")]


def output_of(program, *arguments):
    """What Hindsight prints. If it fails, it has said why, and this ends as it did."""
    try:
        done = subprocess.run([program, *arguments], stdout=subprocess.PIPE)
    except OSError as error:
        sys.exit(f"{program}: {error.strerror}; build it with `cargo build --release`, or name it with --hindsight")
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout
