//! Reading a trace.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use half::f16;
use hindsight_protocol::geometry::{Geometry, GeometryError, KvDtype};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};

use super::format;
use crate::replay::cache::{CacheError, KvCache};

/// A trace that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no safetensors file.
    #[error("{path} is not a safetensors file: {source}")]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SafeTensorError,
    },
    /// The file is a safetensors file, but no trace.
    #[error("{path} is not a trace of attention: {problem}")]
    NotATrace {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The trace's keys and values cannot be held.
    #[error("cannot hold the keys and values of {path}: {source}")]
    Cache {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CacheError,
    },
}

/// Queries, keys and values of recorded decode steps.
#[derive(Debug)]
pub struct Trace {
    name: String,
    cache: KvCache,
    layers: Vec<i32>,
    softmax_scale: f32,
    prompt_tokens: usize,
    steps: usize,
    prompt_queries: usize,
    /// [steps, layers, heads, head_dim]
    queries: Vec<f32>,
    /// [prompt_queries, layers, heads, head_dim]
    last_prompt_queries: Vec<f32>,
}

/// The largest number that a trace's metadata may state.
const MOST: usize = 1 << 24;

impl Trace {
    /// Reads a trace, and lays its keys and values out in blocks of `block_tokens` tokens of type `dtype`.
    ///
    /// # Errors
    /// [`TraceError`] says what is wrong with the file.
    pub fn read(path: &Path, block_tokens: u32, dtype: KvDtype) -> Result<Self, TraceError> {
        let bytes = std::fs::read(path)
            .map_err(|source| TraceError::Read { path: path.to_owned(), source })?;
        let wrap = |source| TraceError::NotSafetensors { path: path.to_owned(), source };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(wrap)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(wrap)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into());
        Self::from_parts(name, &metadata, &tensors, block_tokens, dtype).map_err(|problem| {
            let path = path.to_owned();
            match problem {
                Problem::Shape(problem) => TraceError::NotATrace { path, problem },
                Problem::Cache(source) => TraceError::Cache { path, source },
            }
        })
    }

    fn from_parts(
        name: String,
        metadata: &HashMap<String, String>,
        tensors: &SafeTensors<'_>,
        block_tokens: u32,
        dtype: KvDtype,
    ) -> Result<Self, Problem> {
        let heads = stated(metadata, format::metadata::HEADS)?;
        let kv_heads = stated(metadata, format::metadata::KV_HEADS)?;
        let head_dim = stated(metadata, format::metadata::HEAD_DIM)?;
        let steps = stated(metadata, format::metadata::STEPS)?;
        let prompt_tokens = stated(metadata, format::metadata::PROMPT_TOKENS)?;
        let softmax_scale: f32 = parsed(metadata, format::metadata::SOFTMAX_SCALE)?;
        if !(softmax_scale.is_finite() && softmax_scale > 0.0) {
            return Err(format!("softmax_scale is {softmax_scale}").into());
        }
        let layer_tensor = tensor(tensors, format::tensor::LAYERS)?;
        let layers = integers(&layer_tensor)?;
        let geometry = Geometry {
            layers: small(layers.len())?,
            heads: small(heads)?,
            kv_heads: small(kv_heads)?,
            head_dim: small(head_dim)?,
            block_tokens,
            dtype,
        };
        geometry.validate()?;
        let prompt_queries =
            tensor(tensors, format::tensor::PROMPT_QUERIES)?.shape().first().copied().unwrap_or(0);
        if prompt_queries == 0 || prompt_queries > prompt_tokens {
            return Err(format!("prompt_q has {prompt_queries} of {prompt_tokens} queries").into());
        }
        let tokens = prompt_tokens + steps;
        let row = [layers.len(), heads, head_dim];
        let queries = halves(tensors, format::tensor::QUERIES, &[steps, row[0], row[1], row[2]])?;
        let last_prompt_queries = halves(
            tensors,
            format::tensor::PROMPT_QUERIES,
            &[prompt_queries, row[0], row[1], row[2]],
        )?;
        let shape = [layers.len(), kv_heads, tokens, head_dim];
        let keys = halves(tensors, format::tensor::KEYS, &shape)?;
        let values = halves(tensors, format::tensor::VALUES, &shape)?;
        let cache = KvCache::fill(geometry, tokens, |layer, head, token, key, value| {
            let at = ((layer * kv_heads + head) * tokens + token) * head_dim;
            key.copy_from_slice(&keys[at..at + head_dim]);
            value.copy_from_slice(&values[at..at + head_dim]);
        })?;
        Ok(Self {
            name,
            cache,
            layers,
            softmax_scale,
            prompt_tokens,
            steps,
            prompt_queries,
            queries,
            last_prompt_queries,
        })
    }

    /// Name of the file, without its extension.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Keys and values.
    #[must_use]
    pub const fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Numbers of the recorded layers in the model.
    #[must_use]
    pub fn layers(&self) -> &[i32] {
        &self.layers
    }

    /// What products of queries and keys are multiplied with.
    #[must_use]
    pub const fn softmax_scale(&self) -> f32 {
        self.softmax_scale
    }

    /// Tokens of the prompt.
    #[must_use]
    pub const fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Recorded decode steps; step `t` sees tokens 0 to `prompt_tokens + t`.
    #[must_use]
    pub const fn steps(&self) -> usize {
        self.steps
    }

    /// Queries of the heads that share a KV head, at a decode step: [group, head_dim].
    ///
    /// # Panics
    /// If the step, layer or head was not recorded.
    #[must_use]
    pub fn queries(&self, step: usize, layer: usize, kv_head: usize) -> &[f32] {
        self.group_queries(&self.queries, step, layer, kv_head)
    }

    /// The same of the last tokens of the prompt: [n, group, head_dim].
    ///
    /// # Panics
    /// If the layer or head was not recorded.
    #[must_use]
    pub fn last_prompt_queries(&self, layer: usize, kv_head: usize) -> Vec<f32> {
        (0..self.prompt_queries)
            .flat_map(|at| self.group_queries(&self.last_prompt_queries, at, layer, kv_head))
            .copied()
            .collect()
    }

    fn group_queries<'a>(
        &self,
        queries: &'a [f32],
        row: usize,
        layer: usize,
        kv_head: usize,
    ) -> &'a [f32] {
        let geometry = self.cache.geometry();
        assert!(layer < self.layers.len() && kv_head < geometry.kv_heads as usize);
        let length = geometry.group() * geometry.head_dim as usize;
        let at = (row * self.layers.len() + layer) * geometry.kv_heads as usize + kv_head;
        &queries[at * length..][..length]
    }
}

/// What is wrong with a file that is a safetensors file.
enum Problem {
    Shape(String),
    Cache(CacheError),
}

impl From<String> for Problem {
    fn from(problem: String) -> Self {
        Self::Shape(problem)
    }
}

impl From<GeometryError> for Problem {
    fn from(problem: GeometryError) -> Self {
        Self::Shape(problem.to_string())
    }
}

impl From<CacheError> for Problem {
    fn from(problem: CacheError) -> Self {
        Self::Cache(problem)
    }
}

fn parsed<T: std::str::FromStr>(
    metadata: &HashMap<String, String>,
    name: &str,
) -> Result<T, String> {
    let text = metadata.get(name).ok_or_else(|| format!("its metadata lacks {name}"))?;
    text.parse().map_err(|_| format!("its metadata says {name} is {text:?}, which is no number"))
}

fn stated(metadata: &HashMap<String, String>, name: &str) -> Result<usize, String> {
    let value = parsed(metadata, name)?;
    if (1..=MOST).contains(&value) {
        Ok(value)
    } else {
        Err(format!("its metadata says {name} is {value}, which is not from 1 to {MOST}"))
    }
}

fn small(value: usize) -> Result<u32, String> {
    u32::try_from(value).map_err(|_| format!("{value} is too many"))
}

fn tensor<'a>(tensors: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>, String> {
    tensors.tensor(name).map_err(|_| format!("it has no tensor {name}"))
}

fn integers(tensor: &TensorView<'_>) -> Result<Vec<i32>, String> {
    if tensor.dtype() != Dtype::I32 || tensor.shape().len() != 1 {
        return Err("layers is not a list of 32-bit integers".to_owned());
    }
    let (words, _) = tensor.data().as_chunks();
    Ok(words.iter().map(|word| i32::from_le_bytes(*word)).collect())
}

fn halves(tensors: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
    let tensor = tensor(tensors, name)?;
    if tensor.dtype() != Dtype::F16 || tensor.shape() != shape {
        return Err(format!(
            "{name} is {:?} of shape {:?}, not F16 of shape {shape:?} as the metadata implies",
            tensor.dtype(),
            tensor.shape()
        ));
    }
    let (words, _) = tensor.data().as_chunks();
    let values: Vec<f32> = words.iter().map(|word| f16::from_le_bytes(*word).to_f32()).collect();
    if values.iter().all(|value| value.is_finite()) {
        Ok(values)
    } else {
        Err(format!("{name} holds what is no finite number"))
    }
}
