//! JSON to template values, and template values to JSON as Python's json.dumps writes it.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

pub struct Layout {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
}

/// json.dumps itself gives up at Python's recursion limit; values from JSON nest at most 128 deep.
const DEPTH_MAX: usize = 200;

impl Layout {
    pub fn new(ensure_ascii: bool, sort_keys: bool) -> Self {
        Layout {
            ensure_ascii,
            sort_keys,
            indent: None,
            item_separator: ", ".to_string(),
            key_separator: ": ".to_string(),
        }
    }

    pub fn set_indent(&mut self, unit: String) {
        self.indent = Some(unit);
        self.item_separator = ",".to_string();
    }

    pub fn set_separators(&mut self, item: String, key: String) {
        self.item_separator = item;
        self.key_separator = key;
    }

    fn new_line(&self, out: &mut String, depth: usize) {
        if let Some(unit) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(unit);
            }
        }
    }
}

/// A template value from parsed JSON; the parser bounds the depth.
pub fn from_json(json: serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            _ => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(text),
        serde_json::Value::Array(items) => {
            Value::from(items.into_iter().map(from_json).collect::<Vec<_>>())
        }
        serde_json::Value::Object(entries) => {
            Value::from_pairs(entries.into_iter().map(|(key, item)| (key, from_json(item))))
        }
    }
}

pub fn to_json(value: &Value, layout: &Layout) -> Result<String, Error> {
    let mut out = String::new();
    write_value(value, layout, 0, &mut out)?;
    Ok(out)
}

fn refuse(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadSerialization, what.into())
}

fn write_value(
    value: &Value,
    layout: &Layout,
    depth: usize,
    out: &mut String,
) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        return Err(refuse("tojson: nested too deeply"));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => write_number(value, out),
        ValueKind::String => {
            write_string(value.as_str().unwrap_or_default(), layout.ensure_ascii, out)
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(&layout.item_separator);
                }
                layout.new_line(out, depth + 1);
                write_value(item, layout, depth + 1, out)?;
            }
            if !items.is_empty() {
                layout.new_line(out, depth);
            }
            out.push(']');
        }
        ValueKind::Map => write_map(value, layout, depth, out)?,
        other => return Err(refuse(format!("tojson: a value of kind {other} is not JSON"))),
    }
    Ok(())
}

fn write_map(value: &Value, layout: &Layout, depth: usize, out: &mut String) -> Result<(), Error> {
    let mut entries = Vec::new();
    for key in value.try_iter()? {
        let item = value.get_item(&key)?;
        let name = match key.kind() {
            ValueKind::String => key.as_str().unwrap_or_default().to_string(),
            ValueKind::Number | ValueKind::Bool | ValueKind::None => {
                let mut name = String::new();
                write_value(&key, layout, depth, &mut name)?;
                name
            }
            other => return Err(refuse(format!("tojson: a key of kind {other}"))),
        };
        entries.push((name, item));
    }
    if layout.sort_keys {
        entries.sort_by(|a, b| a.0.cmp(&b.0));
    }
    out.push('{');
    for (i, (name, item)) in entries.iter().enumerate() {
        if i > 0 {
            out.push_str(&layout.item_separator);
        }
        layout.new_line(out, depth + 1);
        write_string(name, layout.ensure_ascii, out);
        out.push_str(&layout.key_separator);
        write_value(item, layout, depth + 1, out)?;
    }
    if !entries.is_empty() {
        layout.new_line(out, depth);
    }
    out.push('}');
    Ok(())
}

fn write_number(value: &Value, out: &mut String) {
    if value.is_integer() {
        out.push_str(&value.to_string());
    } else {
        out.push_str(&python_float(f64::try_from(value.clone()).unwrap_or(f64::NAN)));
    }
}

/// repr(float): shortest digits; exponent form below 1e-4 and from 1e16 on.
pub fn python_float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_string();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_string();
    }
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let text = number.to_string();
    if text.contains('.') {
        text
    } else {
        text + ".0"
    }
}

fn write_string(text: &str, ensure_ascii: bool, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || (ensure_ascii && c as u32 == 0x7f) => push_escape(c, out),
            c if ensure_ascii && !c.is_ascii() => push_escape(c, out),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn push_escape(c: char, out: &mut String) {
    let mut units = [0; 2];
    for unit in c.encode_utf16(&mut units) {
        out.push_str(&format!("\\u{unit:04x}"));
    }
}

#[cfg(test)]
mod tests {
    use super::python_float;

    #[test]
    fn floats_print_as_python_does() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (1e-4, "0.0001"),
            (1e100, "1e+100"),
        ];
        for (number, text) in cases {
            assert_eq!(python_float(number), text);
        }
    }
}
