//! One tokenizer, wherever it came from.

use crate::failure::Outcome;
use crate::hf::JsonTokenizer;
use crate::pieces::Pieces;
use crate::spec::{Spec, SpecTokenizer};

pub enum Tokenizer {
    Spec(Box<SpecTokenizer>),
    Json(Box<JsonTokenizer>),
}

impl Tokenizer {
    pub fn from_spec(spec: &Spec) -> Outcome<Self> {
        Ok(Tokenizer::Spec(Box::new(SpecTokenizer::new(spec)?)))
    }

    pub fn from_json(bytes: &[u8]) -> Outcome<Self> {
        Ok(Tokenizer::Json(Box::new(JsonTokenizer::new(bytes)?)))
    }

    pub fn encode(&self, text: &[u8], add_special: bool, parse_special: bool) -> Outcome<Vec<u32>> {
        match self {
            Tokenizer::Spec(spec) => spec.encode(text, add_special, parse_special),
            Tokenizer::Json(json) => json.encode(text, add_special, parse_special),
        }
    }

    pub fn pieces(&self) -> &Pieces {
        match self {
            Tokenizer::Spec(spec) => &spec.pieces,
            Tokenizer::Json(json) => &json.pieces,
        }
    }

    pub fn strips_leading_space(&self) -> bool {
        match self {
            Tokenizer::Spec(spec) => spec.strips_leading_space,
            Tokenizer::Json(json) => json.strips_leading_space,
        }
    }

    /// (bos, eos, unknown), as far as the tokenizer itself knows.
    pub fn special_ids(&self) -> (Option<u32>, Option<u32>, Option<u32>) {
        match self {
            Tokenizer::Spec(spec) => (spec.bos, spec.eos, spec.unknown),
            Tokenizer::Json(json) => {
                let unknown = (0..json.pieces.len() as u32).find(|&id| {
                    json.pieces.get(id).is_some_and(|(_, k)| k == crate::pieces::UNKNOWN)
                });
                (json.prefix.first().copied(), json.suffix.last().copied(), unknown)
            }
        }
    }

    /// Whether encode(add_special) starts with bos, and ends with eos.
    pub fn adds(&self) -> (bool, bool) {
        match self {
            Tokenizer::Spec(spec) => (spec.add_bos, spec.add_eos),
            Tokenizer::Json(json) => (!json.prefix.is_empty(), !json.suffix.is_empty()),
        }
    }
}
