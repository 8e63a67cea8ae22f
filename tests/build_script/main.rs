//! Tests of the build script and of the search for libclang.

mod bindings;
mod libclang;
mod toolkit;
