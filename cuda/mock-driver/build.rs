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
    build
        .cpp(true)
        .std("c++17")
        .pic(true)
        .opt_level(3)
        .debug(false)
        .warnings(true)
        .extra_warnings(true);
    build.flag("-fvisibility=hidden").flag("-pthread").flag("-ffp-contract=fast");
    build.include(&emulator);
    let mut driver = build.clone();
    driver.files(sources(&own)?);
    // As the emulator's own crate compiles it, but to be part of a shared library.
    let mut emulated = build.clone();
    emulated.include(emulator.join("shims")).include(&kernels);
    emulated.flag("-fno-strict-aliasing").flag("-Wno-unknown-pragmas");
    if env::var("HOST")? == env::var("TARGET")? && has_wide_vectors() {
        emulated.flag("-march=x86-64-v3");
    }
    emulated.files(sources(&emulator)?).files(sources(&emulator.join("units"))?);

    let mut objects = driver.try_compile_intermediates()?;
    objects.extend(emulated.try_compile_intermediates()?);
    let directory = PathBuf::from(env::var("OUT_DIR")?).join("driver");
    fs::create_dir_all(&directory)?;
    link(&build, &objects, &directory)?;
    println!("cargo::rustc-env=MOCK_DRIVER_DIRECTORY={}", directory.display());
    Ok(())
}

#[cfg(target_arch = "x86_64")]
fn has_wide_vectors() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("bmi2")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_wide_vectors() -> bool {
    false
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
