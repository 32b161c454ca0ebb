"""The command `lightning-unlearn`: a light front that answers help and version itself and hands over the rest.

Nothing heavy is imported here: `--help` and `--version` answer without torch. What a command needs is imported
where the command starts. A mistake of the user ends in one line on stderr and exit code 2; set
LIGHTNING_UNLEARN_DEBUG=1 to see the traceback instead.
"""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from lightning_unlearn import __version__
from lightning_unlearn.usage import UsageError, did_you_mean, single_line

PROGRAM = "lightning-unlearn"
COMMANDS = {
    "fit": "make a model forget, and write a run folder with the evidence",
    "validate": "evaluate a model on the validation rows",
    "test": "run the evaluation protocols on a model",
    "discriminate": "find in a file of dialogues what is to be forgotten",
    "alternates": "let the model make up other answers to what it is to forget",
    "continual": "serve requests to forget one after the other",
    "negate": "subtract what fine-tuning on the forget rows added to a model's weights",
    "stress": "try to bring back what a model forgot: relearning, coarser weights, other prompts, probes",
    "demo": "train, unlearn and report on built-in fictitious authors, on a CPU",
    "report": "write the report of a run or of a sequence of requests, or compare runs",
    "export": "write a checkpoint as a folder that from_pretrained loads",
    "purge": "delete what a run or a discrimination still holds of the forgotten data",
}
# These take every option of the Trainer, the objective and the data, so LightningCLI parses them.
TRAINER_COMMANDS = ("fit", "validate", "test")
# These take the options of one function, in the module of their name.
FUNCTION_COMMANDS = ("alternates", "continual", "demo", "discriminate", "negate", "stress")
SUFFIXES = {"html": ".html", "latex": ".tex", "csv": ".csv", "markdown": ".md"}  # of a comparison
EXAMPLE = """example:
  lightning-unlearn fit --config configs/objectives/maximize_entropy.yaml --config configs/data/fictitious.yaml \\
      --model.model path/or/hub-name --trainer.default_root_dir runs/first
  lightning-unlearn report runs/first
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are UsageErrors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 after a mistake in the options or the data.

    Args:
        argv: The words after the program's name; by default those of this process.
    """
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it asks for a kernel of CPUs, on being imported
    try:
        return _run(argv)
    except Exception as error:
        if os.environ.get("LIGHTNING_UNLEARN_DEBUG") or not _is_users_mistake(error):
            raise
        print(f"{PROGRAM}: error: {_one_line(error)}", file=sys.stderr)
        return 2


def _run(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    command = words[0] if words else "--help"
    if command in TRAINER_COMMANDS:
        from lightning_unlearn.trainer_cli import run

        # sys.argv stays as it is where the words came from it: launchers of several processes start it again
        run(None if argv is None else words)
    elif command in FUNCTION_COMMANDS:
        return import_module(f"lightning_unlearn.{command}").main(words[1:]) or 0
    elif not command.startswith("-") and command not in COMMANDS:
        raise UsageError(f"unknown command {command!r}{did_you_mean(command, COMMANDS)}")
    else:
        options = _parser().parse_args(words or ["--help"])
        options.run(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Make a language model forget chosen data, and prove that it did.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parsers = {name: commands.add_parser(name, help=text, description=text) for name, text in COMMANDS.items()}

    report = parsers["report"]
    report.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run folders; several are compared")
    report.add_argument("--output", type=Path, help="file of a comparison (default: comparison.html, .tex, ...)")
    report.add_argument("--format", choices=SUFFIXES, default="html", help="of a comparison (default: html)")
    report.add_argument("--columns", metavar="SCORE", nargs="+", help="scores to compare, as metrics.json has them")
    report.add_argument("--redact", action="store_true", help="mask every text of the rows")
    report.set_defaults(run=_report)

    export = parsers["export"]
    export.add_argument("source", metavar="RUN_OR_CHECKPOINT", type=Path)
    export.add_argument("--output", type=Path, required=True, help="the folder to write")
    form = export.add_mutually_exclusive_group()
    form.add_argument("--merge", action="store_true", default=True, help="merge LoRA into the weights (default)")
    form.add_argument("--adapter", dest="merge", action="store_false", help="write the LoRA adapter alone")
    export.set_defaults(run=_export)

    purge = parsers["purge"]
    purge.add_argument("folder", metavar="RUN_OR_DISCRIMINATION", type=Path)
    purge.add_argument("--dry-run", action="store_true", help="only list what would be deleted")
    purge.set_defaults(run=_purge)
    return parser


def _report(options: argparse.Namespace) -> None:
    from lightning_unlearn import report
    from lightning_unlearn.continual import ABOUT as SEQUENCE

    alone = len(options.runs) == 1 and options.format == "html" and not options.columns
    if alone and options.output:
        raise UsageError(f"output is for a comparison, the report of one run lies in its folder; got {options.output}")
    if alone and (options.runs[0] / SEQUENCE).is_file():
        print(report.write_sequence(options.runs[0]))
    elif alone:
        print(report.write_report(options.runs[0], redact=options.redact or None))
    else:
        output = options.output or Path("comparison").with_suffix(SUFFIXES[options.format])
        print(report.write_comparison(options.runs, output, form=options.format, columns=options.columns))


def _export(options: argparse.Namespace) -> None:
    from lightning_unlearn.export import export

    print(export(options.source, options.output, merge=options.merge))


def _purge(options: argparse.Namespace) -> None:
    from lightning_unlearn.purge import purge

    removed = purge(options.folder, dry_run=options.dry_run)
    for path in removed:
        print(f"{'would remove' if options.dry_run else 'removed'} {path}")
    if not removed:
        print(f"{options.folder} holds nothing to remove")


def _is_users_mistake(error: Exception) -> bool:
    """Whether the error speaks about options, files or data, so that its message is all that is needed."""
    if isinstance(error, (ValueError, OSError, ImportError)) or _is_about_a_checkpoint(error):
        return True
    exceptions = sys.modules.get("lightning.fabric.utilities.exceptions")
    return exceptions is not None and isinstance(error, exceptions.MisconfigurationException)


def _is_about_a_checkpoint(error: Exception) -> bool:
    """Whether torch refused a checkpoint: code in it, a broken file, or weights of another model."""
    broken = re.match(r"PytorchStreamReader|Error\(s\) in loading state_dict", str(error))
    return isinstance(error, pickle.UnpicklingError) or (isinstance(error, RuntimeError) and broken is not None)


def _one_line(error: Exception) -> str:
    """What to tell of a mistake; torch's advice to load a refused checkpoint without care is left out."""
    if isinstance(error, pickle.UnpicklingError):
        found = re.search(r"(?:Unsupported|Trying to load|GLOBAL) .+", str(error))
        reason = found[0] if found else single_line(str(error))
        return f"checkpoint refused: it is damaged or holds more than tensors and plain values ({reason})"
    return single_line(str(error)) or type(error).__name__
