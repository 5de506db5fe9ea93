//! How the GPU reaches the arena: by itself, where its memory can be registered, or through page-locked memory that the worker
//! copies to and from.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream};
use hindsight_protocol::arena::{KvWriter, Layout};

use super::error::{CudaError, mark, reach, tried};
use super::memory::{DeviceBuffer, PinnedBuffer, copy_to_device};
use super::registered::RegisteredSlabs;

/// Consecutive blocks of one layer and KV head, all in one slab.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) layer: usize,
    pub(super) kv_head: usize,
    pub(super) block: usize,
    pub(super) blocks: usize,
}

/// The text's keys and values in host memory.
#[derive(Debug)]
pub(super) struct HostMemory {
    // Before the writer: a registration must end before its mapping goes.
    registered: RegisteredSlabs,
    staging: Option<Staging>,
    pub(super) writer: KvWriter,
    layout: Layout,
    pub(super) slabs: Vec<u32>,
    /// Bytes that can be staged at a time.
    staging_bytes: usize,
    /// Bytes that the worker copied for the GPU.
    staged_bytes: u64,
}

impl HostMemory {
    pub(super) const fn new(
        context: Arc<CudaContext>,
        writer: KvWriter,
        layout: Layout,
        staging_bytes: usize,
    ) -> Self {
        Self {
            registered: RegisteredSlabs::new(context),
            staging: None,
            writer,
            layout,
            slabs: Vec::new(),
            staging_bytes,
            staged_bytes: 0,
        }
    }

    /// Takes over a text's slabs. Where they cannot be registered, the worker copies for the GPU from then on.
    pub(super) fn open(
        &mut self,
        context: &Arc<CudaContext>,
        slabs: &[u32],
    ) -> Result<(), CudaError> {
        self.slabs.clear();
        self.slabs.extend_from_slice(slabs);
        if self.staging.is_some() {
            return Ok(());
        }
        let registered =
            slabs.iter().try_for_each(|&slab| self.registered.register(&self.writer, slab));
        if let Err(error) = registered {
            tracing::warn!(
                %error,
                slab_bytes = self.layout.slab_bytes(),
                "the KV cache cannot be page-locked: the worker copies blocks for the GPU, which is slower; raise the limit \
                 on locked memory (ulimit -l), `hindsight doctor` says by how much"
            );
            self.registered.clear().map_err(tried("unregister the KV cache"))?;
            self.staging = Some(Staging::new(context, self.staging_bytes)?);
        }
        Ok(())
    }

    /// Lets go of the text's memory. Nothing may be queued that uses it.
    pub(super) fn close(&mut self) -> Result<(), CudaError> {
        self.registered.clear().map_err(tried("unregister the KV cache"))
    }

    /// Repeats the first `tokens` tokens of the text in all layers until there are `stretched_to`.
    pub(super) fn stretch(&mut self, tokens: usize, stretched_to: usize) {
        self.writer.stretch(&self.slabs, tokens, stretched_to);
    }

    /// Whether the worker copies for the GPU.
    pub(super) const fn is_staged(&self) -> bool {
        self.staging.is_some()
    }

    /// Bytes that the worker copied for the GPU since this was asked last.
    pub(super) fn take_staged(&mut self) -> u64 {
        std::mem::take(&mut self.staged_bytes)
    }

    /// The address of a block in registered memory.
    ///
    /// # Panics
    /// If memory is staged, or the block lies beyond the text.
    pub(super) fn address(&self, layer: usize, kv_head: usize, block: usize) -> CUdeviceptr {
        let (slab, offset) = self.layout.block_place(&self.slabs, layer, kv_head, block);
        self.registered.address(slab) + offset as CUdeviceptr
    }

    /// Where the GPU will find each of `blocks`, given as (KV head, block); what is staged is copied now and travels with
    /// [`Self::bring`].
    pub(super) fn sources(
        &mut self,
        layer: usize,
        blocks: &[(usize, u32)],
    ) -> Result<Vec<CUdeviceptr>, CudaError> {
        let Self { staging, writer, slabs, layout, staged_bytes, .. } = self;
        let Some(staging) = staging else {
            let address =
                |&(kv_head, block): &(usize, u32)| self.address(layer, kv_head, block as usize);
            return Ok(blocks.iter().map(address).collect());
        };
        let block_bytes = layout.geometry().block_bytes();
        let area = staging.begin(blocks.len() * block_bytes)?;
        for (bytes, &(kv_head, block)) in area.chunks_exact_mut(block_bytes).zip(blocks) {
            writer.copy_blocks(slabs, layer, kv_head, block as usize, bytes);
        }
        *staged_bytes += (blocks.len() * block_bytes) as u64;
        Ok((0..blocks.len()).map(|block| staging.device.at(block * block_bytes)).collect())
    }

    /// Queues the copy of what was staged last.
    pub(super) fn bring(&mut self, stream: &CudaStream) -> Result<(), CudaError> {
        match &mut self.staging {
            Some(staging) => {
                let target = staging.device.at(0);
                staging.send(stream, target)
            }
            None => Ok(()),
        }
    }

    /// Queues the copy of runs of blocks to consecutive memory, each to its own address.
    pub(super) fn copy_runs(
        &mut self,
        stream: &CudaStream,
        runs: &[(Run, CUdeviceptr)],
    ) -> Result<(), CudaError> {
        let Self { staging, writer, slabs, layout, staged_bytes, .. } = self;
        let block_bytes = layout.geometry().block_bytes();
        for &(Run { layer, kv_head, block, blocks }, target) in runs {
            let bytes = blocks * block_bytes;
            match staging {
                Some(staging) => {
                    let area = staging.begin(bytes)?;
                    writer.copy_blocks(slabs, layer, kv_head, block, area);
                    *staged_bytes += bytes as u64;
                    staging.send(stream, target)?;
                }
                None => {
                    let (slab, offset) = layout.block_place(slabs, layer, kv_head, block);
                    let memory = writer.slab(slab);
                    assert!(offset + bytes <= memory.len(), "a run of blocks beyond its slab");
                    // SAFETY: the range lies inside the slab's mapping, which lives as long as `self`. The tokens in it that
                    // attention reads have been published in their layer and are not written any more.
                    let source = unsafe {
                        std::slice::from_raw_parts(memory.cast::<u8>().add(offset).as_ptr(), bytes)
                    };
                    // SAFETY: the device waits before it lets the text's memory go; the caller gives room for the run.
                    unsafe { copy_to_device(stream, source, target)? };
                }
            }
        }
        Ok(())
    }

    /// Cuts a range of blocks where slabs end.
    pub(super) fn runs(
        &self,
        layer: usize,
        kv_head: usize,
        blocks: std::ops::Range<usize>,
    ) -> impl Iterator<Item = Run> + use<> {
        let per_extent = self.layout.blocks_per_extent();
        let mut next = blocks.start;
        std::iter::from_fn(move || {
            let block = next;
            next = ((block / per_extent + 1) * per_extent).min(blocks.end);
            (block < blocks.end).then(|| Run { layer, kv_head, block, blocks: next - block })
        })
    }
}

/// Areas of page-locked memory, used in turn, and one of the GPU's that blocks are scattered from.
#[derive(Debug)]
struct Staging {
    areas: [PinnedBuffer<u8>; 2],
    sent: [Option<CudaEvent>; 2],
    turn: usize,
    used: usize,
    device: DeviceBuffer<u8>,
}

impl Staging {
    fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self, CudaError> {
        Ok(Self {
            areas: [PinnedBuffer::new(context, bytes)?, PinnedBuffer::new(context, bytes)?],
            sent: [None, None],
            turn: 0,
            used: 0,
            device: DeviceBuffer::new(context, bytes)?,
        })
    }

    /// The next area's first `bytes` bytes, once they have travelled.
    fn begin(&mut self, bytes: usize) -> Result<&mut [u8], CudaError> {
        self.turn = 1 - self.turn;
        self.used = bytes;
        if let Some(sent) = self.sent[self.turn].take() {
            reach(&sent)?;
        }
        Ok(&mut self.areas[self.turn].as_mut_slice()[..bytes])
    }

    fn send(&mut self, stream: &CudaStream, target: CUdeviceptr) -> Result<(), CudaError> {
        let source = &self.areas[self.turn].as_slice()[..self.used];
        // SAFETY: the area is not written before the event has come; the caller gives room for it.
        unsafe { copy_to_device(stream, source, target)? };
        self.sent[self.turn] = Some(mark(stream)?);
        Ok(())
    }
}
