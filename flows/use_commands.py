"""Commands that use what was made: complete code, and watch and schedule runs."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.errors import WrongValueError
from flows.run_commands import Json
from flows.screen import out, show_json, steady
from tasks.errors import NotFoundError

GGUF_TYPES = ("Q8_0", "Q4_K")
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (generate, up):
        app.command()(command)
    app.command("import")(import_)


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
    # A pipe gets every character as it is; a terminal would obey what a model writes.
    shown = steady if sys.stdout.isatty() else str
    sys.stdout.write(shown(text))
    for piece in pieces:
        sys.stdout.write(shown(piece))
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
    if path is not None and not path.is_file():
        raise NotFoundError("prompt file", str(path.absolute()))
    content = sys.stdin.buffer.read() if path is None else path.read_bytes()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        option = "standard input" if path is None else "--prompt-file"
        raise WrongValueError("generate", option, str(error), "UTF-8") from None


def import_(
    source: Annotated[
        str, typer.Argument(help="A Hugging Face directory of a Llama or Qwen2, a .gguf or a .apr.")
    ],
    licence: Annotated[str, typer.Option(help="SPDX id under which the weights were given.")],
    name: Annotated[str | None, typer.Option(help="Default: the source's.")] = None,
    data_source: Annotated[str, typer.Option(help="What it was trained on.")] = "not stated",
    data_licence: Annotated[str, typer.Option(help="The licence of that.")] = "not stated",
    tokenizer: Annotated[
        str | None, typer.Option(help="Its tokenizer.json; default: beside the weights.")
    ] = None,
    gguf: Annotated[
        list[str] | None,
        typer.Option(help="GGUF to write, may be repeated, or none; default: Q8_0 and Q4_K."),
    ] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Make a checkpoint of a model from elsewhere."""
    from tasks.checkpoint_settings import CheckpointSettings
    from tasks.import_model import import_model

    settings = CheckpointSettings(
        name=_model_name(Path(source).resolve()) if name is None else name,
        licence=licence,
        data_source=data_source,
        data_licence=data_licence,
        safetensors_dtype="float32",
        apr_types=(),
        gguf_types=() if gguf == ["none"] else tuple(gguf or GGUF_TYPES),  # type: ignore[arg-type]
    )
    ref = import_model(Path(source), settings, Path(tokenizer) if tokenizer else None)
    if json:
        show_json({"output": str(ref)})
        return
    out.print(f"output    {ref}")
    out.print(f"check     assay validate {ref.short}        describe  assay inspect {ref.short}")


def _model_name(source: Path) -> str:
    """Name a model after its directory, or its file without the ending; versions have dots, too."""
    is_file = source.suffix in (".apr", ".gguf", ".safetensors")
    return source.stem if is_file else source.name


def up(
    prefect_port: Annotated[int, typer.Option(min=1, max=65535)] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    cron: Annotated[str, typer.Option(help="When the nightly pipeline starts.")] = "15 3 * * *",
    preset: Annotated[str, typer.Option(help="What the nightly pipeline runs.")] = "demo",
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond this machine only with logins.")
    ] = "127.0.0.1",
) -> None:
    """Serve both UIs and the deployments."""
    import os

    from flows.environment import prepare
    from flows.exposure import exposure

    allowed = exposure(host, os.environ)
    prepare()
    from flows.settings import load_settings
    from flows.up import Services

    load_settings(preset)
    services = Services(
        prefect_port=prefect_port,
        mlflow_port=mlflow_port,
        cron=cron,
        preset=preset,
        exposure=allowed,
    )
    with services.running() as pages:
        for name, address in pages.items():
            out.print(f"{name:<12}{address}")
        out.print("\nthe deployments are served; Ctrl-C stops everything")
        services.wait()
