//! The forward pass against independent implementations of it.

mod reference;
mod small_models;
mod support;
