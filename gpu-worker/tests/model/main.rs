//! The forward pass against independent implementations of it.

mod record;
mod reference;
mod rehearsal;
mod small_models;
mod support;
