//! The forward pass against independent implementations of it.

mod record;
mod reference;
mod small_models;
mod support;
