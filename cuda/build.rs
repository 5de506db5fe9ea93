//! With the feature `fatbin`: compiles the kernels for the architectures below, and for later ones as PTX.

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::Command,
};

/// Ampere, Ada and Hopper.
const ARCHITECTURES: [&str; 3] = ["80", "89", "90"];
/// What drivers compile for any architecture from this one on.
const PTX: &str = "80";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_FATBIN").is_none() {
        return Ok(());
    }
    println!("cargo::rerun-if-changed=kernels");
    for variable in ["NVCC", "CUDA_HOME", "PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let nvcc = compiler();
    let fatbin = Path::new(&env::var("OUT_DIR")?).join("kernels.fatbin");
    let mut command = Command::new(&nvcc);
    command.args(["-std=c++17", "-fatbin", "-Werror", "all-warnings"]);
    for architecture in ARCHITECTURES {
        command.arg("-gencode").arg(format!("arch=compute_{architecture},code=sm_{architecture}"));
    }
    command.arg("-gencode").arg(format!("arch=compute_{PTX},code=compute_{PTX}"));
    command.arg("-o").arg(&fatbin).arg("kernels/all.cu");
    let status = command.status().map_err(|error| {
        format!(
            "cannot run {}: {error}. The feature `fatbin` compiles CUDA kernels with nvcc 13.0 or later: run \
             cuda/toolkit/setup, or set NVCC or CUDA_HOME",
            nvcc.display()
        )
    })?;
    if !status.success() {
        return Err(format!("{command:?} failed: {status}").into());
    }
    Ok(())
}

/// `$NVCC`, `$CUDA_HOME/bin/nvcc` or what the path has.
fn compiler() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    let toolkit = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    toolkit.filter(|nvcc| nvcc.exists()).unwrap_or_else(|| "nvcc".into())
}
