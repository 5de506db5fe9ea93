#!/usr/bin/env python3
"""Search the keys of one layer for the tokens that a decode step attends to: Hindsight beside FAISS, NumPy and usearch.

All run on the same core, one thread each, over the same vectors: `hindsight bench index --export` makes them and times its
own exact scan and LFPS; then the others take the same steps over the same keys. What each does for one KV head and step,
all of it timed:

  hindsight exact    take in the new key; score all keys for the queries of the group (16-bit keys); softmax for each query;
                     sum over the group; the top-k tokens between sink and window
  hindsight lfps     the same from candidates, and learn from them
  numpy              the same as hindsight exact, keys in float32: products, softmax, sum, argpartition
  faiss flat         add the new key; the top-k of the inner products of each query of the group, in one batch (IndexFlatIP, float32
                     keys). No softmax, no sum, no choice between the queries' results: less work
  faiss flat, blas   the same through a matrix product, which FAISS by itself does from 20 queries on
  faiss sq           as faiss flat with 16-bit keys (IndexScalarQuantizer)
  usearch            as faiss flat, approximate, by a graph (HNSW) over 16-bit keys; building it is reported apart

Before each one's turn a large array is read, so that no keys are left in the caches, as hindsight does for its own. Recall is that of the exact
top-k of each query ("query"), and of the exact top-k of the group's summed weights ("group") in what was found for any of its
queries. Needs the network once, for pip; packages go to a virtual environment in the cache directory.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import environment
from command_line import number, output_of, positive

PACKAGES = ["faiss-cpu==1.15.1", "numpy==2.4.6", "usearch==2.26.6"]
THREADS = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"]
EVICTION_BYTES = 256 << 20
WARM_UP = 2


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hindsight", default="target/release/hindsight", help="the program [target/release/hindsight]")
    parser.add_argument("--trace", required=True, help="recorded attention to take vectors from (`hindsight trace record`)")
    parser.add_argument("--context", type=positive, default=131072, help="tokens [131072]")
    parser.add_argument("--kv-heads", type=positive, default=2, help="KV heads [2]")
    parser.add_argument("--group", type=positive, default=4, help="query heads for each KV head [4]")
    parser.add_argument("--head-dim", type=positive, default=128, help="elements of a key [128]")
    parser.add_argument("--top-k", type=positive, default=2048, help="keys that are searched for [2048]")
    parser.add_argument("--steps", type=positive, default=16, help="decode steps [16]")
    parser.add_argument("--kv-dtype", choices=["bf16", "f16"], default="bf16", help="element type of Hindsight's keys [bf16]")
    parser.add_argument("--core", type=number, default=max(os.sched_getaffinity(0)), help="the core to run on [the last]")
    parser.add_argument("--without", nargs="*", default=[], choices=["faiss", "usearch"], help="leave out")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser.parse_args()


def hindsight(options, directory):
    """Times Hindsight's own steps, and leaves its vectors in `directory`."""
    command = [options.hindsight, "bench", "index", "--json", "--export", directory]
    for name in ["trace", "context", "kv_heads", "group", "head_dim", "top_k", "steps", "kv_dtype", "core"]:
        command += ["--" + name.replace("_", "-"), str(getattr(options, name))]
    output_of(*command)
    return json.loads((Path(directory) / "bench.json").read_text())


class Vectors:
    """Keys and queries of all steps, and what an exact search finds."""

    def __init__(self, numpy, directory, bench):
        directory = Path(directory)
        self.keys = numpy.load(directory / "keys.npy")
        self.queries = numpy.load(directory / "queries.npy")
        self.selected = {name: numpy.load(directory / f"{name}.npy") for name in ["exact", "lfps"]}
        self.steps, self.heads = self.queries.shape[:2]
        self.top_k = bench["parameters"]["top_k"]
        self.sink = bench["parameters"]["sink"]
        self.window = bench["parameters"]["window"]
        self.first_tokens = bench["first_step_tokens"]
        self.scale = bench["softmax_scale"]
        of = [(step, head) for step in range(self.steps) for head in range(self.heads)]
        self.best_of_query = {at: self.rank_queries(numpy, *at) for at in of}
        self.best_of_group = {at: self.rank_group(numpy, *at) for at in of}

    def middle(self, step):
        """Where the tokens end that are chosen among; they begin after the sink."""
        return self.first_tokens + step - self.window

    def rank_queries(self, numpy, step, head):
        scores = self.queries[step, head] @ self.keys[head, self.sink : self.middle(step)].T
        return numpy.argpartition(-scores, self.top_k, axis=1)[:, : self.top_k] + self.sink

    def rank_group(self, numpy, step, head):
        """What `hindsight exact` does, in float32."""
        keys = self.keys[head, : self.first_tokens + step]
        # A product for each query is faster than one for all: few columns suit no matrix kernel.
        scores = numpy.stack([keys @ (query * numpy.float32(self.scale)) for query in self.queries[step, head]])
        scores -= scores.max(axis=1, keepdims=True)
        numpy.exp(scores, out=scores)
        weights = (scores / scores.sum(axis=1, keepdims=True)).sum(axis=0)[self.sink : self.middle(step)]
        return numpy.argpartition(-weights, self.top_k)[: self.top_k] + self.sink


def take_steps(numpy, vectors, search):
    """Times `search(step, head)`, after reading other memory, and returns its results."""
    other = numpy.ones(EVICTION_BYTES // 8)
    times, found = [], {}
    for step in range(-WARM_UP, vectors.steps):
        other.sum()
        for head in range(vectors.heads):
            start = time.perf_counter()
            result = search(max(step, 0), head, step > 0)
            elapsed = (time.perf_counter() - start) * 1e6
            if step >= 0:
                times.append(elapsed)
                found[step, head] = result
    return times, found


def faiss_search(vectors, make):
    """A search of FAISS indexes, one for each KV head, made by `make(keys)`."""
    indexes = [make(keys[vectors.sink : vectors.middle(0)]) for keys in vectors.keys]

    def search(step, head, append):
        if append:
            end = vectors.middle(step)
            indexes[head].add(vectors.keys[head, end - 1 : end])
        return indexes[head].search(vectors.queries[step, head], vectors.top_k)[1] + vectors.sink

    return search


def usearch_search(vectors, options):
    from usearch.index import Index
    import numpy

    graphs = []
    for keys in vectors.keys:
        graph = Index(ndim=options.head_dim, metric="ip", dtype=options.kv_dtype, expansion_search=vectors.top_k)
        numbers = numpy.arange(vectors.sink, vectors.middle(0), dtype=numpy.uint64)
        graph.add(numbers, keys[vectors.sink : vectors.middle(0)], threads=1)
        graphs.append(graph)

    def search(step, head, append):
        if append:
            token = vectors.middle(step) - 1
            graphs[head].add(token, vectors.keys[head, token], threads=1)
        matches = graphs[head].search(vectors.queries[step, head], vectors.top_k, threads=1)
        return matches.keys.astype(numpy.int64)

    return search


def recalls(numpy, vectors, found):
    """Recall of each query's top-k, where `found` has a row for each query, and of the group's."""
    of_queries, of_groups = [], []
    for at, result in found.items():
        if result.ndim == 2:
            for mine, best in zip(result, vectors.best_of_query[at]):
                of_queries.append(numpy.isin(best, mine).mean())
        of_groups.append(numpy.isin(vectors.best_of_group[at], result).mean())
    mean = lambda values: float(numpy.mean(values)) if values else None
    return mean(of_queries), mean(of_groups)


def measure(options):
    os.sched_setaffinity(0, {options.core})
    import numpy

    rows = []

    def add(name, times, found, element_bytes, build_s=None):
        query_recall, group_recall = recalls(numpy, vectors, found)
        median = float(numpy.median(times))
        bytes_read = vectors.keys[0].size * element_bytes if element_bytes else None
        rows.append({
            "name": name,
            "us": median,
            "query_recall": query_recall,
            "group_recall": group_recall,
            "key_gb_per_s": bytes_read / median / 1e3 if bytes_read else None,
            "build_s": build_s,
        })

    with tempfile.TemporaryDirectory() as directory:
        bench = hindsight(options, directory)
        vectors = Vectors(numpy, directory, bench)
        own = {
            name: {(step, head): selected[step, head] for step in range(vectors.steps) for head in range(vectors.heads)}
            for name, selected in vectors.selected.items()
        }
    times, found = take_steps(numpy, vectors, lambda step, head, _: vectors.rank_group(numpy, step, head))
    add("numpy", times, found, 4)
    if "faiss" not in options.without:
        import faiss

        faiss.omp_set_num_threads(1)
        dim = options.head_dim

        def flat(keys):
            index = faiss.IndexFlatIP(dim)
            index.add(keys)
            return index

        def quantized(keys):
            kind = getattr(faiss.ScalarQuantizer, "QT_bf16" if options.kv_dtype == "bf16" else "QT_fp16")
            index = faiss.IndexScalarQuantizer(dim, kind, faiss.METRIC_INNER_PRODUCT)
            index.train(keys[:1])
            index.add(keys)
            return index

        add("faiss flat", *take_steps(numpy, vectors, faiss_search(vectors, flat)), 4)
        faiss.cvar.distance_compute_blas_threshold = 1
        add("faiss flat, blas", *take_steps(numpy, vectors, faiss_search(vectors, flat)), 4)
        add(f"faiss sq {options.kv_dtype}", *take_steps(numpy, vectors, faiss_search(vectors, quantized)), 2)
    if "usearch" not in options.without:
        start = time.perf_counter()
        search = usearch_search(vectors, options)
        build_s = (time.perf_counter() - start) / vectors.heads
        add("usearch", *take_steps(numpy, vectors, search), None, build_s)
    # Once more, so that a machine that has become faster or slower meanwhile is noticed.
    with tempfile.TemporaryDirectory() as directory:
        again = hindsight(options, directory)
    for name in ["lfps", "exact"]:
        times = bench["times_us"][name] + again["times_us"][name]
        seconds = bench["row"]["seed_ms"] / 1e3 if name == "lfps" else None
        add(f"hindsight {name}", times, own[name], 2 if name == "exact" else None, seconds)
        rows.insert(0, rows.pop())
    ratios = [again["row"][key] / bench["row"][key] for key in ["exact_us", "lfps_us"]]
    shape = {name: bench["row"][name] for name in ["context", "kv_heads", "group", "head_dim", "top_k"]}
    return shape | {
        "core": options.core,
        "kv_dtype": options.kv_dtype,
        "packages": PACKAGES,
        "memory_bandwidth_gb_per_s": max(run["memory_bandwidth_gb_per_s"] for run in [bench, again]),
        "exact_again_over_first": ratios[0],
        "lfps_again_over_first": ratios[1],
        "rows": rows,
    }


def table(report):
    exact = report["rows"][0]["us"]
    show = lambda value, form: format(value, form) if value is not None else "-"
    lines = [f"{'':18}{'us':>9}{'x exact':>9}{'query':>8}{'group':>8}{'GB/s':>7}{'build s':>9}"]
    for row in report["rows"]:
        lines.append(
            f"{row['name']:18}{row['us']:9.0f}{row['us'] / exact:9.2f}{show(row['query_recall'], '.3f'):>8}"
            f"{show(row['group_recall'], '.3f'):>8}{show(row['key_gb_per_s'], '.1f'):>7}{show(row['build_s'], '.2f'):>9}"
        )
    lines.append(
        f"{report['context']} tokens, {report['group']} queries of {report['head_dim']} elements, top-k {report['top_k']}: medians for one KV head "
        f"on core {report['core']}\nmemory bandwidth {report['memory_bandwidth_gb_per_s']:.1f} GB/s; hindsight once more afterwards: exact "
        f"{report['exact_again_over_first']:.2f}, lfps {report['lfps_again_over_first']:.2f} of the first time"
    )
    return "\n".join(lines)


def main():
    options = arguments()
    environment.enter("peers", PACKAGES, {name: "1" for name in THREADS})
    report = measure(options)
    print(json.dumps(report) if options.json else table(report))


if __name__ == "__main__":
    main()
