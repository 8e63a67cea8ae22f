//! The build script.

mod libclang;
mod toolkit;
