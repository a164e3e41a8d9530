#!/usr/bin/env python3
"""Expected renderings of real chat templates, made with transformers' own Jinja environment.

    make_template_goldens.py SHARED_DIR OUTPUT.json [FOLDER]   (pip install transformers jinja2)

SHARED_DIR/data/templates has models/*.jinja and contexts/*.json. Each template is rendered with five
contexts: the three files, tool_use with the arguments of tool calls parsed ("tool_use_objects"), and
simple without a generation prompt ("simple_closed"). The output holds, per template and context, the
FNV-1a hash and the length of the text, or the reason why Python refuses; a few texts are kept whole,
so that a difference can be read, and with FOLDER all of them are written there.
"""

import copy
import datetime
import json
import pathlib
import sys

import transformers.utils.chat_template_utils as chat_templates

CLOCK = datetime.datetime(2024, 7, 26, 12, 34, 56)
KEEP_WHOLE = {
    ("Qwen-Qwen3-0.6B", "tool_use_objects"),
    ("meta-llama-Llama-3.1-8B-Instruct", "system"),
    ("google-gemma-2-2b-it", "simple"),
}


class FixedDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return CLOCK


def fnv1a(data: bytes) -> str:
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def contexts(folder: pathlib.Path) -> dict:
    out = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}
    objects = copy.deepcopy(out["tool_use"])
    for message in objects["messages"]:
        for call in message.get("tool_calls", []):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    out["tool_use_objects"] = objects
    out["simple_closed"] = {**copy.deepcopy(out["simple"]), "add_generation_prompt": False}
    return out


def render(source: str, context: dict) -> dict:
    arguments = {"tools": None, "documents": None, **copy.deepcopy(context)}
    try:
        text = chat_templates._compile_jinja_template(source).render(**arguments)
    except Exception as error:  # noqa: BLE001: whatever Python refuses with is the expectation
        return {"refused": f"{type(error).__name__}: {error}"[:120]}
    data = text.encode("utf-8")
    return {"hash": fnv1a(data), "bytes": len(data), "text": text}


def main() -> None:
    shared, output = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    chat_templates.datetime = FixedDatetime
    folder = shared / "data" / "templates"
    expected: dict = {}
    whole: dict = {}
    for path in sorted((folder / "models").glob("*.jinja")):
        source = path.read_text("utf-8")
        for name, context in contexts(folder / "contexts").items():
            result = render(source, context)
            text = result.pop("text", None)
            if text is not None and (path.stem, name) in KEEP_WHOLE:
                whole[f"{path.stem}/{name}"] = text
            if len(sys.argv) > 3 and text is not None:
                target = pathlib.Path(sys.argv[3])
                target.mkdir(parents=True, exist_ok=True)
                (target / f"{path.stem}.{name}.txt").write_bytes(text.encode("utf-8"))
            expected.setdefault(path.stem, {})[name] = result
    golden = {
        "made_by": "tools/golden/make_template_goldens.py",
        "clock_unix_s": int(CLOCK.replace(tzinfo=datetime.timezone.utc).timestamp()),
        "expected": expected,
        "whole": whole,
    }
    text = json.dumps({k: v for k, v in golden.items() if k != "expected"}, ensure_ascii=False, indent=1)
    rows = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(cases, ensure_ascii=False)}" for name, cases in expected.items()
    )
    output.write_text(text[:-2] + ',\n "expected": {\n' + rows + "\n }\n}\n", "utf-8")
    refused = sum("refused" in case for cases in expected.values() for case in cases.values())
    total = sum(len(cases) for cases in expected.values())
    print(f"{len(expected)} templates, {total} renderings, {refused} refused by Python")


if __name__ == "__main__":
    main()
