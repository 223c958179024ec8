"""The program that checks the Python of the docs."""

import pytest
from snippets import check, documents, snippets

DOCUMENT = """\
# Title

<!-- given: number = 3 -->
```python
text: str = {value}
```

```yaml
no: python
```

```python
def double(x: int) -> int:
    return 2 * x
```
"""


def test_every_block_is_a_file_with_what_it_is_given(tmp_path):
    (tmp_path / "page.md").write_text(DOCUMENT.format(value="str(number)"))
    first, second = snippets(tmp_path / "page.md")
    assert first == ("page_5.py", "number = 3\ntext: str = str(number)\n")
    assert second == ("page_13.py", "\ndef double(x: int) -> int:\n    return 2 * x\n")


def test_no_block_of_the_docs_is_missed():
    for path in documents():
        assert len(snippets(path)) == path.read_text().count("```python"), path
    assert len({name for path in documents() for name, _ in snippets(path)}) >= 18


@pytest.mark.parametrize(("value", "right"), [("str(number)", True), ("number", False), ("nothing", False)])
def test_a_wrong_type_and_a_missing_name_are_found_by_both(tmp_path, capfd, value, right):
    pytest.importorskip("pyright")
    (tmp_path / "page.md").write_text(DOCUMENT.format(value=value))
    assert (check([tmp_path / "page.md"]) == 0) == right
    if not right:
        assert capfd.readouterr().out.count("page_5.py:2") >= 2
