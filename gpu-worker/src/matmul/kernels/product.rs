//! Products of whole matrices: which task computes which panels, and in which order.

use std::ops::Range;

use super::{Isa, Path};
use crate::matmul::activations::Activations;
use crate::matmul::format::{Format, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Weights};
use crate::matmul::layout::ROWS;
use crate::threads::{Disjoint, Parallel};

/// Activation rows of about this many bytes stay in the second-level cache while the panels of a task pass by.
const CACHED_ACTIVATIONS: usize = 256 << 10;
/// Tasks per thread, so that threads that come late or are slower get less.
const TASKS_PER_THREAD: usize = 4;
/// No task reads and multiplies less than this many weight bytes, counted once for each activation row.
const SMALLEST_TASK: usize = 32 << 10;

/// A matrix, as the kernels see it, and where its product goes.
pub(in crate::matmul) struct Product<'a> {
    pub(in crate::matmul) format: Format,
    /// The panels one after the other, `blocks` blocks each.
    pub(in crate::matmul) panels: &'a [u8],
    /// Blocks of a row.
    pub(in crate::matmul) blocks: usize,
    /// Rows of the matrix, which are the columns of the product.
    pub(in crate::matmul) columns: usize,
    /// `[rows of the activations, columns]`.
    pub(in crate::matmul) out: &'a mut [f32],
}

/// A product whose columns several tasks write.
struct Shared<'a> {
    format: Format,
    panels: &'a [u8],
    blocks: usize,
    columns: usize,
    out: Disjoint<'a, f32>,
    /// Panels of one task.
    step: usize,
}

impl<'a> Shared<'a> {
    fn new(product: Product<'a>, rows: usize, threads: usize) -> Self {
        let Product { format, panels, blocks, columns, out } = product;
        assert_eq!(out.len(), rows * columns, "the product is {rows} rows of {columns}");
        let count = columns.div_ceil(ROWS);
        let step = if threads == 1 {
            count
        } else {
            let smallest =
                SMALLEST_TASK.div_ceil(blocks * format.panel_block_bytes() * rows.max(1));
            count.div_ceil(threads * TASKS_PER_THREAD).max(smallest)
        };
        Self { format, panels, blocks, columns, out: Disjoint::new(out), step: step.max(1) }
    }

    fn panel_count(&self) -> usize {
        self.columns.div_ceil(ROWS)
    }

    fn tasks(&self) -> usize {
        self.panel_count().div_ceil(self.step)
    }

    /// Computes the columns of the panels of a task.
    ///
    /// # Safety
    ///
    /// Each task must run at most once.
    unsafe fn run(&self, task: usize, path: Path, x: &Activations) {
        let start = task * self.step;
        let panels = start..self.panel_count().min(start + self.step);
        // SAFETY: tasks have different panels, and each runs once.
        unsafe {
            match path {
                #[cfg(target_arch = "x86_64")]
                Path::Avx512(isa) => self.run_on(isa, panels, x),
                #[cfg(target_arch = "x86_64")]
                Path::Avx2(isa) => self.run_on(isa, panels, x),
                Path::Scalar(isa) => self.run_on(isa, panels, x),
            }
        }
    }

    /// # Safety
    ///
    /// No panel may be computed twice.
    unsafe fn run_on<I: Isa>(&self, isa: I, panels: Range<usize>, x: &Activations) {
        // SAFETY: as promised by the caller.
        unsafe {
            match self.format {
                Format::Q4_0 => self.run_format::<I, Q4_0>(isa, panels, x.blocks_32()),
                Format::Q4_1 => self.run_format::<I, Q4_1>(isa, panels, x.blocks_32()),
                Format::Q5_0 => self.run_format::<I, Q5_0>(isa, panels, x.blocks_32()),
                Format::Q5_1 => self.run_format::<I, Q5_1>(isa, panels, x.blocks_32()),
                Format::Q8_0 => self.run_format::<I, Q8_0>(isa, panels, x.blocks_32()),
                Format::Q4K => self.run_format::<I, Q4K>(isa, panels, x.blocks_256()),
                Format::Q5K => self.run_format::<I, Q5K>(isa, panels, x.blocks_256()),
                Format::Q6K => self.run_format::<I, Q6K>(isa, panels, x.blocks_256()),
            }
        }
    }

    /// # Safety
    ///
    /// No panel may be computed twice.
    unsafe fn run_format<I: Isa, F: Weights>(
        &self,
        isa: I,
        panels: Range<usize>,
        x: &[F::Activation],
    ) {
        let rows = x.len() / self.blocks;
        let cached = CACHED_ACTIVATIONS / (self.blocks * size_of::<F::Activation>());
        let cached = cached.max(1).next_multiple_of(I::BATCH);
        for first in (0..rows).step_by(cached) {
            let last = rows.min(first + cached);
            for panel in panels.clone() {
                let mut row = first;
                while row < last {
                    // SAFETY: as promised by the caller; rows are visited once.
                    row += unsafe {
                        match last - row {
                            8.. if I::BATCH >= 8 => self.batch::<I, F, 8>(isa, panel, x, row),
                            4.. => self.batch::<I, F, 4>(isa, panel, x, row),
                            2.. => self.batch::<I, F, 2>(isa, panel, x, row),
                            _ => self.batch::<I, F, 1>(isa, panel, x, row),
                        }
                    };
                }
            }
        }
    }

    /// Multiplies a panel with `M` rows from `first` on, and returns `M`.
    ///
    /// # Safety
    ///
    /// No other call may have the same panel and one of the rows.
    unsafe fn batch<I: Isa, F: Weights, const M: usize>(
        &self,
        isa: I,
        panel: usize,
        x: &[F::Activation],
        first: usize,
    ) -> usize {
        let size = self.blocks * F::BYTES;
        let weights = &self.panels[panel * size..][..size];
        let rows = std::array::from_fn(|m| &x[(first + m) * self.blocks..][..self.blocks]);
        let sums = F::panel::<I, M>(isa, weights, rows);
        let columns = panel * ROWS..self.columns.min((panel + 1) * ROWS);
        for (m, sums) in sums.iter().enumerate() {
            let start = (first + m) * self.columns;
            // SAFETY: these columns of this row belong to this call alone.
            let out = unsafe { self.out.part(start + columns.start..start + columns.end) };
            out.copy_from_slice(&sums[..columns.len()]);
        }
        M
    }
}

/// Computes all `products` of `x`, as one set of tasks.
pub(in crate::matmul) fn multiply<const N: usize>(
    path: Path,
    products: [Product<'_>; N],
    x: &Activations,
    threads: &dyn Parallel,
) {
    let products = products.map(|product| Shared::new(product, x.rows(), threads.threads()));
    threads.run(products.iter().map(Shared::tasks).sum(), &|mut task| {
        for product in &products {
            if task < product.tasks() {
                // SAFETY: every task is run once, and tasks are numbered through all products.
                return unsafe { product.run(task, path, x) };
            }
            task -= product.tasks();
        }
    });
}
