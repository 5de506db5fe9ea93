//! Attention on a GPU whose memory does not hold the KV cache.
//!
//! The arena is page-locked, slab by slab, so that the GPU reads and writes it by itself; where it cannot be, the worker
//! copies through page-locked memory (`host`). New keys and values are stored in it by the same kernel that stores them on
//! the GPU. Three kinds of layers and phases differ in where the keys come from:
//!
//! * the first, dense layers lie on the GPU with the whole context;
//! * the others have a block cache. The blocks of a selection that it lacks are gathered on a stream of their own, while
//!   those that it holds are attended; both results are merged by their log-sum-exp (`selected`);
//! * a prompt's chunks, and decode steps that attend to every key, see the text so far pass through two buffers in turn, so
//!   that one part is attended while the next one comes (`passing`).
//!
//! Nothing waits for the whole device. The host waits for the compute stream once per layer, for the queries, and the copy
//! stream and the compute stream wait for each other by events. Where a run is profiled, events also tell what was done when
//! ([`timeline`]).

mod error;
mod gpu;
mod host;
mod kernel_checks;
mod kernels;
mod lists;
mod memory;
mod overflows;
mod passing;
mod plan;
mod pools;
mod registered;
mod selected;
mod sizes;
mod tensors;
mod timeline;
mod transfers;

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaEvent, CudaStream};
use hindsight_protocol::arena::Arena;
use hindsight_protocol::geometry::{Geometry, KvDtype};
use hindsight_protocol::profile::{Activity, Detail, Recorder};
use hindsight_protocol::telemetry::WorkerCounters;

pub use error::CudaError;
pub use gpu::Gpu;
pub use plan::MemoryPlan;

use super::{AttentionDevice, Chunk, Demand, DeviceError, Selections, with_slice};
use error::{mark, reach, tried};
use host::HostMemory;
use kernels::{Kernels, KeyLists, Partials, Rows, Targets};
use lists::Lists;
use memory::{DeviceBuffer, PinnedBuffer, copy_to_host};
use overflows::Overflows;
use passing::Passing;
use pools::{BlockCache, Pool};
use selected::Selection;
use sizes::Sizes;
use tensors::{Download, Elements, Upload};
use timeline::Timeline;

/// No slot of a pool.
const NO_SLOT: u32 = u32::MAX;

/// A GPU.
#[derive(Debug)]
pub struct CudaDevice<'a> {
    host: HostMemory,
    geometry: Geometry,
    counters: &'a WorkerCounters,
    compute: Arc<CudaStream>,
    copy: Arc<CudaStream>,
    kernels: Kernels,
    sizes: Sizes,
    dense_layers: usize,
    /// `[dense layers, kv_heads, blocks of the context]`.
    resident: Pool,
    /// A resident layer's slots as a list.
    resident_slots: DeviceBuffer<u32>,
    cache: BlockCache,
    passing: Passing,
    lists: Lists,
    /// Of queries, keys and values.
    uploads: [Upload; 3],
    download: Download,
    queries: PinnedBuffer<f32>,
    partial_out: DeviceBuffer<f32>,
    partial_log_sum_exp: DeviceBuffer<f32>,
    log_sum_exp: DeviceBuffer<f32>,
    overflows: Overflows,
    /// Keys and values that were appended last.
    newest: Option<[Elements; 2]>,
    /// When they are in the arena.
    appended: Option<CudaEvent>,
    /// What the step at hand attends to.
    selection: Selection,
    timeline: Timeline,
}

impl<'a> CudaDevice<'a> {
    /// Prepares attention over `arena` on the GPU that `compute` belongs to. `model` is the device that the model computes
    /// on: this GPU, on the same stream, or the CPU.
    ///
    /// # Errors
    /// [`CudaError`] if the driver refuses, or no kernel serves the shape.
    pub fn new(
        arena: &'a Arena,
        counters: &'a WorkerCounters,
        compute: &Arc<CudaStream>,
        model: &Device,
        demand: Demand,
    ) -> Result<Self, DeviceError> {
        let context = compute.context();
        let layout = *arena.layout();
        let geometry = *layout.geometry();
        let dense_layers = demand.dense_layers.min(geometry.layers as usize);
        let sizes = Sizes::of(&layout);
        let resident_head_blocks = if dense_layers > 0 { sizes.context_blocks } else { 0 };
        let resident_layer_blocks = sizes.kv_heads * resident_head_blocks;
        Ok(Self {
            host: HostMemory::new(
                Arc::clone(context),
                arena.writer()?,
                layout,
                sizes.staging_bytes,
            ),
            counters,
            compute: Arc::clone(compute),
            copy: context.new_stream().map_err(tried("make a stream"))?,
            kernels: Kernels::load(context, &geometry)?,
            dense_layers,
            resident: Pool::new(context, &geometry, dense_layers * resident_layer_blocks)?,
            resident_slots: passing::identity(context, compute, resident_layer_blocks, counters)?,
            cache: BlockCache::new(context, &geometry, dense_layers, demand.cache_blocks)?,
            passing: Passing::new(context, compute, &geometry, counters)?,
            lists: Lists::new(context, sizes.list_words)?,
            uploads: [
                Upload::new(context, sizes.chunk_queries)?,
                Upload::new(context, sizes.chunk_keys)?,
                Upload::new(context, sizes.chunk_keys)?,
            ],
            download: Download::new(context, model, sizes.chunk_queries)?,
            queries: PinnedBuffer::new(context, sizes.chunk_queries)?,
            partial_out: DeviceBuffer::new(context, sizes.splits * sizes.width)?,
            partial_log_sum_exp: DeviceBuffer::new(context, sizes.splits * sizes.heads)?,
            log_sum_exp: DeviceBuffer::new(context, sizes.chunk_log_sum_exps)?,
            overflows: Overflows::new(compute)?,
            newest: None,
            appended: None,
            selection: Selection::default(),
            timeline: Timeline::new(Arc::clone(context)),
            geometry,
            sizes,
        })
    }

    /// The keys and values of a dense layer, as lists of its whole context.
    fn resident_keys(&self, layer: usize) -> KeyLists {
        let blocks = self.sizes.context_blocks;
        KeyLists {
            pool: self.resident.slot(layer * self.sizes.kv_heads * blocks),
            slots: self.resident_slots.at(0),
            stride: number(blocks),
        }
    }

    fn partials(&self) -> Partials {
        Partials { out: self.partial_out.at(0), log_sum_exp: self.partial_log_sum_exp.at(0) }
    }

    /// Joins the partial results of one token.
    fn merge_partials(&mut self, splits: u32) -> Result<Tensor, DeviceError> {
        let Sizes { width, .. } = self.sizes;
        let output = self.download.output(&self.compute, width)?;
        let log_sum_exp = self.log_sum_exp.at(0);
        let address = output.address();
        self.kernels.merge(&self.compute, self.partials(), splits, address, log_sum_exp)?;
        self.download.tensor(&self.compute, output, (1, width))
    }

    /// Queues the storing of the newest keys and values, `to_host` bytes of which go to the arena.
    fn store(
        &mut self,
        chunk: Chunk,
        first_row: usize,
        targets: Targets,
        to_host: u64,
    ) -> Result<(), CudaError> {
        let [keys, values] =
            self.newest.as_ref().expect("keys and values are appended before they are attended");
        let rows = Rows { tokens: number(chunk.tokens), first_row: number(first_row) };
        let overflows = self.overflows.counter(to_host > 0);
        let began = self.timeline.point(&self.compute)?;
        let newest = [keys.address, values.address];
        self.kernels.append(&self.compute, newest, rows, targets, overflows)?;
        let detail = Detail { bytes: to_host, ..chunk.detail() };
        self.timeline.span(&self.compute, began, Activity::GpuAppend, detail)
    }

    /// Sends the lengths of lists that are all alike: their blocks, and the tokens in the last one.
    fn send_lengths(&mut self, blocks: usize, last: usize) -> Result<[CUdeviceptr; 2], CudaError> {
        self.lists.begin()?;
        let lengths = [blocks, last]
            .map(|length| self.lists.add(iter::repeat_n(number(length), self.sizes.kv_heads)));
        self.lists.send(&self.compute)?;
        Ok(lengths)
    }

    /// Queues attention of one token's queries to listed keys, into the partial results that `parts` names: the first, and how
    /// many.
    fn attend_listed(
        &mut self,
        chunk: Chunk,
        activity: Activity,
        queries: CUdeviceptr,
        keys: KeyLists,
        lengths: [CUdeviceptr; 2],
        parts: [u32; 2],
    ) -> Result<(), CudaError> {
        let began = self.timeline.point(&self.compute)?;
        self.kernels.decode(&self.compute, queries, keys, lengths, parts, self.partials())?;
        self.timeline.span(&self.compute, began, activity, chunk.detail())
    }

    /// Attends one token's queries to the whole text of a dense layer.
    fn attend_resident(&mut self, chunk: Chunk, queries: &Tensor) -> Result<Tensor, DeviceError> {
        let Chunk { layer, start, .. } = chunk;
        let block_tokens = self.sizes.block_tokens;
        let queries = self.uploads[0].elements(&self.compute, queries)?.address;
        let blocks = start / block_tokens + 1;
        let lengths = self.send_lengths(blocks, start % block_tokens + 1)?;
        let splits = number(self.sizes.splits_of(blocks));
        let (keys, activity) = (self.resident_keys(layer), Activity::GpuAttendAll);
        self.attend_listed(chunk, activity, queries, keys, lengths, [0, splits])?;
        self.lists.end(&self.compute)?;
        self.merge_partials(splits)
    }

    /// Stores new keys and values in the arena, and on the GPU if their layer lies there.
    fn append_rows(
        &mut self,
        chunk: Chunk,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<(), DeviceError> {
        let Chunk { layer, start, tokens } = chunk;
        let Sizes { kv_heads, context_blocks, .. } = self.sizes;
        let block_tokens = self.sizes.block_tokens;
        let [_, of_keys, of_values] = &mut self.uploads;
        self.newest = Some([
            of_keys.elements(&self.compute, keys)?,
            of_values.elements(&self.compute, values)?,
        ]);
        let blocks = start / block_tokens..(start + tokens).div_ceil(block_tokens);
        let places = (0..kv_heads).flat_map(|head| blocks.clone().map(move |block| (head, block)));
        let mut targets = Targets::default();
        let mut to_host = 0;
        self.lists.begin()?;
        if self.host.is_staged() {
            self.append_on_host(chunk, keys, values)?;
        } else {
            let host = &self.host;
            let addresses = places.clone().map(|(head, block)| host.address(layer, head, block));
            targets.host_blocks = self.lists.add_addresses(addresses);
            to_host = (2 * keys.elem_count() * KvDtype::BYTES) as u64;
            self.counters.to_host_bytes.add(to_host);
        }
        if layer < self.dense_layers {
            targets.slots =
                self.lists.add(places.map(|(head, block)| number(head * context_blocks + block)));
            targets.pool = self.resident_keys(layer).pool;
        }
        self.lists.send(&self.compute)?;
        if targets.host_blocks != 0 || targets.pool != 0 {
            self.store(chunk, start % block_tokens, targets, to_host)?;
        }
        self.lists.end(&self.compute)?;
        if to_host > 0 {
            self.counters.to_host_bytes.add(self.overflows.read(&self.compute)?);
        }
        self.appended = Some(mark(&self.compute)?);
        Ok(())
    }

    /// Stores new keys and values in the arena by the worker's own hand.
    fn append_on_host(
        &mut self,
        Chunk { layer, start, .. }: Chunk,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<(), DeviceError> {
        if !keys.device().is_cpu() {
            let bytes = (keys.elem_count() + values.elem_count()) * size_of::<f32>();
            self.counters.to_host_bytes.add(bytes as u64);
        }
        let (keys, values) = (keys.to_device(&Device::Cpu)?, values.to_device(&Device::Cpu)?);
        let HostMemory { writer, slabs, .. } = &mut self.host;
        let mut store =
            |keys: &[f32], values: &[f32]| writer.write_chunk(slabs, layer, start, keys, values);
        let overflows =
            with_slice(&keys, |keys| with_slice(&values, |values| store(keys, values)))??;
        self.overflows.add(overflows);
        Ok(())
    }

    /// Reads the tokens of a range, which others wrote to the arena, into the layers that lie on the GPU.
    fn reload_resident(&mut self, tokens: Range<usize>) -> Result<(), DeviceError> {
        let block_tokens = self.sizes.block_tokens;
        let blocks = tokens.start / block_tokens..tokens.end.div_ceil(block_tokens);
        for layer in 0..self.dense_layers {
            for head in 0..self.sizes.kv_heads {
                let first = (layer * self.sizes.kv_heads + head) * self.sizes.context_blocks;
                let resident = &self.resident;
                let runs: Vec<_> = self
                    .host
                    .runs(layer, head, blocks.clone())
                    .map(|run| (run, resident.slot(first + run.block)))
                    .collect();
                self.host.copy_runs(&self.compute, &runs)?;
                let bytes = blocks.len() * self.geometry.block_bytes();
                self.counters.passing_bytes.add(bytes as u64);
            }
        }
        Ok(())
    }

    /// Adds to the counters what parts of the device have counted.
    fn count(&mut self) {
        let Self { counters, lists, host, uploads, download, .. } = self;
        counters.list_bytes.add(lists.take_sent());
        counters.staged_bytes.add(host.take_staged());
        counters.tensors_in_bytes.add(uploads.iter_mut().map(Upload::take_sent).sum());
        counters.tensors_out_bytes.add(download.take_received());
    }

    /// Waits for everything that is queued.
    fn drain(&mut self) -> Result<(), CudaError> {
        reach(&mark(&self.copy)?)?;
        reach(&mark(&self.compute)?)
    }
}

impl AttentionDevice for CudaDevice<'_> {
    fn open(&mut self, slabs: &[u32], _kept: usize) -> Result<(), DeviceError> {
        self.cache.clear();
        self.host.open(self.compute.context(), slabs)?;
        Ok(())
    }

    fn close(&mut self) -> Result<(), DeviceError> {
        self.drain()?;
        Ok(self.host.close()?)
    }

    fn append(&mut self, chunk: Chunk, keys: &Tensor, values: &Tensor) -> Result<(), DeviceError> {
        self.append_rows(chunk, keys, values)?;
        self.count();
        Ok(())
    }

    fn settle(&mut self) -> Result<(), DeviceError> {
        if let Some(appended) = &self.appended {
            reach(appended)?;
            self.overflows.know();
        }
        Ok(())
    }

    fn take_overflows(&mut self) -> u64 {
        self.overflows.take()
    }

    fn read_queries(
        &mut self,
        queries: &Tensor,
        rows: Range<usize>,
        into: &mut Vec<f32>,
    ) -> Result<(), DeviceError> {
        let Sizes { width, .. } = self.sizes;
        let elements = self.uploads[0].elements(&self.compute, queries)?;
        let address = elements.address + (rows.start * width * size_of::<f32>()) as u64;
        let pinned = &mut self.queries.as_mut_slice()[..rows.len() * width];
        // SAFETY: the copy is waited for below; the rows lie inside the tensor.
        unsafe { copy_to_host(&self.compute, address, pinned)? };
        let anchor = self.timeline.point(&self.compute)?;
        reach(&mark(&self.compute)?)?;
        self.timeline.resolve(anchor)?;
        self.overflows.know();
        into.clear();
        into.extend_from_slice(pinned);
        self.counters.to_host_bytes.add(size_of_val(pinned) as u64);
        self.count();
        Ok(())
    }

    fn prefill(&mut self, chunk: Chunk, queries: &Tensor) -> Result<Tensor, DeviceError> {
        let out = self.attend_chunk(chunk, queries)?;
        self.count();
        Ok(out)
    }

    fn attend_all(&mut self, chunk: Chunk, queries: &Tensor) -> Result<Tensor, DeviceError> {
        let out = if chunk.layer < self.dense_layers {
            self.attend_resident(chunk, queries)?
        } else {
            self.attend_passing(chunk, queries)?
        };
        self.count();
        Ok(out)
    }

    fn attend_selected(
        &mut self,
        chunk: Chunk,
        queries: &Tensor,
        selections: &mut dyn Selections,
    ) -> Result<Tensor, DeviceError> {
        let out = self.attend_selection(chunk, queries, selections)?;
        self.count();
        Ok(out)
    }

    fn stretch(&mut self, tokens: usize, stretched_to: usize) -> Result<(), DeviceError> {
        self.settle()?;
        self.host.stretch(tokens, stretched_to);
        self.reload_resident(tokens..stretched_to)
    }

    fn record_timeline(&mut self, recorder: &mut Recorder) -> Result<(), DeviceError> {
        if recorder.is_recording() {
            self.timeline.start();
            self.timeline.record(&self.compute, recorder)?;
        }
        Ok(())
    }
}

impl Drop for CudaDevice<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.drain() {
            tracing::debug!(%error, "the GPU did not finish");
        }
    }
}

/// A count or a place as the kernels take it; contexts have fewer than 2³² tokens, and pools fewer slots.
fn number(count: usize) -> u32 {
    u32::try_from(count).expect("the memory plan keeps pools below 2^32 slots")
}
