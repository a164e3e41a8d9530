//! A constraint on the tokens of one output: compiled from a schema or a grammar, then followed token
//! by token. The work is llguidance's; here are the limits around it.
//!
//! Sources are untrusted. Sizes are limited before anything is parsed, compiling runs with fuel, and
//! on a thread whose stack has room for the deepest nesting that the parsers accept.

use std::sync::atomic::{AtomicBool, Ordering};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{SimpleVob, TokTrie};
use llguidance::{regex_to_lark, Matcher};
use serde_json::Value;

use crate::failure::{Failure, Outcome};
use crate::gbnf;
use crate::schema;
use crate::structure;
use crate::vocabulary::Vocabulary;

/// Larger than any schema or grammar that people write.
const SOURCE_BYTES_MAX: usize = 256 << 10;
/// The parsers stop at a nesting of about 250 and take some KiB for each.
const COMPILE_STACK_BYTES: usize = 64 << 20;
const CHOICES_MAX: usize = 10_000;

/// What a source is. The numbers are part of the C interface (quipu_text.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    JsonSchema = 0,
    Regex = 1,
    Lark = 2,
    Gbnf = 3,
    Choice = 4,
    Structure = 5,
}

impl Kind {
    pub fn from_number(number: i32) -> Option<Self> {
        [Kind::JsonSchema, Kind::Regex, Kind::Lark, Kind::Gbnf, Kind::Choice, Kind::Structure]
            .into_iter()
            .find(|kind| *kind as i32 == number)
    }
}

/// Of a constraint beside its lexer and its source: about what one of a single letter takes.
const BYTES_AT_LEAST: usize = 64 << 10;
/// What a grammar takes for each byte of its source, beside its lexer: measured on schemas of 0.5 to
/// 70 KB (bench/text).
const BYTES_PER_SOURCE_BYTE: usize = 56;

/// How far forced() looks ahead, and how many tokens may be beginnings of one another.
const FORCED_TOKENS_MAX: usize = 16;
const CHAIN_MAX: usize = 64;
/// Items of the parser and fuel of the lexer for looking ahead. An output that needs more is not asked
/// again: guesses must not multiply what a hostile source costs.
const FORCED_WORK_MAX: u64 = 20_000;

pub struct Constraint {
    matcher: Matcher,
    vocabulary_size: usize,
    bytes: usize,
    forced_costs_too_much: AtomicBool,
}

impl Constraint {
    pub fn compile(vocabulary: &Vocabulary, kind: Kind, source: &str) -> Outcome<Self> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(Failure::exhausted(format!(
                "it has {} bytes; at most {SOURCE_BYTES_MAX} are accepted",
                source.len()
            )));
        }
        std::thread::scope(|scope| {
            let worker = std::thread::Builder::new()
                .stack_size(COMPILE_STACK_BYTES)
                .spawn_scoped(scope, || Self::compile_here(vocabulary, kind, source))
                .map_err(|error| Failure::exhausted(format!("no thread to compile on: {error}")))?;
            worker
                .join()
                .unwrap_or_else(|panic| Err(Failure::panicked(panic.as_ref(), "compiling")))
        })
    }

    fn compile_here(vocabulary: &Vocabulary, kind: Kind, source: &str) -> Outcome<Self> {
        let grammar = match kind {
            Kind::JsonSchema => {
                TopLevelGrammar::from_json_schema(schema::prepare(parse_json(source)?, "#")?)
            }
            Kind::Regex => TopLevelGrammar::from_lark(format!("start: {}\n", lark_regex(source)?)),
            Kind::Lark => TopLevelGrammar::from_lark(checked_lark(source)?),
            Kind::Gbnf => TopLevelGrammar::from_lark(gbnf::to_lark(source)?),
            Kind::Choice => TopLevelGrammar::from_lark(lark_of_choice(&parse_json(source)?)?),
            Kind::Structure => {
                TopLevelGrammar::from_lark(structure::to_lark(&parse_json(source)?)?)
            }
        };
        let parser = vocabulary.factory.create_parser(grammar).map_err(|error| refusal(error))?;
        let bytes = BYTES_AT_LEAST
            + BYTES_PER_SOURCE_BYTE * source.len()
            + parser.parser.lexer_stats().num_bytes;
        let mut matcher = Matcher::new(Ok(parser));
        // A grammar that allows nothing at all is found here, and not at the first token.
        let allows_nothing =
            matcher.compute_mask_or_eos().map_err(|error| refusal(error))?.is_zero();
        if matcher.is_error() || allows_nothing {
            return Err(Failure::invalid("it allows no output at all"));
        }
        let forced_costs_too_much = AtomicBool::new(false);
        Ok(Constraint { matcher, vocabulary_size: vocabulary.size, bytes, forced_costs_too_much })
    }

    /// About what it takes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A constraint at the same place that shares nothing with this one, so that how much work one
    /// did changes nothing for another.
    pub fn duplicate(&self) -> Self {
        Constraint {
            matcher: self.matcher.deep_clone(),
            vocabulary_size: self.vocabulary_size,
            bytes: self.bytes,
            forced_costs_too_much: AtomicBool::new(false),
        }
    }

    /// The bytes that come next, whatever is chosen, as far as tokens end with them; a control token as
    /// 0xff and its id in brackets. A copy goes ahead, by masks, which have their limits: what this one
    /// allows, and what its own limits count, stays as it was.
    pub fn forced(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.forced_costs_too_much.load(Ordering::Relaxed) {
            return bytes;
        }
        let mut work = 0;
        let mut ahead = self.matcher.deep_clone();
        let Ok(env) = ahead.tok_env() else { return bytes };
        for _ in 0..FORCED_TOKENS_MAX {
            if ahead.is_stopped() || work > FORCED_WORK_MAX {
                break;
            }
            let mask = ahead.compute_mask_or_eos();
            work += ahead
                .last_step_stats()
                .map_or(FORCED_WORK_MAX + 1, |step| step.lexer_cost + step.all_items as u64);
            let Ok(mask) = mask else { break };
            let Some(token) = only_text(&mask, env.tok_trie()) else { break };
            if env.tok_trie().is_special_token(token) {
                bytes.push(TokTrie::SPECIAL_TOKEN_MARKER);
                bytes.extend_from_slice(format!("[{token}]").as_bytes());
            } else {
                bytes.extend_from_slice(env.tok_trie().token(token));
            }
            if ahead.consume_token(token).is_err() {
                break;
            }
        }
        self.forced_costs_too_much.store(work > FORCED_WORK_MAX, Ordering::Relaxed);
        bytes
    }

    /// Sets bit i % 32 of word i / 32 when token i may come next.
    pub fn mask(&mut self, words: &mut [u32]) -> Outcome<()> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|error| failed(error))?;
        let allowed = mask.as_slice();
        let needed = self.vocabulary_size.div_ceil(32);
        if words.len() < needed || allowed.len() < needed {
            return Err(Failure::internal("a mask has the wrong size"));
        }
        words.fill(0);
        words[..needed].copy_from_slice(&allowed[..needed]);
        let used = self.vocabulary_size % 32;
        if used != 0 {
            words[needed - 1] &= (1u32 << used) - 1;
        }
        Ok(())
    }

    /// Goes on by one token; true when nothing can follow.
    pub fn accept(&mut self, token: u32) -> Outcome<bool> {
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return Ok(true);
        }
        self.matcher.consume_token(token).map_err(|error| failed(error))?;
        Ok(self.matcher.is_stopped())
    }

    /// Whether the output may end here.
    pub fn may_end(&mut self) -> Outcome<bool> {
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return Ok(true);
        }
        self.matcher.is_accepting().map_err(|error| failed(error))
    }
}

/// The longest of the tokens in the mask, when all others are beginnings of it; or the only one.
fn only_text(mask: &SimpleVob, trie: &TokTrie) -> Option<u32> {
    let count = mask.num_set();
    if count == 0 || count > CHAIN_MAX {
        return None;
    }
    let tokens = mask.to_list();
    let longest = *tokens.iter().max_by_key(|token| trie.token(**token).len())?;
    if trie.is_special_token(longest) {
        return (count == 1 && !trie.eos_tokens().contains(&longest)).then_some(longest);
    }
    let text = trie.token(longest);
    let all_begin_it = tokens.iter().all(|token| text.starts_with(trie.token(*token)));
    (all_begin_it && !text.is_empty()).then_some(longest)
}

pub fn parse_json(source: &str) -> Outcome<Value> {
    serde_json::from_str(source).map_err(|error| Failure::invalid(format!("not JSON: {error}")))
}

/// `%import` reads nothing from disk, but names a library of terminals; the rest of what a grammar
/// can ask for is bounded by fuel.
fn checked_lark(source: &str) -> Outcome<String> {
    if source.trim().is_empty() {
        return Err(Failure::invalid("the grammar is empty"));
    }
    Ok(source.to_string())
}

/// The whole output matches; anchors at its ends say the same, and are dropped.
pub fn lark_regex(source: &str) -> Outcome<String> {
    let inner = source.strip_prefix('^').unwrap_or(source);
    let inner = match inner.strip_suffix('$') {
        Some(rest) if !rest.ends_with('\\') => rest,
        _ => inner,
    };
    if inner.is_empty() {
        return Err(Failure::invalid("the expression is empty"));
    }
    Ok(format!("/{}/", regex_to_lark(inner, "")))
}

pub fn lark_of_choice(source: &Value) -> Outcome<String> {
    let choices = source.as_array().map(Vec::as_slice).unwrap_or_default();
    if choices.is_empty() || choices.len() > CHOICES_MAX {
        return Err(Failure::invalid(format!("expected an array of 1 to {CHOICES_MAX} strings")));
    }
    let mut texts = Vec::new();
    for choice in choices {
        match choice.as_str() {
            Some(text) if !text.is_empty() => texts.push(lark_string(text)),
            _ => return Err(Failure::invalid("each choice is a string that is not empty")),
        }
    }
    Ok(format!("start: CHOICE\nCHOICE: {}\n", texts.join(" | ")))
}

/// A string literal of Lark, whose escapes are JSON's.
pub fn lark_string(text: &str) -> String {
    Value::String(text.to_string()).to_string().replace('\u{7f}', "\\u007f")
}

/// An expression, between slashes, that matches `text`.
pub fn regex_literal(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => out.push(c),
            _ => out.push_str(&format!("\\x{{{:x}}}", c as u32)),
        }
    }
    out
}

/// Of a source that does not compile.
fn refusal(error: impl std::fmt::Display) -> Failure {
    let message = plain(error);
    if ["fuel", "too complex", "too large", "limit", "too big"].iter().any(|w| message.contains(w))
    {
        return Failure::exhausted(message);
    }
    if ["not supported", "Unimplemented", "Unknown format", "nsatisfiable"]
        .iter()
        .any(|w| message.contains(w))
    {
        return Failure::unsupported(message);
    }
    Failure::invalid(message)
}

/// Of a constraint that cannot go on.
fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::exhausted(plain(error))
}

/// The message without what only developers of the library can read.
fn plain(error: impl std::fmt::Display) -> String {
    let text = format!("{error:#}");
    let cut = ["\n<backtrace>", "\n<state>", "\n<non-verbose/>", "<non-verbose/>"]
        .iter()
        .filter_map(|mark| text.find(mark))
        .min()
        .unwrap_or(text.len());
    let mut plain = text[..cut].trim().to_string();
    if plain.contains("NoExtension") {
        plain = "it allows no output at all, or none that the vocabulary can spell".to_string();
    }
    const MESSAGE_BYTES_MAX: usize = 600;
    if plain.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|&at| plain.is_char_boundary(at)).unwrap_or(0);
        plain.truncate(end);
        plain.push_str(" ...");
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Code;
    use crate::pieces::{Pieces, CONTROL, NORMAL};
    use serde_json::json;

    const END: u32 = 257;
    const CALLS: u32 = 258;

    /// All bytes, some tokens of several, an end and a control token.
    fn vocabulary() -> Vocabulary {
        let mut pieces = Pieces::default();
        for byte in 0..=255u8 {
            pieces.push(&[byte], NORMAL);
        }
        pieces.push(b"\"}", NORMAL);
        pieces.push(b"</s>", CONTROL);
        pieces.push(b"[TOOL_CALLS]", CONTROL);
        pieces.push(b"<tool", NORMAL);
        pieces.push(b"> {", NORMAL);
        Vocabulary::new(&pieces, &[END]).unwrap()
    }

    /// How many of the tokens are allowed, one after the other; and whether the end is then.
    fn follow(constraint: &Constraint, tokens: &[u32]) -> (usize, bool) {
        let mut state = constraint.duplicate();
        let mut words = [0u32; 9];
        let allows =
            |words: &[u32], token: u32| words[token as usize / 32] >> (token % 32) & 1 == 1;
        for (i, &token) in tokens.iter().enumerate() {
            state.mask(&mut words).unwrap();
            if !allows(&words, token) {
                return (i, allows(&words, END));
            }
            if state.accept(token).unwrap() {
                return (i + 1, true);
            }
        }
        state.mask(&mut words).unwrap();
        (tokens.len(), allows(&words, END))
    }

    fn accepts(kind: Kind, source: &str, text: &str) -> bool {
        let constraint = Constraint::compile(&vocabulary(), kind, source).unwrap();
        let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
        follow(&constraint, &tokens) == (tokens.len(), true)
    }

    fn failure(kind: Kind, source: &str) -> Failure {
        Constraint::compile(&vocabulary(), kind, source).err().expect("it compiled")
    }

    #[test]
    fn schemas() {
        let schema = r#"{"type":"object","properties":{"n":{"type":"integer"},"s":{"enum":["a","b"]}},"required":["n"]}"#;
        assert!(accepts(Kind::JsonSchema, schema, r#"{"n": 12, "s": "a"}"#));
        assert!(!accepts(Kind::JsonSchema, schema, "{\n  \"n\": 12\n}"));
        assert!(!accepts(Kind::JsonSchema, schema, r#"{"s": "a"}"#));
        assert!(!accepts(Kind::JsonSchema, schema, r#"{"n": 1, "x": 1}"#));
        assert!(!accepts(Kind::JsonSchema, schema, "{   \"n\": 1}"));
        assert!(accepts(Kind::JsonSchema, "true", "[1, {}]"));
        let tree = r##"{"$ref":"#/$defs/t","$defs":{"t":{"type":"object","properties":{"c":{"type":"array","items":{"$ref":"#/$defs/t"}}}}}}"##;
        assert!(accepts(Kind::JsonSchema, tree, r#"{"c": [{"c": []}, {}]}"#));
    }

    #[test]
    fn expressions_and_choices() {
        assert!(accepts(Kind::Regex, r"^\d{3}-/[^/]+$", "123-/abc"));
        assert!(accepts(Kind::Regex, r"a\$", "a$"));
        assert!(accepts(Kind::Regex, "[日本]é", "本é"));
        assert!(!accepts(Kind::Regex, r"[ab]+", "abc"));
        assert!(accepts(Kind::Choice, r#"["yes","no / \"x\""]"#, "no / \"x\""));
        assert!(!accepts(Kind::Choice, r#"["yes","no"]"#, "ye"));
        assert!(accepts(Kind::Lark, "start: A B?\nA: /a+/\nB: \"b\"", "aab"));
    }

    #[test]
    fn grammars_of_llama_cpp() {
        let json = "root ::= value\nvalue ::= \"[\" ws (value (\",\" ws value)*)? \"]\" ws | [0-9]+ ws\nws ::= [ \\t\\n]*\n";
        assert!(accepts(Kind::Gbnf, json, "[1, [22,[]] ]"));
        assert!(!accepts(Kind::Gbnf, json, "[1,]"));
        // What a terminal could take further is taken back where the grammar needs it.
        assert!(accepts(Kind::Gbnf, "root ::= [a-z]+ \"foo\" .", "abfofoo!"));
    }

    #[test]
    fn text_never_holds_a_control_token() {
        let free = Constraint::compile(&vocabulary(), Kind::Regex, "(?s:.*)").unwrap();
        assert_eq!(follow(&free, &[65, CALLS]), (1, true));
        assert_eq!(follow(&free, &[0xff]), (0, true));
        assert_eq!(follow(&free, &[0xc3, 0xa9, 256]), (3, true));
        assert_eq!(follow(&free, &[0xc3]), (1, false)); // half a character is no end
    }

    fn structure(extra: Value) -> String {
        let mut calls = serde_json::json!({
            "begin": "<tool_call>", "end": "</tool_call>", "between": "\n", "marks_each": true,
            "before_name": "\n{\"name\": \"", "after_name": "\", \"arguments\": ",
            "after_arguments": "}\n", "text": true, "many": true,
            "tools": [{"name": "add", "place": "tools[0]", "schema":
                {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}]
        });
        for (key, value) in extra.as_object().unwrap() {
            calls[key] = value.clone();
        }
        json!({"thinking": {"begin": "<think>", "end": "</think>"}, "calls": calls}).to_string()
    }

    const CALL: &str = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>";

    #[test]
    fn text_then_calls() {
        let auto = structure(json!({}));
        assert!(accepts(Kind::Structure, &auto, "just < text <tool"));
        assert!(accepts(Kind::Structure, &auto, ""));
        assert!(accepts(Kind::Structure, &auto, CALL));
        assert!(accepts(Kind::Structure, &auto, &format!("Let me see.\n{CALL}\n{CALL}")));
        assert!(accepts(Kind::Structure, &auto, &format!("<think>hm <b></think>\n\n{CALL}")));
        assert!(!accepts(Kind::Structure, &auto, &CALL.replace("1", "x")));
        assert!(!accepts(Kind::Structure, &auto, &CALL.replace("add", "sub")));
        assert!(!accepts(Kind::Structure, &auto, &format!("{CALL} and text")));
    }

    #[test]
    fn calls_alone() {
        let required = structure(json!({"text": false, "many": false}));
        assert!(accepts(Kind::Structure, &required, CALL));
        assert!(accepts(Kind::Structure, &required, &format!("<think>a</think>{CALL}")));
        assert!(!accepts(Kind::Structure, &required, "text"));
        assert!(!accepts(Kind::Structure, &required, &format!("{CALL}\n{CALL}")));
    }

    #[test]
    fn a_token_begins_the_calls() {
        let mistral = structure(json!({
            "begin": {"token": CALLS}, "open": "[", "close": "]", "end": null, "between": ", ",
            "marks_each": false, "before_name": "{\"name\": \"", "after_arguments": "}"}));
        let compiled = Constraint::compile(&vocabulary(), Kind::Structure, &mistral).unwrap();
        let call = "{\"name\": \"add\", \"arguments\": {\"a\": 1}}";
        let mut tokens: Vec<u32> = b"ok".iter().copied().map(u32::from).collect();
        assert_eq!(follow(&compiled, &tokens), (2, true));
        tokens.push(CALLS);
        tokens.extend(format!("[{call}, {call}]").bytes().map(u32::from));
        assert_eq!(follow(&compiled, &tokens), (tokens.len(), true));
    }

    #[test]
    fn calls_or_an_answer() {
        let both = |thinking: Value, begin: Value| {
            let mut whole: Value =
                serde_json::from_str(&structure(json!({"text": false, "begin": begin}))).unwrap();
            whole["thinking"] = thinking;
            whole["answer"] = json!({"kind": "json_schema", "source": "{\"type\":\"boolean\"}"});
            whole.to_string()
        };
        let plain = both(Value::Null, json!("<tool_call>"));
        for good in [CALL, "true", &format!("{CALL}\n{CALL}")] {
            assert!(accepts(Kind::Structure, &plain, good), "{good}");
        }
        for bad in ["text", "", "<tool_call>true", &format!("true{CALL}"), &format!("{CALL}true")] {
            assert!(!accepts(Kind::Structure, &plain, bad), "{bad}");
        }
        let thinks = both(json!({"begin": "<think>", "end": "</think>"}), json!("<tool_call>"));
        assert!(accepts(Kind::Structure, &thinks, "<think>a</think>\n\nfalse"));
        assert!(accepts(Kind::Structure, &thinks, &format!("<think>a</think>\n{CALL}")));
        assert!(!accepts(Kind::Structure, &thinks, "<think>a</think>\n\nno"));
        // Begun by a token of its own.
        let compiled = Constraint::compile(
            &vocabulary(),
            Kind::Structure,
            &both(Value::Null, json!({"token": CALLS})),
        )
        .unwrap();
        let mut tokens: Vec<u32> = vec![CALLS];
        tokens.extend(CALL["<tool_call>".len()..].bytes().map(u32::from));
        assert_eq!(follow(&compiled, &tokens), (tokens.len(), true));
        let answer: Vec<u32> = "true".bytes().map(u32::from).collect();
        assert_eq!(follow(&compiled, &answer), (4, true));
    }

    #[test]
    fn calls_with_arguments_between_marks() {
        let source = structure(json!({
            "before_name": "\n<function=", "after_name": ">\n", "after_arguments": "</function>\n",
            "text": false, "tags": {"before_key": "<parameter=", "after_key": ">\n",
                                    "after_value": "\n</parameter>\n"},
            "tools": [{"name": "go", "arguments": [
                {"name": "city", "required": true, "text": true, "schema": {"type": "string"}, "place": "p"},
                {"name": "days", "required": false, "text": false, "schema": {"type": "integer"}, "place": "p"},
                {"name": "how", "required": false, "text": true, "choices": ["car", "on foot"],
                 "schema": {"enum": ["car", "on foot"]}, "place": "p"},
                {"name": "code", "required": false, "text": true, "pattern": "[A-Z]{2,3}",
                 "schema": {"type": "string"}, "place": "p"},
                {"name": "note", "required": false, "text": true, "characters_max": 5,
                 "schema": {"type": "string"}, "place": "p"}]}]}));
        let call = |arguments: &str| {
            format!("<tool_call>\n<function=go>\n{arguments}</function>\n</tool_call>")
        };
        let argument =
            |name: &str, value: &str| format!("<parameter={name}>\n{value}\n</parameter>\n");
        let city = argument("city", "Lima\n<Centro> \"x\"");
        for good in [
            city.clone(),
            city.clone() + &argument("days", "3") + &argument("how", "on foot"),
            city.clone() + &argument("code", "ABC") + &argument("note", "a\nb c"),
            argument("city", "") + &argument("note", ""),
        ] {
            assert!(accepts(Kind::Structure, &source, &call(&good)), "{good}");
        }
        for bad in [
            String::new(),
            city.clone() + &argument("days", "three"),
            city.clone() + &argument("how", "by bus"),
            city.clone() + &argument("code", "A"),
            city.clone() + &argument("note", "sixsix"),
            city.clone() + &argument("other", "x"),
            argument("days", "3") + &city,
        ] {
            assert!(!accepts(Kind::Structure, &source, &call(&bad)), "{bad}");
        }
    }

    #[test]
    fn what_is_forced_is_known_and_asking_changes_nothing() {
        let choice = r#"["once upon", "once more"]"#;
        let compiled = Constraint::compile(&vocabulary(), Kind::Choice, choice).unwrap();
        let mut state = compiled.duplicate();
        assert_eq!(state.forced(), b"once ");
        for byte in b"once " {
            state.accept(u32::from(*byte)).unwrap();
        }
        assert_eq!(state.forced(), b"");
        let mut words = [0u32; 9];
        state.mask(&mut words).unwrap();
        assert_eq!(words.iter().map(|word| word.count_ones()).sum::<u32>(), 2);
        state.accept(u32::from(b'm')).unwrap();
        assert_eq!(state.forced(), b"ore");
        let calls = structure(json!({"text": false, "begin": {"token": CALLS}}));
        let mut whole: Value = serde_json::from_str(&calls).unwrap();
        whole["thinking"] = Value::Null;
        let calls =
            Constraint::compile(&vocabulary(), Kind::Structure, &whole.to_string()).unwrap();
        let begin = format!("\n{{\"name\": \"add\", \"arguments\": {{\"a\": ");
        let mut expected = format!("\u{1}[{CALLS}]{begin}").into_bytes();
        expected[0] = 0xff;
        let mark = format!("?[{CALLS}]").len();
        assert_eq!(calls.forced(), expected[..mark + FORCED_TOKENS_MAX - 1]);
        // What has no end: spaces that are ignored, as many as one likes.
        let endless = "start: A \" \" B\nA: \"a\"\nB: /[b-z]+/\n%ignore / +/";
        let endless = Constraint::compile(&vocabulary(), Kind::Lark, endless).unwrap();
        assert!(endless.forced().len() <= FORCED_TOKENS_MAX);
    }

    #[test]
    fn answers_after_thinking() {
        let of = |kind: &str, source: &str| {
            json!({"thinking": {"begin": null, "end": "</think>"},
                   "answer": {"kind": kind, "source": source}})
            .to_string()
        };
        assert!(accepts(Kind::Structure, &of("regex", "[ab]+"), "hm</think>\n\nab"));
        assert!(!accepts(Kind::Structure, &of("regex", "[ab]+"), "ab"));
        assert!(accepts(Kind::Structure, &of("choice", "[\"x\"]"), "</think>x"));
        assert!(accepts(
            Kind::Structure,
            &of("json_schema", "{\"type\":\"null\"}"),
            "</think>null"
        ));
        assert!(accepts(
            Kind::Structure,
            &of("gbnf", "root ::= \"a\" b\nb ::= \"c\" b | \"d\""),
            "</think>accd"
        ));
    }

    #[test]
    fn refusals_say_what() {
        let schema = |source: &str| failure(Kind::JsonSchema, source);
        assert!(schema("{").message.starts_with("not JSON"));
        assert!(schema(r#"{"not":{}}"#).message.starts_with("#/not"));
        assert!(schema(r#"{"type":"strin"}"#).message.contains("strin"));
        assert!(schema("false").message.contains("nsatisfiable"));
        assert!(failure(Kind::Regex, "(a").message.contains("a"));
        assert!(failure(Kind::Regex, "").message.contains("empty"));
        assert!(failure(Kind::Lark, "start: x").message.contains("x"));
        assert!(failure(Kind::Choice, "[]").message.contains("1 to"));
        let big = format!("[\"{}\"]", "x".repeat(300_000));
        assert_eq!(failure(Kind::Choice, &big).code, Code::Exhausted);
    }

    #[test]
    fn hostile_sources_do_no_harm() {
        let deep = 5000;
        let sources = [
            (Kind::Lark, format!("start: {}\"a\"{}", "(".repeat(deep), ")".repeat(deep))),
            (Kind::Lark, format!("start: a0\n{}", (0..30).map(|i| format!("a{i}: a{} a{}\n", i + 1, i + 1)).collect::<String>())),
            (Kind::Regex, format!("{}a{}", "(".repeat(deep), ")".repeat(deep))),
            (Kind::Regex, "(a{1,1000}){1,1000}".repeat(3)),
            (Kind::Regex, "(a|aa|aaa)*b(.*x.*){50}".to_string()),
            (Kind::Regex, "(?:.*a.{20}){5}".to_string()),
            (Kind::Gbnf, format!("root ::= {}", "\"a\"? ".repeat(5000))),
            (Kind::JsonSchema, format!("{}{}", "{\"items\":".repeat(deep), "}".repeat(deep))),
            (Kind::JsonSchema, r##"{"$ref":"#"}"##.to_string()),
            (Kind::JsonSchema, r##"{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}"##.to_string()),
            (Kind::JsonSchema, r#"{"type":"string","maxLength":100000000}"#.to_string()),
            (Kind::JsonSchema, r#"{"type":"array","minItems":1000000}"#.to_string()),
            (Kind::JsonSchema, r#"{"type":"string","pattern":"^(([a-z])+.)+[A-Z]([a-z])+$"}"#.to_string()),
        ];
        let vocabulary = vocabulary();
        for (kind, source) in sources {
            let mut state = match Constraint::compile(&vocabulary, kind, &source) {
                Ok(state) => state,
                Err(failure) => {
                    assert_ne!(failure.code, Code::Internal, "{kind:?}: {}", failure.message);
                    continue;
                }
            };
            let mut words = [0u32; 9];
            for _ in 0..100 {
                if state.mask(&mut words).is_err() {
                    break; // a limit
                }
                let token =
                    (0..258).rev().find(|&t: &u32| words[t as usize / 32] >> (t % 32) & 1 == 1);
                if state.accept(token.expect("an empty mask")).unwrap() {
                    break;
                }
            }
        }
    }
}
