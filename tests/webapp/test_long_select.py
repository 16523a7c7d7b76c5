"""A long list has the HTML that Django's own has."""

import re
from typing import Any

import pytest
from django.forms import Select

from webapp.runs.long_select import LongSelect

CHOICES: list[tuple[Any, Any]] = [("", "–"), (1, 'a <b> & "c"'), ("Mine", [(2, "two"), ('3"', "three")])]


@pytest.mark.parametrize("value", [None, "", 1, "2", '3"', "missing"])
def test_its_html_is_djangos(value: Any) -> None:
    ours, djangos = (made(choices=CHOICES).render('n"', value, {}) for made in (LongSelect, Select))
    assert _squeezed(ours) == _squeezed(djangos)


def _squeezed(html: str) -> str:
    return re.sub(r"\s*\n\s*", "", html)
