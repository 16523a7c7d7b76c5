"""A list to choose from that may be long: Django renders a template for each option, which takes longer than all the rest."""

from typing import Any

from django.forms import Select
from django.forms.utils import flatatt
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe


class LongSelect(Select):
    """Django's list, with the same HTML, written at once."""

    def render(self, name: str, value: Any, attrs: dict[str, Any] | None = None, renderer: Any = None) -> SafeString:  # noqa: ARG002 - Django's signature
        """Return the list as HTML."""
        chosen = {str(item) for item in self.format_value(value)}
        groups = []
        for label, options in self._grouped():
            written = format_html_join(
                "\n",
                '<option value="{}"{}>{}</option>',
                ((key, mark_safe(" selected") if str(key) in chosen else "", words) for key, words in options),
            )
            groups.append(format_html('<optgroup label="{}">\n{}\n</optgroup>', label, written) if label else written)
        inside = format_html_join("\n", "{}", ((group,) for group in groups))
        own = {"name": name, **self.build_attrs(self.attrs, attrs)}
        return format_html("<select{}>\n{}\n</select>", flatatt(own), inside)

    def _grouped(self) -> list[tuple[str, list[tuple[Any, Any]]]]:
        """Return the options by the label of their group, which is empty for those outside of any."""
        return [
            (str(value), list(words)) if isinstance(words, list | tuple) else ("", [(value, words)])
            for value, words in self.choices
        ]
