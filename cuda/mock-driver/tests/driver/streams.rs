//! Deferred streams: a program that waits where it must is right in any order; one that forgets a wait is found out.

use std::sync::Arc;
use std::thread;

use cudarc::driver::{CudaContext, CudaStream, DevicePtr, PinnedHostSlice, sys};
use hindsight_cuda_mock_driver::{Mock, Order};

use crate::child::{Programs, answer, run};
use crate::kernels::{BLOCK, Gather, gather, load};

pub(crate) const PROGRAMS: Programs = &[
    ("overlap", || overlap(true)),
    ("overlap without its wait", || overlap(false)),
    ("reuse", || reuse(true)),
    ("reuse without its wait", || reuse(false)),
    ("pinned memory is read late", pinned_is_read_late),
    ("pageable memory is read at once", pageable_is_read_at_once),
    ("results come with a wait", results_come_with_a_wait),
    ("polling", polling),
    ("stale handles", stale_handles),
    ("threads", threads),
];

fn orders() -> impl Iterator<Item = Mock> {
    let adversarial = [Order::Queued, Order::AwaitedFirst, Order::AwaitedLast];
    (0..8).map(Order::Shuffled).chain(adversarial).map(|order| Mock { order, ..Mock::default() })
}

/// A context whose slices do not order streams by themselves, as a tuned program has it, and two streams.
fn untracked() -> (Arc<CudaContext>, Arc<CudaStream>, Arc<CudaStream>) {
    let context = CudaContext::new(0).unwrap();
    // SAFETY: these programs order their streams by hand, or are about not doing so.
    unsafe { context.disable_event_tracking() };
    let (copy, compute) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    (context, copy, compute)
}

fn pinned(
    context: &Arc<CudaContext>,
    fill: impl Fn(usize) -> u8,
    len: usize,
) -> PinnedHostSlice<u8> {
    // SAFETY: all of it is written below.
    let mut memory =
        unsafe { context.alloc_pinned_with_flags::<u8>(len, sys::CU_MEMHOSTALLOC_PORTABLE) }
            .unwrap();
    memory.as_mut_slice().unwrap().iter_mut().enumerate().for_each(|(i, byte)| *byte = fill(i));
    memory
}

/// Blocks travel on one stream and are used by a kernel on another.
fn overlap(wait: bool) {
    let (context, copy, compute) = untracked();
    let kernel = load(&context, "gather_blocks").unwrap();
    let host = pinned(&context, |i| i as u8, 3 * BLOCK);
    let mut device = compute.alloc_zeros::<u8>(3 * BLOCK).unwrap();
    let pool = compute.alloc_zeros::<u8>(3 * BLOCK).unwrap();
    let source = device.device_ptr(&compute).0;
    let sources = [source + 2 * BLOCK as u64, source, source + BLOCK as u64];
    let arrays = Gather::new(&compute, &sources, &[0, 1, 2]);

    copy.memcpy_htod(&host, &mut device).unwrap();
    let copied = copy.record_event(None).unwrap();
    if wait {
        compute.wait(&copied).unwrap();
    }
    gather(&compute, &kernel, &arrays, pool.device_ptr(&compute).0).unwrap();
    let result = compute.clone_dtoh(&pool).unwrap();
    // Without tracking, nothing else keeps the pinned memory until the copy has read it.
    copy.synchronize().unwrap();

    let host = host.as_slice().unwrap();
    let expected = [&host[2 * BLOCK..], &host[..BLOCK], &host[BLOCK..2 * BLOCK]].concat();
    answer(if result == expected { "right" } else { "wrong" });
}

/// A buffer is overwritten on one stream once a kernel on another has used it.
fn reuse(wait: bool) {
    let (context, copy, compute) = untracked();
    let kernel = load(&context, "gather_blocks").unwrap();
    let (first, second) = (pinned(&context, |_| 1, BLOCK), pinned(&context, |_| 2, BLOCK));
    let mut buffer = compute.clone_htod(&first).unwrap();
    let pool = compute.alloc_zeros::<u8>(BLOCK).unwrap();
    let arrays = Gather::new(&compute, &[buffer.device_ptr(&compute).0], &[0]);

    gather(&compute, &kernel, &arrays, pool.device_ptr(&compute).0).unwrap();
    let used = compute.record_event(None).unwrap();
    if wait {
        copy.wait(&used).unwrap();
    }
    copy.memcpy_htod(&second, &mut buffer).unwrap();
    let result = compute.clone_dtoh(&pool).unwrap();
    copy.synchronize().unwrap();
    answer(if result == [1; BLOCK] { "right" } else { "wrong" });
}

#[test]
fn a_correct_program_is_right_in_any_order() {
    for mock in orders() {
        for program in ["overlap", "reuse"] {
            let said = run(program, &mock);
            assert_eq!(said.answers, ["right"], "{program} on {mock:?}");
            assert!(!said.reports.contains("mock CUDA driver"), "{}", said.reports);
        }
    }
}

#[test]
fn data_that_nobody_waits_for_are_missed_if_the_awaited_stream_runs_first() {
    let said =
        run("overlap without its wait", &Mock { order: Order::AwaitedFirst, ..Mock::default() });
    assert_eq!(said.answers, ["wrong"]);
}

#[test]
fn data_still_in_use_are_overwritten_if_the_awaited_stream_runs_last() {
    let said =
        run("reuse without its wait", &Mock { order: Order::AwaitedLast, ..Mock::default() });
    assert_eq!(said.answers, ["wrong"]);
}

#[test]
fn a_correct_program_is_wrong_if_the_driver_forgets_its_wait() {
    let mock = |order, forget_waits| Mock { order, forget_waits, ..Mock::default() };
    let [copy, compute] = [1, 2];
    let forgets_data = mock(Order::AwaitedFirst, Some((compute, copy)));
    assert_eq!(run("overlap", &forgets_data).answers, ["wrong"]);
    let forgets_use = mock(Order::AwaitedLast, Some((copy, compute)));
    assert_eq!(run("reuse", &forgets_use).answers, ["wrong"]);
    let forgets_others = mock(Order::AwaitedFirst, Some((copy, compute)));
    assert_eq!(run("overlap", &forgets_others).answers, ["right"]);
}

#[test]
fn random_orders_find_a_missing_wait_sooner_or_later() {
    let wrong = |program| {
        (0..8).filter(move |seed| {
            let mock = Mock { order: Order::Shuffled(*seed), ..Mock::default() };
            run(program, &mock).answers == ["wrong"]
        })
    };
    assert!(wrong("overlap without its wait").count() > 0);
    assert!(wrong("reuse without its wait").count() > 0);
}

fn pinned_is_read_late() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let host = pinned(&context, |_| 1, 64);
    let bytes = host.as_ptr().unwrap().cast_mut();
    let device = stream.clone_htod(&host).unwrap();
    // SAFETY: nobody else writes; that the copy has not run yet is what is shown.
    unsafe { bytes.write(9) };
    let mut expected = [1; 64];
    expected[0] = 9;
    assert_eq!(stream.clone_dtoh(&device).unwrap(), expected);
}

fn pageable_is_read_at_once() {
    let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
    let mut host = vec![1u8; 64];
    let device = stream.clone_htod(&host).unwrap();
    host[0] = 9;
    assert_eq!(stream.clone_dtoh(&device).unwrap(), [1; 64]);
}

#[test]
fn copies_read_pinned_memory_when_they_run() {
    run("pinned memory is read late", &Mock::default());
    run("pageable memory is read at once", &Mock::default());
}

fn results_come_with_a_wait() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let device = stream.clone_htod(&[5u8; 64]).unwrap();
    let mut host = pinned(&context, |_| 1, 64);
    let bytes = host.as_ptr().unwrap();
    stream.memcpy_dtoh(&device, &mut host).unwrap();
    // SAFETY: the copy has not run, which is what is shown.
    assert_eq!(unsafe { bytes.read_volatile() }, 1);
    assert_eq!(host.as_slice().unwrap(), [5; 64]);
}

#[test]
fn results_are_not_there_before_somebody_waits() {
    run("results come with a wait", &Mock::default());
}

fn polling() {
    let (_context, copy, compute) = untracked();
    let event = copy.context().new_event(None).unwrap();
    assert!(event.try_is_complete().unwrap(), "an event that was never recorded");
    let _device = copy.clone_htod(&[5u8; 64]).unwrap();
    event.record(&copy).unwrap();
    compute.wait(&event).unwrap();
    let last = compute.record_event(None).unwrap();
    assert!(!last.try_is_complete().unwrap());
    while !last.try_is_complete().unwrap() {}
    assert!(event.try_is_complete().unwrap());
}

#[test]
fn whoever_polls_gets_there() {
    orders().for_each(|mock| drop(run("polling", &mock)));
}

fn stale_handles() {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let event = stream.record_event(None).unwrap();
    let (raw_event, raw_stream) = (event.cu_event(), stream.cu_stream());
    // Dropping an event that has not been reached is legal, and so is dropping a stream.
    drop((event, stream));
    let invalid = sys::CUresult::CUDA_ERROR_INVALID_HANDLE;
    // SAFETY: the driver looks handles up, and does not follow them.
    unsafe {
        assert_eq!(sys::cuEventSynchronize(raw_event), invalid);
        assert_eq!(sys::cuStreamSynchronize(raw_stream), invalid);
    }
    context.synchronize().unwrap();
}

#[test]
fn the_use_of_destroyed_streams_and_events_is_reported() {
    let reports = run("stale handles", &Mock::default()).reports;
    assert!(reports.contains("use of event") && reports.contains("use of stream"), "{reports}");
}

fn threads() {
    let context = CudaContext::new(0).unwrap();
    let kernel = load(&context, "gather_blocks").unwrap();
    thread::scope(|scope| {
        for value in 0..4u8 {
            let (context, kernel) = (&context, &kernel);
            scope.spawn(move || {
                context.bind_to_thread().unwrap();
                let stream = context.new_stream().unwrap();
                for round in 0..20 {
                    let device = stream.clone_htod(&[value + round; BLOCK]).unwrap();
                    let pool = stream.alloc_zeros::<u8>(BLOCK).unwrap();
                    let arrays = Gather::new(&stream, &[device.device_ptr(&stream).0], &[0]);
                    gather(&stream, kernel, &arrays, pool.device_ptr(&stream).0).unwrap();
                    assert_eq!(stream.clone_dtoh(&pool).unwrap(), [value + round; BLOCK]);
                }
            });
        }
    });
}

#[test]
fn threads_may_share_the_driver() {
    for order in [Order::Queued, Order::Shuffled(3), Order::AwaitedFirst] {
        run("threads", &Mock { order, ..Mock::default() });
    }
}
