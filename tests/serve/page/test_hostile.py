"""Whatever a model writes stays text: no markup, no script, no request, no address of another kind, no stall."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.serve.page.conftest import answers, ask
from tests.serve.page_stub import Stub

pytestmark = pytest.mark.slow

HOSTILE = """<script>window.pwned = 1</script><img src=x onerror="window.pwned = 1">

![pixel](https://evil.example/pixel.png) and [click](javascript:window.pwned=1) and [data](data:text/html,<b>x</b>)

[relative](/v1/models) <iframe src="https://evil.example"></iframe> <a href="javascript:alert(1)">a</a>

| <b>a</b> | `<i>` |
|---|---|
| <script>1</script> | [x](vbscript:x) |

```html
<script>window.pwned = 1</script>
```

> <style>body { display: none }</style>

- <svg onload="window.pwned = 1">
- [good](https://example.com/?q=<b>)
- mail [me](mailto:me@example.com), see https://example.org/path.
"""


def test_hostile_markdown_stays_text(page: Page, stub: Stub) -> None:
    stub.plan(*[HOSTILE[i : i + 7] for i in range(0, len(HOSTILE), 7)])
    ask(page, HOSTILE)
    expect(answers(page)).to_contain_text("https://example.org/path")
    expect(answers(page)).to_contain_text("<script>window.pwned = 1</script>")
    assert page.evaluate("window.pwned") is None
    made = page.locator(".message .body")
    assert made.locator("script, img, iframe, style, object, embed, form, input").count() == 0
    assert made.locator("svg:not(.icon)").count() == 0
    links = made.locator("a").evaluate_all("links => links.map((link) => [link.protocol, link.rel])")
    assert {protocol for protocol, _ in links} == {"https:", "mailto:"}
    assert all("noopener" in rel for _, rel in links)
    names = set(made.locator("*").evaluate_all("nodes => nodes.flatMap((node) => node.getAttributeNames())"))
    assert [name for name in names if name.startswith("on") or name == "style"] == []


@pytest.mark.parametrize(
    "piece",
    [
        "*",
        "_a ",
        "**a *",
        "[",
        "[a](",
        "![",
        "`",
        "``a`",
        "> ",
        "- ",
        "# ",
        "|",
        "|-",
        "~~",
        "<",
        "1. ",
        " ",
        "\\",
        "http://",
    ],
)
def test_the_work_grows_with_the_text(page: Page, piece: str) -> None:
    """A page that stalls on an answer is a lost conversation. Counted are the searches, each for one mark."""
    length = 6000
    searches, nested = page.evaluate(
        """async ([text]) => {
            const { renderMarkdown } = await import('./static/markdown.js');
            let searches = 0;
            const { indexOf } = String.prototype;
            String.prototype.indexOf = function (...wanted) {
                searches++;
                return indexOf.apply(this, wanted);
            };
            const parent = document.createElement('div');
            renderMarkdown(parent, text);
            String.prototype.indexOf = indexOf;
            let nested = 0;
            for (let node = parent; node; node = node.firstElementChild) nested++;
            return [searches, nested];
        }""",
        [piece * (length // len(piece))],
    )
    assert searches <= 4 * length
    assert nested < 30


def test_blanks_where_a_table_may_begin_cost_linear_time(page: Page) -> None:
    """A pattern that tries each way to divide them takes seconds."""
    spent = page.evaluate(
        """async (text) => {
            const { renderMarkdown } = await import('./static/markdown.js');
            const start = performance.now();
            renderMarkdown(document.createElement('div'), text);
            return performance.now() - start;
        }""",
        "a | b\n" + " " * 100_000 + "x",
    )
    assert spent < 1000


TABLE = (
    '<div class="table" tabindex="0" role="region" aria-label="Table"><table>'
    "<thead><tr><th>a</th><th>b</th></tr></thead>"
    "<tbody><tr><td>1</td><td>2</td></tr></tbody></table></div>"
)
MARKDOWN = [
    (
        "**bold** and *it* and ***both***",
        "<p><strong>bold</strong> and <em>it</em> and <strong><em>both</em></strong></p>",
    ),
    ("snake_case_name 2*3*4 * 5", "<p>snake_case_name 2<em>3</em>4 * 5</p>"),
    ("`a **b**` \\*c\\*", "<p><code>a **b**</code> *c*</p>"),
    ("# One\n### Two", '<h3 class="size-1">One</h3><h3 class="size-3">Two</h3>'),
    ("a\nb", "<p>a<br>b</p>"),
    ("1. x\n2. y\n   - z", '<ol start="1"><li>x</li><li>y<ul><li>z</li></ul></li></ol>'),
    ("> q\n> r", "<blockquote><p>q<br>r</p></blockquote>"),
    ("a **b", "<p>a **b</p>"),
    ("---", "<hr>"),
    ("a|b\n  :-: | --  \n1|2", TABLE),
    ("~~no~~", "<p><del>no</del></p>"),
]


def test_markdown(page: Page) -> None:
    shown = page.evaluate(
        """async (texts) => {
            const { renderMarkdown } = await import('./static/markdown.js');
            return texts.map((text) => {
                const parent = document.createElement('div');
                for (let end = 1; end <= text.length; end++) renderMarkdown(parent, text.slice(0, end));
                return parent.innerHTML;
            });
        }""",
        [text for text, _ in MARKDOWN],
    )
    assert shown == [html for _, html in MARKDOWN]
