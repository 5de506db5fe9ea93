//! Builds the mock driver: one shared library from this crate's C++ and the emulated kernels.

use std::error::Error;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// What the dynamic linker and `dlopen` look for.
const LIBRARY: &str = "libcuda.so.1";
/// The archive that the emulator's build script makes.
const EMULATOR: &str = "libhindsight_cuda_emulator.a";
/// What a program that opens the library by its development name looks for first.
const DEVELOPMENT_NAME: &str = "libcuda.so";

fn main() -> Result<(), Box<dyn Error>> {
    let own = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("src");
    // From the emulator's build script: the header of its registry, and the archive that holds the kernels.
    let include = env::var("DEP_HINDSIGHT_CUDA_EMULATOR_INCLUDE")?;
    let emulator = PathBuf::from(env::var("DEP_HINDSIGHT_CUDA_EMULATOR_LIBRARY")?).join(EMULATOR);
    println!("cargo::rerun-if-changed={}", own.display());
    println!("cargo::rerun-if-changed={}", emulator.display());
    println!("cargo::rerun-if-changed=build.rs");

    let mut build = cc::Build::new();
    // Optimised whatever the profile: native kernels take many times as long otherwise.
    build.cpp(true).std("c++17").pic(true).opt_level(3).debug(false);
    build.warnings(true).extra_warnings(true);
    build.flag("-fvisibility=hidden").flag("-pthread").flag("-ffp-contract=fast").include(include);
    let objects = build.clone().files(sources(&own)?).try_compile_intermediates()?;
    let directory = PathBuf::from(env::var("OUT_DIR")?).join("driver");
    fs::create_dir_all(&directory)?;
    link(&build, &objects, &emulator, &own.join("exports.map"), &directory)?;
    println!("cargo::rustc-env=MOCK_DRIVER_DIRECTORY={}", directory.display());
    Ok(())
}

fn sources(directory: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "cpp") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Makes the library of the driver's objects and the emulator's archive, with no names visible but those of `exports`.
fn link(
    build: &cc::Build,
    objects: &[PathBuf],
    emulator: &Path,
    exports: &Path,
    directory: &Path,
) -> Result<(), Box<dyn Error>> {
    let library = directory.join(LIBRARY);
    let status = build
        .try_get_compiler()?
        .to_command()
        .args(["-shared", "-Wl,--no-undefined"])
        .arg(format!("-Wl,-soname,{LIBRARY},--version-script={}", exports.display()))
        .arg("-o")
        .arg(&library)
        .args(objects)
        .arg(emulator)
        .status()?;
    if !status.success() {
        return Err(format!("linking {} failed: {status}", library.display()).into());
    }
    let alias = directory.join(DEVELOPMENT_NAME);
    if fs::symlink_metadata(&alias).is_ok() {
        fs::remove_file(&alias)?;
    }
    symlink(LIBRARY, &alias)?;
    Ok(())
}
