//! Mapped files whose unreadable pages read as zeros instead of killing the process.
//!
//! The kernel sends SIGBUS when a page of a mapped file cannot be had: the file was cut short
//! behind our back, or the device failed to read it. The handler here looks the address up among
//! the mappings it knows; if it is in one, it maps a page of zeros over the page at fault and
//! counts it, and the reader goes on to find a wrong checksum. Any other address is none of ours:
//! the handler that was there before is put back and the signal comes again.
//!
//! The handler may run at any moment on any thread, so it only loads atomics and makes system
//! calls. Each known mapping is one word, so that it can never be seen half written: the number
//! of its first page and its length in pages. A thread can only fault in a mapping that it keeps
//! alive, and that stays registered until just before it is unmapped, so a lookup of a fault of
//! ours always finds its word.

#![expect(unsafe_code, reason = "mapping files and handling a signal")]

use std::fs::File;
use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use memmap2::Mmap;
use parking_lot::Mutex;

/// Mappings that can be guarded at a time. Linux allows a process 65,530 mappings by default.
const SLOT_LIMIT: usize = 65_536;

/// Bits of a slot's word for the length; 2^28 pages of 4 KiB are 1 TiB. The other 36 bits hold
/// the page number of any address below 2^48, above which Linux does not map unasked.
const LENGTH_BITS: u32 = 28;

/// Known mappings: `first page << LENGTH_BITS | pages`, or 0. Half a megabyte of zeros, of which
/// only the pages in use take memory.
static SLOTS: [AtomicU64; SLOT_LIMIT] = [const { AtomicU64::new(0) }; SLOT_LIMIT];

/// Slots from here on have never been used: the handler need not look at them.
static SLOTS_USED: AtomicUsize = AtomicUsize::new(0);

/// Slots before `SLOTS_USED` that are free again. Never touched by the handler.
static FREE_SLOTS: Mutex<Vec<usize>> = Mutex::new(Vec::new());

static ZEROED_PAGES: AtomicU64 = AtomicU64::new(0);

/// What the handler needs; complete before the handler is in place.
static CONTEXT: OnceLock<Context> = OnceLock::new();

struct Context {
    page_bytes: usize,
    /// The handler before ours.
    previous: libc::sigaction,
}

pub(super) fn zeroed_pages() -> u64 {
    ZEROED_PAGES.load(Ordering::Relaxed)
}

/// A file mapped for reading, with the handler knowing of it.
#[derive(Debug)]
pub(super) struct GuardedMapping {
    // Dropped in this order: a slot must not outlive its mapping.
    _slot: Slot,
    map: Mmap,
}

impl GuardedMapping {
    /// Maps a whole file that is not empty. `None` if it cannot be guarded, as all slots are
    /// taken or it is greater than a slot can say.
    pub(super) fn new(file: &File) -> io::Result<Option<GuardedMapping>> {
        let page_bytes = install()?;
        // SAFETY: shared read-only bytes of a file. Sealed files are never written again and
        // appended ones only grow, so the bytes below the length at opening stay as they are; if
        // someone else cuts the file, reads give zeros by way of the handler.
        let map = unsafe { Mmap::map(file)? };
        let slot = Slot::take(map.as_ptr().addr(), map.len(), page_bytes);
        Ok(slot.map(|slot| GuardedMapping { _slot: slot, map }))
    }
}

impl AsRef<[u8]> for GuardedMapping {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// A place in [`SLOTS`], free again when dropped.
#[derive(Debug)]
struct Slot {
    index: usize,
}

impl Slot {
    fn take(address: usize, bytes: usize, page_bytes: usize) -> Option<Slot> {
        let word = slot_word(address, bytes, page_bytes)?;
        let mut free = FREE_SLOTS.lock();
        let index = match free.pop() {
            Some(index) => index,
            None => {
                let index = SLOTS_USED.load(Ordering::Relaxed);
                if index == SLOT_LIMIT {
                    return None;
                }
                SLOTS_USED.store(index + 1, Ordering::Release);
                index
            }
        };
        SLOTS[index].store(word, Ordering::Release);
        Some(Slot { index })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        SLOTS[self.index].store(0, Ordering::Release);
        FREE_SLOTS.lock().push(self.index);
    }
}

fn slot_word(address: usize, bytes: usize, page_bytes: usize) -> Option<u64> {
    let first_page = (address / page_bytes) as u64;
    let pages = bytes.div_ceil(page_bytes) as u64;
    let fits = first_page >> (u64::BITS - LENGTH_BITS) == 0 && pages >> LENGTH_BITS == 0;
    (fits && pages > 0).then_some(first_page << LENGTH_BITS | pages)
}

/// Whether a known mapping has this page. Called by the handler.
fn is_mapped(page: u64) -> bool {
    let used = SLOTS_USED.load(Ordering::Acquire).min(SLOT_LIMIT);
    SLOTS.iter().take(used).any(|slot| {
        let word = slot.load(Ordering::Acquire);
        let pages = word & ((1 << LENGTH_BITS) - 1);
        page.wrapping_sub(word >> LENGTH_BITS) < pages
    })
}

/// Puts the handler in place, once; gives the size of a page.
fn install() -> io::Result<usize> {
    static OUTCOME: OnceLock<Result<usize, i32>> = OnceLock::new();
    let code = |error: io::Error| error.raw_os_error().unwrap_or(libc::EINVAL);
    let outcome = OUTCOME.get_or_init(|| set_handler().map_err(code));
    outcome.map_err(io::Error::from_raw_os_error)
}

fn set_handler() -> io::Result<usize> {
    // SAFETY: sysconf has no preconditions.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let page_bytes = usize::try_from(page_bytes).map_err(io::Error::other)?;
    // SAFETY: all-zero bytes are a legal `sigaction`, made of plain integers and a pointer.
    let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks for the handler in place; `previous` has room for it.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous) } != 0 {
        return Err(io::Error::last_os_error());
    }
    CONTEXT.get_or_init(|| Context { page_bytes, previous });
    // SAFETY: as above; the mask of signals blocked meanwhile stays empty.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    action.sa_sigaction = handle as *const () as usize;
    // SAFETY: `handle` has the signature that SA_SIGINFO asks for and does only what a signal
    // handler may do.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(page_bytes)
}

extern "C" fn handle(_signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    let Some(context) = CONTEXT.get() else {
        return; // cannot be: CONTEXT is set before the handler is
    };
    // SAFETY: the kernel passes a valid siginfo to a handler installed with SA_SIGINFO, and with
    // SIGBUS its address field is set (to anything, if a process sent it: see `sent` below).
    let (address, sent) = unsafe { ((*info).si_addr().addr(), (*info).si_code <= 0) };
    let page = (address / context.page_bytes) as u64;
    if !sent && is_mapped(page) && map_zeros(address, context.page_bytes) {
        ZEROED_PAGES.fetch_add(1, Ordering::Relaxed);
        return; // the read is tried again
    }
    // SAFETY: `previous` came from sigaction. An instruction at fault faults again on return; a
    // signal that was sent has to be sent again. Both calls are async-signal-safe.
    unsafe {
        libc::sigaction(libc::SIGBUS, &raw const context.previous, ptr::null_mut());
        if sent {
            libc::raise(libc::SIGBUS);
        }
    }
}

/// Maps a page of zeros over the page of `address`. Called by the handler.
fn map_zeros(address: usize, page_bytes: usize) -> bool {
    let page = address & !(page_bytes - 1);
    // SAFETY: the page lies in a file mapping of ours that is only read, and the faulting thread
    // keeps that mapping alive; nothing else is replaced. mmap is a bare system call, which may
    // change errno and nothing else, and errno is restored for the code that was interrupted.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        let mapped = libc::mmap(
            ptr::with_exposed_provenance_mut(page),
            page_bytes,
            libc::PROT_READ,
            libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        *errno = saved;
        mapped != libc::MAP_FAILED
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_cut_under_its_mapping_reads_as_zeros() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 40_000]).unwrap();
        let mapping = GuardedMapping::new(&file).unwrap().unwrap();
        let before = zeroed_pages();
        file.set_len(4096).unwrap();
        let readers: Vec<u32> = std::thread::scope(|scope| {
            let sum = || mapping.as_ref().iter().map(|&byte| u32::from(byte)).sum();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(sum)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(readers, [7 * 4096; 4]);
        assert!(zeroed_pages() > before);
    }

    #[test]
    fn slots_are_used_again() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"x").unwrap();
        for _ in 0..3 * SLOT_LIMIT / 1000 {
            let mappings: Vec<_> = (0..100).map(|_| GuardedMapping::new(&file).unwrap()).collect();
            assert!(mappings.iter().all(Option::is_some));
        }
        assert!(SLOTS_USED.load(Ordering::Relaxed) < 1000);
    }

    #[test]
    fn a_mapping_is_known_by_its_pages() {
        assert_eq!(slot_word(0x5000, 1, 4096), Some(5 << LENGTH_BITS | 1));
        assert_eq!(slot_word(0x5000, 4097, 4096), Some(5 << LENGTH_BITS | 2));
        assert_eq!(slot_word(1 << 48, 1, 4096), None);
        assert_eq!(slot_word(0x5000, 1 << 40, 4096), None);
    }

    /// Runs itself again in a process that shall die by the signal.
    #[test]
    fn a_fault_elsewhere_still_kills() {
        const NAME: &str = "disk::sigbus::tests::a_fault_elsewhere_still_kills";
        if std::env::var_os("ICECORE_DIE_BY_SIGBUS").is_some() {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[7; 8192]).unwrap();
            let _guarded = GuardedMapping::new(&file).unwrap();
            // SAFETY: the mapping is read only here, to provoke the signal.
            let unguarded = unsafe { Mmap::map(&file).unwrap() };
            file.set_len(0).unwrap();
            std::process::exit(i32::from(unguarded[5000]));
        }
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env("ICECORE_DIE_BY_SIGBUS", "1")
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(status.signal(), Some(libc::SIGBUS));
    }
}
