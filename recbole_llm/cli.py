"""The console script ``recbole-llm``; ``python -m recbole_llm --model=…`` is its ``run``."""

import argparse
import datetime
import io
import json
import logging
import os
import signal
import sys
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_llm.config_files import flags_as_dict, load_layers
from recbole_llm.errors import ConfigError, RecboleLlmError
from recbole_llm.flags import TAKES_KEYS, Command, build_parser
from recbole_llm.printable import printable, printable_lines
from recbole_llm.warehouse import replace_text

if TYPE_CHECKING:
    from recbole_llm.airflow_local import LocalAirflow

_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0, or the ``exit_code`` of the known error that was met; its one line goes to stderr.
    """
    parser = build_parser(_COMMANDS)
    try:
        args, rest = parser.parse_known_args(sys.argv[1:] if argv is None else argv)
        if rest and args.called not in TAKES_KEYS:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        args.rest = rest
        command: Command = args.command
        command(args)
    except RecboleLlmError as error:
        sys.stderr.write(printable_lines(f"{type(error).__name__}: {error}") + "\n")
        return error.exit_code
    return 0


def _run(args: argparse.Namespace) -> None:
    """Train and test a model by name through RecBole; takes the flags of run_recbole.py."""
    from recbole_llm.run_flags import check_flags
    from recbole_llm.train import train

    check_flags(args.rest, args.model)
    files = args.config_files.split() if args.config_files else None
    train(args.model, args.dataset, files, nproc=args.nproc, port=args.port)


def _transfer(args: argparse.Namespace) -> None:
    """Start a model on a data set from an artifact of another, by the items' texts, and train it."""
    from recbole_llm.run_flags import check_flags
    from recbole_llm.train import train

    check_flags(args.rest, "LLMSeqRec", ("model", "nproc", "port", "transfer_from"))
    sys.argv = [*sys.argv[:1], *args.rest]  # the flags that RecBole reads
    files = args.config_files.split() if args.config_files else None
    train("LLMSeqRec", args.dataset, files, {"transfer_from": str(args.source)})


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
    """Train on a day's features: the first champion, or a challenger that meets it.

    With ``--if-none`` a champion that is there stays, and reads the day's new items.
    """
    from recbole_llm.champion import train_champion
    from recbole_llm.locks import TRAINING, one_job_on

    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
    config = args.config.absolute()
    day = args.day or args.warehouse.raw_day(None)
    sys.argv = sys.argv[:1]  # RecBole reads --key=value flags of whatever program it runs in
    with one_job_on(args.warehouse, TRAINING):
        args.warehouse.training.mkdir(parents=True, exist_ok=True)
        os.chdir(args.warehouse.training)  # and writes its logs into the working directory
        train_champion(args.warehouse, config, day, args.if_none, args.cold)
        if args.if_none and (args.warehouse.features(day) / "manifest.json").is_file():
            from recbole_llm.extend import extend_champion

            extend_champion(args.warehouse, day)


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
    from recbole_llm.locks import no_job
    from recbole_llm.retention import check_retention, expire

    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
    args.warehouse.check_there()
    retention = check_retention(load_layers(args.config).get("retention"))
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    with no_job(args.warehouse):
        expire(args.warehouse, retention, args.day or today)


def _forget(args: argparse.Namespace) -> None:
    """Take a user out of everything, and keep them out."""
    from recbole_llm.blocks import lift
    from recbole_llm.forget import forget, names_of, user_column

    args.warehouse.check_there()
    if args.lift:
        was_blocked = lift(args.warehouse, names_of(args.warehouse, args.user))
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


_COMMANDS: dict[str, Command] = {
    "run": _run,
    "transfer": _transfer,
    "pretrain": _pretrain,
    "compress": _compress,
    "feed": _feed,
    "nightly": _nightly,
    "airflow": _airflow,
    "train": _train,
    "lookup": _lookup,
    "user-key": _user_key,
    "serve": _serve,
    "report": _report,
    "expire": _expire,
    "forget": _forget,
    "explain": _explain,
    "sync": _sync,
    "rollback": _rollback,
    "sql": _sql,
}
