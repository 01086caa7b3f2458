"""pixmend serve."""

import logging
from typing import Annotated

import typer


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="Model files, run directories or bundled models' names."
        ),
    ],
    host: Annotated[
        str,
        typer.Option(help="The address to listen on; one that others can reach demands a token."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.")] = 8000,
    token: Annotated[
        str,
        typer.Option(
            envvar="PIXMEND_TOKEN",
            help="What requests must bear; made and printed if not given where one is demanded.",
        ),
    ] = "",
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Further names of this server; may be repeated.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Sites whose pages may call the API; may be repeated.")
    ] = None,
    max_body_mib: Annotated[float, typer.Option(help="Of a request.")] = 16,
    max_pixels: Annotated[int, typer.Option(help="Of an image.")] = 4_000_000,
    max_candidates: Annotated[int, typer.Option(help="Of a request, 64 at the most.")] = 16,
    max_steps: Annotated[int, typer.Option(help="Of a search.")] = 5000,
    max_seconds: Annotated[float, typer.Option(help="Of a time budget.")] = 60,
    max_queue: Annotated[
        int, typer.Option(help="Requests inside the server; one more is refused with 503.")
    ] = 64,
    max_streams: Annotated[int, typer.Option(help="Searches watched at a time.")] = 8,
    deadline: Annotated[
        float,
        typer.Option(
            help="Seconds from a request to its answer; a search then ends with its best so far."
        ),
    ] = 120,
    batch: Annotated[int, typer.Option(help="Requests completed together.")] = 16,
    batch_wait_ms: Annotated[
        float, typer.Option(help="For how long the first of them waits for others.")
    ] = 5,
    drain: Annotated[float, typer.Option(help="Seconds after SIGTERM for what is inside.")] = 30,
    formats: Annotated[
        str, typer.Option(help="Image formats that are opened.")
    ] = "png,jpeg,webp,bmp,gif,tiff",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
) -> None:
    """Serve a page to paint holes in and have them completed, and the same as an HTTP API. Needs the extra serve."""
    from pixmend.errors import SettingsError

    try:
        from pixmend.serve import AccessPolicy, Catalogue, Limits, Server, create_app, listen
    except ModuleNotFoundError as error:
        raise SettingsError(f"serve needs {error.name}; pip install 'pixmend[serve]'") from error
    limits = Limits(
        max_body_mib,
        max_pixels,
        max_candidates,
        max_steps,
        max_seconds,
        max_queue,
        max_streams,
        deadline,
        batch,
        batch_wait_ms,
        drain,
        tuple(name.strip().upper() for name in formats.split(",") if name.strip()),
    )
    door = AccessPolicy(
        frozenset({"127.0.0.1", "localhost", "::1", host, *(allow_host or [])}),
        literal_hosts=host in ("0.0.0.0", "::"),  # noqa: S104 - compared, not bound
        token=_token_for(host, token),
        origins=frozenset(cors_origin or []),
    )
    catalogue = Catalogue.load(models, device=device)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    app = create_app(catalogue, limits, door)
    listening = listen(host, port)
    _say(host, listening.getsockname()[1], door.token)
    Server(app).serve_on(listening)


def _token_for(host: str, token: str) -> str | None:
    import secrets

    from pixmend.serve import is_loopback

    return token or (None if is_loopback(host) else secrets.token_urlsafe(24))


def _say(host: str, port: int, token: str | None) -> None:
    """Print the address to open; what follows # stays in the browser and is in no log."""
    from pixmend.cli.terminal import out

    name = f"[{host}]" if ":" in host else host
    out.print(f"http://{name}:{port}/{f'#token={token}' if token else ''}", markup=False)
    if token:
        out.print(f"for programs: Authorization: Bearer {token}", markup=False)
