//! The link model: modelled times, on the device's clock.

use std::fs;
use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, DevicePtr, PinnedHostSlice, sys,
};
use hindsight_cuda_mock_driver::{Link, Mock};
use serde::Deserialize;

use crate::child::{Programs, answer, run};
use crate::kernels::{BLOCK, Gather, gather, load};

pub(crate) const PROGRAMS: Programs = &[
    ("copy", copy),
    ("copies beside work", copies_beside_work),
    ("copy beside longer work", copy_beside_longer_work),
    ("engines", engines),
    ("gathers", gathers),
    ("sleeps", sleeps),
];

/// A second at the bandwidth that `gen4x16` is modelled with, in bytes.
const GEN4_BYTES_PER_MS: f64 = 25e6;
/// What a copy costs besides, in milliseconds.
const LATENCY_MS: f64 = 3e-3;

fn gen4() -> Mock {
    Mock { link: Some(Link::Gen4x16), ..Mock::default() }
}

fn copy_ms(bytes: usize) -> f64 {
    bytes as f64 / GEN4_BYTES_PER_MS + LATENCY_MS
}

fn assert_about(measured: f64, expected: f64) {
    assert!(
        (measured - expected).abs() <= expected * 0.01,
        "{measured} ms instead of {expected} ms"
    );
}

fn timed(stream: &CudaStream) -> CudaEvent {
    stream.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap()
}

struct Setup {
    context: Arc<CudaContext>,
    streams: [Arc<CudaStream>; 2],
    host: PinnedHostSlice<u8>,
    device: CudaSlice<u8>,
}

const BYTES: usize = 16 << 20;

fn setup() -> Setup {
    let context = CudaContext::new(0).unwrap();
    // SAFETY: these programs use no memory on two streams at once, but to be timed.
    unsafe { context.disable_event_tracking() };
    let streams = [context.new_stream().unwrap(), context.new_stream().unwrap()];
    // SAFETY: bytes have no invalid values.
    let host = unsafe { context.alloc_pinned::<u8>(BYTES) }.unwrap();
    let device = streams[0].alloc_zeros(BYTES).unwrap();
    streams[0].synchronize().unwrap();
    Setup { context, streams, host, device }
}

/// Keeps a stream busy for a while, so that what is queued behind it does not wait for the host that queues it.
fn occupy(stream: &Arc<CudaStream>, host: &PinnedHostSlice<u8>) {
    // SAFETY: the memory is written, and not read.
    let mut device = unsafe { stream.alloc::<u8>(BYTES) }.unwrap();
    for _ in 0..32 {
        stream.memcpy_htod(host, &mut device).unwrap();
    }
}

fn copy() {
    let Setup { streams: [stream, _], host, mut device, .. } = setup();
    occupy(&stream, &host);
    let start = timed(&stream);
    stream.memcpy_htod(&host, &mut device).unwrap();
    let end = timed(&stream);
    assert_about(f64::from(start.elapsed_ms(&end).unwrap()), copy_ms(BYTES));
    stream.memcpy_htod(&host, &mut device).unwrap();
    let later = timed(&stream);
    assert!(later.elapsed_ms(&start).unwrap() < 0.0);
}

#[test]
fn a_copy_takes_its_bytes_over_the_bandwidth() {
    run("copy", &gen4());
}

/// A copy to the device on one stream, beside `copies` copies within the device on another: when each was done, in
/// milliseconds since both began.
fn copy_beside(copies: u32, wait: impl FnOnce(&CudaStream)) -> [f64; 2] {
    let Setup { streams: [link, work], host, mut device, .. } = setup();
    let mut other = work.alloc_zeros::<u8>(BYTES).unwrap();
    let source = work.alloc_zeros::<u8>(BYTES).unwrap();
    work.synchronize().unwrap();

    occupy(&link, &host);
    let start = timed(&link);
    work.wait(&start).unwrap();
    link.memcpy_htod(&host, &mut device).unwrap();
    for _ in 0..copies {
        work.memcpy_dtod(&source, &mut other).unwrap();
    }
    let done = [timed(&link), timed(&work)];
    wait(&work);
    done.map(|done| f64::from(start.elapsed_ms(&done).unwrap()))
}

/// Copies to the device on one stream, work of about the same length on the other.
fn copies_beside_work() {
    // A copy within the device reads and writes: as long as the link needs at 1,355 GB/s.
    let [copied, worked] = copy_beside(26, |_| ());
    assert_about(copied, copy_ms(BYTES));
    assert_about(worked, 26.0 * 2.0 * BYTES as f64 / 1355e6);
}

/// A copy on one stream, much longer work on the other, which runs first.
fn copy_beside_longer_work() {
    let [copied, _] = copy_beside(100, |work| work.synchronize().unwrap());
    assert_about(copied, copy_ms(BYTES));
}

#[test]
fn a_mark_on_one_stream_does_not_wait_for_work_on_another() {
    run("copy beside longer work", &gen4());
}

#[test]
fn copies_and_work_overlap() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace.jsonl");
    run("copies beside work", &Mock { trace: Some(trace.clone()), ..gen4() });

    let operations = read(&trace);
    let copy = operations.iter().rfind(|op| op.direction == "h2d").unwrap();
    assert_eq!((copy.kind.as_str(), copy.bytes), ("copy", BYTES as u64));
    assert_about((copy.end_us - copy.start_us) * 1e-3, copy_ms(BYTES));
    let beside = operations.iter().filter(|op| {
        op.stream != copy.stream
            && op.name == "copy on the device"
            && op.start_us < copy.end_us
            && copy.start_us < op.end_us
    });
    assert!(beside.count() > 10);
    assert!(
        operations
            .iter()
            .all(|op| op.start_us >= op.queued_us && op.queued_host_us >= op.queued_us)
    );
}

#[derive(Deserialize)]
struct Operation {
    stream: u32,
    kind: String,
    name: String,
    bytes: u64,
    direction: String,
    start_us: f64,
    end_us: f64,
    queued_us: f64,
    queued_host_us: f64,
}

fn read(trace: &std::path::Path) -> Vec<Operation> {
    fs::read_to_string(trace)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// One engine for each direction: copies of one direction queue up, those of different directions do not.
fn engines() {
    let Setup { context, streams: [first, second], host, mut device } = setup();
    let mut other = second.alloc_zeros::<u8>(BYTES).unwrap();
    // SAFETY: bytes have no invalid values.
    let mut back = unsafe { context.alloc_pinned::<u8>(BYTES) }.unwrap();
    second.synchronize().unwrap();

    occupy(&first, &host);
    let start = timed(&first);
    second.wait(&start).unwrap();
    first.memcpy_htod(&host, &mut device).unwrap();
    second.memcpy_htod(&host, &mut other).unwrap();
    let both =
        [timed(&first), timed(&second)].map(|end| f64::from(start.elapsed_ms(&end).unwrap()));
    assert_about(both[0].max(both[1]), 2.0 * copy_ms(BYTES));

    occupy(&first, &host);
    let start = timed(&first);
    second.wait(&start).unwrap();
    first.memcpy_htod(&host, &mut device).unwrap();
    second.memcpy_dtoh(&other, &mut back).unwrap();
    for end in [timed(&first), timed(&second)] {
        assert_about(f64::from(start.elapsed_ms(&end).unwrap()), copy_ms(BYTES));
    }
}

#[test]
fn each_direction_has_an_engine() {
    run("engines", &gen4());
}

/// A kernel that reads pinned memory uses the link, one that reads the device's does not.
fn gathers() {
    let Setup { context, streams: [stream, _], host, device } = setup();
    let kernel = load(&context, "gather_blocks").unwrap();
    let pool = stream.alloc_zeros::<u8>(BYTES).unwrap();
    let blocks = 4096;
    let slots: Vec<u32> = (0..blocks).collect();
    for (from, start) in
        [("host", host.as_ptr().unwrap() as u64), ("device", device.device_ptr(&stream).0)]
    {
        let sources: Vec<u64> =
            (0..u64::from(blocks)).map(|block| start + block * BLOCK as u64).collect();
        let arrays = Gather::new(&stream, &sources, &slots);
        occupy(&stream, &host);
        let begin = timed(&stream);
        gather(&stream, &kernel, &arrays, pool.device_ptr(&stream).0).unwrap();
        let end = timed(&stream);
        let took = f64::from(begin.elapsed_ms(&end).unwrap());
        let bytes = (blocks as usize * BLOCK) as f64;
        assert_about(
            took,
            3e-3 + if from == "host" { bytes / GEN4_BYTES_PER_MS } else { 2.0 * bytes / 1355e6 },
        );
    }
}

#[test]
fn kernels_that_read_pinned_memory_use_the_link() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace.jsonl");
    run("gathers", &Mock { trace: Some(trace.clone()), ..gen4() });
    let directions: Vec<_> = read(&trace)
        .into_iter()
        .filter(|op| op.kind == "kernel")
        .map(|op| (op.name, op.direction))
        .collect();
    let gather = |direction: &str| ("gather_blocks".to_owned(), direction.to_owned());
    assert_eq!(directions, [gather("h2d"), gather("device")]);
}

fn sleeps() {
    let Setup { streams: [stream, _], host, mut device, .. } = setup();
    let start = Instant::now();
    stream.memcpy_htod(&host, &mut device).unwrap();
    stream.synchronize().unwrap();
    answer(start.elapsed().as_secs_f64() * 1e3);
}

#[test]
fn waiting_takes_as_long_as_the_link_would() {
    let slow =
        Mock { link: Some(Link::Custom { gb_per_s: 0.1, latency_us: 0.0 }), ..Mock::default() };
    let took: f64 = run("sleeps", &slow).answers[0].parse().unwrap();
    assert!(took >= BYTES as f64 / 0.1e6, "{took} ms");
}
