"""`cmake --install` into an empty prefix, and programs built against what lies there.

Environment: QUIPU_BUILD_DIR (a finished build), CXX, CMAKE.
"""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("QUIPU_BUILD_DIR", ROOT / "build" / "release"))
CXX = os.environ.get("CXX", "c++")
CMAKE = os.environ.get("CMAKE", "cmake")
MODEL = ROOT / "models" / "quipu-stories-q8_0.gguf"
TIME_OUT_S = 300


def run(*command, **options):
    """Runs a command that must succeed; its output."""
    done = subprocess.run(list(map(str, command)), capture_output=True, timeout=TIME_OUT_S, check=False, **options)
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}")
    return done.stdout.decode()


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="quipu-package-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, True)
        run(CMAKE, "--install", BUILD, "--prefix", cls.folder / "first")
        # A prefix can be moved: nothing installed may remember where it was, but for the unit, which has to.
        cls.prefix = (cls.folder / "first").rename(cls.folder / "prefix")
        cls.library = next(cls.prefix.rglob("libquipu.so"))

    def embed(self, program):
        environment = {**os.environ, "LD_LIBRARY_PATH": str(self.library.parent)}
        if not MODEL.exists():
            self.skipTest(f"the built-in model is not there: {MODEL}")
        text = run(program, MODEL, env=environment)
        lines = text.splitlines()
        notes = [line for line in lines if line.startswith("[")]
        self.assertEqual(len(notes), 2, text)
        read, cached = map(int, re.findall(r"\d+", notes[0]))
        self.assertEqual(cached, 0)
        self.assertEqual(notes[1], f"[{read} tokens read, {read - 1} from the cache]")
        return text

    def test_everything_has_its_place(self):
        names = {str(path.relative_to(self.prefix)) for path in self.prefix.rglob("*") if not path.is_dir()}
        for name in ("bin/quipu", "include/quipu/quipu.h", "include/quipu/version.h", "lib/systemd/system/quipu.service",
                     "share/man/man1/quipu.1", "share/bash-completion/completions/quipu",
                     "share/fish/vendor_completions.d/quipu.fish"):
            self.assertIn(name, names)
        # Nothing else of the tree comes along: no archive, no header of src/, no test.
        self.assertEqual({name for name in names if name.endswith(".a")}, set())
        self.assertEqual({name for name in names if name.startswith("include/") and not name.startswith("include/quipu/")},
                         set())
        if MODEL.exists():
            self.assertIn("share/quipu/" + MODEL.name, names)
            said = run(self.prefix / "bin" / "quipu", "inspect", cwd=self.folder)
            self.assertIn(str(self.prefix), said)  # the model beside the program, not that of the source tree

    def test_the_unit_starts_the_program_that_was_installed_with_it(self):
        unit = (self.prefix / "lib" / "systemd" / "system" / "quipu.service").read_text()
        program = self.folder / "first" / "bin" / "quipu"
        self.assertEqual(re.findall("^ExecStart=(.*)$", unit, re.M), [f"{program} serve"])
        self.assertEqual(re.findall(r"(\S*/quipu)(?= serve)", unit), 2 * [f"ExecStart={program}"])  # one of them in a comment
        self.assertNotIn("@", unit.replace("@system-service", ""))

    def test_the_library_shows_its_interface_and_nothing_else(self):
        symbols = run("nm", "--dynamic", "--defined-only", "--demangle", self.library).splitlines()
        names = [line.split(" ", 2)[2] for line in symbols]
        self.assertIn("quipu::v1::Model::load(quipu::v1::ModelOptions const&)", names)
        self.assertEqual([name for name in names if not name.startswith("quipu::v1::")], [])
        self.assertEqual([name for name in names if "internal" in name and not re.search(r"\(.*internal", name)], [])
        soname = re.search(r"SONAME.*\[(.*)\]", run("readelf", "--dynamic", self.library)).group(1)
        self.assertRegex(soname, r"^libquipu\.so\.\d+\.\d+$")
        self.assertTrue((self.library.parent / soname).exists())

    def test_find_package_and_pkg_config_build_the_example(self):
        build = self.folder / "by-cmake"
        run(CMAKE, "-S", ROOT / "examples" / "embed", "-B", build, f"-DCMAKE_PREFIX_PATH={self.prefix}",
            f"-DCMAKE_CXX_COMPILER={CXX}", "-DCMAKE_BUILD_TYPE=Debug")
        run(CMAKE, "--build", build)
        by_cmake = self.embed(build / "embed")

        folder = next(self.prefix.rglob("quipu.pc")).parent
        flags = run("pkg-config", "--cflags", "--libs", "quipu", env={**os.environ, "PKG_CONFIG_PATH": str(folder)}).split()
        self.assertTrue(all(str(self.prefix) in flag for flag in flags if flag.startswith(("-I", "-L"))), flags)
        program = self.folder / "by-pkg-config"
        run(CXX, "-std=c++20", ROOT / "examples" / "embed" / "main.cc", "-o", program, *flags)
        self.assertEqual(self.embed(program), by_cmake)

    def test_another_minor_version_is_refused(self):
        source = self.folder / "other"
        source.mkdir()
        (source / "CMakeLists.txt").write_text(
            "cmake_minimum_required(VERSION 3.16)\nproject(other NONE)\nfind_package(quipu 0.999 REQUIRED)\n")
        done = subprocess.run([CMAKE, "-S", source, "-B", source / "build", f"-DCMAKE_PREFIX_PATH={self.prefix}"],
                              capture_output=True, timeout=TIME_OUT_S, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(b"0.999", done.stderr)


if __name__ == "__main__":
    unittest.main()
