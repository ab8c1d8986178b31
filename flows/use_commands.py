"""Commands that use what was made: complete code, and watch and schedule runs."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.errors import WrongValueError
from flows.screen import out
from tasks.errors import NotFoundError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (generate, up):
        app.command()(command)


def generate(
    checkpoint: Annotated[str, typer.Option(help="checkpoint:DIGEST, or its directory.")],
    prompt: Annotated[
        str | None, typer.Option(help="The text to complete; default: stdin.")
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(help="A file with the text to complete.")
    ] = None,
    num_tokens: Annotated[int, typer.Option(min=1)] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Above 0, at most 1.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be given again.")
    ] = None,
    device: Annotated[Device, typer.Option(help="auto takes a GPU where there is one.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="Of the weights.")] = "float32",
) -> None:
    """Complete code with a sealed model."""
    from tasks.generate import complete

    text = _prompt(prompt, prompt_file)
    pieces = complete(
        checkpoint,
        text,
        num_tokens=num_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stops=stop or (),
        device=device,
        precision=precision,
    )
    sys.stdout.write(text)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _prompt(prompt: str | None, path: Path | None) -> str:
    """Return the prompt: as given, from a file, or from standard input.

    Raises: WrongValueError, NotFoundError.
    """
    if prompt is not None and path is not None:
        raise WrongValueError("generate", "--prompt-file", str(path), "absent beside --prompt")
    if prompt is not None:
        return prompt
    if path is None:
        return sys.stdin.read()
    if not path.is_file():
        raise NotFoundError("prompt file", str(path.absolute()))
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise WrongValueError("generate", "--prompt-file", str(error), "UTF-8") from None


def up(
    prefect_port: Annotated[int, typer.Option(min=1, max=65535)] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    cron: Annotated[str, typer.Option(help="When the nightly pipeline starts.")] = "15 3 * * *",
    preset: Annotated[str, typer.Option(help="What the nightly pipeline runs.")] = "demo",
) -> None:
    """Serve both UIs and the deployments."""
    from flows.environment import prepare

    prepare()
    from flows.settings import load_settings
    from flows.up import Services

    load_settings(preset)
    services = Services(
        prefect_port=prefect_port, mlflow_port=mlflow_port, cron=cron, preset=preset
    )
    with services.running() as addresses:
        for name, address in addresses.items():
            out.print(f"{name:<12}{address}")
        out.print("\nnightly and manual pipelines are served; Ctrl-C stops everything")
        services.wait()
