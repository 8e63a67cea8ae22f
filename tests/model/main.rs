//! The whole model: golden models from PyTorch, gradients, layout and passes.

mod golden;
mod gradients;
mod layout;
mod passes;
mod step;
