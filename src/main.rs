//! The binary: hands the command line to `lockstep::cli`, which says what it does and with which exit code it ends.

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};
use std::alloc::{GlobalAlloc, Layout};
use std::process::ExitCode;

/// A step makes many small values that live as long as the step: with glibc's allocator they are a third of an event's cost.
#[global_allocator]
static ALLOCATOR: Mimalloc = Mimalloc;

fn main() -> ExitCode {
    lockstep::cli::main()
}

/// mimalloc, asked for an alignment only where there is one to ask for. Asked for one that `malloc` gives anyway it takes more room
/// than it needs, unless the size is a power of two, and looks for the begin of the block at each free.
struct Mimalloc;

/// What `malloc` aligns to, of blocks that are no smaller.
const MALLOC_ALIGN: usize = 16;

fn is_plain(size: usize, align: usize) -> bool {
    align <= MALLOC_ALIGN && align <= size
}

// SAFETY: each block is mimalloc's, of at least the size and alignment that is asked for, and is given back to mimalloc, which
// takes any of its blocks in `mi_free` and either `mi_realloc`.
unsafe impl GlobalAlloc for Mimalloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        match is_plain(size, align) {
            true => unsafe { mi_malloc(size) }.cast(),
            false => unsafe { mi_malloc_aligned(size, align) }.cast(),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        match is_plain(size, align) {
            true => unsafe { mi_zalloc(size) }.cast(),
            false => unsafe { mi_zalloc_aligned(size, align) }.cast(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        unsafe { mi_free(block.cast()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match is_plain(size, layout.align()) {
            true => unsafe { mi_realloc(block.cast(), size) }.cast(),
            false => unsafe { mi_realloc_aligned(block.cast(), size, layout.align()) }.cast(),
        }
    }
}
