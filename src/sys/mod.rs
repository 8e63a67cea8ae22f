//! F1, foreign names: thin and raw. Nothing here decides anything.

pub mod linux;
