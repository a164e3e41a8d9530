//! The C entries. See quipu_text.h for what each one promises.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::slice;

use crate::constraint::{Constraint, Kind};
use crate::export;
use crate::failure::{Failure, Outcome};
use crate::spec::Spec;
use crate::template::{RenderOptions, Template};
use crate::tokenizer::Tokenizer;
use crate::vocabulary::Vocabulary;

/// Borrowed bytes. A null pointer goes with size 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct QuipuBytes {
    data: *const u8,
    size: usize,
}

/// Bytes owned by this crate until quipu_buffer_free.
#[repr(C)]
pub struct QuipuBuffer {
    data: *mut u8,
    size: usize,
    capacity: usize,
}

/// Token ids owned by this crate until quipu_ids_free.
#[repr(C)]
pub struct QuipuIds {
    data: *mut u32,
    size: usize,
    capacity: usize,
}

/// Many byte strings in one run: string i is data[ends[i-1] .. ends[i]].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct QuipuStrings {
    data: *const u8,
    size: usize,
    ends: *const u64,
    count: usize,
}

#[repr(C)]
pub struct QuipuSpec {
    model: QuipuBytes,
    pre: QuipuBytes,
    tokens: QuipuStrings,
    merges: QuipuStrings,
    scores: *const f32,
    scores_count: usize,
    kinds: *const i32,
    kinds_count: usize,
    charsmap: QuipuBytes,
    strip_after: *const i32,
    strip_after_count: usize,
    bos: i64,
    eos: i64,
    unknown: i64,
    add_bos: i32,
    add_eos: i32,
    add_space_prefix: i32,
    remove_extra_whitespaces: i32,
    byte_fallback: i32,
}

#[repr(C)]
pub struct QuipuTokenizerInfo {
    vocabulary_size: usize,
    bos: i64,
    eos: i64,
    unknown: i64,
    add_bos: i32,
    add_eos: i32,
    strips_leading_space: i32,
}

impl QuipuBytes {
    unsafe fn get<'a>(&self) -> &'a [u8] {
        if self.data.is_null() || self.size == 0 {
            &[]
        } else {
            slice::from_raw_parts(self.data, self.size)
        }
    }

    unsafe fn text<'a>(&self, what: &str) -> Outcome<&'a str> {
        std::str::from_utf8(self.get())
            .map_err(|_| Failure::invalid(format!("{what} is not valid UTF-8")))
    }
}

unsafe fn array<'a, T>(data: *const T, count: usize) -> &'a [T] {
    if data.is_null() || count == 0 {
        &[]
    } else {
        slice::from_raw_parts(data, count)
    }
}

impl QuipuStrings {
    unsafe fn get<'a>(&self) -> Outcome<Vec<&'a [u8]>> {
        let bytes = array(self.data, self.size);
        let mut strings = Vec::with_capacity(self.count);
        let mut start = 0;
        for &end in array(self.ends, self.count) {
            let end = end as usize;
            let string = bytes.get(start..end);
            strings.push(string.ok_or_else(|| Failure::internal("string offsets out of range"))?);
            start = end;
        }
        Ok(strings)
    }
}

impl QuipuBuffer {
    fn from(bytes: Vec<u8>) -> Self {
        let mut bytes = std::mem::ManuallyDrop::new(bytes);
        QuipuBuffer { data: bytes.as_mut_ptr(), size: bytes.len(), capacity: bytes.capacity() }
    }
}

/// Runs `body`; on failure fills `error` and returns the code, 0 otherwise.
fn guard(error: *mut QuipuBuffer, body: impl FnOnce() -> Outcome<()>) -> i32 {
    let outcome = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(outcome) => outcome,
        Err(panic) => Err(Failure::panicked(panic.as_ref(), "an entry")),
    };
    match outcome {
        Ok(()) => 0,
        Err(failure) => {
            if !error.is_null() {
                // SAFETY: the caller passes a valid place for the message or null.
                unsafe { error.write(QuipuBuffer::from(failure.message.into_bytes())) };
            }
            failure.code as i32
        }
    }
}

fn optional_id(id: i64) -> Option<u32> {
    u32::try_from(id).ok()
}

fn optional_bool(value: i32) -> Option<bool> {
    (value >= 0).then_some(value != 0)
}

fn id_or_minus_one(id: Option<u32>) -> i64 {
    id.map_or(-1, i64::from)
}

/// Panics are reported through the error buffer; the default hook would also print them.
#[no_mangle]
pub extern "C" fn quipu_text_init() {
    std::panic::set_hook(Box::new(|_| {}));
    // Errors of a nested grammar carry one error per level, and each would walk the stack: with
    // RUST_BACKTRACE=1 a source of 30 KB could take a minute. No other host's environment is touched.
    if std::env::var_os("RUST_BACKTRACE").is_some() && std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        std::env::set_var("RUST_LIB_BACKTRACE", "0");
    }
}

/// # Safety
/// `buffer` came from this crate and is freed once.
#[no_mangle]
pub unsafe extern "C" fn quipu_buffer_free(buffer: QuipuBuffer) {
    if !buffer.data.is_null() {
        drop(Vec::from_raw_parts(buffer.data, buffer.size, buffer.capacity));
    }
}

/// # Safety
/// `ids` came from this crate and is freed once.
#[no_mangle]
pub unsafe extern "C" fn quipu_ids_free(ids: QuipuIds) {
    if !ids.data.is_null() {
        drop(Vec::from_raw_parts(ids.data, ids.size, ids.capacity));
    }
}

/// # Safety
/// All pointers are valid for the call; `out` receives a handle on success.
#[no_mangle]
pub unsafe extern "C" fn quipu_tokenizer_from_spec(
    spec: *const QuipuSpec,
    out: *mut *mut Tokenizer,
    error: *mut QuipuBuffer,
) -> i32 {
    guard(error, || {
        let spec = &*spec;
        let tokenizer = Tokenizer::from_spec(&Spec {
            model: spec.model.text("tokenizer.ggml.model")?,
            pre: spec.pre.text("tokenizer.ggml.pre")?,
            tokens: spec.tokens.get()?,
            merges: spec.merges.get()?,
            scores: array(spec.scores, spec.scores_count),
            kinds: array(spec.kinds, spec.kinds_count),
            charsmap: spec.charsmap.get(),
            strip_after: array(spec.strip_after, spec.strip_after_count),
            bos: optional_id(spec.bos),
            eos: optional_id(spec.eos),
            unknown: optional_id(spec.unknown),
            add_bos: optional_bool(spec.add_bos),
            add_eos: optional_bool(spec.add_eos),
            add_space_prefix: optional_bool(spec.add_space_prefix),
            remove_extra_whitespaces: optional_bool(spec.remove_extra_whitespaces),
            byte_fallback: spec.byte_fallback > 0,
        })?;
        out.write(Box::into_raw(Box::new(tokenizer)));
        Ok(())
    })
}

/// # Safety
/// As quipu_tokenizer_from_spec.
#[no_mangle]
pub unsafe extern "C" fn quipu_tokenizer_from_json(
    json: QuipuBytes,
    out: *mut *mut Tokenizer,
    error: *mut QuipuBuffer,
) -> i32 {
    guard(error, || {
        let tokenizer = Tokenizer::from_json(json.get())?;
        out.write(Box::into_raw(Box::new(tokenizer)));
        Ok(())
    })
}

/// # Safety
/// `tokenizer` is a handle that no one uses any more, or null.
#[no_mangle]
pub unsafe extern "C" fn quipu_tokenizer_free(tokenizer: *mut Tokenizer) {
    if !tokenizer.is_null() {
        let boxed = AssertUnwindSafe(Box::from_raw(tokenizer));
        let _ = catch_unwind(move || drop(boxed));
    }
}

/// # Safety
/// `tokenizer` is a live handle.
#[no_mangle]
pub unsafe extern "C" fn quipu_tokenizer_info(tokenizer: *const Tokenizer) -> QuipuTokenizerInfo {
    let tokenizer = &*tokenizer;
    let (bos, eos, unknown) = tokenizer.special_ids();
    let (add_bos, add_eos) = tokenizer.adds();
    QuipuTokenizerInfo {
        vocabulary_size: tokenizer.pieces().len(),
        bos: id_or_minus_one(bos),
        eos: id_or_minus_one(eos),
        unknown: id_or_minus_one(unknown),
        add_bos: add_bos.into(),
        add_eos: add_eos.into(),
        strips_leading_space: tokenizer.strips_leading_space().into(),
    }
}

/// # Safety
/// `tokenizer` is a live handle; `out` receives ids to free with quipu_ids_free.
#[no_mangle]
pub unsafe extern "C" fn quipu_tokenizer_encode(
    tokenizer: *const Tokenizer,
    text: QuipuBytes,
    add_special: i32,
    parse_special: i32,
    out: *mut QuipuIds,
    error: *mut QuipuBuffer,
) -> i32 {
    guard(error, || {
        let ids = (*tokenizer).encode(text.get(), add_special != 0, parse_special != 0)?;
        let mut ids = std::mem::ManuallyDrop::new(ids);
        out.write(QuipuIds { data: ids.as_mut_ptr(), size: ids.len(), capacity: ids.capacity() });
        Ok(())
    })
}

/// # Safety
/// `tokenizer` is a live handle; the bytes live as long as it.
#[no_mangle]
pub unsafe extern "C" fn quipu_tokenizer_piece(
    tokenizer: *const Tokenizer,
    id: u32,
    bytes: *mut QuipuBytes,
) -> i32 {
    match (*tokenizer).pieces().get(id) {
        Some((piece, kind)) => {
            bytes.write(QuipuBytes { data: piece.as_ptr(), size: piece.len() });
            kind
        }
        None => {
            bytes.write(QuipuBytes { data: std::ptr::null(), size: 0 });
            0
        }
    }
}

/// # Safety
/// `tokenizer` is a live handle.
#[no_mangle]
pub unsafe extern "C" fn quipu_tokenizer_find(
    tokenizer: *const Tokenizer,
    text: QuipuBytes,
) -> i64 {
    id_or_minus_one((*tokenizer).pieces().find_text(text.get()))
}

/// # Safety
/// `tokenizer` is a live handle; `out` receives JSON to free with quipu_buffer_free.
#[no_mangle]
pub unsafe extern "C" fn quipu_tokenizer_export(
    tokenizer: *const Tokenizer,
    out: *mut QuipuBuffer,
    error: *mut QuipuBuffer,
) -> i32 {
    guard(error, || {
        let exported = export::to_gguf(&*tokenizer)?;
        let bytes = serde_json::to_vec(&exported).map_err(|e| Failure::internal(e.to_string()))?;
        out.write(QuipuBuffer::from(bytes));
        Ok(())
    })
}

/// # Safety
/// All pointers are valid for the call; `out` receives a handle on success.
#[no_mangle]
pub unsafe extern "C" fn quipu_template_compile(
    source: QuipuBytes,
    out: *mut *mut Template,
    error: *mut QuipuBuffer,
) -> i32 {
    guard(error, || {
        let template = Template::compile(source.text("the chat template")?)?;
        out.write(Box::into_raw(Box::new(template)));
        Ok(())
    })
}

/// # Safety
/// `template` is a live handle; `out` receives text to free with quipu_buffer_free.
#[no_mangle]
pub unsafe extern "C" fn quipu_template_render(
    template: *const Template,
    context_json: QuipuBytes,
    now_unix_s: i64,
    utc_offset_s: i32,
    fuel: u64,
    out: *mut QuipuBuffer,
    error: *mut QuipuBuffer,
) -> i32 {
    guard(error, || {
        let options = RenderOptions { now_unix_s, utc_offset_s, fuel };
        let text = (*template).render(context_json.text("the template's context")?, &options)?;
        out.write(QuipuBuffer::from(text.into_bytes()));
        Ok(())
    })
}

/// # Safety
/// `template` is a handle that no one uses any more, or null.
#[no_mangle]
pub unsafe extern "C" fn quipu_template_free(template: *mut Template) {
    if !template.is_null() {
        let boxed = AssertUnwindSafe(Box::from_raw(template));
        let _ = catch_unwind(move || drop(boxed));
    }
}

/// # Safety
/// `tokenizer` is a live handle; `ends` has `ends_count` ids; `out` receives a handle on success.
#[no_mangle]
pub unsafe extern "C" fn quipu_vocabulary_create(
    tokenizer: *const Tokenizer,
    ends: *const u32,
    ends_count: usize,
    out: *mut *mut Vocabulary,
    error: *mut QuipuBuffer,
) -> i32 {
    guard(error, || {
        let vocabulary = Vocabulary::new((*tokenizer).pieces(), array(ends, ends_count))?;
        out.write(Box::into_raw(Box::new(vocabulary)));
        Ok(())
    })
}

/// # Safety
/// `vocabulary` is a handle that no one uses any more, or null.
#[no_mangle]
pub unsafe extern "C" fn quipu_vocabulary_free(vocabulary: *mut Vocabulary) {
    if !vocabulary.is_null() {
        let boxed = AssertUnwindSafe(Box::from_raw(vocabulary));
        let _ = catch_unwind(move || drop(boxed));
    }
}

/// # Safety
/// `vocabulary` is a live handle; `out` receives a handle on success.
#[no_mangle]
pub unsafe extern "C" fn quipu_constraint_compile(
    vocabulary: *const Vocabulary,
    kind: i32,
    source: QuipuBytes,
    out: *mut *mut Constraint,
    error: *mut QuipuBuffer,
) -> i32 {
    guard(error, || {
        let kind = Kind::from_number(kind)
            .ok_or_else(|| Failure::internal(format!("there is no constraint of kind {kind}")))?;
        let constraint = Constraint::compile(&*vocabulary, kind, source.text("it")?)?;
        out.write(Box::into_raw(Box::new(constraint)));
        Ok(())
    })
}

/// # Safety
/// `constraint` is a live handle; `out` receives a handle on success.
#[no_mangle]
pub unsafe extern "C" fn quipu_constraint_duplicate(
    constraint: *const Constraint,
    out: *mut *mut Constraint,
    error: *mut QuipuBuffer,
) -> i32 {
    guard(error, || {
        out.write(Box::into_raw(Box::new((*constraint).duplicate())));
        Ok(())
    })
}

/// # Safety
/// `constraint` is a live handle that no other thread uses; `words` has `words_count` places.
#[no_mangle]
pub unsafe extern "C" fn quipu_constraint_mask(
    constraint: *mut Constraint,
    words: *mut u32,
    words_count: usize,
    error: *mut QuipuBuffer,
) -> i32 {
    guard(error, || (*constraint).mask(slice::from_raw_parts_mut(words, words_count)))
}

/// # Safety
/// `constraint` is a live handle that no other thread uses; `complete` is a valid place.
#[no_mangle]
pub unsafe extern "C" fn quipu_constraint_accept(
    constraint: *mut Constraint,
    token: u32,
    complete: *mut i32,
    error: *mut QuipuBuffer,
) -> i32 {
    guard(error, || {
        complete.write((*constraint).accept(token)?.into());
        Ok(())
    })
}

/// # Safety
/// `constraint` is a live handle that no other thread uses; `may` is a valid place.
#[no_mangle]
pub unsafe extern "C" fn quipu_constraint_may_end(
    constraint: *mut Constraint,
    may: *mut i32,
    error: *mut QuipuBuffer,
) -> i32 {
    guard(error, || {
        may.write((*constraint).may_end()?.into());
        Ok(())
    })
}

/// # Safety
/// `constraint` is a live handle; `out` receives bytes to free with quipu_buffer_free.
#[no_mangle]
pub unsafe extern "C" fn quipu_constraint_forced(
    constraint: *const Constraint,
    out: *mut QuipuBuffer,
    error: *mut QuipuBuffer,
) -> i32 {
    guard(error, || {
        out.write(QuipuBuffer::from((*constraint).forced()));
        Ok(())
    })
}

/// # Safety
/// `constraint` is a live handle.
#[no_mangle]
pub unsafe extern "C" fn quipu_constraint_bytes(constraint: *const Constraint) -> usize {
    (*constraint).bytes()
}

/// # Safety
/// `constraint` is a handle that no one uses any more, or null.
#[no_mangle]
pub unsafe extern "C" fn quipu_constraint_free(constraint: *mut Constraint) {
    if !constraint.is_null() {
        let boxed = AssertUnwindSafe(Box::from_raw(constraint));
        let _ = catch_unwind(move || drop(boxed));
    }
}
