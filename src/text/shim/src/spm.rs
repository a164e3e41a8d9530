//! SentencePiece BPE from a vocabulary with scores (GGUF tokenizer model "llama").
//!
//! There is no list of merges: any two neighbours whose joined text is an entry can merge, the
//! highest score first. Entries typed "unused" may be steps of merging but are taken apart again at
//! the end. Characters without an entry fall back to byte tokens, and so do invalid bytes.
//! SOURCE: Kudo and Richardson 2018, section 3.1.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use crate::merge::{merge_all, MergeTable, Symbol};

pub const SPACE: &str = "\u{2581}";

pub struct SentencePieceBpe {
    /// Text of normal, user-defined and unused entries -> (score, id).
    entries: HashMap<Vec<u8>, (f32, u32)>,
    unused: HashSet<u32>,
    byte_ids: [Option<u32>; 256],
    unknown: Option<u32>,
}

/// The table for one text; it remembers how unused entries came about.
struct TextTable<'a> {
    model: &'a SentencePieceBpe,
    text: &'a [u8],
    unused_splits: RefCell<HashMap<(usize, usize), usize>>,
}

impl MergeTable for TextTable<'_> {
    fn find(&self, left: &Symbol, right: &Symbol) -> Option<(f64, u32)> {
        let &(score, id) = self.model.entries.get(&self.text[left.start..right.end])?;
        if self.model.unused.contains(&id) {
            self.unused_splits.borrow_mut().insert((left.start, right.end), right.start);
        }
        Some((-f64::from(score), id))
    }
}

impl SentencePieceBpe {
    pub fn new(
        entries: HashMap<Vec<u8>, (f32, u32)>,
        unused: HashSet<u32>,
        byte_ids: [Option<u32>; 256],
        unknown: Option<u32>,
    ) -> Self {
        SentencePieceBpe { entries, unused, byte_ids, unknown }
    }

    /// Appends the ids of `bytes`, in which spaces are already written as U+2581.
    pub fn encode(&self, bytes: &[u8], out: &mut Vec<u32>) {
        let mut symbols = Vec::new();
        let mut start = 0;
        for chunk in bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                symbols.push(self.symbol(bytes, start, start + c.len_utf8()));
                start += c.len_utf8();
            }
            for _ in chunk.invalid() {
                symbols.push(Symbol::new(start, start + 1, None));
                start += 1;
            }
        }
        let table =
            TextTable { model: self, text: bytes, unused_splits: RefCell::new(HashMap::new()) };
        let merged = merge_all(symbols, &table);
        let splits = table.unused_splits.into_inner();
        let mut stack = Vec::new();
        for symbol in merged {
            // Depth first, left before right.
            stack.push((symbol.start, symbol.end));
            while let Some((start, end)) = stack.pop() {
                let id = self.entries.get(&bytes[start..end]).map(|&(_, id)| id);
                match (id, splits.get(&(start, end))) {
                    (Some(id), None) => out.push(id),
                    (_, Some(&middle)) => {
                        stack.push((middle, end));
                        stack.push((start, middle));
                    }
                    (None, None) => self.push_bytes(&bytes[start..end], out),
                }
            }
        }
    }

    fn symbol(&self, bytes: &[u8], start: usize, end: usize) -> Symbol {
        Symbol::new(start, end, self.entries.get(&bytes[start..end]).map(|&(_, id)| id))
    }

    /// Byte tokens for a character without an entry; the unknown token when there are none.
    fn push_bytes(&self, bytes: &[u8], out: &mut Vec<u32>) {
        if bytes.iter().all(|&byte| self.byte_ids[byte as usize].is_some()) {
            out.extend(bytes.iter().filter_map(|&byte| self.byte_ids[byte as usize]));
        } else if let Some(unknown) = self.unknown {
            // A run of unknown characters is one unknown token, as in SentencePiece.
            if out.last() != Some(&unknown) {
                out.push(unknown);
            }
        }
    }
}
