"""The page's files: as they are, compressed for who takes that, and not again for who has them."""

import gzip
import pathlib
import re

from quipu_server import ROOT, ServerTest

PAGE = ROOT / "src" / "web"


class Assets(ServerTest):
    def get(self, path, **headers):
        return self.server.send("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def test_every_file_both_ways(self):
        names = re.search(r"set\(assets ([^)]*)\)", (PAGE / "CMakeLists.txt").read_text()).group(1).split()
        self.assertGreater(len(names), 10)
        plain_bytes = gzip_bytes = 0
        for name in names:
            path = "/" if name == "index.html" else f"/web/{name}"
            content = pathlib.Path(PAGE, name).read_bytes()
            plain, packed = self.get(path), self.get(path, Accept_Encoding="br, gzip;q=0.5")
            self.assertEqual(plain.read(), content)
            self.assertIsNone(plain.getheader("Content-Encoding"))
            self.assertEqual(packed.getheader("Content-Encoding"), "gzip")
            body = packed.read()
            self.assertEqual(gzip.decompress(body), content)
            self.assertEqual(body[4:8], bytes(4))  # no time in it: the same file gives the same bytes
            plain_bytes += len(content)
            gzip_bytes += len(body)
            for reply in (plain, packed):
                self.assertEqual(reply.getheader("Vary"), "Accept-Encoding")
                self.assertTrue(reply.getheader("ETag").strip('"'))
            self.assertNotEqual(plain.getheader("ETag"), packed.getheader("ETag"))
        self.assertLess(gzip_bytes, plain_bytes / 2)

    def test_who_has_it_does_not_get_it_again(self):
        for coding in ("identity", "gzip"):
            first = self.get("/web/app.css", Accept_Encoding=coding)
            first.read()
            again = self.get("/web/app.css", Accept_Encoding=coding, If_None_Match=first.getheader("ETag"))
            self.assertEqual((again.status, again.read()), (304, b""))
            self.assertEqual(again.getheader("ETag"), first.getheader("ETag"))
        other = self.get("/web/app.css", If_None_Match=first.getheader("ETag"))  # that was the other form
        self.assertEqual(other.status, 200)

    def test_who_refuses_it_does_not_get_it(self):
        for refusal in ("gzip;q=0", "identity", "*;q=0", "br"):
            self.assertIsNone(self.get("/", Accept_Encoding=refusal).getheader("Content-Encoding"), refusal)
