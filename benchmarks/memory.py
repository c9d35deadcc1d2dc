"""Peak memory of training: jaxdet beside PyTorch, each in a process of its own.

    python -m benchmarks.memory

Three steps; on a CPU the largest resident size, with what the process held before them, on a GPU
what each library's allocator had in use.
"""

import json
import resource
import subprocess
import sys

import jax

from benchmarks import peers
from benchmarks.setups import load_config, parser, random_batch, random_params
from benchmarks.timing import save, torch, torch_device, use_same_threads
from benchmarks.train_step import our_step, plain_step


def peak(side: str) -> float:
    """GB so far."""
    if side != "jaxdet" and torch_device() == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"] / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # which is in KB on Linux


def main() -> None:
    """Measures a side, or starts a process for each, prints and saves."""
    flags = parser(__doc__.splitlines()[0], repeats=3)
    flags.add_argument("--side", help="measured in this process: jaxdet, eager, channels_last, ...")
    args = flags.parse_args()
    if args.side:
        use_same_threads()
        config = load_config(args.config[0], args.precision)
        case = config, random_params(config), random_batch((args.size[0], args.size[1]), args.batch)
        before = peak(args.side)
        step = our_step(*case)[0] if args.side == "jaxdet" else plain_step(*case, args.side)
        for _ in range(args.repeats):
            step()
        print(json.dumps({"memory_gb": peak(args.side), "memory_before_gb": before}))
        return
    rows = []
    for name in args.config:
        for side in ("jaxdet", *peers.available(("eager", "channels_last"), args.precision)):
            command = [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:], "--side", side]
            command += ["--config", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append({"model": name, "side": side, **json.loads(done.stdout.splitlines()[-1])})
            print(rows[-1], flush=True)
    save("memory", rows)


if __name__ == "__main__":
    main()
