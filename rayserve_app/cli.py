"""`rayserve-app`: one command, one subcommand per job.

A subcommand is a function that adds its arguments to a parser and names what runs; that imports
what it needs when it runs, so that `--help` stays quick and nothing else must be installed.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rayserve_app.errors import ServingError

if TYPE_CHECKING:
    from rayserve_app.bench.figure import Figure

Run = Callable[[argparse.Namespace], int]


def add_serve(parser: argparse.ArgumentParser) -> Run:
    """Serve the applications of a Serve YAML in the foreground."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a Serve YAML")
    _add_environment(parser)

    def run(arguments: argparse.Namespace) -> int:
        from rayserve_app.operations.server.settings import file_beside
        from rayserve_app.operations.server.supervisor import serve

        return serve(arguments.config, arguments.environment or file_beside(arguments.config))

    return run


def _add_environment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--environment",
        type=Path,
        metavar="FILE",
        help="KEY=VALUE lines over the variables that we set for Serve"
        " (default: serve.env beside CONFIG, if there is one)",
    )


def add_build_models(parser: argparse.ArgumentParser) -> Run:
    """Build the example models that configs/app.yaml serves."""
    parser.add_argument(
        "directory", type=Path, nargs="?", default=Path("models"), metavar="DIRECTORY"
    )

    def run(arguments: argparse.Namespace) -> int:
        from rayserve_app.examples.build import build_models

        build_models(arguments.directory)
        return 0

    return run


def add_check(parser: argparse.ArgumentParser) -> Run:
    """Check Serve YAMLs: unknown keys, models' arguments, CPUs, deadlines."""
    parser.add_argument("configs", type=Path, nargs="+", metavar="CONFIG", help="a Serve YAML")
    _add_environment(parser)
    parser.add_argument(
        "--cores", type=number, metavar="N", help="CPUs to place replicas on (default: all here)"
    )
    parser.add_argument(
        "--gpus", type=number, metavar="N", help="GPUs likewise (default: not looked at)"
    )

    def run(arguments: argparse.Namespace) -> int:
        from rayserve_app.operations.checks import check_files

        return check_files(
            arguments.configs,
            environment_file=arguments.environment,
            cores=arguments.cores,
            gpus=arguments.gpus,
        )

    return run


def number(text: str) -> Fraction:
    """Return an amount as it is written, in decimals; ValueError for anything else."""
    if not re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
        raise ValueError(text)
    return Fraction(text)


def add_manifest(parser: argparse.ArgumentParser) -> Run:
    """Print the Kubernetes manifest of a Serve YAML."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a Serve YAML")
    _add_environment(parser)
    parser.add_argument("--image", metavar="IMAGE", help="what k8s/Dockerfile makes, as pushed")

    def run(arguments: argparse.Namespace) -> int:
        from rayserve_app.operations.kubernetes import manifest

        made = manifest(
            arguments.config, environment_file=arguments.environment, image=arguments.image
        )
        print(made, end="")
        return 0

    return run


def add_bench(parser: argparse.ArgumentParser) -> Run:
    """Measure the server against its targets."""
    _add_bench_arguments(parser)

    def run(arguments: argparse.Namespace) -> int:
        from rayserve_app.bench.figures import find_figures

        return _bench(find_figures(), arguments)

    return run


def add_bench_peers(parser: argparse.ArgumentParser) -> Run:
    """Measure the server beside LitServe, BentoML and MLServer, as `make bench-peers` has them."""
    _add_bench_arguments(parser)

    def run(arguments: argparse.Namespace) -> int:
        from rayserve_app.bench.peer_figures import PEER_FIGURES
        from rayserve_app.bench.peer_servers import require_environments

        require_environments()
        return _bench(PEER_FIGURES, arguments)

    return run


def _add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help="only these (default: all)")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="CONFIG",
        default=Path("configs/app.yaml"),
        help="a Serve YAML with image-example and resnet-embedding (default: %(default)s)",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="ratios are medians of so many")
    parser.add_argument("--seconds", type=float, metavar="S", help="of one measurement")
    parser.add_argument(
        "--quick", action="store_true", help="see that it runs; figures mean little"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="and draw it: .png, .svg, .pdf")


def _bench(known: Mapping[str, Figure], arguments: argparse.Namespace) -> int:
    from rayserve_app.bench.figure import QUICK, STANDARD, Effort
    from rayserve_app.bench.runner import bench

    usual = QUICK if arguments.quick else STANDARD
    effort = Effort(arguments.rounds or usual.rounds, arguments.seconds or usual.seconds)
    return bench(
        known,
        arguments.figures,
        effort,
        arguments.config,
        json_path=arguments.json,
        plot_path=arguments.plot,
    )


def add_plot(parser: argparse.ArgumentParser) -> Run:
    """Draw a report that a benchmark has written as JSON."""
    parser.add_argument("report", type=Path, metavar="JSON", help="what --json has written")
    parser.add_argument("picture", type=Path, metavar="FILE", help=".png, .svg or .pdf")

    def run(arguments: argparse.Namespace) -> int:
        from rayserve_app.bench.plot import draw_file

        draw_file(arguments.report, arguments.picture)
        return 0

    return run


SUBCOMMANDS: dict[str, Callable[[argparse.ArgumentParser], Run]] = {
    "serve": add_serve,
    "build-models": add_build_models,
    "check": add_check,
    "manifest": add_manifest,
    "bench": add_bench,
    "bench-peers": add_bench_peers,
    "plot": add_plot,
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command; what runs stands in its result's `run`."""
    parser = argparse.ArgumentParser(
        prog="rayserve-app", description="Serve image models on Ray Serve."
    )
    parser.add_argument("--version", action="version", version=version("rayserve-app"))
    subparsers = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
    for name, add in SUBCOMMANDS.items():
        summary = (add.__doc__ or "").splitlines()[0]
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        subparser.set_defaults(run=add(subparser))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; return the exit status, 1 with one line where a ServingError says why."""
    parsed = build_parser().parse_args(arguments)
    run: Run = parsed.run
    try:
        return run(parsed)
    except ServingError as error:
        print(f"rayserve-app: {error}", file=sys.stderr)
        return 1
