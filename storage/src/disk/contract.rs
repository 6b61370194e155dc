//! What every disk must do, run over each implementer.

use std::io::ErrorKind;
use std::path::Path;

use super::Disk;

/// Panics where `disk`, an empty one, does not keep the contract of [`Disk`].
pub(super) fn check(disk: &dyn Disk) {
    names(disk);
    contents(disk);
    ranges_outlive_their_file(disk);
    renames(disk);
    second_names(disk);
    folders_go_when_empty(disk);
    locks(disk);
    paths_stay_below_the_root(disk);
    assert!(disk.free_bytes().unwrap() > 0);
}

fn path(text: &str) -> &Path {
    Path::new(text)
}

fn write(disk: &dyn Disk, name: &str, bytes: &[u8]) {
    let mut file = disk.create(path(name)).unwrap();
    file.append(bytes).unwrap();
    file.sync().unwrap();
}

fn read(disk: &dyn Disk, name: &str) -> Vec<u8> {
    let file = disk.open(path(name)).unwrap();
    file.range(0..file.length()).unwrap().to_vec()
}

fn names(disk: &dyn Disk) {
    assert_eq!(disk.list(path("")).unwrap(), [""; 0]);
    disk.create_dir_all(path("a/b")).unwrap();
    disk.create_dir_all(path("a/b")).unwrap();
    write(disk, "a/z", b"");
    write(disk, "a/c", b"");
    assert_eq!(disk.list(path("a")).unwrap(), ["b", "c", "z"]);
    disk.sync_dir(path("a")).unwrap();
    disk.sync_dir(path("")).unwrap();
    disk.remove(path("a/z")).unwrap();
    assert_eq!(disk.list(path("a")).unwrap(), ["b", "c"]);

    let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(disk.create(path("a/c")).map(drop)), ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.create(path("none/c")).map(drop)), ErrorKind::NotFound);
    assert_eq!(kind(disk.create(path("a/c/d")).map(drop)), ErrorKind::NotADirectory);
    assert_eq!(kind(disk.open(path("a/none")).map(drop)), ErrorKind::NotFound);
    assert_eq!(kind(disk.open(path("a")).map(drop)), ErrorKind::IsADirectory);
    assert_eq!(kind(disk.list(path("none")).map(drop)), ErrorKind::NotFound);
    assert_eq!(kind(disk.list(path("a/c")).map(drop)), ErrorKind::NotADirectory);
    assert_eq!(kind(disk.remove(path("a/none"))), ErrorKind::NotFound);
    assert_eq!(kind(disk.rename(path("a/none"), path("a/d"))), ErrorKind::NotFound);
    assert_eq!(kind(disk.sync_dir(path("none"))), ErrorKind::NotFound);
    assert!(disk.create_dir_all(path("a/c/d")).is_err());
}

fn contents(disk: &dyn Disk) {
    let mut file = disk.create(path("f")).unwrap();
    file.preallocate(100_000).unwrap();
    for i in 0..1000u32 {
        file.append(&i.to_le_bytes()).unwrap();
    }
    file.sync().unwrap();
    file.preallocate(10).unwrap();
    let early = disk.open(path("f")).unwrap();
    file.append(b"tail").unwrap();
    assert_eq!(early.length(), 4000);
    assert_eq!(disk.open(path("f")).unwrap().length(), 4004);
    assert_eq!(&early.range(4..8).unwrap()[..], 1u32.to_le_bytes());
    assert_eq!(early.range(0..4000).unwrap().len(), 4000);
    assert!(early.range(4000..4000).unwrap().is_empty());
    for wrong in [3999..4001, 4001..4001, 0..u64::MAX, u64::MAX - 1..u64::MAX] {
        assert_eq!(early.range(wrong).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
    #[expect(clippy::reversed_empty_ranges, reason = "the case under test")]
    let reversed = 8..4;
    assert!(early.range(reversed).is_err());
    write(disk, "empty", b"");
    assert_eq!(read(disk, "empty"), b"");
}

fn ranges_outlive_their_file(disk: &dyn Disk) {
    write(disk, "gone", &[7; 10_000]);
    let file = disk.open(path("gone")).unwrap();
    let before = file.range(0..10_000).unwrap();
    disk.remove(path("gone")).unwrap();
    let after = file.range(5000..6000).unwrap();
    drop(file);
    write(disk, "gone", &[8; 10_000]);
    assert_eq!(&before[..], [7; 10_000]);
    assert_eq!(&after[..], [7; 1000]);
    assert_eq!(read(disk, "gone"), [8; 10_000]);
}

fn renames(disk: &dyn Disk) {
    disk.create_dir_all(path("from")).unwrap();
    disk.create_dir_all(path("to")).unwrap();
    write(disk, "from/new", b"new");
    write(disk, "to/name", b"old");
    let old = disk.open(path("to/name")).unwrap();
    disk.rename(path("from/new"), path("to/name")).unwrap();
    disk.sync_dir(path("from")).unwrap();
    disk.sync_dir(path("to")).unwrap();
    assert_eq!(disk.list(path("from")).unwrap(), [""; 0]);
    assert_eq!(read(disk, "to/name"), b"new");
    assert_eq!(&old.range(0..3).unwrap()[..], b"old");
    disk.rename(path("to/name"), path("to/name")).unwrap();
    assert_eq!(read(disk, "to/name"), b"new");
    assert!(disk.rename(path("to/name"), path("from")).is_err());
    disk.rename(path("from"), path("to/moved")).unwrap();
    assert_eq!(disk.list(path("to")).unwrap(), ["moved", "name"]);
}

fn second_names(disk: &dyn Disk) {
    disk.create_dir_all(path("links")).unwrap();
    write(disk, "first", b"bytes");
    write(disk, "other", b"other");
    disk.link(path("first"), path("links/second")).unwrap();
    disk.sync_dir(path("links")).unwrap();
    disk.remove(path("first")).unwrap();
    assert_eq!(read(disk, "links/second"), b"bytes");
    let kind = |from, to| disk.link(path(from), path(to)).unwrap_err().kind();
    assert_eq!(kind("other", "links/second"), ErrorKind::AlreadyExists);
    assert_eq!(kind("first", "links/third"), ErrorKind::NotFound);
    assert_eq!(kind("other", "none/second"), ErrorKind::NotFound);
    assert_eq!(kind("other", "../second"), ErrorKind::InvalidInput);
    assert!(disk.link(path("links"), path("third")).is_err());
    // A new file under the old name is another file.
    write(disk, "first", b"new");
    assert_eq!(read(disk, "links/second"), b"bytes");
}

fn folders_go_when_empty(disk: &dyn Disk) {
    disk.create_dir_all(path("nest/egg")).unwrap();
    write(disk, "nest/feather", b"");
    let kind = |dir| disk.remove_dir(path(dir)).unwrap_err().kind();
    assert_eq!(kind("nest"), ErrorKind::DirectoryNotEmpty);
    assert_eq!(kind("nest/feather"), ErrorKind::NotADirectory);
    assert_eq!(kind("nest/none"), ErrorKind::NotFound);
    disk.remove_dir(path("nest/egg")).unwrap();
    disk.remove(path("nest/feather")).unwrap();
    disk.remove_dir(path("nest")).unwrap();
    assert_eq!(disk.list(path("nest")).unwrap_err().kind(), ErrorKind::NotFound);
}

fn locks(disk: &dyn Disk) {
    let lock = disk.lock(path("lock")).unwrap();
    assert_eq!(disk.lock(path("lock")).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(lock);
    drop(disk.lock(path("lock")).unwrap());
}

fn paths_stay_below_the_root(disk: &dyn Disk) {
    for outside in ["/etc/passwd", "../x", "a/../../x"] {
        assert_eq!(disk.open(path(outside)).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(disk.create(path(outside)).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
