#!/usr/bin/env python3
"""Rules about the source tree that a compiler does not check.

Usage: tidy.py [ROOT]         prints one line per finding, exits 1 when there is any

Each check is a function of a Tree that yields (path, line number, message). A self-test
(tidy_test.py) plants one fault per check and expects it to be found.
"""

import fnmatch
import pathlib
import re
import subprocess
import sys

# The layer rule: a file includes its own folder and lower ranks only (docs/ARCHITECTURE.md).
RANKS = {
    "base": 0, "web": 0,
    "tensor": 1,
    "backend": 2, "format": 2, "text": 2,
    "kv": 3, "sample": 3, "backend/cpu": 3, "model": 3,
    "engine": 4,
    "app": 5,
    "library": 6, "server": 6,
    "cli": 7,
}
# Lower ranks that a folder keeps away from all the same, and why.
FORBIDDEN = {
    ("engine", "text"): "the engine knows token ids, never text",
    ("engine", "backend/cpu"): "only app/ names a concrete backend",
    ("kv", "text"): "the cache is bookkeeping over ids and bytes",
    ("kv", "format"): "the cache is bookkeeping over ids and bytes",
}

LINES_MAX = 800
# clang-format breaks C++ at 100; what it leaves alone may be a little longer.
COLUMNS_MAX = {".cc": 120, ".h": 120, ".inc": 120}
COLUMNS_MAX_OTHER = 160

SOURCE = ("*.cc", "*.h", "*.inc", "*.rs", "*.py", "*.cmake", "CMakeLists.txt")
PROSE = ("*.md", "*.txt", "*.json", "*.toml", "*.yml")
# Files that others wrote, or that a program writes; and data.
GENERATED = ("Cargo.lock", "package-lock.json", "tests/golden/models/*", "models/*", "bench/results/*",
             "tests/*/data/*", "tests/fuzz/corpus/*", "*/testdata/*")

WIDE = ("tools/train/storygen.py",)  # tables of sentences

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
# Spelt in two parts so that this file does not find itself.
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:wo" r"rk|ro" r"ot|ho" r"me/\w+|Us" r"ers/\w+)(?:/|\b)(?!\w)")


class Tree:
    """The files of a source tree: those that git tracks or would track, else all of them."""

    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.files = sorted(p for p in self._list() if (self.root / p).is_file())
        self._text = {}

    def _list(self):
        git = subprocess.run(["git", "-C", str(self.root), "ls-files", "-z", "--cached", "--others",
                              "--exclude-standard"], capture_output=True, check=False)
        if git.returncode == 0:
            return [name for name in git.stdout.decode().split("\0") if name]
        return [str(p.relative_to(self.root)) for p in self.root.rglob("*")
                if not {"build", "node_modules", "target"} & set(p.relative_to(self.root).parts)]

    def match(self, patterns):
        for path in self.files:
            name = path.rsplit("/", 1)[-1]
            if any(fnmatch.fnmatch(name, p) for p in patterns) and not is_generated(path):
                yield path

    def under_src(self, *endings):
        return [p for p in self.files if p.startswith("src/") and p.endswith(endings)]

    def lines(self, path):
        if path not in self._text:
            self._text[path] = (self.root / path).read_text(encoding="utf-8", errors="replace").split("\n")
        return self._text[path]

    def includes(self, path):
        for number, line in enumerate(self.lines(path), 1):
            found = INCLUDE.match(line)
            if found:
                yield number, found.group(1)


def is_generated(path):
    return any(fnmatch.fnmatch(path, p) or path.endswith("/" + p) or path == p for p in GENERATED)


def is_test(path):
    return path.endswith(("_test.cc", "_test.h"))


def folder_of(path):
    """The ranked folder of a path below src/: the longest one that matches, or nothing."""
    parts = path.removeprefix("src/").split("/")[:-1]
    for length in range(len(parts), 0, -1):
        name = "/".join(parts[:length])
        if name in RANKS:
            return name
    return None


def check_layers(tree):
    for path in tree.under_src(".cc", ".h", ".inc"):
        own = folder_of(path)
        if own is None:
            yield path, 1, "this folder has no rank; give it one in tools/tidy/tidy.py and docs/ARCHITECTURE.md"
            continue
        for number, name in tree.includes(path):
            if not (tree.root / "src" / name).is_file():
                yield path, number, f'"{name}" is not a path that starts at src/'
                continue
            other = folder_of("src/" + name)
            if other == own or is_test(path):
                continue
            if other is None:
                yield path, number, f'"{name}" lies in a folder without a rank'
            elif RANKS[other] >= RANKS[own]:
                yield path, number, (f'{own}/ (rank {RANKS[own]}) includes "{name}" (rank {RANKS[other]}): '
                                     "only lower ranks may be included")
            elif (own, other) in FORBIDDEN:
                yield path, number, f'{own}/ includes "{name}": {FORBIDDEN[own, other]}'


def check_public_headers(tree):
    """What a program that embeds the library includes: the standard library and these headers, no more."""
    for path in tree.files:
        if not path.startswith("include/"):
            continue
        for number, line in enumerate(tree.lines(path), 1):
            found = re.match(r'\s*#\s*include\s*(["<])([^">]+)[">]', line)
            if found and (found.group(1) == '"' or not re.fullmatch(r"quipu/\w+\.h|[a-z_]+", found.group(2))):
                yield path, number, f"a public header includes {found.group(2)}: only <quipu/...> and the standard library"


def check_dead_headers(tree):
    """A header that only its own .cc and tests include is not an interface of anything."""
    users = {}
    for path in tree.files:
        if path.endswith((".cc", ".h", ".inc")):
            for _, name in tree.includes(path):
                users.setdefault(name, set()).add(path)
    for path in tree.under_src(".h", ".inc"):
        if path.startswith("src/text/shim/"):
            continue
        mine = {path.rsplit(".", 1)[0] + ending for ending in (".cc", "_test.cc")}
        if not any(user not in mine for user in users.get(path.removeprefix("src/"), ())):
            yield path, 1, "no other file includes this header"


def check_dead_sources(tree):
    """Every .cc is named in a CMakeLists.txt of its folder or one above, or in cmake/."""
    anywhere = [pattern for path in tree.files if path.endswith(".cmake") for pattern in named_sources(tree, path)]
    for path in tree.files:
        if not path.endswith(".cc") or not path.startswith(("src/", "tests/", "bench/")):
            continue
        named = any(pattern.fullmatch(path) for pattern in anywhere)
        for folder in pathlib.PurePosixPath(path).parents:
            lists = str(folder / "CMakeLists.txt")
            if named or not (tree.root / lists).is_file():
                continue
            relative = str(pathlib.PurePosixPath(path).relative_to(folder))
            named = any(pattern.fullmatch(relative) for pattern in named_sources(tree, lists))
        if not named:
            yield path, 1, "no CMakeLists.txt builds this file"


def named_sources(tree, path):
    """The .cc files a CMake file names, as patterns: a variable such as ${reader} may be any name."""
    words = re.findall(r'[^\s()"]+\.cc\b', "\n".join(line.split("#")[0] for line in tree.lines(path)))
    words = [re.sub(r"^\$\{CMAKE_(CURRENT_)?SOURCE_DIR\}/", "", word) for word in words]
    return [re.compile("[^/]+".join(map(re.escape, re.split(r"\$\{\w+\}", word)))) for word in words]


def check_dead_modules(tree):
    """Every Rust file below a src/ of a crate is somebody's module."""
    for path in tree.files:
        if not path.endswith(".rs") or path.endswith(("/lib.rs", "/main.rs")) or "/src/" not in path.rsplit("src/text", 1)[-1]:
            continue
        name = pathlib.PurePosixPath(path).stem
        siblings = [p for p in tree.files if p.endswith(".rs") and p != path]
        pattern = re.compile(rf"^\s*(?:pub(?:\([a-z]+\))?\s+)?mod\s+{re.escape(name)}\b")
        if not any(pattern.match(line) for p in siblings for line in tree.lines(p)):
            yield path, 1, "no module declares this file"


def check_header_guards(tree):
    for path in tree.under_src(".h"):
        if not any(line.startswith(("#pragma once", "#ifndef ")) for line in tree.lines(path)):
            yield path, 1, "a header needs #pragma once"


def check_size(tree):
    for path in tree.match(SOURCE):
        count = len(tree.lines(path)) - 1
        if count > LINES_MAX:
            yield path, count, f"{count} lines; at most {LINES_MAX}"


def check_columns(tree):
    for path in tree.match(SOURCE):
        if path in WIDE:
            continue
        limit = COLUMNS_MAX.get(pathlib.PurePosixPath(path).suffix, COLUMNS_MAX_OTHER)
        for number, line in enumerate(tree.lines(path), 1):
            # Prose in a string is not broken for the sake of the source.
            columns = len(STRING.sub('""', line)) if len(line) > limit else 0
            if columns > limit:
                yield path, number, f"{columns} columns without strings; at most {limit}"


def check_white_space(tree):
    for path in tree.match(SOURCE):
        lines = tree.lines(path)
        for number, line in enumerate(lines, 1):
            if line != line.rstrip():
                yield path, number, "white space at the end of the line"
            if "\t" in line[:len(line) - len(line.lstrip())]:
                yield path, number, "a tab"
        if lines[-1] != "":
            yield path, len(lines), "no newline at the end of the file"


def check_unfinished(tree):
    for path in tree.match(SOURCE):
        for number, line in enumerate(tree.lines(path), 1):
            found = UNFINISHED.search(line)
            if found:
                yield path, number, f"{found.group(0)}: finish it, or file it as an issue"


def check_machine_paths(tree):
    scripts = [p for p in tree.files if p.startswith(("scripts/", ".ci/"))]
    for path in sorted({*tree.match(SOURCE + PROSE), *scripts}):
        for number, line in enumerate(tree.lines(path), 1):
            found = MACHINE_PATH.search(line)
            if found:
                yield path, number, f"'{found.group(0)}' is a path of one machine"


CHECKS = [check_layers, check_public_headers, check_dead_headers, check_dead_sources, check_dead_modules,
          check_header_guards, check_size, check_columns, check_white_space, check_unfinished, check_machine_paths]


def findings(root):
    tree = Tree(root)
    return [(check.__name__, *finding) for check in CHECKS for finding in check(tree)]


def main(arguments):
    root = arguments[0] if arguments else pathlib.Path(__file__).resolve().parents[2]
    found = findings(root)
    for name, path, line, message in found:
        print(f"{path}:{line}: {message} [{name.removeprefix('check_')}]")
    print(f"tidy: {len(CHECKS)} checks, {len(found)} finding{'' if len(found) == 1 else 's'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
