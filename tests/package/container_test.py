"""The container file, as far as it can be checked without building an image: its packages, its paths, its health check."""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("QUIPU_BUILD_DIR", ROOT / "build" / "release"))
os.environ["QUIPU_PROGRAM"] = str(BUILD / "quipu")
sys.path.insert(0, str(ROOT / "tests" / "server"))
from quipu_server import MODEL, Server, TlsServer  # noqa: E402

TIME_OUT_S = 60


def instructions():
    """Pairs of instruction and argument, continuation lines joined, comments left out."""
    text = (ROOT / "packaging" / "Containerfile").read_text()
    lines = "\n".join(line for line in text.split("\n") if not line.startswith("#")).replace("\\\n", " ").split("\n")
    return [tuple(line.split(" ", 1)) for line in lines if line.strip()]


def output(*command):
    done = subprocess.run(command, capture_output=True, timeout=TIME_OUT_S, check=False)
    return done.stdout.decode() if done.returncode == 0 else ""


class Container(unittest.TestCase):
    def test_its_shape(self):
        steps = instructions()
        self.assertEqual([argument for name, argument in steps if name == "FROM"], ["debian:12-slim AS build", "debian:12-slim"])
        runtime = steps[[i for i, (name, _) in enumerate(steps) if name == "FROM"][1]:]
        self.assertIn(("USER", "quipu"), runtime)
        after_user = runtime[runtime.index(("USER", "quipu")):]
        self.assertNotIn("RUN", [name for name, _ in after_user])
        self.assertEqual(dict(after_user)["ENTRYPOINT"], '["quipu"]')
        # What building needs is said in one place.
        self.assertIn(("RUN", "scripts/install-deps build"), steps)
        for name, argument in steps:
            if name == "COPY" and not argument.startswith("--from"):
                self.assertTrue((ROOT / argument.split(" ")[0]).exists(), argument)

    def runtime_packages(self):
        install = [argument for name, argument in instructions() if name == "RUN" and "apt-get install" in argument]
        self.assertEqual(len(install), 1)
        words = re.search(r"apt-get install ([^&]*)", install[0]).group(1).split()
        return {word for word in words if not word.startswith("-")}

    def test_the_packages_are_those_that_the_program_and_the_library_need(self):
        release = pathlib.Path("/etc/os-release").read_text() if pathlib.Path("/etc/os-release").exists() else ""
        if 'VERSION_ID="12"' not in release or shutil.which("dpkg") is None:
            self.skipTest("the packages of the image can be compared on Debian 12 only")
        needed = set()
        for file in (BUILD / "quipu", BUILD / "libquipu.so"):
            for path in re.findall(r"=> (/\S+)", output("ldd", str(file))):
                owners = output("dpkg", "-S", path) or output("dpkg", "-S", str(pathlib.Path(path).resolve()))
                self.assertTrue(owners, f"no package owns {path}")
                needed.add(owners.split(":")[0])
        # These two are part of every Debian image.
        self.assertEqual(self.runtime_packages(), needed - {"libc6", "libgcc-s1"})
        for package in self.runtime_packages():
            self.assertIn("Package: " + package, output("apt-cache", "show", package))

    @unittest.skipUnless(MODEL.exists(), f"the built-in model is not there: {MODEL}")
    def test_the_health_check(self):
        check = next(argument for name, argument in instructions() if name == "HEALTHCHECK")
        command = json.loads(check[check.index("["):])

        def is_healthy(port):
            return subprocess.run(command, env={**os.environ, "QUIPU_PORT": str(port)}, capture_output=True,
                                  timeout=TIME_OUT_S, check=False).returncode == 0

        for kind in (Server, TlsServer):
            server = kind("--host", "0.0.0.0", "--api-key", "k")
            try:
                self.assertTrue(is_healthy(server.port), kind.__name__)
            finally:
                server.stop()
            self.assertFalse(is_healthy(server.port))
        with socket.create_server(("127.0.0.1", 0)) as mute:  # something listens, and is no server
            mute.settimeout(TIME_OUT_S)
            check = subprocess.Popen(command, env={**os.environ, "QUIPU_PORT": str(mute.getsockname()[1])},
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            mute.accept()[0].close()
            self.assertNotEqual(check.wait(TIME_OUT_S), 0)


if __name__ == "__main__":
    unittest.main()
