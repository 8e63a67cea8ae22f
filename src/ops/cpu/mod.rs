//! The CPU reference of every op.
