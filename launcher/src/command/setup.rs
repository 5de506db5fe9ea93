//! What is decided about model and machine before a process is started.

use std::path::PathBuf;

use hindsight_cpu_indexer::parameters::IndexParameters;
use hindsight_gpu_worker::model::ModelConfig;
use hindsight_protocol::arena::{ArenaConfig, Layout};
use hindsight_protocol::geometry::Geometry;

use super::run::arguments::MachineArguments;
use crate::error::{Error, Exit};
use crate::models::{GgufFile, Tokenizer};
use crate::plan::{ArenaRequest, CacheRequest, MemoryPlan, TrainedContext};
use crate::supervise::Settings;
use crate::topology::{Choice, Root, Topology, memory};

/// There where the kernel can join pages to huge ones.
const TRANSPARENT_HUGE_PAGES: &str = "sys/kernel/mm/transparent_hugepage";

/// A model file on this machine.
#[derive(Debug)]
pub(super) struct LocalModel {
    pub(super) path: PathBuf,
    pub(super) gguf: GgufFile,
    pub(super) config: ModelConfig,
    pub(super) tokenizer: Tokenizer,
}

impl LocalModel {
    /// Reads what the file says of the model, but not its weights.
    ///
    /// # Errors
    /// The file is no model that can be used.
    pub(super) fn open(path: PathBuf) -> Result<Self, Error> {
        let gguf = GgufFile::open(&path)?;
        let config = ModelConfig::from_gguf(gguf.content()).map_err(|error| {
            Error::new(Exit::Model, error.kind(), format!("{}: {error}", path.display()))
        })?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        Ok(Self { path, gguf, config, tokenizer })
    }

    /// The context that the model was trained on, which the user may allow to go `beyond`.
    pub(super) const fn trained_context(&self, beyond: bool) -> TrainedContext {
        TrainedContext { tokens: self.config.trained_context, beyond }
    }
}

/// What the processes are started with, to hold `tokens` tokens.
///
/// # Errors
/// A device, cores or memory that were asked for cannot be had.
pub(super) fn settings(
    model: &LocalModel,
    machine: &MachineArguments,
    index: IndexParameters,
    tokens: usize,
) -> Result<Settings, Error> {
    let device = machine.device()?;
    let geometry = geometry(&model.config, machine)?;
    let model_bytes = std::fs::metadata(&model.path).map_err(Error::internal)?.len();
    let capacity_tokens = tokens as u64;
    let root = Root::machine();
    MemoryPlan { model_bytes, token_bytes: geometry.token_bytes() as u64, tokens: capacity_tokens }
        .check(memory::available(&root))?;
    let topology = Topology::read(&root);
    let placement = topology.choose(&machine.request())?;
    // Where a GPU decodes, nobody would borrow the core, and wake the indexer that sleeps.
    let lends_core = placement.lends_core && !device.used.is_cuda();
    let placement = Choice { lends_core, ..placement };
    // What a GPU holds whole it attends to whole.
    let dense_layer_tokens = if device.used.is_cuda() { tokens } else { index.dense_layer_tokens };
    let index = IndexParameters { dense_layer_tokens, ..index };
    let selected = |top_k: usize| index.most_blocks(top_k, geometry.block_tokens as usize, tokens);
    let cache_blocks = CacheRequest {
        asked: machine.gpu_kv_bytes.map(|size| size.as_u64()),
        selected: selected(index.top_k) as u64,
        context: geometry.blocks(tokens) as u64,
        heads: selecting_heads(&index, &geometry),
        block_bytes: geometry.block_bytes() as u64,
    }
    .decide()?;
    let number = |value: usize| u32::try_from(value).map_err(Error::internal);
    let max_selected_blocks = number(selected(index.widest(tokens)))?;
    let arena = ArenaConfig { geometry, capacity_tokens, max_selected_blocks };
    let layout =
        Layout::new(arena).map_err(|error| Error::new(Exit::DoesNotFit, "arena", error))?;
    let memory = ArenaRequest {
        bytes: layout.total_bytes() as u64,
        node: placement.arena_node.value,
        indexer_node: topology
            .core_of(placement.indexer_core.value)
            .map_or(placement.arena_node.value, |(node, _)| node.id),
        node_named: machine.arena_node.is_some(),
        pages: machine.hugepages,
        transparent: root.path(TRANSPARENT_HUGE_PAGES).exists(),
    }
    .decide(&topology)?;
    Ok(Settings {
        model: model.path.clone(),
        device,
        mock_link: machine.mock_link.clone(),
        arena,
        memory,
        placement,
        cache_blocks: u32::try_from(cache_blocks).map_err(Error::internal)?,
        index,
        profile: None,
    })
}

/// KV heads of all layers that select keys; each has a cache on the device.
fn selecting_heads(index: &IndexParameters, geometry: &Geometry) -> u64 {
    let layers = geometry.layers as usize;
    ((layers - index.dense_layers.min(layers)) * geometry.kv_heads as usize) as u64
}

fn geometry(model: &ModelConfig, machine: &MachineArguments) -> Result<Geometry, Error> {
    let number = |value: usize| u32::try_from(value).map_err(Error::internal);
    let geometry = Geometry {
        layers: number(model.layers)?,
        heads: number(model.heads)?,
        kv_heads: number(model.kv_heads)?,
        head_dim: number(model.head_dim)?,
        block_tokens: machine.block_tokens,
        dtype: machine.kv_dtype.into(),
    };
    geometry.validate().map_err(|error| Error::new(Exit::Usage, "geometry", error))?;
    Ok(geometry)
}
