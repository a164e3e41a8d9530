//! Chat templates: Jinja as transformers runs it, with limits, because a template comes out of a
//! model file and is untrusted.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind};

use crate::failure::{Failure, Outcome};
use crate::template_json::{from_json, to_json, Layout};

/// The largest real template is under 100 KiB.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// Nested macro calls and includes; real templates stay under 20.
const RECURSION_MAX: usize = 200;
/// The largest prompt; a template can copy its input many times over.
const OUTPUT_BYTES_MAX: usize = 64 << 20;
const NAME: &str = "chat_template";

pub struct Template {
    environment: Environment<'static>,
}

pub struct RenderOptions {
    /// What strftime_now() shows, as local time: this instant plus the offset.
    pub now_unix_s: i64,
    pub utc_offset_s: i32,
    /// Template instructions a rendering may run.
    pub fuel: u64,
}

impl Template {
    pub fn compile(source: &str) -> Outcome<Self> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(Failure::invalid(format!(
                "the chat template has {} bytes; at most {SOURCE_BYTES_MAX} are accepted",
                source.len()
            )));
        }
        let mut environment = Environment::new();
        minijinja_contrib::add_to_environment(&mut environment);
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|error| Failure::internal(describe(&error)))?);
        environment.set_recursion_limit(RECURSION_MAX);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", tojson);
        environment.add_filter("indent", indent);
        environment.add_test("iterable", is_iterable);
        environment
            .add_template_owned(NAME, strip_generation_tags(source))
            .map_err(|error| Failure::invalid(format!("chat template: {}", describe(&error))))?;
        Ok(Template { environment })
    }

    pub fn render(&self, context_json: &str, options: &RenderOptions) -> Outcome<String> {
        let context: serde_json::Value = serde_json::from_str(context_json)
            .map_err(|error| Failure::invalid(format!("the template's context: {error}")))?;
        // The clock and the fuel belong to one rendering, so it runs on its own copy of the
        // environment; compiled templates are shared, the copy is a few tables of pointers.
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(options.fuel));
        let local_s = options.now_unix_s.saturating_add(i64::from(options.utc_offset_s));
        environment.add_function("strftime_now", move |format: &str| {
            crate::strftime::format(format, local_s)
                .map_err(|message| Error::new(ErrorKind::InvalidOperation, message))
        });
        let template =
            environment.get_template(NAME).map_err(|error| Failure::internal(describe(&error)))?;
        let mut output = Output::default();
        let rendered = template.render_captured_to(from_json(context), &mut output);
        if output.full {
            return Err(Failure::exhausted(format!(
                "chat template: the prompt is over {OUTPUT_BYTES_MAX} bytes"
            )));
        }
        rendered.map_err(|error| failure(&error))?;
        String::from_utf8(output.bytes).map_err(|error| Failure::internal(error.to_string()))
    }
}

/// Collects the text and stops the rendering when it grows over the limit.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    full: bool,
}

impl std::io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + bytes.len() > OUTPUT_BYTES_MAX {
            self.full = true;
            return Err(std::io::Error::other("the prompt is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn failure(error: &Error) -> Failure {
    let message = format!("chat template: {}", describe(error));
    match error.kind() {
        ErrorKind::OutOfFuel => Failure::exhausted(message),
        _ => Failure::invalid(message),
    }
}

/// The message with its line, and what it was caused by.
fn describe(error: &Error) -> String {
    let mut text = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    if let Some(line) = error.line() {
        text.push_str(&format!(" (line {line})"));
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn raise_exception(message: &str) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message.to_string()))
}

/// As in Python, where None is not iterable (minijinja: an empty sequence).
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Jinja's indent, which unlike minijinja's keeps a trailing line break.
fn indent(
    text: &str,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<String, Error> {
    let width = width.or(kwargs.get("width")?);
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = blank.or(kwargs.get("blank")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let unit = match width {
        None => "    ".to_string(),
        Some(width) => match width.as_str() {
            Some(text) => text.to_string(),
            None => " ".repeat(usize::try_from(width)?.min(1024)),
        },
    };
    let mut out = if first { unit.clone() } else { String::new() };
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
            if blank || !line.is_empty() {
                out.push_str(&unit);
            }
        }
        out.push_str(line.strip_suffix('\r').unwrap_or(line));
    }
    Ok(out)
}

/// Python's json.dumps with ensure_ascii=False, as transformers defines the filter.
fn tojson(value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let ensure_ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let indent: Option<Value> = kwargs.get("indent")?;
    let separators: Option<Value> = kwargs.get("separators")?;
    kwargs.assert_all_used()?;
    let mut layout = Layout::new(ensure_ascii, sort_keys);
    if let Some(indent) = indent.filter(|indent| !indent.is_none()) {
        let unit = match indent.as_str() {
            Some(text) => text.to_string(),
            None => " ".repeat(usize::try_from(indent)?.min(64)),
        };
        layout.set_indent(unit);
    }
    if let Some(separators) = separators.filter(|separators| !separators.is_none()) {
        let parts: Vec<Value> = separators.try_iter()?.collect();
        match parts.as_slice() {
            [item, key] => layout.set_separators(item.to_string(), key.to_string()),
            _ => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    "tojson: separators must be a pair",
                ))
            }
        }
    }
    to_json(value, &layout)
}

/// `{% generation %}` and `{% endgeneration %}` mark the assistant's part for training masks. They
/// open a scope and print nothing, which is what `{% with %}` does.
fn strip_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let inner = &tag[2..end];
        let word = inner.trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        let replacement = match word {
            "generation" => Some("with"),
            "endgeneration" => Some("endwith"),
            _ => None,
        };
        match replacement {
            Some(replacement) => {
                out.push_str("{%");
                out.push_str(&inner.replacen(word, replacement, 1));
                out.push_str("%}");
                rest = &tag[end + 2..];
            }
            None => {
                out.push_str("{%");
                rest = &tag[2..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, context: &str) -> Outcome<String> {
        let options = RenderOptions { now_unix_s: 0, utc_offset_s: 0, fuel: 1_000_000 };
        Template::compile(source)?.render(context, &options)
    }

    #[test]
    fn blocks_are_trimmed_like_transformers() {
        let text = render("{% if true %}\nx\n    {% endif %}\ny\n", "{}").unwrap();
        assert_eq!(text, "x\ny");
    }

    #[test]
    fn tojson_is_python_json() {
        let context = r#"{"v":{"b":[1,2.0,true,null,"<é\n>"],"a":{}}}"#;
        assert_eq!(
            render("{{ v | tojson }}", context).unwrap(),
            r#"{"b": [1, 2.0, true, null, "<é\n>"], "a": {}}"#
        );
        assert_eq!(
            render(
                "{{ v | tojson(sort_keys=true, ensure_ascii=true, separators=(',',':')) }}",
                context
            )
            .unwrap(),
            r#"{"a":{},"b":[1,2.0,true,null,"<\u00e9\n>"]}"#
        );
        assert_eq!(render("{{ [1, {}] | tojson(indent=2) }}", "{}").unwrap(), "[\n  1,\n  {}\n]");
    }

    #[test]
    fn indent_keeps_the_last_line_break() {
        let source = r#"{{ '{\n' | indent(4, first=true) }}|{{ 'a\n\nb' | indent }}"#;
        assert_eq!(render(source, "{}").unwrap(), "    {\n|a\n\n    b");
    }

    #[test]
    fn endless_templates_run_out_of_fuel() {
        let source = "{% macro f(x) %}{% for i in range(1000) %}{{ f(x) }}{% endfor %}{% endmacro %}{{ f(1) }}";
        assert!(render(source, "{}").is_err());
        let loops =
            "{% for a in range(10000) %}{% for b in range(10000) %}{{ b }}{% endfor %}{% endfor %}";
        assert_eq!(render(loops, "{}").err().unwrap().code, crate::failure::Code::Exhausted);
    }

    #[test]
    fn long_output_ends() {
        let source = "{% set s = 'x' * 100000 %}{% for a in range(10000) %}{{ s }}{% endfor %}";
        assert_eq!(render(source, "{}").err().unwrap().code, crate::failure::Code::Exhausted);
    }

    #[test]
    fn generation_tags_print_nothing() {
        assert_eq!(render("a{%- generation -%} b {%- endgeneration %}c", "{}").unwrap(), "abc");
    }
}
