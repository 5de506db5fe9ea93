//! The conformance suite finds faults: each planted one must be caught, and nothing else may be.

mod mutations {
    pub(crate) mod table;
}
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use mutations::table::{MUTATIONS, Mutation};
use support::{Compiler, Verdict, kernels, verify};

/// Orders of threads to try until a fault shows.
const ORDERS: [i32; 4] = [0, 1, 7, 1234];

const COMPILER: Compiler = Compiler { flags: &["-O1"] };

#[test]
fn every_planted_fault_is_caught() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let objects = COMPILER.objects(&kernels(), folder.path());
    let sound = COMPILER.library(&objects, folder.path());
    for order in ORDERS {
        assert_eq!(
            verify(&sound, order, "guarded", &[], &[]),
            Verdict::Conforms,
            "the kernels as they are"
        );
    }

    let next = AtomicUsize::new(0);
    let survivors = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(mutation) = MUTATIONS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !caught(mutation, &objects) {
                        survivors.lock().expect("no thread panics with it").push(mutation.fault);
                    }
                }
            });
        }
    });
    let survivors = survivors.into_inner().expect("no thread panicked with it");
    assert!(survivors.is_empty(), "faults that nothing catches: {survivors:#?}");
}

/// Whether the suite fails with the fault in place.
#[expect(clippy::print_stdout, reason = "how each fault shows, for whoever runs this with --nocapture")]
fn caught(mutation: &Mutation, objects: &[PathBuf]) -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    plant(mutation, folder.path());
    let unit = COMPILER.unit(mutation.check, folder.path(), folder.path());
    let others = objects.iter().filter(|object| object.file_name() != unit.file_name()).cloned();
    let library =
        COMPILER.library(&others.chain([unit.clone()]).collect::<Vec<_>>(), folder.path());
    ORDERS.iter().any(|&order| match verify(&library, order, "guarded", &[mutation.check], &[]) {
        Verdict::Conforms => false,
        Verdict::Fails(report) => {
            println!("{}: {}", mutation.fault, report.trim_end());
            true
        }
    })
}

/// Copies the kernels with one fault.
fn plant(mutation: &Mutation, folder: &Path) {
    let mut places = 0;
    for entry in fs::read_dir(kernels()).expect("the kernels are there") {
        let path = entry.expect("a folder can be listed").path();
        let mut source = fs::read_to_string(&path).expect("sources are text");
        let name = path.file_name().expect("a file has a name");
        if name == mutation.file {
            places = source.matches(mutation.from).count();
            source = source.replace(mutation.from, mutation.to);
        }
        fs::write(folder.join(name), source).expect("the folder is writable");
    }
    assert_eq!(
        places, 1,
        "{}: {:?} must stand once in {}",
        mutation.fault, mutation.from, mutation.file
    );
}
