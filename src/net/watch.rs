//! Who watches a download.

/// Is told what is being downloaded, checked or unpacked, in bytes.
pub trait Watch: Sync {
    /// Something begins: what, and how many bytes it has, if that is known.
    fn begin(&self, what: &str, total: Option<u64>);
    /// So many bytes of it, which has just begun, were there before.
    fn resume(&self, done: u64);
    /// So many bytes of it are done.
    fn advance(&self, done: u64);
    /// It is over.
    fn end(&self);
    /// Something worth a line.
    fn line(&self, text: &str);
}

/// Nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Watch for Silent {
    fn begin(&self, _: &str, _: Option<u64>) {}
    fn resume(&self, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
    fn line(&self, _: &str) {}
}
