//! Blocks from scattered addresses to scattered slots.

use rand_pcg::rand_core::Rng;

use super::{
    Device, Outcome,
    bench::Bench,
    cache::{HIGH_SLOTS, generator, permutation},
};
use crate::launch::{self, Argument, Launch};

pub(super) fn check<D: Device>(bench: &mut Bench<'_, D>) -> Outcome<(), D> {
    for block_bytes in [16, 80, 2048, 4096, 8192, 65536] {
        for (blocks, grid, first_slot) in [(1, 1, 0), (7, 7, HIGH_SLOTS), (40, 3, 0)] {
            check_case(bench, block_bytes, blocks, grid, first_slot)?;
        }
    }
    Ok(())
}

/// `grid` thread blocks copy `blocks` blocks.
fn check_case<D: Device>(
    bench: &mut Bench<'_, D>,
    block_bytes: usize,
    blocks: usize,
    grid: u32,
    first_slot: u32,
) -> Outcome<(), D> {
    bench.case(format!(
        "gather of {blocks} blocks of {block_bytes} bytes, grid {grid}, slots from {first_slot}"
    ));
    let mut generator = generator(blocks as u32);
    let mut source = vec![0; (blocks + 2) * block_bytes];
    generator.fill_bytes(&mut source);
    let order = permutation(&mut generator, blocks + 2);
    let slots = permutation(&mut generator, blocks + 2);

    let source_buffer = bench.input(&source)?;
    let address = bench.address(&source_buffer);
    let sources: Vec<u64> = order[..blocks]
        .iter()
        .map(|&block| address + u64::from(block) * block_bytes as u64)
        .collect();
    let mut want = vec![0x5a; source.len()];
    for (&from, &to) in order[..blocks].iter().zip(&slots) {
        let range = |block: u32| block as usize * block_bytes..(block as usize + 1) * block_bytes;
        want[range(to)].copy_from_slice(&source[range(from)]);
    }
    let pool = bench.output(&vec![0x5a_u8; source.len()])?;
    let shifted: Vec<u32> = slots[..blocks].iter().map(|slot| slot + first_slot).collect();
    let inputs = (bench.input(&sources)?, bench.input(&shifted)?);
    let base = bench.output_address(&pool).wrapping_sub(u64::from(first_slot) * block_bytes as u64);
    let launch =
        Launch { grid: [grid, 1, 1], ..launch::gather_blocks(blocks as u32, block_bytes as u32)? };
    bench.launch(
        &launch,
        &[
            Argument::Address(bench.address(&inputs.0)),
            Argument::Address(bench.address(&inputs.1)),
            Argument::Address(base),
            Argument::U32(blocks as u32),
            Argument::U32(block_bytes as u32),
        ],
    )?;
    let got: Vec<u8> = bench.read(&pool)?;
    bench.same("pool", &got, &want)
}
