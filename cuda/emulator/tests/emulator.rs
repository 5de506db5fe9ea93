//! What the emulator refuses.

use hindsight_cuda::launch::Argument;
use hindsight_cuda_emulator::{EmulatorError, launch};

/// Launches a kernel that must not come to run.
fn refused(name: &str, arguments: &[Argument], block: u32) -> EmulatorError {
    // SAFETY: no kernel runs, so none looks at the arguments.
    let launched = unsafe { launch(name, [1, 1, 1], [block, 1, 1], 0, arguments, 0) };
    launched.expect_err("it is refused")
}

#[test]
fn unknown_kernels_are_named() {
    assert!(
        matches!(refused("decode_attention_f32_d64", &[], 1), EmulatorError::UnknownKernel(name) if name.contains("f32"))
    );
}

#[test]
fn arguments_are_counted_and_measured() {
    let pointer = Argument::Address(0);
    let swapped = [pointer, pointer, Argument::U32(0), Argument::U32(0), pointer];
    for arguments in [&swapped[..], &swapped[..2]] {
        let error = refused("gather_blocks", arguments, 1);
        let EmulatorError::Arguments { wanted, given, .. } = error else { panic!("{error}") };
        assert_eq!(wanted, [8, 8, 8, 4, 4]);
        assert_eq!(given.len(), arguments.len());
    }
}

#[test]
fn blocks_have_at_most_1024_threads() {
    let pointer = Argument::Address(0);
    let arguments = [pointer, pointer, pointer, Argument::U32(0), Argument::U32(0)];
    for threads in [0, 1025] {
        assert!(
            refused("gather_blocks", &arguments, threads).to_string().contains("1,024 threads")
        );
    }
}
