//! Byte-level BPE from a vocabulary and a list of merges (GGUF tokenizer model "gpt2").

use std::collections::{HashMap, HashSet};

use crate::bytes::{char_of_byte, decode_printable, utf8_runs, Run};
use crate::failure::{Failure, Outcome};
use crate::merge::{merge_all, MergeTable, Symbol};
use crate::pre::PreTokenizer;

pub struct ByteLevelBpe {
    pre: PreTokenizer,
    /// Whole pieces by their bytes, for ignore_merges.
    entries: Option<HashMap<Vec<u8>, u32>>,
    /// The token of every byte; None when the vocabulary lacks it.
    byte_ids: [Option<u32>; 256],
    /// (left id, right id) -> (rank, merged id).
    merges: HashMap<(u32, u32), (u32, u32)>,
    unknown: Option<u32>,
}

impl MergeTable for ByteLevelBpe {
    fn find(&self, left: &Symbol, right: &Symbol) -> Option<(f64, u32)> {
        let (rank, id) = *self.merges.get(&(left.id?, right.id?))?;
        Some((f64::from(rank), id))
    }
}

impl ByteLevelBpe {
    /// `ids` maps the printable form of each token that text can reach to its id. `whole` are those
    /// of them that stand for their text and not for bytes.
    pub fn new(
        pre_name: &str,
        ids: &HashMap<&str, u32>,
        whole: &HashSet<u32>,
        merges: &[&str],
        unknown: Option<u32>,
    ) -> Outcome<Self> {
        let (pre, definition) = PreTokenizer::by_name(pre_name)?;
        let mut table = HashMap::with_capacity(merges.len());
        for (rank, merge) in merges.iter().enumerate() {
            let (left, right) = split_merge(merge).ok_or_else(|| {
                Failure::invalid(format!("merge {rank} ({merge:?}) is not two tokens"))
            })?;
            let merged = [left, right].concat();
            // A merge of tokens that the vocabulary lacks can never apply.
            if let (Some(&l), Some(&r), Some(&m)) =
                (ids.get(left), ids.get(right), ids.get(&merged[..]))
            {
                table.entry((l, r)).or_insert((rank as u32, m));
            }
        }
        let mut byte_ids = [None; 256];
        for (byte, id) in byte_ids.iter_mut().enumerate() {
            let mut buffer = [0; 4];
            let token: &str = char_of_byte(byte as u8).encode_utf8(&mut buffer);
            *id = ids.get(token).copied().filter(|id| !whole.contains(id));
        }
        let entries = definition.ignore_merges.then(|| {
            ids.iter().filter_map(|(token, &id)| Some((decode_printable(token)?, id))).collect()
        });
        Ok(ByteLevelBpe { pre, entries, byte_ids, merges: table, unknown })
    }

    /// Appends the ids of `bytes`. Bytes that are not UTF-8 become their own byte tokens, or U+FFFD in
    /// vocabularies that lack those.
    pub fn encode(&self, bytes: &[u8], out: &mut Vec<u32>) -> Outcome<()> {
        for run in utf8_runs(bytes) {
            match run {
                Run::Text(text) => {
                    for piece in self.pre.split(text) {
                        self.encode_piece(piece.as_bytes(), out);
                    }
                }
                Run::Invalid(byte) => match self.byte_ids[byte as usize] {
                    Some(id) => out.push(id),
                    None => self.encode_piece("\u{fffd}".as_bytes(), out),
                },
            }
        }
        Ok(())
    }

    fn encode_piece(&self, piece: &[u8], out: &mut Vec<u32>) {
        if let Some(&id) = self.entries.as_ref().and_then(|entries| entries.get(piece)) {
            out.push(id);
            return;
        }
        let symbols = (0..piece.len())
            .map(|i| Symbol::new(i, i + 1, self.byte_ids[piece[i] as usize]))
            .collect();
        out.extend(merge_all(symbols, self).iter().filter_map(|symbol| symbol.id.or(self.unknown)));
    }
}

/// "left right": the space that separates is the first one after the first character.
fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let space = merge[first..].find(' ')? + first;
    let (left, right) = (&merge[..space], &merge[space + 1..]);
    (!right.is_empty()).then_some((left, right))
}
