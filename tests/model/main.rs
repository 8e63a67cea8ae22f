//! The whole model: golden models of PyTorch, and gradients.

mod golden;
mod gradients;
mod layout;
mod step;
