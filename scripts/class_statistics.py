"""Counts the classes of a data set and says how long its tail is.

    python scripts/class_statistics.py DATA
    python scripts/class_statistics.py DATA --num_head 19 --num_tail 123

DATA is the name of a benchmark, a folder DIR/{train,val}/{images,labels} or a hub id. Labels are
read once: the counts are kept in OUTPUT_DIR and used again as long as the label files are the same.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from aucseg_hf import ClassStatistics, load_benchmark
from aucseg_hf.cli import run, whole_file
from aucseg_hf.data.advice import advise_bank
from aucseg_hf.data.fingerprint import fingerprint, saved_fingerprint
from aucseg_hf.data.groups import (
    HEAD_SHARE,
    TAIL_SHARE,
    Groups,
    split_by_count,
    split_by_list,
    split_by_share,
)
from aucseg_hf.data.info import BenchmarkInfo
from aucseg_hf.data.statistics_report import format_statistics, plot_statistics
from aucseg_hf.errors import InputError
from aucseg_hf.metric_table import to_jsonable


def main(arguments: list[str]) -> None:
    """Prints the table; writes `statistics.json` and `classes.png`."""
    options = _parser().parse_args(arguments)
    benchmark = load_benchmark(options.data, id2label=options.id2label, root=options.data_root)
    if options.split not in benchmark:
        raise InputError(
            f"no split {options.split!r} in {options.data}: expected one of {list(benchmark)}"
        )
    info = benchmark.info
    file = options.output_dir / "statistics.json"
    records = benchmark[options.split]
    key = fingerprint(records, info.label_rule)
    if saved_fingerprint(file) == key:
        counted = ClassStatistics.load(file)
    else:
        counted = ClassStatistics.from_dataset(
            records, info.num_labels, progress=True, label_rule=info.label_rule
        )
    statistics = counted.with_groups(_groups(options, counted, info))
    advice = advise_bank(statistics, info.class_names)
    table = format_statistics(statistics, info.class_names, advice, options.delta)
    with whole_file(file) as part:
        statistics.save(
            part,
            fingerprint=key,
            class_names=info.class_names,
            imbalance_ratio=to_jsonable(statistics.imbalance_ratio),
            gini=to_jsonable(statistics.gini),
            bank=asdict(advice),
        )
    with whole_file(options.output_dir / "classes.png") as part:
        plot_statistics(statistics, info.class_names).savefig(part, dpi=120)
    print(f"{table}\n\nstatistics.json and classes.png are in {options.output_dir}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", metavar="DATA", help="name of a benchmark, a folder or a hub id")
    parser.add_argument("--data_root", help="where the files of a named benchmark lie")
    parser.add_argument("--split", default="train")
    parser.add_argument("--id2label", help="class names: a JSON file or name,name,...")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/statistics"))
    parser.add_argument("--delta", type=float, default=0.01, help="chance of a batch to lack one")
    parser.add_argument("--head_share", type=float, default=HEAD_SHARE, help="least share of head")
    parser.add_argument("--tail_share", type=float, default=TAIL_SHARE, help="most share of tail")
    parser.add_argument("--num_head", type=int, help="size of the head, with --num_tail")
    parser.add_argument("--num_tail", type=int, help="size of the tail, with --num_head")
    parser.add_argument("--head_classes", nargs="+", help="names or ids, with --tail_classes")
    parser.add_argument(
        "--tail_classes", nargs="+", help="names or ids; default: published, or by share"
    )
    return parser


def _groups(
    options: argparse.Namespace, statistics: ClassStatistics, info: BenchmarkInfo
) -> Groups:
    counts = statistics.pixel_counts
    if (options.num_head is None) != (options.num_tail is None):
        raise InputError("expected --num_head and --num_tail together, got one of them")
    if options.num_head is not None:
        return split_by_count(counts, options.num_head, options.num_tail)
    tail = [info.class_id(name) for name in options.tail_classes or ()]
    if not tail and (options.head_share, options.tail_share) == (HEAD_SHARE, TAIL_SHARE):
        tail = list(info.tail_classes or ())
    if options.head_classes:
        head = [info.class_id(name) for name in options.head_classes]
        return split_by_list(info.num_labels, head, tail)
    return split_by_share(counts, tail or None, options.head_share, options.tail_share)


if __name__ == "__main__":
    sys.exit(run(main))
