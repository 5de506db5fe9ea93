//! Device memory and its limit; pinned memory, and what becomes of it.

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, DevicePtr, result};
use hindsight_cuda_mock_driver::{Mock, Registration};

use crate::child::{Programs, run};

pub(crate) const PROGRAMS: Programs = &[
    ("exhaust", exhaust),
    ("register", register),
    ("register refused", register_refused),
    ("register limited", register_limited),
    ("unregister in flight", unregister_in_flight),
    ("copies out of bounds", copies_out_of_bounds),
    ("copy to freed memory", copy_to_freed_memory),
    ("double free", double_free),
    ("fresh memory", fresh_memory),
];

fn exhaust() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    assert_eq!(context.mem_get_info().unwrap(), (1 << 20, 1 << 20));
    let large = stream.alloc_zeros::<u8>(900 << 10).unwrap();
    assert_eq!(context.mem_get_info().unwrap(), (124 << 10, 1 << 20));
    assert_eq!(
        stream.alloc_zeros::<u8>(200 << 10).unwrap_err().0,
        CUresult::CUDA_ERROR_OUT_OF_MEMORY
    );
    assert_eq!(
        stream.alloc_zeros::<u8>(2 << 20).unwrap_err().0,
        CUresult::CUDA_ERROR_OUT_OF_MEMORY
    );
    // The free is only queued: an allocation that needs it waits for it.
    drop(large);
    let again = stream.alloc_zeros::<u8>(1000 << 10).unwrap();
    drop(again);
    stream.synchronize().unwrap();
    assert_eq!(context.mem_get_info().unwrap().0, 1 << 20);
}

#[test]
fn device_memory_is_limited() {
    run("exhaust", &Mock { device_bytes: Some(1 << 20), ..Mock::default() });
}

fn pages(count: usize) -> Vec<u8> {
    vec![7; count << 12]
}

fn register_bytes(memory: &mut [u8]) -> Result<(), CUresult> {
    // SAFETY: the memory is the caller's, who unregisters it or ends the process.
    unsafe { sys::cuMemHostRegister_v2(memory.as_mut_ptr().cast(), memory.len(), 0) }
        .result()
        .map_err(|error| error.0)
}

fn unregister(memory: &mut [u8]) -> Result<(), CUresult> {
    // SAFETY: the driver looks the address up, and does not follow it.
    unsafe { sys::cuMemHostUnregister(memory.as_mut_ptr().cast()) }
        .result()
        .map_err(|error| error.0)
}

fn register() {
    let _context = CudaContext::new(0).unwrap();
    let mut memory = pages(4);
    register_bytes(&mut memory).unwrap();
    assert_eq!(
        register_bytes(&mut memory[4096..8192]),
        Err(CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED)
    );
    let mut device = 0;
    let inside = &mut memory[5000];
    // SAFETY: the address lies in registered memory.
    unsafe { sys::cuMemHostGetDevicePointer_v2(&mut device, std::ptr::from_mut(inside).cast(), 0) }
        .result()
        .unwrap();
    assert_eq!(device, std::ptr::from_mut(inside) as u64);
    unregister(&mut memory).unwrap();
    assert_eq!(unregister(&mut memory), Err(CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED));
}

#[test]
fn host_memory_is_registered_once() {
    run("register", &Mock::default());
}

fn register_refused() {
    let _context = CudaContext::new(0).unwrap();
    assert_eq!(register_bytes(&mut pages(1)), Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
}

#[test]
fn registering_can_be_refused() {
    run("register refused", &Mock { registration: Registration::Refused, ..Mock::default() });
}

fn register_limited() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let mut memory = pages(4);
    assert_eq!(register_bytes(&mut memory), Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
    for part in memory.chunks_mut(2 << 12) {
        register_bytes(part).unwrap();
    }
    let mut device = stream.alloc_zeros::<u8>(4 << 12).unwrap();
    // One copy within a part, and one that leaves the part that it begins in.
    stream.memcpy_htod(&memory[..2 << 12], &mut device).unwrap();
    assert_eq!(
        stream.memcpy_htod(&memory, &mut device).unwrap_err().0,
        CUresult::CUDA_ERROR_INVALID_VALUE
    );
    stream.synchronize().unwrap();
}

#[test]
fn a_limit_asks_for_registering_in_parts() {
    let said = run(
        "register limited",
        &Mock { registration: Registration::Limited(2 << 12), ..Mock::default() },
    );
    assert!(said.reports.contains("leaves the pinned range"), "{}", said.reports);
}

fn unregister_in_flight() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let mut memory = pages(2);
    register_bytes(&mut memory).unwrap();
    let mut device = stream.alloc_zeros::<u8>(memory.len()).unwrap();
    stream.memcpy_htod(&memory, &mut device).unwrap();
    unregister(&mut memory).unwrap();
}

#[test]
fn unregistering_with_a_copy_in_flight_is_reported() {
    let said = run("unregister in flight", &Mock::default());
    assert!(said.reports.contains("unregistering of host memory"), "{}", said.reports);
    assert!(said.reports.contains("copy to the device"), "{}", said.reports);
}

fn copies_out_of_bounds() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let device = stream.alloc_zeros::<u8>(100).unwrap();
    let (pointer, _use) = device.device_ptr(&stream);
    // SAFETY: the driver checks the range against its table before anything is copied.
    let copied = unsafe { result::memcpy_htod_async(pointer + 60, &[0u8; 64], stream.cu_stream()) };
    assert_eq!(copied.unwrap_err().0, CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn a_copy_past_the_end_of_an_allocation_is_refused() {
    let said = run("copies out of bounds", &Mock::default());
    assert!(said.reports.contains("64 bytes run 24 past the end"), "{}", said.reports);
}

fn copy_to_freed_memory() {
    let context = CudaContext::new(0).unwrap();
    let (stream, other) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let device = stream.alloc_zeros::<u8>(64).unwrap().leak();
    // The copy is queued while the memory is allocated, and runs when it no longer is.
    // SAFETY: the memory is freed once; the driver checks the copy when it runs.
    unsafe {
        result::memcpy_htod_async(device, &[0u8; 64], other.cu_stream()).unwrap();
        result::free_async(device, stream.cu_stream()).unwrap();
    }
    stream.synchronize().unwrap();
    assert_eq!(other.synchronize().unwrap_err().0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
}

#[test]
fn a_copy_to_freed_memory_is_an_illegal_address() {
    let mock = Mock { order: hindsight_cuda_mock_driver::Order::AwaitedFirst, ..Mock::default() };
    let said = run("copy to freed memory", &mock);
    assert!(said.reports.contains("64 bytes of memory that has been freed"), "{}", said.reports);
}

fn double_free() {
    let context = CudaContext::new(0).unwrap();
    let device = context.new_stream().unwrap().alloc_zeros::<u8>(64).unwrap().leak();
    // SAFETY: the driver finds the second free in its table of freed memory.
    let (first, second) = unsafe { (result::free_sync(device), result::free_sync(device)) };
    first.unwrap();
    assert_eq!(second.unwrap_err().0, CUresult::CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn a_second_free_is_refused() {
    assert!(run("double free", &Mock::default()).reports.contains("freed already"));
}

fn fresh_memory() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    // SAFETY: the memory is read before anything has been written, which is what this is about.
    let device = unsafe { stream.alloc::<f32>(3) }.unwrap();
    assert!(stream.clone_dtoh(&device).unwrap().iter().all(|value| value.is_nan()));
}

#[test]
fn memory_that_nobody_has_written_holds_nans() {
    run("fresh memory", &Mock::default());
}
