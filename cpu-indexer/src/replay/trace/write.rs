//! Writing a trace.

use std::collections::BTreeMap;
use std::io::{self, Write};

use half::f16;
use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use super::format::{metadata, tensor};

/// Attention as it was recorded. Tensors are row-major, in the shapes that the module states.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RecordedAttention<'a> {
    /// Name of the model.
    pub model: &'a str,
    /// Name of the text.
    pub text: &'a str,
    /// What the steps go on with: the `text`, or what the model said.
    pub continuation: &'a str,
    /// Which dimensions of a head are rotated together.
    pub rope: &'a str,
    /// What products of queries and keys are multiplied with.
    pub softmax_scale: f32,
    /// Query heads of a layer.
    pub heads: usize,
    /// KV heads of a layer.
    pub kv_heads: usize,
    /// Elements of a query, key or value.
    pub head_dim: usize,
    /// Numbers of the recorded layers.
    pub layers: &'a [i32],
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Decode steps.
    pub steps: usize,
    /// Queries of the steps.
    pub queries: &'a [f16],
    /// Queries of the prompt's last tokens.
    pub prompt_queries: &'a [f16],
    /// Keys.
    pub keys: &'a [f16],
    /// Values.
    pub values: &'a [f16],
}

/// The header's length is a multiple of this, so that tensors lie aligned.
const ALIGNMENT: usize = 8;

impl RecordedAttention<'_> {
    /// Writes the trace as a safetensors file. The same recording gives the same bytes.
    ///
    /// # Errors
    /// Those of `out`, and [`io::ErrorKind::InvalidInput`] if a tensor's length is not that of its shape.
    pub fn write(&self, mut out: impl Write) -> io::Result<()> {
        let layers = self.layers.len();
        let tokens = self.prompt_tokens + self.steps;
        let row = layers * self.heads * self.head_dim;
        let prompt_queries = self.prompt_queries.len() / row.max(1);
        let queries = |steps| vec![steps, layers, self.heads, self.head_dim];
        let cache = vec![layers, self.kv_heads, tokens, self.head_dim];
        let halves = [
            (tensor::QUERIES, queries(self.steps), self.queries),
            (tensor::PROMPT_QUERIES, queries(prompt_queries), self.prompt_queries),
            (tensor::KEYS, cache.clone(), self.keys),
            (tensor::VALUES, cache, self.values),
        ];
        let mut header = BTreeMap::from([("__metadata__", self.metadata())]);
        let mut end = 0;
        let mut describe = |name, dtype: Dtype, shape: &[usize], bytes: usize| {
            let start = end;
            end += bytes;
            header.insert(
                name,
                json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }),
            );
        };
        describe(tensor::LAYERS, Dtype::I32, &[layers], size_of_val(self.layers));
        for (name, shape, elements) in &halves {
            if elements.len() != shape.iter().product::<usize>() {
                let problem = format!("{} elements of {name} are not {shape:?}", elements.len());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
            }
            describe(name, Dtype::F16, shape, size_of_val(*elements));
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for layer in self.layers {
            out.write_all(&layer.to_le_bytes())?;
        }
        for element in halves.iter().flat_map(|(_, _, elements)| *elements) {
            out.write_all(&element.to_le_bytes())?;
        }
        Ok(())
    }

    fn metadata(&self) -> Value {
        json!({
            metadata::HEADS: self.heads.to_string(),
            metadata::KV_HEADS: self.kv_heads.to_string(),
            metadata::HEAD_DIM: self.head_dim.to_string(),
            metadata::PROMPT_TOKENS: self.prompt_tokens.to_string(),
            metadata::STEPS: self.steps.to_string(),
            metadata::SOFTMAX_SCALE: self.softmax_scale.to_string(),
            metadata::MODEL: self.model,
            metadata::TEXT: self.text,
            metadata::CONTINUATION: self.continuation,
            metadata::ROPE: self.rope,
        })
    }
}
