//! Pre-tokenizers by the name that GGUF files carry in `tokenizer.ggml.pre`.
//!
//! A pre-tokenizer is a list of regular expressions. Each cuts the pieces that the one before left:
//! a match becomes a piece, and so does the text between matches. Merges never cross a piece.
//! The expressions are facts about published models: changing one changes token ids.
//!
//! Published expressions end with `\s+(?!\S)|\s+`: a run of spaces leaves its last one to the word
//! that follows. That needs backtracking, which fails on very long runs. Here the run is matched as a
//! second pattern, `\s+`, and its last character is given back by hand, so that matching is linear.

use regex_automata::meta::Regex;
use regex_automata::Input;

use crate::failure::{Failure, Outcome};

/// One expression, and whether runs of spaces are matched after everything else.
pub struct Step {
    pattern: &'static str,
    keeps_last_space: bool,
}

const fn words(pattern: &'static str) -> Step {
    Step { pattern, keeps_last_space: true }
}

const fn only(pattern: &'static str) -> Step {
    Step { pattern, keeps_last_space: false }
}

const GPT2: Step = words(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+");

const LLAMA3: Step = words(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
);

const QWEN2: Step = words(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
);

const QWEN35: Step = words(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+",
);

const GPT4O: Step = words(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
);

const TEKKEN: Step = words(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
);

const NEWLINE: Step = only(r"[\r\n]");
const ONE_DIGIT: Step = only(r"\p{N}");
const DIGITS: Step = only(r"\p{N}+");
const THREE_DIGITS: Step = only(r"[0-9][0-9][0-9]");
const PUNCTUATION: Step = only(r"[\p{P}\$\+<=>\^~\|]+");
const FALCON_PUNCTUATION: Step = only(r"[\p{P}\$\+<=>\^~\|`]+");
const CJK: Step = only(r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+");

/// Cased letters, spelt as the published expression spells them (ranges of Unicode blocks).
const DEEPSEEK_LETTERS: Step = only(concat!(
    r"\s?[",
    r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}",
    r"\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}",
    r"\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}",
    r"\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}",
    r"\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}",
    r"\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}",
    r"\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}",
    r"\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}",
    r"\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}",
    r"\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}",
    r"\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}",
    r"\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}",
    r"\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}",
    r"\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}",
    r"\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}",
    r"\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}",
    r"]+"
));
const DEEPSEEK_PUNCTUATION: Step =
    only(r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+");

const DEEPSEEK3_CJK: Step = only(r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+");
const DEEPSEEK3_WORDS: Step = words(concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+"
));

const BLOOM: Step = only(" ?[^(\\s|.,!?…。，、।۔،)]+");

/// What a pre-tokenizer name stands for.
pub struct Definition {
    pub names: &'static [&'static str],
    pub steps: &'static [Step],
    /// A piece that is a vocabulary entry as a whole is taken without merging.
    pub ignore_merges: bool,
    /// The default for add_bos when the file does not say.
    pub add_bos: bool,
}

const fn plain(names: &'static [&'static str], steps: &'static [Step]) -> Definition {
    Definition { names, steps, ignore_merges: false, add_bos: false }
}

/// The first name of each row is the one that exports write.
pub static DEFINITIONS: &[Definition] = &[
    plain(&["default"], &[PUNCTUATION, GPT2, DIGITS, THREE_DIGITS]),
    plain(
        &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "roberta-bpe",
            "jina-es",
            "jina-de",
            "jina-v1-en",
            "jina-v2-es",
            "jina-v2-de",
            "gigachat",
            "trillion",
            "granite-docling",
        ],
        &[GPT2],
    ),
    Definition {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
        ],
        steps: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    plain(&["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"], &[LLAMA3]),
    plain(&["qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"], &[QWEN2]),
    plain(&["qwen35"], &[QWEN35]),
    plain(&["gpt-4o", "llama4"], &[GPT4O]),
    Definition { names: &["tekken"], steps: &[TEKKEN], ignore_merges: true, add_bos: true },
    plain(
        &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"],
        &[ONE_DIGIT, GPT2],
    ),
    plain(&["falcon"], &[FALCON_PUNCTUATION, GPT2, THREE_DIGITS]),
    plain(
        &["deepseek-llm"],
        &[NEWLINE, DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION, only(r"\s+$"), CJK, DIGITS],
    ),
    plain(&["deepseek-coder"], &[NEWLINE, only(r"\s?\p{L}+"), only(r"\s?\p{P}+"), CJK, ONE_DIGIT]),
    plain(&["deepseek-v3"], &[only(r"\p{N}{1,3}"), DEEPSEEK3_CJK, DEEPSEEK3_WORDS]),
    plain(&["bloom", "poro-chat", "gpt3-finnish"], &[BLOOM]),
    plain(&["viking"], &[BLOOM, ONE_DIGIT]),
];

pub fn find(name: &str) -> Option<&'static Definition> {
    DEFINITIONS.iter().find(|definition| definition.names.contains(&name))
}

/// GPT-2's expression as published; tokenizer.json's ByteLevel has it built in.
pub const GPT2_PUBLISHED: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The GGUF name of a list of published expressions, when there is one.
pub fn name_of(published: &[String], ignore_merges: bool) -> Option<&'static str> {
    let wanted: Vec<(String, bool)> = published.iter().map(|step| canonical(step)).collect();
    let same = |definition: &&Definition| {
        let steps = definition.steps.iter();
        definition.ignore_merges == ignore_merges
            && steps
                .map(|s| (canonical(s.pattern).0, s.keeps_last_space))
                .eq(wanted.iter().cloned())
    };
    DEFINITIONS.iter().find(same).map(|definition| definition.names[0])
}

/// One spelling for expressions that mean the same, and whether they end with the rule for spaces.
fn canonical(pattern: &str) -> (String, bool) {
    let mut text = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find(r"\x{") {
        text.push_str(&rest[..at]);
        let end = rest[at..].find('}').map_or(rest.len(), |end| at + end);
        let code = u32::from_str_radix(&rest[at + 3..end], 16).ok().and_then(char::from_u32);
        text.extend(code);
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    text.push_str(rest);
    let text = text.replace('\r', r"\r").replace('\n', r"\n");
    for tail in [r"|\s+(?!\S)|\s+", r"|\s+(?!\S)"] {
        if let Some(words) = text.strip_suffix(tail) {
            return (words.to_string(), true);
        }
    }
    (text, false)
}

fn known_names() -> String {
    let names: Vec<&str> = DEFINITIONS.iter().flat_map(|d| d.names.iter().copied()).collect();
    names.join(", ")
}

pub struct PreTokenizer {
    regexes: Vec<Regex>,
}

impl PreTokenizer {
    pub fn by_name(name: &str) -> Outcome<(Self, &'static Definition)> {
        let definition = find(name).ok_or_else(|| {
            Failure::unsupported(format!(
                "unknown pre-tokenizer '{name}' (tokenizer.ggml.pre); splitting with another one would \
                 silently give wrong token ids, so choose one yourself by overriding \
                 tokenizer.ggml.pre: {}",
                known_names()
            ))
        })?;
        let regexes: Outcome<Vec<Regex>> = definition.steps.iter().map(compile).collect();
        Ok((PreTokenizer { regexes: regexes? }, definition))
    }

    /// The pieces of `text`, in order; together they are all of it.
    pub fn split<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut pieces = vec![text];
        for regex in &self.regexes {
            let mut cut = Vec::with_capacity(pieces.len() + text.len() / 4);
            for piece in pieces {
                split_one(regex, piece, &mut cut);
            }
            pieces = cut;
        }
        pieces
    }
}

/// The index of `\s+` in compile().
const SPACES: usize = 1;

fn compile(step: &Step) -> Outcome<Regex> {
    let built = if step.keeps_last_space {
        Regex::new_many(&[step.pattern, r"\s+"])
    } else {
        Regex::new(step.pattern)
    };
    built.map_err(|error| Failure::internal(format!("pre-tokenizer {}: {error}", step.pattern)))
}

fn split_one<'t>(regex: &Regex, text: &'t str, out: &mut Vec<&'t str>) {
    let mut done = 0;
    while let Some(found) = regex.find(Input::new(text).range(done..)) {
        let mut end = found.end();
        if found.pattern().as_usize() == SPACES && end < text.len() {
            let last = text[found.range()].chars().next_back().map_or(0, char::len_utf8);
            if end - last > found.start() {
                end -= last;
            }
        }
        if found.start() > done {
            out.push(&text[done..found.start()]);
        }
        if end <= done {
            break; // an empty match: no expression here has one
        }
        out.push(&text[found.start()..end]);
        done = end;
    }
    if done < text.len() {
        out.push(&text[done..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_compiles_and_keeps_all_text() {
        let text = "Hello, world's  12345 \u{3000}中华人民共和国\r\n\n\t 3.14 don't  ";
        for definition in DEFINITIONS {
            for name in definition.names {
                let (pre, _) = PreTokenizer::by_name(name).unwrap();
                assert_eq!(pre.split(text).concat(), text, "{name}");
            }
        }
    }

    #[test]
    fn gpt2_keeps_one_space_with_the_word() {
        let (pre, _) = PreTokenizer::by_name("gpt-2").unwrap();
        assert_eq!(pre.split("a   b's 12c"), ["a", "  ", " b", "'s", " 12", "c"]);
    }

    #[test]
    fn published_expressions_have_names() {
        assert_eq!(name_of(&[GPT2_PUBLISHED.to_string()], false), Some("gpt-2"));
        let starcoder = [r"\p{N}".to_string(), GPT2_PUBLISHED.to_string()];
        assert_eq!(name_of(&starcoder, false), Some("starcoder"));
        let llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        assert_eq!(name_of(&[llama3.to_string()], true), Some("llama-bpe"));
        assert_eq!(name_of(&[llama3.to_string()], false), Some("dbrx"));
        assert_eq!(name_of(&["x".to_string()], false), None);
    }

    #[test]
    fn unknown_names_are_refused() {
        let failure = PreTokenizer::by_name("no-such").err().unwrap();
        assert!(failure.message.contains("no-such") && failure.message.contains("llama-bpe"));
    }

    #[test]
    fn long_runs_of_spaces_are_no_trouble() {
        let (pre, _) = PreTokenizer::by_name("llama-bpe").unwrap();
        let text = " ".repeat(3_000_000) + "x";
        assert_eq!(pre.split(&text).len(), 2);
    }
}
