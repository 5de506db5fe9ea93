//! Memory and launches of the checks: guarded outputs, and comparisons that name the case.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Device, Failure, Outcome};
use crate::launch::{Argument, Launch};

/// What guards hold.
const GUARD: u8 = 0xa5;
/// How far a result may be from the reference: of 1, or of the value if that is larger.
const TOLERANCE: f64 = 2e-5;

/// Runs the cases of one check.
pub(super) struct Bench<'a, D: Device> {
    device: &'a mut D,
    case: String,
    cases: u32,
}

/// What a kernel writes, between guards.
pub(super) struct Output<B> {
    buffer: B,
    bytes: usize,
}

impl<'a, D: Device> Bench<'a, D> {
    pub(super) fn new(device: &'a mut D) -> Self {
        Self { device, case: String::new(), cases: 0 }
    }

    pub(super) fn cases(&self) -> u32 {
        self.cases
    }

    /// Begins a case.
    pub(super) fn case(&mut self, case: String) {
        self.case = case;
        self.cases += 1;
    }

    /// Memory for kernels to read.
    pub(super) fn input<T: IntoBytes + Immutable>(&mut self, data: &[T]) -> Outcome<D::Buffer, D> {
        let buffer = self.device.upload(data.as_bytes());
        buffer.map_err(|error| Failure::Device { case: self.case.clone(), error })
    }

    /// Memory for kernels to write, which holds `initial` at first.
    pub(super) fn output<T: IntoBytes + Immutable>(
        &mut self,
        initial: &[T],
    ) -> Outcome<Output<D::Buffer>, D> {
        let guard = vec![GUARD; self.device.guard_bytes()];
        let bytes = [&guard, initial.as_bytes(), &guard].concat();
        Ok(Output { buffer: self.input(&bytes)?, bytes: size_of_val(initial) })
    }

    /// Where an input lies.
    pub(super) fn address(&self, buffer: &D::Buffer) -> u64 {
        self.device.address(buffer)
    }

    /// Where an output lies.
    pub(super) fn output_address(&self, output: &Output<D::Buffer>) -> u64 {
        self.device.address(&output.buffer) + self.device.guard_bytes() as u64
    }

    /// What an output holds, once its guards are found whole.
    pub(super) fn read<T: FromBytes + IntoBytes + Immutable + Clone>(
        &mut self,
        output: &Output<D::Buffer>,
    ) -> Outcome<Vec<T>, D> {
        let bytes = self.device.download(&output.buffer);
        let bytes = bytes.map_err(|error| Failure::Device { case: self.case.clone(), error })?;
        let guard = self.device.guard_bytes();
        let (before, rest) = bytes.split_at(guard);
        let (content, behind) = rest.split_at(output.bytes);
        for (side, bytes) in [("before", before), ("behind", behind)] {
            if bytes.iter().any(|&byte| byte != GUARD) {
                return Err(Failure::Guard { case: self.case.clone(), side });
            }
        }
        let mut values = vec![T::new_zeroed(); content.len() / size_of::<T>()];
        values.iter_mut().zip(content.chunks_exact(size_of::<T>())).for_each(|(value, bytes)| {
            *value = T::read_from_bytes(bytes).unwrap_or_else(|_| T::new_zeroed());
        });
        Ok(values)
    }

    /// Runs a kernel of the suite.
    pub(super) fn launch(&mut self, launch: &Launch, arguments: &[Argument]) -> Outcome<(), D> {
        // SAFETY: every check passes buffers of the sizes that the kernel's documentation asks for.
        let launched = unsafe { self.device.launch(launch, arguments) };
        launched.map_err(|error| Failure::Device { case: self.case.clone(), error })
    }

    /// Compares floats with the reference; -inf must be -inf. Scores that are `sharpness` times as large as usual have
    /// errors as many times as large.
    pub(super) fn close(
        &self,
        what: &'static str,
        got: &[f32],
        want: &[f64],
        sharpness: f32,
    ) -> Outcome<(), D> {
        let tolerance = TOLERANCE * f64::from(sharpness);
        let near = |got: f64, want: f64| {
            got == want || (got - want).abs() <= tolerance * want.abs().max(1.0)
        };
        self.all(what, got, want, |&got, &want| near(got.into(), want))
    }

    /// Compares values that must be the same.
    pub(super) fn same<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &'static str,
        got: &[T],
        want: &[T],
    ) -> Outcome<(), D> {
        self.all(what, got, want, |got, want| got == want)
    }

    /// Compares values element by element.
    pub(super) fn all<G: std::fmt::Debug, W: std::fmt::Debug>(
        &self,
        what: &'static str,
        got: &[G],
        want: &[W],
        equal: impl Fn(&G, &W) -> bool,
    ) -> Outcome<(), D> {
        assert_eq!(got.len(), want.len(), "the suite compares outputs of the reference's size");
        let wrong = got.iter().zip(want).position(|(got, want)| !equal(got, want));
        wrong.map_or(Ok(()), |index| {
            Err(Failure::Wrong {
                case: self.case.clone(),
                what,
                index,
                got: format!("{:?}", got[index]),
                want: format!("{:?}", want[index]),
            })
        })
    }
}
