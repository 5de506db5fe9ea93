//! `hindsight bench link`: how fast bytes get from the host to the device and back.

use std::io::Write;
use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Args;
use hindsight_gpu_worker::device::probe::probe;
use hindsight_gpu_worker::device::transfer::TransferPlan;

use crate::command::output::Output;
use crate::error::{Error, Exit};
use crate::link::measure;
use crate::plan::DeviceWish;
use crate::report::plot::link::svg;
use crate::topology::{CpuList, Request, Root, Topology};

/// Measure bandwidth and latency of the link by the size of transfers
///
/// On a GPU: from pageable, pinned and registered memory, as one copy, block by block, and by the kernel that fetches a step's
/// missing blocks; each direction alone and both at once. On the CPU, which has no link, copies between the cores of worker and
/// indexer. Times are medians, from asking for a transfer to its end.
#[derive(Debug, Args)]
pub(super) struct LinkBenchArguments {
    /// Sizes of transfers
    #[arg(
        long,
        value_name = "SIZES",
        value_delimiter = ',',
        default_value = "4KiB,16KiB,64KiB,256KiB,1MiB,4MiB,16MiB,64MiB"
    )]
    sizes: Vec<ByteSize>,

    /// Size of a block: of the keys and values of 16 tokens, say
    #[arg(long, value_name = "SIZE", default_value = "4KiB")]
    block: ByteSize,

    /// How often each transfer is timed
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    repeats: u16,

    /// Device at the other end: auto (the first GPU, or else the CPU), cpu, or cuda:0 and so on
    #[arg(long, env = "HINDSIGHT_DEVICE", default_value_t = DeviceWish::Auto)]
    device: DeviceWish,

    /// Link that the mock driver models, such as gen4x16; its times are modelled, not measured
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    mock_link: Option<String>,

    /// Core of the indexer, by the number of its CPU [default: as `hindsight topology` shows]
    #[arg(long, env = "HINDSIGHT_INDEXER_CORE", value_name = "CPU")]
    indexer_core: Option<u32>,

    /// CPUs of the worker, of which the first counts [default: as `hindsight topology` shows]
    #[arg(long, value_name = "LIST")]
    worker_cpus: Option<CpuList>,

    /// Draw bandwidth against size, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,

    /// Print one JSON object instead of tables
    #[arg(long)]
    pub(super) json: bool,
}

/// Runs the command.
///
/// # Errors
/// Sizes are no multiples of a block's, the device cannot be used, or there are no two cores.
#[expect(clippy::print_stdout, reason = "this is the command's output")]
pub(super) fn run(arguments: &LinkBenchArguments) -> Result<(), Error> {
    let plan = arguments.plan()?;
    let plot = arguments.plot.clone().map(|path| Output::new(path, true)).transpose()?;
    let device = arguments.device.decide(probe)?;
    if let Some(link) = &arguments.mock_link {
        device.check_mock_link(link)?;
    }
    let request = Request {
        indexer_core: arguments.indexer_core,
        worker_cpus: arguments.worker_cpus.clone(),
        ..Request::default()
    };
    let placement = Topology::read(&Root::machine()).choose(&request)?;
    let report = measure(&device, arguments.mock_link.as_deref(), &placement, &plan)?;
    if let Some(plot) = plot {
        let svg = svg(&report).map_err(Error::internal)?;
        plot.write(|file| file.write_all(svg.as_bytes()))?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&report).map_err(Error::internal)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

impl LinkBenchArguments {
    fn plan(&self) -> Result<TransferPlan, Error> {
        let bytes = |size: ByteSize| usize::try_from(size.as_u64()).map_err(Error::internal);
        let block_bytes = bytes(self.block)?;
        if block_bytes == 0 || !block_bytes.is_multiple_of(16) {
            let message = format!("--block {}: not a multiple of 16 bytes", self.block);
            return Err(Error::new(Exit::Usage, "block_size", message));
        }
        let mut sizes =
            self.sizes.iter().map(|&size| bytes(size)).collect::<Result<Vec<_>, _>>()?;
        if let Some(odd) = sizes.iter().find(|&&size| size == 0 || size % block_bytes != 0) {
            let message =
                format!("--sizes: {odd} bytes are no multiple of a block's {block_bytes}");
            return Err(Error::new(Exit::Usage, "transfer_size", message)
                .with_hint("name sizes that hold whole blocks, or a smaller --block"));
        }
        sizes.sort_unstable();
        sizes.dedup();
        Ok(TransferPlan { sizes, block_bytes, repeats: self.repeats.into(), limit_only: false })
    }
}
