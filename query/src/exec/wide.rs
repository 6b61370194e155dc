//! Loops over columns of floats, compiled twice: for any processor of the architecture, and for
//! those with vectors of four floats, which most have. Which of the two is run is found when it
//! runs. Both make the same operations on each float, none of them fused, so results are equal to
//! the last bit.

/// A function whose body is also compiled for processors with AVX2. It must be worth a test of a bit:
/// a loop over some dozen floats, and nothing that calls functions which are not inlined.
macro_rules! wide {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        $visibility fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn any_processor($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn with_avx2($($argument: $type),*) $(-> $result)? {
                    any_processor($($argument),*)
                }

                if std::arch::is_x86_feature_detected!("avx2") {
                    #[expect(unsafe_code, reason = "what the processor has is known when it runs")]
                    // SAFETY: AVX2 is all that the function asks of the processor, which has it.
                    return unsafe { with_avx2($($argument),*) };
                }
            }
            any_processor($($argument),*)
        }
    };
}

pub(crate) use wide;
