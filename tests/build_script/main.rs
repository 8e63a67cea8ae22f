//! The build script, and the check for libclang.

mod libclang;
mod toolkit;
