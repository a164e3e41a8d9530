//! Outputs of several parts as one Lark grammar: thinking, then an answer in a given form, or text
//! with calls of tools.
//!
//! The description is JSON made by text/tool_format.cc; the schemas inside it come from outside.

use serde_json::{json, Value};

use crate::constraint::{lark_of_choice, lark_regex, lark_string, parse_json, regex_literal};
use crate::failure::{Failure, Outcome};
use crate::gbnf;
use crate::schema;

const TOOLS_MAX: usize = 256;

pub fn to_lark(description: &Value) -> Outcome<String> {
    let mut out = String::new();
    let thinking = thinking(&description["thinking"], &mut out)?;
    let body = if description["calls"].is_object() {
        calls(&description["calls"], &mut out)?
    } else {
        answer(&description["answer"], &mut out)?
    };
    Ok(format!("start: {thinking}{body}\nTEXT: /(?s:.*)/\n{out}"))
}

fn text<'a>(json: &'a Value, name: &str) -> Outcome<&'a str> {
    json[name].as_str().ok_or_else(|| Failure::internal(format!("a structure without {name}")))
}

/// A mark as grammar: a text, or {"token": ID}, or null for nothing.
fn mark(json: &Value) -> String {
    match (json["token"].as_u64(), json.as_str()) {
        (Some(id), _) => format!(" <[{id}]>"),
        (None, Some(text)) if !text.is_empty() => format!(" {}", lark_string(text)),
        _ => String::new(),
    }
}

/// Anything up to a mark and the mark, as a rule of this name.
fn up_to(name: &str, json: &Value, out: &mut String) {
    match json.as_str() {
        Some(text) => {
            out.push_str(&format!("{name}[lazy]: /(?s:.*){}/\n", regex_literal(text)));
        }
        None => out.push_str(&format!("{name}: TEXT{}\n", mark(json))),
    }
}

/// What stands before the rest: nothing, thinking that may come, or thinking that the prompt began.
fn thinking(thinking: &Value, out: &mut String) -> Outcome<String> {
    if !thinking.is_object() {
        return Ok(String::new());
    }
    up_to("thoughts", &thinking["end"], out);
    out.push_str("GAP: /[ \\t\\r\\n]{0,8}/\n");
    Ok(match thinking["begin"].is_null() {
        false => format!("({} thoughts GAP)? ", mark(&thinking["begin"])),
        true => "thoughts GAP ".to_string(),
    })
}

/// An answer in the form of another kind of constraint.
fn answer(answer: &Value, out: &mut String) -> Outcome<String> {
    let source = text(answer, "source")?;
    match text(answer, "kind")? {
        "json_schema" => Ok(format!("%json {}", schema::prepare(parse_json(source)?, "#")?)),
        "regex" => lark_regex(source),
        "choice" => {
            let grammar = lark_of_choice(&parse_json(source)?)?;
            out.push_str(&grammar["start: CHOICE\n".len()..]);
            Ok("CHOICE".to_string())
        }
        kind @ ("lark" | "gbnf") => {
            let grammar = if kind == "gbnf" { gbnf::to_lark(source)? } else { source.to_string() };
            // A grammar of its own, with names of its own.
            Ok(format!("%lark {{\n{grammar}\n}}"))
        }
        other => Err(Failure::internal(format!("a structure with an answer of kind {other}"))),
    }
}

fn calls(calls: &Value, out: &mut String) -> Outcome<String> {
    one_call(calls, out)?;
    let begin = mark(&calls["begin"]);
    let (open, close) = (mark(&calls["open"]), mark(&calls["close"]));
    let between = mark(&calls["between"]);
    let end = mark(&calls["end"]);
    // A mark around each call, or around all of them.
    let each = calls["marks_each"] == json!(true);
    let first = if each { format!("call{end}") } else { format!("{open} call") };
    let next = if each { format!("{begin} call{end}") } else { "call".to_string() };
    let last = if each { "" } else { &close };
    let many = calls["many"] == json!(true);
    let more = if many { format!(" ({between} {next})*") } else { String::new() };
    let after_begin = format!("{first}{more}{last}");
    if calls["text"] != json!(true) {
        return Ok(format!("{begin} {after_begin}"));
    }
    up_to("lead", &calls["begin"], out);
    Ok(match calls["begin"].as_str() {
        Some(_) => format!("(TEXT | lead {after_begin})"),
        None => format!("TEXT ({begin} {after_begin})?"),
    })
}

/// The rule `call`: one of the tools, with arguments by its schema.
fn one_call(calls: &Value, out: &mut String) -> Outcome<()> {
    let tools = calls["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
    if tools.is_empty() || tools.len() > TOOLS_MAX {
        let count = tools.len();
        return Err(Failure::exhausted(format!("{count} tools; expected 1 to {TOOLS_MAX}")));
    }
    let nothing = json!({"properties": {}});
    let after_name = mark(&calls["after_name"]);
    let after_arguments = mark(&calls["after_arguments"]);
    let mut names = Vec::new();
    for (i, tool) in tools.iter().enumerate() {
        let given = if tool["schema"].is_null() { &nothing } else { &tool["schema"] };
        let mut arguments = schema::prepare(given.clone(), text(tool, "place")?)?;
        // Arguments are an object, whatever else the schema says.
        if let Some(members) = arguments.as_object_mut() {
            members.entry("type").or_insert(json!("object"));
        }
        let name = lark_string(&format!("{}{}", text(calls, "before_name")?, text(tool, "name")?));
        out.push_str(&format!("call{i}: {name}{after_name} %json {arguments}{after_arguments}\n"));
        names.push(format!("call{i}"));
    }
    out.push_str(&format!("call: {}\n", names.join(" | ")));
    Ok(())
}
