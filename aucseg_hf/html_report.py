"""Pieces of a report in a single HTML file; every text is escaped."""

import base64
from collections.abc import Sequence
from html import escape

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2em auto;
       padding: 0 1em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1em 0; }
th, td { padding: 2px 10px; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #888; }
figure { margin: 1em 0; }
img { max-width: 100%; height: auto; }
figcaption, .note { color: #555; }
.legend span { display: inline-block; margin-right: 1.2em; white-space: nowrap; }
.legend i { display: inline-block; width: 0.9em; height: 0.9em; margin-right: 0.4em;
            border: 1px solid #555; vertical-align: -0.1em; }
"""


def page(title: str, parts: Sequence[str]) -> str:
    """Put HTML parts into a page that refers to nothing outside itself."""
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    """Make a heading of a section."""
    return f"<h2>{escape(text)}</h2>"


def note(text: str) -> str:
    """Make a paragraph of explanation."""
    return f'<p class="note">{escape(text)}</p>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Make a table of texts; the first column is aligned to the left, the others to the right."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(line("td", row) for row in rows)
    return f"<table>\n<thead>{line('th', header)}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def picture(data: bytes, caption: str) -> str:
    """Embed a PNG or JPEG file."""
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    encoded = base64.b64encode(data).decode("ascii")
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/{kind};base64,{encoded}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def legend(entries: Sequence[tuple[str, Sequence[int]]]) -> str:
    """Name colours.

    Args:
        entries: Names with their (red, green, blue) of 0..255.
    """
    spans = "".join(
        f'<span><i style="background: rgb({int(r)}, {int(g)}, {int(b)})"></i>{escape(name)}</span>'
        for name, (r, g, b) in entries
    )
    return f'<p class="legend">{spans}</p>'
