#!/usr/bin/env python3
"""A GIMP 3 plug-in that completes the selected pixels of a layer with a `pixmend serve`.

Put this file, executable, into a folder of the same name among GIMP's plug-ins:
~/.config/GIMP/3.0/plug-ins/gimp_pixmend/gimp_pixmend.py. The entry is Filters > Enhance.

The answer is a new layer above the selected one that is opaque in the hole alone: no pixel of the
image changes, whatever its precision.
"""

import json
import os
import struct
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
import zlib

import gi

gi.require_version("Gegl", "0.4")
gi.require_version("Gimp", "3.0")
from gi.repository import Gegl, Gimp, Gio, GLib, GObject  # noqa: E402 - after their versions

NAME = "pixmend-complete"
FIELDS = ("method", "model")  # of the dialog that are fields of the form too


def complete(image, drawable, url, token="", **fields):
    """Add a layer with the completion of the selected pixels; a ServerError says why not."""
    width, height = drawable.get_width(), drawable.get_height()
    _, left, top = drawable.get_offsets()
    area = Gegl.Rectangle.new(0, 0, width, height)
    depth = (1 if drawable.is_gray() else 3) + drawable.has_alpha()
    space = {1: "Y' u8", 2: "Y'A u8", 3: "R'G'B' u8", 4: "R'G'B'A u8"}
    pixels = _read(drawable, area, space[depth])
    # The selection covers the image, and the layer may reach beyond it, where nothing is selected.
    selection = _read(image.get_selection(), Gegl.Rectangle.new(left, top, width, height), "Y u8")
    hole = bytes(255 if value >= 128 else 0 for value in selection)
    if not any(hole):
        raise ServerError("select the pixels to complete")
    answer = ask(url, token, png(pixels, width, height), png(hole, width, height), fields)
    colour = 1 if depth < 3 else 3
    completed = _pixels_of(answer, area, space[colour])
    samples = [completed[band::colour] for band in range(colour)]
    content = bytearray(width * height * (colour + 1))
    for band, values in enumerate([*samples, hole]):
        content[band :: colour + 1] = values
    kind = Gimp.ImageType.GRAYA_IMAGE if colour == 1 else Gimp.ImageType.RGBA_IMAGE
    layer = Gimp.Layer.new(
        image, "completed by pixmend", width, height, kind, 100.0, Gimp.LayerMode.NORMAL
    )
    buffer = layer.get_buffer()
    buffer.set(area, space[colour + 1], bytes(content))
    buffer.flush()
    image.insert_layer(layer, drawable.get_parent(), image.get_item_position(drawable))
    layer.set_offsets(left, top)
    return layer


def _read(drawable, area, space):
    return bytes(drawable.get_buffer().get(area, 1.0, space, Gegl.AbyssPolicy.NONE))


def _pixels_of(content, area, space):
    """Return the pixels of a PNG, which GIMP decodes."""
    handle, path = tempfile.mkstemp(suffix=".png")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        loaded = Gimp.file_load(Gimp.RunMode.NONINTERACTIVE, Gio.File.new_for_path(path))
        try:
            return _read(loaded.get_layers()[0], area, space)
        finally:
            loaded.delete()
    finally:
        os.unlink(path)


class ServerError(Exception):
    """A line for the user."""


def png(pixels, width, height):
    """Return 8-bit pixels of 1 to 4 samples as a PNG."""
    depth = len(pixels) // (width * height)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[depth]
    row = width * depth
    rows = b"".join(b"\0" + pixels[start : start + row] for start in range(0, len(pixels), row))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def ask(url, token, image, mask, fields):
    """Return the server's completion of an image, both PNG; a ServerError has its own words."""
    parts = [(f'name="{name}"', str(value).encode()) for name, value in fields.items() if value]
    for name, content in (("image", image), ("mask", mask)):
        parts.append((f'name="{name}"; filename="{name}.png"', content))
    line = uuid.uuid4().hex
    body = b"".join(
        f"--{line}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
        for head, content in parts
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={line}", "Accept": "image/png"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    address = f"{url.rstrip('/')}/v1/completions"
    try:
        request = urllib.request.Request(address, body + f"--{line}--\r\n".encode(), headers)
        with urllib.request.urlopen(request, timeout=300) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        try:
            raise ServerError(json.load(error)["detail"]) from None
        except (ValueError, KeyError, TypeError):
            raise ServerError(f"status {error.code}; is it a pixmend server?") from None
    except (OSError, ValueError) as error:
        raise ServerError(f"{url} cannot be reached ({error}); run `pixmend serve`") from error


def run(procedure, run_mode, image, drawables, config, data):
    """Run the procedure, with a dialog if it was called from the menu."""
    if run_mode == Gimp.RunMode.INTERACTIVE:
        gi.require_version("GimpUi", "3.0")
        from gi.repository import GimpUi

        GimpUi.init(NAME)
        dialog = GimpUi.ProcedureDialog.new(procedure, config, "Complete with pixmend")
        dialog.fill(None)
        agreed = dialog.run()
        dialog.destroy()
        if not agreed:
            return procedure.new_return_values(Gimp.PDBStatusType.CANCEL, GLib.Error())
    values = {name: config.get_property(name) for name in ("url", "token", *FIELDS)}
    Gegl.init(None)
    Gimp.progress_init("Completing with pixmend")
    image.undo_group_start()
    try:
        complete(image, drawables[0], **values)
    except ServerError as error:
        message = GLib.Error(f"pixmend: {error}")
        return procedure.new_return_values(Gimp.PDBStatusType.EXECUTION_ERROR, message)
    finally:
        image.undo_group_end()
    Gimp.displays_flush()
    return procedure.new_return_values(Gimp.PDBStatusType.SUCCESS, GLib.Error())


class Pixmend(Gimp.PlugIn):
    """The plug-in, as GIMP finds it."""

    def do_query_procedures(self):
        return [NAME]

    def do_set_i18n(self, name):
        return False

    def do_create_procedure(self, name):
        procedure = Gimp.ImageProcedure.new(self, name, Gimp.PDBProcType.PLUGIN, run, None)
        procedure.set_image_types("RGB*, GRAY*")
        procedure.set_sensitivity_mask(Gimp.ProcedureSensitivityMask.DRAWABLE)
        procedure.set_menu_label("Complete with _pixmend...")
        procedure.add_menu_path("<Image>/Filters/Enhance")
        procedure.set_documentation(
            "Complete the selected pixels", "Sends the layer to a pixmend server.", name
        )
        procedure.set_attribution("The pixmend authors", "The pixmend authors", "2026")
        for argument, label, blurb, value in (
            ("url", "_Server", "Address of `pixmend serve`", "http://127.0.0.1:8000"),
            ("token", "_Token", "Token of the server, if it asks for one", ""),
            ("model", "M_odel", "Model of the server; empty: its first", ""),
            ("method", "_Method", "default, instant or best", "default"),
        ):
            procedure.add_string_argument(
                argument, label, blurb, value, GObject.ParamFlags.READWRITE
            )
        return procedure


if __name__ == "__main__":
    Gimp.main(Pixmend.__gtype__, sys.argv)
