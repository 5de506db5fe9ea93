//! Compiles the emulator, and the kernels for it.

use std::{env, error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let root = env::var("CARGO_MANIFEST_DIR")?;
    let source = Path::new(&root).join("src");
    let kernels = Path::new(&root).join("../kernels").canonicalize()?;
    for folder in [&source, &kernels] {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    println!("cargo::metadata=include={}", source.display());
    println!("cargo::metadata=library={}", env::var("OUT_DIR")?);

    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(3).warnings(true).extra_warnings(true);
    // Device memory is read through pointers of several types; CUDA's compiler does not look at them either.
    build.flag("-fno-strict-aliasing").flag("-Wno-unknown-pragmas");
    if env::var("HOST")? == env::var("TARGET")? && has_wide_vectors() {
        // Whole models run through the emulator, on the machine that it was built on.
        build.flag("-march=x86-64-v3").flag("-ffp-contract=fast");
    }
    build.include(source.join("shims")).include(&kernels);
    build.files(
        ["fiber.cpp", "block.cpp", "registry.cpp", "capi.cpp"].map(|name| source.join(name)),
    );
    for unit in source.join("units").read_dir()? {
        let path = unit?.path();
        if path.extension().is_some_and(|extension| extension == "cpp") {
            build.file(path);
        }
    }
    build.compile("hindsight_cuda_emulator");
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
