//! How long transfers take, by their size, the kind of host memory, and the way that they are asked for.

use std::sync::Arc;

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaStream, PushKernelArg, result, sys,
};
use hindsight_cuda::launch;
use hindsight_protocol::arena::{Arena, ArenaConfig, KvWriter};

use super::error::{CudaError, mark, reach, tried, wait_for};
use super::kernels::{load_module, start};
use super::memory::{DeviceBuffer, PinnedBuffer};
use super::registered::RegisteredSlabs;
use crate::device::transfer::{
    Direction, HostMemoryKind, LeftOut, MeasuredTransfers, Queueing, Transfer, TransferPlan,
    TransferTimes, scattered,
};

/// Times each transfer of `plan`, each kind of memory in turn.
pub(super) fn time(
    stream: &Arc<CudaStream>,
    plan: &TransferPlan,
) -> Result<MeasuredTransfers, CudaError> {
    let mut measured = MeasuredTransfers::default();
    let bytes = plan.most_bytes();
    let mut bench = Bench::new(stream, bytes)?;
    let context = stream.context();
    let kinds = [HostMemoryKind::Pageable, HostMemoryKind::Pinned, HostMemoryKind::Registered];
    let kinds = if plan.limit_only { vec![HostMemoryKind::Registered] } else { kinds.into() };
    for kind in kinds {
        match Host::new(context, kind, bytes)? {
            Ok(mut host) => {
                for &size in &plan.sizes {
                    bench.time_size(&mut host, size, plan, &mut measured.times)?;
                }
            }
            Err(why) => measured.left_out.push(LeftOut { what: format!("{kind} memory"), why }),
        }
    }
    if plan.limit_only && measured.times.is_empty() {
        // A run then stages its copies in such memory.
        let host = Host::new(context, HostMemoryKind::Pinned, bytes)?;
        if let Ok(mut host) = host {
            for &size in &plan.sizes {
                bench.time_size(&mut host, size, plan, &mut measured.times)?;
            }
        }
    }
    measured.left_out.push(LeftOut {
        what: "both directions at once from pageable memory".to_owned(),
        why: "the driver copies it while the host waits, one direction after the other".to_owned(),
    });
    Ok(measured)
}

/// Host memory of one kind, a half for each direction.
struct Host {
    kind: HostMemoryKind,
    memory: Memory,
}

enum Memory {
    Pageable([Vec<u8>; 2]),
    Pinned([PinnedBuffer<u8>; 2]),
    // The registration ends before its mapping goes.
    Registered(RegisteredSlabs, KvWriter, usize),
}

impl Host {
    /// Memory of `bytes` for each direction, or why there is none.
    fn new(
        context: &Arc<CudaContext>,
        kind: HostMemoryKind,
        bytes: usize,
    ) -> Result<Result<Self, String>, CudaError> {
        let memory = match kind {
            HostMemoryKind::Pinned => Memory::Pinned([
                PinnedBuffer::new(context, bytes)?,
                PinnedBuffer::new(context, bytes)?,
            ]),
            HostMemoryKind::Registered => {
                let writer = Arena::create(ArenaConfig::of_slabs(2, bytes))?.writer()?;
                let mut slabs = RegisteredSlabs::new(Arc::clone(context));
                let registered = (0..2).try_for_each(|slab| slabs.register(&writer, slab));
                if let Err(error) = registered {
                    return Ok(Err(format!("it cannot be page-locked: {error}")));
                }
                Memory::Registered(slabs, writer, bytes)
            }
            HostMemoryKind::Pageable | HostMemoryKind::Shared => {
                Memory::Pageable([vec![0xff; bytes], vec![0xff; bytes]])
            }
        };
        Ok(Ok(Self { kind, memory }))
    }

    /// The memory of one direction. No transfer of it may be under way.
    fn bytes(&mut self, way: Way) -> &mut [u8] {
        match &mut self.memory {
            Memory::Pageable(halves) => &mut halves[way as usize],
            Memory::Pinned(halves) => halves[way as usize].as_mut_slice(),
            Memory::Registered(_, writer, bytes) => {
                let start = writer.slab(way as u32).cast::<u8>();
                // SAFETY: a slab has at least as many bytes, and the borrow makes this the only use of them.
                unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), *bytes) }
            }
        }
    }
}

/// One direction: its stream and its halves of memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToDevice,
    ToHost,
}

/// What all transfers of a GPU share.
struct Bench {
    streams: [Arc<CudaStream>; 2],
    device: [DeviceBuffer<u8>; 2],
    gather: CudaFunction,
}

impl Bench {
    fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self, CudaError> {
        let context = stream.context();
        let name = launch::gather_blocks(1, 16)?.name;
        Ok(Self {
            streams: [Arc::clone(stream), context.new_stream().map_err(tried("make a stream"))?],
            device: [DeviceBuffer::new(context, bytes)?, DeviceBuffer::new(context, bytes)?],
            gather: load_module(context)?.load_function(&name).map_err(tried("find a kernel"))?,
        })
    }

    /// Times transfers of one size in all ways that the memory allows.
    fn time_size(
        &mut self,
        host: &mut Host,
        bytes: usize,
        plan: &TransferPlan,
        all: &mut Vec<TransferTimes>,
    ) -> Result<(), CudaError> {
        let queueing = [Queueing::Batched, Queueing::Blocks, Queueing::Gather];
        let queueing = if plan.limit_only { &queueing[..1] } else { &queueing };
        for &transfers in queueing {
            for direction in Direction::ALL {
                let gathers = transfers == Queueing::Gather;
                if (gathers
                    && (host.kind != HostMemoryKind::Registered
                        || direction != Direction::ToDevice))
                    || (host.kind == HostMemoryKind::Pageable && direction == Direction::Both)
                {
                    continue;
                }
                let transfer = Transfer { direction, memory: host.kind, transfers, bytes };
                let lists = gathers.then(|| self.lists(host, transfer, plan)).transpose()?;
                // The first warms up, and is checked.
                self.prepare(host, bytes)?;
                self.time_one(host, transfer, plan, lists.as_ref())?;
                self.check(host, transfer, plan)?;
                let times_us = (0..plan.repeats)
                    .map(|_| self.time_one(host, transfer, plan, lists.as_ref()))
                    .collect::<Result<_, _>>()?;
                all.push(TransferTimes { transfer, times_us });
            }
        }
        Ok(())
    }

    /// Queues a transfer and waits for it; returns microseconds from the moment at which it was asked for.
    fn time_one(
        &self,
        host: &mut Host,
        transfer: Transfer,
        plan: &TransferPlan,
        lists: Option<&Lists>,
    ) -> Result<f64, CudaError> {
        let [first, second] = &self.streams;
        let context = first.context();
        let event = || -> Result<CudaEvent, CudaError> {
            context
                .new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))
                .map_err(tried("make an event"))
        };
        let (began, ended) = (event()?, event()?);
        began.record(first).map_err(tried("time what is queued"))?;
        if transfer.direction == Direction::Both {
            wait_for(second, &began)?;
        }
        if transfer.direction != Direction::ToHost {
            match lists {
                Some(lists) => self.gather(first, lists)?,
                None => self.queue(first, host, Way::ToDevice, transfer, plan)?,
            }
        }
        match transfer.direction {
            Direction::ToDevice => {}
            Direction::ToHost => self.queue(first, host, Way::ToHost, transfer, plan)?,
            Direction::Both => {
                self.queue(second, host, Way::ToHost, transfer, plan)?;
                wait_for(first, &mark(second)?)?;
            }
        }
        ended.record(first).map_err(tried("time what is queued"))?;
        reach(&ended)?;
        let milliseconds =
            began.elapsed_ms(&ended).map_err(tried("tell the time between events"))?;
        Ok(f64::from(milliseconds) * 1e3)
    }

    /// Queues the copies of one direction.
    fn queue(
        &self,
        stream: &CudaStream,
        host: &mut Host,
        way: Way,
        transfer: Transfer,
        plan: &TransferPlan,
    ) -> Result<(), CudaError> {
        stream.context().bind_to_thread().map_err(tried("be used by this thread"))?;
        let unit = match transfer.transfers {
            Queueing::Batched => transfer.bytes,
            Queueing::Blocks | Queueing::Gather => plan.block_bytes,
        };
        let memory = &mut host.bytes(way)[..transfer.bytes];
        for (to, from) in scattered(transfer.bytes / unit).enumerate() {
            let device = self.device[way as usize].at(to * unit);
            let bytes = &mut memory[from * unit..(from + 1) * unit];
            // SAFETY: the host's memory and the device's are `unit` bytes long there, and neither is touched or given back
            // before `time_one` has waited for its event.
            let queued = unsafe {
                match way {
                    Way::ToDevice => result::memcpy_htod_async(device, bytes, stream.cu_stream()),
                    Way::ToHost => result::memcpy_dtoh_async(bytes, device, stream.cu_stream()),
                }
            };
            queued.map_err(tried("queue a copy"))?;
        }
        Ok(())
    }

    fn gather(&self, stream: &CudaStream, lists: &Lists) -> Result<(), CudaError> {
        let Lists { sources, slots, blocks, block_bytes } = lists;
        let (sources, slots, pool) = (sources.at(0), slots.at(0), self.device[0].at(0));
        let mut arguments = stream.launch_builder(&self.gather);
        arguments.arg(&sources).arg(&slots).arg(&pool).arg(blocks).arg(block_bytes);
        start(arguments, &launch::gather_blocks(*blocks, *block_bytes)?)
    }

    /// Where the gather kernel finds the blocks of a transfer, and where it puts them.
    fn lists(
        &self,
        host: &Host,
        transfer: Transfer,
        plan: &TransferPlan,
    ) -> Result<Lists, CudaError> {
        let Memory::Registered(slabs, ..) = &host.memory else {
            unreachable!("only registered memory is gathered from")
        };
        let stream = &self.streams[0];
        let count = transfer.bytes / plan.block_bytes;
        let first = slabs.address(Way::ToDevice as u32);
        let address = |block: usize| first + (block * plan.block_bytes) as CUdeviceptr;
        let sources: Vec<CUdeviceptr> = scattered(count).map(address).collect();
        let blocks = narrow(count)?;
        let slots: Vec<u32> = (0..blocks).collect();
        let lists = Lists {
            sources: DeviceBuffer::new(stream.context(), count)?,
            slots: DeviceBuffer::new(stream.context(), count)?,
            blocks,
            block_bytes: narrow(plan.block_bytes)?,
        };
        // SAFETY: the buffers are as long, and the lists live until the stream has been waited for.
        unsafe {
            result::memcpy_htod_async(lists.sources.at(0), &sources, stream.cu_stream())
                .and_then(|()| {
                    result::memcpy_htod_async(lists.slots.at(0), &slots, stream.cu_stream())
                })
                .map_err(tried("queue a copy"))?;
        }
        reach(&mark(stream)?)?;
        Ok(lists)
    }

    /// Fills the memory that transfers start from with bytes that tell their place, and what they go to with others.
    fn prepare(&mut self, host: &mut Host, bytes: usize) -> Result<(), CudaError> {
        let stream = Arc::clone(&self.streams[0]);
        for buffer in &mut self.device {
            buffer.clear(&stream)?;
        }
        let source: Vec<u8> = (0..bytes).map(place).collect();
        host.bytes(Way::ToDevice)[..bytes].copy_from_slice(&source);
        host.bytes(Way::ToHost)[..bytes].fill(0);
        // SAFETY: the buffer takes as many bytes, and `source` lives until the stream has been waited for.
        unsafe {
            let device = self.device[Way::ToHost as usize].at(0);
            result::memcpy_htod_async(device, &source, stream.cu_stream())
        }
        .map_err(tried("queue a copy"))?;
        reach(&mark(&stream)?)
    }

    /// Whether a transfer brought what it should.
    fn check(
        &self,
        host: &mut Host,
        transfer: Transfer,
        plan: &TransferPlan,
    ) -> Result<(), CudaError> {
        let bytes = transfer.bytes;
        let unit = if transfer.transfers == Queueing::Batched { bytes } else { plan.block_bytes };
        let stream = &self.streams[0];
        let mut arrived = vec![0; bytes];
        if transfer.direction != Direction::ToHost {
            // SAFETY: the device's memory has as many bytes, and `arrived` is not touched before the stream has been waited
            // for.
            unsafe {
                result::memcpy_dtoh_async(&mut arrived, self.device[0].at(0), stream.cu_stream())
            }
            .map_err(tried("queue a copy"))?;
            reach(&mark(stream)?)?;
            let right =
                arrived.chunks_exact(unit).zip(scattered(bytes / unit)).all(|(block, from)| {
                    block.iter().zip(from * unit..).all(|(&byte, at)| byte == place(at))
                });
            if !right {
                return Err(corrupted(transfer));
            }
        }
        if transfer.direction != Direction::ToDevice {
            let memory = &host.bytes(Way::ToHost)[..bytes];
            let right = scattered(bytes / unit).enumerate().all(|(from, to)| {
                let block = &memory[to * unit..(to + 1) * unit];
                block.iter().zip(from * unit..).all(|(&byte, at)| byte == place(at))
            });
            if !right {
                return Err(corrupted(transfer));
            }
        }
        Ok(())
    }
}

/// What the gather kernel is given.
struct Lists {
    sources: DeviceBuffer<u64>,
    slots: DeviceBuffer<u32>,
    blocks: u32,
    block_bytes: u32,
}

/// A byte that tells where it lies: neighbouring blocks differ, and so do neighbouring bytes.
const fn place(at: usize) -> u8 {
    (at + at / 251 + (at >> 12)) as u8
}

fn corrupted(Transfer { direction, memory, transfers, bytes }: Transfer) -> CudaError {
    CudaError::Corrupted(format!(
        "a transfer of {bytes} bytes ({direction}, {memory}, {transfers})"
    ))
}

fn narrow(number: usize) -> Result<u32, CudaError> {
    u32::try_from(number).map_err(|_| launch::UnsupportedShape::BlockBytes(u32::MAX).into())
}
