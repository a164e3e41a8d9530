"""The dashboard and the alert rules name what a running server tells, and nothing else."""

import json
import re
import unittest

from quipu_server import ROOT, ServerTest

PACKAGING = ROOT / "packaging"
OF_OTHERS = {"up"}  # Prometheus's own
WORDS = {"sum", "rate", "by", "max", "histogram_quantile", "increase", "le"}


def names_in(expression):
    """The metrics and the labels that a query names."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    labels = {label for group in re.findall(r"by \(([^)]*)\)", bare) for label in group.replace(" ", "").split(",")}
    labels |= {label for group in re.findall(r"\{([^}]*)\}", bare) for label in re.findall(r"(\w+)\s*(?:=~|=)", group)}
    without = re.sub(r"by \([^)]*\)|\{[^}]*\}|\[[^]]*\]", " ", bare)
    return set(re.findall(r"[a-zA-Z_]\w*", without)) - WORDS, labels


def exposed(text):
    """Sample names, and the labels that each of them has."""
    samples = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, rest = line.split("{", 1)
            samples.setdefault(name, set()).update(re.findall(r'(\w+)="', rest.rsplit("}", 1)[0]))
    return samples


class Dashboard(ServerTest):
    def setUp(self):
        self.samples = exposed(self.server.send("GET", "/metrics").read().decode())

    def check(self, expression):
        metrics, labels = names_in(expression)
        self.assertTrue(metrics, expression)
        for metric in metrics - OF_OTHERS:
            self.assertIn(metric, self.samples, expression)
        known = set().union(*(self.samples[metric] for metric in metrics - OF_OTHERS), {"job", "instance"})
        self.assertLessEqual(labels, known, expression)
        return metrics

    def test_the_check_can_fail(self):
        for wrong in ("rate(quipu_no_such_total[5m])", 'sum by (colour) (quipu_kv_blocks{state="free"})'):
            with self.assertRaises(AssertionError):
                self.check(wrong)

    def test_every_panel_has_metrics_that_exist(self):
        dashboard = json.loads((PACKAGING / "grafana" / "quipu.json").read_text())
        panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
        named = set()
        for panel in panels:
            self.assertTrue(panel["title"] and panel["targets"], panel["id"])
            for target in panel["targets"]:
                named |= self.check(target["expr"])
        ids = [panel["id"] for panel in dashboard["panels"]]
        self.assertEqual(len(ids), len(set(ids)))
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
        self.assertEqual(len(places), len(set(places)))
        # And it leaves nothing out but what another panel of the same says already.
        bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in self.samples}
        shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
        self.assertEqual(bases - shown, {"quipu_kv_tier_blocks", "quipu_kv_tier_tokens_total", "quipu_kv_window_blocks_left_total"})

    def test_every_alert_has_metrics_that_exist(self):
        text = (PACKAGING / "prometheus" / "quipu-alerts.yml").read_text()
        expressions = re.findall(r"^ +expr: (.*)$", text, re.MULTILINE)
        self.assertEqual(len(expressions), text.count("- alert: "))
        for expression in expressions:
            self.check(expression)


if __name__ == "__main__":
    unittest.main()
