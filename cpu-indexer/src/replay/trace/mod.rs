//! Trace files: recorded attention, as safetensors.
//!
//! Floats are 16 bits wide. All tensors are of the recorded layers alone, in the order of `layers`.
//!
//! | tensor     | shape                                                 | holds                                          |
//! |------------|-------------------------------------------------------|------------------------------------------------|
//! | `q`        | `[steps, layers, heads, head_dim]`                    | rotated queries of each decode step            |
//! | `prompt_q` | `[n, layers, heads, head_dim]`                        | those of the prompt's last n tokens            |
//! | `k`        | `[layers, kv_heads, prompt_tokens + steps, head_dim]` | rotated keys                                   |
//! | `v`        | `[layers, kv_heads, prompt_tokens + steps, head_dim]` | values                                         |
//! | `layers`   | `[layers]`, 32-bit integers                           | their numbers in the model, from 0             |
//!
//! Step `t` sees the tokens 0 to `prompt_tokens + t`. The metadata states, as text, the numbers that the shapes are made
//! of, `softmax_scale`, and where the trace comes from.

mod format;
mod read;
mod write;

pub use read::{Trace, TraceError};
pub use write::RecordedAttention;
