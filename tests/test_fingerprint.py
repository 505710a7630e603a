import os

from aucseg_hf import load_benchmark
from aucseg_hf.data.fingerprint import fingerprint


def test_fingerprint_changes_with_files_and_rule(pairs):
    def now(split="train"):
        benchmark = load_benchmark(pairs)
        return fingerprint(benchmark[split], benchmark.info.label_rule)

    first = now()
    assert now() == first
    assert now("val") != first
    path = pairs / "train/labels/002.png"
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    assert now() != first
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert now() == first
    (pairs / "id2label.json").write_text('["a", "b", "c", "d", "e"]')
    assert now() != first
    scenes = [load_benchmark("scenes", size=32, num_train=4, seed=seed) for seed in (0, 0, 1)]
    keys = [fingerprint(s["train"], s.info.label_rule) for s in scenes]
    assert keys[0] == keys[1] != keys[2]
