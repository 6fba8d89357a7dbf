"""What can be asked about concept files; see `requests`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sfumato.requests import Flag, Request


class ExportRequest(Request):
    """Write a concept for other programs: A1111, Forge and ComfyUI read kohya's layout."""

    concept: Annotated[Path, Field(description="A concept that `sfumato learn` wrote."), Flag((), "FILE", True)]
    layout: Annotated[Literal["kohya"], Field(description="Layout of the file.")] = "kohya"
    output: Annotated[
        Path | None,
        Field(description="File to write; default: beside the concept, with the layout in its name."),
        Flag(("-o", "--output"), "FILE"),
    ] = None
