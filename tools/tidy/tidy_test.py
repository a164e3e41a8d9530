#!/usr/bin/env python3
"""Proves that every check of tidy.py can fail, and that a sound tree passes all of them."""

import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import tidy  # noqa: E402

SOUND = {
    "src/base/CMakeLists.txt": "quipu_library(base SOURCES units.cc)\n",
    "src/base/units.h": "#pragma once\nint unit();\n",
    "src/base/units.cc": '#include "base/units.h"\nint unit() { return 1; }\n',
    "src/kv/CMakeLists.txt": "quipu_library(kv SOURCES pool.cc TESTS kv_test.cc)\n",
    "src/kv/pool.h": '#pragma once\n#include "base/units.h"\n',
    "src/kv/pool.cc": '#include "kv/pool.h"\n',
    "src/kv/kv_test.cc": '#include "engine/engine.h"\n#include "kv/pool.h"\n',
    "src/engine/CMakeLists.txt": "quipu_library(engine SOURCES engine.cc)\n",
    "src/engine/engine.h": '#pragma once\n#include "kv/pool.h"\n',
    "src/engine/engine.cc": '#include "engine/engine.h"\n',
    "include/quipu/quipu.h": "#pragma once\n#include <string>\n\n#include <quipu/export.h>\n",
    "src/text/shim/src/lib.rs": "mod spm;\n",
    "src/text/shim/src/spm.rs": "pub fn f() {}\n",
    "scripts/test": "#!/usr/bin/env bash\n",
}


def fault(check, path, text, append=False):
    return check, path, text, append


FAULTS = [
    fault("check_layers", "src/base/units.cc", '#include "kv/pool.h"\n', True),           # upwards
    fault("check_layers", "src/kv/pool.cc", '#include "sample/sampler.h"\n', True),        # sideways
    fault("check_layers", "src/kv/pool.cc", '#include "pool.h"\n', True),                  # not from src/
    fault("check_layers", "src/engine/engine.cc", '#include "text/tokenizer.h"\n', True),  # kept away
    fault("check_layers", "src/magic/wand.cc", "\n"),                                      # no rank
    fault("check_public_headers", "include/quipu/model.h", "#pragma once\n#include <fmt/format.h>\n"),
    fault("check_public_headers", "include/quipu/model.h", '#pragma once\n#include "kv/pool.h"\n'),
    fault("check_dead_headers", "src/kv/unused.h", "#pragma once\n"),
    fault("check_dead_sources", "src/kv/forgotten.cc", "int x;\n"),
    fault("check_dead_sources", "src/kv/xpool.cc", "int x;\n"),  # a suffix of it is named
    fault("check_dead_modules", "src/text/shim/src/orphan.rs", "pub fn g() {}\n"),
    fault("check_header_guards", "src/kv/pool.h", "int x();\n"),
    fault("check_size", "src/kv/pool.cc", "int x;\n" * (tidy.LINES_MAX + 1)),
    fault("check_columns", "src/kv/pool.cc", "int x = 1" + " + 1" * 40 + ";\n", True),
    fault("check_white_space", "src/kv/pool.cc", "int x; \n", True),
    fault("check_white_space", "src/kv/pool.cc", "\tint x;\n", True),
    fault("check_white_space", "src/kv/pool.cc", "int x;", True),
    fault("check_unfinished", "src/kv/pool.cc", "// TO" + "DO later\n", True),
    fault("check_machine_paths", "src/kv/pool.cc", "// /ho" + "me/ada/model.gguf\n", True),
    fault("check_machine_paths", "README.md", "see /wo" + "rk/x\n"),
    fault("check_machine_paths", "scripts/test", "cd /ro" + "ot/x\n", True),
]

# Files that a fault needs beside it, so that nothing else is wrong.
EXTRA = {
    '#include "sample/sampler.h"\n': ("src/sample/sampler.h", "#pragma once\n"),
    '#include "text/tokenizer.h"\n': ("src/text/tokenizer.h", "#pragma once\n"),
}


class TidyTest(unittest.TestCase):
    def tree(self, *changes):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        files = dict(SOUND)
        for path, text, append in changes:
            files[path] = files.get(path, "") + text if append else text
        for path, text in files.items():
            target = pathlib.Path(folder.name, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        return folder.name

    def test_a_sound_tree_has_no_finding(self):
        # engine.h is the top of this small tree: one more user, so that it is not dead.
        root = self.tree(("src/app/app.cc", '#include "engine/engine.h"\n', False),
                         ("src/app/CMakeLists.txt", "quipu_library(app SOURCES app.cc)\n", False))
        self.assertEqual(tidy.findings(root), [])

    def test_every_fault_is_found(self):
        for check, path, text, append in FAULTS:
            with self.subTest(check=check, path=path, text=text[:40]):
                changes = [(path, text, append)]
                if text in EXTRA:
                    changes.append((*EXTRA[text], False))
                found = [(name, where) for name, where, _, _ in tidy.findings(self.tree(*changes))]
                self.assertIn((check, path), found)

    def test_every_check_has_a_fault(self):
        self.assertEqual({check.__name__ for check in tidy.CHECKS}, {check for check, *_ in FAULTS})

    def test_long_strings_are_allowed(self):
        root = self.tree(("src/kv/pool.cc", 'auto s = "' + "word " * 60 + '";\n', True))
        self.assertNotIn("check_columns", [name for name, *_ in tidy.findings(root)])


if __name__ == "__main__":
    unittest.main()
