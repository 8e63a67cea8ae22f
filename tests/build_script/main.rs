//! The build script, and the check for libclang.

mod bindings;
mod libclang;
mod toolkit;
