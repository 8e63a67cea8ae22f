//! The declarations of `include/horizon.h`, as text.

use std::fs;
use std::path::Path;

use crate::ROOT;

/// A struct whose fields are public.
pub struct Struct {
    pub name: String,
    /// C type and name, in order: `("uint64_t[4]", "shape")`.
    pub fields: Vec<(String, String)>,
}

impl Struct {
    /// The name of its initializer: `HZ_BATCH_INIT` for `hz_batch_t`.
    pub fn macro_name(&self) -> String {
        format!("{}_INIT", self.name.strip_suffix("_t").unwrap().to_uppercase())
    }

    /// The name of the function that does the same: `hz_batch_init` for `hz_batch_t`.
    pub fn function_name(&self) -> String {
        format!("{}_init", self.name.strip_suffix("_t").unwrap())
    }
}

/// An enum with its constants in order.
pub struct Enum {
    pub name: String,
    pub constants: Vec<(String, i32)>,
}

/// The text of the header.
pub fn text() -> String {
    fs::read_to_string(Path::new(ROOT).join("include/horizon.h")).unwrap()
}

/// The code of the header without comments and preprocessor lines, each run of blanks as one space.
pub fn code() -> String {
    let (mut code, text) = (String::new(), text());
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("/*") {
        code += before;
        rest = after.split_once("*/").expect("a comment ends").1;
    }
    code += rest;
    let lines = code.replace("\\\n", " ");
    let lines = lines.lines().filter(|line| !line.starts_with('#'));
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    words.join(" ").replace(" ,", ",").replace(" )", ")")
}

/// Declarations that begin with `opening`, up to their semicolon.
fn declarations(opening: &str) -> Vec<String> {
    code().split(opening).skip(1).map(|text| text.split(';').next().unwrap().to_owned()).collect()
}

/// Names and prototypes of the exported functions, in order.
pub fn functions() -> Vec<(String, String)> {
    let code = code();
    let starts = code.match_indices("HZ_API ").chain(code.match_indices("HZ_CHECKED "));
    let mut starts: Vec<usize> = starts.map(|(at, word)| at + word.len()).collect();
    starts.sort_unstable();
    let prototypes = starts.into_iter().map(|at| code[at..].split(';').next().unwrap());
    prototypes
        .map(|prototype| {
            let head = prototype.split('(').next().unwrap();
            (head.rsplit([' ', '*']).next().unwrap().to_owned(), prototype.to_owned())
        })
        .collect()
}

/// Types of callbacks: `int32_t (*hz_loss_callback_t)(...)`.
pub fn callbacks() -> Vec<String> {
    declarations("typedef ").into_iter().filter(|text| text.contains("(*hz_")).collect()
}

/// Structs with public fields, in order.
pub fn structs() -> Vec<Struct> {
    let code = code();
    let bodies = code.split("typedef struct ").skip(1).filter_map(|text| text.split_once(" { "));
    bodies
        .filter(|(name, _)| !name.contains(';'))
        .map(|(name, body)| Struct {
            name: name.to_owned(),
            fields: body.split('}').next().unwrap().split(';').filter_map(field).collect(),
        })
        .collect()
}

/// Type and name of a field: `const float *weights`, `uint64_t shape[4]`.
fn field(text: &str) -> Option<(String, String)> {
    let (text, length) =
        text.trim().split_once('[').map_or((text.trim(), ""), |(text, length)| (text, length));
    let at = text.rfind([' ', '*'])? + 1;
    let brackets = if length.is_empty() { String::new() } else { format!("[{length}") };
    Some((format!("{}{brackets}", text[..at].trim()), text[at..].to_owned()))
}

/// Enums, in order, with the constant that sets their width.
pub fn enums() -> Vec<Enum> {
    let code = code();
    let bodies = code.split("typedef enum ").skip(1).filter_map(|text| text.split_once(" { "));
    bodies
        .map(|(name, body)| Enum {
            name: name.to_owned(),
            constants: body.split(" }").next().unwrap().split(", ").map(constant).collect(),
        })
        .collect()
}

fn constant(text: &str) -> (String, i32) {
    let (name, number) = text.split_once(" = ").unwrap_or_else(|| panic!("`{text}` has no number"));
    let number = number.strip_prefix("0x").map_or(number.parse(), |digits| i32::from_str_radix(digits, 16));
    (name.to_owned(), number.unwrap_or_else(|error| panic!("`{text}`: {error}")))
}
