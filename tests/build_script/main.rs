//! The build script.

mod toolkit;
