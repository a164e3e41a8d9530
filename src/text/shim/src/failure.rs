//! One error type for the whole crate: a code the C side maps to a status, and a message.

use std::fmt;

/// The numbers are part of the C interface (quipu_text.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    /// The outside data breaks its own rules (corrupt tokenizer, template syntax error).
    Invalid = 1,
    /// Well-formed, but nothing this crate knows how to run.
    Unsupported = 2,
    /// A limit was reached (fuel, recursion, size).
    Exhausted = 3,
    /// A panic was caught: a bug here or in a dependency.
    Internal = 4,
}

#[derive(Clone, Debug)]
pub struct Failure {
    pub code: Code,
    pub message: String,
}

impl Failure {
    pub fn invalid(message: impl Into<String>) -> Self {
        Failure { code: Code::Invalid, message: message.into() }
    }
    pub fn unsupported(message: impl Into<String>) -> Self {
        Failure { code: Code::Unsupported, message: message.into() }
    }
    pub fn exhausted(message: impl Into<String>) -> Self {
        Failure { code: Code::Exhausted, message: message.into() }
    }
    /// Of a caught panic.
    pub fn panicked(panic: &(dyn std::any::Any + Send), what: &str) -> Self {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("unknown panic");
        Failure::internal(format!("the text library failed ({what}): {text}"))
    }
    pub fn internal(message: impl Into<String>) -> Self {
        Failure { code: Code::Internal, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

pub type Outcome<T> = Result<T, Failure>;
