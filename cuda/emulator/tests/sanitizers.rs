//! The kernels run clean under the address and undefined-behaviour sanitizers, which do see an access beyond a buffer.

mod support;

use std::{fs, path::Path, process::Command};

use support::{Compiler, Verdict, kernels, verify};

const COMPILER: Compiler = Compiler {
    flags: &[
        "-O1",
        "-g",
        "-fno-omit-frame-pointer",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
    ],
};

/// What makes a program without the sanitizer run a library with it: its allocator and its run time come first.
fn environment() -> Vec<(&'static str, String)> {
    let found = |library: &str| {
        let output = Command::new(std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned()))
            .arg(format!("-print-file-name={library}"))
            .output()
            .expect("there is a C++ compiler");
        String::from_utf8(output.stdout).expect("a path is text").trim().to_owned()
    };
    // The C++ run time must be there when the sanitizer looks for what it replaces.
    let preload = format!("{} {}", found("libasan.so"), found("libstdc++.so.6"));
    vec![
        ("LD_PRELOAD", preload),
        ("ASAN_OPTIONS", "detect_leaks=0".to_owned()),
        ("UBSAN_OPTIONS", "print_stacktrace=1".to_owned()),
    ]
}

/// Builds the kernels of `sources` with the sanitizers and checks them: outputs end where their memory ends.
fn sanitized(sources: &Path, order: i32, checks: &[&str]) -> Verdict {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let library = COMPILER.library(&COMPILER.objects(sources, folder.path()), folder.path());
    let environment = environment();
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    verify(&library, order, "unguarded", checks, &environment)
}

#[test]
fn kernels_run_clean() {
    assert_eq!(sanitized(&kernels(), 7, &[]), Verdict::Conforms);
}

#[test]
fn one_element_too_many_is_seen() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    for entry in fs::read_dir(kernels()).expect("the kernels are there") {
        let path = entry.expect("a folder can be listed").path();
        let source = fs::read_to_string(&path).expect("sources are text");
        let changed = source
            .replace("d < dim; d += blockDim.x", "d < dim + (head + 1 == heads); d += blockDim.x");
        fs::write(folder.path().join(path.file_name().expect("a file has a name")), changed)
            .expect("the folder is writable");
    }
    let Verdict::Fails(report) = sanitized(folder.path(), 0, &["merge_partials"]) else {
        panic!("the sanitizer sees nothing");
    };
    assert!(
        report.contains("heap-buffer-overflow") && report.contains("merge_partials.cu"),
        "{report}"
    );
}
