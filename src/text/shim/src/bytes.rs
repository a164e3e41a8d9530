//! GPT-2's printable form of bytes, and small helpers on untrusted bytes.
//!
//! Byte-level BPE vocabularies write every byte as one printable character: printable Latin-1 bytes
//! stand for themselves, the other 68 are moved to U+0100 and up, in byte order.

use std::sync::OnceLock;

fn stands_for_itself(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff)
}

fn table() -> &'static [char; 256] {
    static TABLE: OnceLock<[char; 256]> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = ['\0'; 256];
        let mut moved = 0;
        for byte in 0..=255u8 {
            table[byte as usize] = if stands_for_itself(byte) {
                byte as char
            } else {
                moved += 1;
                char::from_u32(0x100 + moved - 1).unwrap_or('\u{fffd}')
            };
        }
        table
    })
}

pub fn char_of_byte(byte: u8) -> char {
    table()[byte as usize]
}

/// The byte a printable character stands for; None for characters outside the table.
pub fn byte_of_char(c: char) -> Option<u8> {
    let code = c as u32;
    if code < 0x100 {
        return stands_for_itself(code as u8).then_some(code as u8);
    }
    // 0x100 + n is the n-th byte that does not stand for itself.
    table().iter().position(|&entry| entry == c).map(|byte| byte as u8)
}

/// The bytes behind a printable token; None when a character is outside the table.
pub fn decode_printable(token: &str) -> Option<Vec<u8>> {
    token.chars().map(byte_of_char).collect()
}

/// `<0x0A>` (SentencePiece's byte tokens) to its byte.
pub fn byte_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() != 2 || !hex.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(hex, 16).ok()
}

/// Cuts bytes into valid UTF-8 runs and single invalid bytes.
pub enum Run<'a> {
    Text(&'a str),
    Invalid(u8),
}

pub fn utf8_runs(bytes: &[u8]) -> Vec<Run<'_>> {
    let mut runs = Vec::new();
    for chunk in bytes.utf8_chunks() {
        if !chunk.valid().is_empty() {
            runs.push(Run::Text(chunk.valid()));
        }
        runs.extend(chunk.invalid().iter().map(|&byte| Run::Invalid(byte)));
    }
    runs
}
