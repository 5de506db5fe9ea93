//! The vector operations that the kernels are written in.

/// A token that proves that the CPU has an instruction set, and the operations on its vectors of `f32`.
///
/// Everything is `#[inline(always)]`, so that it is compiled with the features of the kernel it ends up in. For the same
/// reason kernels index arrays of vectors: the standard library's adapters (`zip`, `map`, arrays by value) are not always
/// inlined where a crate is compiled in several units, and a call that is left spills every register.
pub(super) trait Simd: Copy {
    /// Floats in a vector.
    const LANES: usize;

    /// A vector of `LANES` floats; none exists without a token.
    type F32: Copy;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F32;
    /// `a + b`.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a - b`.
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a · b`.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a · b + c`.
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The larger of each pair of lanes.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The nearest whole number.
    fn round(self, a: Self::F32) -> Self::F32;
    /// `a · 2^whole`, or 0 where `x < -125`. Lanes hold whole numbers `whole = round(x) <= 0` and `a` within `[0.7, 1.42]`.
    fn scale_by_power_of_two(self, a: Self::F32, whole: Self::F32, x: Self::F32) -> Self::F32;
    /// `score` where `position >= key`, else `-inf`.
    fn mask_later(self, score: Self::F32, position: Self::F32, key: Self::F32) -> Self::F32;
    /// The sum of all lanes.
    fn sum(self, a: Self::F32) -> f32;
    /// The largest lane.
    fn max_lane(self, a: Self::F32) -> f32;
    /// The sum of all lanes of each of four vectors.
    fn sum4(self, vectors: [Self::F32; 4]) -> [f32; 4];

    /// Loads `LANES` floats.
    ///
    /// # Safety
    /// `from` must be valid for reading `LANES` floats.
    unsafe fn load(self, from: *const f32) -> Self::F32;
    /// Stores `LANES` floats.
    ///
    /// # Safety
    /// `to` must be valid for writing `LANES` floats.
    unsafe fn store(self, to: *mut f32, a: Self::F32);
    /// Loads `LANES` half-precision floats.
    ///
    /// # Safety
    /// `from` must be valid for reading `LANES` elements.
    unsafe fn load_f16(self, from: *const u16) -> Self::F32;
    /// Loads `LANES` bfloat16 floats.
    ///
    /// # Safety
    /// `from` must be valid for reading `LANES` elements.
    unsafe fn load_bf16(self, from: *const u16) -> Self::F32;
    /// Asks for a cache line to be brought nearer; any address will do.
    fn prefetch(self, line: *const u16);
}

/// A 16-bit float format of keys and values.
pub(super) trait KvFormat {
    /// Loads `S::LANES` elements as `f32`.
    ///
    /// # Safety
    /// `from` must be valid for reading `S::LANES` elements.
    unsafe fn load<S: Simd>(s: S, from: *const u16) -> S::F32;
}

/// IEEE half precision.
pub(super) struct F16;

impl KvFormat for F16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const u16) -> S::F32 {
        // SAFETY: as the caller promises.
        unsafe { s.load_f16(from) }
    }
}

/// bfloat16: the upper half of an `f32`.
pub(super) struct Bf16;

impl KvFormat for Bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, from: *const u16) -> S::F32 {
        // SAFETY: as the caller promises.
        unsafe { s.load_bf16(from) }
    }
}

/// Methods of [`Simd`] that are one expression of intrinsics without memory access.
#[cfg(target_arch = "x86_64")]
macro_rules! operations {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) -> $result:ty = $body:expr;)*) => {
        $(#[inline(always)]
        fn $name(self, $($argument: $kind),*) -> $result {
            // SAFETY: the token proves that the CPU has the instruction set, which is all that these intrinsics ask for.
            unsafe { $body }
        })*
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use operations;
