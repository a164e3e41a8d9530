//! llama.cpp's grammars (GBNF) as Lark grammars.
//!
//! Rules that do not lead back to themselves become terminals, which are regular expressions: what
//! they match is exact. The others become rules over those terminals.
//! SOURCE: the description of the format in llama.cpp's grammars/README.md.

use std::collections::{HashMap, HashSet};

use crate::constraint::lark_string;
use crate::failure::{Failure, Outcome};

const NESTING_MAX: usize = 100;
const REPEATS_MAX: u32 = 10_000;
const RULES_MAX: usize = 5_000;

enum Expr {
    Any(Vec<Expr>), // one of them
    Sequence(Vec<Expr>),
    Literal(String),
    Class { negated: bool, ranges: Vec<(char, char)> },
    Dot,
    Rule(String),
    Repeat { inner: Box<Expr>, least: u32, most: Option<u32> },
}

pub fn to_lark(source: &str) -> Outcome<String> {
    let rules = Parser::new(source).rules()?;
    let names: HashMap<&str, usize> =
        rules.iter().enumerate().map(|(i, (name, _))| (name.as_str(), i)).collect();
    let mut uses = Vec::new();
    for (name, body) in &rules {
        let mut found = HashSet::new();
        references(body, &mut found);
        let mut indices = Vec::new();
        for target in found {
            let index = names.get(target).ok_or_else(|| {
                Failure::invalid(format!("the rule '{name}' uses '{target}', which is not defined"))
            })?;
            indices.push(*index);
        }
        uses.push(indices);
    }
    let root = *names.get("root").ok_or_else(|| Failure::invalid("there is no rule 'root'"))?;
    let loops: Vec<bool> = (0..rules.len()).map(|rule| reaches_itself(rule, &uses)).collect();
    // What uses a rule with a loop is no regular expression either.
    let is_rule: Vec<bool> =
        (0..rules.len()).map(|rule| loops[rule] || reaches_any(rule, &uses, &loops)).collect();
    let name_of = |name: &str| {
        let index = names[name];
        format!("{}{index}", if is_rule[index] { "rule" } else { "TERMINAL" })
    };
    let mut out = format!("start: {}\n", name_of(&rules[root].0));
    for (name, body) in &rules {
        out.push_str(&format!("{}: {}\n", name_of(name), lark(body, &name_of)));
    }
    Ok(out)
}

fn references<'a>(expr: &'a Expr, found: &mut HashSet<&'a str>) {
    match expr {
        Expr::Any(list) | Expr::Sequence(list) => list.iter().for_each(|e| references(e, found)),
        Expr::Rule(name) => drop(found.insert(name)),
        Expr::Repeat { inner, .. } => references(inner, found),
        Expr::Literal(_) | Expr::Class { .. } | Expr::Dot => {}
    }
}

fn reachable(rule: usize, uses: &[Vec<usize>]) -> HashSet<usize> {
    let mut seen = HashSet::new();
    let mut stack = uses[rule].clone();
    while let Some(next) = stack.pop() {
        if seen.insert(next) {
            stack.extend(&uses[next]);
        }
    }
    seen
}

fn reaches_itself(rule: usize, uses: &[Vec<usize>]) -> bool {
    reachable(rule, uses).contains(&rule)
}

fn reaches_any(rule: usize, uses: &[Vec<usize>], marked: &[bool]) -> bool {
    reachable(rule, uses).into_iter().any(|other| marked[other])
}

fn lark(expr: &Expr, name_of: &dyn Fn(&str) -> String) -> String {
    match expr {
        Expr::Any(list) => {
            let parts: Vec<String> = list.iter().map(|e| lark(e, name_of)).collect();
            format!("({})", parts.join(" | "))
        }
        Expr::Sequence(list) if list.is_empty() => "\"\"".to_string(),
        Expr::Sequence(list) => list.iter().map(|e| lark(e, name_of)).collect::<Vec<_>>().join(" "),
        Expr::Literal(text) => lark_string(text),
        Expr::Class { negated, ranges } => {
            let mut text = String::from(if *negated { "/[^" } else { "/[" });
            for (first, last) in ranges {
                text.push_str(&format!("\\x{{{:x}}}-\\x{{{:x}}}", *first as u32, *last as u32));
            }
            text + "]/"
        }
        Expr::Dot => "/(?s:.)/".to_string(),
        Expr::Rule(name) => name_of(name),
        Expr::Repeat { inner, least, most } => {
            let inner = format!("({})", lark(inner, name_of));
            match (least, most) {
                (0, None) => inner + "*",
                (1, None) => inner + "+",
                (0, Some(1)) => inner + "?",
                (least, None) => format!("{inner}{{{least},}}"),
                (least, Some(most)) => format!("{inner}{{{least},{most}}}"),
            }
        }
    }
}

struct Parser<'a> {
    source: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn new(source: &'a str) -> Self {
        Parser { source, at: 0 }
    }

    fn rules(mut self) -> Outcome<Vec<(String, Expr)>> {
        let mut rules: Vec<(String, Expr)> = Vec::new();
        let mut names = HashSet::new();
        self.skip_space(true);
        while self.peek().is_some() {
            let name = self.name()?;
            self.skip_space(false);
            if !self.take("::=") {
                return Err(self.wrong(&format!("'::=' after the name '{name}'")));
            }
            self.skip_space(true);
            let body = self.alternatives(0)?;
            if !names.insert(name.clone()) {
                return Err(self.fail(&format!("the rule '{name}' is defined twice")));
            }
            rules.push((name, body));
            if rules.len() > RULES_MAX {
                return Err(Failure::exhausted(format!("more than {RULES_MAX} rules")));
            }
            if self.peek().is_some_and(|c| c != '\n' && c != '\r') {
                return Err(self.wrong("the end of the line"));
            }
            self.skip_space(true);
        }
        Ok(rules)
    }

    fn alternatives(&mut self, depth: usize) -> Outcome<Expr> {
        if depth > NESTING_MAX {
            return Err(Failure::exhausted(format!("groups are nested over {NESTING_MAX} deep")));
        }
        let mut list = vec![self.sequence(depth)?];
        while self.take("|") {
            self.skip_space(true);
            list.push(self.sequence(depth)?);
        }
        Ok(if list.len() == 1 { list.remove(0) } else { Expr::Any(list) })
    }

    fn sequence(&mut self, depth: usize) -> Outcome<Expr> {
        let mut list = Vec::new();
        while let Some(c) = self.peek() {
            let atom = match c {
                '"' => self.literal()?,
                '[' => self.class()?,
                '(' => {
                    self.at += 1;
                    self.skip_space(true);
                    let inner = self.alternatives(depth + 1)?;
                    if !self.take(")") {
                        return Err(self.wrong("')'"));
                    }
                    inner
                }
                '.' => {
                    self.at += 1;
                    Expr::Dot
                }
                '<' | '!' => {
                    let what = "tokens in grammars ('<...>') are not supported";
                    return Err(Failure::unsupported(self.fail(what).message));
                }
                c if is_word(c) => Expr::Rule(self.name()?),
                _ => break,
            };
            list.push(self.repeats(atom)?);
            self.skip_space(depth > 0);
        }
        Ok(if list.len() == 1 { list.remove(0) } else { Expr::Sequence(list) })
    }

    fn repeats(&mut self, mut atom: Expr) -> Outcome<Expr> {
        for _ in 0..8 {
            self.skip_blanks();
            let (least, most) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => {
                    let (least, most) = self.counts()?;
                    atom = Expr::Repeat { inner: Box::new(atom), least, most };
                    continue;
                }
                _ => return Ok(atom),
            };
            self.at += 1;
            atom = Expr::Repeat { inner: Box::new(atom), least, most };
        }
        Err(self.wrong("fewer repetitions of one item"))
    }

    /// "{2}", "{2,}" or "{2,5}".
    fn counts(&mut self) -> Outcome<(u32, Option<u32>)> {
        self.at += 1;
        let least = self.number()?;
        let most = if self.take(",") {
            if self.peek() == Some('}') {
                None
            } else {
                Some(self.number()?)
            }
        } else {
            Some(least)
        };
        if !self.take("}") {
            return Err(self.wrong("'}'"));
        }
        if most.is_some_and(|most| most < least) {
            return Err(self.fail("a repetition ends below its beginning"));
        }
        Ok((least, most))
    }

    fn number(&mut self) -> Outcome<u32> {
        let digits: String =
            self.source[self.at..].chars().take_while(char::is_ascii_digit).take(9).collect();
        self.at += digits.len();
        match digits.parse::<u32>() {
            Ok(number) if number <= REPEATS_MAX => Ok(number),
            Ok(number) => Err(Failure::exhausted(format!(
                "{number} repetitions; at most {REPEATS_MAX} are accepted"
            ))),
            Err(_) => Err(self.wrong("a number")),
        }
    }

    fn literal(&mut self) -> Outcome<Expr> {
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.peek() {
                Some('"') => break,
                Some(_) => text.push(self.character()?),
                None => return Err(self.wrong("'\"'")),
            }
        }
        self.at += 1;
        Ok(if text.is_empty() { Expr::Sequence(Vec::new()) } else { Expr::Literal(text) })
    }

    fn class(&mut self) -> Outcome<Expr> {
        self.at += 1;
        let negated = self.take("^");
        let mut ranges = Vec::new();
        loop {
            match self.peek() {
                Some(']') => break,
                Some(_) => {}
                None => return Err(self.wrong("']'")),
            }
            let first = self.character()?;
            let is_range = self.peek() == Some('-')
                && self.source[self.at + 1..].chars().next().is_some_and(|c| c != ']');
            let last = if is_range {
                self.at += 1;
                self.character()?
            } else {
                first
            };
            if last < first {
                return Err(self.fail("a range of characters ends before its beginning"));
            }
            ranges.push((first, last));
        }
        self.at += 1;
        match (ranges.is_empty(), negated) {
            (false, _) => Ok(Expr::Class { negated, ranges }),
            (true, true) => Ok(Expr::Dot),
            (true, false) => Err(self.fail("'[]' matches nothing")),
        }
    }

    /// One character, escaped or as it is.
    fn character(&mut self) -> Outcome<char> {
        let Some(c) = self.peek() else { return Err(self.wrong("a character")) };
        self.at += c.len_utf8();
        if c != '\\' {
            return Ok(c);
        }
        let Some(escaped) = self.peek() else { return Err(self.wrong("a character after '\\'")) };
        self.at += escaped.len_utf8();
        match escaped {
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            '\\' | '"' | '[' | ']' | '-' | '^' => Ok(escaped),
            'x' => self.hexadecimal(2),
            'u' => self.hexadecimal(4),
            'U' => self.hexadecimal(8),
            _ => Err(self.fail(&format!("the escape '\\{escaped}' is not known"))),
        }
    }

    fn hexadecimal(&mut self, digits: usize) -> Outcome<char> {
        let text = self.source.get(self.at..self.at + digits);
        let code = text.and_then(|text| u32::from_str_radix(text, 16).ok());
        match code.and_then(char::from_u32) {
            Some(c) => {
                self.at += digits;
                Ok(c)
            }
            None => Err(self.wrong(&format!("{digits} hexadecimal digits of a character"))),
        }
    }

    fn name(&mut self) -> Outcome<String> {
        let name: String = self.source[self.at..].chars().take_while(|&c| is_word(c)).collect();
        if name.is_empty() {
            return Err(self.wrong("the name of a rule"));
        }
        self.at += name.len();
        Ok(name)
    }

    fn peek(&self) -> Option<char> {
        self.source[self.at..].chars().next()
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.source[self.at..].starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t')) {
            self.at += 1;
        }
    }

    /// White space and comments; line breaks only where a rule goes on over them.
    fn skip_space(&mut self, over_lines: bool) {
        loop {
            match self.peek() {
                Some(' ' | '\t') => self.at += 1,
                Some('\n' | '\r') if over_lines => self.at += 1,
                Some('#') => {
                    let rest = &self.source[self.at..];
                    self.at += rest.find(['\n', '\r']).unwrap_or(rest.len());
                }
                _ => return,
            }
        }
    }

    fn fail(&self, what: &str) -> Failure {
        let before = &self.source[..self.at];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        Failure::invalid(format!("line {line}, column {column}: {what}"))
    }

    fn wrong(&self, expected: &str) -> Failure {
        let found = match self.peek() {
            Some(c) => format!("{c:?}"),
            None => "the end".to_string(),
        };
        self.fail(&format!("expected {expected}, found {found}"))
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_with_loops_stay_rules() {
        let source = "# a list\nroot ::= list\nlist ::= \"(\" (item |\n  list)* \")\"\nitem ::= [a-z]{2,3} ws\nws ::= [ \\t]*\n";
        let lark = to_lark(source).unwrap();
        assert_eq!(
            lark,
            concat!(
                "start: rule0\n",
                "rule0: rule1\n",
                "rule1: \"(\" ((TERMINAL2 | rule1))* \")\"\n",
                "TERMINAL2: (/[\\x{61}-\\x{7a}]/){2,3} TERMINAL3\n",
                "TERMINAL3: (/[\\x{20}-\\x{20}\\x{9}-\\x{9}]/)*\n"
            )
        );
    }

    #[test]
    fn errors_say_where() {
        let failure = |source: &str| to_lark(source).err().unwrap().message;
        assert!(failure("root ::= \"a").starts_with("line 1, column 12: expected '\"'"));
        assert!(failure("root ::= a\nb ::= \"x\"").contains("uses 'a', which is not defined"));
        assert!(failure("x ::= \"a\"").contains("no rule 'root'"));
        assert!(failure("root ::= [z-a]").contains("ends before its beginning"));
        assert!(failure("root ::= \"a\" )").contains("expected the end of the line"));
        assert!(failure("root ::= <[12]>").contains("not supported"));
        assert!(failure("root ::= \"\\q\"").contains("'\\q' is not known"));
        assert!(failure(&format!("root ::= {}", "(".repeat(500))).contains("nested"));
        assert!(failure("root ::= \"a\"{2,999999}").contains("repetitions"));
    }
}
