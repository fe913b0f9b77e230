"""The page that says what leaves the process says what the code does."""

from pathlib import Path

from fapilog.providers._rendering import disclosure_table

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "what-leaves-the-process.md"


def test_the_table_is_made_of_the_code() -> None:
    """The page has the table of fields by level of disclosure as the code prints it."""
    assert f"\n\n{disclosure_table()}\n" in PAGE.read_text(encoding="utf-8")
