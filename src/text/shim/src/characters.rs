//! A vocabulary of single characters (GGUF tokenizer model "characters"): every Unicode scalar value
//! of the text is looked up as it is, without normalisation; what is not there is unknown.

use std::collections::HashMap;

pub struct Characters {
    ids: HashMap<char, u32>,
    unknown: Option<u32>,
}

impl Characters {
    pub fn new(ids: HashMap<char, u32>, unknown: Option<u32>) -> Self {
        Characters { ids, unknown }
    }

    /// Without an unknown token, characters without an entry are left out.
    pub fn encode(&self, text: &[u8], out: &mut Vec<u32>) {
        for letter in String::from_utf8_lossy(text).chars() {
            out.extend(self.ids.get(&letter).copied().or(self.unknown));
        }
    }
}
