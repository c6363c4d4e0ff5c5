"""YAML that means one thing: a key twice is an error, and nothing is constructed but plain values."""

from pathlib import Path

import yaml

from models.training.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """The safe loader, which by itself lets the last of two equal keys win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        seen: dict[object, int] = {}
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                line = key_node.start_mark.line + 1
                if key_node.value in seen:
                    twice = f"{key_node.value!r} on line {seen[key_node.value]} and on line {line}"
                    raise yaml.YAMLError(f"expected each key once, got {twice}")
                seen[key_node.value] = line
        return dict(super().construct_mapping(node, deep))


def read_yaml(path: Path) -> dict[object, object]:
    """Read a YAML file of keys and values.

    Raises:
        ConfigError: It cannot be read, is not YAML, has a key twice, or holds something else.
    """
    try:
        # A subclass of the safe loader.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not YAML: expected a few levels of nesting, got too many") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(content).__name__}")
    return content
