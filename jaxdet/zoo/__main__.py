"""The zoo's table: what was published, and what this machine gives.

python -m jaxdet.zoo
python -m jaxdet.zoo --measure configs/rpn_r50_fpn_1x.py configs/rpn_r50_c4_1x.py \
    --root=/data/coco --checkpoint=zoo://rpn_r50_fpn_1x,zoo://rpn_r50_c4_1x
"""

from dataclasses import replace
from pathlib import Path

from absl import flags

from jaxdet import config as config_lib
from jaxdet import console
from jaxdet.config import Config
from jaxdet.console import say
from jaxdet.errors import InputError
from jaxdet.files import make_folder, write_json, write_whole
from jaxdet.zoo.table import Measured, markdown_table, page

FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Prints the table, or measures."""
    if FLAGS.measure:
        configs = [config_lib.parse(config_lib.load_file(path)) for path in argv[1:]]
        if FLAGS.root:
            configs = [replace(c, data=replace(c.data, root=FLAGS.root)) for c in configs]
        _measure(configs, Path(FLAGS.out))
    elif len(argv) > 1:
        raise InputError(f"{argv[1]}: not understood; configs to measure follow --measure")
    else:
        say(*markdown_table().splitlines())


def _measure(configs: list[Config], out: Path) -> None:
    names = [config.name for config in configs]
    if not names or len(set(names)) < len(names):
        raise InputError(f"--measure: names {', '.join(names) or 'no config'}; give each one once")
    checkpoints = FLAGS.checkpoint or [""] * len(configs)
    if len(checkpoints) != len(configs):
        raise InputError(
            f"--checkpoint: {len(checkpoints)} for {len(configs)} configs; give one for each, in "
            "the same order, or an empty one"
        )
    make_folder(out)
    # Imported late: loader processes import this module and must not pay for jax.
    from jaxdet.zoo.measure import measure_apart

    say(f"measuring {', '.join(names)}")
    measured: list[Measured] = []
    for config, checkpoint in zip(configs, checkpoints, strict=True):
        files = FLAGS.proposals if config.model.takes_proposals else []
        arguments = checkpoint, FLAGS.steps, FLAGS.num_images, files
        measured.append(measure_apart(config, *arguments))
        # After each, so that what took hours is not lost to what comes next.
        write_whole(out / "zoo.md", page(measured).encode())
        write_json(out / "zoo.json", measured)
        say(f"{config.name}: done; {out}/zoo.md and {out}/zoo.json written")
    say(*markdown_table(measured).splitlines())


def define_flags() -> None:
    """Defines them late, because other commands have flags of the same names."""
    flags.DEFINE_bool("measure", False, "Measure the configs that follow, by file or by name.")
    flags.DEFINE_list(
        "checkpoint",
        [],
        "Work directories, .pth files or zoo://NAME, separated by commas: one for each config, "
        "perhaps empty. Without, fresh parameters are measured, and no AR1000.",
    )
    flags.DEFINE_string("root", "", "Instead of the configs' own config.data.root.")
    flags.DEFINE_integer("steps", 20, "Training steps to time; 0 leaves training out.", 0)
    flags.DEFINE_integer("num_images", 0, "Validation images; 0 for all, as AR1000 needs.", 0)
    flags.DEFINE_list(
        "proposals", [], "Fast R-CNN's files: VAL,TRAIN, or VAL with --steps=0; .npz or .pkl."
    )
    flags.DEFINE_string("out", "zoo", "The folder for zoo.md and zoo.json.")
    FLAGS.set_gnu_getopt(True)  # configs may stand before flags


if __name__ == "__main__":
    console.start(main, define_flags)
