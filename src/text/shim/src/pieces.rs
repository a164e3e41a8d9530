//! What every token stands for: its bytes, and what kind of entry it is.

use crate::failure::{Failure, Outcome};

/// Kinds, with the numbers of `tokenizer.ggml.token_type`.
pub const NORMAL: i32 = 1;
pub const UNKNOWN: i32 = 2;
pub const CONTROL: i32 = 3;
pub const USER_DEFINED: i32 = 4;
pub const UNUSED: i32 = 5;
pub const BYTE: i32 = 6;

/// More entries than any published vocabulary has; a bound on what a hostile file can ask for.
pub const TOKENS_MAX: usize = 1 << 22;

/// The bytes of all tokens in one run, with offsets.
#[derive(Default)]
pub struct Pieces {
    blob: Vec<u8>,
    ends: Vec<usize>,
    kinds: Vec<i32>,
}

impl Pieces {
    pub fn push(&mut self, bytes: &[u8], kind: i32) {
        self.blob.extend_from_slice(bytes);
        self.ends.push(self.blob.len());
        self.kinds.push(kind);
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn get(&self, id: u32) -> Option<(&[u8], i32)> {
        let index = id as usize;
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some((&self.blob[start..end], self.kinds[index]))
    }

    pub fn find_text(&self, text: &[u8]) -> Option<u32> {
        (0..self.len() as u32).find(|&id| self.get(id).is_some_and(|(bytes, _)| bytes == text))
    }
}

pub fn check_count(count: usize) -> Outcome<()> {
    if count == 0 {
        return Err(Failure::invalid("the vocabulary is empty"));
    }
    if count > TOKENS_MAX {
        return Err(Failure::invalid(format!(
            "the vocabulary has {count} tokens; at most {TOKENS_MAX} are accepted"
        )));
    }
    Ok(())
}
