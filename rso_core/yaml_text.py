"""Read YAML in which every name of a mapping is there once: PyYAML keeps the last of two and says nothing."""

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # before merged mappings (<<) join it
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"{key.value!r} is written twice in one mapping; keep one of them"
                    raise yaml.composer.ComposerError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return node


def read_yaml(text: str) -> Any:
    """Return the value of a YAML (or JSON) text. Raises yaml.YAMLError, also where a mapping repeats a name."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
