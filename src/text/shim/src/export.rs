//! GGUF tokenizer metadata from a `tokenizer.json`.
//!
//! GGUF names a pre-tokenizer instead of spelling it, and has scores instead of merges for
//! SentencePiece vocabularies. A tokenizer that these cannot express exactly is refused: a file that
//! tokenizes a little differently is worse than none.

use std::collections::{HashMap, HashSet};

use serde_json::{json, Value};

use crate::failure::{Failure, Outcome};
use crate::hf::JsonTokenizer;
use crate::pieces::{BYTE, NORMAL, UNUSED};
use crate::pre;
use crate::spm::SPACE;
use crate::tokenizer::Tokenizer;

pub fn to_gguf(tokenizer: &Tokenizer) -> Outcome<Value> {
    let Tokenizer::Json(json_tokenizer) = tokenizer else {
        return Err(Failure::unsupported("only a tokenizer.json can be written as GGUF metadata"));
    };
    let source = json_tokenizer.to_json()?;
    let model = &source["model"];
    let mut out = match model["type"].as_str() {
        Some("BPE") if json_tokenizer.is_byte_level() => byte_level(&source, model)?,
        Some("BPE") => sentencepiece(&source, model, json_tokenizer)?,
        Some("Unigram") => unigram(&source, model)?,
        other => {
            return Err(Failure::unsupported(format!(
                "GGUF has no tokenizer model for {}",
                other.unwrap_or("a model without a type")
            )))
        }
    };
    let (tokens, types) = vocabulary(json_tokenizer);
    let (add_bos, add_eos) = tokenizer.adds();
    out["tokens"] = json!(tokens);
    out["token_types"] = json!(types);
    out["add_bos"] = json!(add_bos);
    out["add_eos"] = json!(add_eos);
    for key in ["scores", "merges", "charsmap"] {
        if out.get(key).is_none() {
            out[key] = json!([]);
        }
    }
    Ok(out)
}

/// Holes in the ids become unused tokens with a name of their own.
fn vocabulary(tokenizer: &JsonTokenizer) -> (Vec<String>, Vec<i32>) {
    let count = tokenizer.pieces.len() as u32;
    (0..count)
        .map(|id| {
            let kind = tokenizer.pieces.get(id).map_or(UNUSED, |(_, kind)| kind);
            match tokenizer.token_text(id) {
                Some(text) => (text, kind),
                None => (format!("[unused{id}]"), UNUSED),
            }
        })
        .unzip()
}

fn merges_of(model: &Value) -> Outcome<Vec<(String, String)>> {
    let wrong = || Failure::invalid("tokenizer.json: merges are not pairs");
    let list = model["merges"].as_array().ok_or_else(wrong)?;
    list.iter()
        .map(|merge| match merge {
            Value::String(pair) => {
                let (left, right) = pair.split_once(' ').ok_or_else(wrong)?;
                Ok((left.to_string(), right.to_string()))
            }
            _ => match (merge[0].as_str(), merge[1].as_str()) {
                (Some(left), Some(right)) => Ok((left.to_string(), right.to_string())),
                _ => Err(wrong()),
            },
        })
        .collect()
}

fn flatten<'a>(part: &'a Value, list: &str, out: &mut Vec<&'a Value>) {
    match part.get(list).and_then(Value::as_array) {
        Some(inner) => inner.iter().for_each(|part| flatten(part, list, out)),
        None if part.is_null() => {}
        None => out.push(part),
    }
}

fn byte_level(source: &Value, model: &Value) -> Outcome<Value> {
    let steps = pre_tokenizer_steps(&source["pre_tokenizer"])?;
    let ignore_merges = model["ignore_merges"].as_bool().unwrap_or(false);
    let name = pre::name_of(&steps, ignore_merges).ok_or_else(|| {
        Failure::unsupported(format!(
            "GGUF has no known name for this pre-tokenizer (ignore_merges {ignore_merges}): {}",
            steps.join("  then  ")
        ))
    })?;
    let merges: Vec<String> =
        merges_of(model)?.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
    Ok(json!({"model": "gpt2", "pre": name, "merges": merges}))
}

/// The expressions of a byte-level pre-tokenizer, in order, as tokenizer.json spells them.
fn pre_tokenizer_steps(pre_tokenizer: &Value) -> Outcome<Vec<String>> {
    let mut parts = Vec::new();
    flatten(pre_tokenizer, "pretokenizers", &mut parts);
    let mut steps = Vec::new();
    for part in parts {
        let refuse = || Failure::unsupported(format!("GGUF has no name for pre-tokenizer {part}"));
        match part["type"].as_str().unwrap_or_default() {
            "ByteLevel" => {
                if part["add_prefix_space"] == json!(true) {
                    return Err(refuse());
                }
                if part["use_regex"].as_bool().unwrap_or(true) {
                    steps.push(pre::GPT2_PUBLISHED.to_string());
                }
            }
            "Digits" => {
                let single = part["individual_digits"].as_bool().unwrap_or(false);
                steps.push(if single { r"\p{N}" } else { r"\p{N}+" }.to_string());
            }
            "Split" => {
                let isolated = part["behavior"] == "Isolated" && part["invert"] == json!(false);
                let kept = part["behavior"] == "Removed" && part["invert"] == json!(true);
                let pattern = part["pattern"]["Regex"].as_str();
                match pattern.filter(|_| isolated || kept) {
                    Some(pattern) => steps.push(pattern.to_string()),
                    None => return Err(refuse()),
                }
            }
            _ => return Err(refuse()),
        }
    }
    Ok(steps)
}

/// Scores that order merges as the list does: the earlier a token is first merged, the higher.
fn sentencepiece(source: &Value, model: &Value, tokenizer: &JsonTokenizer) -> Outcome<Value> {
    let add_space_prefix = space_prefix(source)?;
    let merges = merges_of(model)?;
    let mut order: HashMap<String, usize> = HashMap::new();
    let mut pairs: HashSet<(&str, &str)> = HashSet::new();
    for (left, right) in &merges {
        let next = order.len();
        order.entry([left.as_str(), right].concat()).or_insert(next);
        pairs.insert((left, right));
    }
    let vocabulary: HashSet<&str> = model["vocab"]
        .as_object()
        .map(|entries| entries.keys().map(String::as_str).collect())
        .unwrap_or_default();
    let count = tokenizer.pieces.len() as u32;
    let mut scores = Vec::with_capacity(count as usize);
    for id in 0..count {
        let text = tokenizer.token_text(id).unwrap_or_default();
        let kind = tokenizer.pieces.get(id).map_or(UNUSED, |(_, kind)| kind);
        if kind == NORMAL {
            // With scores, every split into two entries is a merge. The list must say the same.
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                let both = vocabulary.contains(left) && vocabulary.contains(right);
                if both && !pairs.contains(&(left, right)) {
                    return Err(Failure::unsupported(format!(
                        "GGUF scores cannot express these merges: '{left}' + '{right}' is no merge, \
                         but both parts and the whole are entries"
                    )));
                }
            }
        }
        scores.push(match (kind, order.get(&text)) {
            (NORMAL, Some(&rank)) => -(rank as f64) - 1.0,
            (NORMAL, None) => -(order.len() as f64) - 1.0,
            (BYTE, _) => 0.0,
            _ => 0.0,
        });
    }
    Ok(json!({"model": "llama", "pre": "default", "scores": scores,
              "add_space_prefix": add_space_prefix}))
}

/// Reads a SentencePiece-like normaliser and pre-tokenizer: do they put a space in front?
fn space_prefix(source: &Value) -> Outcome<bool> {
    let mut parts = Vec::new();
    flatten(&source["normalizer"], "normalizers", &mut parts);
    flatten(&source["pre_tokenizer"], "pretokenizers", &mut parts);
    let mut prefix = false;
    for part in parts {
        match part["type"].as_str().unwrap_or_default() {
            "Prepend" if part["prepend"] == SPACE => prefix = true,
            "Replace" if part["pattern"]["String"] == " " && part["content"] == SPACE => {}
            "Metaspace" if part["replacement"] == SPACE => {
                prefix |= part["prepend_scheme"] != "never";
            }
            _ => return Err(Failure::unsupported(format!("GGUF has no name for {part}"))),
        }
    }
    Ok(prefix)
}

fn unigram(source: &Value, model: &Value) -> Outcome<Value> {
    let mut normalizers = Vec::new();
    flatten(&source["normalizer"], "normalizers", &mut normalizers);
    let mut charsmap = Vec::new();
    let mut remove_extra_whitespaces = false;
    for part in normalizers {
        match part["type"].as_str().unwrap_or_default() {
            "Precompiled" => {
                let text = part["precompiled_charsmap"].as_str().unwrap_or_default();
                charsmap = decode_base64(text)
                    .ok_or_else(|| Failure::invalid("precompiled_charsmap is not base64"))?;
            }
            "Strip" => {}
            "Replace" if part["pattern"]["Regex"] == " {2,}" => remove_extra_whitespaces = true,
            _ => return Err(Failure::unsupported(format!("GGUF has no name for {part}"))),
        }
    }
    let mut pre_tokenizers = Vec::new();
    flatten(&source["pre_tokenizer"], "pretokenizers", &mut pre_tokenizers);
    let mut add_space_prefix = false;
    for part in pre_tokenizers {
        match part["type"].as_str().unwrap_or_default() {
            "WhitespaceSplit" => remove_extra_whitespaces = true,
            "Metaspace" => add_space_prefix = part["prepend_scheme"] != "never",
            _ => return Err(Failure::unsupported(format!("GGUF has no name for {part}"))),
        }
    }
    let entries = model["vocab"].as_array().cloned().unwrap_or_default();
    let mut scores: Vec<f64> =
        entries.iter().map(|entry| entry[1].as_f64().unwrap_or_default()).collect();
    let count = vocabulary_size(source, scores.len());
    scores.resize(count, 0.0);
    Ok(json!({"model": "t5", "pre": "default", "scores": scores, "charsmap": charsmap,
              "byte_fallback": model["byte_fallback"].as_bool().unwrap_or(false),
              "add_space_prefix": add_space_prefix,
              "remove_extra_whitespaces": remove_extra_whitespaces}))
}

/// Added tokens can lie beyond the model's own entries.
fn vocabulary_size(source: &Value, model_size: usize) -> usize {
    let added = source["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ids = added.iter().filter_map(|token| token["id"].as_u64());
    ids.map(|id| id as usize + 1).max().unwrap_or(0).max(model_size)
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Some(out)
}
