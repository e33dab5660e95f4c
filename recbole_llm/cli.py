"""The console script ``recbole-llm``; ``python -m recbole_llm --model=…`` is its ``run``."""

import argparse
import datetime
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_llm.config_files import config_path, flags_as_dict, load_layers
from recbole_llm.errors import ConfigError, RecboleLlmError
from recbole_llm.printable import printable, printable_lines
from recbole_llm.warehouse import Warehouse, check_day, replace_text

if TYPE_CHECKING:
    from recbole_llm.airflow_local import LocalAirflow

_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or the ``exit_code`` of the known error that was met; its one line goes to stderr.
    """
    parser = _parser()
    args, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
    if rest and args.command not in (_run, _pretrain):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest = rest
    try:
        command: Callable[[argparse.Namespace], None] = args.command
        command(args)
    except RecboleLlmError as error:
        sys.stderr.write(printable_lines(f"{type(error).__name__}: {error}") + "\n")
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="recbole-llm", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=(command.__doc__ or "").splitlines()[0])
        sub.set_defaults(command=command)
        return sub

    run = add("run", _run)
    run.add_argument("--model", default="LLMSeqRec", help="LLMSeqRec or any RecBole model")
    run.add_argument("--dataset", default="ml-100k", help="name of a data set in atomic files")
    run.add_argument("--config_files", help="YAML files, separated by blanks")
    run.add_argument("--nproc", type=int, default=1, help="processes that share the batches")
    run.add_argument("--port", type=int, help="where the processes meet; a free one by default")
    run.epilog = "Any key of RecBole or LLMSeqRec is a flag: --key=value."
    pretrain = add("pretrain", _pretrain)
    pretrain.add_argument("--dataset", required=True, help="name of a data set in atomic files")
    pretrain.add_argument("--output_dir", type=Path, required=True, help="the encoder's folder")
    pretrain.add_argument("--config_files", help="YAML files, separated by blanks")
    pretrain.epilog = "Any key of configs/pretrain.yaml or of RecBole is a flag: --key=value."

    add("feed", _feed)
    nightly = add("nightly", _nightly)
    airflow = add("airflow", _airflow)
    for sub in (nightly, airflow):
        sub.add_argument("--port", type=int, default=8080, help="port of Airflow's page and API")
    train = add("train", _train)
    train.add_argument("--if-none", action="store_true", help="keep a champion that is there")
    train.add_argument("--cold", action="store_true", help="start from random weights")
    lookup = add("lookup", _lookup)
    lookup.add_argument("--user", required=True, help="external user id")
    lookup.add_argument("--k", type=int, default=10, help="recommendations wanted")
    lookup.add_argument("--json", action="store_true", help="print JSON")
    lookup.add_argument(
        "--source", default="parquet", help="parquet, or a sink: postgresql://… or delta:FOLDER"
    )
    _add_explain(add("explain", _explain))
    sync = add("sync", _sync)
    sync.add_argument(
        "--sink",
        action="append",
        help="postgresql://… or delta:FOLDER (default: the settings' sinks)",
    )
    _add_serve(add("serve", _serve))
    report = add("report", _report)
    report.add_argument(
        "--results", type=Path, default=Path("benchmarks/results"), help="of the benchmarks"
    )
    report.add_argument("--output", type=Path, default=Path("report.html"), help="the page")
    expire = add("expire", _expire)
    add("user-key", _user_key)
    forget = add("forget", _forget)
    forget.add_argument("user", help="external user id")
    forget.add_argument("--lift", action="store_true", help="take the user's events in again")
    sql = add("sql", _sql)
    sql.add_argument("query", help="one SELECT over recommendations, runs, quarantine, …")
    sql.add_argument("--json", action="store_true", help="print one JSON object a row")
    rollback = add("rollback", _rollback)
    for sub in (nightly, train, lookup, commands.choices["explain"], sync, rollback, expire):
        sub.add_argument(
            "--day", type=check_day, help="the day, YYYY-MM-DD", required=sub is rollback
        )
    for sub in (train, sync, forget, expire):
        sub.add_argument(
            "--config", type=Path, default=config_path(".", "nightly"), help="the night's settings"
        )
    _add_compress(add("compress", _compress))
    for name, sub in commands.choices.items():
        if name not in ("run", "pretrain", "compress", "user-key"):
            sub.add_argument(
                "--warehouse", type=Warehouse, default=Warehouse("warehouse"),
                help="root folder of the data (default: ./warehouse)",
            )  # fmt: skip
    return parser


def _add_explain(explain: argparse.ArgumentParser) -> None:
    asked = explain.add_mutually_exclusive_group(required=True)
    asked.add_argument("--user", help="external user id, of a published table")
    asked.add_argument("--history", help="item ids, oldest first, separated by commas")
    explain.add_argument(
        "--item",
        action="append",
        help="external item id; again for more (default: the first ranks)",
    )
    explain.add_argument("--k", type=int, default=3, help="ranks explained without --item")
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
    serve.add_argument("--port", type=int, default=8000, help="port to listen on")
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


def _run(args: argparse.Namespace) -> None:
    """Train and test a model by name through RecBole; takes the flags of run_recbole.py."""
    from recbole_llm.train import train

    files = args.config_files.split() if args.config_files else None
    train(args.model, args.dataset, files, nproc=args.nproc, port=args.port)


def _pretrain(args: argparse.Namespace) -> None:
    """Teach a text encoder a data set's texts and what people there do after what."""
    from recbole_llm.pretrain import pretrain, pretrain_options

    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
    sys.argv = sys.argv[:1]  # RecBole reads --key=value flags of whatever program it runs in
    files = args.config_files.split() if args.config_files else None
    options, recbole_settings = pretrain_options(files, flags_as_dict(args.rest))
    pretrain(args.dataset, args.output_dir, options, recbole_settings)


def _compress(args: argparse.Namespace) -> None:
    """Make an encoder or an artifact smaller, or an artifact's network an ONNX file."""
    import torch  # which sets its loggers' levels when it is imported

    # What writes ONNX tells of each step; at torch's warnings there is nothing to do.
    logging.basicConfig(level=logging.WARNING, format=_LOG_FORMAT)
    logging.getLogger("recbole_llm").setLevel(logging.INFO)
    logging.getLogger(torch.onnx.__name__).setLevel(logging.ERROR)
    if args.what == "encoder":
        from recbole_llm.compress_encoder import compress_encoder

        compress_encoder(args.name, args.out, args.layers, args.bits, args.size, args.items)
    elif args.what == "artifact":
        from recbole_llm.compress_artifact import compress_artifact

        compress_artifact(args.path, args.matrix, args.out)
    else:
        from recbole_llm.onnx_scorer import export_scorer

        export_scorer(args.path, args.out)


def _feed(args: argparse.Namespace) -> None:
    """Write a raw event feed derived from ml-100k."""
    from recbole_llm.feed import write_feed

    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
    write_feed(args.warehouse)


def _nightly(args: argparse.Namespace) -> None:
    """Run a day's night through Airflow, from raw events to the published table."""
    from recbole_llm.airflow_local import run_night
    from recbole_llm.feed import write_feed
    from recbole_llm.query import latest_user

    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
    if not args.warehouse.raw_events.exists():
        write_feed(args.warehouse)
    args.day = args.warehouse.raw_day(args.day)
    with _local_airflow(args, scheduled=False) as airflow:
        run_night(airflow, args.day)
    args.user, args.k, args.json = latest_user(args.warehouse, args.day), 10, False
    args.source = "parquet"
    _lookup(args)


def _airflow(args: argparse.Namespace) -> None:
    """Start Airflow with the DAGs loaded, until Ctrl-C."""
    from recbole_llm.airflow_local import serve

    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
    with _local_airflow(args, scheduled=True) as airflow:
        serve(airflow)


def _local_airflow(args: argparse.Namespace, scheduled: bool) -> "LocalAirflow":
    from recbole_llm.airflow_local import LocalAirflow
    from recbole_llm.pseudonyms import add_user_key, keys_source

    keys = keys_source()
    if keys is not None and not keys.exists():
        add_user_key(keys)
        logging.info("made a key of users' pseudonyms in %s; keep it safe", keys)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that Airflow is stopped too
    home = Path(__file__).parent.parent
    if not (home / "dags").is_dir():
        raise ConfigError(f"no dags/ in {home}: run this from a checkout of the project")
    return LocalAirflow(
        home, args.warehouse.root, home / ".venv-airflow", port=args.port, scheduled=scheduled
    )


def _train(args: argparse.Namespace) -> None:
    """Train on a day's features: the first champion, or a challenger that meets it."""
    from recbole_llm.champion import train_champion

    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
    config = args.config.absolute()
    day = args.day or args.warehouse.raw_day(None)
    args.warehouse.training.mkdir(parents=True, exist_ok=True)
    os.chdir(args.warehouse.training)  # RecBole writes its logs into the working directory
    sys.argv = sys.argv[:1]  # and reads --key=value flags of whatever program it runs in
    train_champion(args.warehouse, config, day, args.if_none, args.cold)


def _lookup(args: argparse.Namespace) -> None:
    """Show one user's history and recommendations."""
    from recbole_llm.query import lookup

    with ExitStack() as opened:
        tables = None
        if args.source != "parquet":
            from recbole_llm.sinks import open_sink

            tables = opened.enter_context(closing(open_sink(args.source)))
        found = lookup(args.warehouse, args.user, args.day, args.k, tables=tables)
    if args.json:
        _print_json(asdict(found))
        return
    lines = [f"user {found.user_id} on {found.ds}, model {found.model_version}, history:"]
    lines += [
        f"      {item['item_id']:>8}  {item['title']}" + ("" if item["is_read"] else " (not read)")
        for item in found.history
    ]
    lines += ["recommendations (rank, item, score, reason, title):"]
    lines += [
        f"  {r['rank']:>3} {r['item_id']:>8}  {r['score']:8.4f}  {r['reason']:<8} {r['title']}"
        + (f" ({r['why']})" if r["why"] else "")
        for r in found.recommendations
    ]
    lines += [f"table: {found.path or args.source}"]
    sys.stdout.write("\n".join(map(printable, lines)) + "\n")


def _user_key(_: argparse.Namespace) -> None:
    """Make a secret key of users' pseudonyms, or rotate it by adding another."""
    from recbole_llm.pseudonyms import add_user_key, keys_file

    path = keys_file()
    names = add_user_key(path).names
    sys.stdout.write(
        f"{path} holds {len(names)} key{'s' * (len(names) > 1)}, the newest {names[-1]}; keep it safe: "
        "without it nobody can be looked up by their id\n"
    )


def _serve(args: argparse.Namespace) -> None:
    """Answer over HTTP: rank histories and users now, read out the table, explain."""
    try:
        from recbole_llm.serve.server import serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed: pip install 'recbole-llm[serve]'"
        ) from None
    from recbole_llm.serve.settings import load_serve_settings

    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
    warehouse = args.warehouse if args.warehouse.root.is_dir() else None
    serve(warehouse, args.artifact, load_serve_settings(args.config), args.host, args.port)


def _report(args: argparse.Namespace) -> None:
    """Write a page about everything that was measured: benchmarks, training, a night, some users."""
    from recbole_llm.report.page import render_report
    from recbole_llm.report.results import read_results

    results = read_results(args.results) if args.results.is_dir() else None
    replace_text(args.output, render_report(results, args.warehouse))
    sys.stdout.write(f"{args.output}\n")


def _expire(args: argparse.Namespace) -> None:
    """Delete what is older than its days, counted back from a day, or from today."""
    from recbole_llm.retention import check_retention, expire

    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
    retention = check_retention(load_layers(args.config).get("retention"))
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    expire(args.warehouse, retention, args.day or today)


def _forget(args: argparse.Namespace) -> None:
    """Take a user out of everything, and keep them out."""
    from recbole_llm.blocks import lift
    from recbole_llm.forget import forget, names_of, user_column

    if args.lift:
        was_blocked = lift(args.warehouse, names_of(args.user))
        sys.stdout.write("lifted\n" if was_blocked else "nobody of that id is blocked\n")
        return
    settings = load_layers(args.config)
    sinks = settings.get("sinks", [])
    report = forget(args.warehouse, args.user, sinks, user_column(settings))
    sys.stdout.write(json.dumps(asdict(report), indent=2) + "\n")
    if report.left:
        raise RecboleLlmError(f"{len(report.left)} files name the user still: {report.left[:3]}")


def _explain(args: argparse.Namespace) -> None:
    """Say why items stand in a user's list, or suit a history."""
    from recbole_llm.explain.command import explain

    sys.stdout.write(
        explain(
            args.warehouse, args.user, args.day, args.history and args.history.split(","),
            args.artifact, args.item, args.k, args.output, args.json,
        )
    )  # fmt: skip


def _sync(args: argparse.Namespace) -> None:
    """Let PostgreSQL or Delta hold the published tables, loading what is new."""
    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
    sinks = load_layers(args.config).get("sinks", []) if args.sink is None else args.sink
    if not isinstance(sinks, list) or not all(isinstance(sink, str) for sink in sinks):
        raise ConfigError(f"sinks in {args.config} must be a list of addresses, got {sinks!r}")
    if not sinks:
        logging.info("no sinks in %s, and no --sink", args.config)
        return
    from recbole_llm.sync import sync_all

    sync_all(args.warehouse, sinks, args.day)


def _rollback(args: argparse.Namespace) -> None:
    """Let a day's table be what it was before it was last published."""
    from recbole_llm.published import roll_back

    left = args.warehouse.published_run(args.day)
    now = roll_back(args.warehouse, args.day)
    latest = args.warehouse.published_run(None)["ds"]
    outcome = f"run {now['run_id']}" if now else "withdrawn"
    sys.stdout.write(f"{args.day}: {outcome}, was run {left['run_id']}; latest day: {latest}\n")


def _sql(args: argparse.Namespace) -> None:
    """Run one read-only SELECT over the published tables."""
    from recbole_llm.query import run_sql

    relation = run_sql(args.warehouse, args.query)
    if args.json:
        for row in relation.fetchall():
            _print_json(dict(zip(relation.columns, row, strict=True)))
    else:
        with redirect_stdout(io.StringIO()) as shown:
            relation.show(max_width=160)
        sys.stdout.write(printable_lines(shown.getvalue()))


def _print_json(record: dict[str, Any]) -> None:
    sys.stdout.write(printable(json.dumps(record, default=str, ensure_ascii=False)) + "\n")
