import base64
from html.parser import HTMLParser

from aucseg_hf import html_report as html

PNG = b"\x89PNG\r\n\x1a\n and more"


class Reader(HTMLParser):
    """Collects the texts by their tag, and all attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.texts, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1], data))


def read(text):
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


def test_texts_survive_as_they_are():
    nasty = "<script>alert(\"1\")</script> & 'Straße'"
    parts = [
        html.heading(nasty),
        html.note(nasty),
        html.table([nasty, "b"], [[nasty, "2"]]),
        html.picture(PNG, nasty),
        html.legend([(nasty, (1, 2, 3))]),
    ]
    reader = read(html.page(nasty, parts))
    tags = [tag for tag, text in reader.texts if text == nasty]
    assert tags == ["title", "h1", "h2", "p", "th", "td", "figcaption", "span"]
    assert ("img", "alt", nasty) in reader.attributes
    assert ("i", "style", "background: rgb(1, 2, 3)") in reader.attributes


def test_pictures_lie_inside_the_page():
    page = html.page("report", [html.picture(PNG, "a"), html.picture(b"\xff\xd8\xff", "b")])
    sources = [value for tag, key, value in read(page).attributes if key == "src"]
    kinds, data = zip(*(source.split(";base64,") for source in sources), strict=True)
    assert kinds == ("data:image/png", "data:image/jpeg")
    assert [base64.b64decode(item) for item in data] == [PNG, b"\xff\xd8\xff"]
    assert "http" not in page
