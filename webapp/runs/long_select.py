"""A list to choose from that may be long: Django renders a template for each option, which takes longer than all the rest."""

from typing import Any

from django.forms import Select
from django.forms.utils import flatatt
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe


class LongSelect(Select):
    """Django's list, with the same HTML, written at once."""

    def render(self, name: str, value: Any, attrs: dict[str, Any] | None = None, renderer: Any = None) -> SafeString:  # noqa: ARG002 - Django's signature
        """Return the list as HTML."""
        chosen = {str(item) for item in self.format_value(value)}
        groups = []
        for label, options in self._grouped():
            written = "\n".join(_option(str(key), words, selected=str(key) in chosen) for key, words in options)
            groups.append(f'<optgroup label="{escape(label)}">\n{written}\n</optgroup>' if label else written)
        own = flatatt({"name": name, **self.build_attrs(self.attrs, attrs)})
        return mark_safe(f"<select{own}>\n" + "\n".join(groups) + "\n</select>")  # noqa: S308 - escaped piece by piece

    def _grouped(self) -> list[tuple[str, list[tuple[Any, Any]]]]:
        """Return the options by the label of their group, which is empty for those outside of any."""
        return [
            (str(value), list(words)) if isinstance(words, list | tuple) else ("", [(value, words)])
            for value, words in self.choices
        ]


def _option(value: str, words: Any, *, selected: bool) -> str:
    """Return an option as HTML. Twice as fast as `format_html`, with several hundred in a list."""
    return f'<option value="{escape(value)}"{" selected" if selected else ""}>{escape(words)}</option>'
