//! Jinja: minijinja, made to act as jinja2 3.1.6 under the settings of transformers.
//!
//! Refused by name:
//!
//! - filters such as `wordwrap`, `xmlattr` and `pprint`; methods such as `str.casefold`
//! - `varargs` and `kwargs` of a macro; blocks; the escape `\N{…}`; `%r`; rounding to tens
//! - `x.items` without a call if x is a dict: Jinja finds the method
//! - integers of a template beyond 128 bits; unpacking a text
//!
//! Not as in Jinja:
//!
//! - ranges, `keys()` and the groups of `groupby` print as lists, namespaces as dicts
//! - a tuple equals a list with its items; keys of a dict literal such as 1 and true are two
//! - text after `escape` or `safe` is ordinary text: adding to it escapes nothing
//! - `<` of several in a row, and sorting by an attribute, order values of different types
//! - `and` and `or` give true or false if both operands are literals (jinja2: one of the operands);
//!   `'a' % 1` is accepted (jinja2: an error)
//! - characters that Unicode added after 14.0 print as such in lists and dicts
//! - `isnumeric` knows no Han numerals, and `title` no Greek iota below a letter

mod characters;
mod expression;
mod filters;
mod methods;
mod operators;
mod python;
mod source;

pub use python::{configure, value};
pub use source::{GENERATION, Source, rewrite};
