"""Training and evaluation as commands."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdet import console
from jaxdet.config import Config, warn_of_other_results
from jaxdet.distributed import data_mesh, is_first_host, print_once
from jaxdet.files import make_folder
from jaxdet.inference import proposal_files
from jaxdet.inference import results as report
from jaxdet.inference.evaluate import evaluate
from jaxdet.inference.given import load_splits
from jaxdet.inference.predictor import load_predictor
from jaxdet.inference.report import write_report
from jaxdet.training.loop import Stopped, TrainingError, train
from jaxdet.training.workdir import OWN, checkpoint_name, claim_workdir, require_same_results


def run_train(
    config: Config, workdir: Path, checkpoint: str, proposals: Sequence[str] = ()
) -> None:
    """Trains in `workdir`, which must be new or of the same config; see `train`."""
    try:
        with claim_workdir(workdir, config):
            result = train(config, workdir, checkpoint, proposals)
    except Stopped as stop:
        console.fail(str(stop), stop.code)
    except TrainingError as error:
        console.fail(str(error), 1)
    measured = f", eval.json and {report.kind_of(result)}.png" if result else ""
    print_once(f"wrote {workdir}/report.html{measured}")


def run_eval(
    config: Config,
    workdir: Path,
    checkpoint: str | Path,
    save_proposals: bool,
    split: str = "val",
    proposals: Sequence[str] = (),
    proposals_format: proposal_files.Format = "npz",
) -> dict[str, Any]:
    """Evaluates a checkpoint on a split; writes into `workdir`, or into its folder `train`."""
    name = checkpoint_name(workdir, checkpoint)
    folder = workdir if split == "val" else workdir / split
    with claim_workdir(workdir, config, name):
        (dataset,) = load_splits(config, (split,), proposals)
        if save_proposals:
            proposal_files.require_order(proposals_format, dataset)
        predictor = load_predictor(config, checkpoint, data_mesh())
        if name != OWN:  # which is refused if its run had other settings
            warn_of_other_results(checkpoint, config)
        require_same_results(folder, checkpoint=name, data=dataset.summary)
        make_folder(folder)
        result, found = evaluate(predictor, dataset)
        result["checkpoint"] = name
        report.write_evaluation(folder, result, dataset, found)
        if not len(dataset.xywh):
            print_once(f"{dataset.source}: no annotations, so there is nothing to measure")
        write_report(folder, config)
        if save_proposals and is_first_host():
            proposal_files.write(folder, proposals_format, dataset, found)
        return result
