"""Checkpoints of other systems to jaxdet's and back: one command each, all alike."""

from absl import flags

from jaxdet import config as config_lib
from jaxdet import console
from jaxdet.errors import InputError

FLAGS = flags.FLAGS


def run(system: str) -> None:
    """Runs the command of a system, a key of `jaxdet.weights.systems.SYSTEMS`."""
    flags.DEFINE_string("config", "", "The config of the same architecture, by file or by name.")
    flags.DEFINE_bool("with_optimizer", False, "mmdet: import momentum and iteration too.")
    flags.DEFINE_enum(
        "bn_eps",
        "0",
        ["0", "1e-5"],
        "torchvision: the epsilon of batch norms in a file without counters; 0 in those that were "
        "published, 1e-5 in your own.",
    )
    FLAGS.set_gnu_getopt(True)  # the two names may stand before flags

    def main(argv: list[str]) -> None:
        if len(argv) != 3 or not FLAGS.config:
            raise InputError("give a source, a target and --config (see --help)")
        config = config_lib.parse(config_lib.load_file(FLAGS.config))
        # Imported late, as in the other commands.
        from jaxdet.convert import convert

        convert(argv[1], argv[2], config, FLAGS.with_optimizer, system, float(FLAGS.bn_eps))
        console.say(f"wrote {argv[2]}")

    console.start(main)
