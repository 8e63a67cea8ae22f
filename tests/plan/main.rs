//! Predictions of a plan, and the search for a plan.

mod predict;
mod search;
