//! Self-attention on the FPU: sixteen key elements or sixteen sums in registers, four queries at a time.
#![allow(unsafe_code, reason = "assembly reads and writes through pointers; each call says why they are sound")]

use core::arch::naked_asm;

use half::f16;

use super::super::Mix;
use super::is_aligned;
use super::softmax::exponentials;
use crate::blob::QUERY_PIXELS;
use crate::tensor::CHUNK;

/// What both loops are told. The assembly names the fields by their offsets.
#[repr(C)]
struct Job {
    /// 0: of the head.
    query: *const f32,
    /// 4: the first token's keys, or values, of the head.
    kv: *const f16,
    /// 8: \[tokens\]\[4\].
    scores: *mut f32,
    /// 12: not 0.
    tokens: usize,
    /// 16: bytes from token to token.
    token: usize,
    /// 20: chunks of a head, not 0.
    chunks: usize,
    /// 24: bytes from a chunk of a query to the same of the next.
    query_pitch: usize,
}

/// query = softmax(query·kᵀ)·v with the order of operations of `ops/attention.rs`; declines heads that are not whole chunks.
pub(crate) fn mix(mix: &mut Mix<'_>) -> bool {
    let (channels, tokens) = (mix.channels, mix.tokens);
    let dim = channels / mix.heads.max(1);
    let whole = dim > 0 && dim.is_multiple_of(CHUNK) && dim * mix.heads == channels && tokens > 0;
    let fits = mix.query.len() >= QUERY_PIXELS * channels && mix.scores.len() >= QUERY_PIXELS * tokens;
    if !(whole && fits && mix.kv.len() >= 2 * channels * tokens && is_aligned(mix.kv)) {
        return false;
    }
    for first in (0..channels).step_by(dim) {
        let mut job = Job {
            query: mix.query[first..].as_ptr(),
            kv: mix.kv[first..].as_ptr(),
            scores: mix.scores.as_mut_ptr(),
            tokens,
            token: 4 * channels,
            chunks: dim / CHUNK,
            query_pitch: 4 * (channels - CHUNK),
        };
        // SAFETY: four queries of `channels`, `tokens` rows of keys and of four scores were checked above; keys are aligned to
        // words because a head begins at an even channel.
        unsafe { scores(&job) };
        let total = exponentials(&mut mix.scores.as_chunks_mut().0[..tokens]);
        for channel in (first..first + dim).step_by(4) {
            job.kv = mix.kv[channels + channel..].as_ptr();
            // SAFETY: as above; four values of each token are read, and four channels of each query written, which is not
            // read any more.
            unsafe { values(&job, mix.query[channel..].as_mut_ptr(), &total, 4 * channels) };
        }
    }
    true
}

/// Dot product of a query's chunk at r1 with the keys in s16–s31, added to `$score`: four partial sums, as in [`math::dot`].
macro_rules! dot {
    ($score:literal) => {
        concat!(
            "vldmia r1!, {{s4-s11}}
             vmul.f32 s0, s4, s16
             vmul.f32 s1, s5, s17
             vmul.f32 s2, s6, s18
             vmul.f32 s3, s7, s19
             vmla.f32 s0, s8, s20
             vmla.f32 s1, s9, s21
             vmla.f32 s2, s10, s22
             vmla.f32 s3, s11, s23
             vldmia r1!, {{s4-s11}}
             vmla.f32 s0, s4, s24
             vmla.f32 s1, s5, s25
             vmla.f32 s2, s6, s26
             vmla.f32 s3, s7, s27
             vmla.f32 s0, s8, s28
             vmla.f32 s1, s9, s29
             vmla.f32 s2, s10, s30
             vmla.f32 s3, s11, s31
             vadd.f32 s0, s0, s1
             vadd.f32 s2, s2, s3
             add r1, r6
             vadd.f32 s0, s0, s2
             vadd.f32 ",
            $score,
            ", ",
            $score,
            ", s0"
        )
    };
}

/// Scores of all tokens: chunk by chunk, each added to the score so far. That a partial sum starts with its first product, not
/// with 0, shows in the sign of a zero only, and the score itself starts with 0.
///
/// # Safety
/// The job's pointers reach as far as its counts say.
#[unsafe(naked)]
unsafe extern "C" fn scores(job: *const Job) {
    naked_asm!(
        core_directive!(),
        "push {{r4-r11, lr}}
         vpush {{s16-s31}}
         ldm r0, {{r0, r2, r3, r4, r5, r7, r8}}
         mov r6, r8
         mov r10, #0
         2:
         vmov s12, s13, r10, r10
         vmov s14, s15, r10, r10
         mov r8, r0
         mov r9, r2
         mov r12, r7
         3:
         mov r1, r8
         vldmia r9!, {{s24-s31}}
         vcvtb.f32.f16 s16, s24
         vcvtt.f32.f16 s17, s24
         vcvtb.f32.f16 s18, s25
         vcvtt.f32.f16 s19, s25
         vcvtb.f32.f16 s20, s26
         vcvtt.f32.f16 s21, s26
         vcvtb.f32.f16 s22, s27
         vcvtt.f32.f16 s23, s27
         vcvtb.f32.f16 s24, s28
         vcvtt.f32.f16 s25, s28
         vcvtb.f32.f16 s26, s29
         vcvtt.f32.f16 s27, s29
         vcvtb.f32.f16 s28, s30
         vcvtt.f32.f16 s29, s30
         vcvtb.f32.f16 s30, s31
         vcvtt.f32.f16 s31, s31",
        dot!("s12"),
        dot!("s13"),
        dot!("s14"),
        dot!("s15"),
        "adds r8, #64
         subs r12, #1
         bne 3b
         vstmia r3!, {{s12-s15}}
         add r2, r5
         subs r4, #1
         bne 2b
         vpop {{s16-s31}}
         pop {{r4-r11, pc}}",
    )
}

/// Four sums of a query, divided and stored at r1, which goes on to the next query.
macro_rules! divided {
    ($total:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "vdiv.f32 ",
            $a,
            ", ",
            $a,
            ", ",
            $total,
            "\n vdiv.f32 ",
            $b,
            ", ",
            $b,
            ", ",
            $total,
            "\n vdiv.f32 ",
            $c,
            ", ",
            $c,
            ", ",
            $total,
            "\n vdiv.f32 ",
            $d,
            ", ",
            $d,
            ", ",
            $total,
            "\n vstm r1, {{",
            $a,
            "-",
            $d,
            "}}\n add r1, r3"
        )
    };
}

/// Σ score · value of four channels and four queries, tokens in order, each divided by its query's total.
///
/// # Safety
/// As [`scores`]; four floats may be written at `out`, and so many bytes further on for each of the other queries.
#[unsafe(naked)]
unsafe extern "C" fn values(job: *const Job, out: *mut f32, totals: &[f32; QUERY_PIXELS], pitch: usize) {
    naked_asm!(
        core_directive!(),
        "push {{r2-r5, lr}}
         vpush {{s16-s31}}
         add r0, #4
         ldm r0, {{r2, r3, r4, r5}}
         movs r0, #0
         vmov s16, s17, r0, r0
         vmov s18, s19, r0, r0
         vmov s20, s21, r0, r0
         vmov s22, s23, r0, r0
         vmov s24, s25, r0, r0
         vmov s26, s27, r0, r0
         vmov s28, s29, r0, r0
         vmov s30, s31, r0, r0
         2:
         vldm r2, {{s8, s9}}
         add r2, r5
         vldmia r3!, {{s0-s3}}
         vcvtb.f32.f16 s4, s8
         vcvtt.f32.f16 s5, s8
         vcvtb.f32.f16 s6, s9
         vcvtt.f32.f16 s7, s9
         vmla.f32 s16, s0, s4
         vmla.f32 s17, s0, s5
         vmla.f32 s18, s0, s6
         vmla.f32 s19, s0, s7
         vmla.f32 s20, s1, s4
         vmla.f32 s21, s1, s5
         vmla.f32 s22, s1, s6
         vmla.f32 s23, s1, s7
         vmla.f32 s24, s2, s4
         vmla.f32 s25, s2, s5
         vmla.f32 s26, s2, s6
         vmla.f32 s27, s2, s7
         vmla.f32 s28, s3, s4
         vmla.f32 s29, s3, s5
         vmla.f32 s30, s3, s6
         vmla.f32 s31, s3, s7
         subs r4, #1
         bne 2b
         ldrd r2, r3, [sp, #64]
         vldm r2, {{s0-s3}}",
        divided!("s0", "s16", "s17", "s18", "s19"),
        divided!("s1", "s20", "s21", "s22", "s23"),
        divided!("s2", "s24", "s25", "s26", "s27"),
        divided!("s3", "s28", "s29", "s30", "s31"),
        "vpop {{s16-s31}}
         pop {{r2-r5, pc}}",
    )
}
