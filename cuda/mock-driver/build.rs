//! Builds the mock driver: one shared library from this crate's C++, the emulator's and the kernels.

use std::error::Error;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// What the dynamic linker and `dlopen` look for.
const LIBRARY: &str = "libcuda.so.1";
/// What a program that opens the library by its development name looks for first.
const DEVELOPMENT_NAME: &str = "libcuda.so";

fn main() -> Result<(), Box<dyn Error>> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let own = manifest.join("src");
    let emulator = manifest.join("../emulator/src");
    let kernels = manifest.join("../kernels");
    for directory in [&own, &emulator, &kernels] {
        println!("cargo::rerun-if-changed={}", directory.display());
    }
    println!("cargo::rerun-if-changed=build.rs");

    let mut build = cc::Build::new();
    // Optimised whatever the profile: kernels take many times as long otherwise.
    build.cpp(true).std("c++17").pic(true).opt_level(3).debug(false);
    build.flag("-fvisibility=hidden").flag("-pthread").flag("-Wno-unknown-pragmas");
    build.include(&emulator).include(emulator.join("shims")).include(&kernels);
    // Products are rounded before they are added in emulated kernels, and need not be in native ones.
    let mut emulated = build.clone();
    emulated.flag("-ffp-contract=off").files(sources(&emulator)?).files(sources(&emulator.join("units"))?);
    let mut driver = build.clone();
    driver.flag("-ffp-contract=fast").files(sources(&own)?);

    let mut objects = driver.try_compile_intermediates()?;
    objects.extend(emulated.try_compile_intermediates()?);
    let directory = PathBuf::from(env::var("OUT_DIR")?).join("driver");
    fs::create_dir_all(&directory)?;
    link(&build, &objects, &directory)?;
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

fn link(build: &cc::Build, objects: &[PathBuf], directory: &Path) -> Result<(), Box<dyn Error>> {
    let library = directory.join(LIBRARY);
    let status = build
        .try_get_compiler()?
        .to_command()
        .args(["-shared", "-Wl,--no-undefined"])
        .arg(format!("-Wl,-soname,{LIBRARY}"))
        .arg("-o")
        .arg(&library)
        .args(objects)
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
