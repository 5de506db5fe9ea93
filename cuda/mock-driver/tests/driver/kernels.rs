//! Launches of kernels that the emulator runs.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DriverError,
    LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use hindsight_cuda_mock_driver::Mock;

use crate::child::{Programs, run};

pub(crate) const PROGRAMS: Programs = &[
    ("unknown kernel", unknown_kernel),
    ("impossible launches", impossible_launches),
    ("wild addresses", wild_addresses),
    ("kernel on freed memory", kernel_on_freed_memory),
    ("block in two ranges", block_in_two_ranges),
];

/// Bytes of the blocks that these tests move about.
pub(crate) const BLOCK: usize = 256;

pub(crate) fn module(context: &Arc<CudaContext>) -> Result<Arc<CudaModule>, DriverError> {
    context.load_module(Ptx::from_src("// the mock driver takes any image"))
}

pub(crate) fn load(context: &Arc<CudaContext>, name: &str) -> Result<CudaFunction, DriverError> {
    module(context)?.load_function(name)
}

/// Queues `gather_blocks`: block i of the pool becomes what lies at `sources[i]`.
pub(crate) fn gather(
    stream: &CudaStream,
    kernel: &CudaFunction,
    arrays: &Gather,
    pool: u64,
) -> Result<(), DriverError> {
    let (blocks, block_bytes) = (arrays.slots.len() as u32, BLOCK as u32);
    let mut launch = stream.launch_builder(kernel);
    launch.arg(&arrays.sources).arg(&arrays.slots).arg(&pool).arg(&blocks).arg(&block_bytes);
    let config = LaunchConfig { grid_dim: (2, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the arguments are those of the kernel; where they lead to is what these tests are about.
    unsafe { launch.launch(config) }.map(|_| ())
}

/// The arrays that `gather_blocks` reads.
pub(crate) struct Gather {
    sources: CudaSlice<u64>,
    slots: CudaSlice<u32>,
}

impl Gather {
    /// Uploads the arrays and waits until they have arrived.
    pub(crate) fn new(stream: &Arc<CudaStream>, sources: &[u64], slots: &[u32]) -> Self {
        let arrays = Self {
            sources: stream.clone_htod(sources).unwrap(),
            slots: stream.clone_htod(slots).unwrap(),
        };
        stream.synchronize().unwrap();
        arrays
    }
}

fn unknown_kernel() {
    let context = CudaContext::new(0).unwrap();
    assert_eq!(load(&context, "no_such_kernel").unwrap_err().0, CUresult::CUDA_ERROR_NOT_FOUND);
}

#[test]
fn an_unknown_kernel_is_not_found() {
    let said = run("unknown kernel", &Mock::default());
    assert!(said.reports.contains("no kernel is called no_such_kernel"), "{}", said.reports);
}

fn impossible_launches() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let kernel = load(&context, "gather_blocks").unwrap();
    let launch = |block, shared_mem_bytes| {
        let mut launch = stream.launch_builder(&kernel);
        // SAFETY: the launch is refused before the arguments, which are missing, would be read.
        unsafe {
            launch.launch(LaunchConfig { grid_dim: (1, 1, 1), block_dim: block, shared_mem_bytes })
        }
        .unwrap_err()
        .0
    };
    assert_eq!(launch((2048, 1, 1), 0), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch((0, 1, 1), 0), CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch((32, 1, 1), 64 << 10), CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn a_launch_that_no_device_could_run_is_refused() {
    let said = run("impossible launches", &Mock::default());
    assert!(said.reports.contains("until the function asks for more"), "{}", said.reports);
}

fn wild_addresses() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let kernel = load(&context, "gather_blocks").unwrap();
    let pageable = vec![0u8; 2 * BLOCK];
    let pool = stream.alloc_zeros::<u8>(BLOCK).unwrap();
    let arrays = Gather::new(&stream, &[pageable.as_ptr() as u64], &[0]);
    let (address, _use) = pool.device_ptr(&stream);
    gather(&stream, &kernel, &arrays, address).unwrap();
    assert_eq!(stream.synchronize().unwrap_err().0, CUresult::CUDA_ERROR_LAUNCH_FAILED);
    // Like a context of the real driver's, this one is of no more use.
    assert_eq!(stream.alloc_zeros::<u8>(1).unwrap_err().0, CUresult::CUDA_ERROR_LAUNCH_FAILED);
}

#[test]
fn a_kernel_that_reaches_for_pageable_memory_fails() {
    let said = run("wild addresses", &Mock::default());
    assert!(said.reports.contains("source 0"), "{}", said.reports);
    assert!(said.reports.contains("neither pinned nor allocated"), "{}", said.reports);
}

fn block_in_two_ranges() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let kernel = load(&context, "gather_blocks").unwrap();
    let mut memory: Vec<u8> = (0..2 * BLOCK).map(|i| i as u8).collect();
    for part in memory.chunks_mut(BLOCK) {
        let flags = sys::CU_MEMHOSTREGISTER_READ_ONLY;
        // SAFETY: the memory stays where it is until the process ends.
        unsafe { sys::cuMemHostRegister_v2(part.as_mut_ptr().cast(), BLOCK, flags) }
            .result()
            .unwrap();
    }
    let block = &memory[BLOCK / 2..][..BLOCK];
    let pool = stream.alloc_zeros::<u8>(BLOCK).unwrap();
    let arrays = Gather::new(&stream, &[block.as_ptr() as u64], &[0]);
    gather(&stream, &kernel, &arrays, pool.device_ptr(&stream).0).unwrap();
    assert_eq!(stream.clone_dtoh(&pool).unwrap(), block);
}

#[test]
fn a_kernel_does_not_see_where_registered_ranges_meet() {
    run("block in two ranges", &Mock::default());
}

fn kernel_on_freed_memory() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let kernel = load(&context, "gather_blocks").unwrap();
    let source = stream.alloc_zeros::<u8>(BLOCK).unwrap();
    let (source, _use) = source.device_ptr(&stream);
    let arrays = Gather::new(&stream, &[source], &[0]);
    let pool = stream.alloc_zeros::<u8>(BLOCK).unwrap().leak();
    // SAFETY: the memory is freed once, and then used on purpose.
    unsafe { cudarc::driver::result::free_async(pool, stream.cu_stream()) }.unwrap();
    gather(&stream, &kernel, &arrays, pool).unwrap();
    assert_eq!(stream.synchronize().unwrap_err().0, CUresult::CUDA_ERROR_LAUNCH_FAILED);
}

#[test]
fn a_kernel_that_is_given_freed_memory_fails() {
    let said = run("kernel on freed memory", &Mock::default());
    assert!(said.reports.contains("gather_blocks on stream"), "{}", said.reports);
    assert!(said.reports.contains("argument 2"), "{}", said.reports);
    assert!(said.reports.contains("has been freed"), "{}", said.reports);
}
