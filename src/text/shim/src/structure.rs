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
    let thought = thought(&description["thinking"], &mut out);
    let body = match (description["calls"].is_object(), description["answer"].is_object()) {
        (true, true) => {
            let calls = calls(&description["calls"], &thought, &mut out)?;
            let answer = answer(&description["answer"], &mut out)?;
            out.push_str(&format!("answer: {answer}\n"));
            calls.or("answer")
        }
        (true, false) => calls(&description["calls"], &thought, &mut out)?,
        (false, _) => Body::alike(answer(&description["answer"], &mut out)?),
    };
    let start = match thought {
        Thought::None => body.alone,
        Thought::Open => format!("thought {}", body.after_thought),
        Thought::Marked(_) => format!("thought {} | {}", body.after_thought, body.alone),
    };
    Ok(format!("start: {start}\nTEXT: /(?s:.*)/\n{out}"))
}

/// Whether thinking stands before the rest, in a rule `thought`.
enum Thought {
    None,
    /// The prompt began it.
    Open,
    /// It may come, with this mark.
    Marked(Value),
}

/// The rest: what follows a thought, and what is the whole output.
struct Body {
    after_thought: String,
    alone: String,
}

impl Body {
    fn alike(rule: String) -> Body {
        Body { after_thought: rule.clone(), alone: rule }
    }

    fn or(&self, rule: &str) -> Body {
        Body {
            after_thought: format!("({} | {rule})", self.after_thought),
            alone: format!("({} | {rule})", self.alone),
        }
    }
}

fn text<'a>(json: &'a Value, name: &str) -> Outcome<&'a str> {
    json[name].as_str().ok_or_else(|| Failure::internal(format!("a structure without {name}")))
}

/// A mark as grammar: a text, or {"token": ID}, or several of them, or null for nothing.
fn mark(json: &Value) -> String {
    if let Some(parts) = json.as_array() {
        return parts.iter().map(mark).collect();
    }
    match (json["token"].as_u64(), json.as_str()) {
        (Some(id), _) => format!(" <[{id}]>"),
        (None, Some(text)) if !text.is_empty() => format!(" {}", lark_string(text)),
        _ => String::new(),
    }
}

/// Anything up to a mark and the mark, as a rule of this name. `but`: what it is not.
fn up_to(name: &str, json: &Value, but: &str, out: &mut String) {
    match json.as_str() {
        Some(text) => {
            out.push_str(&format!("{name}[lazy]: /(?s:.*){}/{but}\n", regex_literal(text)));
        }
        None => out.push_str(&format!("{name}: TEXT{}\n", mark(json))),
    }
}

const GAP: &str = "[ \\t\\r\\n]{0,8}";

fn thought(thinking: &Value, out: &mut String) -> Thought {
    if !thinking.is_object() {
        return Thought::None;
    }
    up_to("thoughts", &thinking["end"], "", out);
    out.push_str(&format!("GAP: /{GAP}/\n"));
    let begin = &thinking["begin"];
    if begin.is_null() {
        out.push_str("thought: thoughts GAP\n");
        return Thought::Open;
    }
    let opens = match begin.as_str() {
        Some(text) => format!("/{GAP}{}/", regex_literal(text)),
        None => format!("GAP{}", mark(begin)),
    };
    out.push_str(&format!("thought: {opens} thoughts GAP\n"));
    Thought::Marked(begin.clone())
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

fn calls(calls: &Value, thought: &Thought, out: &mut String) -> Outcome<Body> {
    one_call(calls, out)?;
    let begin = mark(&calls["begin"]);
    let (open, close) = (mark(&calls["open"]), mark(&calls["close"]));
    let between = mark(&calls["between"]);
    let end = mark(&calls["end"]);
    // A mark around each call, or around all of them.
    let each = calls["marks_each"] == json!(true);
    let first = if each { format!("call{end}") } else { format!("{open} call") };
    let next = if each { format!("{begin} call{end}") } else { "call".to_string() };
    let last = if each { String::new() } else { format!("{close}{end}") };
    let many = calls["many"] == json!(true);
    let more = if many { format!(" ({between} {next})*") } else { String::new() };
    let after_begin = format!("{first}{more}{last}");
    if calls["text"] != json!(true) {
        return Ok(Body::alike(format!("{begin} {after_begin}")));
    }
    // Without a thought the output does not begin like one. Else a thought would be text too, which
    // is longer than its mark and so preferred, and what it says of calls would begin one.
    let mut but = "";
    if let Thought::Marked(Value::String(opens)) = thought {
        out.push_str(&format!("OPENS: /{GAP}{}(?s:.*)/\n", regex_literal(opens)));
        but = " & ~OPENS";
    }
    out.push_str(&format!("PLAIN: /(?s:.*)/{but}\n"));
    let text_and_calls = |text: &str, lead: &str| match calls["begin"].as_str() {
        Some(_) => format!("({text} | {lead} {after_begin})"),
        None => format!("{text} ({begin} {after_begin})?"),
    };
    if calls["begin"].is_string() {
        up_to("lead", &calls["begin"], "", out);
        up_to("plain_lead", &calls["begin"], but, out);
    }
    Ok(Body {
        after_thought: text_and_calls("TEXT", "lead"),
        alone: text_and_calls("PLAIN", "plain_lead"),
    })
}

/// The rule `call`: one of the tools, with arguments by its schema.
fn one_call(calls: &Value, out: &mut String) -> Outcome<()> {
    let tools = calls["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
    if tools.is_empty() || tools.len() > TOOLS_MAX {
        let count = tools.len();
        return Err(Failure::exhausted(format!("{count} tools; expected 1 to {TOOLS_MAX}")));
    }
    let after_name = mark(&calls["after_name"]);
    let after_arguments = mark(&calls["after_arguments"]);
    let mut names = Vec::new();
    for (i, tool) in tools.iter().enumerate() {
        let arguments = match calls["tags"].is_object() {
            true => tagged_arguments(&calls["tags"], &tool["arguments"], i, out)?,
            false => json_arguments(tool)?,
        };
        let name = text(tool, "name")?;
        let name = match calls["before_name"].as_str() {
            Some(before) => lark_string(&format!("{before}{name}")),
            None => format!("{} {}", mark(&calls["before_name"]), lark_string(name)),
        };
        out.push_str(&format!("call{i}: {name}{after_name}{arguments}{after_arguments}\n"));
        names.push(format!("call{i}"));
    }
    out.push_str(&format!("call: {}\n", names.join(" | ")));
    Ok(())
}

/// One object. Arguments are an object, whatever else the schema says.
fn json_arguments(tool: &Value) -> Outcome<String> {
    let nothing = json!({"properties": {}});
    let given = if tool["schema"].is_null() { &nothing } else { &tool["schema"] };
    let mut arguments = schema::prepare(given.clone(), text(tool, "place")?)?;
    if let Some(members) = arguments.as_object_mut() {
        members.entry("type").or_insert(json!("object"));
    }
    Ok(format!(" %json {arguments}"))
}

/// Arguments between marks, in their order (text/tagged_arguments.h); what follows a value ends with
/// a line's end.
fn tagged_arguments(
    tags: &Value,
    arguments: &Value,
    tool: usize,
    out: &mut String,
) -> Outcome<String> {
    let after = text(tags, "after_value")?;
    let mut rules = String::new();
    for (i, argument) in arguments.as_array().into_iter().flatten().enumerate() {
        let schema = schema::prepare(argument["schema"].clone(), text(argument, "place")?)?;
        let key = lark_string(&format!(
            "{}{}{}",
            text(tags, "before_key")?,
            text(argument, "name")?,
            text(tags, "after_key")?
        ));
        let value = match argument["text"] == json!(true) {
            true => text_value(argument, after, &format!("{tool}_{i}"), out)?,
            false => format!("%json {schema} {}", lark_string(after)),
        };
        let wrapped = if argument["required"] == json!(true) { "" } else { "?" };
        rules.push_str(&format!(" ({key} {value}){wrapped}"));
    }
    Ok(rules)
}

/// A text and what follows it.
fn text_value(argument: &Value, after: &str, name: &str, out: &mut String) -> Outcome<String> {
    let choices = argument["choices"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !choices.is_empty() {
        let texts = choices.iter().filter_map(Value::as_str);
        let all: Vec<String> = texts.map(|choice| lark_string(&format!("{choice}{after}"))).collect();
        return Ok(format!("({})", all.join(" | ")));
    }
    if let Some(pattern) = argument["pattern"].as_str().filter(|pattern| !pattern.is_empty()) {
        let whole = lark_regex(pattern)?;
        out.push_str(&format!("VALUE{name}: ({whole} & /[^\\n]*/) {}\n", lark_string(after)));
        return Ok(format!("VALUE{name}"));
    }
    let most = argument["characters_max"].as_u64().map(|most| format!("{{0,{most}}}"));
    let most = most.unwrap_or("*".to_string());
    out.push_str(&format!("value{name}[lazy]: /(?s:.{most}){}/\n", regex_literal(after)));
    Ok(format!("value{name}"))
}
