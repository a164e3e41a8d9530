//! What compiling a constraint needs of a tokenizer: the bytes of every token as a trie.

use std::sync::Arc;

use llguidance::api::ParserLimits;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::ParserFactory;

use crate::failure::{Failure, Outcome};
use crate::pieces::{Pieces, CONTROL, UNKNOWN, UNUSED};

/// Tokens of more bytes are left out: the trie has no room for them. The longest of a published
/// vocabulary has 1,024.
const TOKEN_BYTES_MAX: usize = 1000;
/// Lexer states of one constraint, at 1 to 2 KiB each: what a hostile expression may cost in memory.
const LEXER_STATES_MAX: usize = 20_000;
/// Symbols of a grammar. A schema of 100 KB has about 20,000.
const GRAMMAR_SYMBOLS_MAX: usize = 200_000;

/// Immutable: any number of threads may compile at the same time.
pub struct Vocabulary {
    pub factory: ParserFactory,
    pub size: usize,
}

impl Vocabulary {
    /// `ends`: the tokens that end a text; not empty.
    pub fn new(pieces: &Pieces, ends: &[u32]) -> Outcome<Self> {
        let size = pieces.len();
        if ends.is_empty() || ends.iter().any(|&id| id as usize >= size) {
            return Err(Failure::unsupported(
                "output cannot be constrained: the tokenizer has no token that ends a text",
            ));
        }
        let words: Vec<Vec<u8>> = (0..size as u32).map(|id| word(pieces, ends, id)).collect();
        let trie =
            TokTrie::from(&TokRxInfo::new(size as u32, ends[0]), &words).with_eos_tokens(ends);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| Failure::internal(error.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            max_lexer_states: LEXER_STATES_MAX,
            max_grammar_size: GRAMMAR_SYMBOLS_MAX,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Vocabulary { factory, size })
    }
}

/// The bytes that the token adds to a text. Control tokens get a mark before their name, so that no
/// text matches them; what is no text at all is empty, and never allowed.
fn word(pieces: &Pieces, ends: &[u32], id: u32) -> Vec<u8> {
    let (bytes, kind) = pieces.get(id).unwrap_or_default();
    if kind == CONTROL || ends.contains(&id) {
        let mut marked = vec![TokTrie::SPECIAL_TOKEN_MARKER];
        marked.extend_from_slice(if bytes.is_empty() { b"<end>" } else { bytes });
        marked.truncate(TOKEN_BYTES_MAX);
        return marked;
    }
    // 0xff is in no UTF-8 text, and would look like a mark.
    let is_text = kind != UNKNOWN && kind != UNUSED && bytes.first() != Some(&0xff);
    if is_text && bytes.len() <= TOKEN_BYTES_MAX {
        bytes.to_vec()
    } else {
        Vec::new()
    }
}
