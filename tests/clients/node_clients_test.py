"""Starts servers and runs node_clients.mjs, whose tests use the JavaScript libraries, against them."""

import os
import pathlib
import subprocess
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "server"))
from quipu_server import TIME_OUT_S, ServerTest  # noqa: E402
from scripted_test import scripted_server  # noqa: E402

KEY = "a-key"


class JavaScript(ServerTest):
    flags = ("--api-key", KEY)

    def test_clients(self):
        # Packages are looked up beside the file that imports them, so it runs where they are installed.
        folder = pathlib.Path(os.environ["QUIPU_CLIENTS_DIR"], "node")
        script = folder / "node_clients.mjs"
        script.write_bytes((HERE / "node_clients.mjs").read_bytes())
        scripted = scripted_server(self)
        environment = {**os.environ, "QUIPU_URL": f"http://{self.server.host}:{self.server.port}", "QUIPU_KEY": KEY,
                       "QUIPU_SCRIPTED_URL": f"http://{scripted.host}:{scripted.port}"}
        done = subprocess.run(["node", "--test", "--test-reporter=tap", str(script)], cwd=folder, env=environment,
                              capture_output=True, text=True, timeout=TIME_OUT_S, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        passed = [line for line in done.stdout.splitlines() if line.startswith("# pass ")]
        self.assertEqual(len(passed), 1, done.stdout)
        print(passed[0].removeprefix("# "))


if __name__ == "__main__":
    unittest.main()
