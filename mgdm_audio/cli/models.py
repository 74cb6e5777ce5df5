"""``mgdm-models``: list, describe, import and check priors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.filesize import decimal as human_size  # such as 1.6 GB

from mgdm_audio.cli.common import (
    CONTEXT,
    EXIT_FAILED,
    Group,
    echo_json,
    report_error,
    together,
)

if TYPE_CHECKING:
    from mgdm_audio.priors.msdm.importer import ImportReport


@click.group(cls=Group, context_settings=CONTEXT)
@click.version_option(package_name="mgdm", prog_name="mgdm-models")
def main() -> None:
    """List, describe, import and check the priors that mgdm-separate can use."""


def _catalogue() -> Any:
    from mgdm_audio.priors import catalogue  # with torch, seconds that `--help` should not take

    return catalogue


# -- looking --------------------------------------------------------------------------------------


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(as_json: bool) -> None:
    """List the known priors."""
    print_priors(as_json)


def print_priors(as_json: bool = False) -> None:
    """Print the known priors, as a table or as JSON."""
    rows = [_summary(entry) for entry in _catalogue().list_priors()]
    if as_json:
        echo_json(rows)
        return
    table = [("NAME", "NETWORK", "STEMS", "RATE", "SIZE", "SOURCE")]
    for row in rows:
        if row["error"]:
            table.append((row["name"], f"({row['error']})", "", "", "", row["source"]))
        else:
            stems, size = ",".join(row["stems"]), human_size(row["bytes"])
            rate = f"{row['rate']} Hz"
            table.append((row["name"], row["network"], stems, rate, size, row["source"]))
    widths = [max(len(line[i]) for line in table) for i in range(5)]
    for line in table:
        cells = [cell.ljust(width) for cell, width in zip(line, widths)]
        click.echo("  ".join([*cells, line[5]]).rstrip())


def _summary(entry: Any) -> dict[str, Any]:
    from mgdm_audio.errors import one_line
    from mgdm_audio.priors.checkpoint.store import read_header
    from mgdm_core.errors import MGDMError

    row: dict[str, Any] = {
        "name": entry.name,
        "path": str(entry.path),
        "source": entry.source,
        "available": entry.available,
        "error": None if entry.available else "file is missing",
    }
    if entry.available:
        try:
            header = read_header(entry.path)
        except MGDMError as error:
            row["error"] = one_line(error)
        else:
            row |= {
                "network": header.network,
                "stems": list(header.stems),
                "rate": header.rate,
                "bytes": entry.path.stat().st_size,
                "licence": header.licence,
                "checksum": header.checksum,
            }
    return row


@main.command("info")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info_command(name: str, as_json: bool) -> None:
    """Describe a prior: a name, a path, or hf://owner/name."""
    from mgdm_audio.priors.checkpoint.layout import read_layout
    from mgdm_audio.priors.checkpoint.store import read_header

    path = _catalogue().resolve(name)
    header = read_header(path)
    tensors = read_layout(path).tensors.values()
    numbers = sum(math.prod(tensor.shape) for tensor in tensors)
    stored = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
    if as_json:
        facts = {"path": str(path), "numbers": numbers, "stored_as": stored}
        echo_json(facts | header.to_dict() | {"checksum": header.checksum})
        return
    levels = header.levels
    lines = [
        ("name", header.name or path.stem),
        ("file", f"{path} ({human_size(path.stat().st_size)})"),
        ("network", f"{header.network}, {numbers:,} numbers as {', '.join(stored)}"),
        ("stems", ", ".join(header.stems)),
        ("rate", f"{header.rate} Hz"),
        ("window", f"{header.window} samples ({header.window / header.rate:.2f} s)"),
        ("sigma_data", f"{header.sigma_data:g}"),
        (
            "levels",
            f"{levels.steps} {levels.kind}, sigma {levels.sigma_min:g} to {levels.sigma_max:g}, "
            f"rho {levels.rho:g}",
        ),
        ("licence", header.licence),
        ("SHA-256", header.checksum),
    ]
    lines += [(f"training {key}", _short(value)) for key, value in header.training.items()]
    width = max(len(label) for label, _ in lines)
    for label, value in lines:
        click.echo(f"{label.ljust(width)}  {value}")


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 160 else f"{text[:157]}..."


@main.command("verify")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def verify_command(files: tuple[str, ...]) -> int:
    """Check checkpoints wholly: keys, shapes, digest, finite values. Names work too."""
    from mgdm_audio.errors import one_line
    from mgdm_audio.priors.checkpoint.store import verify
    from mgdm_core.errors import MGDMError

    failed = 0
    for name in files:
        try:
            header = verify(_catalogue().resolve(name))
        except MGDMError as error:
            report_error(one_line(error))
            failed += 1
        else:
            click.echo(f"{name}: ok ({header.network}, SHA-256 {header.checksum})")
    return EXIT_FAILED if failed else 0


@main.command("push")
@click.argument("name", metavar="FILE|NAME")
@click.argument("address", metavar="hf://OWNER/NAME[@BRANCH][/FILE]")
@click.option("--private", is_flag=True, help="A new repository is private.")
def push_command(name: str, address: str, private: bool) -> None:
    """Put a prior into a repository of the Hugging Face hub, with a card where there is none."""
    from mgdm_audio.priors import hub

    where = hub.HubAddress.parse(address)
    page = hub.push(_catalogue().resolve(name), where, private)
    click.echo(f"pushed to {page}; use it with: mgdm-separate -n {address} MIX.wav")


@main.command("where")
@click.argument("name", required=False)
def where_command(name: str | None) -> None:
    """Print the folder of imported priors, or where the prior NAME is."""
    click.echo(str(_catalogue().home() if name is None else _catalogue().resolve(name)))


@main.command("forget")
@click.argument("name")
def forget_command(name: str) -> None:
    """Take the name of an imported prior off the list; the file stays."""
    entry = _catalogue().forget(name)
    click.echo(f"forgot {name}; its file is {entry.path}")


# -- importing ------------------------------------------------------------------------------------


@main.group("import")
def import_group() -> None:
    """Turn other checkpoints into priors, without running anything in them."""


_import_options = together(
    click.option(
        "-o",
        "--out",
        type=click.Path(path_type=Path),
        metavar="OUT.safetensors",
        help="File to write  [default: the prior's name in the folder that `where` prints]",
    ),
    click.option("--name", help="Name of the prior  [default: OUT's]"),
    click.option("--stems", help="Names of the stems, separated by commas."),
    click.option("--rate", type=click.IntRange(1000, 768_000), default=22_050, help="Hz."),
    click.option(
        "--window", type=click.IntRange(1, 2**28), default=262_144, help="Samples per segment."
    ),
    click.option("--licence", help="Licence of the weights, for the header."),
    click.option(
        "--store",
        type=click.Choice(["float32", "float16", "bfloat16"]),
        default="float32",
        help="How the weights are stored; half precision halves the file.",
    ),
    click.option("--force", is_flag=True, help="Replace an existing file or name."),
)


def _target(given: dict[str, Any], default: str) -> tuple[Path, str]:
    """Where to write and under which name, refused before any work where it cannot be."""
    out, name, force = given["out"], given["name"], given["force"]
    if out is not None and out.suffix != ".safetensors":
        raise click.UsageError(f"{out}: the file to write must end in .safetensors")
    chosen = name or (out.stem if out is not None else default)
    usual = _catalogue().default_path(chosen)  # refuses what is no name
    path = usual if out is None else out
    _catalogue().check_name_free(chosen, path, replace=force)
    if path.exists() and not force:
        raise click.ClickException(f"{path}: exists already; replace it with --force")
    return path, chosen


def _facts(given: dict[str, Any], name: str) -> dict[str, Any]:
    import torch

    facts: dict[str, Any] = {
        "name": name,
        "rate": given["rate"],
        "window": given["window"],
        "dtype": getattr(torch, given["store"]),
    }
    if given["stems"]:
        facts["stems"] = [stem.strip() for stem in given["stems"].split(",")]
    if given["licence"]:
        facts["licence"] = given["licence"]
    return facts


def _finish(report: ImportReport, name: str, force: bool) -> None:
    _catalogue().register(name, report.path, replace=force)
    for note in report.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"wrote {report.path} ({human_size(report.path.stat().st_size)})")
    click.echo(f"its name is {name}: mgdm-separate -n {name} MIX.wav")


@import_group.command("msdm")
@click.argument("file", type=click.Path(path_type=Path))
@_import_options
def msdm_command(file: Path, **given: Any) -> None:
    """Import a joint MSDM network from the Lightning checkpoint FILE."""
    from mgdm_audio.priors.msdm.importer import import_msdm

    path, chosen = _target(given, "msdm")
    report = import_msdm(file, path, **_facts(given, chosen))
    _finish(report, chosen, given["force"])


@import_group.command("weakly-msdm")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    metavar="BASS DRUMS GUITAR PIANO",
)
@_import_options
@click.pass_context
def weakly_command(ctx: click.Context, files: tuple[Path, ...], **given: Any) -> None:
    """Import single-source MSDM networks, one checkpoint per stem, as one prior."""
    from mgdm_audio.priors.msdm.importer import MSDM_STEMS, import_weakly_msdm

    facts = _facts(given, given["name"] or "")
    stems = facts.get("stems", MSDM_STEMS)
    if len(files) != len(stems):
        raise click.UsageError(
            f"one checkpoint per stem ({', '.join(stems)}); found {len(files)} file(s)", ctx=ctx
        )
    path, chosen = _target(given, "weakly-msdm")
    facts["name"] = chosen
    report = import_weakly_msdm(
        files, path, on_file=lambda stem: click.echo(f"reading {stem} ...", err=True), **facts
    )
    _finish(report, chosen, given["force"])


if __name__ == "__main__":
    main(prog_name="mgdm-models")
