//! New keys and values, rounded, in host blocks and in the pool.

use half::{bf16, f16};
use rand_pcg::{Pcg64, rand_core::Rng};

use super::{
    Device, Outcome,
    bench::Bench,
    cache::{HIGH_SLOTS, Layout, generator, permutation, random},
    reference::{narrow, widen},
};
use crate::launch::{self, Argument, Element};

/// What untouched elements hold.
const UNTOUCHED: u16 = 0x1234;

struct Case {
    layout: Layout,
    tokens: usize,
    kv_heads: usize,
    first_row: usize,
    to_host: bool,
    to_pool: bool,
    first_slot: u32,
}

pub(super) fn check<D: Device>(bench: &mut Bench<'_, D>) -> Outcome<(), D> {
    for element in [Element::F16, Element::Bf16] {
        for (dim, block_tokens, first_row, first_slot) in [
            (64, 16, 0, 0),
            (128, 16, 5, 0),
            (256, 8, 7, HIGH_SLOTS),
            (128, 32, 31, 0),
            (64, 64, 60, HIGH_SLOTS),
        ] {
            for (tokens, to_host, to_pool) in
                [(1, true, true), (5, true, false), (11, false, true), (70, true, true)]
            {
                let layout = Layout { element, dim, block_tokens };
                let case =
                    Case { layout, tokens, kv_heads: 3, first_row, to_host, to_pool, first_slot };
                let mut generator = generator(tokens as u32);
                let count = 2 * tokens * case.kv_heads * dim;
                let numbers: Vec<f32> = (0..count).map(|_| any_number(&mut generator)).collect();
                case.check(bench, &numbers)?;
            }
        }
        check_rounding(bench, element)?;
    }
    Ok(())
}

/// A number as models make them, or one with random bits: tiny, huge, infinite or none at all.
fn any_number(generator: &mut Pcg64) -> f32 {
    if generator.next_u32().is_multiple_of(4) {
        f32::from_bits(generator.next_u32())
    } else {
        random(generator) * 20.0
    }
}

/// Every 16-bit float, the ties beside it, and the next floats to these.
fn check_rounding<D: Device>(bench: &mut Bench<'_, D>, element: Element) -> Outcome<(), D> {
    let mut numbers = Vec::new();
    for bits in 0..=u16::MAX {
        let exact = widen(element, bits).to_bits();
        let half_step = match element {
            Element::F16 => {
                (f32::midpoint(widen(element, bits), widen(element, bits.wrapping_add(1))))
                    .to_bits()
            }
            Element::Bf16 => exact | 0x8000,
        };
        numbers.extend(
            [exact, half_step.wrapping_sub(1), half_step, half_step.wrapping_add(1)]
                .map(f32::from_bits),
        );
    }
    let layout = Layout { element, dim: 256, block_tokens: 64 };
    let tokens = numbers.len() / (2 * layout.dim);
    Case { layout, tokens, kv_heads: 1, first_row: 0, to_host: true, to_pool: false, first_slot: 0 }
        .check(bench, &numbers)
}

impl Case {
    /// `numbers`: keys [tokens, kv_heads, dim], then values.
    fn check<D: Device>(&self, bench: &mut Bench<'_, D>, numbers: &[f32]) -> Outcome<(), D> {
        let Layout { element, dim, block_tokens } = self.layout;
        bench.case(format!(
            "append, {element}, {} tokens of {} heads of {dim}, blocks of {block_tokens}, row {}, host {}, pool {}, slots from {}",
            self.tokens, self.kv_heads, self.first_row, self.to_host, self.to_pool, self.first_slot
        ));
        let blocks = (self.first_row + self.tokens).div_ceil(block_tokens);
        let entries = self.kv_heads * blocks;
        let mut generator = generator(entries as u32);
        // The host has each block somewhere; the pool lacks every third.
        let places = permutation(&mut generator, entries + 1);
        let mut slots = permutation(&mut generator, entries + 1);
        slots.truncate(entries);
        slots.iter_mut().skip(2).step_by(3).for_each(|slot| *slot = u32::MAX);

        let untouched = vec![UNTOUCHED; (entries + 1) * self.layout.block_elements()];
        let (mut want_host, mut want_pool) = (untouched.clone(), untouched.clone());
        let mut want_overflows = 0;
        let (keys, values) = numbers.split_at(numbers.len() / 2);
        for (side, numbers) in [keys, values].into_iter().enumerate() {
            for (index, &number) in numbers.iter().enumerate() {
                let (token, head, column) =
                    (index / dim / self.kv_heads, index / dim % self.kv_heads, index % dim);
                let bits = narrow(element, number);
                want_overflows +=
                    u64::from(number.is_finite() && widen(element, bits).is_infinite());
                let at = self.first_row + token;
                let entry = head * blocks + at / block_tokens;
                let offset = (side * block_tokens + at % block_tokens) * dim + column;
                if self.to_host {
                    want_host[places[entry] as usize * self.layout.block_elements() + offset] =
                        bits;
                }
                if self.to_pool && slots[entry] != u32::MAX {
                    want_pool[slots[entry] as usize * self.layout.block_elements() + offset] = bits;
                }
            }
        }

        let (host, pool) = (bench.output(&untouched)?, bench.output(&untouched)?);
        let overflows = bench.output(&[5_u64, 0])?;
        let host_address = bench.output_address(&host);
        let block_bytes = self.layout.block_elements() as u64 * 2;
        let addresses: Vec<u64> = places[..entries]
            .iter()
            .map(|&place| host_address + u64::from(place) * block_bytes)
            .collect();
        for slot in slots.iter_mut().filter(|slot| **slot != u32::MAX) {
            *slot += self.first_slot;
        }
        let inputs = (
            bench.input(keys)?,
            bench.input(values)?,
            bench.input(&addresses)?,
            bench.input(&slots)?,
        );
        let given =
            |wanted: bool, address: u64| Argument::Address(if wanted { address } else { 0 });
        let launch = launch::append(
            element,
            self.tokens as u32,
            self.kv_heads as u32,
            dim as u32,
            block_tokens as u32,
        )?;
        bench.launch(
            &launch,
            &[
                Argument::Address(bench.address(&inputs.0)),
                Argument::Address(bench.address(&inputs.1)),
                Argument::U32(self.tokens as u32),
                Argument::U32(self.kv_heads as u32),
                Argument::U32(dim as u32),
                Argument::U32(block_tokens as u32),
                Argument::U32(self.first_row as u32),
                Argument::U32(blocks as u32),
                given(self.to_host, bench.address(&inputs.2)),
                given(self.to_pool, self.layout.base(bench.output_address(&pool), self.first_slot)),
                given(self.to_pool, bench.address(&inputs.3)),
                Argument::Address(bench.output_address(&overflows)),
            ],
        )?;
        let same = |got: &u16, want: &u16| {
            got == want || (is_nan(element, *got) && is_nan(element, *want))
        };
        let got: Vec<u16> = bench.read(&host)?;
        bench.all("host blocks", &got, &want_host, same)?;
        let got: Vec<u16> = bench.read(&pool)?;
        bench.all("pool", &got, &want_pool, same)?;
        let counted: Vec<u64> = bench.read(&overflows)?;
        bench.same("overflows", &counted, &[5 + want_overflows, 0])
    }
}

fn is_nan(element: Element, bits: u16) -> bool {
    match element {
        Element::F16 => f16::from_bits(bits).is_nan(),
        Element::Bf16 => bf16::from_bits(bits).is_nan(),
    }
}
