"""Reading vLLM's source without running it: an import takes 13 s and needs torch."""

import ast
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeGuard

Function = ast.FunctionDef | ast.AsyncFunctionDef


class NotThereError(Exception):
    """What a need looks into is not there; the message is the sentence to show."""


class Sources:
    """The files below a `vllm` folder, each parsed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._modules: dict[str, ast.Module | NotThereError] = {}

    def module(self, file: str) -> ast.Module:
        """The syntax tree of a file.

        Raises:
            NotThereError: the file is missing or this Python cannot parse it.
        """
        if file not in self._modules:
            self._modules[file] = _parse(self.root, file)
        known = self._modules[file]
        if isinstance(known, NotThereError):
            raise known
        return known

    def type(self, file: str, name: str) -> ast.ClassDef:
        """A class of a file.

        Raises:
            NotThereError: there is no such file or no such class in it.
        """
        for node in self.module(file).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return node
        raise NotThereError(f"class {name} is missing in {file}")

    def method(self, file: str, owner: str, name: str) -> Function:
        """A method of a class.

        Raises:
            NotThereError: there is no such file, class or method.
        """
        for node in self.type(file, owner).body:
            if isinstance(node, Function) and node.name == name:
                return node
        raise NotThereError(f"{owner}.{name}() is missing in {file}")

    def members(self, file: str, owner: str) -> set[str]:
        """Fields, methods and attributes set by methods of a class and its bases in that file."""
        found: set[str] = set()
        wanted, seen = [owner], set[str]()
        while wanted:
            node = self.type(file, wanted.pop())
            seen.add(node.name)
            found |= _declared(node) | assigned([node])
            here = {each.name for each in self.module(file).body if isinstance(each, ast.ClassDef)}
            wanted += [name for name in sorted(here & set(bases(node))) if name not in seen]
        return found

    def reached(self, file: str, owner: str, name: str) -> list[Function]:
        """A method and all methods of its class that it calls on itself, at any depth."""
        methods = {
            node.name: node for node in self.type(file, owner).body if isinstance(node, Function)
        }
        wanted, found = [self.method(file, owner, name).name], dict[str, Function]()
        while wanted:
            node = methods[wanted.pop()]
            found[node.name] = node
            calls = {
                call.func.attr
                for call in walk([node])
                if isinstance(call, ast.Call) and is_self(call.func)
            }
            wanted += sorted((calls & methods.keys()) - found.keys() - set(wanted))
        return list(found.values())

    def below(self, folder: str, text: str) -> Iterator[ast.Module]:
        """The files of a folder that contain a text and can be parsed.

        Raises:
            NotThereError: there is no such folder.
        """
        if not (self.root / folder).is_dir():
            raise NotThereError(f"{folder} is missing")
        for path in sorted((self.root / folder).rglob("*.py")):
            try:
                if text in path.read_text(encoding="utf-8"):
                    yield self.module(path.relative_to(self.root).as_posix())
            except (OSError, ValueError, NotThereError):
                continue  # another file may have it


def _parse(root: Path, file: str) -> ast.Module | NotThereError:
    try:
        text = (root / file).read_text(encoding="utf-8")
        with warnings.catch_warnings():  # about escapes in their strings
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError as error:
        return NotThereError(f"{file} cannot be parsed, line {error.lineno}")
    except (ValueError, RecursionError, MemoryError):
        return NotThereError(f"{file} cannot be parsed")
    except OSError:
        return NotThereError(f"{file} is missing")


def walk(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes below these and they themselves."""
    for node in nodes:
        yield from ast.walk(node)


def bases(node: ast.ClassDef) -> list[str]:
    """The last names of a class's bases."""
    names = []
    for base in node.bases:
        if isinstance(base, ast.Name):
            names.append(base.id)
        elif isinstance(base, ast.Attribute):
            names.append(base.attr)
    return names


def is_self(node: ast.AST, name: str | None = None) -> TypeGuard[ast.Attribute]:
    """Whether this is `self.name`, or any attribute of `self` without a name."""
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
        and name in {None, node.attr}
    )


def assigned(nodes: Iterable[ast.AST]) -> set[str]:
    """The attributes of `self` that are set somewhere below these nodes."""
    return {node.attr for node in walk(nodes) if is_self(node) and isinstance(node.ctx, ast.Store)}


def reads(nodes: Iterable[ast.AST], name: str) -> bool:
    """Whether an attribute of this name, of any object, is read below these nodes."""
    return any(_is_attribute(node, name, ast.Load) for node in walk(nodes))


def sets(nodes: Iterable[ast.AST], name: str) -> bool:
    """Whether an attribute of this name, of any object, is set below these nodes."""
    return any(_is_attribute(node, name, ast.Store) for node in walk(nodes))


def indexes(nodes: Iterable[ast.AST], name: str) -> bool:
    """Whether there is `self.name[...]` below these nodes."""
    return any(
        isinstance(node, ast.Subscript) and is_self(node.value, name) for node in walk(nodes)
    )


def within(nodes: Iterable[ast.AST], kind: type[ast.AST], name: str) -> bool:
    """Whether there is `self.name` within a statement or expression of a kind."""
    return any(
        is_self(each, name)
        for node in walk(nodes)
        if isinstance(node, kind)
        for each in ast.walk(node)
    )


def passes(nodes: Iterable[ast.AST], function: str, keyword: str) -> bool:
    """Whether a function or class is called with this keyword below these nodes."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == function
        and keyword in {each.arg for each in node.keywords}
        for node in walk(nodes)
    )


def adds_flag(nodes: Iterable[ast.AST], flag: str) -> bool:
    """Whether `add_argument` is called with this flag below these nodes."""
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "add_argument"
        and any(isinstance(each, ast.Constant) and each.value == flag for each in node.args)
        for node in walk(nodes)
    )


def mentions(nodes: Iterable[ast.AST], text: str) -> bool:
    """Whether this string, in whatever case, stands by itself below these nodes."""
    return any(
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.lower() == text.lower()
        for node in walk(nodes)
    )


def formats(nodes: Iterable[ast.AST], prefix: str, method: str) -> bool:
    """Whether an f-string below these nodes begins with a prefix and uses `self.method`."""
    return any(
        isinstance(node, ast.JoinedStr)
        and any(isinstance(part, ast.Constant) and part.value == prefix for part in node.values[:1])
        and any(is_self(each, method) for each in ast.walk(node))
        for node in walk(nodes)
    )


def keeps(function: Function, name: str, sources: frozenset[str]) -> bool:
    """Whether all that is assigned to an attribute is text around one of these, unchanged."""
    return all(
        isinstance(node.value, ast.JoinedStr)
        and any(_is_whole(part, sources) for part in node.value.values)
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        and any(_is_attribute(target, name, ast.Store) for target in node.targets)
    )


def begins(function: Function, names: tuple[str, ...]) -> bool:
    """Whether these are its first parameters after `self`."""
    return _parameters(function)[: len(names) + 1] == ["self", *names]


def takes(function: Function, names: tuple[str, ...]) -> bool:
    """Whether it can be called with just these, in this order."""
    arguments = function.args
    needed = len(_parameters(function)) - len(arguments.defaults)
    return (
        begins(function, names) and needed <= len(names) + 1 and None not in arguments.kw_defaults
    )


def _parameters(function: Function) -> list[str]:
    return [each.arg for each in [*function.args.posonlyargs, *function.args.args]]


def _is_attribute(node: ast.AST, name: str, context: type[ast.expr_context]) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, context)


def _is_whole(part: ast.AST, names: frozenset[str]) -> bool:
    """Whether a part of an f-string is one of these attributes, without a format."""
    return (
        isinstance(part, ast.FormattedValue)
        and part.format_spec is None
        and isinstance(part.value, ast.Attribute)
        and part.value.attr in names
    )


def _declared(node: ast.ClassDef) -> set[str]:
    """The names in the body of a class."""
    found = set()
    for each in node.body:
        if isinstance(each, Function):
            found.add(each.name)
        elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            found.add(each.target.id)
        elif isinstance(each, ast.Assign):
            found |= {target.id for target in each.targets if isinstance(target, ast.Name)}
    return found
