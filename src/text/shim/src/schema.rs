//! JSON schemas before they are compiled: what cannot be enforced is refused with its place, and
//! what makes small models ramble is closed.

use serde_json::{json, Value};

use crate::failure::{Failure, Outcome};

/// Keywords that restrict a value and that the compiler does not know. An output that ignores one
/// would look right and be wrong.
const REFUSED: [&str; 20] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "$vocabulary",
    "$anchor",
    "x-guidance", // the compiler's own switches
];

const TYPES: [&str; 7] = ["string", "number", "integer", "boolean", "object", "array", "null"];

const FORMATS: [&str; 11] = [
    "date",
    "time",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
    "unknown",
];

/// Checks `schema` and makes it ready for the compiler. `place` names it in messages, such as "#" or
/// "tools[0].function.parameters".
pub fn prepare(mut schema: Value, place: &str) -> Outcome<Value> {
    let mut walk = Walk { merges: false };
    walk.check(&schema, place)?;
    if !walk.merges {
        close_objects(&mut schema);
    }
    if schema == json!(true) {
        schema = json!({});
    }
    if let Some(root) = schema.as_object_mut() {
        // One way to write a value, that of Python's json.dumps: white space is where small models
        // get lost, and it says nothing.
        let layout = json!({
            "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "
        });
        root.insert("x-guidance".to_string(), layout);
    }
    Ok(schema)
}

struct Walk {
    /// Somewhere two schemas apply to one object; then none of them may be closed.
    merges: bool,
}

impl Walk {
    fn check(&mut self, schema: &Value, place: &str) -> Outcome<()> {
        let members = match schema {
            Value::Bool(_) => return Ok(()),
            Value::Object(members) => members,
            _ => {
                return Err(Failure::invalid(format!(
                    "{place}: a schema is an object, true or false; found {}",
                    kind(schema)
                )))
            }
        };
        let properties = members.contains_key("properties");
        let combines = ["$ref", "anyOf", "oneOf"].iter().any(|key| members.contains_key(*key));
        self.merges |= members.contains_key("allOf") || (properties && combines);
        for (key, value) in members {
            self.check_keyword(members, key, value, &format!("{place}/{key}"))?;
        }
        Ok(())
    }

    fn check_keyword(
        &mut self,
        members: &serde_json::Map<String, Value>,
        key: &str,
        value: &Value,
        place: &str,
    ) -> Outcome<()> {
        match key {
            "uniqueItems" if value == &json!(false) => Ok(()),
            "uniqueItems" => Err(refused(place)),
            "format" if !may_be_string(members) => Ok(()),
            "format" => match value.as_str() {
                Some(name) if FORMATS.contains(&name) => Ok(()),
                _ => Err(Failure::unsupported(format!(
                    "{place}: the format {value} is not supported; known are {}",
                    FORMATS[..FORMATS.len() - 1].join(", ")
                ))),
            },
            "type" => check_type(value, place),
            "$ref" => check_reference(value, place),
            "properties" | "patternProperties" | "$defs" | "definitions" => {
                let Some(inner) = value.as_object() else {
                    return Err(wrong(place, "an object", value));
                };
                inner.iter().try_for_each(|(name, schema)| {
                    self.check(schema, &format!("{place}/{}", escaped(name)))
                })
            }
            "items" if value.is_array() => self.check_all(value, place),
            "items" | "additionalItems" | "additionalProperties" => self.check(value, place),
            "anyOf" | "oneOf" | "allOf" | "prefixItems" => self.check_all(value, place),
            _ if REFUSED.contains(&key) => Err(refused(place)),
            _ => Ok(()),
        }
    }

    fn check_all(&mut self, list: &Value, place: &str) -> Outcome<()> {
        let Some(inner) = list.as_array() else { return Err(wrong(place, "an array", list)) };
        inner
            .iter()
            .enumerate()
            .try_for_each(|(i, schema)| self.check(schema, &format!("{place}/{i}")))
    }
}

fn may_be_string(members: &serde_json::Map<String, Value>) -> bool {
    match members.get("type") {
        None => true,
        Some(Value::Array(types)) => types.iter().any(|name| name == "string"),
        Some(name) => name == "string",
    }
}

/// A type's name, or several.
fn check_type(value: &Value, place: &str) -> Outcome<()> {
    let names = match value {
        Value::Array(names) if !names.is_empty() => names.as_slice(),
        name => std::slice::from_ref(name),
    };
    match names.iter().find(|name| !name.as_str().is_some_and(|name| TYPES.contains(&name))) {
        None => Ok(()),
        Some(Value::String(name)) => Err(Failure::invalid(format!(
            "{place}: '{}' is no type; expected {}",
            shown(name),
            TYPES.join(", ")
        ))),
        Some(other) => Err(wrong(place, "the name of a type, or several in an array", other)),
    }
}

/// What of a text goes into a message.
fn shown(text: &str) -> String {
    const CHARACTERS_MAX: usize = 40;
    let mut cut: String = text.escape_debug().take(CHARACTERS_MAX).collect();
    if cut.len() < text.len() {
        cut.push_str("...");
    }
    cut
}

fn check_reference(value: &Value, place: &str) -> Outcome<()> {
    match value.as_str() {
        Some(target) if target == "#" || target.starts_with("#/") => Ok(()),
        Some(target) => Err(Failure::unsupported(format!(
            "{place}: the reference '{target}' is not supported; expected one into this schema, such \
             as '#/$defs/NAME'"
        ))),
        None => Err(wrong(place, "a string", value)),
    }
}

/// Objects that list their properties have no others, unless they say so: a model that may invent
/// property after property does.
fn close_objects(schema: &mut Value) {
    match schema {
        Value::Array(list) => list.iter_mut().for_each(close_objects),
        Value::Object(members) => {
            let open = members.contains_key("additionalProperties")
                || members.contains_key("patternProperties");
            if members.get("properties").is_some_and(Value::is_object) && !open {
                members.insert("additionalProperties".to_string(), json!(false));
            }
            for (key, value) in members.iter_mut() {
                match (key.as_str(), value) {
                    ("properties" | "patternProperties" | "$defs" | "definitions", value) => {
                        value.as_object_mut().into_iter().flatten().for_each(|(_, v)| {
                            close_objects(v);
                        });
                    }
                    (
                        "items"
                        | "additionalItems"
                        | "additionalProperties"
                        | "prefixItems"
                        | "anyOf"
                        | "oneOf",
                        value,
                    ) => close_objects(value),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

fn refused(place: &str) -> Failure {
    Failure::unsupported(format!("{place}: this keyword of JSON schema is not supported"))
}

fn wrong(place: &str, expected: &str, found: &Value) -> Failure {
    Failure::invalid(format!("{place}: expected {expected}, found {}", kind(found)))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A name inside a JSON pointer (RFC 6901).
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_enforced_is_named() {
        let failure = |schema: Value| prepare(schema, "#").unwrap_err().message;
        assert!(failure(json!({"properties": {"a/b": {"not": {}}}}))
            .starts_with("#/properties/a~1b/not: "));
        assert!(failure(json!({"items": [{"uniqueItems": true}]}))
            .starts_with("#/items/0/uniqueItems: "));
        assert!(failure(json!({"$defs": {"x": {"if": true}}})).starts_with("#/$defs/x/if: "));
        assert!(failure(json!({"$ref": "https://example.com/x"})).starts_with("#/$ref: "));
        assert!(failure(json!({"format": "regex"})).starts_with("#/format: "));
        assert!(failure(json!({"anyOf": {}})).starts_with("#/anyOf: expected an array"));
        assert!(failure(json!([1])).starts_with("#: a schema is"));
        let wrong_type = failure(json!({"properties": {"a": {"type": "strin"}}}));
        assert_eq!(
            wrong_type,
            "#/properties/a/type: 'strin' is no type; expected string, number, integer, boolean, \
             object, array, null"
        );
        assert!(failure(json!({"type": ["null", "Int"]})).contains("'Int' is no type"));
        assert!(failure(json!({"type": 3})).ends_with("found a number"));
        assert!(failure(json!({"type": []})).ends_with("found an array"));
        assert!(failure(json!({"type": "\u{1b}x".repeat(99)})).len() < 200);
        assert!(failure(json!({"x-guidance": {"lenient": true}})).starts_with("#/x-guidance: "));
    }

    #[test]
    fn a_property_may_have_a_keyword_as_its_name() {
        assert!(prepare(json!({"properties": {"not": {"type": "string"}}}), "#").is_ok());
        assert!(prepare(json!({"enum": [{"not": 1}]}), "#").is_ok());
        assert!(prepare(json!({"type": "integer", "format": "int32"}), "#").is_ok());
    }

    #[test]
    fn objects_close_unless_schemas_merge() {
        let schema = prepare(json!({"properties": {"a": {"properties": {}}}}), "#").unwrap();
        assert_eq!(schema["additionalProperties"], json!(false));
        assert_eq!(schema["properties"]["a"]["additionalProperties"], json!(false));
        let merged = json!({"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]});
        let merged = prepare(merged, "#").unwrap();
        assert!(merged["allOf"][0].get("additionalProperties").is_none());
        let open = prepare(json!({"properties": {}, "additionalProperties": true}), "#").unwrap();
        assert_eq!(open["additionalProperties"], json!(true));
    }
}
