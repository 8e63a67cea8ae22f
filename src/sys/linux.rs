//! The operating system's names: memory maps and limits.
