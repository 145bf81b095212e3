"""What a reader of an HTML page sees."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser


class Reader(HTMLParser):
    """What a browser would see: tags with attributes, text, and whether the tags are balanced."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "path", "use", "rect"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open, self.depth_error = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.depth_error = self.depth_error or tag

    def handle_data(self, data):
        self.text.append(data)


def visible(page):
    page = re.sub(r"<(style|script|noscript)\b.*?</\1>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", " ".join(Reader(page).text))


def data_of(page):
    """What the script of a report draws: {"panels": {id: {"traces", "layout"}}, "chains", "dark"}."""
    (packed,) = re.findall(r'<script type="text/plain" id="data">(.*?)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(packed)))
