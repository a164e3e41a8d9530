//! Finds tokens that are taken whole, before any splitting: control tokens and user-defined ones.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::failure::{Failure, Outcome};

pub enum Part<'t> {
    Text(&'t [u8]),
    Token(u32),
}

/// The longest entry at the leftmost place wins.
pub struct Partition {
    matcher: Option<AhoCorasick>,
    ids: Vec<u32>,
}

impl Partition {
    pub fn new(tokens: Vec<(Vec<u8>, u32)>) -> Outcome<Self> {
        let tokens: Vec<_> = tokens.into_iter().filter(|(text, _)| !text.is_empty()).collect();
        let ids = tokens.iter().map(|&(_, id)| id).collect();
        let matcher = if tokens.is_empty() {
            None
        } else {
            let texts = tokens.iter().map(|(text, _)| text);
            let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts);
            Some(built.map_err(|error| Failure::invalid(format!("special tokens: {error}")))?)
        };
        Ok(Partition { matcher, ids })
    }

    pub fn split<'t>(&self, text: &'t [u8]) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let mut end = 0;
        if let Some(matcher) = &self.matcher {
            for found in matcher.find_iter(text) {
                if found.start() > end {
                    parts.push(Part::Text(&text[end..found.start()]));
                }
                parts.push(Part::Token(self.ids[found.pattern().as_usize()]));
                end = found.end();
            }
        }
        if end < text.len() {
            parts.push(Part::Text(&text[end..]));
        }
        parts
    }
}
