"""The commands of ``recbole-llm`` and what each may be told."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from recbole_llm.config_files import config_path
from recbole_llm.warehouse import Warehouse, check_day

Command = Callable[[argparse.Namespace], None]
TAKES_KEYS = ("run", "transfer", "pretrain")
"""Commands that take any key of RecBole as a flag; what they do not know themselves is in ``rest``."""
_OF_NO_WAREHOUSE = (*TAKES_KEYS, "compress", "user-key")


def build_parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        commands: by name; the first line of a function's docstring is its help.
    """
    parser = argparse.ArgumentParser(
        prog="recbole-llm", description="Train, run nights, look up, explain and serve."
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", dest="called")
    of = {}
    for name, command in commands.items():
        of[name] = subparsers.add_parser(name, help=(command.__doc__ or "").splitlines()[0])
        of[name].set_defaults(command=command)
    _add_training(of["run"], of["transfer"], of["pretrain"])
    _add_warehouse(of)
    _add_explain(of["explain"])
    _add_serve(of["serve"])
    _add_compress(of["compress"])
    return parser


def _add_training(
    run: argparse.ArgumentParser,
    transfer: argparse.ArgumentParser,
    pretrain: argparse.ArgumentParser,
) -> None:
    run.add_argument("--model", default="LLMSeqRec", help="LLMSeqRec or any RecBole model")
    run.add_argument("--dataset", default="ml-100k", help="name of a data set in atomic files")
    run.add_argument("--nproc", type=int, default=1, help="processes that share the batches")
    run.add_argument("--port", type=int, help="where the processes meet; a free one by default")
    run.epilog = "Any key of RecBole or LLMSeqRec is a flag: --key=value."
    transfer.add_argument(
        "--from", type=Path, required=True, dest="source", help="an artifact of another data set"
    )
    transfer.epilog = "Any key of RecBole or LLMSeqRec is a flag; --epochs=0 trains nothing."
    pretrain.add_argument("--output_dir", type=Path, required=True, help="the encoder's folder")
    pretrain.epilog = "Any key of configs/pretrain.yaml or of RecBole is a flag: --key=value."
    for sub in (transfer, pretrain):
        sub.add_argument("--dataset", required=True, help="name of a data set in atomic files")
    for sub in (run, transfer, pretrain):
        sub.add_argument("--config_files", help="YAML files, separated by blanks")


def _add_warehouse(of: Mapping[str, argparse.ArgumentParser]) -> None:
    for name in ("nightly", "airflow"):
        of[name].add_argument(
            "--port", type=_port, default=8080, help="port of Airflow's page and API"
        )
    train, lookup, report = of["train"], of["lookup"], of["report"]
    train.add_argument(
        "--if-none",
        action="store_true",
        help="keep a champion that is there, and let it read the day's new items",
    )
    train.add_argument("--cold", action="store_true", help="start from random weights")
    lookup.add_argument("--user", required=True, help="external user id")
    lookup.add_argument("--k", type=_at_least_one, default=10, help="recommendations wanted")
    lookup.add_argument("--json", action="store_true", help="print JSON")
    lookup.add_argument(
        "--source", default="parquet", help="parquet, or a sink: postgresql://… or delta:FOLDER"
    )
    of["sync"].add_argument(
        "--sink",
        action="append",
        help="postgresql://… or delta:FOLDER (default: the settings' sinks)",
    )
    report.add_argument(
        "--results", type=Path, default=Path("benchmarks/results"), help="of the benchmarks"
    )
    report.add_argument("--output", type=Path, default=Path("report.html"), help="the page")
    of["forget"].add_argument("user", help="external user id")
    of["forget"].add_argument("--lift", action="store_true", help="take the user's events in again")
    of["sql"].add_argument("query", help="one SELECT over recommendations, runs, quarantine, …")
    of["sql"].add_argument("--json", action="store_true", help="print one JSON object a row")
    for name in ("nightly", "train", "lookup", "explain", "sync", "rollback", "expire"):
        of[name].add_argument(
            "--day", type=check_day, help="the day, YYYY-MM-DD", required=name == "rollback"
        )
    for name in ("train", "sync", "forget", "expire"):
        of[name].add_argument(
            "--config", type=Path, default=config_path(".", "nightly"), help="the night's settings"
        )
    for name in of.keys() - {*_OF_NO_WAREHOUSE}:
        of[name].add_argument(
            "--warehouse", type=Warehouse, default=Warehouse("warehouse"),
            help="root folder of the data (default: ./warehouse)",
        )  # fmt: skip


def _add_explain(explain: argparse.ArgumentParser) -> None:
    asked = explain.add_mutually_exclusive_group(required=True)
    asked.add_argument("--user", help="external user id, of a published table")
    asked.add_argument("--history", help="item ids, oldest first, separated by commas")
    explain.add_argument(
        "--item",
        action="append",
        help="external item id; again for more (default: the first ranks)",
    )
    explain.add_argument(
        "--k", type=_at_least_one, default=3, help="ranks explained without --item"
    )
    explain.add_argument(
        "--artifact", type=Path, help="the model's folder (default: the one that scored the table)"
    )
    explain.add_argument("--output", type=Path, help="an HTML page to write")
    explain.add_argument("--json", action="store_true", help="print JSON")


def _add_serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument(
        "--artifact",
        type=Path,
        help="a model that ranks in the champion's place: its folder or a link",
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serve.add_argument("--port", type=_port, default=8000, help="port to listen on")
    serve.add_argument(
        "--config", type=Path, default=config_path(".", "serve"), help="the service's settings"
    )


def _add_compress(compress: argparse.ArgumentParser) -> None:
    whats = compress.add_subparsers(dest="what", required=True, metavar="WHAT")
    encoder = whats.add_parser("encoder", help="fewer bits, layers or components, for a CPU")
    encoder.add_argument("name", help="a name in configs/encoder, a folder or a .gguf file")
    encoder.add_argument("--out", type=Path, required=True, help="the folder to make")
    encoder.add_argument("--bits", type=int, default=8, help="of a weight: 8 or 32")
    encoder.add_argument("--layers", type=int, help="layers to keep, the last among them")
    encoder.add_argument("--size", type=int, help="principal components to keep")
    encoder.add_argument("--items", type=Path, help=".item file that these are fitted to")
    artifact = whats.add_parser("artifact", help="a smaller item matrix")
    artifact.add_argument("path", type=Path, help="the artifact's folder")
    artifact.add_argument("--matrix", default="int6", help="float16, int8 or int6 (default: int6)")
    artifact.add_argument("--out", type=Path, help="where the new one goes (default: beside it)")
    onnx = whats.add_parser("onnx", help="the network that reads histories, as an ONNX file")
    onnx.add_argument("path", type=Path, help="the artifact's folder")
    onnx.add_argument("--out", type=Path, required=True, help="the file to make")


def _at_least_one(text: str) -> int:
    return _whole(text, 1, None)


def _port(text: str) -> int:
    return _whole(text, 0, (1 << 16) - 1)


def _whole(text: str, least: int, most: int | None) -> int:
    expected = f"at least {least}" if most is None else f"in [{least}, {most}]"
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least or (most is not None and number > most):
        raise argparse.ArgumentTypeError(f"must be a whole number {expected}, got {text!r}")
    return number
