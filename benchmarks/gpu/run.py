#!/usr/bin/env python3
"""The CUDA backend on a card, in one command: is it right, what share of the memory roof, how many tokens a second.

    python benchmarks/gpu/run.py [--shapes 1b,7b] [--weights bf16,q4_0,q4_k] [--load-format dummy] [--out FILE]

Needs torch and Triton, nothing else and no download: weights are random, of real shapes, made on the card
(`--load-format dummy`, the only one). transformers is compared with where it is installed. `--device cpu --shapes tiny
--quick` tries the command itself without a card. Exit code 1 when something computed is wrong.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "src")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="1b,7b", help="of shapes.py, for decoding")
    parser.add_argument("--weights", default="dense,fp8,q8_0,q4_0,q4_k", help="dense, fp8, or formats of GGUF")
    parser.add_argument("--load-format", choices=["dummy"], default="dummy")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--kv-dtypes", default="f16,int8,fp8", help="decoded with --kv-context tokens each")
    parser.add_argument("--kv-context", type=int, default=8000, help="so many that the KV cache counts")
    parser.add_argument("--throughput", default="8b", help="the shape for many requests; '' for none")
    parser.add_argument("--load", default="q4_k", help="the format of a built folder to load, of the last of --shapes")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seqs", type=int, default=256)
    parser.add_argument("--kv-tokens", type=int, default=131072)
    parser.add_argument("--quick", action="store_true", help="few steps and requests: does it run at all?")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.device == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "0")
    os.environ["BEFIT_CUDA_DEVICE"] = args.device

    import correctness
    import speed
    import torch

    from befit.backends.cuda.device import choose_target
    from befit.errors import BefitError

    try:
        target = choose_target(args.device)
    except BefitError as error:
        print(error.message, file=sys.stderr)
        return 2
    report = {
        "device": torch.cuda.get_device_name(target.device) if target.is_cuda else platform.processor() or "CPU",
        "capability": target.capability,
        "torch": torch.__version__,
        "triton": target.triton,
        "python": platform.python_version(),
        "command": " ".join(sys.argv),
    }
    print(json.dumps(report, indent=1))
    report["transformers"] = correctness.against_transformers(target)
    report["kernels"] = correctness.of_kernels(target) | correctness.of_kv(target)
    report["split"] = correctness.of_split(target)
    print(json.dumps({key: report[key] for key in ("transformers", "kernels", "split")}, indent=1))
    bandwidth = report["copy_bytes_per_s"] = speed.copy_bandwidth(target)
    print(f"copy: {bandwidth / 1e9:.0f} GB/s")
    report["decode"], report["failed"] = [], []

    def measured(what, run):
        """A result or, since one failure should not cost the others, what went wrong."""
        try:
            return run()
        except Exception as error:
            print(f"{what} failed: {error!r}", file=sys.stderr)
            report["failed"].append(f"{what}: {error!r}")
            return None

    steps = 8 if args.quick else 200
    for shape in filter(None, args.shapes.split(",")):
        for form in args.weights.split(","):
            kind = None if form == "dense" else form
            what = f"decode {shape} {form}"
            options = {"context": 32 if args.quick else args.context, "steps": steps}
            facts = measured(what, lambda s=shape, k=kind, o=options: speed.decode(s, k, target, bandwidth, **o))
            if facts:
                report["decode"].append(facts)
                print(f"{what}: {facts['tokens_per_s']:.1f} tokens/s, {facts['roof_share']:.1%} of the memory roof")
    for kind in filter(None, args.kv_dtypes.split(",")):
        shape = args.shapes.split(",")[0]
        what = f"decode {shape} with a KV cache of {kind}"
        options = {"context": 64 if args.quick else args.kv_context, "steps": steps, "kv_dtype": kind}
        facts = measured(what, lambda s=shape, o=options: speed.decode(s, None, target, bandwidth, **o))
        if facts:
            report["decode"].append(facts)
            print(f"{what}: {facts['tokens_per_s']:.1f} tokens/s, {facts['roof_share']:.1%} of the memory roof")
    if "right" in report["split"]:
        shape = args.shapes.split(",")[0]
        facts = measured("split", lambda: speed.split(shape, target, steps=min(steps, 40)))
        if facts:
            report["decode"].append(facts)
            print(f"decode {shape}, half of the layers on the CPU: {facts['tokens_per_s']:.1f} tokens/s")
    if args.load:
        shape = args.shapes.split(",")[-1]
        facts = measured("load", lambda: speed.load(shape, args.load, target))
        if facts:
            report["load"] = facts
            print(f"load {shape} {args.load}: {min(facts['seconds']):.2f} s, {facts['bytes_per_s'] / 1e9:.1f} GB/s")
    if args.throughput:
        few = {"requests": 6, "seqs": 4, "kv_tokens": 4096, "mean": (20, 6)}
        many = {"requests": args.requests, "seqs": args.seqs, "kv_tokens": args.kv_tokens, "mean": (220, 200)}
        options = few if args.quick else many
        facts = measured("throughput", lambda: speed.throughput(args.throughput, None, target, **options))
        if facts:
            report["throughput"] = facts
            print(f"throughput {args.throughput}: {facts['output_tokens_per_s']:.0f} output tokens/s")
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    checks = [*report["kernels"].values(), *(v for v in report["transformers"].values() if isinstance(v, dict))]
    checks += [report["split"]] if "right" in report["split"] else []
    return 0 if all(check["right"] for check in checks) and not report["failed"] else 1


if __name__ == "__main__":
    sys.exit(main())
