//! Builds emulated kernels from other sources or with other flags, and checks them in a process of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use hindsight_cuda::conformance::Check;

/// Of the emulator besides the kernels' units.
const COMMON: [&str; 4] = ["fiber", "block", "registry", "capi"];

/// Where the emulator's sources are.
pub(crate) fn emulator() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Where the kernels' sources are.
pub(crate) fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels")
}

/// A C++ compiler with flags.
pub(crate) struct Compiler {
    /// Besides those that every build needs.
    pub(crate) flags: &'static [&'static str],
}

impl Compiler {
    /// Compiles the emulator and all kernels: their objects, one for each source.
    pub(crate) fn objects(&self, kernels: &Path, folder: &Path) -> Vec<PathBuf> {
        let units = Check::ALL.map(|check| check.to_string());
        let mut objects: Vec<PathBuf> = COMMON
            .iter()
            .map(|name| self.object(&emulator().join(name), kernels, folder))
            .collect();
        objects.extend(units.iter().map(|unit| self.unit(unit, kernels, folder)));
        objects
    }

    /// Compiles one kernel's unit.
    pub(crate) fn unit(&self, unit: &str, kernels: &Path, folder: &Path) -> PathBuf {
        self.object(&emulator().join("units").join(unit), kernels, folder)
    }

    fn object(&self, source: &Path, kernels: &Path, folder: &Path) -> PathBuf {
        let object =
            folder.join(source.file_name().expect("a source has a name")).with_extension("o");
        let mut command = self.command();
        command.arg("-c").arg(source.with_extension("cpp")).arg("-I").arg(emulator().join("shims"));
        command.arg("-I").arg(kernels).arg("-o").arg(&object);
        run(&mut command);
        object
    }

    /// Links objects to a library.
    pub(crate) fn library(&self, objects: &[PathBuf], folder: &Path) -> PathBuf {
        let library = folder.join("kernels.so");
        run(self.command().arg("-shared").args(objects).arg("-o").arg(&library));
        library
    }

    fn command(&self) -> Command {
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
        let mut command = Command::new(compiler);
        command.args(["-std=c++17", "-fPIC", "-fno-strict-aliasing", "-w"]).args(self.flags);
        command
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// What came of a check.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// All conform.
    Conforms,
    /// Something does not, or crashed, or did not end: the report's beginning.
    Fails(String),
}

/// Checks a library of kernels (all checks if `checks` is empty) with threads in `order`.
pub(crate) fn verify(
    library: &Path,
    order: i32,
    guards: &str,
    checks: &[&str],
    environment: &[(&str, &str)],
) -> Verdict {
    let report = library.with_extension(format!("{order}.log"));
    let file = fs::File::create(&report).expect("the folder is writable");
    let mut child = Command::new(env!("CARGO_BIN_EXE_kernel-check"))
        .arg(library)
        .args([&order.to_string(), guards])
        .args(checks)
        .envs(environment.iter().copied())
        .stdout(Stdio::null())
        .stderr(file)
        .spawn()
        .expect("kernel-check was built with the tests");
    let deadline = Instant::now() + Duration::from_secs(300);
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().expect("a child can be ended");
            child.wait().expect("a child can be waited for");
            return Verdict::Fails("it does not end".to_owned());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let report = fs::read_to_string(report).unwrap_or_default();
    assert_ne!(status.code(), Some(2), "{report}");
    if status.success() { Verdict::Conforms } else { Verdict::Fails(format!("{status}: {report}")) }
}
