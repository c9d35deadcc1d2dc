"""The reference's checkpoints to jaxdet's and back.

python -m converters.mmdet rpn_r50_fpn_1x.pth runs/converted --config=configs/rpn_r50_fpn_1x.py
python -m converters.mmdet runs/converted out.pth --config=configs/rpn_r50_fpn_1x.py

The side that ends in `.pth` tells the direction; a `.pth` to read may also be a name such as
zoo://rpn_r50_fpn_1x.  `runs/converted` serves as --checkpoint, and as --workdir to train on.
"""

from absl import flags

from jaxdet import config as config_lib
from jaxdet import console
from jaxdet.errors import InputError

FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) != 3 or not FLAGS.config:
        raise InputError("give a source, a target and --config (see --help)")
    config = config_lib.parse(config_lib.load_file(FLAGS.config))
    # Imported late, as in the other commands.
    from jaxdet.convert import convert

    convert(argv[1], argv[2], config, FLAGS.with_optimizer)
    print(f"wrote {argv[2]}")


if __name__ == "__main__":
    flags.DEFINE_string("config", "", "The config of the same architecture, by file or by name.")
    flags.DEFINE_bool("with_optimizer", False, "Import the momentum and the iteration too.")
    FLAGS.set_gnu_getopt(True)  # the two names may stand before flags
    console.start(main)
