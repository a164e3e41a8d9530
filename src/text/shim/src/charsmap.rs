//! SentencePiece's precompiled character map: longest-match replacement over a double-array trie.
//!
//! Layout: u32 size of the trie in bytes, the trie as u32 units, then NUL-terminated replacement
//! strings. A unit packs: bits 0-7 the label, bit 8 "has a leaf", bit 9 a shift of the offset by 8,
//! bits 10-30 the offset, bit 31 "is a leaf"; a leaf's value is an index into the strings.
//! SOURCE: the Darts double array of Yata et al. (2007), as SentencePiece models store it.

use crate::failure::{Failure, Outcome};

pub struct CharacterMap {
    trie: Vec<u32>,
    strings: Vec<u8>,
}

impl CharacterMap {
    pub fn new(bytes: &[u8]) -> Outcome<Self> {
        let wrong = || Failure::invalid("tokenizer.ggml.precompiled_charsmap is broken");
        let size = bytes.get(..4).ok_or_else(wrong)?;
        let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]) as usize;
        let trie = bytes.get(4..4 + size).ok_or_else(wrong)?;
        if size == 0 || !size.is_multiple_of(4) {
            return Err(wrong());
        }
        let unit = |c: &[u8]| u32::from_le_bytes([c[0], c[1], c[2], c[3]]);
        Ok(CharacterMap {
            trie: trie.chunks_exact(4).map(unit).collect(),
            strings: bytes[4 + size..].to_vec(),
        })
    }

    pub fn apply(&self, text: &str) -> String {
        let bytes = text.as_bytes();
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            match self.longest(&bytes[at..]) {
                Some((length, replacement)) => {
                    out.extend_from_slice(replacement);
                    at += length;
                }
                None => {
                    let length = char_length(bytes[at]).min(bytes.len() - at);
                    out.extend_from_slice(&bytes[at..at + length]);
                    at += length;
                }
            }
        }
        // A hostile map can match half a character.
        String::from_utf8_lossy(&out).into_owned()
    }

    fn longest(&self, text: &[u8]) -> Option<(usize, &[u8])> {
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let mut best = None;
        let mut node = offset(*self.trie.first()?);
        for (i, &byte) in text.iter().enumerate() {
            node ^= byte as usize;
            let Some(&unit) = self.trie.get(node) else { break };
            if unit & (1 << 31 | 0xff) != u32::from(byte) {
                break;
            }
            node ^= offset(unit);
            if unit & (1 << 8) != 0 {
                let Some(&leaf) = self.trie.get(node) else { break };
                best = Some((i + 1, (leaf & 0x7fff_ffff) as usize));
            }
        }
        let (length, at) = best?;
        let rest = self.strings.get(at..)?;
        let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
        Some((length, &rest[..end]))
    }
}

fn char_length(lead: u8) -> usize {
    match lead {
        0x00..=0x7f => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    }
}
