//! `hz_options_json` describes the structs and enums of the header.

use std::ffi::CStr;

use horizon::capi::hz_options_json;
use serde_json::{Value, json};

use crate::declarations::{Enum, enums, structs};

/// The constants of an enum of the header.
fn constants(listed: Enum) -> Vec<(String, i32)> {
    listed.constants.into_iter().filter(|(name, _)| !name.ends_with("_MAX_ENUM")).collect()
}

/// A field of the header as the JSON describes it: type, name, and the numbers of its enum, of which
/// no field accepts `HZ_DTYPE_UNSET`.
fn described(kind: &str, name: &str) -> Value {
    let kind = if kind.contains('*') { "pointer" } else { kind };
    let values = enums().into_iter().find(|listed| listed.name == kind).map(|listed| {
        let values = constants(listed).into_iter().filter(|(name, _)| name != "HZ_DTYPE_UNSET");
        Value::Object(values.map(|(name, number)| (name, number.into())).collect())
    });
    json!([kind, name, values])
}

#[test]
fn options_in_json_are_the_fields_and_enums_of_the_header() {
    // SAFETY: a static string.
    let text = unsafe { CStr::from_ptr(hz_options_json()) };
    let json: Value = serde_json::from_slice(text.to_bytes()).unwrap();
    let found = json["structs"].as_object().unwrap();
    assert_eq!(found.len(), structs().len());
    for listed in structs() {
        let fields = found[&listed.name].as_array().unwrap();
        let found: Vec<Value> =
            fields.iter().map(|field| json!([field["type"], field["name"], field["values"]])).collect();
        let expected: Vec<Value> =
            listed.fields[1..].iter().map(|(kind, name)| described(kind, name)).collect();
        assert_eq!(found, expected, "{}", listed.name);
    }
    let found = json["enums"].as_object().unwrap();
    let expected = enums().into_iter().map(|listed| (listed.name.clone(), constants(listed)));
    for (name, constants) in expected {
        let found = found[&name].as_object().unwrap().iter();
        let found: Vec<_> =
            found.map(|(name, number)| (name.clone(), number.as_i64().unwrap() as i32)).collect();
        assert_eq!(found, constants, "{name}");
    }

    let found = json["structs"].as_object().unwrap();
    let field = |name: &str| {
        let fields = found["hz_trainer_options_t"].as_array().unwrap();
        fields.iter().find(|field| field["name"] == name).unwrap()
    };
    assert_eq!(field("mode")["default"], 1);
    assert_eq!((&field("sequences")["min"], &field("sequences")["default"]), (&json!(1), &json!(1)));
    assert_eq!(field("device_mem")["unit"], "bytes");
    let beta = field("beta1");
    assert_eq!([&beta["default"], &beta["min"], &beta["below"]], [&json!(0.9), &json!(0.0), &json!(1.0)]);
    assert!(json["machine"]["threads_max"].as_u64().unwrap() >= 1024);
}
