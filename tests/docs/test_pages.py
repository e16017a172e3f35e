"""What takes the pages apart finds everything that is on them."""

from __future__ import annotations

import pytest

from tests.docs.command_lines import CommandLine, lines_of, problem_of, stillhouse_command
from tests.docs.pages import PAGES, blocks_in, blocks_of, text_of

PAGE = """\
```yaml title="recipe.yaml"
task: x
```

- in a list

    <!-- not run: it costs money -->
    ```python
    spend(
        1
    )
    ```
````text
```
not a block
```
````
"""


def test_blocks_are_found_with_language_title_and_reason() -> None:
    recipe, python, text = blocks_in(PAGE, "page.md")
    assert (recipe.language, recipe.title, recipe.text, recipe.line) == ("yaml", "recipe.yaml", "task: x\n", 2)
    assert (python.language, python.text, python.reason) == ("python", "spend(\n    1\n)\n", "it costs money")
    assert (text.language, text.text, text.reason) == ("text", "```\nnot a block\n```\n", None)
    assert python.place == "page.md:9"


@pytest.mark.parametrize("text", ["```python\nx\n", "<!-- not run: -->\n```python\n```\n",
                                  "<!-- not run: y -->\n\nz\n"])
def test_an_open_block_and_a_marker_without_reason_or_block_are_errors(text: str) -> None:
    with pytest.raises(ValueError, match=r"page\.md:1"):
        blocks_in(text, "page.md")


def test_every_fence_of_the_pages_is_the_fence_of_a_block() -> None:
    for page in PAGES:
        fences = sum(line.lstrip().startswith("```") for line in text_of(page).split("\n"))
        assert fences == 2 * len(blocks_of(page)), page
    assert {"README.md", "docs/extending.md", "docs/decisions/README.md"} < set(PAGES)


def test_lines_are_those_that_a_shell_would_run() -> None:
    block = "# first\nstillhouse plan \\\n  recipe.yaml\n\npython - <<'PY'\nstillhouse = 1\nPY\nmake test\n"
    assert [line.split() for line in lines_of(block)] == [
        ["stillhouse", "plan", "recipe.yaml"], ["python", "-", "<<'PY'"], ["make", "test"]]


@pytest.mark.parametrize(("line", "command"), [
    ("stillhouse run a.yaml --set 'x=y z'  # why", CommandLine(("run", "a.yaml", "--set", "x=y z"))),
    ("torchrun --nproc_per_node 2 -m stillhouse.cli run a.yaml", CommandLine(("run", "a.yaml"))),
    ("echo 'so good' | stillhouse predict r > out.jsonl",
     CommandLine(("predict", "r"), stdin="so good\n", stdout_path="out.jsonl")),
    ("stillhouse predict r < in.txt", CommandLine(("predict", "r"), stdin_path="in.txt")),
    ("make test", None),
])
def test_a_call_is_told_from_what_is_around_it(line: str, command: CommandLine | None) -> None:
    assert stillhouse_command(line) == command


@pytest.mark.parametrize(("line", "problem"), [
    ("run recipe.yaml --set a=b", None),
    ("cache prune --older-than 30d", None),
    ("--version", None),
    ("distil recipe.yaml", "distil"),
    ("run recipe.yaml --sets a=b", "--sets"),
    ("cache prun", "prun"),
    ("run", "Missing"),
])
def test_commands_and_options_that_do_not_exist_are_found(line: str, problem: str | None) -> None:
    said = problem_of(tuple(line.split()))
    assert said is None if problem is None else said is not None and problem in said


def test_a_command_that_is_only_named_may_lack_its_arguments() -> None:
    assert problem_of(("run",), whole=False) is None
    assert problem_of(("run", "--profil"), whole=False) is not None
