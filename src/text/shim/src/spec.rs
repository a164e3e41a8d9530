//! A tokenizer from the arrays that a GGUF file carries.

use std::collections::{HashMap, HashSet};

use serde_json::json;
use tokenizers::Tokenizer as HfTokenizer;

use crate::bpe::ByteLevelBpe;
use crate::bytes::{byte_token, decode_printable};
use crate::characters::Characters;
use crate::charsmap::CharacterMap;
use crate::failure::{Failure, Outcome};
use crate::partition::{Part, Partition};
use crate::pieces::{check_count, Pieces, BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED};
use crate::pre;
use crate::spm::{SentencePieceBpe, SPACE};

/// The name of a vocabulary whose entries are single characters; ours, other readers do not know it.
const CHARACTERS: &str = "characters";

/// What the C side hands over. Tokens are bytes: vocabularies in the wild are not always UTF-8.
pub struct Spec<'a> {
    pub model: &'a str,
    pub pre: &'a str,
    pub tokens: Vec<&'a [u8]>,
    pub scores: &'a [f32],
    pub kinds: &'a [i32],
    pub merges: Vec<&'a [u8]>,
    pub charsmap: &'a [u8],
    pub strip_after: &'a [i32],
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
    pub remove_extra_whitespaces: Option<bool>,
    pub byte_fallback: bool,
}

enum Model {
    Bpe(Box<ByteLevelBpe>),
    Spm(Box<SentencePieceBpe>),
    Unigram(Box<HfTokenizer>),
    Characters(Characters),
}

pub struct SpecTokenizer {
    pub pieces: Pieces,
    pub strips_leading_space: bool,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    pub add_bos: bool,
    pub add_eos: bool,
    add_space_prefix: bool,
    normalizer: Normalizer,
    model: Model,
    all_special: Partition,
    user_defined: Partition,
    strip_after: HashSet<u32>,
}

/// SentencePiece's normalisation, where a model asks for one.
struct Normalizer {
    charsmap: Option<CharacterMap>,
    remove_extra_whitespaces: bool,
}

impl Normalizer {
    fn new(charsmap: &[u8], remove_extra_whitespaces: bool) -> Outcome<Self> {
        let charsmap = if charsmap.is_empty() { None } else { Some(CharacterMap::new(charsmap)?) };
        Ok(Normalizer { charsmap, remove_extra_whitespaces })
    }

    fn is_identity(&self) -> bool {
        self.charsmap.is_none() && !self.remove_extra_whitespaces
    }

    fn apply(&self, text: &str) -> String {
        let normalized = match &self.charsmap {
            Some(charsmap) => charsmap.apply(text),
            None => text.to_string(),
        };
        if !self.remove_extra_whitespaces {
            return normalized;
        }
        let words: Vec<&str> = normalized.split(' ').filter(|word| !word.is_empty()).collect();
        words.join(" ")
    }
}

impl SpecTokenizer {
    pub fn new(spec: &Spec) -> Outcome<Self> {
        check_count(spec.tokens.len())?;
        check_arrays(spec)?;
        let sentencepiece = match spec.model {
            "gpt2" | CHARACTERS => false,
            "llama" | "t5" => true,
            other => {
                return Err(Failure::unsupported(format!(
                    "tokenizer model '{other}' (tokenizer.ggml.model); known: llama, gpt2, t5, characters"
                )))
            }
        };
        let (bos, eos, unknown) = special_ids(spec);
        let (model, add_bos, add_eos) = match spec.model {
            "gpt2" => {
                let definition = pre::find(spec.pre);
                let bpe = byte_level_bpe(spec, unknown)?;
                (Model::Bpe(Box::new(bpe)), definition.is_some_and(|d| d.add_bos), false)
            }
            "llama" => (Model::Spm(Box::new(sentencepiece_bpe(spec, unknown))), true, false),
            CHARACTERS => (Model::Characters(characters(spec, unknown)?), false, false),
            _ => (Model::Unigram(Box::new(unigram(spec, unknown)?)), false, true),
        };
        let add_space_prefix = spec.add_space_prefix.unwrap_or(sentencepiece);
        let remove_extra_whitespaces = spec.remove_extra_whitespaces.unwrap_or(false);
        let pieces = make_pieces(spec, sentencepiece);
        let specials = |accept: fn(i32) -> bool| {
            let ids = (0..pieces.len() as u32).filter_map(|id| {
                let (text, kind) = pieces.get(id)?;
                accept(kind).then(|| (text.to_vec(), id))
            });
            Partition::new(ids.collect())
        };
        Ok(SpecTokenizer {
            strips_leading_space: sentencepiece && add_space_prefix,
            add_bos: spec.add_bos.unwrap_or(add_bos),
            add_eos: spec.add_eos.unwrap_or(add_eos),
            all_special: specials(|kind| matches!(kind, CONTROL | USER_DEFINED | UNKNOWN))?,
            user_defined: specials(|kind| kind == USER_DEFINED)?,
            strip_after: spec.strip_after.iter().map(|&id| id as u32).collect(),
            normalizer: Normalizer::new(spec.charsmap, remove_extra_whitespaces)?,
            bos,
            eos,
            unknown,
            add_space_prefix,
            model,
            pieces,
        })
    }

    pub fn encode(&self, text: &[u8], add_special: bool, parse_special: bool) -> Outcome<Vec<u32>> {
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        if add_special && self.add_bos {
            out.extend(self.bos);
        }
        let partition = if parse_special { &self.all_special } else { &self.user_defined };
        // A piece of text gets its space prefix at the start and again after each whole token.
        let mut at_start = true;
        let mut strips = false;
        for part in partition.split(text) {
            match part {
                Part::Token(id) => {
                    out.push(id);
                    at_start = true;
                    strips = self.strip_after.contains(&id);
                }
                Part::Text(bytes) => {
                    let bytes = if strips { without_leading_space(bytes) } else { bytes };
                    strips = false;
                    if !bytes.is_empty() {
                        self.encode_text(bytes, at_start, &mut out)?;
                        at_start = false;
                    }
                }
            }
        }
        if add_special && self.add_eos {
            out.extend(self.eos);
        }
        Ok(out)
    }

    fn encode_text(&self, bytes: &[u8], at_start: bool, out: &mut Vec<u32>) -> Outcome<()> {
        match &self.model {
            Model::Bpe(bpe) => return bpe.encode(bytes, out),
            Model::Characters(characters) => {
                characters.encode(bytes, out);
                return Ok(());
            }
            Model::Spm(_) | Model::Unigram(_) => {}
        }
        let normalized;
        let bytes = if self.normalizer.is_identity() {
            bytes
        } else {
            normalized = self.normalizer.apply(&String::from_utf8_lossy(bytes));
            if normalized.is_empty() {
                return Ok(());
            }
            normalized.as_bytes()
        };
        let mut escaped = Vec::with_capacity(bytes.len() + bytes.len() / 4 + 3);
        if self.add_space_prefix && at_start {
            escaped.extend_from_slice(SPACE.as_bytes());
        }
        for &byte in bytes {
            if byte == b' ' {
                escaped.extend_from_slice(SPACE.as_bytes());
            } else {
                escaped.push(byte);
            }
        }
        match &self.model {
            Model::Spm(spm) => spm.encode(&escaped, out),
            Model::Unigram(unigram) => {
                let text = String::from_utf8_lossy(&escaped);
                let encoding = unigram
                    .encode_fast(text.as_ref(), false)
                    .map_err(|error| Failure::invalid(format!("encode: {error}")))?;
                out.extend_from_slice(encoding.get_ids());
            }
            Model::Bpe(_) | Model::Characters(_) => {}
        }
        Ok(())
    }
}

/// White space as Unicode has it, or ASCII's where the bytes are not UTF-8.
fn without_leading_space(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.trim_start().as_bytes(),
        Err(_) => bytes.trim_ascii_start(),
    }
}

fn check_arrays(spec: &Spec) -> Outcome<()> {
    let count = spec.tokens.len();
    for (name, length) in [("scores", spec.scores.len()), ("token_type", spec.kinds.len())] {
        if length != 0 && length != count {
            return Err(Failure::invalid(format!(
                "tokenizer.ggml.{name} has {length} entries for {count} tokens"
            )));
        }
    }
    if spec.model == "llama" && spec.scores.is_empty() {
        return Err(Failure::invalid("a 'llama' vocabulary needs tokenizer.ggml.scores"));
    }
    if spec.scores.iter().any(|score| score.is_nan()) {
        return Err(Failure::invalid("tokenizer.ggml.scores holds a value that is not a number"));
    }
    for (name, id) in [("bos", spec.bos), ("eos", spec.eos), ("unknown", spec.unknown)] {
        if id.is_some_and(|id| id as usize >= count) {
            return Err(Failure::invalid(format!(
                "tokenizer.ggml.{name}_token_id is {}, but there are {count} tokens",
                id.unwrap_or_default()
            )));
        }
    }
    Ok(())
}

/// Ids that older files leave out have fixed places in their family.
fn special_ids(spec: &Spec) -> (Option<u32>, Option<u32>, Option<u32>) {
    let (bos, eos, unknown) = match spec.model {
        "llama" => (Some(1), Some(2), Some(0)),
        "t5" => (None, Some(1), Some(2)),
        _ => (None, None, None),
    };
    let inside = |id: Option<u32>| id.filter(|&id| (id as usize) < spec.tokens.len());
    (spec.bos.or(inside(bos)), spec.eos.or(inside(eos)), spec.unknown.or(inside(unknown)))
}

fn kind(spec: &Spec, id: usize) -> i32 {
    spec.kinds.get(id).copied().filter(|kind| (NORMAL..=BYTE).contains(kind)).unwrap_or(NORMAL)
}

fn make_pieces(spec: &Spec, sentencepiece: bool) -> Pieces {
    let mut pieces = Pieces::default();
    for (id, token) in spec.tokens.iter().enumerate() {
        let kind = kind(spec, id);
        let text = String::from_utf8_lossy(token);
        match kind {
            CONTROL | UNKNOWN => pieces.push(token, kind),
            BYTE | NORMAL if sentencepiece && byte_token(&text).is_some() => {
                pieces.push(&[byte_token(&text).unwrap_or_default()], BYTE);
            }
            BYTE => pieces.push(token, kind),
            _ if sentencepiece => pieces.push(text.replace(SPACE, " ").as_bytes(), kind),
            USER_DEFINED => pieces.push(token, kind),
            _ if spec.model == CHARACTERS => pieces.push(token, kind),
            _ => match decode_printable(&text) {
                Some(bytes) => pieces.push(&bytes, kind),
                None => pieces.push(token, kind),
            },
        }
    }
    pieces
}

fn characters(spec: &Spec, unknown: Option<u32>) -> Outcome<Characters> {
    let mut ids = HashMap::with_capacity(spec.tokens.len());
    for (id, token) in spec.tokens.iter().enumerate() {
        if kind(spec, id) != NORMAL {
            continue;
        }
        let text = String::from_utf8_lossy(token);
        let mut letters = text.chars();
        let (Some(letter), None) = (letters.next(), letters.next()) else {
            return Err(Failure::invalid(format!(
                "a 'characters' vocabulary has entry {id}, '{text}': expected one character"
            )));
        };
        ids.entry(letter).or_insert(id as u32);
    }
    Ok(Characters::new(ids, unknown))
}

fn byte_level_bpe(spec: &Spec, unknown: Option<u32>) -> Outcome<ByteLevelBpe> {
    let pre = if spec.pre.is_empty() { "default" } else { spec.pre };
    let mut ids = HashMap::with_capacity(spec.tokens.len());
    let mut whole = HashSet::new();
    for (id, token) in spec.tokens.iter().enumerate() {
        if kind(spec, id) == USER_DEFINED {
            whole.insert(id as u32);
        }
        // Control tokens never come out of merging; the first of equal entries wins.
        if !matches!(kind(spec, id), CONTROL | UNKNOWN) {
            if let Ok(text) = std::str::from_utf8(token) {
                ids.entry(text).or_insert(id as u32);
            }
        }
    }
    let merges: Result<Vec<&str>, _> = spec.merges.iter().map(|m| std::str::from_utf8(m)).collect();
    let merges = merges.map_err(|_| Failure::invalid("tokenizer.ggml.merges: not UTF-8"))?;
    if merges.is_empty() && spec.tokens.len() > 512 {
        return Err(Failure::invalid("a 'gpt2' vocabulary needs tokenizer.ggml.merges"));
    }
    ByteLevelBpe::new(pre, &ids, &whole, &merges, unknown)
}

fn byte_ids(spec: &Spec) -> [Option<u32>; 256] {
    let mut ids = [None; 256];
    for (id, token) in spec.tokens.iter().enumerate() {
        // Older files type byte tokens as normal ones.
        if matches!(kind(spec, id), BYTE | NORMAL) {
            if let Some(byte) = std::str::from_utf8(token).ok().and_then(byte_token) {
                ids[byte as usize].get_or_insert(id as u32);
            }
        }
    }
    ids
}

fn sentencepiece_bpe(spec: &Spec, unknown: Option<u32>) -> SentencePieceBpe {
    let mut entries = HashMap::with_capacity(spec.tokens.len());
    let mut unused = HashSet::new();
    for (id, token) in spec.tokens.iter().enumerate() {
        match kind(spec, id) {
            UNUSED => {
                unused.insert(id as u32);
            }
            NORMAL | USER_DEFINED => {}
            _ => continue,
        }
        entries.entry(token.to_vec()).or_insert((spec.scores[id], id as u32));
    }
    SentencePieceBpe::new(entries, unused, byte_ids(spec), unknown)
}

/// Unigram runs in the `tokenizers` crate. Entries that text must not reach get a name that cannot
/// occur; whole tokens are found by Partition before the model sees the text.
fn unigram(spec: &Spec, unknown: Option<u32>) -> Outcome<HfTokenizer> {
    let Some(unknown) = unknown else {
        return Err(Failure::invalid("a 't5' vocabulary needs tokenizer.ggml.unknown_token_id"));
    };
    if spec.scores.is_empty() {
        return Err(Failure::invalid("a 't5' vocabulary needs tokenizer.ggml.scores"));
    }
    let mut vocabulary = Vec::with_capacity(spec.tokens.len());
    for (id, token) in spec.tokens.iter().enumerate() {
        let text = String::from_utf8_lossy(token);
        match kind(spec, id) {
            NORMAL | USER_DEFINED | BYTE => vocabulary.push(json!([text, spec.scores[id]])),
            _ => vocabulary.push(json!([format!("\u{0}{id}\u{0}"), 0.0])),
        }
    }
    let tokenizer = json!({
        "version": "1.0",
        "model": {"type": "Unigram", "unk_id": unknown, "vocab": vocabulary,
                  "byte_fallback": spec.byte_fallback},
    });
    serde_json::from_value(tokenizer)
        .map_err(|error| Failure::invalid(format!("t5 vocabulary: {error}")))
}
